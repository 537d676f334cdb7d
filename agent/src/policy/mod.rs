//! The site's Content-Security-Policy: what its pages let browsers load from the replica names of its peers.
//!
//! A browser checks the target of a redirect against every policy of the page that loads it (CSP Level 3, sections 4.1.2 and 6.7.2).
//! So a [`page`] is read as a stranger sees it, [`Policies`] are what it says, and [`blocked`] is what they forbid at one replica
//! name. The [`watch`] keeps that current and tells the gates.

pub mod html;
pub mod page;
mod pages;
pub mod watch;

use std::collections::BTreeSet;

use content_security_policy::{
    Destination as Purpose, Initiator, ParserMetadata, Policy, PolicyDisposition, PolicySource, Request, Url, Violates,
};
use http::HeaderMap;
use http::header::CONTENT_SECURITY_POLICY;
use p2pcdn_core::destination::{Destination, Destinations};

/// Longest policy that is taken apart, in bytes; a longer one counts as forbidding everything.
pub const MAX_POLICY_BYTES: usize = 16 * 1024;
/// Distinct policies of one page that are told apart; further ones together count as forbidding everything.
pub const MAX_POLICIES: usize = 32;

/// What a policy that cannot be taken apart is replaced by.
const FORBID_ALL: &str = "default-src 'none'";
/// The directives that govern what is redirected, and those that they fall back to.
const DIRECTIVES: [&str; 9] = [
    "default-src",
    "img-src",
    "media-src",
    "font-src",
    "style-src",
    "style-src-elem",
    "script-src",
    "script-src-elem",
    "connect-src",
];

/// Policies, every one of which a request has to satisfy; none forbid nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Policies(BTreeSet<String>);

impl Policies {
    /// What a page says in its headers and its `meta` elements. Policies that only report are left out.
    pub fn of_page(headers: &HeaderMap, html: &[u8]) -> Self {
        let mut policies = Self::default();
        for value in headers.get_all(CONTENT_SECURITY_POLICY) {
            policies.add_list(&isomorphic(value.as_bytes()));
        }
        for text in html::policies(html) {
            // By the standard a comma ends no policy here, but browsers differ: what either reading forbids is forbidden.
            policies.add(&text);
            if text.contains(',') {
                policies.add_list(&text);
            }
        }
        policies
    }

    /// What an operator writes down, in the syntax of the header.
    pub fn declared(text: &str) -> Self {
        let mut policies = Self::default();
        policies.add_list(text);
        policies
    }

    /// Whether nothing is forbidden.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn add_list(&mut self, list: &str) {
        list.split(',').for_each(|text| self.add(text));
    }

    fn add(&mut self, text: &str) {
        if self.0.contains(FORBID_ALL) {
            return;
        }
        let known = if text.len() > MAX_POLICY_BYTES { FORBID_ALL.into() } else { relevant(text) };
        if known.is_empty() {
            return;
        }
        let is_full = self.0.len() >= MAX_POLICIES && !self.0.contains(&known);
        self.0.insert(if is_full { FORBID_ALL.into() } else { known });
    }
}

/// The strictest intersection of what several pages allow: a request that all of them allow.
pub fn strictest<'a>(pages: impl IntoIterator<Item = &'a Policies>) -> Policies {
    Policies(pages.into_iter().flat_map(|page| page.0.iter().cloned()).collect())
}

/// One destination that a policy forbids at a replica name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Objection {
    /// What cannot be loaded.
    pub destination: Destination,
    /// The directive that forbids it: the destination's own, or one that stands for it.
    pub directive: String,
    /// What that directive allows.
    pub sources: Vec<String>,
}

/// Everything that the policies of `site`'s pages forbid at `replica_name`; `None` if one of these is no authority of a URL.
///
/// The replica is reached by a redirect, so that host, scheme and port decide, and paths do not.
pub fn objections(policies: &Policies, site: &str, replica_name: &str) -> Option<Vec<Objection>> {
    let url = |authority: &str| Url::parse(&format!("https://{authority}/")).ok();
    let (from, to) = (url(site)?, url(replica_name)?);
    let parse = |text: &String| Policy::parse(text, PolicySource::Header, PolicyDisposition::Enforce);
    let policies: Vec<Policy> = policies.0.iter().map(parse).collect();
    let mut found = Vec::new();
    for (destination, purpose) in GOVERNED {
        let request = Request {
            url: from.clone(),
            current_url: to.clone(),
            origin: from.origin(),
            redirect_count: 1,
            destination: purpose,
            initiator: Initiator::None,
            // A nonce or a hash would let some scripts and styles through, but nobody knows which before they are asked for.
            nonce: String::new(),
            integrity_metadata: String::new(),
            parser_metadata: ParserMetadata::ParserInserted,
        };
        for policy in &policies {
            if let Violates::Directive(directive) = policy.does_request_violate_policy(&request) {
                found.push(Objection { destination, directive: directive.name, sources: directive.value });
            }
        }
    }
    Some(found)
}

