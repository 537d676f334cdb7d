//! A host that pulls, and peers that send as they please; mutual TLS between them.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{self, StreamExt};
use governor::{Quota, RateLimiter};
use http::header::{CONTENT_RANGE, RANGE};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming as RequestBody};
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use p2pcdn_core::object::{ObjectRecord, Sha256};
use sha2::Digest;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::super::{Patience, Puller};
use crate::clock::now_s;
use crate::http_server::{Body, empty, json, read_body};
use crate::identity::introduction::check;
use crate::identity::{
    Connector, Membership, NodeCertificate, NodeKey, Peer, PeerClient, RosterBounds, Signed, sign, testing,
};
use crate::replicate::batch::{BATCHES_PATH, BatchRequest, header};
use crate::replicate::host::admit;
use crate::replicate::host::terms::Terms;
use crate::replicate::messages::{
    ACKNOWLEDGEMENTS_PATH, Acknowledgement, Acknowledgements, Decline, Done, OBJECTS_PATH, Offered, Verdict,
};
use crate::settings::Host;
use crate::store::ReplicaStore;
use crate::store::tests::location;
use crate::telemetry::Metrics;

/// Longest wait for what has to happen.
const DEADLINE: Duration = Duration::from_secs(30);

/// Offered records that the host looks at before it is busy.
pub(super) const OFFERED_AT_ONCE: u32 = 1000;

/// How a source sends.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Manner {
    Honestly,
    /// Without regard to ranges, and without a length.
    InWhole,
    /// Up to this offset; then the stream is reset.
    UpTo(u64),
    /// With the byte at this offset turned over.
    WrongAt(u64),
    /// The right bytes, and then more without end.
    Endlessly,
    /// A byte every few milliseconds.
    InDrips,
    /// 10 kB every few milliseconds: it takes its time, but less than would be held against it.
    Slowly,
    /// A head and nothing else.
    Never,
    /// It has nothing.
    NothingAtAll,
}

/// A peer that has objects.
pub(super) struct Source {
    pub(super) domain: String,
    pub(super) key: NodeKey,
    endpoint: String,
    shared: Arc<Shared>,
    _cancel: DropGuard,
}

struct Shared {
    manner: Mutex<Manner>,
    objects: Mutex<HashMap<Sha256, Bytes>>,
    /// Ranges and batches that it was asked for.
    asked: Mutex<Vec<String>>,
    acknowledged: Mutex<Vec<Vec<Acknowledgement>>>,
}

impl Source {
    pub(super) async fn start(domain: &str, manner: Manner) -> Self {
        let key = testing::node_key();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = listener.local_addr().unwrap().to_string();
        let shared = Arc::new(Shared {
            manner: Mutex::new(manner),
            objects: Mutex::default(),
            asked: Mutex::default(),
            acknowledged: Mutex::default(),
        });
        let tls = TlsAcceptor::from(NodeCertificate::new(&key).unwrap().server_config().unwrap());
        let cancel = CancellationToken::new();
        tokio::spawn(cancel.clone().run_until_cancelled_owned(serve(listener, tls, shared.clone(), cancel.clone())));
        Self { domain: domain.into(), key, endpoint, shared, _cancel: cancel.drop_guard() }
    }

    pub(super) fn set(&self, manner: Manner) {
        *self.shared.manner.lock().unwrap() = manner;
    }

    pub(super) fn has(&self, bytes: &Bytes) {
        self.shared.objects.lock().unwrap().insert(digest(bytes), bytes.clone());
    }

    pub(super) fn asked(&self) -> Vec<String> {
        self.shared.asked.lock().unwrap().clone()
    }

    /// What the host has acknowledged, message by message.
    pub(super) fn acknowledged(&self) -> Vec<Vec<Acknowledgement>> {
        self.shared.acknowledged.lock().unwrap().clone()
    }

