//! Whether to redirect, and to whom.

use serde::{Deserialize, Serialize};

/// One, in the millionths that fractions and draws are counted in.
pub const ONE_PPM: u32 = 1_000_000;

/// What the site wants to carry itself; 0 means no target for that measure.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Targets {
    /// Requests per second.
    pub requests_per_s: u32,
    /// Bytes per second sent to clients.
    pub egress_bytes_per_s: u64,
    /// Requests in flight.
    pub in_flight: u32,
    /// Multiple of a target beyond which everything eligible is redirected.
    pub pure_balancer_at: f32,
}

/// One measure of load over all workers; what was redirected counts as offered, or the fraction would oscillate.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Measure {
    /// All of it, in the unit of its target.
    pub offered: f64,
    /// The part that could be redirected.
    pub eligible: f64,
}

/// Load over all workers.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Offered {
    /// Requests per second.
    pub requests_per_s: Measure,
    /// Bytes per second.
    pub egress_bytes_per_s: Measure,
    /// Requests in flight.
    pub in_flight: Measure,
}

/// How much to redirect, as every worker is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Steering {
    /// Share of eligible requests to redirect, in millionths.
    pub fraction_ppm: u32,
    /// The site is a pure load balancer: holders take turns.
    pub pure_balancer: bool,
    /// Redirect nothing, whatever else is said.
    pub killed: bool,
}

/// The share of eligible requests to redirect: `clamp((offered - target) / eligible, 0, 1)` for the tightest measure, and all of
/// them once any measure exceeds `pure_balancer_at` times its target.
pub fn steer(targets: &Targets, offered: &Offered) -> Steering {
    let measures = [
        (f64::from(targets.requests_per_s), offered.requests_per_s),
        (targets.egress_bytes_per_s as f64, offered.egress_bytes_per_s),
        (f64::from(targets.in_flight), offered.in_flight),
    ];
    let mut steering = Steering::default();
    for (target, measure) in measures.into_iter().filter(|(target, _)| *target > 0.0) {
        let excess = measure.offered - target;
        if excess <= 0.0 || measure.eligible <= 0.0 {
            continue;
        }
        let share = (excess / measure.eligible).clamp(0.0, 1.0);
        steering.fraction_ppm = steering.fraction_ppm.max((share * f64::from(ONE_PPM)) as u32);
        if targets.pure_balancer_at > 0.0 && measure.offered > f64::from(targets.pure_balancer_at) * target {
            steering.pure_balancer = true;
            steering.fraction_ppm = ONE_PPM;
        }
    }
    steering
}

/// Whether the proxy has more requests in flight than `limit`; 0 means none.
pub fn is_full(in_flight: u64, limit: u32) -> bool {
    limit > 0 && in_flight > u64::from(limit)
}

/// Whether an eligible request for a fresh object leaves this site: at once from a full proxy, else by a draw that is uniform in
/// `0..ONE_PPM`.
pub fn leaves(steering: &Steering, is_full: bool, draw_ppm: u32) -> bool {
    !steering.killed && (is_full || draw_ppm < steering.fraction_ppm)
}

/// What a worker may still send to one holder: a bucket of bytes that fills at the lease's rate and may be overdrawn once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Lease {
    balance: i64,
}

impl Lease {
    /// A lease nothing has been drawn from yet, with `rate` bytes at hand.
    pub fn full(rate: u64) -> Self {
        Self { balance: i64::try_from(rate).unwrap_or(i64::MAX) }
    }

    /// Lets `elapsed_ms` pass at `rate` bytes per second; never holds more than one second's worth.
    pub fn refill(&mut self, rate: u64, elapsed_ms: u64) {
        let rate = i64::try_from(rate).unwrap_or(i64::MAX);
        let elapsed_ms = i64::try_from(elapsed_ms).unwrap_or(i64::MAX);
        self.balance = self.balance.saturating_add(rate.saturating_mul(elapsed_ms) / 1000).min(rate);
    }

    /// Whether anything may be sent.
    pub fn is_open(&self) -> bool {
        self.balance > 0
    }

    /// Bytes that were drawn beyond what there was.
    pub fn debt(&self) -> u64 {
        self.balance.min(0).unsigned_abs()
    }

    /// Takes back what was drawn and then not sent; the next refill cuts off what exceeds one second's worth.
    pub fn give_back(&mut self, bytes: u64) {
        self.balance = self.balance.saturating_add(i64::try_from(bytes).unwrap_or(i64::MAX));
    }

    /// Takes `bytes`; may leave a debt, which is paid back before the lease is open again.
    pub fn draw(&mut self, bytes: u64) {
        self.balance = self.balance.saturating_sub(i64::try_from(bytes).unwrap_or(i64::MAX));
    }
}

/// A holder that could be chosen now: it has the object, its weight is positive and its lease is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate {
    /// Number in the table.
    pub holder: u16,
    /// 1 to 1000.
    pub weight: u16,
    /// Has yet to prove itself.
    pub newcomer: bool,
}

/// What newcomers get together of all redirects, in millionths.
pub const NEWCOMERS_PPM: u32 = 100_000;

