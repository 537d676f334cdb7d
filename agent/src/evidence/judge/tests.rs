use std::collections::BTreeSet;

use super::record::MAX_COMPLAINING;
use super::*;
use proptest::prelude::*;

const HOUR: u64 = 3_600_000;
const HOSTS: [&str; 6] = ["a.test", "b.test", "c.test", "d.test", "e.test", "f.test"];
const BAD: &str = HOSTS[0];

/// A site with its hosts, each report of which is on another object.
struct Story {
    judge: Judge,
    holders: usize,
    now_ms: u64,
    object: u64,
}

impl Story {
    fn new() -> Self {
        Self { judge: Judge::new(Bounds::default()), holders: HOSTS.len(), now_ms: 0, object: 0 }
    }

    fn report(&mut self, holder: &str, network: u64, found: Found) -> Vec<Finding> {
        self.object += 1;
        let report = Report { holder, object: self.object, network, found };
        self.judge.report(&report, self.holders, self.now_ms).unwrap_or_default()
    }

    /// Good reports on all other hosts, from many networks.
    fn well_elsewhere(&mut self, each: u64) {
        for round in 0..each {
            for host in &HOSTS[1..] {
                assert_eq!(self.report(host, 1000 + round, Found::Good), []);
            }
        }
    }

    /// What comes of so many complaints, in turn from so many networks beginning with a given one, within moments.
    fn complaints(&mut self, found: Found, networks: std::ops::Range<u64>, count: u64) -> Vec<Finding> {
        self.complaints_every(1, found, networks, count)
    }

    /// As [`Self::complaints`], with hours in between.
    fn lasting_complaints(&mut self, found: Found, networks: std::ops::Range<u64>, count: u64) -> Vec<Finding> {
        self.complaints_every(Bounds::default().apart_ms, found, networks, count)
    }

    fn complaints_every(
        &mut self,
        apart_ms: u64,
        found: Found,
        networks: std::ops::Range<u64>,
        count: u64,
    ) -> Vec<Finding> {
        let span = networks.end - networks.start;
        let mut findings = Vec::new();
        for turn in 0..count {
            self.now_ms += apart_ms;
            findings.extend(self.report(BAD, networks.start + turn % span, found));
        }
        findings
    }

    fn clean_audits(&mut self) {
        (0..3).for_each(|_| self.judge.audited(BAD, true, self.now_ms));
    }

    /// A host that is suspected, and audited since.
    fn suspected() -> Self {
        let mut story = Self::new();
        story.well_elsewhere(10);
        assert!(suspects(&story.complaints(Found::Wrong, 0..3, 10)));
        story.clean_audits();
        story
    }
}

fn suspects(findings: &[Finding]) -> bool {
    matches!(findings, [Finding::Suspect { holder, .. }] if holder == BAD)
}

fn suspends(findings: &[Finding]) -> bool {
    matches!(findings, [Finding::Suspend { holder, .. }] if holder == BAD)
}

#[test]
fn a_host_that_browsers_of_three_networks_find_wanting_is_suspected_once() {
    let mut story = Story::new();
    story.well_elsewhere(10);
    assert_eq!(story.complaints(Found::Wrong, 0..2, 8), [], "two networks are too few");
    let findings = story.complaints(Found::Wrong, 2..3, 4);
    assert!(suspects(&findings), "{findings:?}");
    let Finding::Suspect { text, .. } = &findings[0] else { unreachable!() };
    assert!(text.contains("wrong bytes in 9 of 9 looks, from at least 3 networks, and elsewhere in 0 of 20"), "{text}");
}

#[test]
fn a_host_that_goes_on_after_clean_audits_is_suspended() {
    let mut story = Story::suspected();
    assert_eq!(story.complaints(Found::Wrong, 0..3, 10), [], "the same networks again");
    assert_eq!(story.lasting_complaints(Found::Wrong, 10..12, 6), [], "two further ones");
    assert!(suspends(&story.lasting_complaints(Found::Wrong, 12..13, 1)));
    assert_eq!(story.lasting_complaints(Found::Wrong, 20..30, 20), [], "that is all there is to say");
}

