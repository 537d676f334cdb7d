//! What accounts and gossip have to do with each other: own audits are told, warnings have hosts looked at, and proofs convict.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::Reputation;
use super::account::{Account, Cause, Membership as Joined, Verdict};
use super::book::Book;
use crate::gossip::hearsay::OwnView;
use crate::gossip::proof::Proof;
use crate::gossip::statements::LIST_PERIOD_S;
use crate::gossip::{Event, Gossip, Observation};
use crate::identity::{Membership, Peer};
use crate::replicate::origin::holders::Holders;

/// Joins the two.
pub struct Hearing {
    /// The accounts.
    pub book: Arc<Book>,
    /// What others say.
    pub gossip: Arc<Gossip>,
    /// Who is a peer.
    pub membership: Arc<Membership>,
    /// Whose weights change.
    pub holders: Arc<Holders>,
}

/// How often own observations are told, before `time_scale`.
const TELL_EVERY: Duration = Duration::from_secs(LIST_PERIOD_S);

/// How often it is looked up who is a peer.
const MEET_EVERY: Duration = Duration::from_secs(1);

impl Hearing {
    /// Acts on what gossip brings up, hands on proofs that were found here, and tells what own audits found, until cancelled.
    pub async fn run(
        self,
        mut events: mpsc::Receiver<Event>,
        mut proofs: mpsc::Receiver<Proof>,
        time_scale: f64,
        cancel: CancellationToken,
    ) {
        let period = TELL_EVERY.mul_f64(time_scale).max(Duration::from_millis(500));
        // Nothing is known yet.
        let mut tell = tokio::time::interval_at(tokio::time::Instant::now() + period, period);
        tell.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut meet = tokio::time::interval(MEET_EVERY);
        loop {
            tokio::select! {
                () = cancel.cancelled() => return,
                Some(event) = events.recv() => self.heed(event),
                Some(proof) = proofs.recv() => self.gossip.accuse(&proof),
                _ = tell.tick() => self.tell(),
                _ = meet.tick() => self.meet(),
            }
        }
    }

    /// Opens an account for every peer, and holds against it of what it was convicted before it was one.
    fn meet(&self) {
        let peers = self.membership.peers();
        let joined = |peer: &Peer| if peer.invited { Joined::Invited } else { Joined::Open };
        self.book.meet(peers.iter().map(|peer| (&*peer.record.domain, joined(peer))));
        let convicted = self.gossip.convicted();
        for peer in &peers {
            if let Some(text) = convicted.get(&peer.key()) {
                self.book.judge(|reputation, now_ms| reputation.convicted(&peer.record.domain, text, now_ms));
            }
        }
    }

    fn heed(&self, event: Event) {
        match event {
            Event::Suspected { domain } => {
                if self.book.judge(|reputation, now_ms| reputation.suspected(&domain, Cause::Hearsay, now_ms)) {
                    tracing::info!(peer = %domain, "credible peers warn of a host: looking at it more closely");
                }
            }
            Event::Convicted { domain, text } => {
                tracing::warn!(peer = %domain, "convicted by its own signatures: {text}");
                self.book.judge(|reputation, now_ms| reputation.convicted(&domain, &text, now_ms));
            }
        }
        self.holders.review();
    }

    fn tell(&self) {
        let seen = self.book.judge(|reputation, _| observations(reputation));
        if seen.is_empty() {
            return;
        }
        if let Err(error) = self.gossip.publish_observations(seen) {
            tracing::warn!(%error, "own observations cannot be told");
        }
    }
}

/// What a site says of others: what its own audits have found at each host.
pub fn observations(reputation: &Reputation) -> Vec<Observation> {
    let seen = |subject: &String| {
        let OwnView { audits, wrong, bad } = own_view(reputation.account(subject)?);
        let good = audits.saturating_sub(wrong).saturating_sub(bad);
        let [good, bad, wrong] = [good, bad, wrong].map(|count| u32::try_from(count).unwrap_or(u32::MAX));
        (audits > 0).then(|| Observation { subject: subject.clone(), good, bad, wrong })
    };
    reputation.domains().filter_map(seen).collect()
}

/// What own audits have found, as gossip counts it.
pub fn own_view(account: &Account) -> OwnView {
    let of = |verdict: Verdict| account.audits.get(verdict as usize).copied().unwrap_or_default();
    let bad = of(Verdict::Missing) + of(Verdict::Slow) + of(Verdict::Unreachable);
    OwnView { audits: account.audits.iter().sum(), wrong: of(Verdict::WrongBytes), bad }
}
