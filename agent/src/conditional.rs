//! Conditional and range requests (RFC 9110, sections 13 and 14), for everything that the agent serves bytes of.

use std::ops::Range;
use std::time::SystemTime;

use http::HeaderMap;
use http::header::{HeaderName, IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, RANGE};

/// What a request is to be answered with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Plan {
    /// 200 with everything.
    Full,
    /// 206 with these bytes.
    Partial(Range<u64>),
    /// 304.
    NotModified,
    /// 412.
    PreconditionFailed,
    /// 416.
    Unsatisfiable,
}

/// Plans the answer for a representation of `size` bytes with this strong entity tag and date, where it has them.
pub fn plan(headers: &HeaderMap, etag: Option<&str>, modified: Option<SystemTime>, size: u64) -> Plan {
    if let Some(wanted) = text(headers, IF_MATCH)
        && !lists(wanted, etag, false)
    {
        return Plan::PreconditionFailed;
    }
    let unmodified = match (text(headers, IF_NONE_MATCH), text(headers, IF_MODIFIED_SINCE)) {
        (Some(known), _) => lists(known, etag, true),
        (None, Some(since)) => modified.is_some_and(|m| is_not_after(m, since)),
        (None, None) => false,
    };
    if unmodified {
        return Plan::NotModified;
    }
    let Some(range) = text(headers, RANGE) else { return Plan::Full };
    // A date is too coarse to tell versions apart; without If-Range's tag matching, the whole is sent.
    if text(headers, IF_RANGE).is_some_and(|tag| Some(tag) != etag) {
        return Plan::Full;
    }
    single_range(range, size)
}

/// One `bytes` range; several, or what is no range at all, may be answered with everything.
fn single_range(range: &str, size: u64) -> Plan {
    let Some((first, last)) = range.strip_prefix("bytes=").and_then(|r| r.split_once('-')) else { return Plan::Full };
    let number = |text: &str| -> Option<u64> {
        text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().unwrap_or(u64::MAX))
    };
    let range = match (first, last) {
        ("", "") => None,
        ("", suffix) => number(suffix).map(|n| size.saturating_sub(n)..size),
        (first, "") => number(first).map(|first| first..size),
        (first, last) => number(first)
            .zip(number(last))
            .filter(|(first, last)| first <= last)
            .map(|(first, last)| first..last.saturating_add(1).min(size)),
    };
    match range {
        None => Plan::Full,
        Some(range) if range.start >= range.end => Plan::Unsatisfiable,
        Some(range) => Plan::Partial(range),
    }
}

fn text(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    headers.get(name)?.to_str().ok().map(str::trim)
}

fn lists(list: &str, etag: Option<&str>, weakly: bool) -> bool {
    let Some(etag) = etag else { return false };
    let same = |tag: &str| tag == etag || (weakly && tag.strip_prefix("W/") == Some(etag));
    list == "*" || list.split(',').map(str::trim).any(same)
}

fn is_not_after(modified: SystemTime, since: &str) -> bool {
    // HTTP dates have whole seconds.
    let seconds = |t: SystemTime| t.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_secs());
    httpdate::parse_http_date(since).is_ok_and(|since| seconds(modified) <= seconds(since))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::Duration;

    fn plan_for(pairs: &[(HeaderName, &str)]) -> Plan {
        let headers = pairs.iter().map(|(name, value)| (name.clone(), value.parse().expect("a header"))).collect();
        let modified = SystemTime::UNIX_EPOCH + Duration::from_millis(784_111_777_500);
        plan(&headers, Some("\"a\""), Some(modified), 100)
    }

    #[test]
    fn ranges_are_answered_as_rfc_9110_says() {
        let table = [
            ("bytes=0-", Plan::Partial(0..100)),
            ("bytes=0-0", Plan::Partial(0..1)),
            ("bytes=50-", Plan::Partial(50..100)),
            ("bytes=50-500", Plan::Partial(50..100)),
            ("bytes=-10", Plan::Partial(90..100)),
            ("bytes=-500", Plan::Partial(0..100)),
            ("bytes=-0", Plan::Unsatisfiable),
            ("bytes=100-", Plan::Unsatisfiable),
            ("bytes=99999999999999999999999-", Plan::Unsatisfiable),
            ("bytes=9-5", Plan::Full),
            ("bytes=0-1,5-6", Plan::Full),
            ("bytes=-", Plan::Full),
            ("bytes=a-b", Plan::Full),
            ("lines=1-2", Plan::Full),
        ];
        for (range, expected) in table {
            assert_eq!(plan_for(&[(RANGE, range)]), expected, "{range}");
        }
    }

    #[test]
    fn conditions_come_before_ranges() {
        assert_eq!(plan_for(&[(IF_NONE_MATCH, "\"b\", W/\"a\"")]), Plan::NotModified);
        assert_eq!(plan_for(&[(IF_NONE_MATCH, "*")]), Plan::NotModified);
        assert_eq!(plan_for(&[(IF_NONE_MATCH, "\"b\"")]), Plan::Full);
        assert_eq!(plan_for(&[(IF_MATCH, "\"b\"")]), Plan::PreconditionFailed);
        assert_eq!(plan_for(&[(IF_MATCH, "W/\"a\"")]), Plan::PreconditionFailed);
        assert_eq!(plan_for(&[(IF_MATCH, "\"a\""), (RANGE, "bytes=0-0")]), Plan::Partial(0..1));
        assert_eq!(plan_for(&[(IF_RANGE, "\"b\""), (RANGE, "bytes=0-0")]), Plan::Full);
        assert_eq!(plan_for(&[(IF_RANGE, "\"a\""), (RANGE, "bytes=0-0")]), Plan::Partial(0..1));
        let later = "Sun, 06 Nov 1994 08:49:37 GMT";
        assert_eq!(plan_for(&[(IF_MODIFIED_SINCE, later)]), Plan::NotModified);
        assert_eq!(plan_for(&[(IF_MODIFIED_SINCE, "Sun, 06 Nov 1994 08:49:36 GMT")]), Plan::Full);
        assert_eq!(plan_for(&[(IF_NONE_MATCH, "\"b\""), (IF_MODIFIED_SINCE, later)]), Plan::Full);
    }

    proptest! {
        #[test]
        fn a_planned_range_lies_within_the_representation(range in "bytes=[0-9]{0,21}-[0-9]{0,21}|.{0,30}", size in 0..1000u64) {
            if let Ok(value) = http::HeaderValue::from_str(&range)
                && let Plan::Partial(range) = plan(&HeaderMap::from_iter([(RANGE, value)]), None, None, size)
            {
                prop_assert!(range.start < range.end && range.end <= size);
            }
        }
    }
}
