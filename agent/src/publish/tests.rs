use p2pcdn_core::destination::Destination;
use p2pcdn_core::object::Class;
use p2pcdn_core::replica_table::{MAX_HOLDERS, ReplicaTable};
use p2pcdn_core::sync::Progress;
use proptest::prelude::*;

use super::*;
use crate::identity::testing;

fn exposure(weight: u16, lease_bytes_per_s: u64) -> Exposure {
    Exposure { weight, newcomer: false, lease_bytes_per_s }
}

fn board() -> Board {
    Board::new("a.test".into(), 7, HashKey([1, 2]))
}

fn record(path: &str, version: u8) -> ObjectRecord {
    ObjectRecord {
        sha256: Sha256([version; 32]),
        chunks: vec![Sha256([version; 32])],
        ..testing::object_record("a.test", path, b"x")
    }
}

/// A gate as far as the table is concerned.
struct Vm {
    have: Have,
    table: ReplicaTable,
}

impl Vm {
    fn new() -> Self {
        Self { have: Have::default(), table: ReplicaTable::new(1 << 20) }
    }

    fn step(&mut self, board: &Board) {
        let changes = board.changes_since(self.have);
        if changes.clear {
            self.table.clear();
        }
        self.table.apply(changes.ops).expect("the board says nothing malformed");
        self.have = changes.now;
    }

    fn holders(&self, board: &Board, path: &str) -> Option<Vec<String>> {
        let found = self.table.find(board.key_of(path))?;
        let name = |id: &u16| self.table.holder(*id).map(|h| h.authority.to_string());
        Some(found.holders.iter().filter_map(name).collect())
    }
}

#[test]
fn an_object_is_visible_while_somebody_holds_its_present_version() {
    let (board, mut vm) = (board(), Vm::new());
    board.set_peer("b.test", "r.b.test", exposure(1000, 10));
    board.put_object(&record("/x", 1), Class::Image, None, u32::MAX);
    vm.step(&board);
    assert_eq!(vm.holders(&board, "/x"), None);

    board.set_holder("/x", &Sha256([1; 32]), "b.test", true);
    vm.step(&board);
    assert_eq!(vm.holders(&board, "/x"), Some(vec!["r.b.test".to_owned()]));

    board.put_object(&record("/x", 2), Class::Image, None, u32::MAX);
    vm.step(&board);
    assert_eq!(vm.holders(&board, "/x"), None, "the holder has the former version");
    board.set_holder("/x", &Sha256([1; 32]), "b.test", true);
    vm.step(&board);
    assert_eq!(vm.holders(&board, "/x"), None, "a late acknowledgement of the former version");
    board.set_holder("/x", &Sha256([2; 32]), "nobody.test", true);
    assert!(board.holders_of("/x").is_empty());
}

#[test]
fn a_changed_object_leaves_the_table_before_its_new_version_enters() {
    let (board, mut vm) = (board(), Vm::new());
    board.set_peer("b.test", "r.b.test", exposure(1000, 10));
    board.put_object(&record("/x", 1), Class::Image, None, u32::MAX);
    board.set_holder("/x", &Sha256([1; 32]), "b.test", true);
    vm.step(&board);
    board.remove_object("/x");
    board.put_object(&record("/x", 2), Class::Image, None, u32::MAX);
    board.set_holder("/x", &Sha256([2; 32]), "b.test", true);
    let ops = board.changes_since(vm.have).ops;
    let objects = ops.iter().filter(|op| !matches!(op, Op::Set { .. }));
    let removals: Vec<bool> = objects.map(|op| matches!(op, Op::Remove { .. })).collect();
    assert_eq!(removals, [true, false]);
}

#[test]
fn a_former_peer_is_no_holder_any_more() {
    let (board, mut vm) = (board(), Vm::new());
    board.set_peer("b.test", "r.b.test", exposure(1000, 10));
    board.put_object(&record("/x", 1), Class::Image, None, u32::MAX);
    board.set_holder("/x", &Sha256([1; 32]), "b.test", true);
    board.forget_holder("b.test");
    vm.step(&board);
    assert_eq!(vm.holders(&board, "/x"), None);
    assert!(!board.holds("/x", &Sha256([1; 32]), "b.test"));
}

