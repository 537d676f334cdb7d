use p2pcdn_core::object::Sha256;
use proptest::prelude::*;

use super::*;
use crate::identity::testing;
use crate::settings::OriginLimits;

pub(crate) fn host() -> Host {
    Host {
        quota_bytes: 100,
        quota_per_origin_bytes: 60,
        min_object_bytes: 2,
        max_object_bytes: 50,
        lease_bytes_per_s: 1,
        lease_total_bytes_per_s: 1,
        uplink_bytes_per_s: None,
        origins: [("b.test".to_owned(), OriginLimits { quota_bytes: Some(30), lease_bytes_per_s: None })].into(),
        debt_ratio: Some(2.0),
        debt_allowance_bytes: 1000,
        deny: vec![],
        pull_bytes_per_s: 1,
        pull_per_origin_bytes_per_s: 1,
        classes: vec![Class::Image],
        downloads: false,
    }
}

pub(in crate::replicate) fn record(origin: &str, size: u64) -> ObjectRecord {
    ObjectRecord { sha256: Sha256([0; 32]), size, ..testing::object_record(origin, "/x", b"") }
}

fn usage(total: u64, origin: &str, of_origin: u64) -> Usage {
    Usage { total_bytes: total, by_origin: [(origin.to_owned(), of_origin)].into() }
}

fn owing(given: u64, received: u64) -> Circumstances {
    Circumstances { balance: Balance { given, received }, ..Circumstances::default() }
}

#[test]
fn every_limit_has_its_reason() {
    let well = Circumstances::default();
    let verdict = |origin, size, total, of_origin, class| {
        admit(&host(), &well, &usage(total, origin, of_origin), &record(origin, size), class)
    };
    let table = [
        ("a.test", 50, 50, 10, Class::Image, Ok(())),
        ("a.test", 2, 0, 0, Class::Image, Ok(())),
        ("a.test", 50, 51, 10, Class::Image, Err(Decline::Quota)),
        ("a.test", 50, 50, 11, Class::Image, Err(Decline::OriginQuota)),
        ("a.test", 51, 0, 0, Class::Image, Err(Decline::TooLarge)),
        ("a.test", 1, 0, 0, Class::Image, Err(Decline::TooSmall)),
        ("a.test", 2, 0, 0, Class::Font, Err(Decline::Class)),
        ("b.test", 20, 10, 10, Class::Image, Ok(())),
        ("b.test", 21, 10, 10, Class::Image, Err(Decline::OriginQuota)),
    ];
    for (origin, size, total, of_origin, class, expected) in table {
        let case = format!("{origin} {size} {total} {of_origin} {class:?}");
        assert_eq!(verdict(origin, size, total, of_origin, class), expected, "{case}");
    }
}

#[test]
fn the_origins_own_standing_has_its_reasons() {
    let verdict = |circumstances: &Circumstances| {
        admit(&host(), circumstances, &Usage::default(), &record("a.test", 10), Class::Image)
    };
    let well = Circumstances::default();
    let table = [
        (well, Ok(())),
        (Circumstances { denied: true, ..well }, Err(Decline::Denied)),
        (Circumstances { leaving: true, ..well }, Err(Decline::Leaving)),
        (Circumstances { leaving: true, denied: true, ..well }, Err(Decline::Leaving)),
        (Circumstances { reputation: Reputation::Poor, ..well }, Err(Decline::Reputation)),
        (owing(1000, 0), Ok(())),
        (owing(1001, 0), Err(Decline::Reciprocity)),
        (owing(1200, 100), Ok(())),
        (owing(1201, 100), Err(Decline::Reciprocity)),
        (owing(0, u64::MAX), Ok(())),
    ];
    for (circumstances, expected) in table {
        assert_eq!(verdict(&circumstances), expected, "{circumstances:?}");
    }
}

#[test]
fn without_a_ratio_nobody_owes_anything() {
    let host = Host { debt_ratio: None, ..host() };
    let verdict = admit(&host, &owing(u64::MAX, 0), &Usage::default(), &record("a.test", 10), Class::Image);
    assert_eq!(verdict, Ok(()));
}

proptest! {
    #[test]
    fn whatever_is_admitted_fits(size: u64, total: u64, of_origin: u64, given: u64, received: u64, b: bool) {
        let origin = if b { "b.test" } else { "a.test" };
        let usage = usage(total, origin, of_origin);
        if admit(&host(), &owing(given, received), &usage, &record(origin, size), Class::Image).is_ok() {
            let quota = host().quota_of(origin);
            prop_assert!(total + size <= 100 && of_origin + size <= quota && (2..=50).contains(&size));
            prop_assert!(given <= 1000 || (given - 1000) as f64 <= 2.0 * received as f64);
        }
    }

    #[test]
    fn giving_more_never_costs_an_origin_its_place(given: u64, received: u64, more: u64) {
        let (host, usage, record) = (host(), Usage::default(), record("a.test", 10));
        let verdict = |received| admit(&host, &owing(given, received), &usage, &record, Class::Image);
        if verdict(received).is_ok() {
            prop_assert_eq!(verdict(received.saturating_add(more)), Ok(()));
        }
    }
}
