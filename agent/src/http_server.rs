//! One accept loop for the agent's plain HTTP sockets, and the small answers that they share.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use serde::Serialize;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// Body of every answer.
pub type Body = UnsyncBoxBody<Bytes, io::Error>;

/// Content types of what the agent says itself.
pub const JSON: &str = "application/json";
/// See [`JSON`].
pub const PLAIN: &str = "text/plain; charset=utf-8";

/// Connections of one socket at the same time; further ones wait to be accepted.
const MAX_CONNECTIONS: usize = 4096;
/// A client that has not sent its request head by then is cut off.
const HEAD_TIMEOUT: Duration = Duration::from_secs(15);
/// A body that is not there by then is given up.
const BODY_TIMEOUT: Duration = Duration::from_secs(15);
/// Largest request head in bytes.
const MAX_HEAD_BYTES: usize = 64 * 1024;
/// Most that the kernel takes of an answer before the client has room for it. Without a bound, a client that hardly reads holds megabytes there,
/// and a thousand of them all the memory that the kernel has for sockets.
const MAX_UNSENT_BYTES: u32 = 256 * 1024;
/// Time that answers under way have to finish when the agent stops.
const DRAIN: Duration = Duration::from_secs(10);

/// Something that accepts connections.
pub trait Listener: Send + 'static {
    /// A connection.
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;
    /// Waits for the next one.
    fn next(&self) -> impl Future<Output = io::Result<Self::Stream>> + Send;
}

impl Listener for TcpListener {
    type Stream = tokio::net::TcpStream;

    async fn next(&self) -> io::Result<Self::Stream> {
        let (stream, _) = self.accept().await?;
        // Answers are written whole; waiting for more would only delay them.
        let _ = stream.set_nodelay(true);
        let _ = SockRef::from(&stream).set_tcp_notsent_lowat(MAX_UNSENT_BYTES);
        Ok(stream)
    }
}

impl Listener for UnixListener {
    type Stream = tokio::net::UnixStream;

    async fn next(&self) -> io::Result<Self::Stream> {
        Ok(self.accept().await?.0)
    }
}

/// Serves HTTP/1.1 until cancelled, then lets answers under way finish.
pub async fn serve<L, H, F>(listener: L, handler: H, cancel: CancellationToken)
where
    L: Listener,
    H: Fn(Request<Incoming>) -> F + Clone + Send + 'static,
    F: Future<Output = Response<Body>> + Send + 'static,
{
    let connections = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let graceful = GracefulShutdown::new();
    loop {
        let arrival = async {
            let permit = connections.clone().acquire_owned().await;
            (permit, listener.next().await)
        };
        let (permit, stream) = tokio::select! {
            () = cancel.cancelled() => break,
            arrival = arrival => arrival,
        };
        let Ok(stream) = stream else {
            // Out of descriptors, most likely: some will be free soon.
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let handler = handler.clone();
        let service = service_fn(move |request| {
            let answer = handler(request);
            async move { Ok::<_, Infallible>(answer.await) }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .max_buf_size(MAX_HEAD_BYTES)
            .serve_connection(TokioIo::new(stream), service);
        let watched = graceful.watch(connection);
        tokio::spawn(async move {
            // Clients break off for reasons of their own.
            let _ = watched.await;
            drop(permit);
        });
    }
    drop(listener);
    let _ = timeout(DRAIN, graceful.shutdown()).await;
}

/// An answer without body.
pub fn empty(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Empty::new().map_err(|never| match never {}).boxed_unsync());
    *response.status_mut() = status;
    response
}

/// A short text.
pub fn text(status: StatusCode, text: impl Into<Bytes>) -> Response<Body> {
    with_body(status, PLAIN, text.into())
}

/// A value as JSON.
pub fn json<T: Serialize>(status: StatusCode, value: &T) -> Response<Body> {
    match serde_json::to_vec(value) {
        Ok(bytes) => with_body(status, JSON, bytes.into()),
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}

/// Bytes of a given type, not to be cached.
pub fn with_body(status: StatusCode, content_type: &'static str, bytes: Bytes) -> Response<Body> {
    let mut response = Response::new(Full::new(bytes).map_err(|never| match never {}).boxed_unsync());
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// The whole body of a message, if it is complete within 15 s and not longer than `limit`.
pub async fn read_body<B>(body: B, limit: usize) -> Option<Bytes>
where
    B: hyper::body::Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let body = timeout(BODY_TIMEOUT, Limited::new(body, limit).collect()).await;
    Some(body.ok()?.ok()?.to_bytes())
}
