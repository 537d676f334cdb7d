//! What is kept of one host.

use super::Bounds;

/// What browsers said of one host.
pub(super) struct Record {
    /// When its counts last faded.
    pub(super) at_ms: u64,
    pub(super) checks: f64,
    pub(super) faults: [Complaints; 2],
    pub(super) state: State,
    pub(super) suspensions: u32,
    /// The last bits of the networks that made for the suspicion, which tell networks apart and say nothing of any: they do not count again.
    suspected_by: Vec<u16>,
}

pub(super) enum State {
    Watched,
    Suspected { since_ms: u64, clean: u32 },
    Suspended { until_ms: u64, excess: f64 },
}

#[derive(Clone, Copy)]
pub(super) enum Fault {
    Wrong,
    Resent,
}

#[derive(Default)]
pub(super) struct Complaints {
    pub(super) count: f64,
    /// Each that counts, with the time of its first complaint, the oldest first.
    pub(super) networks: Vec<(u64, u64)>,
}

/// Networks that are remembered to have found one host wanting in one way; beyond, the first of them is forgotten.
pub(super) const MAX_COMPLAINING: usize = 16;

impl Record {
    pub(super) fn new(now_ms: u64) -> Self {
        Self {
            at_ms: now_ms,
            checks: 0.0,
            faults: Default::default(),
            state: State::Watched,
            suspensions: 0,
            suspected_by: Vec::new(),
        }
    }

    /// There is a suspicion, by what was complained of in this way.
    pub(super) fn suspect(&mut self, fault: Fault, now_ms: u64) {
        let networks = &self.faults[fault as usize].networks;
        self.suspected_by = networks.iter().map(|(network, _)| *network as u16).collect();
        self.state = State::Suspected { since_ms: now_ms, clean: 0 };
    }

    /// After a suspension the counts are what they were, so another one takes no more than networks and audits.
    pub(super) fn resume(&mut self, now_ms: u64) {
        self.state = State::Suspected { since_ms: now_ms, clean: 0 };
        self.suspected_by.clear();
    }

    /// Once there is a suspicion, networks count only if they come one after the other, so that a burst from many is no more than one.
    pub(super) fn complain(&mut self, fault: Fault, network: u64, bounds: &Bounds, now_ms: u64) {
        let complaints = &mut self.faults[fault as usize];
        complaints.count += 1.0;
        complaints.expire(bounds.memory_ms, now_ms);
        let is_no_news = match self.state {
            State::Watched => false,
            State::Suspected { since_ms, .. } => {
                let last_ms = complaints.networks.last().map_or(since_ms, |(_, last_ms)| since_ms.max(*last_ms));
                now_ms.saturating_sub(last_ms) < bounds.apart_ms || self.suspected_by.contains(&(network as u16))
            }
            State::Suspended { .. } => true,
        };
        if !is_no_news {
            complaints.add(network, now_ms);
        }
    }

    /// Ends a suspicion that has not come to anything for too long.
    pub(super) fn lapse(&mut self, suspicion_ms: u64, now_ms: u64) {
        if let State::Suspected { since_ms, .. } = self.state
            && now_ms.saturating_sub(since_ms) > suspicion_ms
        {
            self.state = State::Watched;
            self.suspected_by.clear();
        }
    }

    /// Whether there are as many networks, and audits, as the next step takes; then it is up to the rates.
    pub(super) fn is_due(&self, fault: Fault, bounds: &Bounds) -> bool {
        let (since_ms, clean) = match self.state {
            State::Watched => (None, bounds.clean_audits),
            State::Suspected { since_ms, clean } => (Some(since_ms), clean),
            State::Suspended { .. } => return false,
        };
        let complaints = &self.faults[fault as usize];
        clean >= bounds.clean_audits && complaints.networks_since(since_ms) >= bounds.networks
    }

    pub(super) fn fade(&mut self, half_life_ms: u64, now_ms: u64) {
        let factor = (-(now_ms.saturating_sub(self.at_ms) as f64) / half_life_ms as f64).exp2();
        self.at_ms = now_ms;
        self.checks *= factor;
        self.faults.iter_mut().for_each(|fault| fault.count *= factor);
    }
}

impl Complaints {
    fn add(&mut self, network: u64, now_ms: u64) {
        if self.networks.iter().any(|(known, _)| *known == network) {
            return;
        }
        if self.networks.len() >= MAX_COMPLAINING {
            self.networks.remove(0);
        }
        self.networks.push((network, now_ms));
    }

    pub(super) fn expire(&mut self, memory_ms: u64, now_ms: u64) {
        self.networks.retain(|(_, first_ms)| now_ms.saturating_sub(*first_ms) < memory_ms);
    }

    fn networks_since(&self, since_ms: Option<u64>) -> usize {
        let counts = |(_, first_ms): &&(u64, u64)| since_ms.is_none_or(|since_ms| *first_ms > since_ms);
        self.networks.iter().filter(counts).count()
    }
}
