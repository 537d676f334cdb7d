use proptest::prelude::*;

use super::*;
use crate::identity::introduction::check;
use crate::identity::node_key::NodeKey;
use crate::identity::signed::sign;
use crate::identity::testing;

fn shown(key: &NodeKey, domain: &str, sequence: u64) -> Introduction {
    let record = testing::peer_record(domain, key.public(), sequence);
    check(sign(key, &record).unwrap(), record.issued_s).unwrap()
}

fn roster(known: usize, pending: usize) -> Roster {
    Roster::new("us.test", RosterBounds { known, pending, ..RosterBounds::default() }, BTreeMap::new())
}

#[test]
fn only_the_invited_are_pinned_and_only_by_their_own_document() {
    let (mut roster, key) = (roster(9, 9), testing::node_key());
    let record = shown(&key, "a.test", 1);
    assert_eq!(roster.introduce(&record, 5), Introduced::Pending);
    assert_eq!(roster.invite("a.test"), Ok(true));
    assert_eq!(roster.invite("a.test"), Ok(false));
    assert_eq!(roster.claim(&record, 6), Claim::Unproven);
    assert_eq!(roster.get("a.test"), Some(&Standing::Invited));
    assert_eq!(roster.introduce(&record, 7), Introduced::Pinned);
    assert_eq!(roster.claim(&record, 8), Claim::Known);
    assert_eq!(roster.by_key(&key.public()).map(|peer| peer.since_s), Some(7));
}

#[test]
fn a_record_is_replaced_only_by_a_newer_one_of_the_same_key() {
    let (mut roster, key) = (roster(9, 9), testing::node_key());
    roster.invite("a.test").unwrap();
    roster.introduce(&shown(&key, "a.test", 5), 1);
    let sequence = |roster: &Roster| roster.get("a.test").unwrap().peer().unwrap().record.sequence;
    assert_eq!(roster.introduce(&shown(&key, "a.test", 4), 1), Introduced::AlreadyKnown);
    assert_eq!(sequence(&roster), 5);
    assert_eq!(roster.claim(&shown(&key, "a.test", 6), 1), Claim::Known);
    assert_eq!(sequence(&roster), 6);
    assert_eq!(roster.claim(&shown(&testing::node_key(), "a.test", 9), 1), Claim::Unproven);
    assert_eq!(sequence(&roster), 6);
}

#[test]
fn a_changed_key_is_refused_until_accepted_or_gone() {
    let (mut roster, old, new) = (roster(9, 9), testing::node_key(), testing::node_key());
    roster.invite("a.test").unwrap();
    roster.introduce(&shown(&old, "a.test", 1), 1);
    for now_s in [2, 3] {
        assert_eq!(roster.introduce(&shown(&new, "a.test", 2), now_s), Introduced::RefusedKeyChanged);
    }
    let Some(Standing::KeyChanged { first_seen_s: 2, refused, .. }) = roster.get("a.test") else { panic!() };
    assert_eq!(*refused, new.public());
    assert!(roster.by_key(&new.public()).is_none() && roster.by_key(&old.public()).is_some());
    // Settings that list the domain at every start accept nothing.
    assert_eq!(roster.invite("a.test"), Ok(false));
    assert!(matches!(roster.get("a.test"), Some(Standing::KeyChanged { .. })));

    assert_eq!(roster.introduce(&shown(&old, "a.test", 3), 4), Introduced::AlreadyKnown);
    assert!(matches!(roster.get("a.test"), Some(Standing::Pinned(_))));

    roster.introduce(&shown(&new, "a.test", 2), 5);
    assert_eq!(roster.accept("a.test"), Ok(true));
    assert_eq!(roster.introduce(&shown(&new, "a.test", 2), 6), Introduced::Pinned);
    assert!(roster.by_key(&old.public()).is_none());
}

#[test]
fn wishes_that_cannot_be_met_say_why() {
    let mut roster = roster(1, 9);
    assert_eq!(roster.accept("a.test"), Err(RosterError::Unknown("a.test".into())));
    assert_eq!(roster.invite("https://a.test/"), Err(RosterError::Domain("https://a.test/".into())));
    assert_eq!(roster.invite("us.test"), Err(RosterError::Ourselves("us.test".into())));
    roster.invite("a.test").unwrap();
    assert_eq!(roster.invite("b.test"), Err(RosterError::Full(1)));
    assert!(roster.remove("a.test", 1) && !roster.remove("a.test", 1));
    assert_eq!(roster.invite("b.test"), Ok(true));
}