/// What browsers cannot load from `replica_name` because of the policies of `site`'s pages.
pub fn blocked(policies: &Policies, site: &str, replica_name: &str) -> Destinations {
    match objections(policies, site, replica_name) {
        Some(objections) => objections.into_iter().map(|objection| objection.destination).collect(),
        None => governed(),
    }
}

/// Every destination that some directive governs: what is blocked while nobody knows the policies.
pub fn governed() -> Destinations {
    GOVERNED.into_iter().map(|(destination, _)| destination).collect()
}

/// The word for a destination in what operators are shown.
pub const fn name(destination: Destination) -> &'static str {
    match destination {
        Destination::Image => "images",
        Destination::Media => "media",
        Destination::Font => "fonts",
        Destination::Style => "styles",
        Destination::Script => "scripts",
        Destination::Fetch => "fetch",
        Destination::Download => "downloads",
    }
}

/// The directive that is a destination's own.
pub const fn own_directive(destination: Destination) -> &'static str {
    match destination {
        Destination::Image => "img-src",
        Destination::Media => "media-src",
        Destination::Font => "font-src",
        Destination::Style => "style-src",
        Destination::Script => "script-src",
        Destination::Fetch | Destination::Download => "connect-src",
    }
}

const GOVERNED: [(Destination, Purpose); 6] = [
    (Destination::Image, Purpose::Image),
    (Destination::Media, Purpose::Video),
    (Destination::Font, Purpose::Font),
    (Destination::Style, Purpose::Style),
    (Destination::Script, Purpose::Script),
    (Destination::Fetch, Purpose::None),
];

/// The part of a policy that decides about redirects, so that pages whose policies differ in nonces alone share one.
fn relevant(text: &str) -> String {
    // The crate compares each directive with all before it, and a hostile page may have thousands.
    let mut first: Vec<(String, &str)> = Vec::new();
    for directive in text.split(';').filter(|directive| directive.is_ascii()) {
        let name = directive.split_ascii_whitespace().next().unwrap_or_default().to_ascii_lowercase();
        if DIRECTIVES.contains(&&*name) && !first.iter().any(|(known, _)| *known == name) {
            first.push((name, directive));
        }
    }
    let text = first.into_iter().map(|(_, directive)| directive).collect::<Vec<_>>().join(";");
    let policy = Policy::parse(&text, PolicySource::Header, PolicyDisposition::Enforce);
    let directives = policy.directive_set.into_iter().filter(|directive| DIRECTIVES.contains(&directive.name.as_str()));
    let written = directives.map(|directive| {
        let sources = directive.value.into_iter().filter(|source| is_source(source));
        [directive.name].into_iter().chain(sources).collect::<Vec<_>>().join(" ")
    });
    written.collect::<Vec<_>>().join("; ")
}

/// Whether an expression could match a URL: not a nonce or a digest, and not a port that there is none of.
fn is_source(expression: &str) -> bool {
    if expression.starts_with('\'') {
        let lower = expression.to_ascii_lowercase();
        return !["'nonce-", "'sha256-", "'sha384-", "'sha512-"].iter().any(|prefix| lower.starts_with(prefix));
    }
    let after_scheme = expression.split_once("://").map_or(expression, |(_, rest)| rest);
    let authority = after_scheme.split('/').next().unwrap_or_default();
    match authority.rsplit_once(':') {
        None | Some((_, "" | "*")) => true,
        Some((_, port)) => port.parse::<u16>().is_ok(),
    }
}

/// Each byte as the code point of the same number, as browsers read header values.
fn isomorphic(bytes: &[u8]) -> String {
    bytes.iter().copied().map(char::from).collect()
}

#[cfg(test)]
mod tests;
