use super::*;
use proptest::prelude::*;

const MINUTE: u64 = 60_000;

/// A schedule with `/a`, learned at 0 and fresh for a minute.
fn with_a() -> Schedule {
    let mut schedule = Schedule::new(1.0);
    schedule.wanted("/a", 100, 0);
    assert_eq!(schedule.next(0, false, true), Some(Job::Learn("/a".into())));
    schedule.learned("/a", HeaderMap::new(), MINUTE, u64::MAX, 0);
    schedule
}

fn revalidate_a() -> Option<Job> {
    Some(Job::Revalidate("/a".into(), HeaderMap::new()))
}

#[test]
fn what_is_asked_for_most_is_learned_first_and_two_at_a_time() {
    let mut schedule = Schedule::new(1.0);
    for (path, requests) in [("/a", 2), ("/b", 9), ("/c", 5), ("/once", 1), ("//no", 99)] {
        schedule.wanted(path, requests, 0);
    }
    assert_eq!(schedule.next(0, false, false), None, "the catalogue is full");
    assert_eq!(schedule.next(0, false, true), Some(Job::Learn("/b".into())));
    assert_eq!(schedule.next(0, false, true), Some(Job::Learn("/c".into())));
    assert_eq!(schedule.next(0, false, true), None, "two are under way");
    schedule.refused("/b", 0);
    assert_eq!(schedule.next(0, false, true), Some(Job::Learn("/a".into())));
    schedule.failed("/c", 0);
    assert_eq!(schedule.next(0, false, true), None, "one request is not worth it");
    assert_eq!(schedule.next(2_000, false, true), Some(Job::Learn("/c".into())), "failures pass");
    schedule.learned("/a", HeaderMap::new(), 10_000_000, u64::MAX, 2_000);
    schedule.learned("/c", HeaderMap::new(), 10_000_000, u64::MAX, 2_000);
    schedule.wanted("/b", 99, 599_000);
    assert_eq!(schedule.next(599_000, false, true), None, "refusals stay for a while");
    assert_eq!(schedule.next(600_000, false, true), Some(Job::Learn("/b".into())));
}

#[test]
fn under_load_only_what_is_hot_is_learned_and_one_at_a_time() {
    let mut schedule = Schedule::new(1.0);
    for (path, requests) in [("/hot", 80), ("/warm", 50), ("/too", 70)] {
        schedule.wanted(path, requests, 0);
    }
    assert_eq!(schedule.next(0, true, true), Some(Job::Learn("/hot".into())));
    assert_eq!(schedule.next(0, true, true), None);
    schedule.learned("/hot", HeaderMap::new(), MINUTE, u64::MAX, 0);
    assert_eq!(schedule.next(0, true, true), Some(Job::Learn("/too".into())));
    schedule.learned("/too", HeaderMap::new(), MINUTE, u64::MAX, 0);
    assert_eq!(schedule.next(0, true, true), None);
    assert_eq!(schedule.next(0, false, true), Some(Job::Learn("/warm".into())));
}

#[test]
fn freshness_is_renewed_a_little_before_its_end_while_the_object_is_asked_for() {
    let mut schedule = with_a();
    assert_eq!(schedule.next(53_999, false, true), None);
    assert_eq!(schedule.next(54_000, true, true), revalidate_a(), "even under load");
    assert_eq!(schedule.next(54_000, false, true), None, "it is under way");
    schedule.learned("/a", HeaderMap::new(), MINUTE, 10_000, 54_000);
    assert_eq!(schedule.next(64_000, false, true), revalidate_a(), "its record has to be renewed first");
}

#[test]
fn what_nobody_asks_for_goes_stale_comes_back_with_demand_and_is_forgotten_without() {
    let mut schedule = with_a();
    let cold = 20 * MINUTE / 2;
    let mut now = 0;
    // Demand is gone after about eight minutes, in which freshness is renewed.
    while now < cold {
        if schedule.next(now, false, true).is_some() {
            schedule.learned("/a", HeaderMap::new(), MINUTE, u64::MAX, now);
        }
        now += 1_000;
    }
    assert_eq!(schedule.next(now + MINUTE, false, true), None);
    schedule.wanted("/a", 1, now + 2 * MINUTE);
    assert_eq!(schedule.next(now + 2 * MINUTE, false, true), revalidate_a());
    schedule.learned("/a", HeaderMap::new(), MINUTE, u64::MAX, now + 2 * MINUTE);
    for minute in 3..20 {
        if schedule.next(now + minute * MINUTE, false, true).is_some() {
            schedule.abandoned("/a", now + minute * MINUTE);
        }
    }
    assert_eq!(schedule.forgotten(), ["/a"]);
    assert_eq!((schedule.held(), schedule.looks.len()), (0, 0));
}

#[test]
fn a_contradicted_object_is_looked_at_at_once_and_flapping_ones_less_and_less() {
    let mut schedule = with_a();
    schedule.contradicted("/a", 1_000);
    schedule.contradicted("/unknown", 1_000);
    assert_eq!(schedule.next(1_000, true, true), revalidate_a());
    schedule.failed("/a", 1_000);
    assert_eq!(schedule.next(2_999, true, true), None);
    assert_eq!(schedule.next(3_000, true, true), revalidate_a(), "until it has succeeded");
    schedule.learned("/a", HeaderMap::new(), MINUTE, u64::MAX, 3_000);
    schedule.contradicted("/a", 3_000);
    assert_eq!(schedule.next(3_000, false, true), None);
    assert_eq!(schedule.next(5_000, false, true), revalidate_a());
    schedule.learned("/a", HeaderMap::new(), MINUTE, u64::MAX, 5_000);
    schedule.contradicted("/a", 5_000);
    assert_eq!(schedule.next(8_999, false, true), None);
    assert_eq!(schedule.next(9_000, false, true), revalidate_a());
    schedule.learned("/a", HeaderMap::new(), 100 * MINUTE, u64::MAX, 9_000);
    schedule.contradicted("/a", 5_000 + FLAPPING_MS);
    assert_eq!(schedule.next(5_000 + FLAPPING_MS, false, true), revalidate_a());
}