#[test]
fn of_too_many_that_knock_the_oldest_is_forgotten_and_no_known_one() {
    let (mut roster, key) = (roster(9, 2), testing::node_key());
    roster.invite("known.test").unwrap();
    for (now_s, domain) in [(1, "a.test"), (2, "b.test"), (3, "a.test"), (4, "c.test")] {
        roster.claim(&shown(&key, domain, 1), now_s);
    }
    let domains: Vec<_> = roster.iter().map(|(domain, _)| domain.as_str()).collect();
    assert_eq!(domains, ["a.test", "c.test", "known.test"]);
    assert_eq!(roster.claim(&shown(&key, "us.test", 1), 5), Claim::Pending { new: false });
    assert!(roster.get("us.test").is_none());
}

fn open_roster(peers: usize) -> Roster {
    let open = OpenBounds { peers, per_owner: 2, per_network: 3 };
    let bounds = RosterBounds { away: 2, open: Some(open), ..RosterBounds::default() };
    Roster::new("us.test", bounds, BTreeMap::new())
}

fn shown_from(key: &NodeKey, domain: &str, address: &str) -> Introduction {
    let network = Some(crate::identity::network(address.parse().unwrap()));
    Introduction { network, ..shown(key, domain, 1) }
}

#[test]
fn open_membership_lets_in_who_shows_its_document_and_only_so_many_of_one_owner_and_network() {
    let (mut roster, key) = (open_roster(9), testing::node_key());
    assert_eq!(roster.claim(&shown(&key, "a.test", 1), 1), Claim::Unproven);
    assert!(roster.get("a.test").is_none(), "its own word is not enough");
    assert_eq!(roster.introduce(&shown_from(&key, "a.test", "192.0.2.1"), 1), Introduced::Pinned);
    let peer = roster.get("a.test").unwrap().peer().unwrap();
    assert!(!peer.invited && peer.network.is_some());
    let introduced =
        |roster: &mut Roster, domain: &str, address: &str| roster.introduce(&shown_from(&key, domain, address), 2);
    for domain in ["x.swarm.test", "y.swarm.test"] {
        assert_eq!(introduced(&mut roster, domain, "198.51.100.1"), Introduced::Pinned);
    }
    assert_eq!(introduced(&mut roster, "z.swarm.test", "203.0.113.1"), Introduced::NoRoom(NoRoom::Owner));
    assert_eq!(roster.claim(&shown(&key, "z.swarm.test", 1), 2), Claim::NoRoom(NoRoom::Owner));
    assert_eq!(introduced(&mut roster, "b.test", "198.51.100.2"), Introduced::Pinned);
    assert_eq!(introduced(&mut roster, "c.test", "198.51.100.3"), Introduced::NoRoom(NoRoom::Network));
    // Whoever the operator invites comes in all the same.
    roster.invite("z.swarm.test").unwrap();
    assert_eq!(introduced(&mut roster, "z.swarm.test", "198.51.100.1"), Introduced::Pinned);
    assert!(roster.get("z.swarm.test").unwrap().peer().unwrap().invited);
    assert_eq!(introduced(&mut roster, "us.test", "192.0.2.1"), Introduced::Pending);
}

#[test]
fn a_full_open_membership_refuses_newcomers_and_evicts_nobody() {
    let (mut roster, key) = (open_roster(2), testing::node_key());
    for domain in ["a.test", "b.test"] {
        assert_eq!(roster.introduce(&shown(&key, domain, 1), 1), Introduced::Pinned);
    }
    assert_eq!(roster.introduce(&shown(&key, "c.test", 1), 2), Introduced::NoRoom(NoRoom::Full));
    assert!(roster.get("a.test").is_some() && roster.get("b.test").is_some());
    let end = roster.get("a.test").unwrap().peer().unwrap().record.expires_s;
    assert_eq!(roster.invite("b.test"), Ok(true), "an open peer that is invited stays as an invited one");
    assert!(!roster.has_ended(end - 1) && roster.has_ended(end));
    assert_eq!(roster.forget_ended(end), ["a.test"]);
    assert!(!roster.has_ended(end));
    assert!(roster.get("b.test").is_some(), "the invited are never forgotten");
}