/// Chooses a holder, or none where the caps leave the request to the origin.
///
/// In a pure balancer holders take turns (`turn` counts up); one with less than the greatest weight, as after a recovery, misses
/// turns in proportion. Otherwise the draw is by weight, and with three or more candidates none gets more than 2/R. Newcomers get as
/// many turns or draws as others, but at most [`NEWCOMERS_PPM`] together, whether there are others or not. `draw_ppm` is uniform in
/// `0..ONE_PPM`.
pub fn choose(candidates: &[Candidate], pure_balancer: bool, turn: u64, draw_ppm: u32) -> Option<u16> {
    let newcomers = candidates.iter().filter(|c| c.newcomer).count() as u64;
    if newcomers == 0 {
        return choose_of(candidates.iter(), candidates.len(), pure_balancer, turn, u64::from(draw_ppm));
    }
    let (one, all) = (u64::from(ONE_PPM), candidates.len() as u64);
    let share = (newcomers * one).checked_div(all)?.min(u64::from(NEWCOMERS_PPM)).max(1);
    let draw = u64::from(draw_ppm);
    let (newcomer, draw) =
        if draw < share { (true, draw * one / share) } else { (false, (draw - share) * one / (one - share)) };
    let group = candidates.iter().filter(move |c| c.newcomer == newcomer);
    let size = if newcomer { newcomers } else { all - newcomers };
    choose_of(group, usize::try_from(size).ok()?, pure_balancer, turn, draw)
}

fn choose_of<'a>(
    group: impl Iterator<Item = &'a Candidate> + Clone,
    size: usize,
    pure_balancer: bool,
    turn: u64,
    draw: u64,
) -> Option<u16> {
    if pure_balancer { take_turn(group, size, turn, draw) } else { draw_by_weight(group, size, draw) }
}

fn take_turn<'a>(group: impl Iterator<Item = &'a Candidate> + Clone, size: usize, turn: u64, draw: u64) -> Option<u16> {
    let greatest = u64::from(group.clone().map(|c| c.weight).max()?);
    let first = usize::try_from(turn.checked_rem(size as u64)?).ok()?;
    let mut in_turn = group.cycle().skip(first).take(size);
    let threshold = draw.saturating_mul(greatest);
    in_turn.find(|c| threshold < u64::from(c.weight) * u64::from(ONE_PPM)).map(|c| c.holder)
}

