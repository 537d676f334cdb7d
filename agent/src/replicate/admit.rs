//! Whether a host takes an offered object: pure, so that the policy can be read and tested in one place.

use p2pcdn_core::object::{Class, ObjectRecord};

use super::messages::Decline;
use crate::settings::Host;
use crate::store::Usage;

/// Admits or declines a valid record of `class`, given what is in use already.
///
/// The version that it would replace stays on disk until the new one is committed, so its room does not count as free.
pub fn admit(host: &Host, usage: &Usage, record: &ObjectRecord, class: Class) -> Result<(), Decline> {
    if !host.classes.contains(&class) {
        return Err(Decline::Class);
    }
    if record.size > host.max_object_bytes {
        return Err(Decline::TooLarge);
    }
    if usage.total_bytes.saturating_add(record.size) > host.quota_bytes {
        return Err(Decline::Quota);
    }
    let of_origin = usage.by_origin.get(&record.origin).copied().unwrap_or(0);
    if of_origin.saturating_add(record.size) > host.quota_per_origin_bytes {
        return Err(Decline::OriginQuota);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use p2pcdn_core::object::{Embedding, Sha256, Sharing};
    use proptest::prelude::*;

    fn host() -> Host {
        Host {
            quota_bytes: 100,
            quota_per_origin_bytes: 60,
            max_object_bytes: 50,
            lease_bytes_per_s: 1,
            pull_bytes_per_s: 1,
            pull_per_origin_bytes_per_s: 1,
            classes: vec![Class::Image],
            downloads: false,
        }
    }

    fn record(size: u64) -> ObjectRecord {
        ObjectRecord {
            origin: "a.test".into(),
            path: "/x".into(),
            sha256: Sha256([0; 32]),
            size,
            content_type: "image/png".into(),
            etag: "\"x\"".into(),
            max_age_s: 1,
            stale_if_error_s: 0,
            sharing: Sharing::SameOrigin,
            embedding: Embedding::Unstated,
            chunks: vec![],
            sequence: 1,
            expires_s: 1,
        }
    }

    fn usage(total: u64, of_origin: u64) -> Usage {
        Usage { total_bytes: total, by_origin: [("a.test".to_owned(), of_origin)].into() }
    }

    #[test]
    fn every_limit_has_its_reason() {
        let verdict = |size, total, of_origin, class| admit(&host(), &usage(total, of_origin), &record(size), class);
        assert_eq!(verdict(50, 50, 10, Class::Image), Ok(()));
        assert_eq!(verdict(50, 51, 10, Class::Image), Err(Decline::Quota));
        assert_eq!(verdict(50, 50, 11, Class::Image), Err(Decline::OriginQuota));
        assert_eq!(verdict(51, 0, 0, Class::Image), Err(Decline::TooLarge));
        assert_eq!(verdict(1, 0, 0, Class::Font), Err(Decline::Class));
    }

    proptest! {
        #[test]
        fn whatever_is_admitted_fits(size: u64, total: u64, of_origin: u64) {
            if admit(&host(), &usage(total, of_origin), &record(size), Class::Image).is_ok() {
                prop_assert!(total + size <= 100 && of_origin + size <= 60 && size <= 50);
            }
        }
    }
}
