//! Whether a request could follow a redirect without its client noticing.

use serde::{Deserialize, Serialize};

use crate::destination::Destination;
use crate::lookup::{PathError, canonical_target, split_query};
use crate::object::{Class, Sharing};
use crate::request_head::RequestHead;

/// Who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Client {
    /// A browser.
    Browser(Destination),
    /// A command-line client or library.
    Tool {
        /// Whether it asks for a Metalink document (RFC 5854) and not for the object itself.
        takes_metalink: bool,
    },
}

/// What the operator lets be redirected. Prefixes are compared with the path, query excluded.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rules {
    /// Classes of objects.
    pub classes: Vec<Class>,
    /// Smallest object in bytes.
    pub min_bytes: u64,
    /// Prefixes below which everything stays.
    pub exclude: Vec<String>,
    /// Query parameters that are part of an object's name; a request with any other one stays.
    pub queries: Vec<String>,
    /// Prefixes below which `fetch` is redirected: nothing there is fetched with `redirect: "error"` or `mode: "same-origin"`.
    pub fetch_paths: Vec<String>,
    /// Prefixes below which styles are redirected though their pages load them without `crossorigin`: none of them carries integrity.
    pub plain_style_paths: Vec<String>,
    /// Prefixes below which clicked downloads of archives are redirected.
    pub download_paths: Vec<String>,
    /// Prefixes below which images, media and fonts are redirected for pages of other sites, whose policies nobody here knows.
    pub cross_site_paths: Vec<String>,
    /// Whether ranges may start anywhere.
    pub any_range: bool,
}

/// A request whose client could follow a redirect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Accepted<'a> {
    /// Who asks.
    pub client: Client,
    /// Canonical target: path and, where its parameters are listed, query.
    pub target: &'a str,
    /// Whether another site's page wants to read the object (mode `cors`), which the origin has to let everybody do: whom else it lets,
    /// one by one, no replica knows.
    pub is_foreign_reader: bool,
}

/// Why a request is not redirected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum Refusal {
    /// Neither GET nor HEAD.
    Method,
    /// A path that the next hop could read otherwise, or the protocol's own.
    Path,
    /// A query with a parameter that is not listed.
    Query,
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
    /// Asks whether a version it knows is current, and it is, or that is not known.
    Conditional,
    /// Wants the origin's own word.
    Reload,
    /// A browser's request for what is never redirected, or not on this path.
    Destination,
    /// A browser's request from another site's page.
    CrossSite,
    /// A CORS request with cookies, which no shared copy may answer, or a tool's request with cookies, which are not for the host.
    Credentials,
    /// A CORS request with headers that another origin would have to allow first, or a tool's with headers that may be secrets.
    Headers,
    /// Looks like a browser that does not say what it wants, or like git.
    UserAgent,
    /// Below an excluded prefix.
    Excluded,
    /// No replica of the object is known.
    Unknown,
    /// The object is of a class that this client did not ask for, or that is not redirected.
    Class,
    /// The object is too small to be worth it.
    Small,
    /// What is known of the object is out of date.
    Stale,
    /// The site's Content-Security-Policy forbids it at every holder, or is not known.
    Policy,
    /// Another site's page wants to read what the origin does not open to everybody.
    Sharing,
}

impl Refusal {
    /// Every reason, in the order of the discriminants.
    pub const ALL: [Self; 22] = [
        Self::Method,
        Self::Path,
        Self::Query,
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
        Self::Headers,
        Self::UserAgent,
        Self::Excluded,
        Self::Unknown,
        Self::Class,
        Self::Small,
        Self::Stale,
        Self::Policy,
        Self::Sharing,
    ];

    /// The name in metrics and in `p2pcdn status`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Method => "method",
            Self::Path => "path",
            Self::Query => "query",
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
            Self::Headers => "headers",
            Self::UserAgent => "user_agent",
            Self::Excluded => "excluded",
            Self::Unknown => "unknown",
            Self::Class => "class",
            Self::Small => "small",
            Self::Stale => "stale",
            Self::Policy => "policy",
            Self::Sharing => "sharing",
        }
    }
}

/// Whether the request's client could follow a redirect, whatever the object. A proxy that is full does not ask the origin for its
/// own word just because a visitor pressed reload.
pub fn judge<'a>(head: &RequestHead<'a>, rules: &Rules, is_full: bool) -> Result<Accepted<'a>, Refusal> {
    if !matches!(head.method, b"GET" | b"HEAD") {
        return Err(Refusal::Method);
    }
    let target = judge_target(head.path, rules)?;
    if let Some(refusal) = head.refusal {
        return Err(refusal);
    }
    if head.is_reload && !is_full {
        return Err(Refusal::Reload);
    }
    if head.range.is_some_and(|range| !is_single(range) || !(rules.any_range || range.starts_with(b"bytes=0-"))) {
        return Err(Refusal::Range);
    }
    if is_below(target, &rules.exclude) {
        return Err(Refusal::Excluded);
    }
    let client = if head.is_browser() { judge_browser(head, target, rules) } else { judge_tool(head) }?;
    // A browser that says nothing of its page's site is accepted for downloads only.
    let is_foreign_reader = head.fetch_mode == Some(b"cors") && head.fetch_site != Some(b"same-origin");
    Ok(Accepted { client, target, is_foreign_reader })
}

