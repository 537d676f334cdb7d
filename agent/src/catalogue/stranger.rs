//! Asks the site for a file of its directory as any stranger would, over its public name: nothing is shared that strangers cannot have.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::header::{ACCEPT_ENCODING, CACHE_CONTROL, LOCATION};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use p2pcdn_core::decide::ONE_PPM;
use p2pcdn_core::lookup::REPLICA_PREFIX;
use p2pcdn_core::object::{Embedding, Sharing};
use serde::{Deserialize, Serialize};

use super::cacheable::{WhyNot, announced, open_to_strangers, readers};
use super::fetch::FetchError;
use crate::clock::monotonic_ms;
use crate::identity::{Connector, EgressError};
use crate::load::LoadMeter;

/// Asks for files without their bytes.
pub struct Stranger {
    connector: Arc<Connector>,
    load: Arc<Mutex<LoadMeter>>,
    domain: String,
    pub(super) time_scale: f64,
}

/// What a stranger is told of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Seen {
    /// Bytes, if the answer says how many.
    pub(super) size: Option<u64>,
    /// Who may read it across origins.
    pub(super) sharing: Sharing,
    /// Who may embed it.
    pub(super) embedding: Embedding,
}

/// How far looking at the directory as a stranger has come.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct LooksStatus {
    /// Files that have not been looked at yet; nothing is offered of them.
    pub waiting: usize,
    /// Files that a stranger cannot have, which stay here.
    pub not_public: usize,
    /// Why the site cannot be asked at all, with the remedy.
    pub trouble: Option<String>,
}

/// Answers that are waited for at the same time: as many connections are kept.
pub(super) const MAX_LOOKING: usize = 2;
/// Looks are started this often.
pub(super) const TICK: Duration = Duration::from_millis(100);
/// And so many at most in that time: 500 a second.
const STARTS_PER_TICK: usize = 50;
/// The same while the site is loaded.
const STARTS_PER_TICK_UNDER_LOAD: usize = 5;
/// From this share of redirects on.
const LOADED_PPM: u32 = ONE_PPM / 10;
/// An answer that is not there by then is given up.
const HEAD: Duration = Duration::from_secs(10);

impl Stranger {
    /// Asks `domain`; `time_scale` is a factor on pauses.
    pub fn new(connector: Arc<Connector>, load: Arc<Mutex<LoadMeter>>, domain: String, time_scale: f64) -> Self {
        Self { connector, load, domain, time_scale }
    }

    /// How many looks may start now. What has been asked since the last call, `seconds` ago, is no load of visitors.
    pub(super) fn allowance(&self, asked: usize, seconds: f64) -> usize {
        let mut load = self.load.lock().unwrap_or_else(PoisonError::into_inner);
        load.observe_looks(asked, seconds);
        let is_loaded = load.steering(monotonic_ms()).fraction_ppm >= LOADED_PPM;
        if is_loaded { STARTS_PER_TICK_UNDER_LOAD } else { STARTS_PER_TICK }
    }

    /// Whether a stranger may have what lies at a path, and what the answer says of it.
    pub(super) async fn look(&self, path: &str) -> Result<Result<Seen, WhyNot>, FetchError> {
        let head = self.connector.request_web(Method::HEAD, &self.domain, path, question(), 0, HEAD).await?;
        if !matches!(head.status, StatusCode::METHOD_NOT_ALLOWED | StatusCode::NOT_IMPLEMENTED) {
            return judge(head.status, &head.headers);
        }
        // A server that knows no HEAD: the connection ends with the answer's head, so that the bytes stay there.
        let stream = self.connector.open_web(Method::GET, &self.domain, path, question(), HEAD).await?;
        judge(stream.status, &stream.headers)
    }

    /// What an operator is told while the site cannot be reached.
    pub(super) fn trouble(&self, error: &EgressError) -> String {
        format!(
            "{error}; the files are looked at as a stranger before anything is shared, so let the agent reach https://{} (on a private \
             address: egress.allow_private = true), or set share.unchecked = true if all of site.directory is public",
            self.domain
        )
    }
}

/// What anybody would ask with, and what leaves the answer to the origin.
pub(super) fn question() -> HeaderMap {
    HeaderMap::from_iter([
        (ACCEPT_ENCODING, HeaderValue::from_static("identity")),
        // The site's own gate leaves such a request to the origin.
        (CACHE_CONTROL, HeaderValue::from_static("no-cache")),
    ])
}

/// Whether the answer says nothing about the object, but of the proxy or the origin just now.
pub(super) fn check_authority(status: StatusCode, headers: &HeaderMap) -> Result<(), FetchError> {
    let leads_to_replica = |value: &HeaderValue| value.to_str().is_ok_and(|to| to.contains(REPLICA_PREFIX));
    if headers.get(LOCATION).is_some_and(leads_to_replica) {
        return Err(FetchError::Busy);
    }
    if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS {
        return Err(FetchError::Failing(status));
    }
    Ok(())
}

fn judge(status: StatusCode, headers: &HeaderMap) -> Result<Result<Seen, WhyNot>, FetchError> {
    check_authority(status, headers)?;
    Ok(open_to_strangers(status, headers).map(|_| {
        let (sharing, embedding) = readers(headers);
        Seen { size: announced(headers).ok(), sharing, embedding }
    }))
}