/// After each restart another third of all hosts could be suspended.
#[test]
fn who_was_suspended_before_a_restart_counts_among_those_who_are() {
    let mut story = Story::suspected();
    for (left_ms, host) in [(HOUR, "x.test"), (1000 * HOUR, "y.test"), (1000 * HOUR, BAD)] {
        story.judge.restore(host, left_ms, 1, story.now_ms);
    }
    assert!(matches!(story.judge.records[BAD].state, State::Suspected { .. }), "what is known by now is left alone");
    story.now_ms += HOUR;
    let ended = Finding::Resume { holder: "x.test".into() };
    assert_eq!(story.judge.tick(story.holders, story.now_ms), [ended], "in its time");
    story.judge.restore("z.test", 1000 * HOUR, 1, story.now_ms);
    let findings = story.lasting_complaints(Found::Wrong, 10..13, 8);
    let names: Vec<_> = findings.iter().map(Finding::name).collect();
    assert_eq!(
        names,
        ["resume", "suspend"],
        "one of those gives way of whom it is not known any more how bad they are"
    );
    assert_eq!(story.judge.suspended().count(), 2);
}

#[test]
fn a_burst_from_however_many_networks_is_no_more_than_one() {
    let apart_ms = Bounds::default().apart_ms;
    let mut story = Story::suspected();
    assert_eq!(story.complaints(Found::Wrong, 1000..2000, 1000), [], "too soon after the suspicion");
    for burst in 2..4 {
        story.now_ms += apart_ms;
        assert_eq!(story.complaints(Found::Wrong, 1000 * burst..1000 * burst + 1000, 1000), [], "burst {burst}");
    }
    story.now_ms += apart_ms;
    assert!(suspends(&story.complaints(Found::Wrong, 4000..4001, 1)));
}

#[test]
fn at_a_busy_site_a_liar_is_suspended_within_hours() {
    let mut story = Story::suspected();
    let since_ms = story.now_ms;
    // One complaint in a minute, always from another network.
    let mut networks = 10..;
    while !suspends(&story.complaints_every(60_000, Found::Wrong, networks.next().map_or(0..1, |n| n..n + 1), 1)) {}
    assert_eq!((story.now_ms - since_ms).div_ceil(HOUR), 3 * Bounds::default().apart_ms / HOUR);
}

#[test]
fn without_audits_or_with_one_that_saw_it_as_well_nobody_is_suspended() {
    let mut story = Story::new();
    story.well_elsewhere(10);
    assert!(suspects(&story.complaints(Found::Wrong, 0..5, 10)));
    assert_eq!(story.lasting_complaints(Found::Wrong, 10..20, 20), [], "not audited yet");
    story.clean_audits();
    story.judge.audited(BAD, false, story.now_ms);
    story.clean_audits();
    assert!(suspects(&story.complaints(Found::Wrong, 30..40, 10)), "all from the start");
}

#[test]
fn a_host_that_sends_its_bytes_again_when_they_are_looked_at_is_judged_alike() {
    let mut story = Story::new();
    story.well_elsewhere(10);
    assert!(suspects(&story.complaints(Found::Resent, 0..5, 10)));
    story.clean_audits();
    assert!(suspends(&story.lasting_complaints(Found::Resent, 10..13, 3)));
}

#[test]
fn there_is_no_suspension_without_others_to_compare_with() {
    let mut story = Story::new();
    story.well_elsewhere(3);
    assert!(suspects(&story.complaints(Found::Wrong, 0..5, 12)));
    story.clean_audits();
    assert_eq!(story.lasting_complaints(Found::Wrong, 10..20, 20), []);
}

#[test]
fn networks_are_forgotten_after_a_day_and_suspicions_after_a_week() {
    let mut story = Story::new();
    story.well_elsewhere(10);
    for day in 0..5 {
        assert_eq!(story.complaints(Found::Wrong, day..day + 2, 2), [], "two networks a day");
        story.now_ms += 25 * HOUR;
    }
    assert_eq!(story.complaints(Found::Wrong, 0..2, 2), []);
    story.judge.tick(6, story.now_ms + 25 * HOUR);
    assert!(story.judge.records.values().all(|record| record.faults.iter().all(|fault| fault.networks.is_empty())));

    let mut story = Story::suspected();
    story.now_ms += 8 * 24 * HOUR;
    assert!(suspects(&story.complaints(Found::Wrong, 10..13, 3)), "suspected anew rather than suspended");
}

