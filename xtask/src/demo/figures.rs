//! From the generator's samples to the figures of each phase, and what is expected of them.

use std::collections::BTreeMap;

use http::uri::Authority;
use p2pcdn_tests::{
    load::{Outcome, Sample},
    tally::{Tally, tally},
};
use serde::Serialize;
use tokio::time::{Duration, Instant};

/// Requests per second that alpha is told to carry itself.
pub(super) const TARGET: u32 = 100;

/// What ends as this phase's figures: requests that were due from `start` to `end`.
pub(super) struct Window {
    pub(super) phase: &'static Phase,
    pub(super) start: Instant,
    pub(super) end: Instant,
}

/// A stretch of steady load.
pub(super) struct Phase {
    pub(super) name: &'static str,
    pub(super) offered_rps: f64,
    /// How long the load stands before its requests count for the phase.
    pub(super) settle: Duration,
    /// How long they count.
    pub(super) measure: Duration,
}

const fn phase(name: &'static str, offered_rps: f64, settle_s: u64, measure_s: u64) -> Phase {
    Phase { name, offered_rps, settle: Duration::from_secs(settle_s), measure: Duration::from_secs(measure_s) }
}

pub(super) static IDLE: Phase = phase("idle", 0.5 * TARGET as f64, 0, 8);
pub(super) static RAMP: Phase = phase("ramp", 3.0 * TARGET as f64, 3, 8);
pub(super) static EXTREME: Phase = phase("extreme", 7.0 * TARGET as f64, 3, 10);
pub(super) static HOST_KILLED: Phase = phase("host-killed", 7.0 * TARGET as f64, 0, 15);
pub(super) static RECOVERY: Phase = phase("recovery", 0.5 * TARGET as f64, 0, 12);

/// The end of the recovery in which no redirect may happen any more.
const LAST: Duration = Duration::from_secs(5);
/// How long after its death a host may be named at most.
const LONGEST_TO_DEAD: Duration = Duration::from_secs(10);

/// Everything that the demo measured.
pub(super) struct Figures {
    /// One per phase, in the order of time.
    pub(super) phases: Vec<(&'static Phase, Tally)>,
    /// Requests that belong to no phase: while replicas are placed and while a new load settles.
    pub(super) between: Tally,
    /// Of the failed requests after the kill, how many ended at the killed host.
    pub(super) killed: Killed,
    /// From the death of the host to the last redirect that named it; zero if there was none.
    pub(super) last_redirect_to_dead: Duration,
    /// Requests of the recovery's last five seconds that were redirected.
    pub(super) redirected_last: u64,
    /// How copies came to be and what that was worth; whoever measured it fills it in.
    pub(super) growth: Vec<Growth>,
}

/// One second of the demo.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct Growth {
    /// Seconds since the load began.
    pub(super) at_s: f64,
    /// The phase.
    pub(super) phase: &'static str,
    /// Copies of alpha's objects at other sites.
    pub(super) replicas: u64,
    /// The same for each object.
    pub(super) replicas_per_object: f64,
    /// Share of the bytes that alpha did not send itself.
    pub(super) offload: f64,
}

/// Failed requests that had been redirected to the killed host.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Killed {
    /// Before it died: they were in flight.
    pub(super) in_flight: u64,
    /// After it died, and before alpha's table said so.
    pub(super) redirected_later: u64,
}

/// A host's death.
pub(super) struct Death<'a> {
    pub(super) replica_name: &'a Authority,
    pub(super) at: Instant,
}

impl Figures {
    /// Sums up. `hosts` are the replica names of all who could carry something, so that one who carried nothing shows as 0.
    pub(super) fn new(
        origin: &Authority,
        hosts: &[&Authority],
        samples: &[Sample],
        windows: &[Window],
        death: &Death<'_>,
    ) -> Self {
        let in_window = |sample: &Sample, window: &Window| (window.start..window.end).contains(&sample.due);
        let phases = windows.iter().map(|window| {
            let mut tally = tally(origin, samples.iter().filter(|s| in_window(s, window)));
            for host in hosts {
                tally.by_host.entry(host.to_string()).or_default();
            }
            (window.phase, tally)
        });
        let between = samples.iter().filter(|s| !windows.iter().any(|w| in_window(s, w)));
        let mut figures = Self {
            phases: phases.collect(),
            between: tally(origin, between),
            killed: Killed::default(),
            last_redirect_to_dead: Duration::ZERO,
            redirected_last: 0,
            growth: Vec::new(),
        };
        let end = windows.iter().map(|w| w.end).max().unwrap_or(death.at);
        for sample in samples {
            figures.note(sample, death);
            let last = (end - LAST..end).contains(&sample.due);
            figures.redirected_last += u64::from(last && !sample.redirects.is_empty());
        }
        figures
    }

