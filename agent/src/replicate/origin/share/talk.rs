//! The talk with one peer: what it need not keep any more, then what it is offered, and its lease with every answer.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Sharer;
use crate::catalogue::OwnObject;
use crate::clock::monotonic_ms;
use crate::identity::{Peer, PeerClientError};
use crate::replicate::messages::{
    Decline, MAX_MESSAGE_BYTES, OFFERS_PATH, Offer, OfferAnswer, Offered, Verdict, Withdrawal, WithdrawalReason,
};
use crate::replicate::origin::plan::Drawn;
use crate::replicate::send_withdrawals;

/// How it went so far.
#[derive(Debug, Default)]
pub(super) struct Talk {
    pub(super) running: bool,
    pub(super) begun_ms: u64,
    pub(super) next_ms: u64,
    pub(super) failures: u32,
    pub(super) failing_since_ms: Option<u64>,
    /// Whether an answer took long the last time.
    pub(super) is_slow: bool,
}

/// The place of a peer in the order in which peers are talked to; the lowest is first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    /// Whether it failed or was slow the last time.
    pub(super) struggles: bool,
    /// Later by a pause for each failure in a row, as far as they are told apart.
    due_ms: u64,
}

/// Those of `due` that are talked to now: whoever has been due longest first, at most `room`, of whom at most `struggling` struggle. Of
/// those, each failure weighs as much as a pause of waiting: one costs no wait behind peers that never answer, nor for ever behind slow ones.
pub(super) fn in_turn<T>(mut due: Vec<(Place, T)>, room: usize, struggling: usize) -> Vec<T> {
    due.sort_by_key(|(place, _)| *place);
    // Whoever struggles is behind all others.
    let well = due.iter().take_while(|(place, _)| !place.struggles).count();
    due.truncate(room.min(well.saturating_add(struggling)));
    due.into_iter().map(|(_, peer)| peer).collect()
}

/// Leases are renewed this often.
const RENEW_MS: u64 = 10_000;
/// Longest pause after failures, before scaling.
pub(super) const MAX_PAUSE_MS: u64 = 30_000;
/// Failures in a row that are told apart.
const MAX_COUNTED_FAILURES: u32 = 6;
/// Batches of either kind in one talk; the rest waits until whoever else is due has had its turn.
const MAX_BATCHES: usize = 16;
/// A peer that takes longer for an answer is slow, and has one of each kind in a talk.
const SLOW: Duration = Duration::from_secs(5);

impl Talk {
    /// Its place where the longest pause after failures, scaled, is this long.
    pub(super) fn place(&self, max_pause_ms: u64) -> Place {
        let failures = self.failures.min(MAX_COUNTED_FAILURES);
        let due_ms = self.next_ms.saturating_add(u64::from(failures).saturating_mul(max_pause_ms));
        Place { struggles: failures > 0 || self.is_slow, due_ms }
    }
}

impl Sharer {
    /// Tells a peer what there is to tell, and notes when to talk to it again.
    pub(super) async fn talk(&self, peer: &Peer) {
        let domain = &peer.record.domain;
        let mut slowest = Duration::ZERO;
        let result = self.tell(peer, &mut slowest).await;
        let now_ms = monotonic_ms();
        let mut talks = self.talks();
        let Some(talk) = talks.get_mut(domain) else { return };
        talk.running = false;
        talk.is_slow = slowest >= SLOW;
        let pause = match result {
            Ok(()) => {
                (talk.failures, talk.failing_since_ms) = (0, None);
                RENEW_MS
            }
            Err(error) => {
                tracing::debug!(peer = %domain, %error, "offering");
                talk.failures = talk.failures.saturating_add(1);
                talk.failing_since_ms.get_or_insert(now_ms);
                (500 << talk.failures.min(MAX_COUNTED_FAILURES)).min(MAX_PAUSE_MS)
            }
        };
        talk.next_ms = now_ms + self.scaled(pause);
    }

