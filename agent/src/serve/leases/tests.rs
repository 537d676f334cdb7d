use proptest::prelude::*;

use super::*;
use crate::identity::testing;
use crate::settings::{Host, OriginLimits};

fn host(lease: u64, total: u64, uplink: Option<u64>) -> Host {
    Host {
        quota_bytes: 0,
        quota_per_origin_bytes: 0,
        min_object_bytes: 0,
        max_object_bytes: 0,
        lease_bytes_per_s: lease,
        lease_total_bytes_per_s: total,
        uplink_bytes_per_s: uplink,
        origins: [("small.test".to_owned(), OriginLimits { quota_bytes: None, lease_bytes_per_s: Some(10) })].into(),
        debt_ratio: None,
        debt_allowance_bytes: 0,
        deny: vec!["denied.test".parse().unwrap()],
        pull_bytes_per_s: 1,
        pull_per_origin_bytes_per_s: 1,
        classes: vec![],
        downloads: false,
    }
}

fn leases(lease: u64, total: u64, uplink: Option<u64>) -> Arc<Leases> {
    let terms = Terms::open(testing::database(), host(lease, total, uplink), testing::book(), 0, 0).unwrap();
    Arc::new(Leases::new(Arc::new(terms), 1.0, 0))
}

/// Whether an answer could begin now; nothing is sent.
fn is_open(leases: &Arc<Leases>, origin: &str, now_ms: u64) -> bool {
    leases.begin(origin, 1, now_ms).is_some()
}

/// Sends so much, whatever is left.
fn draw(leases: &Arc<Leases>, origin: &str, bytes: u64, now_ms: u64) {
    Draw { leases: leases.clone(), origin: origin.into(), ahead: 0 }.send(bytes, now_ms);
}

#[test]
fn an_origin_that_has_used_up_its_lease_waits_and_others_do_not() {
    let leases = leases(50, 1000, None);
    for origin in ["a.test", "b.test"] {
        assert_eq!(leases.grant(origin, 0), 50);
        assert!(is_open(&leases, origin, 0));
    }
    // A second's worth is at hand, twice what was granted.
    draw(&leases, "a.test", 200, 0);
    assert!(!is_open(&leases, "a.test", 900));
    assert!(is_open(&leases, "b.test", 900));
    assert!(is_open(&leases, "a.test", 1100));
}

#[test]
fn answers_that_begin_at_the_same_time_know_of_each_other() {
    let leases = leases(100, 1000, None);
    leases.grant("a.test", 0);
    let begin = |bytes| leases.begin("a.test", bytes, 0);
    // Two seconds' worth is at hand, and each answer takes one at once, however much it is to send.
    let mut begun: Vec<Draw> = (0..50).filter_map(|_| begin(64 << 20)).collect();
    assert_eq!(begun.len(), 2);
    assert!(is_open(&leases, "b.test", 0), "others have their own");
    // Who breaks off gives back what was not sent.
    begun[0].send(30, 0);
    begun.clear();
    assert_eq!(leases.take_sent(), [("a.test".to_owned(), 30)]);
    assert_eq!((0..50).filter_map(|_| begin(10)).collect::<Vec<_>>().len(), 17, "of 170 bytes");
    // What exceeds a second's share is drawn as it is sent, and paid back.
    let mut large = begin(1000).unwrap();
    large.send(1000, 0);
    drop(large);
    assert!(!is_open(&leases, "a.test", 4000) && is_open(&leases, "a.test", 4200));
}

#[test]
fn all_origins_together_have_a_limit_of_their_own() {
    let leases = leases(100, 100, None);
    assert!(is_open(&leases, "a.test", 0));
    draw(&leases, "a.test", 400, 0);
    assert!(!is_open(&leases, "b.test", 1000), "others have used up what there was");
    assert!(is_open(&leases, "b.test", 2001));
}

