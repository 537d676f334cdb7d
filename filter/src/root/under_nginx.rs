//! The filter's own tests in a proxy like nginx.

use crate::settings::Proxy;

const PROXY: Proxy = Proxy::Nginx;

#[path = "tests.rs"]
#[expect(clippy::duplicate_mod, reason = "the same tests in another proxy")]
mod tests;

#[path = "tests/quirks.rs"]
mod quirks;
