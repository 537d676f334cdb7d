//! How often this site listens to those that say hello, and asks their domains in return.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use governor::{DefaultDirectRateLimiter, DefaultKeyedRateLimiter, RateLimiter};
use p2pcdn_core::peer::NodeKey as PublicKey;

use super::introducer::backoff;
use super::neighbourhood::Network;
use crate::rate_limit::{one_in, takes};

/// How often each key may say hello: one that is pinned can have every hello written to disk, by a newer record.
pub(super) struct Knocks(DefaultKeyedRateLimiter<PublicKey>);

/// Time in which one key may say hello once, before scaling, and how often it may at once: after failures hellos come a second apart at first.
const KNOCK_PERIOD: Duration = Duration::from_secs(5);
const KNOCKS_AT_ONCE: NonZeroU32 = NonZeroU32::new(16).unwrap();

impl Knocks {
    pub(super) fn new(time_scale: f64) -> Self {
        Self(RateLimiter::keyed(one_in(KNOCK_PERIOD, time_scale).allow_burst(KNOCKS_AT_ONCE)))
    }

    pub(super) fn hears(&self, key: &PublicKey) -> bool {
        takes(&self.0, key)
    }
}

/// Dial-backs in progress and the failures of earlier ones.
pub(super) struct DialBacks {
    all: Arc<Mutex<HashMap<String, DialBack>>>,
    /// For those that nobody has invited.
    strangers: DefaultDirectRateLimiter,
    /// Of these, for those that knock from one network.
    networks: DefaultKeyedRateLimiter<Network>,
    time_scale: f64,
}

#[derive(Default)]
struct DialBack {
    running: bool,
    failures: u32,
    not_before: Option<Instant>,
}

/// Longest pause after failed dial-backs, before scaling.
const MAX_PAUSE: Duration = Duration::from_secs(60);
/// The same for strangers, whose names anybody can make up.
const MAX_STRANGER_PAUSE: Duration = Duration::from_secs(24 * 3600);
/// Time between two dial-backs to strangers, before scaling, and how many there may be at once after a time without.
const STRANGER_PERIOD: Duration = Duration::from_secs(2);
const STRANGERS_AT_ONCE: NonZeroU32 = NonZeroU32::new(16).unwrap();
/// The same for those that knock from one network: whoever makes up names takes few of the turns of others.
const NETWORK_PERIOD: Duration = Duration::from_secs(20);
const OF_NETWORK_AT_ONCE: NonZeroU32 = NonZeroU32::new(4).unwrap();
/// Domains that are remembered; of those that are not being asked, the one that may be asked first makes room.
const MAX_REMEMBERED: usize = 4096;

impl DialBacks {
    /// None yet; pauses are multiplied by `time_scale`.
    pub(super) fn new(time_scale: f64) -> Self {
        let strangers = RateLimiter::direct(one_in(STRANGER_PERIOD, time_scale).allow_burst(STRANGERS_AT_ONCE));
        let networks = RateLimiter::keyed(one_in(NETWORK_PERIOD, time_scale).allow_burst(OF_NETWORK_AT_ONCE));
        Self { all: Arc::default(), strangers, networks, time_scale }
    }

    /// The right to dial back now, unless somebody does already, the last failure was too recent, or too many strangers were asked, in all
    /// or for knocks `from` its network.
    pub(super) fn begin(&self, domain: &str, is_stranger: bool, from: Option<Network>) -> Option<Attempt> {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        let known = all.get(domain);
        if known.is_some_and(|known| known.running || known.not_before.is_some_and(|then| Instant::now() < then)) {
            return None;
        }
        if is_stranger
            && (from.is_some_and(|network| !takes(&self.networks, &network)) || self.strangers.check().is_err())
        {
            return None;
        }
        if known.is_none() && all.len() >= MAX_REMEMBERED {
            let idle = all.iter().filter(|(_, other)| !other.running).min_by_key(|(_, other)| other.not_before);
            let first = idle.map(|(domain, _)| domain.clone())?;
            all.remove(&first);
        }
        all.entry(domain.to_owned()).or_default().running = true;
        let longest = if is_stranger { MAX_STRANGER_PAUSE } else { MAX_PAUSE };
        Some(Attempt { all: self.all.clone(), domain: domain.to_owned(), longest, time_scale: self.time_scale })
    }
}

/// One dial-back; a failure unless it is told otherwise, so also when the caller goes away.
pub(super) struct Attempt {
    all: Arc<Mutex<HashMap<String, DialBack>>>,
    domain: String,
    longest: Duration,
    time_scale: f64,
}

impl Attempt {
    pub(super) fn succeeded(self) {
        self.all.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.domain);
    }

    /// It succeeded, and whoever brings the domain up again is not listened to for a while.
    pub(super) fn enough_for_now(self) {
        let not_before = Some(Instant::now() + MAX_PAUSE.mul_f64(self.time_scale));
        let all = self.all.clone();
        let mut all = all.lock().unwrap_or_else(PoisonError::into_inner);
        all.insert(self.domain.clone(), DialBack { running: false, failures: 0, not_before });
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(dial_back) = all.get_mut(&self.domain).filter(|dial_back| dial_back.running) {
            dial_back.running = false;
            dial_back.failures = dial_back.failures.saturating_add(1);
            let pause = backoff(dial_back.failures, self.longest).mul_f64(self.time_scale);
            dial_back.not_before = Some(Instant::now() + pause);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::network;

    #[test]
    fn whoever_knocks_with_invented_names_leaves_others_their_turn() {
        let dial_backs = DialBacks::new(1.0);
        let of = |ip: &str| Some(network(ip.parse().unwrap()));
        let knock = |name: String, ip: &str| dial_backs.begin(&name, true, of(ip)).is_some();
        let asked = (0..1000).filter(|n| knock(format!("{n}.test"), &format!("203.0.113.{}", n % 256))).count();
        assert!(asked <= 5, "{asked} dial-backs");
        assert!(knock("honest.test".into(), "198.51.100.1") && knock("other.test".into(), "2001:db8::1"));
        assert!(dial_backs.begin("invited.test", false, of("203.0.113.1")).is_some());
        let asked =
            (0..1000).filter(|n| knock(format!("many{n}.test"), &format!("10.{}.{}.1", n / 256, n % 256))).count();
        assert!(asked <= 16, "{asked} dial-backs in all");
    }
}
