//! What a gate tells the agent and hears from it, however the two are joined.

use super::Gate;
use super::tally::Tally;
use crate::decide::{Lease, ONE_PPM};
use crate::replica_table::{ReplicaTable, TableError};
use crate::sync::{Have, Report, Update};

impl Gate {
    /// Takes out what has been counted, for a [`Gate::report`]; if that is not answered, it goes back by [`Tally::add`].
    pub fn take_tally(&mut self) -> Tally {
        std::mem::take(&mut self.tally)
    }

    /// What the agent is told of `sent`.
    pub fn report(&self, sent: &Tally, in_flight: u32, now_ms: u64) -> Report {
        Report {
            vm: self.number,
            have: self.have,
            interval_ms: u32::try_from(now_ms.saturating_sub(self.reported_ms)).unwrap_or(u32::MAX),
            counts: sent.counts,
            in_flight,
            hot: sent.hot.counts().map(|(key, (), requests)| (key, requests)).collect(),
            redirected_to: sent.redirected_to().to_vec(),
            returned: sent.returned.as_slice().to_vec(),
            contradicted: sent.contradicted.as_slice().to_vec(),
            questioned: sent.questioned.as_slice().to_vec(),
            wanted: sent.wanted_targets(),
            pages: sent.pages().to_vec(),
            refused: sent.refused.counts().collect(),
            targets: self.settings.targets,
        }
    }

    /// Takes in the answer to a report that was sent at `sent_ms`; changes nothing if it is malformed.
    ///
    /// The steering is [`Gate::steering`] from now on.
    pub fn apply(&mut self, update: Update, sent_ms: u64, now_ms: u64) -> Result<(), TableError> {
        if update.clear || update.hash_key != self.hash_key {
            let mut table = ReplicaTable::new(self.table.max_objects());
            table.apply(update.ops)?;
            self.table = table;
            self.hash_key = update.hash_key;
            self.tally.forget_table();
        } else {
            self.table.apply(update.ops)?;
        }
        self.have = update.now;
        self.is_behind = update.more;
        self.confirmed_ms = now_ms;
        self.ttl_ms = update.ttl_ms;
        self.lease_share_ppm = update.lease_share_ppm;
        self.steering = update.steering;
        self.reported_ms = sent_ms;
        self.refill_leases(now_ms);
        Ok(())
    }

    /// Lets holders' leases grow by the time that has passed.
    pub fn refill_leases(&mut self, now_ms: u64) {
        let elapsed_ms = now_ms.saturating_sub(self.refilled_ms);
        let share = u128::from(self.lease_share_ppm.min(ONE_PPM));
        for holder in self.table.holders_mut() {
            if holder.lease_bytes_per_s == 0 {
                // Nothing goes there. A debt is the agent's to remember, who hears of it from all workers.
                holder.lease = Lease::default();
                continue;
            }
            let rate = u128::from(holder.lease_bytes_per_s) * share / u128::from(ONE_PPM);
            holder.lease.refill(rate as u64, elapsed_ms);
        }
        self.refilled_ms = now_ms;
    }

    /// Whether the agent has more to tell already.
    pub fn is_behind(&self) -> bool {
        self.is_behind
    }

    /// Which state of the table this is.
    pub fn have(&self) -> Have {
        self.have
    }

    /// When the agent was last heard, in milliseconds since the Unix epoch; 0 if never.
    pub fn confirmed_ms(&self) -> u64 {
        self.confirmed_ms
    }

    /// Whether the agent has confirmed the table within its time to live.
    pub(super) fn is_current(&self, now_ms: u64) -> bool {
        let age_ms = now_ms.saturating_sub(self.confirmed_ms);
        self.has_table() && age_ms < u64::from(self.ttl_ms) && !is_ahead(self.confirmed_ms, now_ms)
    }

    /// Whether the agent has told this gate anything yet.
    pub(super) fn has_table(&self) -> bool {
        self.have.session != 0
    }
}

/// Times that set off further than this in the future are from before the clock was set back.
const CLOCK_SLACK_MS: u64 = 1000;

/// Whether a time lies so far in the future that the clock must have been set back since.
pub fn is_ahead(at_ms: u64, now_ms: u64) -> bool {
    at_ms > now_ms.saturating_add(CLOCK_SLACK_MS)
}