#[test]
fn newcomers_get_the_numbers_of_forgotten_peers_once_all_are_given_and_nothing_that_was_theirs() {
    let (board, mut vm) = (board(), Vm::new());
    let set = |domain: &str| board.set_peer(domain, &format!("r.{domain}"), exposure(1000, 10));
    let all: Vec<String> = (0..MAX_HOLDERS).map(|number| format!("{number}.test")).collect();
    assert!(all.iter().all(|domain| set(domain)));
    assert!(!set("late.test"));
    board.put_object(&record("/x", 1), Class::Image, None, u32::MAX);
    let sha256 = Sha256([1; 32]);
    all[..4].iter().for_each(|domain| board.set_holder("/x", &sha256, domain, true));
    all[1..4].iter().for_each(|domain| board.forget_holder(domain));
    board.forget_holder(&all[2]);
    assert!(set(&all[1]), "back before anybody got the number");

    assert!(set("late.test") && set("later.test") && !set("last.test"));
    assert_eq!(board.domain_of(2).as_deref(), Some("late.test"), "forgotten longest");
    assert_eq!(board.held_by("late.test"), 0);
    assert!(!set(&all[2]), "its number is another's");
    board.set_holder("/x", &sha256, "later.test", true);
    vm.step(&board);
    let mut told = vm.holders(&board, "/x").unwrap();
    told.sort();
    assert_eq!(told, ["r.0.test", "r.later.test"]);
}

#[test]
fn a_vm_of_another_session_starts_again() {
    let board = board();
    board.set_peer("b.test", "r.b.test", exposure(1000, 10));
    let stranger = Have { session: 6, version: 0, progress: Progress::Complete };
    let changes = board.changes_since(stranger);
    assert!(changes.clear);
    assert_eq!(changes.now.session, 7);
    let ahead = Have { session: 7, version: 99, progress: Progress::Complete };
    assert!(board.changes_since(ahead).clear);
}

#[test]
fn a_vm_that_lags_behind_the_log_catches_up_by_snapshot_in_bounded_pages() {
    let (board, mut vm) = (board(), Vm::new());
    board.set_peer("b.test", "r.b.test", exposure(1000, 10));
    vm.step(&board);
    for i in 0..40_000 {
        let path = format!("/{i}");
        board.put_object(&record(&path, 1), Class::Image, None, u32::MAX);
        board.set_holder(&path, &Sha256([1; 32]), "b.test", true);
        board.set_holder(&path, &Sha256([1; 32]), "b.test", false);
        board.set_holder(&path, &Sha256([1; 32]), "b.test", true);
    }
    let mut pages = 0;
    while vm.have.progress != Progress::Complete || vm.have.version != board.size().version {
        let changes = board.changes_since(vm.have);
        assert!(changes.ops.len() < 10_000);
        assert_eq!(changes.clear, pages == 0);
        assert_eq!(changes.more, changes.now.progress != Progress::Complete);
        vm.step(&board);
        pages += 1;
        if pages < 5 {
            // The site goes on changing meanwhile.
            board.remove_object(&format!("/{pages}"));
        }
    }
    assert!(pages > 5);
    assert_eq!(vm.table.len(), board.size().objects);
}

#[test]
fn an_object_with_many_holders_shows_as_many_as_the_filter_takes() {
    let (board, mut vm) = (board(), Vm::new());
    board.put_object(&record("/x", 1), Class::Image, None, u32::MAX);
    for i in 0..40 {
        let domain = format!("p{i}.test");
        board.set_peer(&domain, &domain, exposure(1000, 10));
        board.set_holder("/x", &Sha256([1; 32]), &domain, true);
    }
    vm.step(&board);
    assert_eq!(vm.holders(&board, "/x").map(|h| h.len()), Some(MAX_SET_HOLDERS));
}

#[tokio::test]
async fn whatever_changes_about_an_object_is_told_once() {
    let board = board();
    board.set_peer("b.test", "r.b.test", exposure(1000, 10));
    let sha256 = Sha256([1; 32]);
    let touched = || {
        let mut touched: Vec<String> = board.take_touched().iter().map(ToString::to_string).collect();
        touched.sort();
        touched
    };
    board.put_object(&record("/x", 1), Class::Image, None, u32::MAX);
    board.put_object(&record("/y", 1), Class::Image, None, u32::MAX);
    board.touched().await;
    assert_eq!(touched(), ["/x", "/y"]);
    board.set_holder("/x", &sha256, "b.test", true);
    board.touched().await;
    assert_eq!(touched(), ["/x"]);
    board.set_holder("/x", &sha256, "b.test", true);
    assert!(touched().is_empty(), "nothing new");
    board.forget_holder("b.test");
    assert_eq!(touched(), ["/x"]);
    board.remove_object("/y");
    board.remove_object("/z");
    assert_eq!(touched(), ["/y"]);
}

#[derive(Debug, Clone)]
enum Event {
    Put(u8, u8),
    Remove(u8),
    Hold(u8, u8, u8, bool),
    Peer(u8, u16),
    Forget(u8),
    Sync,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        (0..6u8, 0..3u8).prop_map(|(path, version)| Event::Put(path, version)),
        (0..6u8).prop_map(Event::Remove),
        (0..6u8, 0..3u8, 0..4u8, any::<bool>()).prop_map(|(p, v, d, h)| Event::Hold(p, v, d, h)),
        (0..4u8, 0..=1000u16).prop_map(|(domain, weight)| Event::Peer(domain, weight)),
        (0..4u8).prop_map(Event::Forget),
        Just(Event::Sync),
    ]
}

