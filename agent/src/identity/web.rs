//! Ordinary HTTPS requests through the connector, with a few connections kept for the next one.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{HOST, USER_AGENT};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode};
use http_body_util::{BodyExt, Empty, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;

use super::connector::{Connector, EgressError};

/// An answer with its whole body; redirects are answers like any other and are not followed.
#[derive(Debug)]
pub struct WebResponse {
    /// Status as received.
    pub status: StatusCode,
    /// Headers as received; at most 100, in a head of at most 32 KiB.
    pub headers: HeaderMap,
    /// The body, within the caller's limit.
    pub body: Bytes,
    /// Who answered.
    pub remote: Option<IpAddr>,
}

/// An answer whose body is still to come.
pub struct WebStream {
    /// Status as received.
    pub status: StatusCode,
    /// Headers as received; bounded as those of [`WebResponse`].
    pub headers: HeaderMap,
    /// The body.
    pub body: Incoming,
    connection: Connection,
}

/// Largest response head in bytes.
const MAX_HEAD_BYTES: usize = 32 * 1024;

impl Connector {
    /// GET of `https://AUTHORITY/PATH` with at most `limit` bytes of body, done within `timeout`.
    pub async fn get_web(
        &self,
        authority: &str,
        path: &str,
        limit: usize,
        timeout: Duration,
    ) -> Result<WebResponse, EgressError> {
        self.request_web(Method::GET, authority, path, HeaderMap::new(), limit, timeout).await
    }

    /// A request without body to `https://AUTHORITY/PATH`; `headers` are added to Host and User-Agent, or replace them.
    ///
    /// Connections are reused for up to 30 s; a request that a reused one did not answer is tried once more on a new one.
    pub async fn request_web(
        &self,
        method: Method,
        authority: &str,
        path: &str,
        headers: HeaderMap,
        limit: usize,
        timeout: Duration,
    ) -> Result<WebResponse, EgressError> {
        let request = build(method, authority, path, headers)?;
        let exchange = async {
            if let Some(kept) = self.idle.take(authority) {
                match self.exchange(kept, request.clone(), authority, limit).await {
                    // The other side may have closed it just now.
                    Err(EgressError::Http { .. }) => {}
                    done => return done,
                }
            }
            let connection = self.dial(authority, timeout).await?;
            self.exchange(connection, request, authority, limit).await
        };
        let late = |_| EgressError::Timeout { authority: authority.into() };
        tokio::time::timeout(timeout, exchange).await.map_err(late)?
    }

    /// Like [`Connector::request_web`], for a body of any length: `timeout` holds until the head is there, and what comes then is up
    /// to the caller.
    pub async fn open_web(
        &self,
        method: Method,
        authority: &str,
        path: &str,
        headers: HeaderMap,
        timeout: Duration,
    ) -> Result<WebStream, EgressError> {
        let request = build(method, authority, path, headers)?;
        let exchange = async {
            if let Some(kept) = self.idle.take(authority)
                && let Ok(stream) = open(kept, request.clone(), authority).await
            {
                return Ok(stream);
            }
            open(self.dial(authority, timeout).await?, request, authority).await
        };
        let late = |_| EgressError::Timeout { authority: authority.into() };
        tokio::time::timeout(timeout, exchange).await.map_err(late)?
    }

    /// Keeps the connection of an answer that was read to its end for the next request.
    pub fn reuse(&self, authority: &str, stream: WebStream) {
        self.idle.put(authority, stream.connection);
    }

    async fn dial(&self, authority: &str, timeout: Duration) -> Result<Connection, EgressError> {
        let tls = self.connect_tls(authority, self.web_tls.clone(), timeout).await?;
        let remote = tls.get_ref().0.peer_addr().ok().map(|address| address.ip());
        let (sender, connection) = http1::Builder::new()
            .max_buf_size(MAX_HEAD_BYTES)
            .handshake(TokioIo::new(tls))
            .await
            .map_err(|source| EgressError::Http { authority: authority.into(), source })?;
        tokio::spawn(connection);
        Ok(Connection { sender, remote })
    }

    /// Whether `authority` has closed a connection that was kept for it: a sign of trouble that comes before any request has
    /// failed. Each one is told of once.
    pub fn lost_connection(&self, authority: &str) -> bool {
        self.idle.drop_closed(authority)
    }

    async fn exchange(
        &self,
        mut connection: Connection,
        request: Request<Empty<Bytes>>,
        authority: &str,
        limit: usize,
    ) -> Result<WebResponse, EgressError> {
        let http = |source| EgressError::Http { authority: authority.into(), source };
        let sender = &mut connection.sender;
        sender.ready().await.map_err(http)?;
        let (parts, body) = sender.send_request(request).await.map_err(http)?.into_parts();
        let body = match Limited::new(body, limit).collect().await {
            Ok(body) => body.to_bytes(),
            Err(error) => {
                return Err(match error.downcast::<hyper::Error>() {
                    Ok(source) => http(*source),
                    Err(other) => {
                        debug_assert!(other.is::<LengthLimitError>());
                        EgressError::TooLong { authority: authority.into(), limit }
                    }
                });
            }
        };
        let remote = connection.remote;
        self.idle.put(authority, connection);
        Ok(WebResponse { status: parts.status, headers: parts.headers, body, remote })
    }
}

async fn open(
    mut connection: Connection,
    request: Request<Empty<Bytes>>,
    authority: &str,
) -> Result<WebStream, EgressError> {
    let sender = &mut connection.sender;
    let http = |source| EgressError::Http { authority: authority.into(), source };
    sender.ready().await.map_err(http)?;
    let (parts, body) = sender.send_request(request).await.map_err(http)?.into_parts();
    Ok(WebStream { status: parts.status, headers: parts.headers, body, connection })
}

fn build(
    method: Method,
    authority: &str,
    path: &str,
    mut headers: HeaderMap,
) -> Result<Request<Empty<Bytes>>, EgressError> {
    let wrong = |text: &str| EgressError::Target(text.to_owned());
    if !path.starts_with('/') {
        return Err(wrong(path));
    }
    let mut request = Request::builder().method(method).uri(path).body(Empty::new()).map_err(|_| wrong(path))?;
    request.headers_mut().insert(HOST, HeaderValue::from_str(authority).map_err(|_| wrong(authority))?);
    if !headers.contains_key(USER_AGENT) {
        headers.insert(USER_AGENT, HeaderValue::from_static(concat!("p2pcdn/", env!("CARGO_PKG_VERSION"))));
    }
    request.headers_mut().extend(headers);
    Ok(request)
}

/// A connection and who is at its other end.
struct Connection {
    sender: SendRequest<Empty<Bytes>>,
    remote: Option<IpAddr>,
}

/// Connections between two requests, bounded per authority and in all.
#[derive(Default)]
pub(super) struct IdleConnections(Mutex<HashMap<String, Vec<(Connection, Instant)>>>);

/// How long a connection waits for the next request.
const MAX_IDLE: Duration = Duration::from_secs(30);
/// Connections kept for one authority.
const MAX_PER_AUTHORITY: usize = 2;
/// Authorities for which connections are kept.
const MAX_AUTHORITIES: usize = 512;

impl IdleConnections {
    fn take(&self, authority: &str) -> Option<Connection> {
        let mut idle = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = idle.get_mut(authority)?;
        while let Some((connection, since)) = kept.pop() {
            if since.elapsed() < MAX_IDLE && !connection.sender.is_closed() {
                return Some(connection);
            }
        }
        None
    }

    fn drop_closed(&self, authority: &str) -> bool {
        let mut idle = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(kept) = idle.get_mut(authority) else { return false };
        let before = kept.len();
        kept.retain(|(connection, _)| !connection.sender.is_closed());
        kept.len() < before
    }

    fn put(&self, authority: &str, connection: Connection) {
        let mut idle = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !idle.contains_key(authority) && idle.len() >= MAX_AUTHORITIES {
            idle.retain(|_, kept| {
                kept.retain(|(connection, since)| since.elapsed() < MAX_IDLE && !connection.sender.is_closed());
                !kept.is_empty()
            });
            if idle.len() >= MAX_AUTHORITIES {
                return;
            }
        }
        let kept = idle.entry(authority.to_owned()).or_default();
        if kept.len() < MAX_PER_AUTHORITY && !connection.sender.is_closed() {
            kept.push((connection, Instant::now()));
        }
    }
}