#[test]
fn one_network_counts_once_for_each_object_and_little_in_an_hour() {
    let mut judge = Judge::new(Bounds::default());
    let mut report = |object, now_ms| {
        judge.report(&Report { holder: BAD, object, network: 1, found: Found::Good }, 6, now_ms).map(|_| ())
    };
    assert_eq!(report(1, 0), Ok(()));
    assert_eq!(report(1, 1), Err(Ignored::Repeated));
    assert_eq!(report(1, 11 * HOUR), Err(Ignored::Repeated));
    assert_eq!(report(1, 36 * HOUR), Ok(()));
    for object in 2..=20 {
        assert_eq!(report(object, 36 * HOUR), Ok(()));
    }
    assert_eq!(report(21, 36 * HOUR), Err(Ignored::TooMany));
    assert_eq!(report(21, 37 * HOUR), Ok(()));
}

#[test]
fn at_most_a_third_is_suspended_and_those_are_the_worst() {
    let mut judge = Judge::new(Bounds::default());
    let mut object = 0;
    let mut report = |judge: &mut Judge, holder: &str, network, found, now_ms| {
        object += 1;
        judge.report(&Report { holder, object, network, found }, 3, now_ms).unwrap_or_default()
    };
    (0..60).for_each(|network| drop(report(&mut judge, "good.test", 1000 + network, Found::Good, 0)));
    let mut findings = Vec::new();
    let mut now_ms = 0;
    // The one that is wrong every other time comes first, the one that is always wrong later.
    for (holder, good) in [("half.test", 20), ("all.test", 0)] {
        (0..good).for_each(|network| drop(report(&mut judge, holder, 2000 + network, Found::Good, now_ms)));
        for (phase, apart_ms) in [(1, 1), (2, Bounds::default().apart_ms)] {
            for network in 0..20 {
                now_ms += apart_ms;
                findings.extend(report(&mut judge, holder, 100 * phase + network, Found::Wrong, now_ms));
            }
            (0..3).for_each(|_| judge.audited(holder, true, now_ms));
        }
    }
    let told = |finding: &Finding| match finding {
        Finding::Suspect { holder, .. } => format!("suspect {holder}"),
        Finding::Suspend { holder, .. } => format!("suspend {holder}"),
        Finding::Resume { holder } => format!("resume {holder}"),
    };
    let said: Vec<_> = findings.iter().map(told).collect();
    assert_eq!(
        said,
        ["suspect half.test", "suspend half.test", "suspect all.test", "resume half.test", "suspend all.test"]
    );
    assert_eq!(judge.tick(3, now_ms), []);
    let resumed = [Finding::Resume { holder: "all.test".into() }];
    assert_eq!(judge.tick(2, now_ms), resumed, "with fewer hosts, it would be too many");
}

#[test]
fn after_a_suspension_the_suspicion_is_left_and_the_next_one_is_longer() {
    let mut story = Story::suspected();
    assert!(suspends(&story.lasting_complaints(Found::Wrong, 10..13, 3)));
    let first_ms = Bounds::default().suspension_ms;
    for lasts_ms in [first_ms, 2 * first_ms] {
        assert_eq!(story.judge.tick(6, story.now_ms + lasts_ms - 1), []);
        story.now_ms += lasts_ms;
        assert_eq!(story.judge.tick(6, story.now_ms), [Finding::Resume { holder: BAD.into() }]);
        assert_eq!(story.lasting_complaints(Found::Wrong, 20..40, 20), [], "not audited again");
        story.well_elsewhere(10);
        story.clean_audits();
        assert!(suspends(&story.lasting_complaints(Found::Wrong, 10..11, 1)));
    }
}