    /// Tells what fits into one talk; notes how long the slowest answer took.
    async fn tell(&self, peer: &Peer, slowest: &mut Duration) -> Result<(), PeerClientError> {
        let domain = &peer.record.domain;
        self.send_leaving(peer, slowest).await?;
        // The table has to know the host before its first acknowledgement can arrive.
        let mut is_known = self.holders.get(domain).is_some();
        let mut has_asked = false;
        for sent in 0.. {
            // A peer that was removed meanwhile has no talk any more.
            if is_enough(sent, *slowest) || !self.talks().contains_key(domain) {
                break;
            }
            let batch = if is_known { self.draw(domain) } else { Vec::new() };
            if is_known && batch.is_empty() && has_asked {
                break;
            }
            let offer = Offer { records: batch.iter().map(|(drawn, object)| offered(drawn, object)).collect() };
            let answer = self.client.json(&peer.record, OFFERS_PATH, &offer, MAX_MESSAGE_BYTES);
            let answer = timed(answer, slowest).await;
            let answer = answer.inspect_err(|_| self.not_offered(domain, &batch));
            let OfferAnswer { verdicts, lease, room } = answer?;
            let now_ms = monotonic_ms();
            self.holders.granted(&peer.record, lease, now_ms);
            self.plan().set_room(domain, room, now_ms);
            if verdicts.len() != batch.len() {
                tracing::warn!(peer = %domain, "malformed answer to an offer");
                self.not_offered(domain, &batch);
                break;
            }
            for ((drawn, object), verdict) in batch.iter().zip(verdicts) {
                self.note(peer, drawn, object, verdict);
            }
            (is_known, has_asked) = (true, is_known);
        }
        Ok(())
    }

    async fn send_leaving(&self, peer: &Peer, slowest: &mut Duration) -> Result<(), PeerClientError> {
        let origin = &self.catalogue.site().domain;
        for sent in 0.. {
            if is_enough(sent, *slowest) {
                break;
            }
            let leaving = self.plan().take_leaving(&peer.record.domain, monotonic_ms());
            if leaving.is_empty() {
                break;
            }
            let withdrawal = |(path, sha256): &(Arc<str>, _)| Withdrawal {
                origin: origin.clone(),
                path: path.to_string(),
                sha256: *sha256,
            };
            let withdrawals = leaving.iter().map(withdrawal).collect();
            let sending = send_withdrawals(&self.client, peer, withdrawals, WithdrawalReason::Unwanted);
            if let Err(error) = timed(sending, slowest).await {
                self.plan().not_told(&peer.record.domain, leaving);
                return Err(error);
            }
        }
        Ok(())
    }

    /// What the host is to be offered now, as it is at present.
    fn draw(&self, domain: &str) -> Vec<(Drawn, Arc<OwnObject>)> {
        let now_ms = monotonic_ms();
        let drawn = self.plan().draw(domain, now_ms);
        let mut bytes = 0;
        let mut batch = Vec::with_capacity(drawn.len());
        for drawn in drawn {
            // What has changed since is drawn again once the plan has heard of it.
            let present = self.catalogue.find(&drawn.path).filter(|object| object.record.sha256 == drawn.sha256);
            bytes += present.as_ref().map_or(0, |object| object.signed.payload.len());
            match present {
                Some(object) if batch.is_empty() || bytes <= MAX_MESSAGE_BYTES / 2 => batch.push((drawn, object)),
                _ => self.plan().not_offered(domain, &drawn.path, now_ms),
            }
        }
        batch
    }

    fn not_offered(&self, domain: &str, batch: &[(Drawn, Arc<OwnObject>)]) {
        let (mut plan, now_ms) = (self.plan(), monotonic_ms());
        batch.iter().for_each(|(drawn, _)| plan.not_offered(domain, &drawn.path, now_ms));
    }

