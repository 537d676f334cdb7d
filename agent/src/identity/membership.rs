//! The roster made durable and shared between tasks.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use p2pcdn_core::peer::{NodeKey as PublicKey, PeerRecord};
use redb::{ReadableTable, TableDefinition};
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use super::introduction::Introduction;
use super::once_per::OncePerMinute;
use super::roster::{Claim, Introduced, Peer, Roster, RosterBounds, RosterError, Standing};
use super::signed::{Signed, SignedError};
use crate::state_db::StateDb;

/// Who is a peer of this site.
///
/// Invitations and pins are on disk before they count; who merely knocked is kept in memory, so that strangers cause no writes.
pub struct Membership {
    db: Arc<StateDb>,
    roster: RwLock<Roster>,
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
}

pub(super) const PEERS: TableDefinition<&str, &[u8]> = TableDefinition::new("peers");

/// A standing as stored; records are taken from their signed form.
#[derive(Serialize, Deserialize)]
#[serde(tag = "standing", rename_all = "kebab-case", deny_unknown_fields)]
enum Stored {
    Invited,
    Pinned { signed: Signed, since_s: u64 },
    KeyChanged { signed: Signed, since_s: u64, refused: PublicKey, first_seen_s: u64 },
}

impl Membership {
    /// Reads what is stored; `own_domain` can never be a peer.
    pub fn open(db: Arc<StateDb>, own_domain: &str, bounds: RosterBounds) -> Result<Self, MembershipError> {
        let roster = RwLock::new(Roster::new(own_domain, bounds, load(&db)?));
        Ok(Self { db, roster, log: OncePerMinute::default(), changed: Notify::new() })
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

    /// Forgets a domain; true if it was known. Blocks for one durable write.
    pub fn remove(&self, domain: &str) -> Result<bool, MembershipError> {
        self.change(domain, |roster| roster.remove(domain))
    }

    /// Takes in a record that was fetched from its own domain. Blocks for one durable write if anything changed.
    pub fn introduce(&self, introduction: &Introduction, now_s: u64) -> Result<Introduced, MembershipError> {
        let Introduction { record, .. } = introduction;
        let introduced = self.change(&record.domain, |roster| roster.introduce(introduction, now_s))?;
        match introduced {
            Introduced::Pinned => tracing::info!(domain = record.domain, key = %record.node_key, "pinned a peer"),
            Introduced::RefusedKeyChanged => self.report_changed_key(record),
            Introduced::AlreadyKnown | Introduced::Pending => {}
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
        !matches!(self.standing(origin), None | Some(Standing::Pending { .. }))
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

    /// Makes one transition and stores what it changed; if that fails, the transition is undone.
    fn change<T>(&self, domain: &str, transition: impl FnOnce(&mut Roster) -> T) -> Result<T, MembershipError> {
        let mut roster = self.roster.write().unwrap_or_else(PoisonError::into_inner);
        let before = roster.get(domain).cloned();
        let outcome = transition(&mut roster);
        let after = roster.get(domain);
        let result = match (durable(before.as_ref()), durable(after)) {
            (old, new) if old != new => self.store(domain, new),
            _ => Ok(()),
        };
        if let Err(error) = result {
            roster.restore(domain, before);
            return Err(error);
        }
        Ok(outcome)
    }

    fn store(&self, domain: &str, standing: Option<&Standing>) -> Result<(), MembershipError> {
        let json = |source| MembershipError::Json { domain: domain.into(), source };
        let bytes = standing.and_then(stored).as_ref().map(serde_json::to_vec).transpose().map_err(json)?;
        let write = || -> Result<(), redb::Error> {
            let transaction = self.db.begin_write()?;
            {
                let mut table = transaction.open_table(PEERS)?;
                match bytes {
                    Some(bytes) => table.insert(domain, bytes.as_slice())?,
                    None => table.remove(domain)?,
                };
            }
            Ok(transaction.commit()?)
        };
        write().map_err(|source| MembershipError::Database(Box::new(source)))
    }
}

fn durable(standing: Option<&Standing>) -> Option<&Standing> {
    standing.filter(|standing| !matches!(standing, Standing::Pending { .. }))
}

fn stored(standing: &Standing) -> Option<Stored> {
    match standing {
        Standing::Pending { .. } => None,
        Standing::Invited => Some(Stored::Invited),
        Standing::Pinned(peer) => Some(Stored::Pinned { signed: peer.signed.clone(), since_s: peer.since_s }),
        Standing::KeyChanged { peer, refused, first_seen_s } => Some(Stored::KeyChanged {
            signed: peer.signed.clone(),
            since_s: peer.since_s,
            refused: *refused,
            first_seen_s: *first_seen_s,
        }),
    }
}

fn load(db: &StateDb) -> Result<BTreeMap<String, Standing>, MembershipError> {
    let read = || -> Result<Vec<(String, Vec<u8>)>, redb::Error> {
        let table = match db.begin_read()?.open_table(PEERS) {
            Err(redb::TableError::TableDoesNotExist(_)) => return Ok(Vec::new()),
            table => table?,
        };
        let mut rows = Vec::new();
        for row in table.iter()? {
            let (domain, json) = row?;
            rows.push((domain.value().to_owned(), json.value().to_owned()));
        }
        Ok(rows)
    };
    let rows = read().map_err(|source| MembershipError::Database(Box::new(source)))?;
    let standing = |(domain, json): (String, Vec<u8>)| match parse(&domain, &json) {
        Ok(standing) => Ok((domain, standing)),
        Err(error) => Err(error),
    };
    rows.into_iter().map(standing).collect()
}

pub(super) fn parse(domain: &str, json: &[u8]) -> Result<Standing, MembershipError> {
    let stored =
        serde_json::from_slice(json).map_err(|source| MembershipError::Json { domain: domain.into(), source })?;
    let peer = |signed: Signed, since_s| match signed.open() {
        Ok(record) => Ok(Arc::new(Peer { record, signed, since_s })),
        Err(source) => Err(MembershipError::Signed { domain: domain.into(), source }),
    };
    Ok(match stored {
        Stored::Invited => Standing::Invited,
        Stored::Pinned { signed, since_s } => Standing::Pinned(peer(signed, since_s)?),
        Stored::KeyChanged { signed, since_s, refused, first_seen_s } => {
            Standing::KeyChanged { peer: peer(signed, since_s)?, refused, first_seen_s }
        }
    })
}
