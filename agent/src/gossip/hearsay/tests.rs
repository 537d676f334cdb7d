use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

const HOUR: u64 = 3_600_000;
const DAY: u64 = 24 * HOUR;

type Own = BTreeMap<String, OwnView>;

fn said(subject: &str, good: u32, bad: u32, wrong: u32) -> Observation {
    Observation { subject: subject.into(), good, bad, wrong }
}

fn list(entries: Vec<Observation>) -> Observations {
    Observations { sequence: 1, issued_s: 0, expires_s: 1, entries }
}

/// Twelve clean hosts, each audited a hundred times.
fn own() -> Own {
    (0..12).map(|n| (format!("h{n}.test"), OwnView { audits: 100, wrong: 0, bad: 1 })).collect()
}

/// What an honest reporter says of those, and that `victim` serves wrong bytes.
fn warning(victim: &str) -> Observations {
    let clean = (0..12).map(|n| said(&format!("h{n}.test"), 50, 0, 0)).filter(|clean| clean.subject != victim);
    list(clean.chain([said(victim, 20, 0, 5)]).collect())
}

fn hear(hearsay: &mut Hearsay, reporter: &str, list: &Observations, own: &Own, now_ms: u64) -> Vec<String> {
    hearsay.hear(reporter, list, |domain| own.get(domain).copied(), now_ms)
}

#[test]
fn a_reporter_counts_for_nothing_below_ten_comparisons() {
    let (mut hearsay, own) = (Hearsay::new(&Formulas::default()), own());
    let few = list((0..9).map(|n| said(&format!("h{n}.test"), 50, 0, 0)).chain([said("x.test", 0, 0, 9)]).collect());
    assert_eq!(hear(&mut hearsay, "r.test", &few, &own, 0), [""; 0]);
    assert_eq!(hearsay.credit("r.test"), 0.0);
    assert_eq!(hear(&mut hearsay, "r.test", &warning("x.test"), &own, HOUR), ["x.test"]);
    assert!(hearsay.credit("r.test") > 0.99);
    assert_eq!(hearsay.credit("unknown.test"), 0.0);
}

#[test]
fn the_word_of_one_who_disagrees_with_own_audits_moves_nothing() {
    let (mut hearsay, mut own) = (Hearsay::new(&Formulas::default()), own());
    // It calls everything clean of which own audits found one in ten wrong.
    own.values_mut().for_each(|seen| seen.wrong = 10);
    let lies = list((0..12).map(|n| said(&format!("h{n}.test"), 500, 0, 0)).chain([said("x.test", 0, 0, 9)]).collect());
    assert_eq!(hear(&mut hearsay, "r.test", &lies, &own, 0), [""; 0]);
    assert_eq!(hearsay.credit("r.test"), 0.0);
}

#[test]
fn nobody_is_blamed_for_what_it_could_not_see() {
    let rare = said("a.test", 99, 0, 1);
    assert_eq!(agrees(&rare, &OwnView { audits: 20, wrong: 0, bad: 0 }), None);
    assert_eq!(agrees(&rare, &OwnView { audits: 400, wrong: 0, bad: 0 }), Some(false));
    assert_eq!(agrees(&said("a.test", 3, 0, 0), &OwnView { audits: 100, wrong: 2, bad: 0 }), None);
    assert_eq!(agrees(&said("a.test", 300, 0, 0), &OwnView { audits: 100, wrong: 2, bad: 0 }), Some(false));
    assert_eq!(agrees(&said("a.test", 3, 0, 0), &OwnView::default()), None);
}

#[test]
fn a_warning_that_own_audits_disprove_costs_credit_and_makes_its_victim_immune_for_a_week() {
    let (mut hearsay, mut own) = (Hearsay::new(&Formulas::default()), own());
    own.remove("h0.test");
    assert_eq!(hear(&mut hearsay, "r.test", &warning("h0.test"), &own, 0), ["h0.test"]);
    let credit = hearsay.credit("r.test");
    own.insert("h0.test".into(), OwnView { audits: 10, wrong: 0, bad: 0 });
    hearsay.review(|domain| own.get(domain).copied(), HOUR);
    assert!(hearsay.credit("r.test") <= credit * 0.25);
    // An unblemished reporter warns of the same host: not within a week, whoever does.
    assert_eq!(hear(&mut hearsay, "s.test", &warning("h0.test"), &own, 6 * DAY), [""; 0]);
    own.remove("h0.test");
    assert_eq!(hear(&mut hearsay, "t.test", &warning("h0.test"), &own, 8 * DAY), ["h0.test"]);
}