#[test]
fn who_is_removed_from_an_open_membership_stays_away_until_it_is_invited() {
    let (mut roster, key) = (open_roster(9), testing::node_key());
    roster.introduce(&shown(&key, "a.test", 1), 1);
    assert!(roster.remove("a.test", 5) && !roster.remove("a.test", 6));
    assert_eq!(roster.introduce(&shown(&key, "a.test", 2), 7), Introduced::Away);
    assert_eq!(roster.claim(&shown(&key, "a.test", 2), 7), Claim::Away);
    assert!(roster.by_key(&key.public()).is_none());
    assert_eq!(roster.accept("a.test"), Ok(true));
    assert_eq!(roster.introduce(&shown(&key, "a.test", 2), 8), Introduced::Pinned);
    for (now_s, domain) in [(10, "b.test"), (11, "c.test"), (12, "d.test")] {
        roster.introduce(&shown(&key, domain, 1), now_s);
        roster.remove(domain, now_s);
    }
    assert!(roster.get("b.test").is_none(), "two are remembered");
}

#[test]
fn a_pinned_key_moves_only_to_the_one_that_it_hands_over_to() {
    let (mut roster, old, new) = (roster(9, 9), testing::node_key(), testing::node_key());
    roster.invite("a.test").unwrap();
    roster.introduce(&shown(&old, "a.test", 1), 3);
    assert!(!roster.rotate(&shown(&new, "a.test", 2), &new.public()));
    assert_eq!(roster.introduce(&shown(&new, "a.test", 2), 4), Introduced::RefusedKeyChanged);
    assert!(roster.rotate(&shown(&new, "a.test", 2), &old.public()));
    let peer = roster.get("a.test").unwrap().peer().unwrap();
    assert_eq!((peer.key(), peer.since_s, peer.invited), (new.public(), 3, true));
    assert!(roster.by_key(&old.public()).is_none());
}

#[derive(Debug, Clone)]
enum Step {
    Invite(usize),
    Accept(usize),
    Remove(usize),
    Introduce(usize, usize, u64),
    Claim(usize, usize, u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let domain = 0..5usize;
    let step = prop_oneof![
        domain.clone().prop_map(Step::Invite),
        domain.clone().prop_map(Step::Accept),
        domain.clone().prop_map(Step::Remove),
        (domain.clone(), 0..2usize, 0..4u64).prop_map(|(d, k, s)| Step::Introduce(d, k, s)),
        (domain, 0..2usize, 0..4u64).prop_map(|(d, k, s)| Step::Claim(d, k, s)),
    ];
    proptest::collection::vec(step, 0..40)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn no_order_of_events_breaks_the_bounds_or_changes_a_pin_unasked(steps in steps()) {
        let keys = [testing::node_key(), testing::node_key()];
        let mut roster = roster(3, 2);
        let pin = |roster: &Roster, domain: &str| {
            let peer = roster.get(domain).and_then(Standing::peer)?;
            Some((peer.key(), peer.record.sequence))
        };
        for (now_s, step) in steps.into_iter().enumerate() {
            let (Step::Invite(d) | Step::Accept(d) | Step::Remove(d) | Step::Introduce(d, ..) | Step::Claim(d, ..)) = step;
            let domain = format!("{d}.test");
            let before = pin(&roster, &domain);
            match step {
                Step::Invite(_) => drop(roster.invite(&domain)),
                Step::Accept(_) => drop(roster.accept(&domain)),
                Step::Remove(_) => drop(roster.remove(&domain, now_s as u64)),
                Step::Introduce(_, k, s) => drop(roster.introduce(&shown(&keys[k], &domain, s), now_s as u64)),
                Step::Claim(_, k, s) => drop(roster.claim(&shown(&keys[k], &domain, s), now_s as u64)),
            }
            if let (Some((key, sequence)), Step::Invite(_) | Step::Introduce(..) | Step::Claim(..)) = (before, &step) {
                let after = pin(&roster, &domain).unwrap();
                prop_assert_eq!(after.0, key);
                prop_assert!(after.1 >= sequence);
            }
            let pending = roster.iter().filter(|(_, standing)| standing.is_pending()).count();
            prop_assert!(pending <= 2 && roster.iter().count() - pending <= 3);
        }
    }
}