#[test]
fn the_end_of_a_short_freshness_does_not_end_the_pause_of_a_flapping_object() {
    let mut schedule = with_a();
    let mut now = 1_000;
    for _ in 0..6 {
        schedule.contradicted("/a", now);
        now += 40_000;
        assert_eq!(schedule.next(now, false, true), revalidate_a());
        schedule.learned("/a", HeaderMap::new(), 2_000, u64::MAX, now);
        schedule.wanted("/a", 100, now);
    }
    schedule.contradicted("/a", now);
    assert_eq!(schedule.next(now + 10_000, false, true), None);
    assert_eq!(schedule.next(now + 64_000, false, true), revalidate_a());
}

#[test]
fn renewing_short_freshness_leaves_every_other_turn_to_learning() {
    let mut schedule = Schedule::new(1.0);
    for number in 0..4 {
        schedule.wanted(&format!("/short/{number}"), 1_000, 0);
        let Some(Job::Learn(path)) = schedule.next(0, false, true) else { panic!("nothing to learn") };
        schedule.learned(&path, HeaderMap::new(), 10, u64::MAX, 0);
    }
    schedule.wanted("/new", 100, 20);
    let jobs: Vec<Option<Job>> = (0..2).map(|_| schedule.next(20, false, true)).collect();
    assert!(jobs.contains(&Some(Job::Learn("/new".into()))), "{jobs:?}");
}

#[test]
fn questions_are_answered_once_a_second_and_not_under_load() {
    let mut schedule = with_a();
    schedule.questioned("/a", 500);
    assert_eq!(schedule.next(999, false, true), None);
    assert_eq!(schedule.next(1_000, true, true), None);
    assert_eq!(schedule.next(2_000, false, true), revalidate_a());
    schedule.learned("/a", HeaderMap::new(), MINUTE, u64::MAX, 2_000);
    assert_eq!(schedule.next(10_000, false, true), None);
}

#[test]
fn room_is_made_by_what_is_asked_for_less() {
    let mut schedule = with_a();
    schedule.wanted("/b", 200, 0);
    schedule.wanted("/c", 1, 0);
    let mut give_up_for = |path, bytes| schedule.give_up_for(path, bytes, |_| 10, 0);
    assert!(give_up_for("/c", 10).is_empty());
    assert!(give_up_for("/b", 11).is_empty(), "nothing is given up in vain");
    assert_eq!(give_up_for("/b", 10), ["/a"]);
    assert!(give_up_for("/b", 10).is_empty());
}

#[test]
fn a_purge_forgets_demand_and_pauses() {
    let mut schedule = with_a();
    schedule.purged("/a");
    assert_eq!((schedule.held(), schedule.next(MINUTE, false, true)), (0, None));
    schedule.wanted("/a", 2, MINUTE);
    assert_eq!(schedule.next(MINUTE, false, true), Some(Job::Learn("/a".into())));
    schedule.refused("/a", MINUTE);
    schedule.purged("/a");
    schedule.wanted("/a", 2, MINUTE);
    assert_eq!(schedule.next(MINUTE, false, true), Some(Job::Learn("/a".into())));
}

#[test]
fn pauses_are_bounded() {
    let mut schedule = Schedule::new(1.0);
    for number in 0..2 * MAX_PAUSED as u64 {
        schedule.refused(&format!("/{number}"), number);
        assert!(schedule.paused.len() <= MAX_PAUSED);
    }
}

proptest! {
    #[test]
    fn every_held_object_has_exactly_one_look_whatever_happens(
        steps in prop::collection::vec((0..9u8, 0..4u8, 0..40_000u64), 0..200),
    ) {
        let mut schedule = Schedule::new(1.0);
        let mut now = 0;
        for (what, which, later) in steps {
            now += later;
            let path = format!("/{which}");
            match what {
                0 => schedule.wanted(&path, 50, now),
                1 => schedule.contradicted(&path, now),
                2 => schedule.questioned(&path, now),
                3 => schedule.purged(&path),
                4 => schedule.refused(&path, now),
                5 => schedule.failed(&path, now),
                6 => drop(schedule.give_up_for(&path, 1, |_| 1, now)),
                _ => {
                    if let Some(Job::Learn(path) | Job::Revalidate(path, _)) = schedule.next(now, which == 0, true) {
                        schedule.learned(&path, HeaderMap::new(), later, u64::MAX, now);
                    }
                }
            }
            let looks: Vec<&String> = schedule.looks.iter().map(|(_, path)| path).collect();
            prop_assert_eq!(looks.len(), schedule.held.len());
            prop_assert!(schedule.held.iter().all(|(path, held)| schedule.looks.contains(&(held.look_ms, path.clone()))));
            prop_assert!(schedule.urgent.iter().all(|path| schedule.held.contains_key(path)));
        }
    }
}
