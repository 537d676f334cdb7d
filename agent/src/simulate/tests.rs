use super::*;
use scenario::Behaviour;

/// A world that is looked at within a moment.
fn small() -> World {
    World {
        sites: 2,
        peers: 40,
        holders: 6,
        redirects_per_day: 1500,
        objects: 20,
        days: 3.0,
        step_minutes: 15,
        ..World::default()
    }
}

fn group(does: Behaviour) -> Group {
    let name = "others".to_owned();
    Group { name, share: 0.5, extra: 0, honest: false, networks: 0, does, later: Vec::new() }
}

fn outcome(world: &World, groups: &[Group]) -> Outcome {
    run_one(world, groups, 7, &mut || {})
}

fn total(outcome: &Outcome, of: fn(&outcome::Day) -> u64) -> u64 {
    outcome.days.iter().map(of).sum()
}

#[test]
fn a_seed_has_one_outcome_and_another_seed_another() {
    let groups = [group(Behaviour { corrupt: 0.1, slander: true, whitewash: true, ..Behaviour::default() })];
    let world = World { evidence: 0.05, ..small() };
    let first = outcome(&world, &groups);
    assert_eq!(first, outcome(&world, &groups));
    assert_ne!(first, run_one(&world, &groups, 8, &mut || {}));
}

#[test]
fn where_all_are_honest_nobody_loses_anything() {
    let outcome = outcome(&small(), &[]);
    assert_eq!((outcome.honest_isolated, total(&outcome, |day| day.corrupted)), (0, 0));
    assert_eq!((outcome.weight_lost, outcome.members_evicted), (0.0, 0));
    assert!(outcome.honest_holders >= 6 && total(&outcome, |day| day.audits) > 0);
}

#[test]
fn honest_peers_that_fail_far_too_often_are_isolated_and_counted() {
    let faulty = Group { honest: true, ..group(Behaviour { corrupt: 0.3, ..Behaviour::default() }) };
    let outcome = outcome(&small(), &[faulty]);
    assert!(outcome.honest_isolated > 0 && outcome.honest_isolated < outcome.honest_holders, "{outcome:?}");
    assert_eq!(total(&outcome, |day| day.dishonest), 0);
}

#[test]
fn newcomers_get_a_tenth_on_the_first_day_and_all_of_it_later() {
    let days = outcome(&small(), &[]).days;
    let share = |day: usize| days[day].redirects as f64 / (days[day].redirects + days[day].stayed) as f64;
    assert!(share(0) < 0.12 && share(2) > 0.8, "{} {}", share(0), share(2));
}

#[test]
fn whoever_is_corrupt_is_found_out() {
    let outcome = outcome(&small(), &[group(Behaviour { corrupt: 0.5, ..Behaviour::default() })]);
    assert!(total(&outcome, |day| day.corrupted) > 0);
    let last = outcome.days[2];
    assert!(last.dishonest * 100 < last.redirects && outcome.honest_isolated == 0, "{last:?}");
}

#[test]
fn whoever_tells_all_audits_apart_is_found_out_by_browsers_only() {
    let groups = [group(Behaviour { corrupt: 0.5, spares_audits: 1.0, ..Behaviour::default() })];
    let week = World { days: 5.0, ..small() };
    let unseen = outcome(&week, &groups);
    let seen = outcome(&World { evidence: 0.2, ..week }, &groups);
    let share = |outcome: &Outcome| outcome.days[4].corrupted as f64 / outcome.days[4].redirects as f64;
    assert!(share(&unseen) > 0.1 && share(&seen) < share(&unseen) / 2.0, "{} {}", share(&unseen), share(&seen));
}

#[test]
fn who_is_on_for_some_hours_is_good_in_the_others() {
    let always = outcome(&small(), &[group(Behaviour { corrupt: 0.02, ..Behaviour::default() })]);
    let at_times = outcome(
        &small(),
        &[group(Behaviour { corrupt: 0.02, on_hours: 2.0, off_hours: 22.0, ..Behaviour::default() })],
    );
    let corrupted = |outcome: &Outcome| total(outcome, |day| day.corrupted);
    assert!(corrupted(&at_times) * 2 < corrupted(&always), "{} {}", corrupted(&at_times), corrupted(&always));
}

#[test]
fn words_halve_a_weight_at_most_and_isolate_nobody() {
    let outcome = outcome(&small(), &[group(Behaviour { slander: true, ..Behaviour::default() })]);
    assert!(outcome.weight_lost <= 0.5 && outcome.hours_lost <= 24.0);
    assert_eq!(outcome.honest_isolated, 0);
}

#[test]
fn whitewashers_come_back_under_other_names() {
    let outcome = outcome(&small(), &[group(Behaviour { corrupt: 0.5, whitewash: true, ..Behaviour::default() })]);
    assert!(outcome.returned_terms > 0);
}

#[test]
fn a_swarm_from_few_networks_is_drawn_as_often_as_these() {
    let swarm =
        Group { share: 0.0, extra: 400, networks: 4, ..group(Behaviour { crowd: true, ..Behaviour::default() }) };
    let outcome = outcome(&World { days: 1.0, ..small() }, &[swarm]);
    let share = outcome.partners_of_swarm as f64 / outcome.partners as f64;
    assert!((outcome.prefix_share - 4.0 / 44.0).abs() < 1e-9 && share < 0.12, "{share}");
}

