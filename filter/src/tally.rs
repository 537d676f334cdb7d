//! What a VM has seen since its last report that was answered.

use p2pcdn_core::sync::{Counts, MAX_RETURNED, Redirected};

use crate::hot::Hot;

/// Counts for the next report; each part is bounded, holders by the size of the table.
#[derive(Debug, Default)]
pub struct Tally {
    /// Requests by fate.
    pub counts: Counts,
    /// Objects asked for most.
    pub hot: Hot,
    /// In the order of holders' numbers.
    redirected_to: Vec<Redirected>,
    returned: Vec<u64>,
}

impl Tally {
    /// Counts redirects to a holder.
    pub fn redirected(&mut self, holder: u16, requests: u32, bytes: u64) {
        match self.redirected_to.binary_search_by_key(&holder, |r| r.holder) {
            Ok(at) => {
                if let Some(known) = self.redirected_to.get_mut(at) {
                    known.requests = known.requests.saturating_add(requests);
                    known.bytes = known.bytes.saturating_add(bytes);
                }
            }
            Err(at) => self.redirected_to.insert(at, Redirected { holder, requests, bytes }),
        }
    }

    /// Notes that a client was sent back for `key`; beyond [`MAX_RETURNED`] keys, further ones are dropped.
    pub fn returned(&mut self, key: u64) {
        if self.returned.len() < MAX_RETURNED && !self.returned.contains(&key) {
            self.returned.push(key);
        }
    }

    /// Adds what a report carried that was not answered.
    pub fn add(&mut self, unanswered: &Self) {
        self.counts.add(&unanswered.counts);
        unanswered.hot.counts().for_each(|(key, count)| self.hot.count(key, count));
        unanswered.redirected_to.iter().for_each(|r| self.redirected(r.holder, r.requests, r.bytes));
        unanswered.returned.iter().for_each(|key| self.returned(*key));
    }

    /// Forgets what is told by keys and numbers of a table that is gone; sums stay.
    pub fn forget_table(&mut self) {
        *self = Self { counts: self.counts, ..Self::default() };
    }

    /// Redirects by holder.
    pub fn redirected_to(&self) -> &[Redirected] {
        &self.redirected_to
    }

    /// Keys that clients were sent back for.
    pub fn returned_keys(&self) -> &[u64] {
        &self.returned
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_answered_is_carried_over() {
        let mut unanswered = Tally::default();
        unanswered.counts.requests = 3;
        unanswered.hot.count(7, 2);
        unanswered.redirected(1, 1, 100);
        unanswered.returned(9);
        let mut now = Tally::default();
        now.counts.requests = 1;
        now.redirected(0, 1, 5);
        now.redirected(1, 1, 50);
        now.returned(9);
        now.add(&unanswered);
        assert_eq!(now.counts.requests, 4);
        assert_eq!(now.hot.counts().collect::<Vec<_>>(), [(7, 2)]);
        let to_one = Redirected { holder: 1, requests: 2, bytes: 150 };
        assert_eq!(now.redirected_to(), [Redirected { holder: 0, requests: 1, bytes: 5 }, to_one]);
        assert_eq!(now.returned_keys(), [9]);
    }

    #[test]
    fn returned_keys_are_bounded() {
        let mut tally = Tally::default();
        (0..10_000).for_each(|key| tally.returned(key));
        assert_eq!(tally.returned_keys().len(), MAX_RETURNED);
    }
}
