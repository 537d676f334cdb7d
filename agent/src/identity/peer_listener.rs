//! Where other agents come in: PROXY header, mutual TLS, HTTP/2, and then a handler that knows who is asking.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use p2pcdn_core::peer::NodeKey as PublicKey;
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::membership::Membership;
use super::neighbourhood::{Network, network};
use super::once_per::OncePerMinute;
use super::plain::plain;
use super::proxy_protocol::{ProxyProtocolError, read_header};
use super::tls::{PeerCertificateError, peer_node_key};
use crate::http_server::Body;

/// Who sent a request: proven by the TLS handshake, authorised by nothing yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerIdentity {
    /// The key that the other side holds.
    pub key: PublicKey,
    /// Its address as the proxy in front saw it.
    pub remote: SocketAddr,
}

/// Bounds of the listener; what is above them is dropped at once and counted.
#[derive(Debug, Clone, Copy)]
pub struct ListenerBounds {
    /// Connections in all; half of them at most whose key is not that of a pinned peer.
    pub connections: usize,
    /// Connections from one /24 (IPv4) or /48 (IPv6); loopback is exempt.
    pub per_prefix: usize,
    /// PROXY header and TLS handshake together.
    pub handshake: Duration,
    /// How long a connection may last whose key is not, or no longer, that of a pinned peer.
    pub stranger_life: Duration,
    /// How long requests in progress may go on after the shutdown began.
    pub drain: Duration,
}

impl Default for ListenerBounds {
    fn default() -> Self {
        Self {
            connections: 1024,
            per_prefix: 64,
            handshake: Duration::from_secs(5),
            stranger_life: Duration::from_secs(30),
            drain: Duration::from_secs(10),
        }
    }
}

/// Why a connection was dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dropped {
    /// Too many connections in all.
    Full,
    /// Too many connections from its network.
    PrefixFull,
    /// Too many connections whose key is not that of a pinned peer.
    StrangersFull,
    /// No usable PROXY header.
    ProxyHeader,
    /// No TLS handshake with a node certificate and ALPN `p2pcdn/1`.
    Tls,
    /// Header and handshake took too long.
    Slow,
    /// Broken HTTP/2.
    Http,
    /// The operating system did not hand the connection over.
    Accept,
}

impl Dropped {
    /// Every cause, in the order of their discriminants.
    pub const ALL: [Self; 8] = [
        Self::Full,
        Self::PrefixFull,
        Self::StrangersFull,
        Self::ProxyHeader,
        Self::Tls,
        Self::Slow,
        Self::Http,
        Self::Accept,
    ];

    /// The word for metrics and logs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::PrefixFull => "prefix_full",
            Self::StrangersFull => "strangers_full",
            Self::ProxyHeader => "proxy_header",
            Self::Tls => "tls",
            Self::Slow => "slow",
            Self::Http => "http",
            Self::Accept => "accept",
        }
    }
}

/// Counters of the listener.
#[derive(Debug, Default)]
pub struct ListenerCounters {
    accepted: AtomicU64,
    dropped: [AtomicU64; Dropped::ALL.len()],
}

impl ListenerCounters {
    /// Connections whose handshake was finished.
    pub fn accepted(&self) -> u64 {
        self.accepted.load(Ordering::Relaxed)
    }

    /// Connections dropped for that cause.
    pub fn dropped(&self, cause: Dropped) -> u64 {
        self.dropped[cause as usize].load(Ordering::Relaxed)
    }
}

/// Streams that one connection may have open.
const MAX_STREAMS: u32 = 64;
/// Largest request head in bytes.
const MAX_HEADER_LIST_BYTES: u32 = 16 * 1024;
/// Bytes of answers that are buffered per stream.
const MAX_SEND_BUFFER_BYTES: usize = 256 * 1024;

/// Serves peers on `listener` until `shutdown`, then lets requests in progress finish within [`ListenerBounds::drain`].
///
/// The handler gets requests of strangers, too: what a key may do is for the handler to decide.
pub async fn serve<H, F>(
    listener: TcpListener,
    tls: Arc<ServerConfig>,
    bounds: ListenerBounds,
    counters: Arc<ListenerCounters>,
    membership: Arc<Membership>,
    handler: H,
    shutdown: CancellationToken,
) where
    H: Fn(PeerIdentity, Request<Incoming>) -> F + Send + Sync + 'static,
    F: Future<Output = Response<Body>> + Send + 'static,
{
    let gate = Arc::new(Gate {
        tls: TlsAcceptor::from(tls),
        bounds,
        counters,
        membership,
        prefixes: Arc::default(),
        strangers: Arc::new(Semaphore::new(bounds.connections / 2)),
        log: OncePerMinute::default(),
        shutdown: shutdown.clone(),
    });
    let handler = Arc::new(handler);
    let permits = Arc::new(Semaphore::new(bounds.connections));
    let connections = TaskTracker::new();
    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    gate.drop_for(Dropped::Accept, &error);
                    // Out of file descriptors, most likely: trying again at once would only spin.
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            },
            () = shutdown.cancelled() => break,
        };
        match permits.clone().try_acquire_owned() {
            Ok(permit) => drop(connections.spawn(serve_one(gate.clone(), stream, permit, handler.clone()))),
            Err(error) => gate.drop_for(Dropped::Full, &error),
        }
    }
    drop(listener);
    connections.close();
    // What has not ended by then is cut off when the runtime stops.
    let _ = timeout(bounds.drain, connections.wait()).await;
}