    /// An object of its own, with what it says about it.
    pub(super) fn object(&self, path: &str, bytes: &Bytes, sequence: u64) -> Signed {
        self.has(bytes);
        let record =
            ObjectRecord { sequence, expires_s: now_s() + 3600, ..testing::object_record(&self.domain, path, bytes) };
        sign(&self.key, &record).unwrap()
    }
}

async fn serve(listener: TcpListener, tls: TlsAcceptor, shared: Arc<Shared>, cancel: CancellationToken) {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let (tls, shared) = (tls.clone(), shared.clone());
        tokio::spawn(cancel.clone().run_until_cancelled_owned(async move {
            let Ok(stream) = tls.accept(stream).await else { return };
            let service = service_fn(move |request| {
                let shared = shared.clone();
                async move { Ok::<_, std::convert::Infallible>(shared.answer(request).await) }
            });
            // The host hangs up when it likes.
            let _ = http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
        }));
    }
}

impl Shared {
    async fn answer(&self, request: Request<RequestBody>) -> Response<Body> {
        let range = request.headers().get(RANGE).map(|range| range.to_str().unwrap().to_owned());
        let path = request.uri().path().to_owned();
        let manner = *self.manner.lock().unwrap();
        if let Some(hex) = path.strip_prefix(OBJECTS_PATH) {
            self.asked.lock().unwrap().push(range.clone().unwrap_or_default());
            let bytes = self.objects.lock().unwrap().get(&hex.parse().unwrap()).cloned();
            return match bytes.filter(|_| manner != Manner::NothingAtAll) {
                Some(bytes) => object(manner, &bytes, range.as_deref()),
                None => empty(StatusCode::NOT_FOUND),
            };
        }
        let body = read_body(request.into_body(), 1 << 20).await.unwrap();
        if path == BATCHES_PATH {
            let wanted: BatchRequest = serde_json::from_slice(&body).unwrap();
            self.asked.lock().unwrap().push(format!("batch of {}", wanted.digests.len()));
            return self.batch(manner, &wanted.digests);
        }
        assert_eq!(path, ACKNOWLEDGEMENTS_PATH);
        let message: Acknowledgements = serde_json::from_slice(&body).unwrap();
        let acknowledgements = message.acknowledgements.iter().map(|signed| signed.open().unwrap()).collect();
        self.acknowledged.lock().unwrap().push(acknowledgements);
        json(StatusCode::OK, &Done { taken: message.acknowledgements.len() })
    }

    fn batch(&self, manner: Manner, digests: &[Sha256]) -> Response<Body> {
        let objects = self.objects.lock().unwrap();
        let frame = |digest: &Sha256| match objects.get(digest) {
            Some(bytes) => [header(Some(bytes.len() as u64)), bytes.clone()].concat(),
            None => header(None).to_vec(),
        };
        let bytes: Bytes = digests.iter().flat_map(frame).collect::<Vec<u8>>().into();
        object(manner, &bytes, None)
    }
}