#[test]
fn whatever_is_reported_memory_stays_bounded() {
    let mut judge = Judge::new(Bounds { reports_of_a_network: 2, ..Bounds::default() });
    for number in 0..10_000_u64 {
        let holder = format!("{}.test", number % 5000);
        let report = Report { holder: &holder, object: number, network: number, found: Found::Good };
        assert_eq!(judge.report(&report, 5000, 0), Ok(Vec::new()));
    }
    assert_eq!(judge.records.len(), MAX_RECORDS);
    for number in 0..100 {
        let report = Report { holder: BAD, object: number, network: number, found: Found::Wrong };
        let _ = judge.report(&report, 5000, number);
    }
    assert!(judge.records.values().all(|record| record.faults[0].networks.len() <= MAX_COMPLAINING));
}

/// Draws that are uniform in 0..1 and the same in every run (splitmix64).
fn draws(mut state: u64) -> impl FnMut() -> f64 {
    move || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// Runs a site whose hosts are each found wanting at a rate of their own, with clean audits all along; returns who was suspended.
fn run(rates: &[f64], reports: usize, mut draw: impl FnMut() -> f64) -> BTreeSet<usize> {
    let mut judge = Judge::new(Bounds::default());
    let names: Vec<String> = (0..rates.len()).map(|host| format!("{host}.test")).collect();
    let mut suspended = BTreeSet::new();
    for number in 0..reports {
        let now_ms = number as u64 * HOUR / 4;
        let host = (draw() * rates.len() as f64) as usize;
        let found = if draw() < rates[host] { Found::Wrong } else { Found::Good };
        let network = (draw() * 1e6) as u64;
        let report = Report { holder: &names[host], object: number as u64, network, found };
        for finding in judge.report(&report, rates.len(), now_ms).unwrap_or_default() {
            match finding {
                Finding::Suspend { holder, .. } => suspended.extend(names.iter().position(|name| *name == holder)),
                Finding::Suspect { holder, .. } => (0..5).for_each(|_| judge.audited(&holder, true, now_ms)),
                Finding::Resume { .. } => {}
            }
        }
    }
    suspended
}

#[test]
fn a_third_of_liars_that_no_audit_catches_is_suspended_within_days() {
    let rates = [0.5, 0.5, 0.5, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0];
    for seed in 0..5 {
        // 96 reports a day.
        assert_eq!(run(&rates, 96 * 6, draws(seed)), BTreeSet::from([0, 1, 2]), "seed {seed}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn fewer_than_three_networks_never_count(
        reports in prop::collection::vec((0..6usize, 0..2u64, 0..3u8, 0..HOUR), 1..400),
    ) {
        let mut story = Story::new();
        story.well_elsewhere(10);
        for (host, network, found, elapsed) in reports {
            story.now_ms += elapsed;
            let found = [Found::Good, Found::Wrong, Found::Resent][usize::from(found)];
            prop_assert_eq!(story.report(HOSTS[host], network, found), []);
            story.clean_audits();
        }
    }

    #[test]
    fn browsers_that_are_broken_everywhere_suspend_nobody(hosts in 1..30usize, rate in 0.0..=1.0f64, seed: u64) {
        prop_assert_eq!(run(&vec![rate; hosts], 3000, draws(seed)), BTreeSet::new());
    }

    #[test]
    fn no_more_than_a_third_is_ever_suspended(rates in prop::collection::vec(0.0..=1.0f64, 1..20), seed: u64) {
        let mut judge = Judge::new(Bounds::default());
        let mut draw = draws(seed);
        let mut suspended = BTreeSet::new();
        for number in 0..2000u64 {
            let host = (draw() * rates.len() as f64) as usize;
            let holder = format!("{host}.test");
            let found = if draw() < rates[host] { Found::Wrong } else { Found::Good };
            let report = Report { holder: &holder, object: number, network: number, found };
            for finding in judge.report(&report, rates.len(), number * 60_000).unwrap_or_default() {
                match finding {
                    Finding::Suspect { holder, .. } => (0..3).for_each(|_| judge.audited(&holder, true, 0)),
                    Finding::Suspend { holder, .. } => prop_assert!(suspended.insert(holder)),
                    Finding::Resume { holder } => prop_assert!(suspended.remove(&holder)),
                }
                prop_assert!(suspended.len() <= rates.len() / 3);
            }
        }
    }
}
