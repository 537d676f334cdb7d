//! A bucket on a real server of the S3 protocol.
use std::path::Path;
pub(crate) fn bucket() {}
pub(crate) fn child(_directory: &Path, _endpoint: &str) {}
