//! Whether a request could follow a redirect without its client noticing.

use crate::lookup::canonical_path;
use crate::object::Class;

/// The parts of a request that decide; filled header by header with [`RequestHead::observe`].
#[derive(Debug, Clone, Copy, Default)]
pub struct RequestHead<'a> {
    /// `:method`.
    pub method: &'a [u8],
    /// `:authority`, or the `host` header where the proxy has none.
    pub authority: &'a [u8],
    /// `:path` as the client sent it.
    pub path: &'a [u8],
    range: Option<&'a [u8]>,
    fetch_site: Option<&'a [u8]>,
    fetch_mode: Option<&'a [u8]>,
    fetch_dest: Option<&'a [u8]>,
    user_agent: Option<&'a [u8]>,
    cookie: bool,
    refusal: Option<Refusal>,
}

/// Who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Client {
    /// A browser, for an element that takes this class.
    Browser(Class),
    /// A command-line client or library.
    Tool,
}

/// Why a request is not redirected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Refusal {
    /// Neither GET nor HEAD.
    Method,
    /// A path that the next hop could read otherwise, a query, or the protocol's own.
    Path,
    /// Carries a body, or announces one.
    Body,
    /// Carries credentials.
    Authorization,
    /// Wants another protocol.
    Upgrade,
    /// Expects something of this very server.
    Expect,
    /// A range that does not start at 0, or several.
    Range,
    /// Asks whether a version it knows is current.
    Conditional,
    /// Wants the origin's own word.
    Reload,
    /// A browser's request for anything but an image, media or a font.
    Destination,
    /// A browser's request from another site's page.
    CrossSite,
    /// A CORS request with cookies, which no shared copy may answer.
    Credentials,
    /// Looks like a browser that does not say what it wants, or like git.
    UserAgent,
    /// The object is of a class that this client did not ask for.
    Class,
}

impl Refusal {
    /// Every reason, in the order of the discriminants.
    pub const ALL: [Self; 14] = [
        Self::Method,
        Self::Path,
        Self::Body,
        Self::Authorization,
        Self::Upgrade,
        Self::Expect,
        Self::Range,
        Self::Conditional,
        Self::Reload,
        Self::Destination,
        Self::CrossSite,
        Self::Credentials,
        Self::UserAgent,
        Self::Class,
    ];

    /// The name in metrics and in `p2pcdn status`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Method => "method",
            Self::Path => "path",
            Self::Body => "body",
            Self::Authorization => "authorization",
            Self::Upgrade => "upgrade",
            Self::Expect => "expect",
            Self::Range => "range",
            Self::Conditional => "conditional",
            Self::Reload => "reload",
            Self::Destination => "destination",
            Self::CrossSite => "cross_site",
            Self::Credentials => "credentials",
            Self::UserAgent => "user_agent",
            Self::Class => "class",
        }
    }
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
            b"authorization" | b"proxy-authorization" => self.refuse(Refusal::Authorization),
            b"upgrade" => self.refuse(Refusal::Upgrade),
            b"expect" => self.refuse(Refusal::Expect),
            b"if-none-match" | b"if-modified-since" | b"if-match" | b"if-unmodified-since" | b"if-range" => {
                self.refuse(Refusal::Conditional);
            }
            b"cache-control" if asks_origin(value) => self.refuse(Refusal::Reload),
            b"pragma" if value.eq_ignore_ascii_case(b"no-cache") => self.refuse(Refusal::Reload),
            b"cookie" => self.cookie = true,
            b"range" if self.range.is_some() => self.refuse(Refusal::Range),
            b"range" => self.range = Some(value),
            b"sec-fetch-site" => self.fetch_site = Some(value),
            b"sec-fetch-mode" => self.fetch_mode = Some(value),
            b"sec-fetch-dest" => self.fetch_dest = Some(value),
            b"user-agent" => self.user_agent = Some(value),
            _ => {}
        }
    }

    /// Who asks and for which path, or why the request stays.
    pub fn judge(&self) -> Result<(Client, &'a str), Refusal> {
        if !matches!(self.method, b"GET" | b"HEAD") {
            return Err(Refusal::Method);
        }
        let path = canonical_path(self.path).map_err(|_| Refusal::Path)?;
        if let Some(refusal) = self.refusal {
            return Err(refusal);
        }
        if self.range.is_some_and(|range| !starts_at_zero(range)) {
            return Err(Refusal::Range);
        }
        let is_browser = self.fetch_site.is_some() || self.fetch_mode.is_some() || self.fetch_dest.is_some();
        let client = if is_browser { self.judge_browser() } else { self.judge_tool() }?;
        Ok((client, path))
    }

    fn judge_browser(&self) -> Result<Client, Refusal> {
        let class = match self.fetch_dest {
            Some(b"image") => Class::Image,
            Some(b"audio" | b"video") => Class::Media,
            Some(b"font") => Class::Font,
            _ => return Err(Refusal::Destination),
        };
        if self.fetch_site != Some(b"same-origin") {
            return Err(Refusal::CrossSite);
        }
        match self.fetch_mode {
            Some(b"no-cors") => Ok(Client::Browser(class)),
            Some(b"cors") if !self.cookie => Ok(Client::Browser(class)),
            Some(b"cors") => Err(Refusal::Credentials),
            _ => Err(Refusal::Destination),
        }
    }

    fn judge_tool(&self) -> Result<Client, Refusal> {
        // Browsers leave Sec-Fetch headers out on insecure origins, and git rejects redirects of its requests.
        let agent = self.user_agent.unwrap_or_default();
        let suspect = agent.windows(8).any(|w| w == b"Mozilla/") || agent.starts_with(b"git/");
        if suspect { Err(Refusal::UserAgent) } else { Ok(Client::Tool) }
    }

    fn refuse(&mut self, refusal: Refusal) {
        self.refusal.get_or_insert(refusal);
    }
}