#[test]
fn a_warning_that_own_audits_confirm_costs_nothing() {
    let (mut hearsay, mut own) = (Hearsay::new(&Formulas::default()), own());
    assert_eq!(hear(&mut hearsay, "r.test", &warning("x.test"), &own, 0), ["x.test"]);
    own.insert("x.test".into(), OwnView { audits: 12, wrong: 1, bad: 0 });
    hearsay.review(|domain| own.get(domain).copied(), HOUR);
    assert!(hearsay.credit("r.test") > 0.99);
}

#[test]
fn a_host_is_suspected_once_a_day_however_many_warn() {
    let (mut hearsay, own) = (Hearsay::new(&Formulas::default()), own());
    assert_eq!(hear(&mut hearsay, "r.test", &warning("x.test"), &own, 0), ["x.test"]);
    for hour in 1..24 {
        assert_eq!(hear(&mut hearsay, &format!("r{hour}.test"), &warning("x.test"), &own, hour * HOUR), [""; 0]);
    }
    assert_eq!(hear(&mut hearsay, "r.test", &warning("x.test"), &own, 25 * HOUR), ["x.test"]);
}

#[test]
fn one_reporter_cannot_have_everybody_suspected_at_once() {
    let (mut hearsay, own) = (Hearsay::new(&Formulas::default()), own());
    let clean = (0..12).map(|n| said(&format!("h{n}.test"), 50, 0, 0));
    let slander = clean.chain((0..20).map(|n| said(&format!("v{n}.test"), 0, 0, 9)));
    assert_eq!(hear(&mut hearsay, "r.test", &list(slander.collect()), &own, 0).len(), 3);
}

#[test]
fn praise_comes_from_the_credible_only_and_not_from_oneself() {
    let (mut hearsay, own) = (Hearsay::new(&Formulas::default()), own());
    let praise = list(vec![said("x.test", 100, 0, 0)]);
    hear(&mut hearsay, "nobody.test", &praise, &own, 0);
    assert_eq!(hearsay.praise("x.test"), 0.0);
    let honest: Vec<_> =
        (0..12).map(|n| said(&format!("h{n}.test"), 50, 0, 0)).chain([said("x.test", 100, 0, 0)]).collect();
    hear(&mut hearsay, "r.test", &list(honest), &own, 0);
    assert!(hearsay.praise("x.test") > 0.99);
}

proptest! {
    #[test]
    fn whatever_is_said_memory_is_bounded_and_no_reporter_without_overlap_moves_anything(
        words in prop::collection::vec(
            (0..30u8, prop::collection::vec((0..60u8, 0..99u32, 0..9u32, 0..9u32), 0..20), 0..DAY), 1..40),
    ) {
        let (mut hearsay, mut now_ms) = (Hearsay::new(&Formulas::default()), 0);
        for (reporter, entries, pause) in words {
            now_ms += pause;
            let entries = entries.into_iter().map(|(n, good, bad, wrong)| said(&format!("x{n}.test"), good, bad, wrong));
            let suspected = hearsay.hear(&format!("r{reporter}.test"), &list(entries.collect()), |_| None, now_ms);
            prop_assert!(suspected.is_empty());
        }
        prop_assert!(hearsay.subjects.is_empty() && hearsay.reporters.len() <= 30);
    }

    #[test]
    fn credit_is_a_share_and_fades(words in prop::collection::vec((0..12u8, 0..99u32, 0..3u32), 0..30), days in 0..100u64) {
        let (mut hearsay, own) = (Hearsay::new(&Formulas::default()), own());
        let entries = words.into_iter().map(|(n, good, wrong)| said(&format!("h{n}.test"), good, 0, wrong));
        hear(&mut hearsay, "r.test", &list(entries.collect()), &own, 0);
        let credit = hearsay.credit("r.test");
        prop_assert!((0.0..=1.0).contains(&credit));
        hear(&mut hearsay, "r.test", &list(vec![]), &own, days * DAY);
        prop_assert!(hearsay.credit("r.test") <= credit + 1e-9);
    }
}
