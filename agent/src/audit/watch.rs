//! Whose audit is next, and what those that are under way may take; asks nobody, so that it can be tried without hosts.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::pick::Extent;
use super::schedule::{Budget, HintBudget, Traffic, poisson};
use crate::replicate::origin::holders::Copy;
use crate::reputation::Need;
use crate::reputation::account::Verdict;
use crate::reputation::formulas::Formulas;

/// What audits of all holders are owed and have taken.
#[derive(Default)]
pub struct Watch {
    peers: HashMap<String, Watched>,
    budget: Budget,
    redirected_bytes: u64,
    audited_bytes: u64,
    /// Bytes at most that audits will have taken which are under way.
    under_way_bytes: u64,
    hints: VecDeque<(String, Copy)>,
    hint_budget: HintBudget,
}

#[derive(Default)]
struct Watched {
    traffic: Traffic,
    redirects: u32,
    running: usize,
    at_once: usize,
    hinted_ms: Option<u64>,
    /// Its last audit had to wait for it.
    is_late: bool,
}

/// Audits of one peer at the same time.
const MAX_AUDITS_OF_PEER: usize = 4;
/// Hints that wait; clients can make up any number of them.
const MAX_HINTS: usize = 64;
/// A client's hint leads to an audit of one peer at most this often.
const HINT_MS: u64 = 2_000;
/// Audits that a host gets at once when visitors' browsers suspect it.
const AUDITS_OF_SUSPECT: usize = MAX_AUDITS_OF_PEER;

impl Watch {
    /// Takes in redirects to a holder.
    pub fn redirected(&mut self, domain: &str, requests: u32, bytes: u64) {
        let peer = self.peers.entry(domain.to_owned()).or_default();
        peer.redirects = peer.redirects.saturating_add(requests);
        self.redirected_bytes = self.redirected_bytes.saturating_add(bytes);
    }

    /// A client's word is about this copy at that holder.
    pub fn hinted(&mut self, domain: &str, copy: &Copy) {
        if self.hints.len() < MAX_HINTS {
            self.hints.push_back((domain.to_owned(), copy.clone()));
        }
    }

    /// Visitors' browsers suspect a holder.
    pub fn suspected(&mut self, domain: &str) {
        let peer = self.peers.entry(domain.to_owned()).or_default();
        peer.at_once = peer.at_once.max(AUDITS_OF_SUSPECT);
    }

    /// An audit has come to this verdict.
    pub fn concluded(&mut self, domain: &str, verdict: Verdict) {
        if let Some(peer) = self.peers.get_mut(domain) {
            peer.is_late = matches!(verdict, Verdict::Slow | Verdict::Unreachable);
        }
    }

    /// Forgets everybody else.
    pub fn retain(&mut self, is_known: impl Fn(&str) -> bool) {
        self.peers.retain(|domain, peer| peer.running > 0 || is_known(domain));
    }

