use std::sync::Arc;

use p2pcdn_tests::{
    client::ClientError,
    content::Verdict,
    load::{Failure, Redirect},
};

use super::*;

/// The story of a demo in which everything goes well; tests spoil one thing each.
struct Story {
    begin: Instant,
    samples: Vec<Sample>,
    windows: Vec<Window>,
    died: Instant,
    /// Copies of ten objects and offload at the end of each phase.
    growth: [(&'static Phase, u64, f64); 3],
}

fn authority(name: &str) -> Authority {
    format!("{name}.localhost:20000").parse().unwrap()
}

fn millis(count: u64) -> Duration {
    Duration::from_millis(count)
}

fn sample(due: Instant, by: &str, verdict: Verdict) -> Sample {
    let redirects = if by == "alpha" { vec![] } else { vec![Redirect { to: authority(by), at: due + millis(1) }] };
    Sample { due, took: millis(2), redirects, outcome: Outcome::Answered { by: authority(by), bytes: 10, verdict } }
}

fn failed(due: Instant, named_at: Instant) -> Sample {
    let (at, why) = (authority("replica.beta"), Failure::Client(Arc::new(ClientError::Timeout)));
    let redirects = vec![Redirect { to: at.clone(), at: named_at }];
    Sample { due, took: millis(5), redirects, outcome: Outcome::Failed { at, why } }
}

impl Story {
    fn new() -> Self {
        let begin = Instant::now();
        let growth: [(&'static Phase, u64, f64); 3] = [(&IDLE, 10, 0.0), (&RAMP, 15, 0.6), (&EXTREME, 20, 1.0)];
        let mut story = Self { begin, samples: vec![], windows: vec![], died: begin, growth };
        let mut at = begin;
        for (phase, turns) in [
            (&IDLE, &["alpha"][..]),
            (&RAMP, &["alpha", "replica.beta", "replica.gamma"]),
            (&EXTREME, &["replica.beta", "replica.gamma"]),
            (&HOST_KILLED, &["replica.gamma"]),
            (&RECOVERY, &["alpha"]),
        ] {
            let (start, end) = (at + phase.settle, at + phase.settle + phase.measure);
            let count = (phase.offered_rps * phase.measure.as_secs_f64()) as u32;
            let due = |n: u32| start + phase.measure / count * n;
            let turns = turns.iter().cycle();
            story.samples.extend((0..count).zip(turns).map(|(n, by)| sample(due(n), by, Verdict::Current)));
            story.windows.push(Window { phase, start, end });
            at = end;
        }
        story.died = story.windows[3].start + millis(2000);
        story
    }

    fn figures(&self) -> Figures {
        let (alpha, beta, gamma) = (authority("alpha"), authority("replica.beta"), authority("replica.gamma"));
        let death = Death { replica_name: &beta, at: self.died };
        let growth = self.growth.map(|(phase, replicas, offload)| Growth {
            at_s: 0.0,
            phase: phase.name,
            replicas,
            replicas_per_object: replicas as f64 / 10.0,
            offload,
        });
        let figures = Figures::new(&alpha, &[&beta, &gamma], &self.samples, &self.windows, &death);
        Figures { growth: growth.into(), ..figures }
    }

    /// The first words of each expectation that is not met.
    fn unmet(&self) -> Vec<String> {
        let unmet = self.figures().expectations().into_iter().filter(|(_, met)| !met);
        unmet.map(|(text, _)| text.split([':', '(']).next().unwrap_or_default().trim().to_owned()).collect()
    }
}

#[test]
fn a_good_story_meets_every_expectation() {
    let story = Story::new();
    assert_eq!(story.unmet(), Vec::<String>::new());
    let figures = story.figures();
    let requests: Vec<_> = figures.phases.iter().map(|(phase, tally)| (phase.name, tally.requests)).collect();
    assert_eq!(
        requests,
        [("idle", 400), ("ramp", 2400), ("extreme", 7000), ("host-killed", 10_500), ("recovery", 600)]
    );
    assert_eq!(figures.between.requests, 0);
    assert_eq!(figures.phases[3].1.by_host["replica.beta.localhost:20000"], 0, "one who carried nothing is listed");
}

#[test]
fn one_wrong_body_is_noticed_even_between_phases() {
    for verdict in [Verdict::Stale, Verdict::Corrupt] {
        let mut story = Story::new();
        story.samples.push(sample(story.windows[1].start - millis(1), "replica.beta", verdict));
        assert_eq!(story.unmet(), ["every body is right"]);
        assert_eq!(story.figures().between.requests, 1);
    }
}

#[test]
fn only_failures_at_the_killed_host_are_excused() {
    let mut story = Story::new();
    let died = story.died;
    story.samples.push(failed(died - millis(3), died - millis(2)));
    story.samples.push(failed(died + millis(700), died + millis(800)));
    assert_eq!(story.unmet(), Vec::<String>::new());
    let figures = story.figures();
    assert_eq!(figures.killed, Killed { in_flight: 1, redirected_later: 1 });
    assert_eq!(figures.last_redirect_to_dead, millis(800));

    // It ended before the host died, so its death is no excuse.
    story.samples.push(failed(died - millis(500), died - millis(499)));
    assert_eq!(story.unmet(), ["nothing fails but at the killed host"]);
}

#[test]
fn a_dead_host_that_is_named_for_long_is_noticed() {
    let mut story = Story::new();
    let named = story.died + millis(10_001);
    story.samples.push(failed(named - millis(1), named));
    assert_eq!(story.unmet(), ["host-killed"]);
}

#[test]
fn redirects_at_idle_and_at_the_end_of_the_recovery_are_noticed() {
    let mut story = Story::new();
    let (idle, end) = (story.begin + millis(10), story.windows[4].end);
    story.samples.push(sample(idle, "replica.gamma", Verdict::Current));
    story.samples.push(sample(end - millis(5001), "replica.gamma", Verdict::Current));
    assert_eq!(story.unmet(), ["idle"]);
    story.samples.push(sample(end - millis(4999), "replica.gamma", Verdict::Current));
    assert_eq!(story.unmet(), ["idle", "recovery"]);
}

#[test]
fn copies_and_offload_that_do_not_grow_with_the_load_are_noticed() {
    let mut story = Story::new();
    story.growth[2].1 = 10;
    assert_eq!(story.unmet(), ["from idle to extreme copies per object grow"]);
    story.growth[2].2 = 0.0;
    assert_eq!(story.unmet(), ["from idle to extreme copies per object grow", "from idle to extreme offload grows"]);
}

#[test]
fn uneven_or_insufficient_offload_is_noticed() {
    let mut story = Story::new();
    let extreme = story.windows[2].start..story.windows[2].end;
    let mut hits = 0;
    for sample in story.samples.iter_mut().filter(|s| extreme.contains(&s.due)) {
        hits += 1;
        let by = if hits % 10 == 0 { "alpha" } else { "replica.gamma" };
        *sample = self::sample(sample.due, by, Verdict::Current);
    }
    assert_eq!(story.unmet(), ["extreme", "extreme"]);
}
