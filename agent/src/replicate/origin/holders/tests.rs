use super::*;
use crate::identity::testing;
use crate::reputation::account::Membership;
use crate::reputation::book::Mode;
use crate::reputation::formulas::Formulas;
use p2pcdn_core::lookup::HashKey;
use p2pcdn_core::sync::{Have, Op};

fn holders() -> (Holders, Arc<Board>) {
    let board = Arc::new(Board::new("a.test".into(), 1, HashKey::default()));
    let book = Book::open(testing::database(), Formulas::default(), Mode::Observe).unwrap();
    (Holders::new(board.clone(), Arc::new(book)), board)
}

fn peer() -> PeerRecord {
    PeerRecord {
        domain: "b.test".into(),
        node_key: Sha256([1; 32]),
        sequence: 1,
        issued_s: 0,
        expires_s: 1,
        endpoint: "b.test".into(),
        replica_name: "r.b.test".into(),
        versions: vec![1],
        capabilities: vec![],
        contact: String::new(),
    }
}

fn published(board: &Board) -> (u16, u64) {
    let ops = board.changes_since(Have::default()).ops;
    let last = ops.iter().rev().find_map(|op| match op {
        Op::Holder(row) => Some((row.weight, row.lease_bytes_per_s)),
        _ => None,
    });
    last.expect("a holder")
}

const GRANT: LeaseGrant = LeaseGrant { bytes_per_s: 10, valid_s: 30 };

#[test]
fn a_host_is_redirected_to_once_a_probe_has_found_it_well() {
    let (holders, board) = holders();
    holders.granted(&peer(), GRANT, 0);
    holders.named("b.test", "r.b.test");
    assert_eq!(published(&board), (0, 10));
    holders.probed("b.test", true, 0);
    assert_eq!(published(&board), (FULL_WEIGHT, 10));
}

#[test]
fn a_host_gets_nothing_under_a_name_that_has_not_proven_to_be_its_own() {
    let (holders, board) = holders();
    holders.granted(&peer(), GRANT, 0);
    holders.probed("b.test", true, 0);
    assert_eq!(published(&board), (0, 10));
    holders.named("b.test", "r.other.test");
    assert_eq!(published(&board), (0, 10));
    holders.named("b.test", "r.b.test");
    assert_eq!(published(&board), (FULL_WEIGHT, 10));
    let moved = PeerRecord { replica_name: "r.other.test".into(), ..peer() };
    holders.granted(&moved, GRANT, 0);
    assert_eq!(published(&board), (0, 10));
    assert!(holders.due(1000, 9)[0].is_unnamed);
}

#[test]
fn one_failed_probe_ends_redirects_and_recovery_starts_slowly() {
    let (holders, board) = holders();
    holders.granted(&peer(), GRANT, 0);
    holders.named("b.test", "r.b.test");
    holders.probed("b.test", true, 0);
    holders.probed("b.test", false, 0);
    assert_eq!(published(&board), (0, 10));
    let mut weights = Vec::new();
    for _ in 0..5 {
        holders.probed("b.test", true, 0);
        weights.push(published(&board).0);
    }
    assert_eq!(weights, [125, 250, 500, 1000, 1000]);
}

#[test]
fn refusals_are_counted_by_reason_until_the_peer_is_none_any_more() {
    let (holders, _) = holders();
    holders.declined("b.test", Decline::Denied);
    holders.declined("b.test", Decline::Quota);
    holders.declined("b.test", Decline::Denied);
    holders.withdrawn("b.test", WithdrawalReason::Leaving, 5);
    let refusals = holders.refusals_of("b.test");
    assert_eq!(refusals.declined, [(Decline::Denied, 2), (Decline::Quota, 1)].into());
    assert_eq!(refusals.withdrawn, [(WithdrawalReason::Leaving, 5)].into());
    assert_eq!(holders.refusals_of("c.test"), Refusals::default());
    holders.removed("b.test");
    assert_eq!(holders.refusals_of("b.test"), Refusals::default());
}

