//! What an operator is shown; the same as JSON and as tables.

use std::collections::BTreeMap;

use p2pcdn_core::decide::Steering;
use p2pcdn_core::object::{Class, Sha256};
use serde::{Deserialize, Serialize};

use super::LocalApi;
use crate::catalogue::OwnObject;
use crate::catalogue::stranger::LooksStatus;
use crate::clock::monotonic_ms;
use crate::identity::Standing;
use crate::load::LoadStatus;
use crate::policy::watch::PolicyStatus;
use crate::publish::TableSize;
use crate::replicate::host::terms::Departure;
use crate::replicate::messages::{Decline, WithdrawalReason};
use crate::replicate::origin::holders::Health;
use crate::telemetry::State;

/// The whole picture.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Status {
    /// Authority of the site.
    pub domain: String,
    /// Release of the agent.
    pub version: String,
    /// Load over all workers of the proxy.
    pub load: LoadStatus,
    /// How much is redirected.
    pub steering: Steering,
    /// What gates look requests up in.
    pub table: TableSize,
    /// Own objects and those of others.
    pub objects: ObjectCounts,
    /// What this site grants to those whose objects it holds.
    pub hosting: HostingStatus,
    /// What is known of the Content-Security-Policy of the site's pages.
    pub policy: PolicyStatus,
    /// Requests that stayed here since the start, by reason.
    pub refused: BTreeMap<String, u64>,
    /// Every domain that this site has to do with.
    pub peers: Vec<PeerStatus>,
}

/// Own objects and those of others.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ObjectCounts {
    /// Own objects in the catalogue.
    pub own: usize,
    /// Replicas held for others.
    pub hosted: usize,
    /// Bytes of these.
    pub hosted_bytes: u64,
    /// How far looking at the content directory as a stranger has come.
    pub looks: LooksStatus,
    /// Whether own objects that are asked for much have fewer copies than they should have, and hosts that could take them.
    pub lacks_replicas: bool,
    /// Why no more are taken in, with the remedy.
    pub trouble: Option<String>,
}

/// What this site grants to those whose objects it holds.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct HostingStatus {
    /// Bytes per second for all origins together, at most.
    pub lease_total_bytes_per_s: u64,
    /// What the site's own visitors leave of that now.
    pub lease_available_bytes_per_s: u64,
    /// Entries of the deny list.
    pub denied: usize,
    /// Whether this site leaves as a host, and how far it is.
    pub departure: Departure,
}

/// One domain.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PeerStatus {
    /// Its authority.
    pub domain: String,
    /// Where it stands.
    pub state: PeerState,
    /// Whether this site's operator has named it; if not, open membership has let it in, or it has let itself be heard of.
    pub invited: bool,
    /// The pinned key, if there is one.
    pub key: Option<Sha256>,
    /// First-hand health, once it has granted a lease.
    pub health: Option<Health>,
    /// Weight in the table, in thousandths.
    pub weight: u16,
    /// Bytes per second that it grants.
    pub lease_bytes_per_s: u64,
    /// Own objects that it holds.
    pub holds: usize,
    /// Own objects that it has declined.
    pub declined: u64,
    /// Of these, by reason.
    pub declined_for: BTreeMap<Decline, u64>,
    /// Replicas that it has withdrawn, by reason.
    pub withdrawn_for: BTreeMap<WithdrawalReason, u64>,
    /// Redirects to it since the start.
    pub redirects: u64,
    /// Bytes held for it.
    pub hosted_bytes: u64,
    /// Bytes per second granted to it.
    pub granted_bytes_per_s: u64,
    /// Bytes sent for it, as far as they are not forgotten.
    pub given_bytes: u64,
    /// Bytes for which clients were redirected to it, as far as they are not forgotten.
    pub received_bytes: u64,
    /// Where a person can be reached there, as it says itself.
    pub contact: String,
    /// What browsers are not redirected to it for, since the policy of the site's pages forbids it or is not known, or since it does
    /// not serve downloads.
    pub blocked: Vec<String>,
    /// What is wrong, or what the operator can do.
    pub note: String,
}

/// Where a domain stands with this site.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PeerState {
    /// Listed here and not met yet.
    Invited,
    /// Met, key pinned.
    Pinned,
    /// Knocked without being invited.
    Pending,
    /// Shows another key than the pinned one, which is refused.
    KeyChanged,
    /// Removed, and not let in again by open membership.
    Removed,
}

/// One own object.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ObjectStatus {
    /// Its path.
    pub path: String,
    /// Bytes.
    pub size: u64,
    /// Its class.
    pub class: Class,
    /// Digest of the present version.
    pub sha256: Sha256,
    /// Copies that it should have, as much as it is asked for and as loaded as the site is.
    pub wanted: usize,
    /// Domains of the peers that hold it.
    pub holders: Vec<String>,
}

