//! HTTP for the object store through the agent's own connector, which spares a second HTTP client and TLS stack.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::{StreamExt, stream};
use http::header::HOST;
use http::uri::PathAndQuery;
use http::{HeaderValue, Uri};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpRequestBody, HttpResponse, HttpResponseBody,
    HttpService,
};
use rustls::ClientConfig;
use tokio::time::timeout;

use crate::identity::{Connector, EgressError};

/// Connects the object store to its server.
#[derive(Clone)]
pub(super) struct S3Connector(Arc<S3Http>);

struct S3Http {
    connector: Connector,
    tls: Arc<ClientConfig>,
    /// Connections between two requests; all lead to the one server.
    idle: Mutex<Vec<SendRequest<HttpRequestBody>>>,
}

/// Time to connect.
const CONNECT: Duration = Duration::from_secs(5);
/// Time from a request, with a body of at most a few MiB, to the head of its answer.
const HEAD: Duration = Duration::from_secs(30);
/// An answer's body that pauses for so long has broken off.
const STALLED: Duration = Duration::from_secs(15);
/// Connections kept for the next request.
const MAX_IDLE: usize = 8;

impl S3Connector {
    pub(super) fn new(tls: Arc<ClientConfig>) -> Self {
        // The operator names the server, which is often on this very machine.
        let connector = Connector::new(true, tls.clone());
        Self(Arc::new(S3Http { connector, tls, idle: Mutex::default() }))
    }
}

impl HttpConnector for S3Connector {
    fn connect(&self, _options: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(self.clone()))
    }
}

#[async_trait::async_trait]
impl HttpService for S3Connector {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        self.0.call(request).await
    }
}

impl S3Http {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let (mut parts, body) = request.into_parts();
        let wrong = |text: &'static str| HttpError::new(HttpErrorKind::Unknown, io::Error::other(text));
        let authority = parts.uri.authority().ok_or_else(|| wrong("a URL without a host"))?.clone();
        let is_plain = parts.uri.scheme_str() == Some("http");
        parts.uri = Uri::from(parts.uri.path_and_query().cloned().unwrap_or(PathAndQuery::from_static("/")));
        let host = HeaderValue::from_str(authority.as_str()).map_err(|_| wrong("a host that no header can carry"))?;
        parts.headers.insert(HOST, host);
        let mut sender = match self.take() {
            Some(sender) => sender,
            None => self.dial(authority.as_str(), is_plain).await?,
        };
        let request = http::Request::from_parts(parts, body);
        let answer = timeout(HEAD, sender.send_request(request)).await.map_err(late)?;
        let (parts, body) = answer.map_err(|error| HttpError::new(HttpErrorKind::Request, error))?.into_parts();
        self.put(sender);
        Ok(HttpResponse::from_parts(parts, HttpResponseBody::new(progressing(body))))
    }

    async fn dial(&self, authority: &str, is_plain: bool) -> Result<SendRequest<HttpRequestBody>, HttpError> {
        let connect = |error: EgressError| HttpError::new(HttpErrorKind::Connect, error);
        let http = |error| HttpError::new(HttpErrorKind::Connect, error);
        if is_plain {
            let has_port = authority.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
            let with_port = if has_port { authority.to_owned() } else { format!("{authority}:80") };
            let stream = self.connector.connect(&with_port, CONNECT).await.map_err(connect)?;
            let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(http)?;
            tokio::spawn(connection);
            return Ok(sender);
        }
        let stream = self.connector.connect_tls(authority, self.tls.clone(), CONNECT).await.map_err(connect)?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(http)?;
        tokio::spawn(connection);
        Ok(sender)
    }

    /// A connection whose last answer has been read to its end.
    fn take(&self) -> Option<SendRequest<HttpRequestBody>> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|sender| !sender.is_closed());
        let ready = idle.iter().position(SendRequest::is_ready)?;
        Some(idle.swap_remove(ready))
    }

    fn put(&self, sender: SendRequest<HttpRequestBody>) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < MAX_IDLE {
            idle.push(sender);
        }
    }
}

impl std::fmt::Debug for S3Connector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("S3Connector")
    }
}

/// The body, with an end to patience.
fn progressing(
    body: Incoming,
) -> impl hyper::body::Body<Data = bytes::Bytes, Error = HttpError> + Send + Sync + 'static {
    let frames = stream::unfold(Some(body), |body| async {
        let mut body = body?;
        match timeout(STALLED, body.frame()).await {
            Ok(None) => None,
            Ok(Some(Ok(frame))) => Some((Ok(frame), Some(body))),
            Ok(Some(Err(error))) => Some((Err(HttpError::new(HttpErrorKind::Interrupted, error)), None)),
            Err(elapsed) => Some((Err(late(elapsed)), None)),
        }
    });
    StreamBody::new(frames.fuse())
}

fn late(elapsed: tokio::time::error::Elapsed) -> HttpError {
    HttpError::new(HttpErrorKind::Timeout, elapsed)
}
