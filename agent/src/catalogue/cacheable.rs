//! What an answer to a stranger says about sharing it (RFC 9111). Pure: times are arguments.

use std::time::{Duration, SystemTime};

use http::header::{
    ACCESS_CONTROL_ALLOW_ORIGIN, AGE, CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_ENCODING, CONTENT_LENGTH,
    CONTENT_RANGE, CONTENT_TYPE, DATE, ETAG, EXPIRES, IF_MODIFIED_SINCE, IF_NONE_MATCH, LAST_MODIFIED, PRAGMA,
    SET_COOKIE, VARY,
};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode};
use http_cache_semantics::{CacheOptions, CachePolicy};
use p2pcdn_core::object::{Class, Embedding, Sharing};

use super::references::Reference;

/// What may be said of an answer that may be shared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shareable {
    /// Its content type in the one spelling.
    pub content_type: &'static str,
    /// Its class.
    pub class: Class,
    /// Its entity tag, if that is a strong one.
    pub etag: Option<String>,
    /// Shared freshness lifetime as declared, in seconds.
    pub max_age_s: u32,
    /// Seconds since the Unix epoch until which it is fresh.
    pub fresh_until_s: u32,
    /// How long a stale copy may stand in for an origin that fails, in seconds.
    pub stale_if_error_s: u32,
    /// Who may read it across origins.
    pub sharing: Sharing,
    /// Who may embed it.
    pub embedding: Embedding,
    /// Whether it names a charset, which a replica does not repeat.
    pub has_charset: bool,
}

