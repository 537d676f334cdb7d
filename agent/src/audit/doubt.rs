//! Whether it is this site that cannot reach anybody.

use std::collections::BTreeMap;

use crate::reputation::account::Verdict;

/// What the last attempts said, one for each peer.
#[derive(Debug, Default)]
pub struct Doubt {
    last: BTreeMap<String, (u64, bool)>,
}

/// How long an attempt says something about now.
pub const WINDOW_MS: u64 = 120_000;
/// With fewer peers, their failures say nothing about this site: of two hosts, one may well be dead.
pub const MIN_PEERS: usize = 4;
/// Share of peers that fail together before this site suspects itself.
pub const MAX_FAILING: f64 = 0.3;

impl Doubt {
    /// Takes in an attempt; at most one for each of the peers is kept. Answers of any kind prove that the peer can be reached.
    pub fn note(&mut self, domain: &str, verdict: Verdict, now_ms: u64) {
        self.last.retain(|_, (at, _)| now_ms.saturating_sub(*at) < WINDOW_MS);
        self.last.insert(domain.to_owned(), (now_ms, verdict == Verdict::Unreachable));
    }

    /// So many who did not fail, those who were asked last first.
    pub fn reachable(&self, most: usize) -> Vec<String> {
        let mut reachable: Vec<_> = self.last.iter().filter(|(_, (_, fails))| !fails).collect();
        reachable.sort_by_key(|(_, (at, _))| std::cmp::Reverse(*at));
        reachable.into_iter().take(most).map(|(domain, _)| domain.clone()).collect()
    }

    /// Whether so many fail together that a control fetch has to tell whose fault it is.
    pub fn calls_for_control(&self, now_ms: u64) -> bool {
        let recent = || self.last.values().filter(|(at, _)| now_ms.saturating_sub(*at) < WINDOW_MS);
        let (peers, failing) = (recent().count(), recent().filter(|(_, fails)| *fails).count());
        peers >= MIN_PEERS && failing as f64 > MAX_FAILING * peers as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn doubt(verdicts: &[Verdict]) -> bool {
        let mut doubt = Doubt::default();
        for (at, verdict) in verdicts.iter().enumerate() {
            doubt.note(&format!("{at}.test"), *verdict, at as u64);
        }
        doubt.calls_for_control(verdicts.len() as u64)
    }

    #[test]
    fn many_failing_together_call_for_a_control() {
        use Verdict::{Good, Unreachable, WrongBytes};
        assert!(doubt(&[Unreachable, Unreachable, Good, Good]));
        assert!(!doubt(&[Unreachable, Good, Good, Good]));
        assert!(!doubt(&[WrongBytes; 8]), "whoever lies can be reached");
    }

    #[test]
    fn with_two_hosts_the_dead_one_is_not_protected() {
        assert!(!doubt(&[Verdict::Unreachable, Verdict::Good]));
        assert!(!doubt(&[Verdict::Unreachable; 3]));
    }

    #[test]
    fn what_is_past_says_nothing() {
        let mut doubt = Doubt::default();
        for at in 0..4 {
            doubt.note(&format!("{at}.test"), Verdict::Unreachable, 0);
        }
        assert!(doubt.calls_for_control(WINDOW_MS - 1) && !doubt.calls_for_control(WINDOW_MS));
    }
}
