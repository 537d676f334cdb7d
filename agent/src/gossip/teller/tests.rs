use std::sync::mpsc::sync_channel;
use std::time::Duration;

use super::*;
use crate::identity::{Connector, NodeCertificate, RosterBounds, testing};

/// One whose membership is stored there.
fn gossip(db: Arc<StateDb>) -> Gossip {
    let (key, other_db) = (Arc::new(testing::node_key()), testing::database());
    let own = Arc::new(testing::own_record("own.test", key.clone(), other_db.clone(), now_s()));
    let membership = Arc::new(Membership::open(db, "own.test", RosterBounds::default()).unwrap());
    let connector = Arc::new(Connector::new(true, testing::Authority::new().trusting()));
    let client = Arc::new(PeerClient::new(connector.clone(), NodeCertificate::new(&key).unwrap()));
    let introducer = Arc::new(Introducer::new(membership.clone(), connector, client.clone(), own.clone(), 1.0));
    let (metrics, views) = (Arc::default(), Box::new(|_: &str| None));
    let parts = Parts { key, own, membership, introducer, client, db: other_db, metrics, views };
    Gossip::new(parts, false, &Formulas::default(), [1, 2], 1.0).0
}

#[test]
fn nobody_else_waits_while_a_record_that_was_heard_is_stored() {
    let (db, key) = (testing::database(), testing::node_key());
    let gossip = gossip(db.clone());
    let record = |sequence| sign(&key, &testing::peer_record("a.test", key.public(), sequence)).unwrap();
    gossip.membership.invite("a.test").unwrap();
    gossip.membership.introduce(&check(record(1), now_s()).unwrap(), now_s()).unwrap();
    let heard = Record::read(Record::of(&record(2)).unwrap(), now_s()).unwrap();

    // As long as this is open, nobody else's write begins.
    let busy = db.begin_write().unwrap();
    let (goes_on, others_go_on) = sync_channel(1);
    let noting = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            tokio::join!(gossip.note(vec![Ok((heard, Outcome::Accepted))]), async { goes_on.send(()).unwrap() });
        });
        gossip.membership.by_domain("a.test").unwrap().record.sequence
    });
    assert_eq!(others_go_on.recv_timeout(Duration::from_secs(20)), Ok(()));
    busy.abort().unwrap();
    assert_eq!(noting.join().unwrap(), 2);
}
