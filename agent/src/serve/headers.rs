//! The closed list of headers that a replica is served with; none comes from the origin's own response.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use http::header::{
    ACCEPT_RANGES, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG,
    REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use p2pcdn_core::object::ObjectRecord;

use crate::conditional::Plan;

/// A replica's URL names its digest, so its bytes never change.
const IMMUTABLE: HeaderValue = HeaderValue::from_static("public, max-age=31536000, immutable, no-transform");
/// Even opened as a page, a replica runs nothing and loads nothing.
const NO_SCRIPT: HeaderValue = HeaderValue::from_static("default-src 'none'; style-src 'unsafe-inline'; sandbox");
const REPR_DIGEST: HeaderName = HeaderName::from_static("repr-digest");

/// Nobody need learn from where a visitor was sent to this host: what a style loads would be asked for with its replica URL as the
/// referrer, and after a redirect this is what the browser goes on by (Fetch, section 4.4; Referrer Policy, section 8.2).
pub(super) const NO_REFERRER: HeaderValue = HeaderValue::from_static("no-referrer");

/// The status that a plan is answered with.
pub(super) fn status_of(plan: &Plan) -> StatusCode {
    match plan {
        Plan::Full => StatusCode::OK,
        Plan::Partial(_) => StatusCode::PARTIAL_CONTENT,
        Plan::NotModified => StatusCode::NOT_MODIFIED,
        Plan::PreconditionFailed => StatusCode::PRECONDITION_FAILED,
        Plan::Unsatisfiable => StatusCode::RANGE_NOT_SATISFIABLE,
    }
}

/// Writes every header of a replica but those of CORS.
pub(super) fn describe(headers: &mut HeaderMap, record: &ObjectRecord, plan: &Plan) {
    let is_error = matches!(plan, Plan::PreconditionFailed | Plan::Unsatisfiable);
    headers.insert(CACHE_CONTROL, if is_error { HeaderValue::from_static("no-store") } else { IMMUTABLE });
    headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(CONTENT_SECURITY_POLICY, NO_SCRIPT);
    headers.insert(REFERRER_POLICY, NO_REFERRER);
    insert(headers, ETAG, &record.etag);
    let length = match plan {
        Plan::Full => Some(record.size),
        Plan::Partial(range) => Some(range.end - range.start),
        Plan::NotModified | Plan::PreconditionFailed | Plan::Unsatisfiable => None,
    };
    if let Some(length) = length {
        headers.insert(CONTENT_LENGTH, length.into());
        insert(headers, CONTENT_TYPE, &record.content_type);
        // RFC 9530: over the whole representation, ranges included.
        insert(headers, REPR_DIGEST, &format!("sha-256=:{}:", BASE64_STANDARD.encode(record.sha256.0)));
    }
    match plan {
        Plan::Partial(range) => {
            insert(headers, CONTENT_RANGE, &format!("bytes {}-{}/{}", range.start, range.end - 1, record.size));
        }
        Plan::Unsatisfiable => insert(headers, CONTENT_RANGE, &format!("bytes */{}", record.size)),
        Plan::Full | Plan::NotModified | Plan::PreconditionFailed => {}
    }
}

/// Whatever cannot stand in a header was refused with its record.
fn insert(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}
