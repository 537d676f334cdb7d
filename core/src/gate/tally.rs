//! What a gate has seen since its last report that was answered.

use crate::eligibility::Refusal;
use crate::sync::{Counts, MAX_HOT, MAX_PAGES, MAX_RETURNED, MAX_WANTED, Redirected, Refused, Wanted};

use super::hot::Hot;

/// Counts for the next report; each part is bounded, holders by the size of the table.
#[derive(Debug, Default)]
pub struct Tally {
    /// Requests by fate.
    pub counts: Counts,
    /// Requests that stayed, by reason.
    pub refused: ByReason,
    /// Objects asked for most.
    pub hot: Hot<(), MAX_HOT>,
    /// Targets asked for most that the table does not have.
    pub wanted: Hot<String, MAX_WANTED>,
    /// Keys that clients were sent back for.
    pub returned: Keys,
    /// Keys whose origin was seen to have another version.
    pub contradicted: Keys,
    /// Keys whose origin was seen to answer otherwise.
    pub questioned: Keys,
    /// In the order of holders' numbers.
    redirected_to: Vec<Redirected>,
    pages: Vec<String>,
}

/// Different keys, at most [`MAX_RETURNED`]; further ones are dropped.
#[derive(Debug, Default)]
pub struct Keys(Vec<u64>);

impl Keys {
    /// Notes a key.
    pub fn note(&mut self, key: u64) {
        if self.0.len() < MAX_RETURNED && !self.0.contains(&key) {
            self.0.push(key);
        }
    }

    /// The keys.
    pub fn as_slice(&self) -> &[u64] {
        &self.0
    }

    fn add(&mut self, others: &Self) {
        others.0.iter().for_each(|key| self.note(*key));
    }
}

/// A number of requests for each reason to stay.
#[derive(Debug, Clone, Default)]
pub struct ByReason([u64; Refusal::ALL.len()]);

impl ByReason {
    /// Counts `n` requests.
    pub fn count(&mut self, reason: Refusal, n: u64) {
        if let Some(requests) = self.0.get_mut(reason as usize) {
            *requests = requests.saturating_add(n);
        }
    }

    /// The reasons that occurred.
    pub fn counts(&self) -> impl Iterator<Item = Refused> {
        let all = Refusal::ALL.into_iter().zip(self.0);
        all.filter(|(_, requests)| *requests > 0).map(|(reason, requests)| Refused { reason, requests })
    }
}

/// Requests since operators were last shown; a call of the proxy for each would cost more than counting here.
/// With the filter's metrics that show them.
#[derive(Debug, Default)]
pub struct Counted {
    /// `p2pcdn.requests`: requests that reached the filter.
    pub requests: u32,
    /// `p2pcdn.eligible`: requests that could have been redirected, for a fresh object in the table.
    pub eligible: u32,
    /// `p2pcdn.redirected`: requests that were.
    pub redirected: u32,
    /// `p2pcdn.would_redirect`: requests that would have been, in mode `observe`.
    pub would_redirect: u32,
    /// `p2pcdn.returned`: requests for a return URL of an object in the table.
    pub returned: u32,
    /// `p2pcdn.origin_failures`: requests for objects in the table that the origin failed to answer.
    pub origin_failures: u32,
    /// `p2pcdn.rescued`: of these, requests that were redirected instead.
    pub rescued: u32,
    /// `p2pcdn.refused.<reason>`: requests that stayed.
    pub refused: ByReason,
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

    /// Notes a page that was navigated to; beyond [`MAX_PAGES`], further ones are dropped.
    pub fn page(&mut self, path: &str) {
        if self.pages.len() < MAX_PAGES && !self.pages.iter().any(|known| known == path) {
            self.pages.push(path.into());
        }
    }

    /// Adds what a report carried that was not answered.
    pub fn add(&mut self, unanswered: &Self) {
        self.counts.add(&unanswered.counts);
        unanswered.refused.counts().for_each(|refused| self.refused.count(refused.reason, refused.requests));
        unanswered.hot.counts().for_each(|(key, (), count)| self.hot.count(key, count, || ()));
        unanswered.wanted.counts().for_each(|(key, target, count)| self.wanted.count(key, count, || target.clone()));
        unanswered.redirected_to.iter().for_each(|r| self.redirected(r.holder, r.requests, r.bytes));
        self.returned.add(&unanswered.returned);
        self.contradicted.add(&unanswered.contradicted);
        self.questioned.add(&unanswered.questioned);
        unanswered.pages.iter().for_each(|page| self.page(page));
    }

    /// Forgets what is told by keys and numbers of a table that is gone; sums and pages stay.
    pub fn forget_table(&mut self) {
        let Self { counts, refused, pages, .. } = std::mem::take(self);
        *self = Self { counts, refused, pages, ..Self::default() };
    }

    /// Redirects by holder.
    pub fn redirected_to(&self) -> &[Redirected] {
        &self.redirected_to
    }

    /// Targets asked for most that the table does not have.
    pub fn wanted_targets(&self) -> Vec<Wanted> {
        let wanted = self.wanted.counts().filter(|(_, _, requests)| *requests > 0);
        wanted.map(|(_, target, requests)| Wanted { target: target.clone(), requests }).collect()
    }

    /// Pages that were navigated to.
    pub fn pages(&self) -> &[String] {
        &self.pages
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_answered_is_carried_over() {
        let mut unanswered = Tally::default();
        unanswered.counts.requests = 3;
        unanswered.refused.count(Refusal::Query, 4);
        unanswered.hot.count(7, 2, || ());
        unanswered.wanted.count(8, 5, || "/x".into());
        unanswered.redirected(1, 1, 100);
        unanswered.returned.note(9);
        unanswered.contradicted.note(10);
        unanswered.questioned.note(11);
        unanswered.page("/");
        let mut now = Tally::default();
        now.counts.requests = 1;
        now.redirected(0, 1, 5);
        now.redirected(1, 1, 50);
        now.returned.note(9);
        now.page("/");
        now.add(&unanswered);
        assert_eq!(now.counts.requests, 4);
        assert_eq!(now.refused.counts().collect::<Vec<_>>(), [Refused { reason: Refusal::Query, requests: 4 }]);
        assert_eq!(now.hot.counts().collect::<Vec<_>>(), [(7, &(), 2)]);
        assert_eq!(now.wanted_targets(), [Wanted { target: "/x".into(), requests: 5 }]);
        let to_one = Redirected { holder: 1, requests: 2, bytes: 150 };
        assert_eq!(now.redirected_to(), [Redirected { holder: 0, requests: 1, bytes: 5 }, to_one]);
        assert_eq!((now.returned.as_slice(), now.contradicted.as_slice()), (&[9][..], &[10][..]));
        assert_eq!((now.questioned.as_slice(), now.pages()), (&[11][..], &["/".to_owned()][..]));
    }

    #[test]
    fn keys_and_pages_are_bounded() {
        let mut tally = Tally::default();
        for key in 0..10_000 {
            tally.returned.note(key);
            tally.page(&format!("/{key}"));
        }
        assert_eq!((tally.returned.as_slice().len(), tally.pages().len()), (MAX_RETURNED, MAX_PAGES));
    }
}
