//! The parts of a request that decide, taken in header by header.

use crate::eligibility::Refusal;

/// The parts of a request that decide; filled header by header with [`RequestHead::observe`].
#[derive(Debug, Clone, Copy, Default)]
pub struct RequestHead<'a> {
    /// `:method`.
    pub method: &'a [u8],
    /// `:authority`, or the `host` header where the proxy has none.
    pub authority: &'a [u8],
    /// `:path` as the client sent it.
    pub path: &'a [u8],
    /// `if-none-match`.
    pub etag: Option<&'a [u8]>,
    /// `accept`.
    pub accept: Option<&'a [u8]>,
    /// `origin`: of the page that asks.
    pub origin: Option<&'a [u8]>,
    /// Whether there are cookies.
    pub has_cookie: bool,
    pub(crate) range: Option<&'a [u8]>,
    pub(crate) fetch_site: Option<&'a [u8]>,
    pub(crate) fetch_mode: Option<&'a [u8]>,
    pub(crate) fetch_dest: Option<&'a [u8]>,
    pub(crate) is_user_activated: bool,
    pub(crate) user_agent: Option<&'a [u8]>,
    pub(crate) has_unlisted: bool,
    pub(crate) is_reload: bool,
    pub(crate) refusal: Option<Refusal>,
    has_authorization: bool,
    forwarded_for: Option<&'a [u8]>,
}

impl<'a> RequestHead<'a> {
    /// Takes in one header; `name` is in lower case. Repeated headers are each taken in.
    pub fn observe(&mut self, name: &[u8], value: &'a [u8]) {
        match name {
            b":method" => self.method = value,
            b":authority" => self.authority = value,
            b":path" => self.path = value,
            b"host" if self.authority.is_empty() => self.authority = value,
            b"content-length" if value != b"0" => self.refuse(Refusal::Body),
            b"transfer-encoding" => self.refuse(Refusal::Body),
            b"authorization" | b"proxy-authorization" => {
                self.has_authorization = true;
                self.refuse(Refusal::Authorization);
            }
            b"upgrade" => self.refuse(Refusal::Upgrade),
            b"expect" => self.refuse(Refusal::Expect),
            b"if-none-match" if self.etag.is_none() => self.etag = Some(value),
            b"if-none-match" | b"if-modified-since" | b"if-match" | b"if-unmodified-since" | b"if-range" => {
                self.refuse(Refusal::Conditional);
            }
            b"cache-control" => self.is_reload |= asks_origin(value),
            b"pragma" => self.is_reload |= value.eq_ignore_ascii_case(b"no-cache"),
            b"cookie" => self.has_cookie = true,
            b"range" if self.range.is_some() => self.refuse(Refusal::Range),
            b"range" => self.range = Some(value),
            b"sec-fetch-site" => self.fetch_site = Some(value),
            b"sec-fetch-mode" => self.fetch_mode = Some(value),
            b"sec-fetch-dest" => self.fetch_dest = Some(value),
            b"sec-fetch-user" => self.is_user_activated = value == b"?1",
            b"user-agent" => self.user_agent = Some(value),
            b"accept" => self.accept = Some(value),
            b"origin" => self.origin = Some(value),
            b"x-forwarded-for" => self.forwarded_for = Some(value),
            _ => self.has_unlisted |= !is_listed(name),
        }
    }

    /// The client's address as the proxy wrote it down last; empty if it does not.
    pub fn client(&self) -> &'a [u8] {
        let addresses = self.forwarded_for.unwrap_or_default();
        addresses.rsplit(|b| *b == b',').next().unwrap_or_default().trim_ascii()
    }

    /// Whether it comes from a browser, which says so in Sec-Fetch headers (Fetch Metadata Request Headers).
    pub fn is_browser(&self) -> bool {
        self.fetch_site.is_some() || self.fetch_mode.is_some() || self.fetch_dest.is_some()
    }

    /// Whether a browser's window or tab is to show the answer: the request is for a page.
    pub fn is_page(&self) -> bool {
        self.method == b"GET" && self.fetch_mode == Some(b"navigate") && self.fetch_dest == Some(b"document")
    }

    /// Whether a cache in front of the origin, and the origin itself, would answer any stranger alike.
    pub fn is_plain(&self) -> bool {
        let is_conditional = self.etag.is_some() || self.refusal.is_some();
        self.method == b"GET" && !self.has_cookie && !self.has_unlisted && self.range.is_none() && !is_conditional
    }

    /// Whether it carries what the origin may answer for one visitor only.
    pub fn has_credentials(&self) -> bool {
        self.has_cookie || self.has_authorization
    }

    /// A body follows, whatever the headers say.
    pub fn note_body(&mut self) {
        self.refuse(Refusal::Body);
    }

    /// Whether a condition holds only the origin can say.
    pub fn note_condition(&mut self) {
        self.refuse(Refusal::Conditional);
    }

    fn refuse(&mut self, refusal: Refusal) {
        self.refusal.get_or_insert(refusal);
    }
}

/// What browsers, tools and proxies add by themselves. Anything else a page's script has set, and a redirect to another origin would
/// need a preflight (Fetch, section 2.2.2); or a tool's user, and it may be a secret that is not for the host.
fn is_listed(name: &[u8]) -> bool {
    const PREFIXES: [&[u8]; 5] = [b":", b"sec-", b"accept-", b"x-forwarded-", b"x-envoy-"];
    const NAMES: [&[u8]; 23] = [
        b"host",
        b"content-length",
        b"connection",
        b"keep-alive",
        b"referer",
        b"priority",
        b"te",
        b"dnt",
        b"save-data",
        b"purpose",
        b"via",
        b"forwarded",
        b"x-request-id",
        b"x-real-ip",
        b"upgrade-insecure-requests",
        b"traceparent",
        b"tracestate",
        b"date",
        b"want-digest",
        b"want-repr-digest",
        b"want-content-digest",
        b"icy-metadata",
        // Firefox says by it that it came by an alternative service (RFC 7838, section 5).
        b"alt-used",
    ];
    PREFIXES.iter().any(|prefix| name.starts_with(prefix)) || NAMES.contains(&name)
}

fn asks_origin(cache_control: &[u8]) -> bool {
    cache_control.split(|b| *b == b',').map(<[u8]>::trim_ascii).any(|directive| {
        [&b"no-cache"[..], b"no-store", b"max-age=0"].iter().any(|word| directive.eq_ignore_ascii_case(word))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_client_is_whom_the_last_proxy_saw() {
        let mut head = RequestHead::default();
        assert_eq!(head.client(), b"");
        head.observe(b"x-forwarded-for", b"10.0.0.1, 192.0.2.7");
        assert_eq!(head.client(), b"192.0.2.7");
    }

    #[test]
    fn only_a_plain_request_is_answered_like_any_strangers() {
        let with = |name: &'static str, value: &'static str| {
            let mut head = RequestHead::default();
            head.observe(b":method", b"GET");
            head.observe(name.as_bytes(), value.as_bytes());
            head.is_plain()
        };
        assert!(with("accept", "*/*"));
        for (name, value) in
            [("cookie", "a=b"), ("authorization", "x"), ("range", "bytes=0-"), ("if-none-match", "\"x\"")]
        {
            assert!(!with(name, value), "{name}");
        }
        assert!(!with(":method", "HEAD") && !with("x-original-url", "/other"));
    }
}
