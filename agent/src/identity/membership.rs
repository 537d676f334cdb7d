//! The roster made durable and shared between tasks.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use p2pcdn_core::peer::{NodeKey as PublicKey, PeerRecord};
use redb::TableDefinition;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use super::introduction::Introduction;
use super::neighbourhood::Network;
use super::once_per::OncePerMinute;
use super::roster::{Claim, Introduced, Peer, Roster, RosterBounds, RosterError, Standing};
use super::rotation::{RotationError, Rotations};
use super::signed::{Signed, SignedError};
use crate::state_db::StateDb;

/// Who is a peer of this site.
///
/// Invitations and pins are on disk before they count; who merely knocked is kept in memory, so that strangers cause no writes.
pub struct Membership {
    db: Arc<StateDb>,
    roster: RwLock<Roster>,
    /// Held for the whole of a change, so that the roster's own lock need not be while the disk writes.
    changing: Mutex<()>,
    log: OncePerMinute,
    changed: Notify,
}

/// Why the membership could not be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum MembershipError {
    /// The operator asked for something impossible.
    #[error(transparent)]
    Roster(#[from] RosterError),
    /// The database failed; nothing was changed.
    #[error("storing the peers: {0}")]
    Database(Box<redb::Error>),
    /// An entry cannot be written as JSON or read back.
    #[error("the stored peer {domain} is damaged: {source}")]
    Json {
        /// The entry.
        domain: String,
        /// What is wrong.
        source: serde_json::Error,
    },
    /// The stored record of a peer no longer verifies.
    #[error("the stored peer {domain} is damaged: {source}")]
    Signed {
        /// The entry.
        domain: String,
        /// What is wrong.
        source: SignedError,
    },
    /// The agent stops; nothing was changed.
    #[error("the agent is stopping")]
    Stopping,
}

