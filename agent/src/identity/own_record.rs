//! What this agent says about itself, signed and kept current.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use p2pcdn_core::peer::{PeerRecord, PeerRecordError};
use redb::TableDefinition;

use super::OUR_VERSIONS;
use super::node_key::NodeKey;
use super::rotation::Rotations;
use super::sequence::{Counter, CounterError};
use super::signed::{Signed, sign};
use crate::state_db::StateDb;

/// Life of an own record in seconds: 7 days. It is renewed when a quarter of that is left.
pub const RECORD_LIFE_S: u64 = 7 * 24 * 3600;

/// Less than the clocks of two peers may differ.
const CLOCK_SLACK_S: u64 = 240;

/// Capability of a host that serves archives to visitors who click on them, as attachments.
pub const ATTACHMENTS: &str = "attachments";

/// What the operator's settings say about this site; see [`PeerRecord`] for the meaning of each field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AboutUs {
    /// Authority of the site.
    pub domain: String,
    /// Authority whose port answers ALPN `p2pcdn/1`.
    pub endpoint: String,
    /// Authority under which replicas are served.
    pub replica_name: String,
    /// Where a person can be reached.
    pub contact: String,
    /// Whether archives are served as attachments.
    pub attachments: bool,
}

/// Why this agent has no record of its own.
#[derive(Debug, thiserror::Error)]
pub enum OwnRecordError {
    /// The settings would make a record that peers refuse.
    #[error("this site's peer record would be refused: {0}")]
    Invalid(#[from] PeerRecordError),
    /// The sequence could not be made durable, so nothing was signed.
    #[error(transparent)]
    Sequence(#[from] CounterError),
    /// The record could not be written as JSON.
    #[error("writing the peer record: {0}")]
    Json(#[from] serde_json::Error),
}

/// The own signed record, renewed in time.
pub struct OwnRecord {
    key: Arc<NodeKey>,
    about: AboutUs,
    db: Arc<StateDb>,
    current: Mutex<Current>,
    rotations: Rotations,
}

struct Current {
    signed: Arc<Signed>,
    expires_s: u64,
    /// When it could not be renewed last, in seconds since the Unix epoch.
    failed_s: Option<u64>,
}

/// Seconds after which a renewal that failed is tried again: anybody can ask for the record, and each attempt is a write.
const RETRY_S: u64 = 60;

impl OwnRecord {
    /// Goes on with the record of the last run if it says the same and is not due, or signs one, which blocks for two durable writes; `now_s`
    /// is seconds since the Unix epoch. So nothing need be written at a start, which a full disk would not let happen.
    pub fn new(key: Arc<NodeKey>, about: AboutUs, db: Arc<StateDb>, now_s: u64) -> Result<Self, OwnRecordError> {
        let current = match kept(&db).and_then(|signed| still_right(signed, &key, &about, now_s)) {
            Some(current) => current,
            None => renew(&key, &about, &db, now_s)?,
        };
        Ok(Self { key, about, db, current: Mutex::new(current), rotations: Rotations::default() })
    }

    /// The same, with how its key followed from former ones.
    pub fn after(self, rotations: Rotations) -> Self {
        Self { rotations, ..self }
    }

    /// How its key followed from former ones.
    pub fn rotations(&self) -> &Rotations {
        &self.rotations
    }

    /// Authority of this site.
    pub fn domain(&self) -> &str {
        &self.about.domain
    }

    /// The record to show at `now_s`, renewed first if it is due; if that fails, the old one and a line in the log, and another attempt a
    /// minute later.
    pub fn signed(&self, now_s: u64) -> Arc<Signed> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let may_try = current.failed_s.is_none_or(|at_s| now_s.abs_diff(at_s) >= RETRY_S);
        if is_due(current.expires_s, now_s) && may_try {
            match renew(&self.key, &self.about, &self.db, now_s) {
                Ok(renewed) => *current = renewed,
                Err(error) => {
                    current.failed_s = Some(now_s);
                    tracing::error!(%error, "the own peer record could not be renewed");
                }
            }
        }
        current.signed.clone()
    }
}

/// The own record that was signed last, as JSON.
const KEPT: TableDefinition<&str, &[u8]> = TableDefinition::new("own record");
const PEER: &str = "peer";

fn keep(db: &StateDb, signed: &Signed) -> Result<(), redb::Error> {
    let json = serde_json::to_vec(signed).unwrap_or_default();
    db.change(KEPT, |table| table.insert(PEER, &*json).map(drop))
}

fn kept(db: &StateDb) -> Option<Signed> {
    let rows: BTreeMap<String, Option<Signed>> = db.rows(KEPT, |json| serde_json::from_slice(json).ok()).ok()?;
    rows.into_values().next()?
}

fn still_right(signed: Signed, key: &NodeKey, about: &AboutUs, now_s: u64) -> Option<Current> {
    let record: PeerRecord = signed.open().ok()?;
    record.validate(now_s).ok()?;
    let PeerRecord { sequence, issued_s, expires_s, .. } = record;
    let same = PeerRecord { sequence, issued_s, expires_s, ..unsigned(key, about, now_s) };
    let is_right = record == same && issued_s <= now_s && !is_due(expires_s, now_s);
    is_right.then(|| Current { signed: Arc::new(signed), expires_s, failed_s: None })
}

/// Whether there is little left of a record, or more than a whole life: that was signed before the clock was set back, and is in the future to
/// others.
fn is_due(expires_s: u64, now_s: u64) -> bool {
    !(RECORD_LIFE_S / 4..=RECORD_LIFE_S + CLOCK_SLACK_S).contains(&expires_s.saturating_sub(now_s))
}

fn unsigned(key: &NodeKey, about: &AboutUs, now_s: u64) -> PeerRecord {
    PeerRecord {
        domain: about.domain.clone(),
        node_key: key.public(),
        sequence: 0,
        issued_s: now_s,
        expires_s: now_s.saturating_add(RECORD_LIFE_S),
        endpoint: about.endpoint.clone(),
        replica_name: about.replica_name.clone(),
        versions: OUR_VERSIONS.to_vec(),
        capabilities: about.attachments.then(|| ATTACHMENTS.to_owned()).into_iter().collect(),
        contact: about.contact.clone(),
    }
}

fn renew(key: &NodeKey, about: &AboutUs, db: &Arc<StateDb>, now_s: u64) -> Result<Current, OwnRecordError> {
    let mut record = unsigned(key, about, now_s);
    record.validate(now_s)?;
    record.sequence = Counter::new(db.clone(), "peer").next(now_s)?;
    let signed = sign(key, &record)?;
    if let Err(error) = keep(db, &signed) {
        tracing::warn!(%error, "the own peer record could not be kept");
    }
    Ok(Current { signed: Arc::new(signed), expires_s: record.expires_s, failed_s: None })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::sequence::{STEP, at, is_in_time};
    use crate::identity::testing;

    fn open(record: &OwnRecord, now_s: u64) -> PeerRecord {
        let opened: PeerRecord = record.signed(now_s).open().unwrap();
        opened.validate(now_s).unwrap();
        opened
    }

    #[test]
    fn the_record_is_renewed_when_a_quarter_of_its_life_is_left() {
        let own = testing::own_record("a.test", Arc::new(testing::node_key()), testing::database(), 1000);
        let first = open(&own, 1000);
        assert_eq!(first.expires_s, 1000 + RECORD_LIFE_S);
        let late = 1000 + RECORD_LIFE_S * 3 / 4;
        assert_eq!(open(&own, late), first);
        let renewed = open(&own, late + 1);
        assert_eq!(renewed.issued_s, late + 1);
        assert!(renewed.sequence > first.sequence);
    }

    #[test]
    fn a_renewal_that_fails_is_tried_again_a_minute_later_and_not_whenever_somebody_asks() {
        let mut own = testing::own_record("a.test", Arc::new(testing::node_key()), testing::database(), 1000);
        let (first, late) = (open(&own, 1000), 1000 + RECORD_LIFE_S * 3 / 4 + 1);
        let contact = std::mem::replace(&mut own.about.contact, "x".repeat(300));
        assert_eq!(open(&own, late), first, "it cannot be renewed");
        own.about.contact = contact;
        assert_eq!(open(&own, late + RETRY_S - 1), first);
        assert_eq!(open(&own, late + RETRY_S).issued_s, late + RETRY_S);
    }

    #[test]
    fn a_record_from_the_future_is_signed_anew_once_the_clock_is_right() {
        let own = testing::own_record("a.test", Arc::new(testing::node_key()), testing::database(), 1_000_000);
        let wrong = open(&own, 1_000_000);
        assert_eq!(open(&own, 1_000_000 - CLOCK_SLACK_S), wrong, "clocks are put right by so much all the time");
        let right = open(&own, 900_000);
        assert_eq!(right.issued_s, 900_000);
        assert!(is_in_time(right.sequence, 900_000) && right.sequence % STEP != wrong.sequence % STEP);
    }

    #[test]
    fn a_restart_goes_on_with_the_same_record_as_long_as_it_is_right() {
        let (db, key) = (testing::database(), Arc::new(testing::node_key()));
        let started = |contact: &str, now_s| {
            let about = AboutUs { contact: contact.into(), ..testing::about("a.test") };
            open(&OwnRecord::new(key.clone(), about, db.clone(), now_s).unwrap(), now_s)
        };
        let first = started("", 1000);
        assert_eq!((first.sequence, started("", 1500)), (at(1000), first.clone()));
        let told = started("a@a.test", 1600);
        assert!(told.sequence > first.sequence);
        let (set_back, late) = (started("a@a.test", 1500), started("a@a.test", 1500 + RECORD_LIFE_S));
        assert!(told.sequence < set_back.sequence && set_back.sequence < late.sequence, "{set_back:?} {late:?}");
    }

    #[test]
    fn a_restart_goes_on_with_what_was_renewed_since_the_last_one() {
        let (db, key) = (testing::database(), Arc::new(testing::node_key()));
        let own = testing::own_record("a.test", key.clone(), db.clone(), 1000);
        let late = 1000 + RECORD_LIFE_S;
        let renewed = open(&own, late);
        assert_eq!(open(&testing::own_record("a.test", key, db, late + 100), late + 100), renewed);
    }

    #[test]
    fn what_this_site_can_is_in_the_record() {
        let capabilities = |attachments| {
            let about = AboutUs { attachments, ..testing::about("a.test") };
            let own = OwnRecord::new(Arc::new(testing::node_key()), about, testing::database(), 1000).unwrap();
            open(&own, 1000).capabilities
        };
        assert_eq!(capabilities(true), [ATTACHMENTS]);
        assert_eq!(capabilities(false), [""; 0]);
    }

    #[test]
    fn settings_that_peers_would_refuse_are_refused_at_the_start() {
        let about = AboutUs { contact: "x".repeat(300), ..testing::about("a.test") };
        let refused = OwnRecord::new(Arc::new(testing::node_key()), about, testing::database(), 1000);
        assert!(matches!(refused, Err(OwnRecordError::Invalid(PeerRecordError::TooLong("contact")))));
    }
}