/// Why an answer is not shared: the answer's own doing, so that asking again soon would not help.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WhyNot {
    /// The path could not stand in a record.
    #[error("the path is not canonical")]
    Path,
    /// Not 200.
    #[error("a stranger is answered with {0}")]
    Status(u16),
    /// It sets a cookie, so it may be meant for one visitor.
    #[error("it sets a cookie")]
    Cookie,
    /// Another coding than identity, though none was accepted.
    #[error("it is coded although only identity is accepted")]
    Coding,
    /// A header that decides and cannot be read.
    #[error("{0} cannot be read")]
    Malformed(HeaderName),
    /// `Cache-Control` forbids it.
    #[error("Cache-Control says {0}")]
    Forbidden(&'static str),
    /// It depends on request headers that caches in browsers do not share.
    #[error("it varies with request headers other than Accept-Encoding and Origin")]
    Vary,
    /// It declares no freshness for shared caches, or that is over already.
    #[error("it declares no freshness that shared caches may rely on, or that has ended")]
    NotFresh,
    /// Not on the list of types, or with parameters.
    #[error("its content type is not on the list of types that are shared")]
    ContentType,
    /// It comes with a file name or as an attachment, which a replica does not repeat.
    #[error("it has a Content-Disposition")]
    Disposition,
    /// Not a class that the operator shares, or not below a declared path.
    #[error("{} is not shared under this path", .0.name())]
    Class(Class),
    /// Too small or too large.
    #[error("{0} bytes are outside the bounds of what is shared")]
    Size(u64),
    /// What the site sends is not what lies in the directory.
    #[error("the site answers with {sent} bytes, and the file has {file}")]
    Other {
        /// Bytes that the answer announces.
        sent: u64,
        /// Bytes of the file.
        file: u64,
    },
    /// Nothing says where it ends.
    #[error("it has neither a length nor chunks, so that one cut short would not be noticed")]
    Length,
    /// A style or script that works in one place only.
    #[error(transparent)]
    Reference(#[from] Reference),
    /// A style or script in a charset that a replica would not repeat.
    #[error("it names a charset and is not plain ASCII")]
    Charset,
}

/// Whether the head of an answer to a request without cookies and credentials, which accepted only identity coding, is one that every
/// stranger gets and that a replica can repeat; returns the directives of `Cache-Control`.
pub fn open_to_strangers(status: StatusCode, headers: &HeaderMap) -> Result<Vec<String>, WhyNot> {
    if status != StatusCode::OK {
        return Err(WhyNot::Status(status.as_u16()));
    }
    if headers.contains_key(CONTENT_RANGE) {
        return Err(WhyNot::Malformed(CONTENT_RANGE));
    }
    if headers.contains_key(SET_COOKIE) {
        return Err(WhyNot::Cookie);
    }
    if list(headers, CONTENT_ENCODING)?.iter().any(|coding| coding != "identity") {
        return Err(WhyNot::Coding);
    }
    if headers.contains_key(CONTENT_DISPOSITION) {
        return Err(WhyNot::Disposition);
    }
    if list(headers, VARY)?.iter().any(|name| !matches!(&**name, "accept-encoding" | "origin")) {
        return Err(WhyNot::Vary);
    }
    let directives = list(headers, CACHE_CONTROL)?;
    if let Some(word) = ["private", "no-store", "no-cache"].into_iter().find(|word| says(&directives, word)) {
        return Err(WhyNot::Forbidden(word));
    }
    Ok(directives)
}

/// Judges the head of an answer to a GET without cookies and credentials that accepted only identity coding.
///
/// `sent` is when the request was sent, so that ages come out rather too great, `now` the present time. `heuristic` says whether a lifetime is
/// made up for what declares none.
pub fn judge(
    status: StatusCode,
    headers: &HeaderMap,
    sent: SystemTime,
    now: SystemTime,
    heuristic: bool,
) -> Result<Shareable, WhyNot> {
    let directives = open_to_strangers(status, headers)?;
    let says = |name: &str| says(&directives, name);
    // RFC 9111, section 4.2.1: lifetimes that contradict each other are none.
    for name in ["max-age=", "s-maxage="] {
        let mut lifetimes = directives.iter().filter(|directive| directive.starts_with(name));
        if lifetimes.next().is_some_and(|first| lifetimes.any(|other| other != first)) {
            return Err(WhyNot::NotFresh);
        }
    }
    let (lifetime, left) = freshness(headers, &directives, sent, now, heuristic)?;
    let fresh_until_s = now.checked_add(left).map_or(u32::MAX - 1, epoch_s);
    if fresh_until_s <= epoch_s(now) {
        return Err(WhyNot::NotFresh);
    }
    let (content_type, has_charset) = content_type(headers)?;
    // RFC 9111, sections 4.2.4 and 5.2.2: these forbid stale answers, s-maxage included.
    let is_strict = ["must-revalidate", "proxy-revalidate", "s-maxage"].into_iter().any(says);
    let (sharing, embedding) = readers(headers);
    Ok(Shareable {
        content_type,
        class: Class::of_content_type(content_type).ok_or(WhyNot::ContentType)?,
        etag: strong_etag(headers).map(str::to_owned),
        max_age_s: u32::try_from(lifetime.as_secs()).unwrap_or(u32::MAX),
        fresh_until_s,
        stale_if_error_s: if is_strict { 0 } else { stale_if_error(&directives) },
        sharing,
        embedding,
        has_charset,
    })
}

/// Whose pages may read the object, and whose may embed it.
pub fn readers(headers: &HeaderMap) -> (Sharing, Embedding) {
    let sharing = match one(headers, &ACCESS_CONTROL_ALLOW_ORIGIN) {
        Some("*") => Sharing::Anyone,
        _ => Sharing::SameOrigin,
    };
    let embedding = match one(headers, &HeaderName::from_static("cross-origin-resource-policy")) {
        Some("cross-origin") => Embedding::Anyone,
        Some("same-origin" | "same-site") => Embedding::Own,
        _ => Embedding::Unstated,
    };
    (sharing, embedding)
}

/// Bytes that the answer announces. Without them a break could pass for the end: proxies turn a body that its server cut short into
/// whole chunks.
pub fn announced(headers: &HeaderMap) -> Result<u64, WhyNot> {
    let length = one(headers, &CONTENT_LENGTH).ok_or(WhyNot::Length)?;
    length.parse().map_err(|_| WhyNot::Malformed(CONTENT_LENGTH))
}

/// Conditions under which 304 says that not a byte has changed; empty if no such thing is known.
pub fn conditions(stored: &HeaderMap) -> HeaderMap {
    let mut conditions = HeaderMap::new();
    let value = |name| stored.get(name).cloned();
    if strong_etag(stored).is_some() {
        conditions.extend(value(ETAG).map(|etag| (IF_NONE_MATCH, etag)));
    } else if is_old_enough(stored) {
        conditions.extend(value(LAST_MODIFIED).map(|date| (IF_MODIFIED_SINCE, date)));
    }
    conditions
}

/// The stored head as a 304 updates it (RFC 9111, section 3.2).
pub fn updated(stored: &HeaderMap, not_modified: &HeaderMap) -> HeaderMap {
    let mut merged = stored.clone();
    // The age is that of the new answer or none.
    merged.remove(AGE);
    let describes_body = [CONTENT_LENGTH, CONTENT_ENCODING, CONTENT_TYPE];
    for name in not_modified.keys().filter(|name| !describes_body.contains(name)) {
        merged.remove(name);
        merged.extend(not_modified.get_all(name).iter().map(|value| (name.clone(), value.clone())));
    }
    merged
}

/// The headers of a head that matter later.
pub fn kept(headers: &HeaderMap) -> HeaderMap {
    let names = [
        ACCESS_CONTROL_ALLOW_ORIGIN,
        CACHE_CONTROL,
        CONTENT_TYPE,
        DATE,
        ETAG,
        LAST_MODIFIED,
        VARY,
        AGE,
        EXPIRES,
        PRAGMA,
        HeaderName::from_static("cross-origin-resource-policy"),
    ];
    headers.iter().filter(|(name, _)| names.contains(name)).map(|(n, v)| (n.clone(), v.clone())).collect()
}

/// RFC 9111, section 4.2.2: of the time for which something has not changed.
const HEURISTIC_SHARE: f32 = 0.1;
/// The longest lifetime that is made up.
const MAX_HEURISTIC: Duration = Duration::from_secs(24 * 3600);

/// Lifetime for shared caches, and what is left of it. Without a declared lifetime there is none, unless one may be made up.
fn freshness(
    headers: &HeaderMap,
    directives: &[String],
    sent: SystemTime,
    now: SystemTime,
    heuristic: bool,
) -> Result<(Duration, Duration), WhyNot> {
    // What overflows counts as 2^31 seconds (RFC 9111, section 1.2.2); the crate does not expect more.
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if one(headers, &AGE).is_some_and(|age| is_number(age) && age.parse::<u64>().map_or(true, |age| age >= 1 << 31)) {
        return Err(WhyNot::NotFresh);
    }
    let mut response = Response::new(());
    *response.headers_mut() = headers.clone();
    // The crate compares directives as they are written, and they are case-insensitive.
    if let Ok(lower) = HeaderValue::try_from(directives.join(", ")) {
        response.headers_mut().insert(CACHE_CONTROL, lower);
    }
    if directives.is_empty() {
        response.headers_mut().remove(CACHE_CONTROL);
    }
    let options = CacheOptions {
        shared: true,
        cache_heuristic: if heuristic { HEURISTIC_SHARE } else { 0.0 },
        immutable_min_time_to_live: Duration::ZERO,
        ignore_cargo_cult: false,
    };
    let policy = CachePolicy::new_options(&Request::new(()), &response, sent, options);
    let lifetime = match policy.time_to_live(sent) {
        Duration::ZERO => return Err(WhyNot::NotFresh),
        left => left.saturating_add(policy.age(sent)),
    };
    let declares = |name: &str| directives.iter().any(|directive| directive.starts_with(name));
    let is_declared = declares("max-age=") || declares("s-maxage=") || headers.contains_key(EXPIRES);
    let lifetime = if is_declared { lifetime } else { lifetime.min(MAX_HEURISTIC) };
    // RFC 9111, section 4.2.3: the greater of what Age and Date say.
    let date = one(headers, &DATE).and_then(|date| httpdate::parse_http_date(date).ok());
    let apparent = date.and_then(|date| now.duration_since(date).ok()).unwrap_or_default();
    Ok((lifetime, lifetime.saturating_sub(policy.age(now).max(apparent))))
}

fn says(directives: &[String], name: &str) -> bool {
    directives.iter().any(|directive| directive.split('=').next().map(str::trim) == Some(name))
}

fn stale_if_error(directives: &[String]) -> u32 {
    let value = directives.iter().find_map(|directive| directive.strip_prefix("stale-if-error="));
    value.and_then(|seconds| seconds.trim_matches('"').parse().ok()).unwrap_or(0)
}

/// The type in its one spelling, and whether there was a charset. A replica is served without parameters, so the only one that is
/// let through is the charset that browsers assume anyway.
fn content_type(headers: &HeaderMap) -> Result<(&'static str, bool), WhyNot> {
    let text = one(headers, &CONTENT_TYPE).ok_or(WhyNot::ContentType)?.to_ascii_lowercase();
    let (essence, parameter) = text.split_once(';').map_or((&*text, None), |(e, p)| (e, Some(p.trim())));
    let is_charset = match parameter {
        None | Some("") => false,
        Some("charset=utf-8" | "charset=\"utf-8\"" | "charset=us-ascii") => true,
        Some(_) => return Err(WhyNot::ContentType),
    };
    let essence = essence.trim();
    let one_spelling = ALIASES.iter().find(|(alias, _)| *alias == essence).map_or(essence, |(_, spelling)| *spelling);
    let listed = p2pcdn_core::object::content_types().find(|listed| *listed == one_spelling);
    Ok((listed.ok_or(WhyNot::ContentType)?, is_charset))
}

/// Other names for listed types, only where browsers treat both alike: scripts by the JavaScript types of the MIME Sniffing
/// standard, fonts and icons by their bytes; archives are for tools, which save what they get.
const ALIASES: &[(&str, &str)] = &[
    ("application/font-woff", "font/woff"),
    ("application/font-woff2", "font/woff2"),
    ("application/javascript", "text/javascript"),
    ("application/x-debian-package", "application/vnd.debian.binary-package"),
    ("application/x-font-opentype", "font/otf"),
    ("application/x-font-otf", "font/otf"),
    ("application/x-font-ttf", "font/ttf"),
    ("application/x-font-woff", "font/woff"),
    ("application/x-gzip", "application/gzip"),
    ("application/x-javascript", "text/javascript"),
    ("application/x-zip-compressed", "application/zip"),
    ("audio/wave", "audio/wav"),
    ("audio/x-wav", "audio/wav"),
    ("image/vnd.microsoft.icon", "image/x-icon"),
];

/// The only value of a header; none if there are several or it is not plain text.
fn one<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next().filter(|_| values.next().is_none())?;
    value.to_str().ok().map(str::trim)
}

