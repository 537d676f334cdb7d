//! Taking replicas back: the origin hears first and its redirects stop, then the bytes go.
//!
//! What must not be served any more (damaged, expired, denied) is not from the first moment, and its visitors are sent back meanwhile.
//! What could be served still (no room any more, leaving) is, until its origin has heard and redirects on their way have arrived.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::evict::outgrown;
use super::outbox::Outbox;
use super::terms::{Departure, DepartureState, Terms};
use crate::clock::expiry_now_s;
use crate::identity::{Membership, PeerClient, PeerClientError};
use crate::replicate::messages::{Decline, MAX_BATCH, Withdrawal, WithdrawalReason};
use crate::replicate::send_withdrawals;
use crate::store::{Replica, ReplicaStore, StoreError};

/// Gives up replicas that this host can no longer vouch for, or that its operator does not want.
pub struct Withdrawer {
    store: Arc<ReplicaStore>,
    membership: Arc<Membership>,
    client: Arc<PeerClient>,
    terms: Arc<Terms>,
    outbox: Outbox,
    time_scale: f64,
    changed: watch::Sender<()>,
}

/// Replicas on their way out; if there are more, the scrub finds them again.
pub const MAX_WAITING: usize = 1024;
/// Origins that are told at the same time, so that one that does not answer holds up few others.
const MAX_GOING: usize = 16;
/// An origin that cannot be told finds out by its own probes, and is told when it answers again; bytes go after so many tries.
const TRIES: u32 = 3;
/// From an origin's confirmation until the bytes go: all workers hear within three ticks, a probe and the visitors that were redirected
/// before need as long again. Not scaled: visitors take their own time.
const SETTLE: Duration = Duration::from_secs(3);
/// What should not be here is looked for so often, beside every time that the operator says something.
const SWEEP: Duration = Duration::from_secs(60);
/// And so often by a host that leaves: what was on its way in may have come meanwhile.
const SWEEP_LEAVING: Duration = Duration::from_secs(2);
/// Origins that could not be told are tried again so often.
const RETELL: Duration = Duration::from_secs(10);

impl Withdrawer {
    /// `time_scale` is a factor on the periods of looking for what should go, and of telling again.
    pub fn new(
        store: Arc<ReplicaStore>,
        membership: Arc<Membership>,
        client: Arc<PeerClient>,
        terms: Arc<Terms>,
        outbox: Outbox,
        time_scale: f64,
    ) -> Self {
        Self { store, membership, client, terms, outbox, time_scale, changed: watch::Sender::new(()) }
    }

    /// The operator has changed the terms: what no longer agrees with them goes now.
    pub fn hurry(&self) {
        self.changed.send_replace(());
    }

    /// How far this host is in leaving.
    pub fn departure(&self) -> Departure {
        let (replicas, bytes) = (self.store.len(), self.store.usage().total_bytes);
        let state = match (self.terms.is_leaving(), replicas == 0 && bytes == 0) {
            (false, _) => DepartureState::Staying,
            (true, false) => DepartureState::Leaving,
            (true, true) => DepartureState::Left,
        };
        Departure { state, replicas, bytes, untold: self.outbox.len(), unsaved: !self.terms.is_saved() }
    }

    /// Replicas that are held, but not served any more since the operator denies them.
    pub fn denied(&self) -> usize {
        self.store.list().iter().filter(|replica| self.is_denied(replica)).count()
    }

    /// Gives up whatever is sent here, what the operator denies, and what nobody answers for, until cancelled.
    pub async fn run(self: Arc<Self>, mut doomed: mpsc::Receiver<Arc<Replica>>, cancel: CancellationToken) {
        let mut changed = self.changed.subscribe();
        let mut going = JoinSet::new();
        let mut sweep = tokio::time::interval(self.scaled(SWEEP));
        let mut batch = Vec::with_capacity(MAX_BATCH);
        loop {
            tokio::select! {
                () = cancel.cancelled() => return,
                Some(_) = going.join_next(), if !going.is_empty() => {}
                1.. = doomed.recv_many(&mut batch, MAX_BATCH), if going.len() < MAX_GOING => {}
                _ = sweep.tick() => batch = self.look(Self::unwanted).await,
                Ok(()) = changed.changed() => batch = self.look(Self::unwanted).await,
            }
            for ((origin, reason), replicas) in self.by_origin_and_reason(batch.drain(..)) {
                let withdrawer = self.clone();
                going.spawn(async move { withdrawer.give_up(&origin, &replicas, reason).await });
            }
        }
    }

