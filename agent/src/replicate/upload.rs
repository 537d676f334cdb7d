//! Bytes for peers: of this site's own objects, and of replicas that it holds and has verified for others.

use std::collections::HashMap;
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::stream::{self, BoxStream};
use futures_util::{StreamExt, TryStreamExt};
use http::header::{CONTENT_LENGTH, CONTENT_RANGE};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use p2pcdn_core::object::{ObjectRecord, Sha256};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::bandwidth::{FairBandwidth, Uplink};
use super::batch::{MAX_BATCH_BYTES, MAX_SMALL_BYTES, header};
use super::host::terms::Terms;
use super::progress::Progress;
use crate::catalogue::{Catalogue, OwnObject};
use crate::clock::monotonic_ms;
use crate::conditional::{Plan, plan};
use crate::http_server::Body;
use crate::load::LoadMeter;
use crate::settings::Share;
use crate::store::{ReadError, Replica, ReplicaStore};
use crate::telemetry::{Metrics, PeerLabel};

/// Gives bytes to peers.
pub struct Uploads {
    catalogue: Option<Arc<Catalogue>>,
    store: Arc<ReplicaStore>,
    terms: Arc<Terms>,
    doomed: mpsc::Sender<Arc<Replica>>,
    metrics: Arc<Metrics>,
    bandwidth: FairBandwidth,
    uplink: Uplink,
    slots: Arc<Slots>,
    /// A peer that takes its bytes too slowly is judged by so much waiting for it.
    window: Duration,
}

/// Why there are no bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UploadError {
    /// Neither an own object nor a replica that can be vouched for.
    NoObject,
    /// A range that lies outside of the object.
    Range,
    /// Too many are under way, for this peer or in all.
    Busy,
}

/// Answers under way at the same time.
const MAX_UPLOADS: usize = 64;
/// Fewer if each would get less than this, in bytes per second: one that is too slow is given up by the peer, and for nothing.
const WORTHWHILE_BYTES_PER_S: u64 = 64 * 1024;
/// The part of them that one peer may have.
const PART_OF_ONE: usize = 4;
/// For [`Uploads::window`].
const WINDOW: Duration = Duration::from_secs(30);
/// A peer that takes less than this over the window, in bytes per second, has its answer broken off, or it would hold the place for good. Half
/// of what it expects of others, since it may have limits of its own; it goes on later where it was.
const SLOWEST_BYTES_PER_S: u64 = 8 * 1024;
/// Small objects that are read ahead of their turn.
const READ_AHEAD: usize = 8;
/// The uplink is divided anew this often.
const DIVIDE: Duration = Duration::from_secs(1);

/// Whose bytes they are.
enum Holding {
    Own(Arc<Catalogue>, Arc<OwnObject>),
    Replica(Arc<Replica>),
}

impl Uploads {
    /// `doomed` takes replicas that turn out damaged.
    pub fn new(
        catalogue: Option<Arc<Catalogue>>,
        store: Arc<ReplicaStore>,
        terms: Arc<Terms>,
        doomed: mpsc::Sender<Arc<Replica>>,
        metrics: Arc<Metrics>,
        share: &Share,
    ) -> Self {
        let uplink = Uplink { upload: share.upload_bytes_per_s, line: share.uplink_bytes_per_s };
        let worthwhile = usize::try_from(uplink.upload / WORTHWHILE_BYTES_PER_S).unwrap_or(usize::MAX);
        Self {
            catalogue,
            store,
            terms,
            doomed,
            metrics,
            bandwidth: FairBandwidth::new(uplink.upload, share.upload_per_peer_bytes_per_s),
            uplink,
            slots: Arc::new(Slots { most: worthwhile.clamp(1, MAX_UPLOADS), used: Mutex::default() }),
            window: WINDOW,
        }
    }

    /// Divides the uplink between visitors and pulls, as far as the operator has said what it carries, until cancelled.
    ///
    /// What visitors get through the proxy cannot be held back from here; what pulls get can.
    pub async fn divide_uplink(
        self: Arc<Self>,
        load: Arc<Mutex<LoadMeter>>,
        lacks_replicas: impl Fn() -> bool + Send,
        cancel: CancellationToken,
    ) {
        if self.uplink.line.is_none() {
            return cancel.cancelled().await;
        }
        let mut tick = tokio::time::interval(DIVIDE);
        while cancel.run_until_cancelled(tick.tick()).await.is_some() {
            let visitors = load.lock().unwrap_or_else(PoisonError::into_inner).visitors_bytes_per_s(monotonic_ms());
            self.bandwidth.total.grant(self.uplink.for_pulls(visitors as u64, lacks_replicas()));
        }
    }