fn draw_by_weight<'a>(group: impl Iterator<Item = &'a Candidate> + Clone, size: usize, draw: u64) -> Option<u16> {
    let total: u64 = group.clone().map(|c| u64::from(c.weight)).sum();
    let one = u64::from(ONE_PPM);
    let cap = if size >= 3 { (2 * one).checked_div(size as u64)? } else { one };
    let (mut below, mut last) = (0, None);
    for candidate in group {
        below += (u64::from(candidate.weight) * one).checked_div(total)?.min(cap);
        if draw < below {
            return Some(candidate.holder);
        }
        last = Some(candidate.holder);
    }
    // Rounding down leaves a sliver of the draws to nobody: with fewer than three candidates nothing is meant to stay.
    last.filter(|_| size < 3)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn targets() -> Targets {
        Targets { requests_per_s: 100, egress_bytes_per_s: 0, in_flight: 0, pure_balancer_at: 5.0 }
    }

    fn requests(offered: f64, eligible: f64) -> Offered {
        Offered { requests_per_s: Measure { offered, eligible }, ..Offered::default() }
    }

    #[test]
    fn what_exceeds_the_target_is_redirected() {
        let fraction = |offered, eligible| steer(&targets(), &requests(offered, eligible)).fraction_ppm;
        assert_eq!(fraction(0.0, 0.0), 0);
        assert_eq!(fraction(100.0, 100.0), 0);
        assert_eq!(fraction(200.0, 200.0), 500_000);
        assert_eq!(fraction(200.0, 100.0), ONE_PPM);
        assert_eq!(fraction(400.0, 100.0), ONE_PPM);
        assert_eq!(fraction(400.0, 0.0), 0);
    }

    #[test]
    fn far_beyond_the_target_the_site_is_a_pure_balancer() {
        let at = |offered| steer(&targets(), &requests(offered, offered));
        assert!(!at(500.0).pure_balancer);
        assert_eq!(at(501.0), Steering { fraction_ppm: ONE_PPM, pure_balancer: true, killed: false });
        let never = Targets { pure_balancer_at: 0.0, ..targets() };
        assert!(!steer(&never, &requests(1e9, 1e9)).pure_balancer);
    }

    #[test]
    fn the_tightest_measure_decides_and_zero_targets_are_ignored() {
        let targets = Targets { egress_bytes_per_s: 1000, ..targets() };
        let offered = Offered {
            requests_per_s: Measure { offered: 110.0, eligible: 110.0 },
            egress_bytes_per_s: Measure { offered: 4000.0, eligible: 4000.0 },
            in_flight: Measure { offered: 1e6, eligible: 1e6 },
        };
        assert_eq!(steer(&targets, &offered).fraction_ppm, 750_000);
    }

    #[test]
    fn a_full_proxy_redirects_at_once_and_a_killed_one_never() {
        let idle = Steering::default();
        assert!(!is_full(10, 10) && is_full(11, 10) && !is_full(u64::MAX, 0));
        assert!(!leaves(&idle, false, 0));
        assert!(leaves(&idle, true, 999_999));
        let killed = Steering { killed: true, fraction_ppm: ONE_PPM, pure_balancer: true };
        assert!(!leaves(&killed, true, 0));
    }

    #[test]
    fn a_lease_may_be_overdrawn_once_and_is_then_paid_back() {
        let mut lease = Lease::full(1000);
        lease.draw(5000);
        assert!(!lease.is_open());
        lease.refill(1000, 4000);
        assert!(!lease.is_open());
        lease.refill(1000, 1);
        assert!(lease.is_open());
        lease.refill(1000, u64::MAX);
        lease.draw(1000);
        assert!(!lease.is_open(), "no more than a second's worth is saved up");
    }

    fn share(candidates: &[Candidate], pure: bool, holder: u16) -> f64 {
        let rounds = 20_000u32;
        let hits = (0..rounds)
            .filter(|i| {
                let draw = (u64::from(*i) * 617_717 % u64::from(ONE_PPM)) as u32;
                choose(candidates, pure, u64::from(*i), draw) == Some(holder)
            })
            .count();
        hits as f64 / f64::from(rounds)
    }

    fn weights(weights: &[u16]) -> Vec<Candidate> {
        weights.iter().enumerate().map(|(i, w)| Candidate { holder: i as u16, weight: *w, newcomer: false }).collect()
    }

    #[test]
    fn with_three_holders_none_gets_more_than_two_thirds() {
        let candidates = weights(&[1000, 10, 10]);
        assert!((share(&candidates, false, 0) - 0.667).abs() < 0.01);
        assert!(share(&candidates, false, 1) < 0.02, "what the cap leaves over stays local");
        assert!((share(&weights(&[1000, 10]), false, 0) - 0.99).abs() < 0.01);
    }

    #[test]
    fn a_pure_balancer_takes_turns_and_spares_a_recovering_holder() {
        let even = weights(&[1000, 1000, 1000]);
        for holder in 0..3 {
            assert!((share(&even, true, holder) - 1.0 / 3.0).abs() < 0.01);
        }
        let recovering = weights(&[1000, 100]);
        let got = share(&recovering, true, 1);
        assert!((got - 0.05).abs() < 0.01, "one tenth of its turns, got {got}");
    }

    #[test]
    fn newcomers_get_a_tenth_together_however_many_and_whoever_else_there_is() {
        for pure in [false, true] {
            let mut candidates = weights(&[1000, 1000, 1000, 5, 5, 5]);
            candidates.iter_mut().skip(3).for_each(|c| c.newcomer = true);
            let of_newcomers: f64 = (3..6).map(|holder| share(&candidates, pure, holder)).sum();
            assert!((of_newcomers - 0.1).abs() < 0.01, "{of_newcomers}");
            assert!((share(&candidates, pure, 0) - 0.3).abs() < 0.01);
            candidates.iter_mut().for_each(|c| c.newcomer = true);
            let all: f64 = (0..6).map(|holder| share(&candidates, pure, holder)).sum();
            assert!(all <= 0.11, "the rest stays local: {all}");
        }
    }

    #[test]
    fn one_newcomer_among_many_gets_no_more_than_its_turn() {
        let mut candidates = weights(&[1000; 20]);
        candidates[19].newcomer = true;
        assert!((share(&candidates, true, 19) - 0.05).abs() < 0.01);
    }

    proptest! {
        #[test]
        fn fractions_stay_within_bounds_whatever_is_measured(
            a in any::<f64>(), b in any::<f64>(), target in any::<u32>(), at in any::<f32>()
        ) {
            let targets = Targets { requests_per_s: target, egress_bytes_per_s: u64::from(target), in_flight: target, pure_balancer_at: at };
            let measure = Measure { offered: a, eligible: b };
            let offered = Offered { requests_per_s: measure, egress_bytes_per_s: measure, in_flight: measure };
            prop_assert!(steer(&targets, &offered).fraction_ppm <= ONE_PPM);
        }

        #[test]
        fn only_candidates_are_chosen(
            weights in prop::collection::vec(1..=1000u16, 0..12), pure: bool, turn: u64, draw in 0..ONE_PPM, mask: u16
        ) {
            let mut candidates = self::weights(&weights);
            let chosen = choose(&candidates, pure, turn, draw);
            prop_assert!(chosen.is_none_or(|h| usize::from(h) < candidates.len()));
            candidates.iter_mut().enumerate().for_each(|(at, c)| c.newcomer = mask >> at & 1 == 1);
            prop_assert!(choose(&candidates, pure, turn, draw).is_none_or(|h| usize::from(h) < candidates.len()));
            prop_assert!(chosen.is_some() || !(pure || (1..3).contains(&candidates.len())) || candidates.is_empty());
        }
    }
}
