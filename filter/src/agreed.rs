//! What the VMs of one proxy tell each other through its shared data, once per tick.

use p2pcdn_core::decide::Steering;
use p2pcdn_core::gate::exchange::is_ahead;
use p2pcdn_core::sync::{Message, decode, encode};
use serde::{Deserialize, Serialize};

use crate::host::Host;

/// Start of the shared data key; the name of the agent's cluster follows, since two sites in one proxy have an agent each.
pub const KEY: &str = "p2pcdn/1/agreed/";
/// Most VMs whose load is kept; those beyond count their own requests only.
pub const MAX_VMS: usize = 256;
/// How long a VM's load counts after it was last told: the end of what a dead VM leaves behind.
pub const LOAD_TTL_MS: u64 = 5000;
const ATTEMPTS: usize = 4;

/// The agent's last word on redirects, and when it was heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Word {
    /// How much to redirect.
    pub steering: Steering,
    /// Milliseconds since the Unix epoch; 0 if nothing has been heard.
    pub heard_ms: u64,
}

/// Requests in flight in one VM.
///
/// The alternative, one gauge that all VMs count up and down, keeps the requests of a dead VM for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Load {
    /// Number of the VM.
    pub vm: u64,
    /// Its requests in flight.
    pub in_flight: u32,
    /// When it said so, in milliseconds since the Unix epoch.
    pub at_ms: u64,
}

/// The shared value: one frame as in `p2pcdn_core::sync`, whose checksum tells torn values.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Agreed {
    /// The newest word that any VM has heard.
    pub word: Word,
    /// Loads of the VMs that serve requests.
    pub loads: Vec<Load>,
}

impl Message for Agreed {
    const KIND: u8 = 128;
}

impl Word {
    /// Takes over `other` if it is newer, or if the clock was set back since this one was heard.
    pub fn adopt(&mut self, other: Self, now_ms: u64) {
        let later = other.heard_ms > self.heard_ms || is_ahead(self.heard_ms, now_ms);
        if later && !is_ahead(other.heard_ms, now_ms) {
            *self = other;
        }
    }
}

impl Agreed {
    /// Adds what this VM knows to what is agreed, and returns the result. `load` is `None` for a VM that serves nothing.
    ///
    /// When other VMs keep writing in between, this VM's share is left out until the next tick.
    pub fn exchange<H: Host>(host: &H, key: &str, word: Word, load: Option<Load>, now_ms: u64) -> Self {
        let mut agreed = Self::default();
        for _ in 0..ATTEMPTS {
            let (bytes, cas) = host.shared(key).unwrap_or_default();
            let known: Self = decode(&bytes).unwrap_or_default();
            agreed = known.clone();
            agreed.merge(word, load, now_ms);
            if agreed == known {
                break;
            }
            let Ok(frame) = encode(&agreed) else { break };
            if host.set_shared(key, &frame, cas) {
                break;
            }
        }
        agreed
    }

    /// Requests in flight in all VMs but `vm`.
    pub fn in_flight_elsewhere(&self, vm: u64) -> u64 {
        self.loads.iter().filter(|load| load.vm != vm).map(|load| u64::from(load.in_flight)).sum()
    }

    fn merge(&mut self, word: Word, load: Option<Load>, now_ms: u64) {
        self.word.adopt(word, now_ms);
        let lasts = |at_ms: u64| !is_ahead(at_ms, now_ms) && now_ms.saturating_sub(at_ms) < LOAD_TTL_MS;
        self.loads.retain(|known| lasts(known.at_ms) && load.is_none_or(|own| own.vm != known.vm));
        if self.loads.len() < MAX_VMS {
            self.loads.extend(load);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fake::FakeHost;

    const NOW: u64 = 1_000_000;

    fn word(fraction_ppm: u32, heard_ms: u64) -> Word {
        Word { steering: Steering { fraction_ppm, ..Steering::default() }, heard_ms }
    }

    fn load(vm: u64, in_flight: u32) -> Option<Load> {
        Some(Load { vm, in_flight, at_ms: NOW })
    }

    #[test]
    fn the_newest_word_wins_and_loads_add_up() {
        let host = FakeHost::default();
        Agreed::exchange(&host, KEY, word(5, NOW), load(1, 3), NOW);
        let second = Agreed::exchange(&host, KEY, word(4, NOW - 1), load(2, 4), NOW);
        assert_eq!(second.word, word(5, NOW));
        assert_eq!((second.in_flight_elsewhere(2), second.in_flight_elsewhere(1)), (3, 4));
        let again = Agreed::exchange(&host, KEY, word(6, NOW + 1), load(1, 0), NOW + 1);
        assert_eq!((again.word, again.in_flight_elsewhere(2)), (word(6, NOW + 1), 0));
    }

    #[test]
    fn what_a_dead_vm_left_in_flight_is_forgotten() {
        let host = FakeHost::default();
        Agreed::exchange(&host, KEY, word(5, NOW), load(1, 3), NOW);
        let later = NOW + LOAD_TTL_MS;
        assert_eq!(Agreed::exchange(&host, KEY, Word::default(), None, later).in_flight_elsewhere(2), 0);
    }

    #[test]
    fn words_from_before_the_clock_was_set_back_do_not_last() {
        let host = FakeHost::default();
        Agreed::exchange(&host, KEY, word(5, NOW), load(1, 3), NOW);
        let before = NOW - 60_000;
        let agreed = Agreed::exchange(&host, KEY, word(6, before), None, before);
        assert_eq!((agreed.word, agreed.loads), (word(6, before), vec![]));
    }

    #[test]
    fn a_torn_value_is_replaced() {
        let host = FakeHost::default();
        host.set_shared(KEY, b"torn", 0);
        Agreed::exchange(&host, KEY, word(5, NOW), None, NOW);
        assert_eq!(Agreed::exchange(&host, KEY, Word::default(), None, NOW).word, word(5, NOW));
    }

    #[test]
    fn a_vm_that_knows_nothing_new_writes_nothing() {
        let host = FakeHost::default();
        Agreed::exchange(&host, KEY, Word::default(), None, NOW);
        assert_eq!(host.shared(KEY), None);
    }

    #[test]
    fn the_number_of_vms_is_bounded() {
        let host = FakeHost::default();
        for vm in 0..2 * MAX_VMS as u64 {
            Agreed::exchange(&host, KEY, Word::default(), load(vm, 1), NOW);
        }
        assert_eq!(Agreed::exchange(&host, KEY, Word::default(), None, NOW).loads.len(), MAX_VMS);
    }
}