impl LocalApi {
    pub(super) fn status(&self) -> Status {
        let now_ms = monotonic_ms();
        let (load, steering) = {
            let load = self.load();
            (load.status(now_ms), load.steering(now_ms))
        };
        let state = self.state();
        let peers = self.membership.list().into_iter().map(|(domain, _)| self.peer_status(&domain)).collect();
        Status {
            domain: self.domain.clone(),
            version: env!("CARGO_PKG_VERSION").into(),
            load,
            steering,
            table: self.board.size(),
            objects: ObjectCounts {
                own: state.own_objects,
                hosted: state.replicas,
                hosted_bytes: state.replica_bytes,
                looks: self.catalogue.as_ref().map(|catalogue| catalogue.looks().clone()).unwrap_or_default(),
                lacks_replicas: self.sharer.as_ref().is_some_and(|sharer| sharer.lacks_replicas()),
                trouble: self.store.trouble(),
            },
            hosting: HostingStatus {
                lease_total_bytes_per_s: self.terms.host.lease_total_bytes_per_s,
                lease_available_bytes_per_s: self.leases.available(),
                denied: self.terms.deny.len(),
                departure: self.departure(),
            },
            policy: self.policy.status(),
            refused: self.metrics.refusals(),
            peers,
        }
    }

    pub(super) fn state(&self) -> State {
        State {
            own_objects: self.catalogue.as_ref().map_or(0, |catalogue| catalogue.len()),
            table_objects: self.board.size().objects,
            replicas: self.store.len(),
            replica_bytes: self.store.usage().total_bytes,
            peers: self.membership.peers().len(),
            fraction_ppm: self.load().steering(monotonic_ms()).fraction_ppm,
        }
    }

    pub(super) fn objects(&self) -> Vec<ObjectStatus> {
        let objects = self.catalogue.as_ref().map(|catalogue| catalogue.list()).unwrap_or_default();
        let status = |object: &OwnObject| ObjectStatus {
            path: object.record.path.clone(),
            size: object.record.size,
            class: object.class,
            sha256: object.record.sha256,
            wanted: self.sharer.as_ref().map_or(0, |sharer| sharer.wanted(&object.record.path)),
            holders: self.board.holders_of(&object.record.path),
        };
        objects.iter().map(|object| status(object)).collect()
    }

    pub(super) fn peer_status(&self, domain: &str) -> PeerStatus {
        let standing = self.membership.standing(domain);
        let holder = self.holders.get(domain);
        let trouble = self.introducer.contact(domain).and_then(|contact| contact.last_error);
        let (state, note) = match &standing {
            None | Some(Standing::Invited) => (PeerState::Invited, trouble.unwrap_or_else(|| "not met yet".into())),
            Some(Standing::Pinned(_)) => (PeerState::Pinned, trouble.unwrap_or_default()),
            Some(Standing::Pending { .. }) => {
                (PeerState::Pending, format!("wants to be a peer; to accept: p2pcdn peer accept {domain}"))
            }
            Some(Standing::Away { .. }) => {
                (PeerState::Removed, format!("stays away; to let it in again: p2pcdn peer add {domain}"))
            }
            Some(Standing::KeyChanged { refused, .. }) => {
                let remedy = "if its operator confirms it: p2pcdn peer accept";
                (PeerState::KeyChanged, format!("shows another key, {refused}, which is refused; {remedy} {domain}"))
            }
        };
        let (refusals, balance) = (self.holders.refusals_of(domain), self.terms.ledger.balance(domain));
        let contact = match &standing {
            Some(Standing::Pending { record, .. }) => record.contact.clone(),
            standing => {
                standing.as_ref().and_then(Standing::peer).map(|p| p.record.contact.clone()).unwrap_or_default()
            }
        };
        PeerStatus {
            domain: domain.to_owned(),
            state,
            invited: match &standing {
                Some(Standing::Invited) => true,
                standing => standing.as_ref().and_then(Standing::peer).is_some_and(|peer| peer.invited),
            },
            key: standing.as_ref().and_then(Standing::peer).map(|peer| peer.key()),
            health: holder.as_ref().map(|holder| holder.health),
            weight: holder.as_ref().map_or(0, |holder| holder.health.weight()),
            lease_bytes_per_s: holder.as_ref().map_or(0, |holder| holder.lease_bytes_per_s),
            holds: self.board.held_by(domain),
            declined: refusals.declined.values().sum(),
            declined_for: refusals.declined,
            withdrawn_for: refusals.withdrawn,
            redirects: holder.as_ref().map_or(0, |holder| holder.redirects),
            hosted_bytes: self.store.usage().by_origin.remove(domain).unwrap_or(0),
            granted_bytes_per_s: self.leases.share_of(domain),
            given_bytes: balance.given,
            received_bytes: balance.received,
            contact,
            blocked: holder.as_ref().map(|_| self.policy.blocked_at(domain)).unwrap_or_default(),
            note,
        }
    }
}