    /// Audits to begin now, `room` at most, of those that are `holding` something, the first of them first; with the copy that a hint is
    /// about. Each takes a slot, which [`Slot::of`] gives back.
    pub fn due(
        &mut self,
        holding: &[(String, Need)],
        room: usize,
        formulas: &Formulas,
        now_ms: u64,
        mut draw: impl FnMut() -> f64,
    ) -> Vec<(String, Option<Copy>)> {
        let per_day: f64 = self.peers.values().map(|peer| peer.traffic.per_day()).sum();
        let typical = per_day / holding.len().max(1) as f64;
        let (redirected, audited) =
            (std::mem::take(&mut self.redirected_bytes), std::mem::take(&mut self.audited_bytes));
        self.budget.note(redirected, audited, formulas, now_ms);
        let has_budget = self.budget.has_room(self.under_way_bytes);
        let mut due = Vec::new();
        for (domain, need) in holding {
            let peer = self.peers.entry(domain.clone()).or_default();
            let redirects = std::mem::take(&mut peer.redirects);
            let mean = peer.traffic.step(*need, redirects, typical, has_budget, formulas, now_ms);
            if need.factor <= 0.0 {
                peer.at_once = 0;
                continue;
            }
            let at_once = (need.first as usize).saturating_sub(peer.running).max(peer.at_once);
            let wanted = (poisson(mean, &mut draw) as usize).max(at_once);
            let begun = wanted.min(peer.free()).min(room.saturating_sub(due.len()));
            // Those for which there is no slot are not lost.
            peer.at_once = peer.at_once.saturating_sub(begun);
            peer.running += begun;
            due.extend((0..begun).map(|_| (domain.clone(), None)));
        }
        for (domain, copy) in std::mem::take(&mut self.hints) {
            let Some(peer) = self.peers.get_mut(&domain) else { continue };
            let is_time = peer.hinted_ms.is_none_or(|at| now_ms.saturating_sub(at) >= HINT_MS);
            if is_time && peer.free() > 0 && due.len() < room && self.hint_budget.takes(now_ms) {
                peer.hinted_ms = Some(now_ms);
                peer.running += 1;
                due.push((domain, Some(copy)));
            }
        }
        due
    }
}

impl Watched {
    /// Audits that may begin now. Whoever lets audits wait gets one at a time: a few that answer slowly must not keep all others from being
    /// looked at.
    fn free(&self) -> usize {
        let most = if self.is_late { 1 } else { MAX_AUDITS_OF_PEER };
        most.saturating_sub(self.running)
    }
}

/// One audit's slot and the bytes that are set aside for it, given back however it ends, and be it by a panic.
pub struct Slot {
    watch: Arc<Mutex<Watch>>,
    domain: String,
    is_hinted: bool,
    reserved: u64,
    is_settled: bool,
}

impl Slot {
    /// The slot of an audit that [`Watch::due`] has named.
    pub fn of(watch: Arc<Mutex<Watch>>, domain: String, is_hinted: bool) -> Self {
        Self { watch, domain, is_hinted, reserved: 0, is_settled: false }
    }

    /// The audit is about to read so much. What hints lead to has its bytes already.
    pub fn reserve(&mut self, extent: Extent) {
        if !self.is_hinted {
            self.reserved = extent.bytes();
            lock(&self.watch).under_way_bytes += self.reserved;
        }
    }

    /// The audit took so many bytes, and will take no more.
    pub fn took(&mut self, bytes: u64) {
        if std::mem::replace(&mut self.is_settled, true) {
            return;
        }
        let mut watch = lock(&self.watch);
        if self.is_hinted {
            watch.hint_budget.took(bytes);
        } else {
            watch.under_way_bytes = watch.under_way_bytes.saturating_sub(self.reserved);
            watch.audited_bytes = watch.audited_bytes.saturating_add(bytes);
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.took(0);
        let mut watch = lock(&self.watch);
        if let Some(peer) = watch.peers.get_mut(&self.domain) {
            peer.running = peer.running.saturating_sub(1);
        }
    }
}

/// The watch, whatever became of who had it last.
pub fn lock(watch: &Mutex<Watch>) -> MutexGuard<'_, Watch> {
    watch.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use p2pcdn_core::object::Sha256;

    use super::*;
    use crate::audit::pick::HINTED_BYTES;

    const QUIET: Need = Need { clean: 5000, factor: 1.0, rests: false, first: 0 };
    const MIB: u64 = 1 << 20;

    fn holding(names: &[&str]) -> Vec<(String, Need)> {
        names.iter().map(|name| ((*name).to_owned(), QUIET)).collect()
    }

    fn copy() -> Copy {
        Copy { path: "/big.bin".into(), sha256: Sha256([1; 32]) }
    }

    /// What begins; nothing is due by chance.
    fn due(watch: &Mutex<Watch>, holding: &[(String, Need)], room: usize, now_ms: u64) -> Vec<(String, Option<Copy>)> {
        lock(watch).due(holding, room, &Formulas::default(), now_ms, || 0.0)
    }