#[test]
fn what_is_scarce_is_shared_and_goes_to_those_whose_visitors_come() {
    let leases = leases(100, 100, None);
    assert_eq!(leases.grant("a.test", 0), 100);
    assert_eq!(leases.grant("b.test", 0), 50);
    assert_eq!(leases.grant("a.test", 1), 50);
    assert_eq!(leases.grant("small.test", 1), 10, "its own limit");
    assert_eq!(leases.grant("a.test", 1), 45, "what another has no use for");
    is_open(&leases, "a.test", 2);
    assert_eq!(leases.grant("a.test", 3), 80);
    assert_eq!((leases.share_of("b.test"), leases.share_of("small.test")), (10, 10));
    // Who does not renew makes room.
    assert_eq!(leases.grant("a.test", 40_000), 100);
    assert_eq!(leases.share_of("b.test"), 0);
}

#[test]
fn who_is_denied_and_whoever_asks_a_leaving_host_gets_nothing() {
    let leases = leases(100, 100, None);
    assert_eq!(leases.grant("denied.test", 0), 0);
    assert_eq!(leases.grant("a.test", 0), 100);
    leases.terms.set_leaving(true, 0);
    assert_eq!(leases.grant("a.test", 1), 0);
    assert!(is_open(&leases, "a.test", 1), "whoever has been redirected is served");
}

#[test]
fn own_visitors_come_first_and_the_rest_comes_back_slowly() {
    let leases = leases(1000, 1000, Some(1000));
    assert_eq!(leases.grant("a.test", 0), 1000);
    leases.observe(Some(400.0), 1000);
    assert_eq!(leases.grant("a.test", 1000), 600);
    leases.observe(Some(5000.0), 2000);
    assert_eq!(leases.grant("a.test", 2000), 0);
    is_open(&leases, "a.test", 2000);
    assert!(!is_open(&leases, "a.test", 60_000), "enforced at once");
    leases.observe(None, 3000);
    assert_eq!(leases.available(), 0, "not known for a moment");
    leases.observe(Some(0.0), 9000);
    assert_eq!(leases.available(), 100, "a tenth of a minute gives back a tenth");
    for second in 10..70 {
        leases.observe(Some(0.0), second * 1000);
    }
    assert_eq!(leases.available(), 1000);
    leases.observe(Some(500.0), 71_000);
    assert_eq!(leases.available(), 500);
}

#[test]
fn without_an_uplink_nothing_shrinks() {
    let leases = leases(1000, 1000, None);
    leases.observe(Some(1e12), 1000);
    assert_eq!(leases.grant("a.test", 1000), 1000);
}

#[test]
fn what_was_sent_is_told_once_even_after_the_lease_has_ended() {
    let leases = leases(1000, 1000, None);
    draw(&leases, "a.test", 70, 0);
    draw(&leases, "a.test", 30, 1);
    leases.observe(None, 1_000_000);
    assert_eq!(leases.take_sent(), [("a.test".to_owned(), 100)]);
    assert_eq!(leases.take_sent(), []);
    leases.observe(None, 2_000_000);
    assert!(leases.inner().tenants.is_empty());
}

fn claim() -> impl Strategy<Value = Claim> {
    (0..1000u64, prop::sample::select(vec![1, BUSY_WEIGHT])).prop_map(|(most, weight)| Claim { most, weight })
}

proptest! {
    #[test]
    fn shares_are_within_bounds_and_leave_nothing_that_somebody_needs(
        available in 0..5000u64, claims in prop::collection::vec(claim(), 0..12),
    ) {
        let shares = shares(available, &claims);
        let given: u64 = shares.iter().sum();
        prop_assert!(given <= available);
        prop_assert!(shares.iter().zip(&claims).all(|(share, claim)| *share <= claim.most));
        let asked: u64 = claims.iter().map(|claim| claim.most).sum();
        // Rounding down leaves less than one byte for each.
        prop_assert!(given + claims.len() as u64 >= asked.min(available));
    }

    #[test]
    fn available_bandwidth_never_exceeds_what_was_configured(
        own in prop::collection::vec((prop::option::of(0.0..3000.0f64), 0..100_000u64), 0..30),
    ) {
        let leases = leases(1000, 800, Some(1000));
        let mut now_ms = 0;
        for (own, elapsed) in own {
            now_ms += elapsed;
            leases.observe(own, now_ms);
            prop_assert!(leases.available() <= 800);
            if let Some(own) = own {
                prop_assert!(leases.available() as f64 <= (1000.0 - own).max(0.0) + 1.0);
            }
        }
    }
}
