//! How loaded the site is, over all workers, and how much it should therefore redirect.

use std::collections::HashMap;

use p2pcdn_core::decide::{Measure, ONE_PPM, Offered, Steering, Targets, steer};
use p2pcdn_core::sync::{Counts, Report};
use serde::{Deserialize, Serialize};

/// Time constant of the moving averages in seconds: short enough for a flash crowd, long enough to even out single ticks.
const TIME_CONSTANT_S: f64 = 1.0;
/// A VM that has not reported for so long has no load.
const VM_SILENT_MS: u64 = 2_000;
/// VMs that are kept apart; further ones are not measured.
const MAX_VMS: usize = 1024;

/// Load by VM, and what the proxy's own counters say about egress.
#[derive(Debug, Default)]
pub struct LoadMeter {
    vms: HashMap<u64, Vm>,
    sent_bytes_per_s: Option<f64>,
    /// What the agent itself asks the site, per second.
    looks_per_s: f64,
    killed: bool,
    targets: Targets,
}

#[derive(Debug, Default)]
struct Vm {
    last_ms: u64,
    in_flight: u32,
    rates: Rates,
}

/// Averages per second.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Rates {
    /// Requests that reached a gate.
    pub requests: f64,
    /// Of these, those that could be redirected.
    pub eligible: f64,
    /// Bytes of their objects.
    pub eligible_bytes: f64,
    /// Redirects.
    pub redirected: f64,
    /// Bytes of their objects.
    pub redirected_bytes: f64,
}

/// What an operator is shown.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct LoadStatus {
    /// Averages over all workers.
    pub rates: Rates,
    /// Requests in flight.
    pub in_flight: u32,
    /// Bytes per second that the proxy sends, where its counters are read.
    pub sent_bytes_per_s: Option<f64>,
    /// Workers that report.
    pub workers: usize,
}

impl LoadMeter {
    /// Takes in one report; `now_ms` never goes back.
    pub fn observe(&mut self, report: &Report, now_ms: u64) {
        self.vms.retain(|_, vm| now_ms.saturating_sub(vm.last_ms) <= VM_SILENT_MS);
        if self.vms.len() >= MAX_VMS && !self.vms.contains_key(&report.vm) {
            return;
        }
        let vm = self.vms.entry(report.vm).or_default();
        vm.last_ms = now_ms;
        vm.in_flight = report.in_flight;
        vm.rates.observe(&report.counts, f64::from(report.interval_ms.max(1)) / 1000.0);
        self.targets = report.targets;
    }

    /// Takes in what the proxy sent since it was last asked.
    pub fn observe_sent(&mut self, bytes: u64, seconds: f64) {
        let sent = self.sent_bytes_per_s.get_or_insert(0.0);
        average(sent, bytes as f64, seconds);
    }

    /// Takes in how often the agent itself has asked the site within the last `seconds`: that is no load to be redirected.
    pub fn observe_looks(&mut self, looks: usize, seconds: f64) {
        average(&mut self.looks_per_s, looks as f64, seconds);
    }

    /// The proxy's counters cannot be read any more.
    pub fn forget_sent(&mut self) {
        self.sent_bytes_per_s = None;
    }

    /// Ends or resumes all redirects by the operator's word.
    pub fn set_killed(&mut self, killed: bool) {
        self.killed = killed;
    }

    /// What every worker is told.
    pub fn steering(&self, now_ms: u64) -> Steering {
        Steering { killed: self.killed, ..steer(&self.targets, &self.offered(now_ms)) }
    }

    /// Whether the site redirects, or carries more than half of what it wants to carry itself: a crowd may be there at the next tick.
    pub fn is_near_target(&self, now_ms: u64) -> bool {
        let half = Targets {
            requests_per_s: self.targets.requests_per_s.div_ceil(2),
            egress_bytes_per_s: self.targets.egress_bytes_per_s.div_ceil(2),
            in_flight: self.targets.in_flight.div_ceil(2),
            pure_balancer_at: 0.0,
        };
        steer(&half, &self.offered(now_ms)).fraction_ppm > 0
    }

    /// Bytes per second that go to visitors: by the proxy's counters where they are read, else what could have been redirected and was not.
    pub fn visitors_bytes_per_s(&self, now_ms: u64) -> f64 {
        let rates = self.rates(now_ms);
        self.sent_bytes_per_s.unwrap_or(rates.eligible_bytes - rates.redirected_bytes)
    }

    /// The share of the site's eligible load that one VM has, in millionths; an equal share where there is none.
    pub fn share_ppm(&self, vm: u64, now_ms: u64) -> u32 {
        let total: f64 = self.live(now_ms).map(|vm| vm.rates.eligible_bytes).sum();
        let own = self.vms.get(&vm).map_or(0.0, |vm| vm.rates.eligible_bytes);
        let equal = 1.0 / self.live(now_ms).count().max(1) as f64;
        // Half by load and half alike, so that a worker that load has just reached is not without a lease.
        let share = if total > 0.0 { f64::midpoint(own / total, equal) } else { equal };
        (share * f64::from(ONE_PPM)) as u32
    }