proptest! {
    #[test]
    fn whenever_a_vm_is_up_to_date_it_knows_what_the_board_knows(events in prop::collection::vec(event(), 0..200)) {
        let (board, mut vm) = (board(), Vm::new());
        for event in events {
            match event {
                Event::Put(path, version) => board.put_object(&record(&format!("/{path}"), version), Class::Image, None, u32::MAX),
                Event::Remove(path) => board.remove_object(&format!("/{path}")),
                Event::Hold(path, version, domain, holds) => {
                    board.set_holder(&format!("/{path}"), &Sha256([version; 32]), &format!("{domain}.test"), holds);
                }
                Event::Peer(domain, weight) => {
                    board.set_peer(&format!("{domain}.test"), &format!("{domain}.test"), exposure(weight, 1));
                }
                Event::Forget(domain) => board.forget_holder(&format!("{domain}.test")),
                Event::Sync => vm.step(&board),
            }
        }
        vm.step(&board);
        prop_assert_eq!(vm.have.version, board.size().version);
        for domain in 0..4 {
            let domain = format!("{domain}.test");
            let held = (0..6).filter(|path| board.holders_of(&format!("/{path}")).contains(&domain)).count();
            prop_assert_eq!(board.held_by(&domain), held);
            let sampled: BTreeSet<_> = (0..held).filter_map(|_| Some(board.sample(&domain)?.path)).collect();
            prop_assert_eq!(sampled.len(), held, "each in its turn");
        }
        for path in 0..6 {
            let path = format!("/{path}");
            let mut told = vm.holders(&board, &path).unwrap_or_default();
            let mut known = board.holders_of(&path);
            told.sort();
            known.sort();
            prop_assert_eq!(told, known);
        }
    }
}

#[test]
fn what_is_blocked_at_a_name_stays_blocked_until_something_else_is_said() {
    let (board, mut vm) = (board(), Vm::new());
    let font = Destinations::NONE.with(Destination::Font);
    let image = Destinations::NONE.with(Destination::Image);
    board.set_blocked_at_first(font);
    let blocked = |vm: &mut Vm| {
        vm.step(&board);
        vm.table.holder(0).expect("a holder").blocked
    };
    board.set_peer("b.test", "r.b.test", exposure(0, 10));
    assert_eq!(blocked(&mut vm), font);
    board.set_blocked("b.test", "r.b.test", image);
    board.set_blocked("c.test", "r.c.test", image);
    assert_eq!(blocked(&mut vm), image);
    board.set_peer("b.test", "r.b.test", exposure(1000, 20));
    assert_eq!(blocked(&mut vm), image);
    board.set_peer("b.test", "new.b.test", exposure(1000, 20));
    assert_eq!(blocked(&mut vm), font, "another name is another matter");
    board.set_blocked("b.test", "r.b.test", image);
    assert_eq!(blocked(&mut vm), font, "what was worked out for the old name is of no use");
}

#[test]
fn an_object_can_be_had_where_the_filter_would_send_for_it() {
    let board = board();
    board.set_peer("b.test", "r.b.test", exposure(500, 9));
    board.set_peer("c.test", "r.c.test", exposure(0, 9));
    assert_eq!(board.whereabouts("/x.png", 0), None);
    board.put_object(&record("/x.png", 1), Class::Image, None, 100);
    for domain in ["b.test", "c.test"] {
        board.set_holder("/x.png", &Sha256([1; 32]), domain, true);
    }
    let there = board.whereabouts("/x.png", 99).expect("a fresh object");
    assert_eq!((there.sha256, there.size, there.class), (Sha256([1; 32]), 1, Class::Image));
    let holders: Vec<_> = there.holders.iter().map(|holder| (&*holder.authority, holder.weight)).collect();
    assert_eq!(holders, [("r.b.test", 500), ("r.c.test", 0)]);
    assert_eq!(board.whereabouts("/x.png", 100), None, "not fresh any more");
    assert_eq!(board.domains_at("r.c.test"), ["c.test"]);
    assert!(board.domains_at("c.test").is_empty());
}

#[test]
fn a_name_that_several_claim_is_that_of_the_one_that_gets_redirects() {
    let board = board();
    for (domain, weight) in [("first.test", 0), ("b.test", 500), ("last.test", 0)] {
        board.set_peer(domain, "r.b.test", exposure(weight, 9));
    }
    let domain = |number: Option<u16>| board.domain_of(number?);
    assert_eq!(domain(board.number_of_authority("r.b.test")).as_deref(), Some("b.test"));
    assert_eq!(board.number_of_authority("b.test"), None);
    assert_eq!(board.domains_at("r.b.test"), ["first.test", "b.test", "last.test"]);
}
