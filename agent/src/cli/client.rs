//! Asks the running agent over its local socket.

use std::io::ErrorKind;
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{Method, Request, StatusCode};
use http_body_util::Full;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

use crate::http_server::{JSON, PLAIN, read_body};
use crate::identity::{Refusal, plain};
use crate::settings::{LocalAddress, Settings};

/// The agent that runs with these settings.
pub(super) struct Agent<'a> {
    address: &'a LocalAddress,
}

/// Why the agent did not answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum ClientError {
    /// Nobody listens there.
    #[error("no agent answers at {address}: {source}; is `p2pcdn run` running with the same settings?")]
    Unreachable {
        /// The local socket.
        address: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// Something else listens there.
    #[error(
        "no agent answers at {address}, but something else ({what}): is listen.local the one that `p2pcdn run` has?"
    )]
    NoAgent {
        /// The local socket.
        address: String,
        /// How it gave itself away; one line at most.
        what: String,
    },
    /// It said no.
    #[error("{0}")]
    Refused(String),
    /// It answered something else than this release expects.
    #[error("the agent's answer is not understood; are agent and command of the same release?")]
    Malformed,
    /// The exchange broke off.
    #[error("talking to the agent: {0}")]
    Http(#[from] hyper::Error),
    /// The request could not be made.
    #[error("talking to the agent: {0}")]
    Request(#[from] http::Error),
}

/// Longest wait for an answer.
const ANSWER: Duration = Duration::from_secs(20);
/// Longest answer in bytes: a list of a million objects.
const MAX_ANSWER_BYTES: usize = 512 << 20;

/// Longest refusal that is shown, in characters; those of agents have a line each.
const MAX_LINE: usize = 300;

impl<'a> Agent<'a> {
    pub(super) fn of(settings: &'a Settings) -> Self {
        Self { address: &settings.listen.local }
    }

    pub(super) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.ask(Method::GET, path, Bytes::new()).await
    }

    pub(super) async fn post<Q: Serialize, T: DeserializeOwned>(&self, path: &str, body: &Q) -> Result<T, ClientError> {
        let body = serde_json::to_vec(body).map_err(|_| ClientError::Malformed)?;
        self.ask(Method::POST, path, body.into()).await
    }

    async fn ask<T: DeserializeOwned>(&self, method: Method, path: &str, body: Bytes) -> Result<T, ClientError> {
        let late =
            |_| ClientError::Unreachable { address: self.address.to_string(), source: ErrorKind::TimedOut.into() };
        tokio::time::timeout(ANSWER, self.exchange(method, path, body)).await.map_err(late)?
    }

    async fn exchange<T: DeserializeOwned>(&self, method: Method, path: &str, body: Bytes) -> Result<T, ClientError> {
        let request = Request::builder().method(method).uri(path).header("host", "p2pcdn").body(Full::new(body))?;
        let mut sender = self.connect().await?;
        let response = sender.send_request(request).await.map_err(|error| self.broken(error))?;
        let status = response.status();
        let content_type =
            response.headers().get(CONTENT_TYPE).map(|kind| plain(String::from_utf8_lossy(kind.as_bytes())));
        let body = read_body(response.into_body(), MAX_ANSWER_BYTES).await.ok_or(ClientError::Malformed)?;
        if status == StatusCode::OK {
            let is_json = content_type.as_deref() == Some(JSON);
            let malformed = |_| if is_json { ClientError::Malformed } else { self.no_agent("a page".into()) };
            return serde_json::from_slice(&body).map_err(malformed);
        }
        match (serde_json::from_slice::<Refusal>(&body), content_type.as_deref()) {
            (Ok(refusal), _) => Err(ClientError::Refused(refusal.remedy)),
            (Err(_), Some(PLAIN)) => Err(ClientError::Refused(first_line(&body))),
            (Err(_), _) => Err(self.no_agent(format!("status {}", status.as_u16()))),
        }
    }

    /// What came was no HTTP, or none came.
    fn broken(&self, error: hyper::Error) -> ClientError {
        if error.is_parse() { self.no_agent(error.to_string()) } else { error.into() }
    }

    fn no_agent(&self, what: String) -> ClientError {
        ClientError::NoAgent { address: self.address.to_string(), what }
    }

    async fn connect(&self) -> Result<SendRequest<Full<Bytes>>, ClientError> {
        let unreachable = |source| ClientError::Unreachable { address: self.address.to_string(), source };
        match self.address {
            LocalAddress::Tcp(address) => {
                let stream = TcpStream::connect(address).await.map_err(unreachable)?;
                handshake(stream).await
            }
            LocalAddress::Unix(path) => {
                let stream = UnixStream::connect(path).await.map_err(unreachable)?;
                handshake(stream).await
            }
        }
    }
}

fn first_line(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    plain(text.trim().lines().next().unwrap_or_default().chars().take(MAX_LINE).collect::<String>())
}

async fn handshake<S>(stream: S) -> Result<SendRequest<Full<Bytes>>, ClientError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    Ok(sender)
}