#[test]
fn forgers_put_nobody_out_of_a_table() {
    let outcome = outcome(&small(), &[group(Behaviour { forge: true, crowd: true, ..Behaviour::default() })]);
    assert_eq!(outcome.members_evicted, 0);
}

#[test]
fn boasters_get_less_than_they_claim() {
    let outcome = outcome(&small(), &[group(Behaviour { bandwidth: 0.1, ..Behaviour::default() })]);
    let last = outcome.days[2];
    assert!(last.dishonest * 4 < last.redirects && total(&outcome, |day| day.slow) > 0, "{last:?}");
}

#[test]
fn what_is_missing_costs_reliability_and_no_integrity() {
    let outcome = outcome(&small(), &[group(Behaviour { missing: 0.8, ..Behaviour::default() })]);
    let last = outcome.days[2];
    assert!(last.dishonest * 4 < last.redirects && total(&outcome, |day| day.corrupted) == 0, "{last:?}");
}

#[test]
fn who_changes_is_as_before_until_then() {
    let later = scenario::Later { from_day: 2.0, does: Behaviour { corrupt: 1.0, ..Behaviour::default() } };
    let outcome = outcome(&small(), &[Group { later: vec![later], ..group(Behaviour::default()) }]);
    assert_eq!(outcome.days[..2].iter().map(|day| day.corrupted).sum::<u64>(), 0);
    assert!(outcome.days[2].corrupted > 0);
}

#[test]
fn gossip_among_many_costs_what_its_messages_take() {
    let world = World { peers: 300, days: 0.02, full_tables: 4, ..World::default() };
    let outcome = outcome(&world, &[]);
    assert!(outcome.gossip_bytes_per_s > 10.0 && outcome.gossip_bytes_per_s < 2200.0, "{outcome:?}");
    assert!(outcome.table_bytes > 300.0 * 1500.0);
}

#[test]
fn every_scenario_that_ships_is_sound_and_those_with_targets_come_first() {
    for (place, (name, text)) in scenario::STANDARD.iter().enumerate() {
        let scenario = Scenario::read(name, text).unwrap();
        let has_target = scenario.figures.iter().any(|figure| figure.below.or(figure.at_most).is_some());
        assert!(has_target || place >= scenario::WITH_TARGETS, "{name}");
        assert!(!scenario.about.is_empty());
    }
}

#[test]
fn a_mistake_in_a_scenario_is_refused_with_its_file_and_key() {
    let text = include_str!("../../scenarios/rare.toml");
    let message = |text: &str| Scenario::read("mine.toml", text).unwrap_err().to_string();
    let misspelt = message(&text.replace("corrupt = 0.01", "corupt = 0.01"));
    assert!(misspelt.contains("mine.toml") && misspelt.contains("group") && misspelt.contains("corupt"), "{misspelt}");
    let too_much = message(&text.replace("corrupt = 0.01", "corrupt = 1.01"));
    assert_eq!(too_much, "mine.toml: group rare: does.corrupt: must lie between 0 and 1");
    let too_many = message(&text.replace("share = 0.3", "share = 0.95"));
    assert!(too_many.starts_with("mine.toml: group.share: "), "{too_many}");
    assert!(message("title = [").contains("mine.toml"));
    assert!(Scenario::load("no-such-scenario").unwrap_err().to_string().contains("no-such-scenario"));
}

#[test]
fn figures_are_the_largest_of_all_worlds_or_a_difference() {
    let text = include_str!("../../scenarios/clique.toml");
    let scenario = Scenario::read("clique", text).unwrap();
    let day = |dishonest| outcome::Day { redirects: 100, dishonest, ..outcome::Day::default() };
    let runs = |name: &str, days: [u64; 3]| Runs {
        name: name.to_owned(),
        outcomes: days.map(|dishonest| Outcome { days: vec![day(dishonest)], ..Outcome::default() }).into(),
    };
    let all = [runs("silent", [10, 12, 14]), runs("clique", [11, 12, 14]), runs("ballot stuffing", [12, 13, 10])];
    let rows = report::rows(&scenario, &all);
    assert!((rows[0].median - 0.01).abs() < 1e-9 && (rows[0].worst - 0.02).abs() < 1e-9, "{rows:?}");
    assert!((rows[0].target.unwrap() - 0.04).abs() < 1e-9 && rows[0].met);
}

#[test]
fn pictures_need_nothing_of_the_system() {
    let outcome = outcome(&small(), &[group(Behaviour { corrupt: 0.5, ..Behaviour::default() })]);
    let runs = Runs { name: String::new(), outcomes: vec![outcome] };
    let plots = plots::draw("test", &[("half".to_owned(), &runs)]).unwrap();
    assert_eq!(plots.len(), 3);
    assert!(plots.iter().all(|plot| plot.svg.starts_with("<svg") && plot.svg.len() < 30_000));
}
