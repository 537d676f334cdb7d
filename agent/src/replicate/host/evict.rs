//! What a host no longer carries once its operator has changed the settings: pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use p2pcdn_core::object::Class;

use super::admit::suits;
use crate::settings::Host;
use crate::store::Replica;

/// The replicas that are of a kind that is not carried any more, or for which there is no longer room.
///
/// When something was asked for last is not known after a restart, which is when settings change. So what goes is chosen by size: the
/// one that is just large enough, or else the largest, until the rest fits, which costs as few objects and bytes as can be.
pub fn outgrown(host: &Host, replicas: Vec<Arc<Replica>>) -> Vec<Arc<Replica>> {
    let suits = |replica: &Arc<Replica>| {
        let record = &replica.record;
        Class::of_content_type(&record.content_type).is_some_and(|class| suits(host, record, class).is_ok())
    };
    let (kept, mut gone): (Vec<_>, Vec<_>) = replicas.into_iter().partition(suits);
    let mut by_origin: BTreeMap<String, Vec<Arc<Replica>>> = BTreeMap::new();
    for replica in kept {
        by_origin.entry(replica.record.origin.clone()).or_default().push(replica);
    }
    let mut kept = Vec::new();
    for (origin, replicas) in by_origin {
        kept.extend(fit(replicas, host.quota_of(&origin), &mut gone));
    }
    fit(kept, host.quota_bytes, &mut gone);
    gone
}

/// Moves replicas to `gone` until the rest, which is returned, takes at most `quota` bytes.
fn fit(mut replicas: Vec<Arc<Replica>>, quota: u64, gone: &mut Vec<Arc<Replica>>) -> Vec<Arc<Replica>> {
    let used = replicas.iter().fold(0_u64, |sum, replica| sum.saturating_add(replica.record.size));
    let mut excess = used.saturating_sub(quota);
    if excess > 0 {
        replicas.sort_by(|a, b| {
            let key = |r: &Arc<Replica>| (r.record.size, std::cmp::Reverse(r.record.sequence));
            key(a).cmp(&key(b))
        });
    }
    while excess > 0 && !replicas.is_empty() {
        let enough = replicas.partition_point(|replica| replica.record.size < excess);
        let going = replicas.remove(enough.min(replicas.len() - 1));
        excess = excess.saturating_sub(going.record.size);
        gone.push(going);
    }
    replicas
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::admit::tests::{host, record};
    use super::*;
    use crate::identity::{sign, testing};

    fn replicas(sizes: &[(&str, u64)]) -> Vec<Arc<Replica>> {
        let key = testing::node_key();
        let replica = |(origin, size): &(&str, u64)| {
            let record = record(origin, *size);
            Arc::new(Replica { signed: sign(&key, &record).unwrap(), record })
        };
        sizes.iter().map(replica).collect()
    }

    fn gone(host: &Host, sizes: &[(&str, u64)]) -> Vec<u64> {
        outgrown(host, replicas(sizes)).iter().map(|replica| replica.record.size).collect()
    }

    #[test]
    fn what_goes_is_the_least_that_makes_the_rest_fit() {
        let host = host();
        assert_eq!(gone(&host, &[("a.test", 50), ("a.test", 10), ("b.test", 30)]), [0; 0]);
        assert_eq!(gone(&host, &[("a.test", 40), ("a.test", 20), ("a.test", 5), ("a.test", 7)]), [20]);
        assert_eq!(gone(&host, &[("a.test", 30), ("a.test", 30), ("b.test", 20), ("c.test", 23)]), [20]);
        assert_eq!(gone(&host, &[("b.test", 20), ("b.test", 20)]), [20], "its own quota");
        assert_eq!(gone(&host, &[("a.test", 51), ("a.test", 1)]), [51, 1], "of a size that is not carried");
        let none = Host { quota_bytes: 0, ..host };
        assert_eq!(gone(&none, &[("a.test", 10), ("b.test", 20)]), [20, 10]);
        let no_images = Host { classes: vec![Class::Font], ..none };
        assert_eq!(gone(&no_images, &[("a.test", 10)]), [10]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn the_rest_fits_and_the_last_that_went_had_to_go(sizes in prop::collection::vec((0..3usize, 2..=50u64), 0..12)) {
            let sizes: Vec<(&str, u64)> = sizes.iter().map(|(at, size)| (["a.test", "b.test", "c.test"][*at], *size)).collect();
            let host = host();
            let gone = outgrown(&host, replicas(&sizes));
            let sum = |of: &dyn Fn(&str) -> bool| {
                let all: u64 = sizes.iter().filter(|(origin, _)| of(origin)).map(|(_, size)| size).sum();
                all - gone.iter().filter(|r| of(&r.record.origin)).map(|r| r.record.size).sum::<u64>()
            };
            for origin in ["a.test", "b.test", "c.test"] {
                prop_assert!(sum(&|o| o == origin) <= host.quota_of(origin));
            }
            prop_assert!(sum(&|_| true) <= 100);
            if let Some(last) = gone.last() {
                let origin = last.record.origin.clone();
                let with = sum(&|o| o == origin) + last.record.size;
                prop_assert!(sum(&|_| true) + last.record.size > 100 || with > host.quota_of(&origin));
            }
        }
    }
}
