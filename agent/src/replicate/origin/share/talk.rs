//! The talk with one peer: what it need not keep any more, then what it is offered, and its lease with every answer.

use std::sync::Arc;

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
}

/// Leases are renewed this often.
const RENEW_MS: u64 = 10_000;
/// Longest pause after failures.
const MAX_PAUSE_MS: u64 = 30_000;

impl Sharer {
    /// Tells a peer what there is to tell, and notes when to talk to it again.
    pub(super) async fn talk(&self, peer: &Peer) {
        let domain = &peer.record.domain;
        let result = self.tell(peer).await;
        let now_ms = monotonic_ms();
        let mut talks = self.talks();
        let Some(talk) = talks.get_mut(domain) else { return };
        talk.running = false;
        let pause = match result {
            Ok(()) => {
                (talk.failures, talk.failing_since_ms) = (0, None);
                RENEW_MS
            }
            Err(error) => {
                tracing::debug!(peer = %domain, %error, "offering");
                talk.failures = talk.failures.saturating_add(1);
                talk.failing_since_ms.get_or_insert(now_ms);
                (500 << talk.failures.min(6)).min(MAX_PAUSE_MS)
            }
        };
        talk.next_ms = now_ms + self.scaled(pause);
    }

    async fn tell(&self, peer: &Peer) -> Result<(), PeerClientError> {
        let domain = &peer.record.domain;
        self.send_leaving(peer).await?;
        // The table has to know the host before its first acknowledgement can arrive.
        let mut is_known = self.holders.get(domain).is_some();
        let mut has_asked = false;
        // A peer that was removed meanwhile has no talk any more.
        while self.talks().contains_key(domain) {
            let batch = if is_known { self.draw(domain) } else { Vec::new() };
            if is_known && batch.is_empty() && has_asked {
                return Ok(());
            }
            let offer = Offer { records: batch.iter().map(|(drawn, object)| offered(drawn, object)).collect() };
            let answer = self.client.json(&peer.record, OFFERS_PATH, &offer, MAX_MESSAGE_BYTES).await;
            let answer = answer.inspect_err(|_| self.not_offered(domain, &batch));
            let OfferAnswer { verdicts, lease, room } = answer?;
            let now_ms = monotonic_ms();
            self.holders.granted(&peer.record, lease, now_ms);
            self.plan().set_room(domain, room, now_ms);
            if verdicts.len() != batch.len() {
                tracing::warn!(peer = %domain, "malformed answer to an offer");
                self.not_offered(domain, &batch);
                return Ok(());
            }
            for ((drawn, object), verdict) in batch.iter().zip(verdicts) {
                self.note(peer, drawn, object, verdict);
            }
            (is_known, has_asked) = (true, is_known);
        }
        Ok(())
    }

    async fn send_leaving(&self, peer: &Peer) -> Result<(), PeerClientError> {
        let origin = &self.catalogue.site().domain;
        loop {
            let leaving = self.plan().take_leaving(&peer.record.domain, monotonic_ms());
            if leaving.is_empty() {
                return Ok(());
            }
            let withdrawal = |(path, sha256): &(Arc<str>, _)| Withdrawal {
                origin: origin.clone(),
                path: path.to_string(),
                sha256: *sha256,
            };
            let sent = send_withdrawals(
                &self.client,
                peer,
                leaving.iter().map(withdrawal).collect(),
                WithdrawalReason::Unwanted,
            )
            .await;
            if let Err(error) = sent {
                self.plan().not_told(&peer.record.domain, leaving);
                return Err(error);
            }
        }
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

fn offered(drawn: &Drawn, object: &OwnObject) -> Offered {
    Offered { record: object.signed.clone(), sources: drawn.sources.clone() }
}
