//! The way to other agents: one HTTP/2 connection per peer, opened when needed and kept.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::uri::{Authority, Scheme};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use p2pcdn_core::peer::{NodeKey as PublicKey, PeerRecord};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::connector::{Connector, EgressError};
use super::plain::plain;
use super::tls::{NodeCertificate, PeerCertificateError, TlsSetupError, peer_node_key};
use crate::http_server::JSON;

/// Asks peers over mutual TLS; only the holder of the pinned key is ever talked to.
pub struct PeerClient {
    connector: Arc<Connector>,
    certificate: NodeCertificate,
    slots: Mutex<HashMap<PublicKey, Arc<Slot>>>,
}

/// Why a peer did not answer as asked.
#[derive(Debug, thiserror::Error)]
pub enum PeerClientError {
    /// No connection to the peer's endpoint.
    #[error(transparent)]
    Unreachable(#[from] EgressError),
    /// Whoever answers at the endpoint is not the peer.
    #[error(transparent)]
    WrongKey(#[from] PeerCertificateError),
    /// The connection broke.
    #[error("HTTP with {endpoint}: {source}")]
    Http {
        /// The peer's endpoint.
        endpoint: String,
        /// What went wrong.
        source: hyper::Error,
    },
    /// The peer did not answer in time.
    #[error("{0} took too long")]
    Timeout(String),
    /// The peer refuses.
    #[error("refused with {status}: {} ({})", .refusal.error, .refusal.remedy)]
    Refused {
        /// Status of the answer.
        status: StatusCode,
        /// What it says.
        refusal: Refusal,
    },
    /// The answer is longer than asked for, or no JSON of the expected kind; the peer's fault.
    #[error("malformed answer: {0}")]
    Malformed(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The request cannot be made; the caller's fault.
    #[error("the request cannot be made: {0}")]
    Request(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// No TLS configuration for this peer.
    #[error(transparent)]
    Tls(#[from] TlsSetupError),
}

/// Body of a refusal between agents; one that was received is [`plain()`].
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Refusal {
    /// One word for programs.
    #[serde(default)]
    pub error: String,
    /// What the asking side can do about it, for people.
    #[serde(default)]
    pub remedy: String,
}

/// Longest refusal that is read, in bytes.
const MAX_REFUSAL_BYTES: usize = 4096;
/// Longest wait for TCP and TLS.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest wait for the head of an answer, connecting included; for JSON, for the whole answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);
/// Connections kept; the one used least recently makes room for a further one.
const MAX_CONNECTIONS: usize = 1024;
/// Bytes that a peer may send ahead of their reader, per stream and per connection.
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 4 << 20;

impl PeerClient {
    /// A client that shows `certificate` and connects through `connector`.
    pub fn new(connector: Arc<Connector>, certificate: NodeCertificate) -> Self {
        Self { connector, certificate, slots: Mutex::default() }
    }

    /// POST of `request` as JSON; the answer is a 200 with JSON of at most `max_response_bytes`.
    pub async fn json<Q: Serialize, A: DeserializeOwned>(
        &self,
        peer: &PeerRecord,
        path: &str,
        request: &Q,
        max_response_bytes: usize,
    ) -> Result<A, PeerClientError> {
        let exchange = async {
            let response = self.send_json(peer, path, request).await?;
            let body = Limited::new(response.into_body(), max_response_bytes).collect().await;
            let body = body.map_err(PeerClientError::Malformed)?.to_bytes();
            serde_json::from_slice(&body).map_err(|error| PeerClientError::Malformed(error.into()))
        };
        in_time(peer, exchange).await
    }

    /// POST of `request` as JSON with the answer's body still to come; its status is 2xx. Bounding the body is up to the caller.
    pub async fn post<Q: Serialize>(
        &self,
        peer: &PeerRecord,
        path: &str,
        request: &Q,
    ) -> Result<Response<Incoming>, PeerClientError> {
        in_time(peer, self.send_json(peer, path, request)).await
    }

    /// POST of bytes; the answer is a 200 with at most `max_response_bytes`.
    pub async fn bytes(
        &self,
        peer: &PeerRecord,
        path: &str,
        request: Vec<u8>,
        max_response_bytes: usize,
    ) -> Result<Bytes, PeerClientError> {
        let headers = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"))]);
        let exchange = async {
            let response = self.send(peer, Method::POST, path, headers, request.into()).await?;
            let body = Limited::new(response.into_body(), max_response_bytes).collect().await;
            Ok(body.map_err(PeerClientError::Malformed)?.to_bytes())
        };
        in_time(peer, exchange).await
    }

    /// GET with the body still to come; the answer's status is 2xx. Bounding the body is up to the caller.
    pub async fn get(
        &self,
        peer: &PeerRecord,
        path: &str,
        headers: HeaderMap,
    ) -> Result<Response<Incoming>, PeerClientError> {
        in_time(peer, self.send(peer, Method::GET, path, headers, Bytes::new())).await
    }

    async fn send_json<Q: Serialize>(
        &self,
        peer: &PeerRecord,
        path: &str,
        request: &Q,
    ) -> Result<Response<Incoming>, PeerClientError> {
        let body = serde_json::to_vec(request).map_err(|error| PeerClientError::Request(error.into()))?;
        let headers = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(JSON))]);
        self.send(peer, Method::POST, path, headers, body.into()).await
    }

    async fn send(
        &self,
        peer: &PeerRecord,
        method: Method,
        path: &str,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<Response<Incoming>, PeerClientError> {
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method;
        *request.uri_mut() = uri(&peer.endpoint, path).map_err(|error| PeerClientError::Request(error.into()))?;
        *request.headers_mut() = headers;

        let mut sender = self.connection(peer).await?;
        let http = |source| PeerClientError::Http { endpoint: peer.endpoint.clone(), source };
        let response = match sender.try_send_request(request).await {
            Ok(response) => response,
            // The connection ended just now, before this request was sent.
            Err(mut error) => match error.take_message() {
                Some(request) => self.connection(peer).await?.send_request(request).await.map_err(http)?,
                None => return Err(http(error.into_error())),
            },
        };
        match response.status() {
            status if status.is_success() => Ok(response),
            status => Err(PeerClientError::Refused { status, refusal: refusal(response).await }),
        }
    }

    /// The kept connection if it still stands, else a new one; one handshake per peer at a time.
    async fn connection(&self, peer: &PeerRecord) -> Result<Sender, PeerClientError> {
        let slot = self.slot(&peer.node_key);
        let mut kept = slot.connection.lock().await;
        if let Some((endpoint, sender)) = &mut *kept
            && *endpoint == peer.endpoint
            && sender.ready().await.is_ok()
        {
            return Ok(sender.clone());
        }
        let tls = self.certificate.client_config(peer.node_key)?;
        let stream = self.connector.connect_tls(&peer.endpoint, tls, CONNECT_TIMEOUT).await.map_err(name_wrong_key)?;
        peer_node_key(stream.get_ref().1)?;
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .keep_alive_interval(Duration::from_secs(20))
            .keep_alive_timeout(Duration::from_secs(10))
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|source| PeerClientError::Http { endpoint: peer.endpoint.clone(), source })?;
        tokio::spawn(connection);
        *kept = Some((peer.endpoint.clone(), sender.clone()));
        Ok(sender)
    }

    fn slot(&self, key: &PublicKey) -> Arc<Slot> {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        if !slots.contains_key(key) && slots.len() >= MAX_CONNECTIONS {
            let idlest = slots.iter().min_by_key(|(_, slot)| slot.used()).map(|(key, _)| *key);
            idlest.map(|key| slots.remove(&key));
        }
        let slot = slots.entry(*key).or_default().clone();
        *slot.used.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        slot
    }
}

type Sender = SendRequest<Full<Bytes>>;

#[derive(Default)]
struct Slot {
    connection: tokio::sync::Mutex<Option<(String, Sender)>>,
    used: Mutex<Option<Instant>>,
}

impl Slot {
    fn used(&self) -> Option<Instant> {
        *self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn uri(endpoint: &str, path: &str) -> Result<Uri, http::Error> {
    let authority = Authority::try_from(endpoint)?;
    Uri::builder().scheme(Scheme::HTTPS).authority(authority).path_and_query(path).build()
}

async fn in_time<T>(
    peer: &PeerRecord,
    exchange: impl Future<Output = Result<T, PeerClientError>>,
) -> Result<T, PeerClientError> {
    let late = |_| PeerClientError::Timeout(peer.endpoint.clone());
    tokio::time::timeout(ANSWER_TIMEOUT, exchange).await.map_err(late)?
}

async fn refusal(response: Response<Incoming>) -> Refusal {
    match Limited::new(response.into_body(), MAX_REFUSAL_BYTES).collect().await {
        Ok(body) => {
            let Refusal { error, remedy } = serde_json::from_slice(&body.to_bytes()).unwrap_or_default();
            Refusal { error: plain(error), remedy: plain(remedy) }
        }
        Err(_) => Refusal::default(),
    }
}

/// Finds the verifier's reason inside a failed handshake.
fn name_wrong_key(error: EgressError) -> PeerClientError {
    let reason = match &error {
        EgressError::Tls { source, .. } => source.get_ref().and_then(|e| e.downcast_ref::<rustls::Error>()),
        _ => None,
    };
    match reason {
        Some(rustls::Error::InvalidCertificate(rustls::CertificateError::Other(other))) => {
            match other.0.downcast_ref::<PeerCertificateError>() {
                Some(reason) => PeerClientError::WrongKey(*reason),
                None => error.into(),
            }
        }
        Some(rustls::Error::NoApplicationProtocol) => PeerClientError::WrongKey(PeerCertificateError::Alpn),
        _ => error.into(),
    }
}