fn object(manner: Manner, bytes: &Bytes, range: Option<&str>) -> Response<Body> {
    let range = range.filter(|_| manner != Manner::InWhole);
    let from: u64 = range.map_or(0, |range| range["bytes=".len()..].trim_end_matches('-').parse().unwrap());
    let size = bytes.len() as u64;
    let part = |from: u64, to: u64| bytes.slice(from.min(to) as usize..to.min(size) as usize);
    let then = |bytes: Bytes, rest: stream::BoxStream<'static, std::io::Result<Bytes>>| {
        // In pieces that no chunk ends with.
        let pieces: Vec<_> = bytes.chunks(10_000).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
        stream::iter(pieces).chain(rest).map(|piece| piece.map(Frame::data))
    };
    let end = || stream::empty().boxed();
    let drip = || tokio::time::sleep(Duration::from_millis(5));
    let body = match manner {
        Manner::Honestly | Manner::InWhole => then(part(from, size), end()),
        Manner::UpTo(to) => {
            let reset = stream::once(async {
                // What is under way when a stream is reset is lost.
                tokio::time::sleep(Duration::from_millis(200)).await;
                Err(std::io::ErrorKind::BrokenPipe.into())
            });
            then(part(from, to), reset.boxed())
        }
        Manner::WrongAt(at) => {
            let mut wrong = bytes.to_vec();
            wrong.get_mut(at as usize).into_iter().for_each(|byte| *byte ^= 1);
            then(Bytes::from(wrong).slice(from as usize..), end())
        }
        Manner::Endlessly => then(part(from, size), stream::repeat_with(|| Ok(Bytes::from_static(&[7; 9999]))).boxed()),
        Manner::Slowly => {
            let slowly = stream::unfold(part(from, size), move |mut left| async move {
                tokio::time::sleep(Duration::from_millis(20)).await;
                let piece = left.split_to(left.len().min(10_000));
                (!piece.is_empty()).then_some((Ok(piece), left))
            });
            then(Bytes::new(), slowly.boxed())
        }
        Manner::InDrips => {
            let drips = part(from, size);
            let drips = stream::unfold(drips, move |mut left| async move {
                drip().await;
                (!left.is_empty()).then(|| (Ok(left.split_to(1)), left))
            });
            then(Bytes::new(), drips.boxed())
        }
        Manner::Never | Manner::NothingAtAll => then(Bytes::new(), stream::pending().boxed()),
    };
    let mut response = Response::new(StreamBody::new(body).boxed_unsync());
    if range.is_some() {
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
        let range = format!("bytes {from}-{}/{size}", size - 1);
        response.headers_mut().insert(CONTENT_RANGE, range.parse().unwrap());
    }
    response
}

/// The host, with a store on disk.
pub(super) struct HostLab {
    pub(super) puller: Arc<Puller>,
    pub(super) store: Arc<ReplicaStore>,
    pub(super) metrics: Arc<Metrics>,
    membership: Arc<Membership>,
    directory: tempfile::TempDir,
    cancel: DropGuard,
}

impl HostLab {
    /// A host whose peers these are.
    pub(super) async fn start(peers: &[&Source]) -> Self {
        let host = Self::idle(peers).await;
        host.go();
        host
    }

