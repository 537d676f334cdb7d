use super::formulas::DAY_MS;
use super::*;

/// Audits that begin after everything that was seen before.
const GOOD: Audited<'static> =
    Audited { verdict: Verdict::Good, path: "/a.png", bytes_per_s: None, begun_ms: u64::MAX };
const WRONG: Audited<'static> = Audited { verdict: Verdict::WrongBytes, ..GOOD };

fn with(peers: &[(&str, Membership)]) -> Reputation {
    let mut reputation = Reputation::new(Formulas::default(), BTreeMap::new(), BTreeMap::new());
    peers.iter().for_each(|(domain, membership)| reputation.meet(domain, *membership, 0));
    reputation
}

fn audit(reputation: &mut Reputation, domain: &str, audited: &Audited<'_>, times: usize, now_ms: u64) {
    (0..times).for_each(|_| reputation.audited(domain, audited, now_ms));
}

fn state(reputation: &Reputation, domain: &str, now_ms: u64) -> State {
    reputation.standing(domain, 0.0, now_ms).state
}

#[test]
fn a_friend_is_useful_at_once_and_a_stranger_after_a_day() {
    let mut reputation = with(&[("friend.example", Membership::Invited), ("stranger.example", Membership::Open)]);
    let friend = reputation.standing("friend.example", 0.0, 1);
    assert!(friend.weight > 0.5 && !friend.newcomer, "{friend:?}");
    assert_eq!(reputation.need("friend.example", 1).first, 5);
    audit(&mut reputation, "stranger.example", &GOOD, 19, 1);
    assert!(reputation.standing("stranger.example", 0.0, DAY_MS).newcomer, "too few audits");
    audit(&mut reputation, "stranger.example", &GOOD, 1, 1);
    assert!(reputation.standing("stranger.example", 0.0, DAY_MS - 1).newcomer, "too young");
    let known = reputation.standing("stranger.example", 0.0, DAY_MS);
    assert!(!known.newcomer && known.weight < 0.1, "still on its ramp: {known:?}");
    audit(&mut reputation, "stranger.example", &GOOD, 180, DAY_MS);
    assert!(reputation.standing("stranger.example", 0.0, DAY_MS).weight > 0.9);
}

#[test]
fn one_wrong_body_ends_redirects_until_it_is_made_good() {
    let mut reputation = with(&[("b.example", Membership::Invited)]);
    audit(&mut reputation, "b.example", &GOOD, 500, 1);
    reputation.audited("b.example", &WRONG, 2);
    assert_eq!(state(&reputation, "b.example", 3), State::Struck { owed: 20 });
    assert_eq!(reputation.standing("b.example", 0.0, 3).weight, 0.0);
    let need = reputation.need("b.example", 3);
    assert!(need.rests && need.factor == 4.0 && need.clean == 0);
    audit(&mut reputation, "b.example", &GOOD, 20, 4);
    assert_eq!(state(&reputation, "b.example", 5), State::Trusted);
}

/// Four audits at once, and an accident of a minute was three strikes and a week of isolation.
#[test]
fn wrong_audits_that_overlap_are_one_strike() {
    let mut reputation = with(&[("b.example", Membership::Invited)]);
    let wrong = |begun_ms| Audited { begun_ms, ..WRONG };
    for (begun_ms, ended_ms) in [(1000, 1500), (1001, 1501), (1300, 2000), (1499, 9000)] {
        reputation.audited("b.example", &wrong(begun_ms), ended_ms);
    }
    assert_eq!(state(&reputation, "b.example", 9000), State::Struck { owed: 20 });
    let account = reputation.account("b.example").unwrap();
    assert_eq!((account.audits[Verdict::WrongBytes as usize], account.clean), (4, 0), "they are told all the same");
    // Who goes on with it is isolated as soon as ever.
    reputation.audited("b.example", &wrong(9000), 9100);
    assert_eq!(state(&reputation, "b.example", 9100), State::Struck { owed: 80 });
    reputation.audited("b.example", &wrong(9100), 9200);
    assert!(matches!(state(&reputation, "b.example", 9200), State::Isolated { .. }));
}

#[test]
fn strikes_that_a_wrong_clock_put_into_the_future_excuse_nobody() {
    let mut reputation = with(&[("b.example", Membership::Invited)]);
    for now_ms in [100 * DAY_MS, 5, 6] {
        reputation.audited("b.example", &Audited { begun_ms: now_ms, ..WRONG }, now_ms);
    }
    assert!(matches!(state(&reputation, "b.example", 7), State::Isolated { .. }));
}