/// Why a peer's new key is refused.
#[derive(Debug, thiserror::Error)]
pub enum RotationRefused {
    /// Its old key does not vouch for it.
    #[error(transparent)]
    Rotation(#[from] RotationError),
    /// This side could not store it.
    #[error(transparent)]
    Membership(#[from] MembershipError),
}

pub(super) const PEERS: TableDefinition<&str, &[u8]> = TableDefinition::new("peers");

/// A standing as stored; records are taken from their signed form.
#[derive(Serialize, Deserialize)]
#[serde(tag = "standing", rename_all = "kebab-case", deny_unknown_fields)]
enum Stored {
    Invited,
    Pinned {
        signed: Signed,
        since_s: u64,
        /// Rows of before are all of invited ones.
        #[serde(default = "yes")]
        invited: bool,
        #[serde(default)]
        network: Option<Network>,
    },
    KeyChanged {
        signed: Signed,
        since_s: u64,
        refused: PublicKey,
        first_seen_s: u64,
        #[serde(default = "yes")]
        invited: bool,
        #[serde(default)]
        network: Option<Network>,
    },
    Away {
        since_s: u64,
    },
}

fn yes() -> bool {
    true
}

impl Membership {
    /// Reads what is stored; `own_domain` can never be a peer.
    pub fn open(db: Arc<StateDb>, own_domain: &str, bounds: RosterBounds) -> Result<Self, MembershipError> {
        let roster = RwLock::new(Roster::new(own_domain, bounds, load(&db)?));
        Ok(Self { db, roster, changing: Mutex::default(), log: OncePerMinute::default(), changed: Notify::new() })
    }

    /// Lists a domain as welcome, which survives restarts; no effect on one that is known. Blocks for one durable write.
    pub fn invite(&self, domain: &str) -> Result<(), MembershipError> {
        let news = self.change(domain, |roster| roster.invite(domain))??;
        if news {
            self.changed.notify_one();
        }
        Ok(())
    }

    /// Accepts a pending domain, or the changed key of a pinned one. Blocks for one durable write.
    pub fn accept(&self, domain: &str) -> Result<(), MembershipError> {
        let news = self.change(domain, |roster| roster.accept(domain))??;
        if news {
            tracing::info!(domain, "accepted as a peer by the operator");
            self.changed.notify_one();
        }
        Ok(())
    }

    /// Forgets a domain at `now_s`; true if it was known. Blocks for one durable write.
    pub fn remove(&self, domain: &str, now_s: u64) -> Result<bool, MembershipError> {
        self.change(domain, |roster| roster.remove(domain, now_s))
    }

    /// Takes in the record of a pinned peer whose old key has handed over to the one in it, as `rotations` show, which the domain itself has
    /// shown with the record. Blocks for one durable write.
    pub fn rotate(
        &self,
        introduction: &Introduction,
        rotations: &Rotations,
        now_s: u64,
    ) -> Result<(), RotationRefused> {
        let Introduction { record, .. } = introduction;
        let domain = &record.domain;
        let from = self.by_domain(domain).ok_or(RotationError::NoWay)?.key();
        rotations.lead(domain, &from, &record.node_key, now_s)?;
        if !self.change(domain, |roster| roster.rotate(introduction, &from))? {
            return Err(RotationError::NoWay.into());
        }
        tracing::info!(domain, key = %record.node_key, "this peer has a new key, for which its old one vouches");
        Ok(())
    }

    /// Forgets the open peers that were not met for so long that their record has ended; returns them. Blocks for a durable write each.
    /// Not at all where none has ended.
    pub fn forget_ended(&self, now_s: u64) -> Result<Vec<String>, MembershipError> {
        if !self.read(|roster| roster.has_ended(now_s)) {
            return Ok(Vec::new());
        }
        let _turn = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut roster = self.roster.write().unwrap_or_else(PoisonError::into_inner);
        let ended = roster.forget_ended(now_s);
        drop(roster);
        for domain in &ended {
            tracing::info!(domain, "an open peer has not been met for long, forgotten");
            self.store(domain, None)?;
        }
        Ok(ended)
    }

    /// Takes in a record that was fetched from its own domain. Blocks for one durable write if anything changed.
    pub fn introduce(&self, introduction: &Introduction, now_s: u64) -> Result<Introduced, MembershipError> {
        let Introduction { record, .. } = introduction;
        let introduced = self.change(&record.domain, |roster| roster.introduce(introduction, now_s))?;
        match introduced {
            Introduced::Pinned => tracing::info!(domain = record.domain, key = %record.node_key, "pinned a peer"),
            Introduced::RefusedKeyChanged => self.report_changed_key(record),
            Introduced::AlreadyKnown | Introduced::Pending | Introduced::Away | Introduced::NoRoom(_) => {}
        }
        Ok(introduced)
    }

    /// Takes in a record from its signer's own hands. Blocks for one durable write if a pinned peer's record is newer.
    pub fn claim(&self, introduction: &Introduction, now_s: u64) -> Result<Claim, MembershipError> {
        let Introduction { record, .. } = introduction;
        let claim = self.change(&record.domain, |roster| roster.claim(introduction, now_s))?;
        if claim == (Claim::Pending { new: true })
            && let Some(suppressed) = self.log.due("pending")
        {
            let domain = &record.domain;
            tracing::info!(domain, suppressed, "not invited, waits to be accepted: p2pcdn peer accept {domain}");
        }
        Ok(claim)
    }

    /// Makes a change that blocks on a thread for such, so that whoever else is served by this one need not wait for the disk.
    pub async fn blocking<T, E>(
        self: &Arc<Self>,
        change: impl FnOnce(&Self) -> Result<T, E> + Send + 'static,
    ) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<MembershipError> + Send + 'static,
    {
        let membership = self.clone();
        match tokio::task::spawn_blocking(move || change(&membership)).await {
            Ok(changed) => changed,
            Err(error) => match error.try_into_panic() {
                // Nobody knows how far it came.
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(_) => Err(MembershipError::Stopping.into()),
            },
        }
    }

    /// The pinned peer with that key, if any.
    pub fn by_key(&self, key: &PublicKey) -> Option<Arc<Peer>> {
        self.read(|roster| roster.by_key(key).cloned())
    }

    /// The pinned peer of that domain, if any.
    pub fn by_domain(&self, domain: &str) -> Option<Arc<Peer>> {
        self.read(|roster| roster.get(domain).and_then(Standing::peer).cloned())
    }

    /// Whether this site has anything to do with the origin: what was held for a former peer is no longer served.
    pub fn carries(&self, origin: &str) -> bool {
        self.standing(origin).is_some_and(|standing| standing.is_listed())
    }

    /// Where a domain stands, if anything is known of it.
    pub fn standing(&self, domain: &str) -> Option<Standing> {
        self.read(|roster| roster.get(domain).cloned())
    }

    /// Every domain and where it stands, in the order of their names.
    pub fn list(&self) -> Vec<(String, Standing)> {
        self.read(|roster| roster.iter().map(|(domain, standing)| (domain.clone(), standing.clone())).collect())
    }

    /// Every pinned peer.
    pub fn peers(&self) -> Vec<Arc<Peer>> {
        self.read(|roster| roster.iter().filter_map(|(_, standing)| standing.peer().cloned()).collect())
    }

    /// Completes when the operator has invited or accepted somebody since the last call.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    fn report_changed_key(&self, record: &PeerRecord) {
        if let Some(suppressed) = self.log.due("key changed") {
            let (domain, key) = (&record.domain, &record.node_key);
            tracing::warn!(
                domain, %key, suppressed,
                "this peer shows another key than before, refused; if its operator confirms it: p2pcdn peer accept {domain}"
            );
        }
    }

    fn read<T>(&self, look: impl FnOnce(&Roster) -> T) -> T {
        look(&self.roster.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Makes one transition and stores what it changed, which nobody sees before it is stored; if that fails, the transition is undone.
    fn change<T>(&self, domain: &str, transition: impl FnOnce(&mut Roster) -> T) -> Result<T, MembershipError> {
        let _turn = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut roster = self.roster.write().unwrap_or_else(PoisonError::into_inner);
        let before = roster.get(domain).cloned();
        let outcome = transition(&mut roster);
        let after = roster.get(domain).cloned();
        if durable(before.as_ref()) == durable(after.as_ref()) {
            return Ok(outcome);
        }
        roster.restore(domain, before);
        // Whoever reads meanwhile need not wait for the disk.
        drop(roster);
        self.store(domain, durable(after.as_ref()))?;
        self.roster.write().unwrap_or_else(PoisonError::into_inner).restore(domain, after);
        Ok(outcome)
    }

    fn store(&self, domain: &str, standing: Option<&Standing>) -> Result<(), MembershipError> {
        let json = |source| MembershipError::Json { domain: domain.into(), source };
        let bytes = standing.and_then(stored).as_ref().map(serde_json::to_vec).transpose().map_err(json)?;
        let change = |table: &mut redb::Table<'_, &'static str, &'static [u8]>| {
            match &bytes {
                Some(bytes) => table.insert(domain, bytes.as_slice()),
                None => table.remove(domain),
            }
            .map(drop)
        };
        self.db.change(PEERS, change).map_err(|source| MembershipError::Database(Box::new(source)))
    }
}

fn durable(standing: Option<&Standing>) -> Option<&Standing> {
    standing.filter(|standing| !matches!(standing, Standing::Pending { .. }))
}

fn stored(standing: &Standing) -> Option<Stored> {
    match standing {
        Standing::Pending { .. } => None,
        Standing::Invited => Some(Stored::Invited),
        Standing::Pinned(peer) => Some(Stored::Pinned {
            signed: peer.signed.clone(),
            since_s: peer.since_s,
            invited: peer.invited,
            network: peer.network,
        }),
        Standing::KeyChanged { peer, refused, first_seen_s } => Some(Stored::KeyChanged {
            signed: peer.signed.clone(),
            since_s: peer.since_s,
            refused: *refused,
            first_seen_s: *first_seen_s,
            invited: peer.invited,
            network: peer.network,
        }),
        Standing::Away { since_s } => Some(Stored::Away { since_s: *since_s }),
    }
}

fn load(db: &StateDb) -> Result<BTreeMap<String, Standing>, MembershipError> {
    let rows: Result<Vec<(String, Vec<u8>)>, _> = db.rows(PEERS, <[u8]>::to_vec);
    let rows = rows.map_err(|source| MembershipError::Database(Box::new(source)))?;
    let standing = |(domain, json): (String, Vec<u8>)| match parse(&domain, &json) {
        Ok(standing) => Ok((domain, standing)),
        Err(error) => Err(error),
    };
    rows.into_iter().map(standing).collect()
}

pub(super) fn parse(domain: &str, json: &[u8]) -> Result<Standing, MembershipError> {
    let stored =
        serde_json::from_slice(json).map_err(|source| MembershipError::Json { domain: domain.into(), source })?;
    let peer = |signed: Signed, since_s, invited, network| match signed.open() {
        Ok(record) => Ok(Arc::new(Peer { record, signed, since_s, invited, network })),
        Err(source) => Err(MembershipError::Signed { domain: domain.into(), source }),
    };
    Ok(match stored {
        Stored::Invited => Standing::Invited,
        Stored::Pinned { signed, since_s, invited, network } => {
            Standing::Pinned(peer(signed, since_s, invited, network)?)
        }
        Stored::KeyChanged { signed, since_s, refused, first_seen_s, invited, network } => {
            Standing::KeyChanged { peer: peer(signed, since_s, invited, network)?, refused, first_seen_s }
        }
        Stored::Away { since_s } => Standing::Away { since_s },
    })
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::sync_channel;
    use std::time::{Duration, Instant};

    use super::*;
    use crate::identity::{sign, testing};

    #[test]
    fn readers_do_not_wait_for_the_disk_and_see_what_is_stored() {
        let db = testing::database();
        let membership = Arc::new(Membership::open(db.clone(), "own.test", RosterBounds::default()).unwrap());
        // As long as this is open, nobody else's write begins.
        let busy = db.begin_write().unwrap();
        let inviting = {
            let membership = membership.clone();
            std::thread::spawn(move || membership.invite("a.test"))
        };
        let begun = Instant::now();
        // Held for the whole of the change, so that it is under way by then.
        while membership.changing.try_lock().is_ok() {
            assert!(begun.elapsed() < Duration::from_secs(20) && !inviting.is_finished());
            std::thread::sleep(Duration::from_millis(1));
        }
        for _ in 0..20 {
            let (seen, sees) = sync_channel(1);
            let membership = membership.clone();
            std::thread::spawn(move || seen.send(membership.standing("a.test")));
            assert_eq!(sees.recv_timeout(Duration::from_secs(20)), Ok(None), "not on disk yet");
            std::thread::sleep(Duration::from_millis(5));
        }
        busy.abort().unwrap();
        inviting.join().unwrap().unwrap();
        assert_eq!(membership.standing("a.test"), Some(Standing::Invited));
        let stored = Membership::open(db, "own.test", RosterBounds::default()).unwrap();
        assert_eq!(stored.standing("a.test"), Some(Standing::Invited));
    }

    #[tokio::test]
    async fn a_change_that_panics_is_not_said_to_have_changed_nothing() {
        let membership = Arc::new(Membership::open(testing::database(), "own.test", RosterBounds::default()).unwrap());
        let broken = tokio::spawn(async move {
            membership.blocking(|_| -> Result<(), MembershipError> { panic!("a defect") }).await
        });
        assert!(broken.await.unwrap_err().is_panic());
    }

    #[test]
    fn where_no_peer_has_ended_nobody_waits_for_a_write_under_way() {
        let membership = Membership::open(testing::database(), "own.test", RosterBounds::default()).unwrap();
        membership.invite("a.test").unwrap();
        let membership = Arc::new(membership);
        let writing = membership.changing.lock().unwrap();
        let (done, is_done) = sync_channel(1);
        let other = membership.clone();
        std::thread::spawn(move || done.send(other.forget_ended(u64::MAX).unwrap()));
        assert_eq!(is_done.recv_timeout(Duration::from_secs(20)), Ok(vec![]));
        drop(writing);
    }

    #[test]
    fn rows_of_before_are_read_as_those_of_invited_peers() {
        let key = testing::node_key();
        let signed = sign(&key, &testing::peer_record("a.test", key.public(), 5)).unwrap();
        let old = serde_json::json!({ "standing": "pinned", "signed": signed, "since_s": 7 });
        let Standing::Pinned(peer) = parse("a.test", old.to_string().as_bytes()).unwrap() else { panic!() };
        assert!(peer.invited && peer.network.is_none() && peer.since_s == 7);
        assert_eq!(parse("a.test", br#"{"standing":"invited"}"#).unwrap(), Standing::Invited);
    }

    #[test]
    fn what_is_stored_is_read_again() {
        let key = testing::node_key();
        let record = testing::peer_record("a.test", key.public(), 5);
        let network = Some(crate::identity::network("192.0.2.1".parse().unwrap()));
        let signed = sign(&key, &record).unwrap();
        let peer = Arc::new(Peer { record, signed, since_s: 7, invited: false, network });
        for standing in [
            Standing::Pinned(peer.clone()),
            Standing::KeyChanged { peer, refused: key.public(), first_seen_s: 3 },
            Standing::Away { since_s: 3 },
        ] {
            let json = serde_json::to_vec(&stored(&standing).unwrap()).unwrap();
            assert_eq!(parse("a.test", &json).unwrap(), standing);
        }
    }
}