/// Whether an object of this class, size and sharing is what the client asked for, and may be redirected.
///
/// Who may embed it does not matter here: the redirect and the replica say of that what the origin does, so that a page which requires
/// that word (COEP) gets no other answer than at the origin.
pub fn judge_object(
    accepted: &Accepted<'_>,
    class: Class,
    size: u64,
    sharing: Sharing,
    rules: &Rules,
) -> Result<(), Refusal> {
    let is_asked_for = match accepted.client {
        Client::Browser(destination) => destination.takes(class),
        // Code that no integrity metadata protects: a tool would run what a host makes of it.
        Client::Tool { .. } => class.is_leaf(),
    };
    if !is_asked_for || !rules.classes.contains(&class) {
        return Err(Refusal::Class);
    }
    if size < rules.min_bytes {
        return Err(Refusal::Small);
    }
    if accepted.is_foreign_reader && sharing != Sharing::Anyone { Err(Refusal::Sharing) } else { Ok(()) }
}

/// Whether the version that the client asks about could be the present one, whose tag stands in the table as `validator`.
///
/// Then the origin's 304 is cheaper than any redirect. `hash` is [`crate::lookup::HashKey::validator`].
pub fn judge_condition(etag: Option<&[u8]>, validator: u32, hash: impl Fn(&[u8]) -> u32) -> Result<(), Refusal> {
    let Some(etag) = etag else { return Ok(()) };
    let is_one = etag.len() >= 2 && etag.starts_with(b"\"") && etag.iter().filter(|b| **b == b'"').count() == 2;
    if is_one && validator != 0 && hash(etag) != validator { Ok(()) } else { Err(Refusal::Conditional) }
}

fn judge_target<'a>(target: &'a [u8], rules: &Rules) -> Result<&'a str, Refusal> {
    let (_, query) = split_query(target);
    let text = canonical_target(target).map_err(|error| match error {
        PathError::Query => Refusal::Query,
        _ => Refusal::Path,
    })?;
    let is_listed = |parameter: &[u8]| {
        let name = parameter.split(|b| *b == b'=').next().unwrap_or_default();
        rules.queries.iter().any(|listed| listed.as_bytes() == name)
    };
    let all_listed = query.is_none_or(|query| query.split(|b| *b == b'&').all(is_listed));
    if all_listed { Ok(text) } else { Err(Refusal::Query) }
}

fn judge_browser(head: &RequestHead<'_>, target: &str, rules: &Rules) -> Result<Client, Refusal> {
    let (is_cors, is_plain) = (head.fetch_mode == Some(b"cors"), head.fetch_mode == Some(b"no-cors"));
    let is_own = head.fetch_site == Some(b"same-origin");
    let destination = match head.fetch_dest {
        Some(b"image") if is_cors || is_plain => Destination::Image,
        Some(b"audio" | b"video") if is_cors || is_plain => Destination::Media,
        Some(b"font") if is_cors => Destination::Font,
        Some(b"style") if is_cors || (is_plain && is_below(target, &rules.plain_style_paths)) => Destination::Style,
        Some(b"script") if is_cors => Destination::Script,
        Some(b"empty") if (is_cors || is_plain) && is_below(target, &rules.fetch_paths) => Destination::Fetch,
        Some(dest) if is_download(head, dest) && is_below(target, &rules.download_paths) => Destination::Download,
        _ => return Err(Refusal::Destination),
    };
    let is_embed = matches!(destination, Destination::Image | Destination::Media | Destination::Font);
    let is_opted_in = is_embed && head.fetch_site.is_some() && is_below(target, &rules.cross_site_paths);
    if !(is_own || destination == Destination::Download || is_opted_in) {
        return Err(Refusal::CrossSite);
    }
    if is_cors && head.has_cookie {
        return Err(Refusal::Credentials);
    }
    if is_cors && head.has_unlisted {
        return Err(Refusal::Headers);
    }
    Ok(Client::Browser(destination))
}

fn judge_tool(head: &RequestHead<'_>) -> Result<Client, Refusal> {
    // Browsers leave Sec-Fetch headers out on insecure origins, and git rejects redirects of its requests.
    let agent = head.user_agent.unwrap_or_default();
    let has = |text: Option<&[u8]>, word: &[u8]| text.unwrap_or_default().windows(word.len()).any(|w| w == word);
    if has(Some(agent), b"Mozilla/") || agent.starts_with(b"git/") {
        return Err(Refusal::UserAgent);
    }
    if head.has_cookie {
        return Err(Refusal::Credentials);
    }
    if head.has_unlisted {
        return Err(Refusal::Headers);
    }
    // aria2 names the type beside `*/*`, and would then save the document under the object's name.
    let names_it = has(head.accept, b"application/metalink4+xml");
    let takes_object = has(head.accept, b"*/*") || has(head.accept, b"application/*");
    Ok(Client::Tool { takes_metalink: names_it && !takes_object })
}

/// A clicked link; one with a `download` attribute says `empty` (seen in Chromium 156), and is never followed as a page.
fn is_download(head: &RequestHead<'_>, dest: &[u8]) -> bool {
    let is_link = dest == b"empty" || (dest == b"document" && head.is_user_activated);
    head.fetch_mode == Some(b"navigate") && is_link
}

fn is_below(target: &str, prefixes: &[String]) -> bool {
    prefixes.iter().any(|prefix| target.starts_with(&**prefix))
}

/// One range with a first byte, as players and downloads ask for (RFC 9110, section 14.1.2).
fn is_single(range: &[u8]) -> bool {
    let Some(range) = range.strip_prefix(b"bytes=") else { return false };
    let mut ends = range.split(|b| *b == b'-');
    let is_number = |end: &[u8]| end.iter().all(u8::is_ascii_digit);
    let first = ends.next().is_some_and(|first| !first.is_empty() && is_number(first));
    first && ends.next().is_some_and(is_number) && ends.next().is_none()
}

#[cfg(test)]
mod tests;