/// What all connections share.
struct Gate {
    tls: TlsAcceptor,
    bounds: ListenerBounds,
    counters: Arc<ListenerCounters>,
    membership: Arc<Membership>,
    prefixes: Arc<Prefixes>,
    /// Places that are not kept for pinned peers.
    strangers: Arc<Semaphore>,
    log: OncePerMinute,
    shutdown: CancellationToken,
}

async fn serve_one<H, F>(gate: Arc<Gate>, stream: TcpStream, _permit: OwnedSemaphorePermit, handler: Arc<H>)
where
    H: Fn(PeerIdentity, Request<Incoming>) -> F + Send + Sync + 'static,
    F: Future<Output = Response<Body>> + Send + 'static,
{
    let handshake = timeout(gate.bounds.handshake, gate.shake_hands(stream));
    let arrival = tokio::select! {
        arrival = handshake => arrival,
        () = gate.shutdown.cancelled() => return,
    };
    let (stream, identity, _slot) = match arrival {
        Ok(Ok(arrival)) => arrival,
        Ok(Err(error)) => return gate.drop_for(error.cause(), &error),
        Err(late) => return gate.drop_for(Dropped::Slow, &late),
    };
    let mut place = match gate.place(&identity.key) {
        Ok(place) => place,
        Err(error) => return gate.drop_for(Dropped::StrangersFull, &error),
    };
    gate.counters.accepted.fetch_add(1, Ordering::Relaxed);

    let service = service_fn(move |request| {
        let answer = handler(identity, request);
        async { Ok::<_, std::convert::Infallible>(answer.await) }
    });
    let connection = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(MAX_HEADER_LIST_BYTES)
        .max_send_buf_size(MAX_SEND_BUFFER_BYTES)
        .keep_alive_interval(Duration::from_secs(20))
        .keep_alive_timeout(Duration::from_secs(10))
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = gate.time_to_go(&identity.key, &mut place) => {
            connection.as_mut().graceful_shutdown();
            match timeout(gate.bounds.drain, connection).await {
                Ok(result) => result,
                Err(_) => return,
            }
        }
    };
    if let Err(error) = result {
        gate.drop_for(Dropped::Http, &error);
    }
}

type Arrival = (tokio_rustls::server::TlsStream<TcpStream>, PeerIdentity, Option<Slot>);

#[derive(Debug, thiserror::Error)]
enum HandshakeError {
    #[error(transparent)]
    ProxyHeader(#[from] ProxyProtocolError),
    #[error("too many connections from the network of {0}")]
    PrefixFull(IpAddr),
    #[error(transparent)]
    Tls(#[from] io::Error),
    #[error(transparent)]
    Certificate(#[from] PeerCertificateError),
}

impl HandshakeError {
    fn cause(&self) -> Dropped {
        match self {
            Self::ProxyHeader(ProxyProtocolError::Timeout) => Dropped::Slow,
            Self::ProxyHeader(_) => Dropped::ProxyHeader,
            Self::PrefixFull(_) => Dropped::PrefixFull,
            Self::Tls(_) | Self::Certificate(_) => Dropped::Tls,
        }
    }
}

impl Gate {
    async fn shake_hands(&self, mut stream: TcpStream) -> Result<Arrival, HandshakeError> {
        let remote = read_header(&mut stream, self.bounds.handshake).await?;
        let slot = Prefixes::enter(&self.prefixes, remote.ip(), self.bounds.per_prefix)?;
        // Messages are small and waited for.
        let _ = stream.set_nodelay(true);
        let stream = self.tls.accept(stream).await?;
        let key = peer_node_key(stream.get_ref().1)?;
        Ok((stream, PeerIdentity { key, remote }, slot))
    }

    /// The place of a stranger, if `key` is not that of a pinned peer.
    fn place(&self, key: &PublicKey) -> Result<Option<OwnedSemaphorePermit>, TryAcquireError> {
        match self.membership.by_key(key) {
            Some(_) => Ok(None),
            None => self.strangers.clone().try_acquire_owned().map(Some),
        }
    }

    /// Completes when a connection of `key` is to end: at shutdown, or when its time as that of a stranger is over. Whoever is none any more
    /// gives its `place` as one back.
    async fn time_to_go(&self, key: &PublicKey, place: &mut Option<OwnedSemaphorePermit>) {
        let stranger = async {
            loop {
                tokio::time::sleep(self.bounds.stranger_life).await;
                if self.membership.by_key(key).is_none() {
                    break;
                }
                *place = None;
            }
        };
        tokio::select! {
            () = stranger => {}
            () = self.shutdown.cancelled() => {}
        }
    }

    fn drop_for(&self, cause: Dropped, error: &dyn std::error::Error) {
        self.counters.dropped[cause as usize].fetch_add(1, Ordering::Relaxed);
        if let Some(suppressed) = self.log.due(cause.name()) {
            tracing::info!(cause = cause.name(), error = plain(error), suppressed, "dropped a connection of a peer");
        }
    }
}

/// Connections per network prefix; at most as many entries as there are connections.
#[derive(Default)]
struct Prefixes(Mutex<HashMap<Network, usize>>);

/// One connection's place among those of its network.
struct Slot {
    prefixes: Arc<Prefixes>,
    prefix: Network,
}

impl Prefixes {
    fn enter(prefixes: &Arc<Self>, remote: IpAddr, most: usize) -> Result<Option<Slot>, HandshakeError> {
        if remote.to_canonical().is_loopback() {
            return Ok(None);
        }
        let prefix = network(remote);
        let mut counts = prefixes.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(prefix).or_default();
        if *count >= most {
            return Err(HandshakeError::PrefixFull(remote));
        }
        *count += 1;
        Ok(Some(Slot { prefixes: prefixes.clone(), prefix }))
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut counts = self.prefixes.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.prefix) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.prefix);
            }
        }
    }
}
