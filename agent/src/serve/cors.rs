//! Who may read a replica, or be sent back to its origin, across origins (Fetch, section 3.2).

use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ORIGIN, VARY,
};
use http::{HeaderMap, HeaderName, HeaderValue};
use p2pcdn_core::object::Sharing;

const TIMING_ALLOW_ORIGIN: HeaderName = HeaderName::from_static("timing-allow-origin");
const CROSS_ORIGIN_RESOURCE_POLICY: HeaderName = HeaderName::from_static("cross-origin-resource-policy");

/// What a page could read before the redirect, when the object was its own, and could not now: all that a replica has beyond the
/// headers that Fetch lets everybody read. Named one by one, since `*` means nothing to requests with credentials.
const EXPOSED: HeaderValue = HeaderValue::from_static("accept-ranges, content-range, date, etag, repr-digest");

/// Adds what lets the pages of `origin` read the replica, and others as the origin shares the object.
pub(super) fn share(headers: &mut HeaderMap, request: &HeaderMap, origin: &str, sharing: Sharing) {
    let own = HeaderValue::try_from(format!("https://{origin}")).ok();
    let is_own = own.is_some() && request.get(ORIGIN) == own.as_ref();
    let anyone = (sharing == Sharing::Anyone).then(|| HeaderValue::from_static("*"));
    // Pages that load without CORS say nothing of their origin, and their timings are theirs all the same.
    if let Some(allowed) = anyone.clone().or_else(|| own.clone()) {
        headers.insert(TIMING_ALLOW_ORIGIN, allowed);
    }
    if let Some(allowed) = own.filter(|_| is_own).or(anyone) {
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, allowed);
        headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED);
    }
    if is_own {
        // The origin's pages may ask with credentials, which they could before; there are no cookies under this name.
        headers.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
    }
    headers.insert(VARY, HeaderValue::from_static("origin"));
    // To the pages of the origin every host is another site.
    headers.insert(CROSS_ORIGIN_RESOURCE_POLICY, HeaderValue::from_static("cross-origin"));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shared(origin: Option<&str>, sharing: Sharing) -> HeaderMap {
        let request = origin.map(|origin| (ORIGIN, HeaderValue::from_str(origin).unwrap()));
        let mut headers = HeaderMap::new();
        share(&mut headers, &request.into_iter().collect(), "a.test:8443", sharing);
        headers
    }

    #[test]
    fn each_page_may_read_what_it_could_read_at_the_origin() {
        use Sharing::{Anyone, SameOrigin};
        let own = "https://a.test:8443";
        let table = [
            (Some(own), SameOrigin, Some(own), true, own),
            (Some(own), Anyone, Some(own), true, "*"),
            (Some("https://a.test"), SameOrigin, None, false, own),
            (Some("http://a.test:8443"), SameOrigin, None, false, own),
            (Some("null"), SameOrigin, None, false, own),
            (None, SameOrigin, None, false, own),
            (Some("https://b.test"), Anyone, Some("*"), false, "*"),
            (Some("null"), Anyone, Some("*"), false, "*"),
            (None, Anyone, Some("*"), false, "*"),
        ];
        for (origin, sharing, allowed, credentials, timing) in table {
            let headers = shared(origin, sharing);
            let get = |name: HeaderName| headers.get(name).map(|value| value.to_str().unwrap());
            let case = format!("{origin:?} {sharing:?}");
            assert_eq!(get(ACCESS_CONTROL_ALLOW_ORIGIN), allowed, "{case}");
            assert_eq!(get(ACCESS_CONTROL_EXPOSE_HEADERS).is_some(), allowed.is_some(), "{case}");
            assert_eq!(get(ACCESS_CONTROL_ALLOW_CREDENTIALS), credentials.then_some("true"), "{case}");
            assert_eq!(get(TIMING_ALLOW_ORIGIN), Some(timing), "{case}");
            assert_eq!(get(VARY), Some("origin"), "{case}");
            assert_eq!(get(CROSS_ORIGIN_RESOURCE_POLICY), Some("cross-origin"), "{case}");
        }
    }
}
