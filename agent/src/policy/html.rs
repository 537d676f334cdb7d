//! The few things in a page's HTML that matter here.

use std::convert::Infallible;

use html5gum::emitters::default::{DefaultEmitter, StartTag};
use html5gum::{Token, Tokenizer};

/// Calls `take` for every start tag, in order; text of scripts, styles and comments is passed over.
pub fn start_tags(html: &[u8], mut take: impl FnMut(&Tag<'_>)) {
    let mut emitter = DefaultEmitter::default();
    emitter.naively_switch_states(true);
    for token in Tokenizer::new_with_emitter(html, emitter) {
        let token: Result<Token, Infallible> = token;
        if let Ok(Token::StartTag(tag)) = token {
            take(&Tag(&tag));
        }
    }
}

/// A start tag.
pub struct Tag<'a>(&'a StartTag<()>);

impl Tag<'_> {
    /// Its name in lower case.
    pub fn name(&self) -> &[u8] {
        &self.0.name
    }

    /// An attribute's value; `name` is in lower case.
    pub fn attribute(&self, name: &str) -> Option<String> {
        let value = self.0.attributes.get(name.as_bytes())?;
        Some(String::from_utf8_lossy(value).into_owned())
    }
}

/// The policies in `meta` elements, wherever they stand.
pub fn policies(html: &[u8]) -> Vec<String> {
    let mut found = Vec::new();
    start_tags(html, |tag| {
        let is_policy = || {
            let kind = tag.attribute("http-equiv");
            kind.is_some_and(|kind| kind.trim_ascii().eq_ignore_ascii_case("content-security-policy"))
        };
        if tag.name() == b"meta" && is_policy() {
            found.extend(tag.attribute("content"));
        }
    });
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_are_found_where_browsers_find_them() {
        let html = br#"<!doctype html><title><meta http-equiv=Content-Security-Policy content="in a title"></title>
            <!-- <meta http-equiv="content-security-policy" content="in a comment"> -->
            <script>let a = '<meta http-equiv="content-security-policy" content="in a script">' < "</b";</script>
            <META HTTP-EQUIV='Content-Security-Policy' CONTENT='img-src &apos;self&apos;'/>
            <meta http-equiv="content-security-policy-report-only" content="img-src 'none'">
            <meta name=description content=x><meta http-equiv=" content-security-policy">"#;
        assert_eq!(policies(html), ["img-src 'self'"]);
        assert_eq!(policies(b"<meta http-equiv=content-security-policy content=\"cut of"), Vec::<String>::new());
    }
}