    /// The same, but nothing is pulled before [`HostLab::go`].
    pub(super) async fn idle(peers: &[&Source]) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), peers).await
    }

    /// A started one that puts up with longer silence than any machine's stall.
    pub(super) async fn patient(peers: &[&Source]) -> Self {
        let mut host = Self::idle(peers).await;
        let puller = Arc::get_mut(&mut host.puller).unwrap();
        (puller.patience.silence, puller.patience.window) = (Duration::from_secs(5), Duration::from_secs(5));
        host.go();
        host
    }

    async fn start_in(directory: tempfile::TempDir, peers: &[&Source]) -> Self {
        let key = Arc::new(testing::node_key());
        let membership = Membership::open(testing::database(), "host.test", RosterBounds::default()).unwrap();
        for source in peers {
            let mut record = testing::peer_record(&source.domain, source.key.public(), 1);
            record.endpoint = source.endpoint.clone();
            membership.invite(&source.domain).unwrap();
            membership.introduce(&check(sign(&source.key, &record).unwrap(), now_s()).unwrap(), now_s()).unwrap();
        }
        let membership = Arc::new(membership);
        let store = Arc::new(ReplicaStore::open(location(&directory.path().join("replicas"))).await.unwrap());
        let connector = Arc::new(Connector::new(true, testing::Authority::new().trusting()));
        let client = Arc::new(PeerClient::new(connector, NodeCertificate::new(&key).unwrap()));
        let metrics = Arc::<Metrics>::default();
        let host = Host {
            quota_bytes: 64 << 20,
            quota_per_origin_bytes: 64 << 20,
            max_object_bytes: 64 << 20,
            pull_bytes_per_s: 1 << 30,
            pull_per_origin_bytes_per_s: 1 << 30,
            ..admit::tests::host()
        };
        let terms = Arc::new(Terms::open(testing::database(), host, testing::book(), 0, 0).unwrap());
        let domain = "host.test".to_owned();
        let puller = Puller::new(domain, key, terms, store.clone(), membership.clone(), client, metrics.clone());
        let ms = Duration::from_millis;
        // A trickle of a byte every 5 ms is far below the floor over any window.
        let patience = Patience { head: ms(5000), silence: ms(400), window: ms(800) };
        // So few that a storm meets the bound on the slowest machine, too.
        let at_once = NonZeroU32::new(OFFERED_AT_ONCE).unwrap();
        let offers = RateLimiter::keyed(Quota::per_second(NonZeroU32::MIN).allow_burst(at_once));
        let puller = Arc::new(Puller { patience, turn: ms(800), offers, ..puller });
        let cancel = CancellationToken::new();
        Self { puller, store, metrics, membership, directory, cancel: cancel.drop_guard() }
    }

    /// Begins to work off what waits.
    pub(super) fn go(&self) {
        tokio::spawn(self.puller.clone().run(self.cancel.token().clone()));
    }

    /// The same after a restart.
    pub(super) async fn restart(self, peers: &[&Source]) -> Self {
        let Self { directory, cancel, store, puller, .. } = self;
        drop(cancel);
        drop(puller);
        until("the store is closed", || Arc::strong_count(&store) == 1).await;
        drop(store);
        let host = Self::start_in(directory, peers).await;
        host.go();
        host
    }

    pub(super) fn peer(&self, source: &Source) -> Arc<Peer> {
        self.membership.by_domain(&source.domain).unwrap()
    }

    /// Offers what the origin has signed, naming these holders.
    pub(super) async fn offer(&self, origin: &Source, record: &Signed, sources: &[&str]) -> Verdict {
        let sources = sources.iter().map(|domain| (*domain).to_owned()).collect();
        self.puller.consider(&self.peer(origin), Offered { record: record.clone(), sources }).await
    }

    pub(super) async fn accepts(&self, origin: &Source, record: &Signed, sources: &[&str]) {
        assert_eq!(self.offer(origin, record, sources).await, Verdict::Accepted);
    }

    pub(super) async fn declines(&self, origin: &Source, record: &Signed, reason: Decline) {
        assert_eq!(self.offer(origin, record, &[]).await, Verdict::Declined { reason });
    }

    pub(super) fn holds(&self, origin: &Source, path: &str, bytes: &[u8]) -> bool {
        self.store.find(&origin.domain, path).is_some_and(|held| held.record.sha256 == digest(bytes))
    }

    /// Waits until these bytes are held.
    pub(super) async fn takes_in(&self, origin: &Source, path: &str, bytes: &[u8]) {
        until(&format!("{path} is held"), || self.holds(origin, path, bytes)).await;
    }

    /// Waits until nothing waits and nothing is under way.
    pub(super) async fn at_rest(&self) {
        let is_idle = || {
            let state = self.puller.state();
            state.jobs.is_empty() && !state.waiting.is_anything()
        };
        until("the host is at rest", is_idle).await;
    }

    /// Lengths of unfinished objects.
    pub(super) fn unfinished(&self) -> Vec<u64> {
        let parts = std::fs::read_dir(self.directory.path().join("replicas/incoming")).into_iter().flatten().flatten();
        parts.map(|part| part.metadata().unwrap().len()).collect()
    }
}

/// Waits until `done`.
pub(super) async fn until(what: &str, done: impl Fn() -> bool) {
    let wait = async {
        while !done() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(DEADLINE, wait).await.unwrap_or_else(|_| panic!("never happened: {what}"));
}

pub(super) fn digest(bytes: &[u8]) -> Sha256 {
    Sha256(sha2::Sha256::digest(bytes).into())
}

/// Bytes that differ for each seed.
pub(super) fn noise(seed: u64, len: usize) -> Bytes {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    std::iter::repeat_with(next).take(len).collect::<Vec<u8>>().into()
}
