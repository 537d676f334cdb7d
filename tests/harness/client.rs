//! An HTTP/1.1 client that behaves like a command-line tool on a machine where the lab is the whole internet.
//!
//! It trusts one CA, resolves every name below `localhost` to 127.0.0.1 and nothing else, keeps connections alive, and follows no
//! redirect unless told to. Like curl, it repeats a request once on a new connection if a connection that had been used before was
//! closed before the first byte of an answer.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{HOST, LOCATION, USER_AGENT};
use http::uri::{PathAndQuery, Scheme};
use http::{HeaderValue, Request, Response, Uri};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;

/// What the client calls itself unless a request says otherwise.
pub const AGENT: HeaderValue = HeaderValue::from_static("p2pcdn-demo/1.0");
/// How long a request may take, redirects not included.
pub const TIMEOUT: Duration = Duration::from_secs(10);
/// Redirects that are followed for one request.
pub const MAX_REDIRECTS: usize = 3;
/// Largest body that is kept in memory.
const MAX_BODY: usize = 64 << 20;
/// Idle connections that are kept for one server.
const MAX_IDLE: usize = 256;

/// Why a request brought no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Neither `http://` nor `https://`, or a name outside the lab.
    #[error("{0} is no URL of this lab")]
    Url(String),
    /// No connection.
    #[error("cannot connect: {0}")]
    Connect(io::Error),
    /// The connection broke, or what came was not HTTP.
    #[error("no whole answer: {0}")]
    Http(#[from] hyper::Error),
    /// Nothing within [`TIMEOUT`].
    #[error("no answer within {TIMEOUT:?}")]
    Timeout,
    /// More than 64 MiB.
    #[error("the body is too large to keep")]
    TooLarge,
    /// A redirect to nowhere.
    #[error("a redirect without a usable location")]
    Location,
    /// More than [`MAX_REDIRECTS`].
    #[error("too many redirects")]
    Redirects,
}

/// One answer on the way to the last one.
#[derive(Debug)]
pub struct Hop {
    /// What was asked for.
    pub url: Uri,
    /// When the answer was complete.
    pub at: Instant,
    /// The answer.
    pub response: Response<Bytes>,
}

type Connection = SendRequest<Full<Bytes>>;

/// Scheme and authority.
type Server = (Scheme, String);

/// The client; clones share their connections.
#[derive(Clone)]
pub struct Client {
    tls: TlsConnector,
    idle: Arc<Mutex<HashMap<Server, Vec<Connection>>>>,
}

impl Client {
    /// A client that trusts `roots`.
    pub fn new(roots: RootCertStore) -> Self {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("ring speaks TLS 1.2 and 1.3")
            .with_root_certificates(roots)
            .with_no_client_auth();
        Self { tls: TlsConnector::from(Arc::new(config)), idle: Arc::default() }
    }

    /// Gets one URL, without following redirects.
    ///
    /// # Errors
    /// [`ClientError`]; an answer with any status is a success.
    pub async fn get(&self, url: &str) -> Result<Response<Bytes>, ClientError> {
        self.send(get(url)?).await
    }

    /// Sends a request whose URI is absolute, without following redirects.
    ///
    /// # Errors
    /// [`ClientError`]; an answer with any status is a success.
    pub async fn send(&self, request: Request<Bytes>) -> Result<Response<Bytes>, ClientError> {
        let mut body = BytesMut::new();
        let mut too_large = false;
        let response = self.exchange(request, |chunk| {
            too_large |= body.len() + chunk.len() > MAX_BODY;
            if !too_large {
                body.extend_from_slice(chunk);
            }
        });
        let parts = response.await?;
        if too_large {
            return Err(ClientError::TooLarge);
        }
        Ok(parts.map(|()| body.freeze()))
    }

    /// Sends a request and then, with the same method and headers, whatever redirects lead to; returns every answer, the last one last.
    ///
    /// # Errors
    /// [`ClientError`]; an answer with any status is a success.
    pub async fn follow(&self, request: Request<Bytes>) -> Result<Vec<Hop>, ClientError> {
        let mut hops = Vec::new();
        let mut next = request;
        loop {
            let url = next.uri().clone();
            let response = self.send(next.clone()).await?;
            let target = redirect(&response)?;
            hops.push(Hop { url, at: Instant::now(), response });
            let Some(target) = target else { return Ok(hops) };
            if hops.len() > MAX_REDIRECTS {
                return Err(ClientError::Redirects);
            }
            *next.uri_mut() = target;
        }
    }

    /// Sends a request and hands each piece of the answer's body to `take`. A body that breaks off is an error, whatever was taken.
    ///
    /// # Errors
    /// [`ClientError`]; an answer with any status is a success.
    pub async fn exchange(
        &self,
        request: Request<Bytes>,
        take: impl FnMut(&[u8]),
    ) -> Result<Response<()>, ClientError> {
        timeout(TIMEOUT, self.exchange_untimed(request, take)).await.map_err(|_| ClientError::Timeout)?
    }

