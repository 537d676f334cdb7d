//! What a visitor would meet at a holder.

use std::sync::Arc;
use std::time::Duration;

use http::header::ORIGIN;
use http::{HeaderMap, HeaderValue, Method};
use p2pcdn_core::lookup::REPLICA_PREFIX;
use rustls::ClientConfig;

use super::HolderFacts;
use crate::identity::{Connector, EgressError, WebResponse};

/// Time that each request has.
pub const TIMEOUT: Duration = Duration::from_secs(10);

/// What was met.
pub struct Probed {
    /// When its certificate ends, in seconds since the Unix epoch, if its chain is good; `None` within if it names no time.
    pub certificate: Result<Option<u64>, EgressError>,
    /// The answer to a HEAD for the sample, if there is one.
    pub replica: Option<Result<WebResponse, EgressError>>,
}

/// Connects to the holder and asks for its sample with the origin of `site`'s pages.
pub async fn probe(connector: &Connector, tls: Arc<ClientConfig>, site: &str, holder: &HolderFacts) -> Probed {
    let certificate = connector.connect_tls(&holder.replica_name, tls, TIMEOUT).await;
    let certificate = certificate.map(|stream| {
        let (_, connection) = stream.get_ref();
        let first = connection.peer_certificates().and_then(<[_]>::first)?;
        let (_, parsed) = x509_parser::parse_x509_certificate(first).ok()?;
        u64::try_from(parsed.validity().not_after.timestamp()).ok()
    });
    let mut replica = None;
    if let Some(sample) = &holder.sample {
        let target = format!("{REPLICA_PREFIX}{site}/{}{}", sample.sha256, sample.path);
        let origin = HeaderValue::try_from(format!("https://{site}")).ok();
        let headers: HeaderMap = origin.map(|origin| (ORIGIN, origin)).into_iter().collect();
        replica = Some(connector.request_web(Method::HEAD, &holder.replica_name, &target, headers, 0, TIMEOUT).await);
    }
    Probed { certificate, replica }
}