impl Client {
    /// Whether this client asked for something of the class.
    pub fn takes(self, class: Class) -> bool {
        match self {
            Self::Browser(asked) => asked == class,
            Self::Tool => true,
        }
    }
}

/// One range from the first byte, as players and downloads begin (RFC 9110, section 14.1.2).
fn starts_at_zero(range: &[u8]) -> bool {
    let digits = range.strip_prefix(b"bytes=0-");
    digits.is_some_and(|end| end.iter().all(u8::is_ascii_digit))
}

fn asks_origin(cache_control: &[u8]) -> bool {
    cache_control.split(|b| *b == b',').map(<[u8]>::trim_ascii).any(|directive| {
        [&b"no-cache"[..], b"no-store", b"max-age=0"].iter().any(|word| directive.eq_ignore_ascii_case(word))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn judge(headers: &[(&str, &str)]) -> Result<Client, Refusal> {
        let mut head = RequestHead::default();
        for (name, value) in [(":method", "GET"), (":authority", "a.test"), (":path", "/x.png")] {
            head.observe(name.as_bytes(), value.as_bytes());
        }
        for (name, value) in headers {
            head.observe(name.as_bytes(), value.as_bytes());
        }
        head.judge().map(|(client, _)| client)
    }

    fn browser<'a>(dest: &'a str, mode: &'a str, site: &'a str) -> [(&'a str, &'a str); 4] {
        let agent = ("user-agent", "Mozilla/5.0");
        [("sec-fetch-dest", dest), ("sec-fetch-mode", mode), ("sec-fetch-site", site), agent]
    }

    #[test]
    fn tools_are_told_from_browsers_by_their_name() {
        assert_eq!(judge(&[]), Ok(Client::Tool));
        assert_eq!(judge(&[("user-agent", "curl/8.5.0")]), Ok(Client::Tool));
        assert_eq!(judge(&[("user-agent", "Debian APT-HTTP/1.3 (2.6.1)")]), Ok(Client::Tool));
        assert_eq!(judge(&[("user-agent", "Mozilla/5.0 (X11)")]), Err(Refusal::UserAgent));
        assert_eq!(judge(&[("user-agent", "git/2.47.3")]), Err(Refusal::UserAgent));
    }

    #[test]
    fn browsers_are_redirected_for_same_origin_leaves_only() {
        let table = [
            ("image", "no-cors", "same-origin", Ok(Client::Browser(Class::Image))),
            ("video", "no-cors", "same-origin", Ok(Client::Browser(Class::Media))),
            ("audio", "cors", "same-origin", Ok(Client::Browser(Class::Media))),
            ("font", "cors", "same-origin", Ok(Client::Browser(Class::Font))),
            ("image", "no-cors", "cross-site", Err(Refusal::CrossSite)),
            ("image", "no-cors", "same-site", Err(Refusal::CrossSite)),
            ("image", "navigate", "same-origin", Err(Refusal::Destination)),
            ("empty", "cors", "same-origin", Err(Refusal::Destination)),
            ("script", "cors", "same-origin", Err(Refusal::Destination)),
            ("style", "no-cors", "same-origin", Err(Refusal::Destination)),
            ("document", "navigate", "none", Err(Refusal::Destination)),
            ("iframe", "navigate", "same-origin", Err(Refusal::Destination)),
            ("serviceworker", "same-origin", "same-origin", Err(Refusal::Destination)),
        ];
        for (dest, mode, site, verdict) in table {
            assert_eq!(judge(&browser(dest, mode, site)), verdict, "{dest} {mode} {site}");
        }
        assert_eq!(judge(&[("sec-fetch-dest", "image")]), Err(Refusal::CrossSite));
        assert_eq!(judge(&[("sec-fetch-site", "same-origin")]), Err(Refusal::Destination));
    }

    #[test]
    fn cookies_matter_in_cors_mode_only() {
        let with_cookie = |mode| {
            let mut headers = browser("image", mode, "same-origin").to_vec();
            headers.push(("cookie", "a=b"));
            judge(&headers)
        };
        assert_eq!(with_cookie("no-cors"), Ok(Client::Browser(Class::Image)));
        assert_eq!(with_cookie("cors"), Err(Refusal::Credentials));
    }

    #[test]
    fn what_only_the_origin_can_answer_stays() {
        let table = [
            (":method", "POST", Err(Refusal::Method)),
            (":method", "HEAD", Ok(Client::Tool)),
            (":method", "get", Err(Refusal::Method)),
            (":path", "/a%2Fb", Err(Refusal::Path)),
            (":path", "/a?b=c", Err(Refusal::Path)),
            (":path", "/.well-known/p2pcdn/v1/back/x.png", Err(Refusal::Path)),
            (":path", "/.well-known/p2pcdn/v1/r/a.test/x", Err(Refusal::Path)),
            ("content-length", "1", Err(Refusal::Body)),
            ("content-length", "0", Ok(Client::Tool)),
            ("transfer-encoding", "chunked", Err(Refusal::Body)),
            ("authorization", "Basic x", Err(Refusal::Authorization)),
            ("upgrade", "websocket", Err(Refusal::Upgrade)),
            ("expect", "100-continue", Err(Refusal::Expect)),
            ("range", "bytes=0-", Ok(Client::Tool)),
            ("range", "bytes=0-99", Ok(Client::Tool)),
            ("range", "bytes=1-", Err(Refusal::Range)),
            ("range", "bytes=-5", Err(Refusal::Range)),
            ("range", "bytes=0-1,5-6", Err(Refusal::Range)),
            ("if-none-match", "\"x\"", Err(Refusal::Conditional)),
            ("if-range", "\"x\"", Err(Refusal::Conditional)),
            ("cache-control", "No-Cache", Err(Refusal::Reload)),
            ("cache-control", "foo, max-age=0", Err(Refusal::Reload)),
            ("cache-control", "max-age=10", Ok(Client::Tool)),
            ("pragma", "no-cache", Err(Refusal::Reload)),
        ];
        for (name, value, verdict) in table {
            assert_eq!(judge(&[(name, value)]), verdict, "{name}: {value}");
        }
        assert_eq!(judge(&[("range", "bytes=0-"), ("range", "bytes=0-")]), Err(Refusal::Range));
    }

    #[test]
    fn browsers_get_the_class_they_asked_for() {
        assert!(Client::Browser(Class::Image).takes(Class::Image));
        assert!(!Client::Browser(Class::Image).takes(Class::Archive));
        assert!(Client::Tool.takes(Class::Archive));
    }

    #[test]
    fn reasons_are_numbered_as_they_are_listed() {
        for (at, refusal) in Refusal::ALL.into_iter().enumerate() {
            assert_eq!(refusal as usize, at);
        }
    }

    proptest! {
        #[test]
        fn hostile_headers_never_panic(headers in prop::collection::vec((any::<Vec<u8>>(), any::<Vec<u8>>()), 0..8)) {
            let mut head = RequestHead::default();
            for (name, value) in &headers {
                head.observe(name, value);
            }
            let _ = head.judge();
        }
    }
}