    /// Gives up, in peace, what the settings have no room for, and everything if this host leaves, until cancelled.
    pub async fn make_room(self: Arc<Self>, cancel: CancellationToken) {
        let mut changed = self.changed.subscribe();
        loop {
            tokio::select! {
                () = cancel.cancelled() => return,
                period = self.let_all_go() => tokio::select! {
                    () = cancel.cancelled() => return,
                    () = tokio::time::sleep(self.scaled(period)) => {}
                    _ = changed.changed() => {}
                },
            }
        }
    }

    /// Says when to look again.
    async fn let_all_go(self: &Arc<Self>) -> Duration {
        let reason = if self.terms.is_leaving() { Decline::Leaving } else { Decline::Quota };
        let mut by_origin: BTreeMap<String, Vec<Arc<Replica>>> = BTreeMap::new();
        for replica in self.look(move |withdrawer| withdrawer.superfluous(reason)).await {
            by_origin.entry(replica.record.origin.clone()).or_default().push(replica);
        }
        let mut going = JoinSet::new();
        for (origin, replicas) in by_origin {
            while going.len() >= MAX_GOING {
                going.join_next().await;
            }
            let withdrawer = self.clone();
            going.spawn(async move { withdrawer.let_go(&origin, &replicas, reason).await });
        }
        while going.join_next().await.is_some() {}
        if reason == Decline::Leaving { SWEEP_LEAVING } else { SWEEP }
    }

    /// Tells origins what they could not be told before, and writes down what could not be written, until cancelled.
    pub async fn retell(self: Arc<Self>, cancel: CancellationToken) {
        loop {
            tokio::select! {
                () = cancel.cancelled() => return,
                () = tokio::time::sleep(self.scaled(RETELL)) => {}
            }
            self.outbox.save();
            self.terms.save();
            let mut telling = JoinSet::new();
            for origin in self.outbox.origins() {
                while telling.len() >= MAX_GOING {
                    telling.join_next().await;
                }
                let withdrawer = self.clone();
                telling.spawn(async move { withdrawer.tell_again(&origin).await });
            }
            while telling.join_next().await.is_some() {}
        }
    }

    /// Drops a replica because its origin does not want it kept; `false` if it was not there or could not be dropped.
    pub async fn forget(&self, replica: &Replica) -> bool {
        let forgotten = async {
            let retired = self.store.retire(replica).await?;
            self.store.remove_unused(&replica.record.sha256).await?;
            Ok::<_, StoreError>(retired)
        };
        forgotten.await.unwrap_or_else(|error| {
            tracing::error!(origin = %replica.record.origin, path = %replica.record.path, %error, "dropping a replica");
            false
        })
    }

    /// Goes through all replicas, of which there may be very many, where nobody has to wait.
    async fn look(
        self: &Arc<Self>,
        choose: impl FnOnce(&Self) -> Vec<Arc<Replica>> + Send + 'static,
    ) -> Vec<Arc<Replica>> {
        let withdrawer = self.clone();
        tokio::task::spawn_blocking(move || choose(&withdrawer)).await.unwrap_or_default()
    }

    fn unwanted(&self) -> Vec<Arc<Replica>> {
        self.store.list().into_iter().filter(|replica| self.is_unwanted(replica)).collect()
    }

    pub(super) fn is_unwanted(&self, replica: &Replica) -> bool {
        self.is_denied(replica)
            || replica.is_expired(expiry_now_s())
            || !self.membership.carries(&replica.record.origin)
    }

    fn is_denied(&self, replica: &Replica) -> bool {
        !self.terms.serves(&replica.record.origin, &replica.record.path, &replica.record.sha256)
    }

    fn superfluous(&self, reason: Decline) -> Vec<Arc<Replica>> {
        let replicas = self.store.list().into_iter().filter(|replica| !self.terms.is_going(replica)).collect();
        if reason == Decline::Leaving { replicas } else { outgrown(&self.terms.host, replicas) }
    }

    fn reason_of(&self, replica: &Replica) -> WithdrawalReason {
        if self.is_denied(replica) {
            WithdrawalReason::Denied
        } else if replica.is_expired(expiry_now_s()) {
            WithdrawalReason::Expired
        } else if !self.membership.carries(&replica.record.origin) {
            WithdrawalReason::Unwanted
        } else {
            WithdrawalReason::Lost
        }
    }

    fn by_origin_and_reason(
        &self,
        replicas: impl Iterator<Item = Arc<Replica>>,
    ) -> BTreeMap<(String, WithdrawalReason), Vec<Arc<Replica>>> {
        let mut groups: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for replica in replicas {
            let group = (replica.record.origin.clone(), self.reason_of(&replica));
            groups.entry(group).or_default().push(replica);
        }
        groups
    }

