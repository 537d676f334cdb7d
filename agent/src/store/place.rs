//! Where the bytes of replicas are kept, as `store.url` says.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use object_store::aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey};
use object_store::{BackoffConfig, RetryConfig};
use rustls::ClientConfig;
use url::Url;

use super::error::StoreError;
use super::s3_http::S3Connector;

/// Where the bytes of replicas are kept.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Place {
    /// In the state directory.
    #[default]
    State,
    /// In another directory of this machine.
    Directory(PathBuf),
    /// In a bucket of a server that speaks the S3 protocol.
    Bucket {
        /// Its name.
        bucket: String,
        /// What all names in it begin with; may be empty.
        prefix: String,
    },
}

/// How a bucket is reached; what is not set comes from the standard `AWS_*` variables of the environment.
#[derive(Clone)]
pub struct BucketAccess {
    /// URL of the server, as in `https://s3.example.org`; empty for that of AWS.
    pub endpoint: String,
    /// Region; empty for `us-east-1`.
    pub region: String,
    /// Whom to believe over HTTPS.
    pub tls: Arc<ClientConfig>,
}

/// A request is repeated only briefly: visitors are better sent back to their origin, and offers declined.
const RETRIES: usize = 2;
const RETRY_TIMEOUT: Duration = Duration::from_secs(10);

impl Place {
    /// Reads `store.url`; the error says what would be right.
    pub fn parse(text: &str) -> Result<Self, String> {
        const EXAMPLES: &str = "must be \"s3://BUCKET\", \"s3://BUCKET/PREFIX\", \"file:///PATH\" or empty";
        if text.is_empty() {
            return Ok(Self::State);
        }
        let url = Url::parse(text).map_err(|_| EXAMPLES.to_owned())?;
        let has_extras = url.query().is_some() || url.fragment().is_some() || !url.username().is_empty();
        match url.scheme() {
            "file" if !has_extras => url.to_file_path().map(Self::Directory).map_err(|()| EXAMPLES.to_owned()),
            "s3" if !has_extras && url.port().is_none() => {
                let bucket = url.host_str().unwrap_or_default().to_owned();
                let prefix = url.path().trim_matches('/').to_owned();
                if bucket.is_empty() { Err(EXAMPLES.to_owned()) } else { Ok(Self::Bucket { bucket, prefix }) }
            }
            _ => Err(EXAMPLES.to_owned()),
        }
    }
}

pub(super) fn bucket(name: &str, access: &BucketAccess) -> Result<AmazonS3, StoreError> {
    let retry = RetryConfig {
        max_retries: RETRIES,
        retry_timeout: RETRY_TIMEOUT,
        backoff: BackoffConfig { init_backoff: Duration::from_millis(100), ..BackoffConfig::default() },
    };
    let mut builder = AmazonS3Builder::from_env()
        .with_bucket_name(name)
        .with_http_connector(S3Connector::new(access.tls.clone()))
        .with_retry(retry);
    if !access.region.is_empty() {
        builder = builder.with_region(&access.region);
    }
    if !access.endpoint.is_empty() {
        builder = builder.with_endpoint(&access.endpoint).with_allow_http(access.endpoint.starts_with("http://"));
    }
    // Without them the builder would ask the metadata service that only machines of AWS have.
    if !has_keys(&builder) {
        return Err(StoreError::NoKeys);
    }
    Ok(builder.build()?)
}

/// Whether the environment has the keys of a bucket; whether they fit, only its server knows.
pub fn has_bucket_keys() -> bool {
    has_keys(&AmazonS3Builder::from_env())
}

fn has_keys(builder: &AmazonS3Builder) -> bool {
    let keys = [AmazonS3ConfigKey::AccessKeyId, AmazonS3ConfigKey::SecretAccessKey];
    keys.iter().all(|key| builder.get_config_value(key).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_say_where_bytes_are_kept() {
        let bucket = |bucket: &str, prefix: &str| Place::Bucket { bucket: bucket.into(), prefix: prefix.into() };
        for (text, place) in [
            ("", Place::State),
            ("file:///srv/replicas", Place::Directory("/srv/replicas".into())),
            ("s3://bucket", bucket("bucket", "")),
            ("s3://bucket/", bucket("bucket", "")),
            ("s3://bucket/a/b/", bucket("bucket", "a/b")),
        ] {
            assert_eq!(Place::parse(text), Ok(place), "{text}");
        }
        for wrong in
            ["replicas", "/srv/replicas", "file://host/x", "s3://", "s3://b:1/", "https://x/", "s3://b/?x", "s3://k@b/"]
        {
            assert!(Place::parse(wrong).is_err(), "{wrong}");
        }
    }
}