    fn note(&mut self, sample: &Sample, death: &Death<'_>) {
        let named = sample.redirects.iter().filter(|r| r.to == *death.replica_name);
        let Some(named_at) = named.map(|r| r.at).max() else { return };
        self.last_redirect_to_dead = self.last_redirect_to_dead.max(named_at.saturating_duration_since(death.at));
        let failed_there = matches!(&sample.outcome, Outcome::Failed { at, .. } if at == death.replica_name);
        let ended_after = sample.due + sample.took >= death.at;
        self.killed.in_flight += u64::from(failed_there && ended_after && named_at < death.at);
        self.killed.redirected_later += u64::from(failed_there && named_at >= death.at);
    }

    /// Copies at the end of a phase, for each object.
    pub(super) fn replicas_per_object(&self, phase: &Phase) -> Option<f64> {
        self.growth.iter().rfind(|growth| growth.phase == phase.name).map(|growth| growth.replicas_per_object)
    }

    /// A figure of growth at the end of the idle phase and at the end of the extreme one; 0 where nothing was measured.
    fn grows(&self, figure: impl Fn(&Growth) -> f64) -> (f64, f64) {
        let last = |phase: &Phase| self.growth.iter().rfind(|growth| growth.phase == phase.name).map_or(0.0, &figure);
        (last(&IDLE), last(&EXTREME))
    }

    /// Each expectation, and whether it holds.
    pub(super) fn expectations(&self) -> Vec<(String, bool)> {
        let by_name: BTreeMap<_, _> = self.phases.iter().map(|(phase, tally)| (phase.name, tally)).collect();
        let of = |phase: &Phase| by_name.get(phase.name).copied().cloned().unwrap_or_default();
        let (idle, ramp, extreme) = (of(&IDLE), of(&RAMP), of(&EXTREME));
        let all = || self.phases.iter().map(|(_, tally)| tally).chain([&self.between]);

        let (corrupt, stale): (u64, u64) = (all().map(|t| t.corrupt).sum(), all().map(|t| t.stale).sum());
        let failed: u64 = all().map(|t| t.failed).sum();
        let explained = self.killed.in_flight + self.killed.redirected_later;
        let share = |part: u64, tally: &Tally| part as f64 / tally.requests.max(1) as f64;
        let kept = ramp.requests.saturating_sub(ramp.redirected) as f64 / RAMP.measure.as_secs_f64();
        let (least, most) = (extreme.by_host.values().min(), extreme.by_host.values().max());
        let (least, most) = (least.copied().unwrap_or(0), most.copied().unwrap_or(0));
        let to_dead = self.last_redirect_to_dead.as_secs_f64();
        let target = f64::from(TARGET);
        let (copies, offload) = (self.grows(|growth| growth.replicas_per_object), self.grows(|growth| growth.offload));
        vec![
            (format!("every body is right: {corrupt} corrupt, {stale} stale"), corrupt + stale == 0),
            (
                format!(
                    "nothing fails but at the killed host: {failed} failed, {} of them in flight to it, {} redirected to it \
                     before its death was noticed",
                    self.killed.in_flight, self.killed.redirected_later
                ),
                failed == explained,
            ),
            (format!("idle: nothing is redirected ({})", idle.redirected), idle.requests > 0 && idle.redirected == 0),
            (
                format!("ramp: alpha keeps about what it wants to carry ({kept:.0} of {TARGET} requests/s)"),
                (0.5 * target..=1.5 * target).contains(&kept) && ramp.redirected > 0,
            ),
            (
                format!("extreme: at least 95 % is redirected ({:.1} %)", 100.0 * share(extreme.redirected, &extreme)),
                share(extreme.redirected, &extreme) >= 0.95,
            ),
            (
                format!("extreme: evenly, the least with at least 0.7 of the most ({least} and {most})"),
                least > 0 && least as f64 >= 0.7 * most as f64,
            ),
            (
                format!("from idle to extreme copies per object grow ({:.1} to {:.1})", copies.0, copies.1),
                copies.1 > copies.0,
            ),
            (
                format!(
                    "from idle to extreme offload grows ({:.0} % to {:.0} % of the bytes)",
                    100.0 * offload.0,
                    100.0 * offload.1
                ),
                offload.1 > offload.0,
            ),
            (
                format!("host-killed: the last redirect to it came {to_dead:.1} s after its death, at most 10 s"),
                self.last_redirect_to_dead <= LONGEST_TO_DEAD,
            ),
            (
                format!("recovery: nothing is redirected in the last 5 s ({})", self.redirected_last),
                self.redirected_last == 0,
            ),
        ]
    }
}

#[cfg(test)]
mod tests;