    /// Gives up replicas of one origin that must not be served any more.
    async fn give_up(&self, origin: &str, replicas: &[Arc<Replica>], reason: WithdrawalReason) {
        tracing::warn!(%origin, replicas = replicas.len(), %reason, "withdrawing replicas");
        let mut hears = true;
        for batch in replicas.chunks(MAX_BATCH) {
            let withdrawals = withdrawals(batch);
            self.outbox.put(&withdrawals, reason);
            for replica in batch {
                // A disk that takes nothing keeps neither this one in use nor the others from going.
                note(replica, self.store.retire(replica).await);
            }
            hears = hears && self.tell(origin, &withdrawals, reason).await;
            for replica in batch {
                note(replica, self.store.remove_unused(&replica.record.sha256).await);
            }
        }
    }

    /// Gives up replicas of one origin that are served until nobody is redirected to them any more.
    async fn let_go(&self, origin: &str, replicas: &[Arc<Replica>], decline: Decline) {
        let reason = if decline == Decline::Leaving { WithdrawalReason::Leaving } else { WithdrawalReason::Quota };
        tracing::info!(%origin, replicas = replicas.len(), %reason, "giving up replicas");
        // From here on an offer is not answered with a new acknowledgement.
        self.terms.let_go(replicas, decline);
        let mut hears = true;
        for batch in replicas.chunks(MAX_BATCH) {
            let withdrawals = withdrawals(batch);
            self.outbox.put(&withdrawals, reason);
            hears = hears && self.tell(origin, &withdrawals, reason).await;
        }
        tokio::time::sleep(SETTLE).await;
        for replica in replicas {
            // The operator may have changed his mind; the origin offers what it misses again.
            if decline == Decline::Leaving && !self.terms.is_leaving() {
                break;
            }
            note(replica, self.store.retire(replica).await);
            note(replica, self.store.remove_unused(&replica.record.sha256).await);
        }
        self.terms.settle(replicas);
    }

    /// Whether the origin has heard.
    async fn tell(&self, origin: &str, withdrawals: &[Withdrawal], reason: WithdrawalReason) -> bool {
        for attempt in 0..TRIES {
            match self.tell_once(origin, withdrawals, reason).await {
                Ok(()) => return true,
                Err(error) => tracing::info!(%origin, %error, "telling of withdrawals"),
            }
            tokio::time::sleep(Duration::from_millis(200 << attempt)).await;
        }
        false
    }

    async fn tell_again(&self, origin: &str) {
        for (reason, batch) in self.outbox.batches(origin) {
            if let Err(error) = self.tell_once(origin, &batch, reason).await {
                return tracing::debug!(%origin, %error, "telling of withdrawals");
            }
        }
    }

    /// Who is no peer any more redirects to nobody here, and copies that have come back are not withdrawn.
    async fn tell_once(
        &self,
        origin: &str,
        withdrawals: &[Withdrawal],
        reason: WithdrawalReason,
    ) -> Result<(), PeerClientError> {
        if let Some(peer) = self.membership.by_domain(origin) {
            let is_back = |withdrawal: &&Withdrawal| {
                let held = self.store.find(&withdrawal.origin, &withdrawal.path);
                let held = held.filter(|replica| replica.record.sha256 == withdrawal.sha256);
                held.is_some_and(|replica| self.terms.refuses(&replica.record).is_none())
            };
            let gone: Vec<Withdrawal> = withdrawals.iter().filter(|w| !is_back(w)).cloned().collect();
            if !gone.is_empty() {
                send_withdrawals(&self.client, &peer, gone, reason).await?;
            }
        }
        self.outbox.told(withdrawals);
        Ok(())
    }

    fn scaled(&self, period: Duration) -> Duration {
        period.mul_f64(self.time_scale).max(Duration::from_millis(50))
    }
}

fn note<T>(replica: &Replica, result: Result<T, StoreError>) {
    if let Err(error) = result {
        tracing::error!(origin = %replica.record.origin, path = %replica.record.path, %error, "giving up a replica");
    }
}

fn withdrawals(replicas: &[Arc<Replica>]) -> Vec<Withdrawal> {
    let withdrawal = |replica: &Arc<Replica>| {
        let record = &replica.record;
        Withdrawal { origin: record.origin.clone(), path: record.path.clone(), sha256: record.sha256 }
    };
    replicas.iter().map(withdrawal).collect()
}
