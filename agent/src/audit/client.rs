//! One audit on the wire: a new connection, one request in its guise, as much of the body as is needed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_RANGE, CONTENT_TYPE, HOST, LOCATION};
use http::{HeaderMap, HeaderValue, Method, Request, Response, Uri, Version};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use p2pcdn_core::object::ObjectRecord;
use rustls::ClientConfig;
use rustls::client::Resumption;
use tokio::sync::Semaphore;

use super::guise::{Guise, is_kept_from_page};
use super::pick::Extent;
use super::reading::{Body, End, Reading};
use super::verdict::Answer;
use crate::identity::{Connector, EgressError};

/// Makes audits' requests.
pub struct AuditClient {
    connector: Arc<Connector>,
    tls: [Arc<ClientConfig>; 2],
}

/// An object at a host.
#[derive(Debug)]
pub struct Target<'a> {
    /// The host's replica name.
    pub authority: &'a str,
    /// Path of the replica.
    pub path: &'a str,
    /// The origin's record of it.
    pub record: &'a ObjectRecord,
    /// How much is asked for.
    pub extent: Extent,
}

/// Longest wait for a connection and the head of the answer; a visitor would have gone.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

impl AuditClient {
    /// Connects through `connector` and believes whom `web_tls` believes.
    pub fn new(connector: Arc<Connector>, web_tls: &ClientConfig) -> Self {
        let offering = |protocols: &[&[u8]]| {
            let mut tls = web_tls.clone();
            tls.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
            // Every audit is somebody who was never there.
            tls.resumption = Resumption::disabled();
            Arc::new(tls)
        };
        Self { connector, tls: [offering(&[b"http/1.1"]), offering(&[b"h2", b"http/1.1"])] }
    }

    /// The answer, however long the body takes up to `patience` after its head; an error if there is none.
    pub async fn ask(&self, target: &Target<'_>, guise: Guise, patience: Duration) -> Result<Answer, EgressError> {
        let begun = Instant::now();
        let may_be_coded =
            guise.headers.get(ACCEPT_ENCODING).is_some_and(|offer| offer.as_bytes().starts_with(b"gzip"));
        let late = |_| EgressError::Timeout { authority: target.authority.into() };
        let asked = guise.headers.clone();
        let response = tokio::time::timeout(HEAD_TIMEOUT, self.open(target, guise)).await.map_err(late)??;
        let status = response.status().as_u16();
        let content_type = response.headers().get(CONTENT_TYPE).map(|value| value.as_bytes().to_vec());
        let location = response.headers().get(LOCATION).map(|value| value.as_bytes().to_vec());
        let total = response.headers().get(CONTENT_RANGE).and_then(total);
        let is_kept_from_page = is_kept_from_page(&asked, response.headers());
        let codings: Vec<&[u8]> =
            response.headers().get_all(CONTENT_ENCODING).iter().map(HeaderValue::as_bytes).collect();
        let reading = Reading::new(target.record, target.extent, status, &codings.join(&b','));
        let deadline = tokio::time::Instant::now() + patience;
        let (reading, end) = read(response.into_body(), reading, deadline).await;
        // The wait for others' bodies to be decoded is not this host's doing.
        let took_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        let body = finish(reading, end).await;
        Ok(Answer { status, content_type, location, total, may_be_coded, is_kept_from_page, body, took_ms })
    }

    async fn open(&self, target: &Target<'_>, guise: Guise) -> Result<Response<Incoming>, EgressError> {
        let Target { authority, path, .. } = *target;
        let http = |source| EgressError::Http { authority: authority.into(), source };
        let bad = || EgressError::Target(format!("{authority}{path}"));
        let [one, two] = &self.tls;
        let tls = if guise.http2 { two } else { one };
        let stream = self.connector.connect_tls(authority, tls.clone(), HEAD_TIMEOUT).await?;
        let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        let io = TokioIo::new(stream);
        let mut request = Request::new(Empty::<Bytes>::new());
        *request.method_mut() = Method::GET;
        if is_http2 {
            let uri = Uri::builder().scheme("https").authority(authority).path_and_query(path).build();
            *request.uri_mut() = uri.map_err(|_| bad())?;
            *request.version_mut() = Version::HTTP_2;
            *request.headers_mut() = guise.headers;
            // Belongs to HTTP/1.1 only.
            request.headers_mut().remove(http::header::CONNECTION);
            let (mut sender, connection) = http2::handshake(TokioExecutor::new(), io).await.map_err(http)?;
            tokio::spawn(connection);
            return sender.send_request(request).await.map_err(http);
        }
        *request.uri_mut() = path.parse().map_err(|_| bad())?;
        let host = HeaderValue::from_str(authority).map_err(|_| EgressError::Target(authority.into()))?;
        let mut headers = HeaderMap::from_iter([(HOST, host)]);
        headers.extend(guise.headers);
        *request.headers_mut() = headers;
        let (mut sender, connection) =
            http1::Builder::new().title_case_headers(true).handshake(io).await.map_err(http)?;
        tokio::spawn(connection);
        sender.send_request(request).await.map_err(http)
    }
}

/// Reads as much as is needed, or comes by the deadline.
async fn read(mut body: Incoming, mut reading: Reading<'_>, deadline: tokio::time::Instant) -> (Reading<'_>, End) {
    let end = loop {
        if reading.has_enough() {
            break End::Enough;
        }
        let Ok(frame) = tokio::time::timeout_at(deadline, body.frame()).await else { break End::Late };
        match frame {
            Some(Ok(frame)) => frame.data_ref().into_iter().for_each(|data| reading.take(data)),
            Some(Err(_)) => break End::Broken,
            None => break End::Announced,
        }
    };
    (reading, end)
}

/// Decodes where nobody has to wait for it, and one body at a time.
async fn finish(reading: Reading<'_>, end: End) -> Body {
    static DECODING: Semaphore = Semaphore::const_new(1);
    if !reading.is_coded() {
        return reading.finish(end);
    }
    let unread = reading.unread(end);
    let reading = reading.into_owned();
    let _turn = DECODING.acquire().await;
    // What makes a decoder panic is no object in any browser.
    tokio::task::spawn_blocking(move || reading.finish(end)).await.unwrap_or(unread)
}

/// What a `Content-Range` says of the length of it all.
fn total(range: &HeaderValue) -> Option<u64> {
    range.to_str().ok()?.rsplit_once('/')?.1.trim().parse().ok()
}