    async fn exchange_untimed(
        &self,
        request: Request<Bytes>,
        mut take: impl FnMut(&[u8]),
    ) -> Result<Response<()>, ClientError> {
        let server = server_of(request.uri())?;
        let request = origin_form(request)?.map(Full::new);
        let mut answered = None;
        while let Some(mut connection) = self.pop(&server) {
            if connection.ready().await.is_err() {
                continue;
            }
            match connection.send_request(request.clone()).await {
                Ok(response) => answered = Some((connection, response)),
                Err(error) if error.is_parse() => return Err(error.into()),
                Err(_) => {}
            }
            break;
        }
        let (connection, response) = match answered {
            Some(answered) => answered,
            None => {
                let mut connection = self.connect(&server).await?;
                let response = connection.send_request(request).await?;
                (connection, response)
            }
        };
        let (parts, mut body) = response.into_parts();
        while let Some(frame) = body.frame().await {
            if let Some(data) = frame?.data_ref() {
                take(data);
            }
        }
        self.push(server, connection);
        Ok(Response::from_parts(parts, ()))
    }

    async fn connect(&self, (scheme, authority): &Server) -> Result<Connection, ClientError> {
        let outside = || ClientError::Url(authority.clone());
        let uri: http::uri::Authority = authority.parse().map_err(|_| outside())?;
        let port = uri.port_u16().unwrap_or(if *scheme == Scheme::HTTPS { 443 } else { 80 });
        let address = resolve(uri.host()).ok_or_else(outside)?;
        let tcp = TcpStream::connect((address, port)).await.map_err(ClientError::Connect)?;
        tcp.set_nodelay(true).map_err(ClientError::Connect)?;
        // Neither task outlives its connection, and an error is seen by whoever uses the connection.
        let connection = if *scheme == Scheme::HTTPS {
            let name = ServerName::try_from(uri.host().to_owned()).map_err(|_| outside())?;
            let tls = self.tls.connect(name, tcp).await.map_err(ClientError::Connect)?;
            let (sender, connection) = http1::handshake(TokioIo::new(tls)).await?;
            tokio::spawn(connection);
            sender
        } else {
            let (sender, connection) = http1::handshake(TokioIo::new(tcp)).await?;
            tokio::spawn(connection);
            sender
        };
        Ok(connection)
    }

    fn pop(&self, server: &Server) -> Option<Connection> {
        self.idle.lock().expect("no holder panics").get_mut(server)?.pop()
    }

    fn push(&self, server: Server, connection: Connection) {
        let mut idle = self.idle.lock().expect("no holder panics");
        let connections = idle.entry(server).or_default();
        if !connection.is_closed() && connections.len() < MAX_IDLE {
            connections.push(connection);
        }
    }
}

/// A request for a URL.
///
/// # Errors
/// [`ClientError::Url`].
pub fn get(url: &str) -> Result<Request<Bytes>, ClientError> {
    Request::get(url).body(Bytes::new()).map_err(|_| ClientError::Url(url.into()))
}

/// Where an answer sends its client, if it does.
///
/// # Errors
/// [`ClientError::Location`] if it does not say where, or not absolutely.
pub fn redirect<B>(response: &Response<B>) -> Result<Option<Uri>, ClientError> {
    if !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
        return Ok(None);
    }
    let location = response.headers().get(LOCATION).and_then(|l| Uri::try_from(l.as_bytes()).ok());
    let location = location.filter(|l| l.scheme().is_some() && l.authority().is_some());
    location.map(Some).ok_or(ClientError::Location)
}

fn server_of(uri: &Uri) -> Result<Server, ClientError> {
    match (uri.scheme(), uri.authority()) {
        (Some(scheme), Some(authority)) => Ok((scheme.clone(), authority.as_str().to_ascii_lowercase())),
        _ => Err(ClientError::Url(uri.to_string())),
    }
}

/// The request as it is written to a server, which the `host` header names unless it is set already.
fn origin_form(mut request: Request<Bytes>) -> Result<Request<Bytes>, ClientError> {
    let uri = request.uri();
    let bad = |_| ClientError::Url(uri.to_string());
    let host = HeaderValue::from_str(uri.authority().map_or("", |a| a.as_str())).map_err(bad)?;
    let path = uri.path_and_query().cloned().unwrap_or(PathAndQuery::from_static("/"));
    request.headers_mut().entry(HOST).or_insert(host);
    request.headers_mut().entry(USER_AGENT).or_insert(AGENT);
    *request.uri_mut() = path.into();
    Ok(request)
}

/// Names below `localhost` and literal addresses; the harness asks no resolver.
fn resolve(host: &str) -> Option<IpAddr> {
    let local = host == "localhost" || host.ends_with(".localhost");
    if local { Some(Ipv4Addr::LOCALHOST.into()) } else { host.parse().ok() }
}