/// The elements of all values of a list header in lower case. Quoted commas part, too, which names more directives rather than fewer.
fn list(headers: &HeaderMap, name: HeaderName) -> Result<Vec<String>, WhyNot> {
    let mut elements = Vec::new();
    for value in headers.get_all(&name) {
        let text = value.to_str().map_err(|_| WhyNot::Malformed(name.clone()))?;
        let lower = text.split(',').map(|element| element.trim().to_ascii_lowercase());
        elements.extend(lower.filter(|element| !element.is_empty()));
    }
    Ok(elements)
}

/// The entity tag if it is a strong one that a record can carry.
fn strong_etag(headers: &HeaderMap) -> Option<&str> {
    let etag = one(headers, &ETAG)?;
    p2pcdn_core::object::is_strong_etag(etag).then_some(etag)
}

/// RFC 9110, section 8.8.2.2: a date is as good as a strong validator if the file was at rest for a while when it was sent.
fn is_old_enough(stored: &HeaderMap) -> bool {
    const AT_REST: Duration = Duration::from_secs(60);
    let time = |name| one(stored, &name).and_then(|date| httpdate::parse_http_date(date).ok());
    let (Some(modified), Some(sent)) = (time(LAST_MODIFIED), time(DATE)) else { return false };
    sent.duration_since(modified).is_ok_and(|rest| rest >= AT_REST)
}

/// Whole seconds since the Unix epoch, below `u32::MAX`, which stands for files that are watched.
fn epoch_s(time: SystemTime) -> u32 {
    let seconds = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    u32::try_from(seconds).unwrap_or(u32::MAX).min(u32::MAX - 1)
}

#[cfg(test)]
mod tests;