#[test]
fn a_lease_that_is_not_renewed_runs_out() {
    let (holders, board) = holders();
    holders.granted(&peer(), GRANT, 0);
    holders.named("b.test", "r.b.test");
    holders.probed("b.test", true, 0);
    holders.due(29_999, 64);
    assert_eq!(published(&board).1, 10);
    holders.due(30_000, 64);
    assert_eq!(published(&board).1, 0);
}

#[test]
fn hosts_are_probed_every_second_while_redirected_to_or_unwell() {
    let (holders, _) = holders();
    holders.granted(&peer(), GRANT, 0);
    holders.named("b.test", "r.b.test");
    let due = |now| !holders.due(now, 64).is_empty();
    assert!(due(0));
    assert!(!due(500), "not yet");
    assert!(due(1000), "unproven");
    holders.probed("b.test", true, 0);
    assert!(!due(2000), "well and idle");
    holders.redirected("b.test", 1, 5, 2000);
    assert!(due(2001));
    assert!(!due(2900));
    assert!(due(2901));
    assert!(!due(12_500), "idle again");
    let suspect = Copy { path: "/x".into(), sha256: Sha256([1; 32]) };
    holders.doubted("b.test", suspect.clone(), 12_501);
    assert_eq!(holders.due(12_501, 64)[0].suspect, Some(suspect.clone()));
    holders.doubted("b.test", suspect, 12_502);
    assert!(!due(12_502), "clients cannot make it probe without end");
    holders.probed("b.test", false, 0);
    assert!(due(13_502));
    holders.hurry(|name| name == "r.c.test");
    assert!(!due(13_503));
    holders.hurry(|name| name == "r.b.test");
    assert!(due(13_503));
}

#[test]
fn a_host_that_was_idle_proves_itself_before_the_first_redirect_of_a_crowd() {
    let (holders, board) = holders();
    holders.granted(&peer(), GRANT, 0);
    holders.named("b.test", "r.b.test");
    holders.due(0, 64);
    holders.probed("b.test", true, 100);
    holders.needed(false, 5000);
    assert_eq!(published(&board), (FULL_WEIGHT, 10), "rescue needs no crowd");
    assert!(holders.due(5000, 64).is_empty());
    // In the very answer that tells a gate to redirect.
    holders.needed(true, 5000);
    assert_eq!(published(&board), (0, 10));
    assert_eq!(holders.due(5001, 64).len(), 1, "at once");
    holders.probed("b.test", true, 5050);
    assert_eq!(published(&board), (FULL_WEIGHT, 10));
    // From now on every second, whether it gets redirects or not.
    holders.needed(true, 5100);
    assert_eq!(published(&board), (FULL_WEIGHT, 10));
    assert_eq!(holders.due(5901, 64).len(), 1);
    holders.probed("b.test", true, 5950);
    holders.needed(false, 6000);
    holders.needed(true, 7900);
    assert_eq!(published(&board), (FULL_WEIGHT, 10), "its last good probe is not two seconds ago");
    holders.needed(false, 8000);
    holders.needed(true, 8001);
    holders.probed("b.test", false, 8700);
    assert_eq!(published(&board), (0, 10));
}

#[test]
fn an_object_larger_than_the_lease_is_paid_back_before_any_worker_gets_another_share() {
    let (holders, board) = holders();
    holders.granted(&peer(), GRANT, 0);
    holders.named("b.test", "r.b.test");
    holders.probed("b.test", true, 0);
    holders.redirected("b.test", 1, 100, 0);
    assert_eq!(published(&board), (FULL_WEIGHT, 0));
    holders.granted(&peer(), GRANT, 5000);
    holders.named("b.test", "r.b.test");
    assert_eq!(published(&board).1, 0, "a renewal forgives nothing");
    assert_eq!(holders.list()["b.test"].lease_bytes_per_s, 10);
    holders.due(9100, 64);
    assert_eq!(published(&board).1, 10);
}