    #[test]
    fn a_slow_host_holds_one_slot_and_others_have_theirs() {
        let with = |is_late, running| Watched { is_late, running, ..Watched::default() }.free();
        assert_eq!((with(false, 0), with(false, 3), with(false, 4)), (4, 1, 0));
        assert_eq!((with(true, 0), with(true, 1), with(true, 4)), (1, 0, 0));
    }

    #[test]
    fn a_hint_leads_to_an_audit_at_once_and_not_too_often() {
        let watch = Arc::new(Mutex::new(Watch::default()));
        let holding = holding(&["b.test"]);
        let hint = |now_ms| {
            lock(&watch).hinted("b.test", &copy());
            let begun = due(&watch, &holding, 32, now_ms);
            begun.into_iter().filter(|(domain, about)| domain == "b.test" && about.as_ref() == Some(&copy())).count()
        };
        assert_eq!([hint(1000), hint(1200), hint(2999), hint(3000)], [1, 0, 0, 1]);
        lock(&watch).hinted("stranger.test", &copy());
        assert!(due(&watch, &holding, 32, 9000).is_empty(), "who holds nothing is not asked");
    }

    #[test]
    fn made_up_returns_neither_starve_the_audits_nor_cost_much() {
        let names: Vec<String> = (0..10).map(|n| format!("{n}.test")).collect();
        let holding = holding(&names.iter().map(String::as_str).collect::<Vec<_>>());
        let watch = Arc::new(Mutex::new(Watch::default()));
        lock(&watch).redirected("0.test", 1, MIB);
        let mut taken = 0;
        for second in 0..3600 {
            names.iter().for_each(|domain| lock(&watch).hinted(domain, &copy()));
            for (domain, about) in due(&watch, &holding, 32, 1 + second * 1000) {
                if about.is_some() {
                    Slot::of(watch.clone(), domain, true).took(HINTED_BYTES);
                    taken += HINTED_BYTES;
                }
            }
        }
        assert!(taken < 80 * MIB, "{} MiB within an hour", taken / MIB);
        let watch = lock(&watch);
        assert!(watch.budget.has_room(watch.under_way_bytes) && watch.audited_bytes == 0);
    }

    #[test]
    fn a_suspects_audits_wait_for_slots() {
        let watch = Arc::new(Mutex::new(Watch::default()));
        let holding = holding(&["b.test"]);
        lock(&watch).suspected("b.test");
        let begun = [0, 1, 32, 32].map(|room| due(&watch, &holding, room, 1).len());
        assert_eq!(begun, [0, 1, 3, 0]);
        let isolated = [("b.test".to_owned(), Need { factor: 0.0, ..QUIET })];
        lock(&watch).suspected("b.test");
        assert!(due(&watch, &isolated, 32, 2).is_empty());
    }

    #[tokio::test]
    async fn an_audit_that_panics_gives_its_slot_and_its_bytes_back() {
        let watch = Arc::new(Mutex::new(Watch::default()));
        let holding = holding(&["b.test"]);
        for round in 0..10 {
            lock(&watch).suspected("b.test");
            let begun = due(&watch, &holding, 32, 1);
            assert_eq!(begun.len(), MAX_AUDITS_OF_PEER, "round {round}");
            for (domain, _) in begun {
                let mut slot = Slot::of(watch.clone(), domain, false);
                let audit = tokio::spawn(async move {
                    slot.reserve(Extent { from: 0, until: 16 * MIB });
                    slot.took(5);
                    panic!("a hostile body");
                });
                assert!(audit.await.is_err());
            }
            let watch = lock(&watch);
            // What was taken before is taken into account with every step.
            assert_eq!((watch.under_way_bytes, watch.audited_bytes), (0, 4 * 5), "round {round}");
        }
    }
}