    /// What an operator is shown.
    pub fn status(&self, now_ms: u64) -> LoadStatus {
        LoadStatus {
            rates: self.rates(now_ms),
            in_flight: self.live(now_ms).map(|vm| vm.in_flight).sum(),
            sent_bytes_per_s: self.sent_bytes_per_s,
            workers: self.live(now_ms).count(),
        }
    }

    fn offered(&self, now_ms: u64) -> Offered {
        let rates = self.rates(now_ms);
        let in_flight: f64 = self.live(now_ms).map(|vm| f64::from(vm.in_flight)).sum();
        // As many requests in flight here as there would be if those redirected had stayed (Little's law, equal durations).
        let local = (rates.requests - rates.redirected).max(rates.requests / 100.0);
        let in_flight_offered = if local > 0.0 { in_flight * rates.requests / local } else { in_flight };
        let eligible_share = if rates.requests > 0.0 { rates.eligible / rates.requests } else { 0.0 };
        let egress = self.visitors_bytes_per_s(now_ms);
        Offered {
            requests_per_s: Measure {
                offered: (rates.requests - self.looks_per_s).max(rates.eligible),
                eligible: rates.eligible,
            },
            egress_bytes_per_s: Measure { offered: egress + rates.redirected_bytes, eligible: rates.eligible_bytes },
            in_flight: Measure { offered: in_flight_offered, eligible: in_flight_offered * eligible_share },
        }
    }

    fn rates(&self, now_ms: u64) -> Rates {
        self.live(now_ms).fold(Rates::default(), |sum, vm| sum.plus(&vm.rates))
    }

    fn live(&self, now_ms: u64) -> impl Iterator<Item = &Vm> {
        self.vms.values().filter(move |vm| now_ms.saturating_sub(vm.last_ms) <= VM_SILENT_MS)
    }
}

impl Rates {
    fn observe(&mut self, counts: &Counts, seconds: f64) {
        average(&mut self.requests, counts.requests as f64, seconds);
        average(&mut self.eligible, counts.eligible as f64, seconds);
        average(&mut self.eligible_bytes, counts.eligible_bytes as f64, seconds);
        average(&mut self.redirected, counts.redirected as f64, seconds);
        average(&mut self.redirected_bytes, counts.redirected_bytes as f64, seconds);
    }

    fn plus(self, other: &Self) -> Self {
        Self {
            requests: self.requests + other.requests,
            eligible: self.eligible + other.eligible,
            eligible_bytes: self.eligible_bytes + other.eligible_bytes,
            redirected: self.redirected + other.redirected,
            redirected_bytes: self.redirected_bytes + other.redirected_bytes,
        }
    }
}

/// Exponentially weighted moving average of a rate, for unequal intervals.
fn average(rate: &mut f64, amount: f64, seconds: f64) {
    if seconds > 0.0 {
        *rate += (amount / seconds - *rate) * (1.0 - (-seconds / TIME_CONSTANT_S).exp());
    }
}

#[cfg(test)]
mod tests {
    use p2pcdn_core::decide::Lease;

    use super::*;
    use crate::replicate::origin::debt::Debt;

    fn report(vm: u64, requests: u64, redirected: u64) -> Report {
        let counts = Counts {
            requests,
            eligible: requests,
            eligible_bytes: requests,
            redirected,
            redirected_bytes: redirected,
            ..Counts::default()
        };
        let targets = Targets { requests_per_s: 100, pure_balancer_at: 5.0, ..Targets::default() };
        Report { vm, interval_ms: 250, counts, targets, ..Report::default() }
    }

    /// `seconds` of a load in requests per second over two VMs that obey the fraction they are told.
    fn run(meter: &mut LoadMeter, now_ms: &mut u64, seconds: u64, per_s: f64) -> Vec<f64> {
        let mut fractions = Vec::new();
        for _ in 0..seconds * 4 {
            *now_ms += 250;
            for vm in [1, 2] {
                let fraction = f64::from(meter.steering(*now_ms).fraction_ppm) / f64::from(ONE_PPM);
                let requests = per_s / 8.0;
                meter.observe(&report(vm, requests as u64, (requests * fraction) as u64), *now_ms);
                fractions.push(fraction);
            }
        }
        fractions
    }

    #[test]
    fn the_fraction_settles_where_the_target_is_met_and_does_not_swing() {
        let (mut meter, mut now) = (LoadMeter::default(), 0);
        assert!(run(&mut meter, &mut now, 5, 80.0).iter().all(|f| *f == 0.0), "idle");
        let fractions = run(&mut meter, &mut now, 10, 400.0);
        let settled = &fractions[fractions.len() / 2..];
        assert!(settled.iter().all(|f| (f - 0.75).abs() < 0.02), "{settled:?}");
        run(&mut meter, &mut now, 5, 2000.0);
        assert!(meter.steering(now).pure_balancer);
        let after = run(&mut meter, &mut now, 10, 80.0);
        assert!(after[after.len() / 2..].iter().all(|f| *f == 0.0), "after the crowd");
    }