#[test]
fn who_has_held_nothing_for_a_while_proves_itself_anew() {
    let (holders, board) = holders();
    holders.granted(&peer(), GRANT, 0);
    holders.named("b.test", "r.b.test");
    holders.due(0, 64);
    holders.probed("b.test", true, 0);
    holders.holds_nothing("b.test");
    assert_eq!(published(&board), (0, 10));
    assert_eq!(holders.due(900, 64).len(), 1, "every second, until there is something to ask for");
    holders.probed("b.test", true, 950);
    assert_eq!(published(&board), (FULL_WEIGHT, 10));
    holders.probed("b.test", false, 2000);
    holders.holds_nothing("b.test");
    holders.probed("b.test", true, 3000);
    assert_eq!(published(&board).0, RECOVERING_WEIGHT, "holding nothing is no recovery");
}

#[test]
fn hosts_that_do_not_answer_keep_none_of_the_others_from_being_probed() {
    let (holders, _) = holders();
    for number in 0..200 {
        let domain = format!("{number:03}.test");
        holders.granted(&PeerRecord { domain: domain.clone(), ..peer() }, GRANT, 0);
        if number < 150 {
            holders.probed(&domain, false, 0);
        }
    }
    let names = |due: Vec<Due>| due.into_iter().map(|due| due.domain).collect::<Vec<_>>();
    let first = names(holders.due(0, 64));
    assert_eq!(first.len(), 64);
    assert!((150..200).all(|number| first.contains(&format!("{number:03}.test"))), "those that may answer first");
    let rest = [names(holders.due(50, 64)), names(holders.due(100, 64))].concat();
    let all: std::collections::BTreeSet<&String> = first.iter().chain(&rest).collect();
    assert_eq!(all.len(), 64 + 128, "then the others in turn, none of them twice");
    assert!(holders.due(150, 0).is_empty());
}

#[test]
fn a_swarm_of_strangers_hardly_raises_how_many_could_be_hosts() {
    let (holders, _) = holders();
    let strangers: Vec<String> = (0..100).map(|number| format!("{number}.swarm.test")).collect();
    let met =
        |names: &[&'static str], membership| names.iter().map(move |name| (*name, membership)).collect::<Vec<_>>();
    holders.book.meet(strangers.iter().map(|name| (name.as_str(), Membership::Open)));
    assert_eq!(holders.possible(), 0);
    holders.book.meet(met(&["c.test", "d.test"], Membership::Invited).into_iter());
    assert_eq!(holders.possible(), 3);
    holders.book.meet(met(&["b.test"], Membership::Open).into_iter());
    holders.granted(&peer(), GRANT, 0);
    assert_eq!(holders.possible(), 4, "whoever holds something counts, new or not, and one stranger for two of these");
}

/// A host that had been slow for all that was sent to it got little for good, since nobody saw that this was over.
#[test]
fn once_load_has_ended_a_host_is_not_measured_by_it() {
    use crate::reputation::Audited;
    use crate::reputation::account::Verdict;
    let board = Arc::new(Board::new("a.test".into(), 1, HashKey::default()));
    let book = Arc::new(Book::open(testing::database(), Formulas::default(), Mode::On).unwrap());
    book.meet([("b.test", Membership::Invited)].into_iter());
    let audited = Audited { verdict: Verdict::Good, path: "/x", bytes_per_s: Some(1000.0), begun_ms: u64::MAX };
    book.judge(|reputation, now_ms| reputation.audited("b.test", &audited, now_ms));
    let holders = Holders::new(board.clone(), book);
    holders.granted(&peer(), GRANT, 0);
    holders.named("b.test", "r.b.test");
    holders.probed("b.test", true, 0);
    let weight = || {
        holders.review();
        published(&board).0
    };
    let at_rest = weight();
    holders.redirected("b.test", 10, 1_000_000, 0);
    assert!(weight() < at_rest / 10);
    for second in 1..300 {
        holders.due(second * 1000, 8);
    }
    assert_eq!(weight(), at_rest);
}