    /// One object, or the range of it that the headers ask for.
    pub async fn object(
        self: &Arc<Self>,
        peer: &str,
        digest: &Sha256,
        headers: &HeaderMap,
    ) -> Result<Response<Body>, UploadError> {
        let slot = Slots::enter(&self.slots, peer).ok_or(UploadError::Busy)?;
        let holding = self.find(digest).ok_or(UploadError::NoObject)?;
        let size = holding.record().size;
        let (status, range) = match plan(headers, None, None, size) {
            Plan::Partial(range) => (StatusCode::PARTIAL_CONTENT, range),
            Plan::Unsatisfiable => return Err(UploadError::Range),
            Plan::Full | Plan::NotModified | Plan::PreconditionFailed => (StatusCode::OK, 0..size),
        };
        let bytes = self.read(&holding, range.clone()).await.ok_or(UploadError::NoObject)?;
        let mut response = Response::new(self.paced(peer, slot, bytes));
        *response.status_mut() = status;
        response.headers_mut().insert(CONTENT_LENGTH, (range.end - range.start).into());
        let content_range = format!("bytes {}-{}/{size}", range.start, range.end - 1);
        if status == StatusCode::PARTIAL_CONTENT
            && let Ok(value) = HeaderValue::try_from(content_range)
        {
            response.headers_mut().insert(CONTENT_RANGE, value);
        }
        Ok(response)
    }

    /// Small objects, each in a frame of its own; what is not here, no small one, or beyond what a batch holds is said to be missing.
    pub async fn batch(self: &Arc<Self>, peer: &str, digests: Vec<Sha256>) -> Result<Response<Body>, UploadError> {
        let slot = Slots::enter(&self.slots, peer).ok_or(UploadError::Busy)?;
        let mut room = MAX_BATCH_BYTES;
        let found: Vec<Option<Holding>> = digests
            .iter()
            .map(|digest| {
                let found = self.find(digest).filter(|found| found.record().size <= room.min(MAX_SMALL_BYTES));
                room -= found.as_ref().map_or(0, |found| found.record().size);
                found
            })
            .collect();
        let uploads = self.clone();
        let frames = stream::iter(found).map(move |found| {
            let uploads = uploads.clone();
            async move { Ok(uploads.frame(found).await) }
        });
        Ok(Response::new(self.paced(peer, slot, Box::pin(frames.buffered(READ_AHEAD)))))
    }

    async fn frame(&self, found: Option<Holding>) -> Bytes {
        let Some(found) = found else { return header(None) };
        let size = found.record().size;
        let mut frame = BytesMut::from(&header(Some(size))[..]);
        let whole = frame.len() + size as usize;
        if let Some(mut bytes) = self.read(&found, 0..size).await {
            while let Ok(Some(part)) = bytes.try_next().await {
                frame.extend_from_slice(&part);
            }
        }
        if frame.len() == whole { frame.freeze() } else { header(None) }
    }

    fn find(&self, digest: &Sha256) -> Option<Holding> {
        let own = self.catalogue.as_ref().and_then(|catalogue| {
            let object = catalogue.find_digest(digest)?;
            Some(Holding::Own(catalogue.clone(), object))
        });
        // The same bytes may be carried for one origin and denied of another.
        let is_carried = |replica: &Replica| {
            let record = &replica.record;
            self.terms.serves(&record.origin, &record.path, &record.sha256)
        };
        own.or_else(|| self.store.find_digest(digest, is_carried).map(Holding::Replica))
    }