#[test]
fn isolation_is_by_own_audits_only_and_ends() {
    let mut reputation = with(&[("b.example", Membership::Invited)]);
    audit(&mut reputation, "b.example", &WRONG, 3, 1);
    assert_eq!(state(&reputation, "b.example", 2), State::Isolated { until_ms: 1 + 7 * DAY_MS });
    assert_eq!(reputation.need("b.example", 2).factor, 0.0, "nobody looks at the isolated");
    assert_eq!(state(&reputation, "b.example", 8 * DAY_MS), State::Struck { owed: 320 });
}

#[test]
fn hearsay_halves_a_weight_for_a_day_at_most_and_never_isolates() {
    let mut reputation = with(&[("b.example", Membership::Invited)]);
    let before = reputation.standing("b.example", 0.0, 1).weight;
    for hour in 0..48 {
        reputation.suspected("b.example", Cause::Hearsay, 1 + hour * DAY_MS / 24);
    }
    assert!((reputation.standing("b.example", 0.0, 2).weight - before / 2.0).abs() < 1e-9);
    assert_eq!(reputation.need("b.example", 2).factor, 5.0);
    assert!(
        (reputation.standing("b.example", 0.0, DAY_MS + 1).weight - before).abs() < 1e-9,
        "repeating does not prolong"
    );
    assert!(!reputation.suspected("b.example", Cause::Hearsay, 3 * DAY_MS), "not again within a week");
    assert!(reputation.suspected("b.example", Cause::Hearsay, 8 * DAY_MS));
}

#[test]
fn own_audits_end_a_suspicion_early() {
    let mut reputation = with(&[("b.example", Membership::Invited)]);
    reputation.suspected("b.example", Cause::Hearsay, 1);
    audit(&mut reputation, "b.example", &GOOD, 10, 2);
    assert_eq!(reputation.need("b.example", 3).factor, 1.0);
    assert!(!reputation.suspected("b.example", Cause::Hearsay, 4), "cleared by what was seen here");
    assert!(reputation.suspected("b.example", Cause::Return, 4), "own visitors still count");
    assert!(reputation.standing("b.example", 0.0, 4).weight > 0.5, "and lower nothing");
}

#[test]
fn bad_marks_stay_on_the_registrable_domain() {
    let mut reputation = with(&[("a.evil.example", Membership::Open)]);
    audit(&mut reputation, "a.evil.example", &WRONG, 3, 1);
    reputation.meet("b.evil.example", Membership::Open, 2);
    assert!(matches!(state(&reputation, "b.evil.example", 2), State::Isolated { .. }));
    reputation.meet("good.example", Membership::Open, 2);
    assert_eq!(state(&reputation, "good.example", 2), State::Newcomer);
}

#[test]
fn a_proof_convicts_until_the_operator_forgives() {
    let mut reputation = with(&[("b.example", Membership::Invited)]);
    reputation.convicted("b.example", "signed two records of one sequence", 1);
    assert_eq!(state(&reputation, "b.example", 1000 * DAY_MS), State::Convicted);
    assert!(reputation.forgive("b.example", 2));
    assert_eq!(state(&reputation, "b.example", 3), State::Trusted);
    assert!(!reputation.forgive("nobody.example", 2));
    // Others go on telling the proof.
    reputation.convicted("b.example", "signed two records of one sequence", 4);
    assert_eq!(state(&reputation, "b.example", 5), State::Trusted);
    reputation.convicted("b.example", "signed two other records of one sequence", 6);
    assert_eq!(state(&reputation, "b.example", 7), State::Convicted);
}

#[test]
fn the_operators_ban_holds_whatever_audits_say() {
    let mut reputation = with(&[("b.example", Membership::Invited)]);
    assert!(reputation.ban("b.example", 1) && !reputation.ban("nobody.example", 1));
    audit(&mut reputation, "b.example", &GOOD, 100, 2);
    assert_eq!(state(&reputation, "b.example", 3), State::Banned);
    assert_eq!(reputation.need("b.example", 3).factor, 0.0);
}