    fn note(&self, peer: &Peer, drawn: &Drawn, object: &OwnObject, verdict: Verdict) {
        let (domain, path) = (&peer.record.domain, &drawn.path);
        let reason = match verdict {
            Verdict::Held { acknowledgement } if self.acknowledged(peer, &acknowledgement) => return,
            Verdict::Held { .. } => {
                // The object may have changed while it was offered.
                tracing::info!(peer = %domain, path = %object.record.path, "acknowledgement of something else");
                Decline::Other
            }
            Verdict::Accepted => return self.plan().accepted(domain, path, monotonic_ms()),
            Verdict::Declined { reason } => {
                tracing::debug!(peer = %domain, %path, %reason, "declined");
                reason
            }
        };
        self.holders.declined(domain, reason);
        self.metrics.declined(domain, reason);
        self.plan().refused(domain, path, reason, monotonic_ms());
    }
}

/// Whether so many batches of one kind are enough for one talk.
fn is_enough(sent: usize, slowest: Duration) -> bool {
    sent >= MAX_BATCHES || (sent > 0 && slowest >= SLOW)
}

/// Notes how long an answer took if none took longer.
async fn timed<T>(answer: impl Future<Output = T>, slowest: &mut Duration) -> T {
    let begun = Instant::now();
    let answer = answer.await;
    *slowest = begun.elapsed().max(*slowest);
    answer
}

fn offered(drawn: &Drawn, object: &OwnObject) -> Offered {
    Offered { record: object.signed.clone(), sources: drawn.sources.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn well(next_ms: u64) -> Place {
        Talk { next_ms, ..Talk::default() }.place(MAX_PAUSE_MS)
    }

    fn failing(failures: u32, next_ms: u64) -> Place {
        Talk { failures, next_ms, ..Talk::default() }.place(MAX_PAUSE_MS)
    }

    fn slow(next_ms: u64) -> Place {
        Talk { next_ms, is_slow: true, ..Talk::default() }.place(MAX_PAUSE_MS)
    }

    #[test]
    fn whoever_is_due_longest_is_talked_to_first_whatever_its_name() {
        let due = vec![(well(300), "a"), (well(100), "z"), (well(200), "m")];
        assert_eq!(in_turn(due, 2, 2), ["z", "m"]);
    }

    #[test]
    fn peers_that_hang_hold_up_nobody_else() {
        let hanging = (0..24).map(|n| (failing(1 + n % 9, 0), format!("0a{n}")));
        let slow = [(slow(0), "0b".to_owned())];
        let honest = (0..3).map(|n| (well(1000 + n), format!("honest{n}")));
        let due: Vec<_> = hanging.chain(slow).chain(honest).collect();
        assert_eq!(in_turn(due.clone(), 8, 0), ["honest0", "honest1", "honest2"], "two struggle already");
        assert_eq!(in_turn(due.clone(), 8, 2), ["honest0", "honest1", "honest2", "0b", "0a0"]);
        assert_eq!(in_turn(due, 2, 2), ["honest0", "honest1"]);
    }

    #[test]
    fn one_failure_costs_no_wait_behind_peers_that_never_answer() {
        let due = vec![(failing(40, 0), "never"), (failing(9, 5), "seldom"), (failing(1, 900), "once")];
        assert_eq!(in_turn(due.clone(), 8, 1), ["once"]);
        assert_eq!(in_turn(due, 8, 2), ["once", "never"]);
    }

    #[test]
    fn waiting_outweighs_a_failure_where_slow_peers_always_have_work() {
        // Of the slow ones each talk puts off the next, though they are due at once.
        let due = |next_ms| vec![(slow(next_ms), "slow"), (slow(next_ms + 1), "slower"), (failing(1, 2_000), "once")];
        assert_eq!(in_turn(due(10_000), 8, 2), ["slow", "slower"]);
        assert_eq!(in_turn(due(2_000 + MAX_PAUSE_MS), 8, 2), ["slow", "once"]);
        assert_eq!(in_turn(due(2_001 + MAX_PAUSE_MS), 8, 2), ["once", "slow"]);
    }

    #[test]
    fn a_talk_ends_after_so_many_batches_and_with_a_slow_answer() {
        let quick = Duration::from_millis(10);
        assert!(!is_enough(0, SLOW) && is_enough(1, SLOW) && !is_enough(1, quick));
        assert!(!is_enough(MAX_BATCHES - 1, quick) && is_enough(MAX_BATCHES, quick));
    }
}