    /// Replicas are verified before the first byte; own objects have just been opened in the state in which they were hashed.
    async fn read(&self, holding: &Holding, range: Range<u64>) -> Option<BoxStream<'static, io::Result<Bytes>>> {
        match holding {
            Holding::Own(catalogue, object) => catalogue.bytes(object, range).await.ok(),
            Holding::Replica(replica) => match self.store.verify(&replica.record).await {
                Ok(()) => {
                    let bytes = self.store.read(&replica.record.sha256, range).await.ok()?;
                    Some(Box::pin(bytes.map_err(io::Error::other)))
                }
                Err(ReadError::Store(error)) => {
                    tracing::error!(%error, "reading a replica for a peer");
                    None
                }
                Err(ReadError::Missing | ReadError::Corrupt) => {
                    // Full means that many are going already.
                    let _ = self.doomed.try_send(replica.clone());
                    None
                }
            },
        }
    }

    /// Bytes as fast as the limits allow and the peer takes them; the slot is free when they are through, or when nobody wants them any more.
    fn paced(self: &Arc<Self>, peer: &str, slot: Slot, bytes: BoxStream<'static, io::Result<Bytes>>) -> Body {
        let (uploads, peer) = (self.clone(), peer.to_owned());
        let (passing, mut parts) = mpsc::channel(1);
        // A body is not asked for more by a peer that takes nothing, so somebody else has to lose patience.
        tokio::spawn(async move {
            let _slot = slot;
            tokio::select! {
                () = passing.closed() => {}
                () = uploads.pass_on(&peer, bytes, &passing) => {}
            }
        });
        let taken = stream::poll_fn(move |context| parts.poll_recv(context).map(Part::taken)).map_ok(Frame::data);
        StreamBody::new(taken).boxed_unsync()
    }

    /// Counts bytes as they leave, until the peer is too slow.
    async fn pass_on(
        &self,
        peer: &String,
        mut bytes: BoxStream<'static, io::Result<Bytes>>,
        passing: &mpsc::Sender<Part>,
    ) {
        let count = self.metrics.uploaded_bytes.get_or_create(&PeerLabel::of(peer)).clone();
        let mut progress = Progress::new(self.window, SLOWEST_BYTES_PER_S);
        loop {
            let part = bytes.next().await;
            let length = part.as_ref().and_then(|part| part.as_ref().ok()).map_or(0, Bytes::len);
            self.bandwidth.take(peer, length).await;
            let begun = Instant::now();
            let Ok(Ok(place)) = timeout(self.window, passing.reserve()).await else { break };
            match part {
                Some(Ok(bytes)) if progress.goes_on(length as u64, begun.elapsed()) => {
                    count.inc_by(length as u64);
                    place.send(Part::Bytes(bytes));
                }
                Some(Ok(_)) => break,
                Some(Err(error)) => return place.send(Part::Error(error)),
                None => return place.send(Part::End),
            }
        }
        tracing::debug!(peer, "takes its bytes too slowly");
    }
}

/// What is passed on of an answer; if there is no more without an end, it is broken off.
enum Part {
    Bytes(Bytes),
    Error(io::Error),
    End,
}

impl Part {
    fn taken(part: Option<Self>) -> Option<io::Result<Bytes>> {
        match part {
            Some(Self::Bytes(bytes)) => Some(Ok(bytes)),
            Some(Self::Error(error)) => Some(Err(error)),
            Some(Self::End) => None,
            None => Some(Err(io::ErrorKind::TimedOut.into())),
        }
    }
}

impl Holding {
    fn record(&self) -> &ObjectRecord {
        match self {
            Self::Own(_, object) => &object.record,
            Self::Replica(replica) => &replica.record,
        }
    }
}

/// Answers under way, by peer.
struct Slots {
    most: usize,
    used: Mutex<HashMap<String, usize>>,
}

/// The place of one answer among those under way; free again when it is dropped.
struct Slot {
    slots: Arc<Slots>,
    peer: String,
}

impl Slots {
    fn enter(slots: &Arc<Self>, peer: &str) -> Option<Slot> {
        let mut used = slots.used();
        let most_of_one = (slots.most / PART_OF_ONE).max(1);
        let of_peer = used.get(peer).copied().unwrap_or(0);
        if used.values().sum::<usize>() >= slots.most || of_peer >= most_of_one {
            return None;
        }
        used.insert(peer.to_owned(), of_peer + 1);
        Some(Slot { slots: slots.clone(), peer: peer.to_owned() })
    }