#[test]
fn visitors_evidence_rests_redirects_for_longer_each_time() {
    let mut reputation = with(&[("b.example", Membership::Invited)]);
    reputation.suspended("b.example", "three networks", 1);
    reputation.suspended("b.example", "again while it lasts", 2);
    assert_eq!(state(&reputation, "b.example", 3), State::Suspended { until_ms: 1 + 30 * DAY_MS });
    reputation.suspended("b.example", "three networks", 31 * DAY_MS);
    assert_eq!(state(&reputation, "b.example", 32 * DAY_MS), State::Suspended { until_ms: 91 * DAY_MS });
    reputation.resumed("b.example", 33 * DAY_MS);
    assert_eq!(state(&reputation, "b.example", 33 * DAY_MS), State::Trusted);
}

#[test]
fn a_weight_is_explained_by_factors_whose_product_it_is() {
    let mut reputation = with(&[("b.example", Membership::Open)]);
    let now = DAY_MS;
    for audited in [GOOD, Audited { verdict: Verdict::Slow, bytes_per_s: Some(500.0), ..GOOD }] {
        audit(&mut reputation, "b.example", &audited, 50, now);
    }
    reputation.suspected("b.example", Cause::Hearsay, now);
    let why = reputation.why("b.example", 1000.0, now).unwrap();
    let product: f64 = why.factors.iter().map(|factor| factor.value).product();
    assert!((product - why.weight).abs() < 1e-9, "{why:?}");
    assert_eq!(why.audits, [(Verdict::Good, 50), (Verdict::Slow, 50)].into());
    let counts: Vec<u32> = why.lines.iter().map(|line| line.count).collect();
    assert_eq!(counts, [1, 50, 50, 1], "alike lines are counted");
    assert_eq!(reputation.why("nobody.example", 0.0, now), None);
}

#[test]
fn what_is_remembered_is_bounded_and_marks_are_not_washed_out() {
    let mut reputation = with(&[("evil.example", Membership::Open)]);
    reputation.audited("evil.example", &WRONG, 1);
    for number in 0..MAX_ACCOUNTS + 5 {
        reputation.meet(&format!("n{number}.example"), Membership::Open, 2);
    }
    assert_eq!(reputation.domains().count(), MAX_ACCOUNTS);
    assert!(matches!(state(&reputation, "evil.example", 3), State::Struck { .. }));
}

/// A flood of names pushed out who had been known for long, and whose suspension was forgotten with the rest.
#[test]
fn strangers_that_come_and_go_push_out_one_another() {
    use Membership::{Invited, Open};
    let mut reputation = with(&[
        ("friend.example", Invited),
        ("former.example", Invited),
        ("known.example", Open),
        ("suspended.example", Open),
        ("young.example", Open),
    ]);
    reputation.are_peers(["friend.example".to_owned(), "young.example".to_owned()].into());
    audit(&mut reputation, "known.example", &GOOD, 50, 1);
    reputation.suspended("suspended.example", "three networks", 2 * DAY_MS);
    for number in 0..MAX_ACCOUNTS + 5 {
        reputation.meet(&format!("n{number}.example"), Open, 3 * DAY_MS);
    }
    let left: Vec<_> = reputation.domains().filter(|domain| !domain.starts_with('n')).cloned().collect();
    let kept = ["former.example", "friend.example", "known.example", "suspended.example", "young.example"];
    assert_eq!(left, kept);
    assert_eq!(reputation.domains().count(), MAX_ACCOUNTS);
    let after = 100 * DAY_MS;
    reputation.meet("late.example", Open, after);
    assert!(reputation.account("suspended.example").is_none(), "its time is over, and it never proved itself");
}

#[test]
fn what_is_kept_can_be_written_and_read() {
    let mut reputation = with(&[("b.example", Membership::Open)]);
    audit(&mut reputation, "b.example", &GOOD, 3, 5);
    reputation.audited("b.example", &WRONG, 6);
    let account = serde_json::to_string(reputation.account("b.example").unwrap()).unwrap();
    let marks = serde_json::to_string(reputation.marks("b.example").unwrap()).unwrap();
    let read = Reputation::new(
        Formulas::default(),
        [("b.example".to_owned(), serde_json::from_str(&account).unwrap())].into(),
        [("b.example".to_owned(), serde_json::from_str(&marks).unwrap())].into(),
    );
    assert_eq!(read.standing("b.example", 0.0, 7), reputation.standing("b.example", 0.0, 7));
    assert_eq!(reputation.take_changed().len(), 1);
    assert!(reputation.take_changed().is_empty());
}
