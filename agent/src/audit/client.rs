//! One audit on the wire: a new connection, one request in its guise, as much of the body as is needed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_ENCODING, CONTENT_TYPE, HOST, LOCATION};
use http::{HeaderMap, HeaderValue, Method, Request, Response, Uri, Version};
use http_body_util::{BodyExt, Empty};
use hyper::body::{Body, Incoming};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::ClientConfig;
use rustls::client::Resumption;

use super::guise::Guise;
use super::pick::Extent;
use super::verdict::{Answer, bytes_needed};
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
    /// Bytes of the object.
    pub size: u64,
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
        let late = |_| EgressError::Timeout { authority: target.authority.into() };
        let response = tokio::time::timeout(HEAD_TIMEOUT, self.open(target, guise)).await.map_err(late)??;
        let status = response.status().as_u16();
        let content_type = response.headers().get(CONTENT_TYPE).map(|value| value.as_bytes().to_vec());
        let location = response.headers().get(LOCATION).map(|value| value.as_bytes().to_vec());
        let is_coded = response.headers().get(CONTENT_ENCODING).is_some_and(|coding| coding != "identity");
        let is_success = response.status().is_success();
        let needed = if is_success { bytes_needed(target.extent, status, target.size) } else { 0 };
        let is_whole = target.extent == Extent::Whole;
        let deadline = tokio::time::Instant::now() + patience;
        let (body, is_complete) = read(response.into_body(), needed, is_whole, deadline).await;
        let took_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        Ok(Answer { status, content_type, location, is_coded, body, is_complete, took_ms })
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

/// At most `needed` bytes, and whether that is all of them; a whole body is complete if it ends after them, however long it is then. What did not
/// come by the deadline did not come.
async fn read(mut body: Incoming, needed: u64, is_whole: bool, deadline: tokio::time::Instant) -> (Bytes, bool) {
    let declared = body.size_hint().exact();
    let mut taken = BytesMut::new();
    while (taken.len() as u64) < needed || (is_whole && !body.is_end_stream()) {
        let Ok(frame) = tokio::time::timeout_at(deadline, body.frame()).await else { return (taken.freeze(), false) };
        match frame {
            Some(Ok(frame)) => {
                let Ok(data) = frame.into_data() else { continue };
                taken.extend_from_slice(&data);
                // Longer than the object is as wrong as it gets; there is no need to hear the end of it.
                if taken.len() as u64 > needed {
                    break;
                }
            }
            Some(Err(_)) => return (taken.freeze(), false),
            None => break,
        }
    }
    let got = taken.len() as u64;
    let is_complete =
        if is_whole { declared.is_none_or(|declared| got == declared || got > needed) } else { got >= needed };
    if !is_whole {
        taken.truncate(usize::try_from(needed).unwrap_or(usize::MAX));
    }
    (taken.freeze(), is_complete)
}