    fn used(&self) -> MutexGuard<'_, HashMap<String, usize>> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut used = self.slots.used();
        if let Some(of_peer) = used.get_mut(&self.peer) {
            *of_peer -= 1;
            if *of_peer == 0 {
                used.remove(&self.peer);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;
    use crate::identity::testing;
    use crate::replicate::host::admit;
    use crate::replicate::origin::rank::Policy;
    use crate::store::tests::location;

    const MIB: u64 = 1 << 20;

    /// Uploads over a line of 8 MiB a second.
    async fn uploads(directory: &tempfile::TempDir) -> Uploads {
        let store = Arc::new(ReplicaStore::open(location(directory.path())).await.unwrap());
        let terms = Arc::new(Terms::open(testing::database(), admit::tests::host(), testing::book(), 0, 0).unwrap());
        let share = Share {
            classes: vec![],
            min_object_bytes: 0,
            max_objects: 0,
            max_object_bytes: 0,
            upload_bytes_per_s: 8 * MIB,
            upload_per_peer_bytes_per_s: 8 * MIB,
            uplink_bytes_per_s: Some(8 * MIB),
            code_paths: vec![],
            exclude: vec![],
            heuristic: false,
            unchecked: false,
            cache_bytes: 0,
            learn_bytes_per_s: 0,
            replicas: 1,
            keep: Duration::ZERO,
            policy: Policy::default(),
        };
        Uploads::new(None, store, terms, mpsc::channel(1).0, Arc::default(), &share)
    }

    #[tokio::test]
    async fn a_peer_that_takes_nothing_gives_its_place_back_and_finds_the_answer_broken_off() {
        let directory = tempfile::tempdir().unwrap();
        // A stall of this machine is not taken for one of the peer.
        let window = Duration::from_secs(2);
        let uploads = Arc::new(Uploads { window, ..uploads(&directory).await });
        let pieces = |count| stream::iter((0..count).map(|_| Ok(Bytes::from_static(&[7; 64 * 1024]))));
        let answer = |peer: &str, pieces| {
            let slot = Slots::enter(&uploads.slots, peer).unwrap();
            uploads.paced(peer, slot, pieces)
        };
        let mut idle = answer("idle", pieces(100).boxed());
        idle.frame().await.unwrap().unwrap();
        // More than the window in all, but never without a piece for long.
        let mut steady = answer("steady", pieces(5).boxed());
        let mut taken = 0;
        while let Some(piece) = steady.frame().await {
            taken += piece.unwrap().into_data().unwrap().len();
            tokio::time::sleep(window / 4).await;
        }
        assert_eq!(taken, 5 * 64 * 1024);
        let given_back = async {
            while !uploads.slots.used().is_empty() {
                tokio::time::sleep(window / 10).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), given_back).await.expect("the place is held");
        while let Some(piece) = idle.frame().await {
            if piece.is_err() {
                return;
            }
        }
        panic!("an end where there is none");
    }

    #[tokio::test]
    async fn an_answer_that_nobody_wants_any_more_gives_its_place_back_at_once() {
        let directory = tempfile::tempdir().unwrap();
        let uploads = Arc::new(uploads(&directory).await);
        let slot = Slots::enter(&uploads.slots, "gone").unwrap();
        drop(uploads.paced("gone", slot, stream::pending().boxed()));
        let given_back = async {
            while !uploads.slots.used().is_empty() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(WINDOW / 2, given_back).await.expect("the place is held");
    }

    #[tokio::test]
    async fn what_visitors_take_and_copies_lack_reaches_the_uplink_within_seconds() {
        let directory = tempfile::tempdir().unwrap();
        let uploads = Arc::new(uploads(&directory).await);
        let (load, lacks, cancel) =
            (Arc::<Mutex<LoadMeter>>::default(), Arc::new(AtomicBool::new(false)), CancellationToken::new());
        let lacks_replicas = {
            let lacks = lacks.clone();
            move || lacks.load(Ordering::Relaxed)
        };
        let dividing = tokio::spawn(uploads.clone().divide_uplink(load.clone(), lacks_replicas, cancel.clone()));
        let comes_to = async |mib: u64| {
            let granted = || uploads.bandwidth.total.granted_bytes_per_s() / MIB;
            let wait = async {
                while granted() != mib {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            };
            let came = tokio::time::timeout(Duration::from_secs(20), wait).await;
            came.unwrap_or_else(|_| panic!("{} MiB/s instead of {mib}", granted()));
        };
        comes_to(8).await;
        // So long that the average is what was sent.
        load.lock().unwrap().observe_sent(100 * 6 * MIB, 100.0);
        comes_to(2).await;
        lacks.store(true, Ordering::Relaxed);
        comes_to(4).await;
        lacks.store(false, Ordering::Relaxed);
        load.lock().unwrap().observe_sent(0, 100.0);
        comes_to(8).await;
        cancel.cancel();
        dividing.await.unwrap();
    }

    #[test]
    fn one_peer_never_takes_every_slot_and_each_is_given_back() {
        let slots = Arc::new(Slots { most: 8, used: Mutex::default() });
        let enter = |peer: &str| Slots::enter(&slots, peer);
        let greedy: Vec<Slot> = std::iter::from_fn(|| enter("a")).collect();
        assert_eq!(greedy.len(), 2);
        let others: Vec<Slot> = ["b", "b", "c", "c", "d", "d"].into_iter().filter_map(enter).collect();
        assert_eq!(others.len(), 6);
        assert!(enter("e").is_none());
        drop(greedy);
        assert!(enter("e").is_some());
        drop(others);
        assert!(slots.used().is_empty());
    }

    #[test]
    fn a_narrow_uplink_still_serves_one_at_a_time() {
        let slots = Arc::new(Slots { most: 1, used: Mutex::default() });
        let first = Slots::enter(&slots, "a");
        assert!(first.is_some() && Slots::enter(&slots, "b").is_none());
        drop(first);
        assert!(Slots::enter(&slots, "b").is_some());
    }
}