    #[test]
    fn a_site_is_near_its_target_from_half_of_it_on() {
        let (mut meter, mut now) = (LoadMeter::default(), 0);
        run(&mut meter, &mut now, 10, 40.0);
        assert!(!meter.is_near_target(now));
        run(&mut meter, &mut now, 10, 64.0);
        assert!(meter.is_near_target(now) && meter.steering(now).fraction_ppm == 0);
        run(&mut meter, &mut now, 10, 400.0);
        assert!(meter.is_near_target(now));
    }

    #[test]
    fn a_worker_that_is_gone_has_no_load() {
        let (mut meter, mut now) = (LoadMeter::default(), 0);
        run(&mut meter, &mut now, 5, 400.0);
        assert_eq!(meter.steering(now + VM_SILENT_MS + 1), Steering::default());
    }

    #[test]
    fn the_operators_word_is_passed_on() {
        let mut meter = LoadMeter::default();
        meter.set_killed(true);
        assert!(meter.steering(0).killed);
    }

    #[test]
    fn lease_shares_follow_the_load_and_never_exceed_the_whole() {
        let mut meter = LoadMeter::default();
        assert_eq!(meter.share_ppm(9, 0), ONE_PPM);
        meter.observe(&report(1, 300, 0), 1000);
        meter.observe(&report(2, 100, 0), 1000);
        let (a, b) = (meter.share_ppm(1, 1000), meter.share_ppm(2, 1000));
        assert!(a > b && b > 300_000 && a + b <= ONE_PPM, "{a} {b}");
    }

    /// Bytes that the workers of one proxy redirect to a holder with this lease in so many seconds; at each tick of a quarter of a second
    /// worker `vm` is asked `demand(tick, vm)` times for an object of `size` bytes.
    fn redirected(lease: u64, size: u64, seconds: u64, vms: u64, demand: impl Fn(u64, u64) -> u64) -> u64 {
        let (mut meter, mut debt) = (LoadMeter::default(), Debt::default());
        let mut workers = vec![Lease::default(); vms as usize];
        let (mut sent, mut reported) = (0, 0);
        for tick in 1..=seconds * 4 {
            // What the agent hears is a tick old.
            debt.draw(sent - std::mem::replace(&mut reported, sent));
            for (vm, worker) in (0..).zip(&mut workers) {
                let wanted = demand(tick, vm);
                let counts = Counts { eligible: wanted, eligible_bytes: wanted * size, ..Counts::default() };
                meter.observe(&Report { vm, interval_ms: 250, counts, ..Report::default() }, tick * 250);
                let share = u64::from(meter.share_ppm(vm, tick * 250));
                // As a gate does.
                match debt.granted(lease, tick * 250) * share / u64::from(ONE_PPM) {
                    0 => *worker = Lease::default(),
                    rate => worker.refill(rate, 250),
                }
                for _ in 0..wanted {
                    if worker.is_open() {
                        worker.draw(size);
                        sent += size;
                    }
                }
            }
        }
        sent
    }

    #[test]
    fn a_large_object_overdraws_the_lease_once_and_all_workers_pay_it_back_together() {
        const LEASE: u64 = 10_000_000;
        const LARGE: u64 = 64 << 20;
        let by_turns = |tick, vm| u64::from(tick % 4 == vm);
        let one_of_eight = |_, vm| u64::from(vm == 0);
        let uneven = |_, vm| [9, 0, 1, 0][vm as usize];
        /// Workers, how many of them find the lease open in the same tick, and what they are asked.
        type Pattern<'a> = (u64, u64, &'a dyn Fn(u64, u64) -> u64);
        let patterns: [Pattern<'_>; 4] = [(1, 1, &|_, _| 1), (4, 1, &by_turns), (8, 1, &one_of_eight), (4, 2, &uneven)];
        for (at, (vms, together, demand)) in patterns.into_iter().enumerate() {
            assert_eq!(redirected(LEASE, LARGE, 5, vms, demand), together * LARGE, "pattern {at}");
            for seconds in [10, 100, 1000] {
                let all = redirected(LEASE, LARGE, seconds, vms, demand);
                // A second's worth is at hand in the beginning.
                assert!(all <= LEASE * (seconds + 1) + together * LARGE, "pattern {at}: {all} bytes in {seconds} s");
            }
            // Nothing is lost.
            let all = redirected(LEASE, LARGE, 1000, vms, demand);
            assert!(all >= LEASE * 950, "pattern {at}: {all}");
        }
        // Small objects use the lease up and are never locked out.
        let all = redirected(LEASE, 20_000, 100, 4, |_, _| 1000);
        assert!((LEASE * 95..=LEASE * 102).contains(&all), "{all}");
    }

    #[test]
    fn egress_counts_what_was_redirected() {
        let mut meter = LoadMeter::default();
        let mut busy = report(1, 100, 50);
        busy.targets = Targets { egress_bytes_per_s: 100, pure_balancer_at: 5.0, ..Targets::default() };
        for step in 0..20 {
            meter.observe(&busy, step * 250);
            meter.observe_sent(50, 0.25);
        }
        assert!(meter.steering(19 * 250).fraction_ppm > 0);
        meter.forget_sent();
        assert!(meter.status(19 * 250).sent_bytes_per_s.is_none());
    }
}
