//! A host that is offered things twice, late and out of order.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use p2pcdn_core::object::{MAX_RECORD_LIFE_S, ObjectRecord};
use tokio::sync::mpsc;

use crate::clock::now_s;
use crate::gossip::proof::Proof;
use crate::identity::{
    Connector, Membership, NodeCertificate, NodeKey, Peer, PeerClient, RosterBounds, Signed, sign, testing,
    web_client_config,
};
use crate::replicate::host::admit;
use crate::replicate::host::pull::Puller;
use crate::replicate::host::terms::Terms;
use crate::replicate::messages::{self, Decline, Verdict};
use crate::settings::Host;
use crate::store::ReplicaStore;
use crate::store::tests::location;
use crate::telemetry::Metrics;

const BYTES: &[u8] = b"the bytes of an object";

struct Offered {
    key: NodeKey,
    origin: Arc<Peer>,
    store: Arc<ReplicaStore>,
    terms: Arc<Terms>,
    puller: Puller,
    found: Mutex<mpsc::Receiver<Proof>>,
    _directory: tempfile::TempDir,
}

impl Offered {
    async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (own, key) = (Arc::new(testing::node_key()), testing::node_key());
        let record = testing::peer_record("a.test", key.public(), 1);
        let origin =
            Arc::new(Peer { signed: sign(&key, &record).unwrap(), record, since_s: 0, invited: true, network: None });
        let db = testing::database();
        let store = Arc::new(ReplicaStore::open(location(directory.path())).await.unwrap());
        let host = Host { max_object_bytes: 1000, debt_ratio: None, ..admit::tests::host() };
        let terms = Arc::new(
            Terms::open(db, Host { quota_bytes: 1000, quota_per_origin_bytes: 1000, ..host }, testing::book(), 0, 0)
                .unwrap(),
        );
        let connector = Arc::new(Connector::new(true, web_client_config(&[]).unwrap()));
        let client = Arc::new(PeerClient::new(connector, NodeCertificate::new(&own).unwrap()));
        let membership = Membership::open(testing::database(), "b.test", RosterBounds::default()).unwrap();
        let puller = Puller::new(
            "b.test".into(),
            own,
            terms.clone(),
            store.clone(),
            Arc::new(membership),
            client,
            Arc::<Metrics>::default(),
        );
        let (proofs, found) = mpsc::channel(8);
        let (puller, found) = (puller.reporting_to(proofs), Mutex::new(found));
        Self { key, origin, store, terms, puller, found, _directory: directory }
    }

    fn record(&self, sequence: u64, bytes: &[u8]) -> (ObjectRecord, Signed) {
        let record =
            ObjectRecord { sequence, expires_s: now_s() + 3600, ..testing::object_record("a.test", "/x", bytes) };
        let signed = sign(&self.key, &record).unwrap();
        (record, signed)
    }

    async fn offer(&self, signed: Signed) -> Result<bool, Decline> {
        let offered = messages::Offered { record: signed, sources: Vec::new() };
        match self.puller.consider(&self.origin, offered).await {
            Verdict::Held { .. } => Ok(true),
            Verdict::Accepted => Ok(false),
            Verdict::Declined { reason } => Err(reason),
        }
    }

    async fn hold(&self, sequence: u64) -> Signed {
        let (record, signed) = self.record(sequence, BYTES);
        let Ok(reservation) = self.store.reserve(&record, |_| Ok::<_, std::convert::Infallible>(()));
        let mut incoming = self.store.begin(&record).await.unwrap();
        incoming.push(Bytes::from_static(BYTES)).await.unwrap();
        self.store.commit(incoming, signed.clone(), reservation).await.unwrap();
        signed
    }

    /// Takes out whatever waits to be pulled.
    fn queued(&self) -> usize {
        std::iter::from_fn(|| self.puller.state().waiting.pop(|_| true)).count()
    }
}

#[tokio::test]
async fn an_offer_that_comes_twice_is_pulled_once() {
    let host = Offered::new().await;
    let (_, signed) = host.record(5, BYTES);
    for _ in 0..3 {
        assert_eq!(host.offer(signed.clone()).await, Ok(false));
    }
    assert_eq!(host.queued(), 1);
    assert_eq!(host.store.usage().total_bytes, 0, "nothing is set aside for what nobody pulls");
}

#[tokio::test]
async fn an_origin_that_offers_two_records_as_one_version_is_found_out() {
    let host = Offered::new().await;
    let found = || host.found.lock().unwrap().try_recv().ok().map(|proof| proof.verify().unwrap().key);
    let sequence = crate::identity::sequence::at(now_s());
    host.hold(sequence).await;
    assert_eq!(found(), None);
    let _ = host.offer(host.record(sequence, b"something else").1).await;
    assert_eq!(found(), Some(host.key.public()), "against what is held");
    let _ = host.offer(host.record(sequence + 16, b"one").1).await;
    let _ = host.offer(host.record(sequence + 16, b"other").1).await;
    assert_eq!(found(), Some(host.key.public()), "against what waits");
    let _ = host.offer(host.record(sequence + 32, b"later").1).await;
    assert_eq!(found(), None);
}

#[tokio::test]
async fn an_offer_that_comes_late_does_not_bring_an_old_version_back() {
    let host = Offered::new().await;
    let held = host.hold(5).await;
    assert_eq!(host.offer(held.clone()).await, Ok(true));
    assert_eq!(host.offer(held).await, Ok(true), "twice");
    assert_eq!(host.offer(host.record(4, b"older").1).await, Err(Decline::Outdated));
    assert_eq!(host.offer(host.record(4, BYTES).1).await, Err(Decline::Outdated));
    assert_eq!(host.offer(host.record(6, BYTES).1).await, Ok(true), "a newer record of the same bytes");
    assert_eq!(host.offer(host.record(5, BYTES).1).await, Err(Decline::Outdated));
    assert_eq!(host.offer(host.record(7, b"newer").1).await, Ok(false));
    assert_eq!(host.queued(), 1);
}

#[tokio::test]
async fn what_is_held_but_no_longer_carried_is_not_acknowledged_again() {
    let host = Offered::new().await;
    let held = host.hold(5).await;
    host.terms.deny.add(&["a.test/x".parse().unwrap()], 1).unwrap();
    assert_eq!(host.offer(held.clone()).await, Err(Decline::Denied));
    host.terms.deny.remove(&["a.test/x".parse().unwrap()]).unwrap();
    host.terms.let_go(&host.store.list(), Decline::Quota);
    assert_eq!(host.offer(held.clone()).await, Err(Decline::Quota), "on its way out");
    host.terms.settle(&host.store.list());
    assert_eq!(host.offer(held.clone()).await, Ok(true));
    host.terms.set_leaving(true, 1);
    assert_eq!(host.offer(held).await, Err(Decline::Leaving));
    assert_eq!(host.queued(), 0);
}

#[tokio::test]
async fn records_that_have_expired_or_hold_for_ever_are_declined() {
    let host = Offered::new().await;
    let offer = async |expires_s| {
        let record = ObjectRecord { expires_s, ..host.record(5, BYTES).0 };
        host.offer(sign(&host.key, &record).unwrap()).await
    };
    assert_eq!(offer(now_s() - 10).await, Err(Decline::Expired));
    assert_eq!(offer(now_s() + MAX_RECORD_LIFE_S + 100).await, Err(Decline::BadRecord));
    assert_eq!(offer(u64::MAX).await, Err(Decline::BadRecord));
    assert_eq!(offer(now_s() + MAX_RECORD_LIFE_S - 100).await, Ok(false));
}
