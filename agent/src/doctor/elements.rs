//! What a page's HTML makes a browser load.

use p2pcdn_core::destination::Destination;
use url::Url;

use crate::policy::html::{Tag, start_tags};

/// Something that an element loads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resource {
    /// Where from.
    pub url: Url,
    /// The element's name.
    pub element: String,
    /// What for, as far as redirects care.
    pub destination: Option<Destination>,
    /// Whether it is loaded with CORS: by a `crossorigin` attribute, or since its kind always is.
    pub is_cors: bool,
    /// Whether the element has integrity metadata.
    pub has_integrity: bool,
}

/// Most resources of one page that are looked at.
pub const MAX_RESOURCES: usize = 1024;

/// What the page at `url` loads from URLs of HTTP or HTTPS, in order.
pub fn resources(url: &Url, html: &[u8]) -> Vec<Resource> {
    let mut found: Vec<Resource> = Vec::new();
    let mut base: Option<Url> = None;
    // A source is loaded as the element around it says, which for images comes after it.
    let mut player_is_cors = false;
    let mut sources_of_image: Vec<usize> = Vec::new();
    start_tags(html, |tag| {
        if tag.name() == b"base" && base.is_none() {
            base = tag.attribute("href").and_then(|href| url.join(&href).ok());
        }
        let element = String::from_utf8_lossy(tag.name()).into_owned();
        let has_crossorigin = tag.attribute("crossorigin").is_some();
        match tag.name() {
            b"audio" | b"video" => player_is_cors = has_crossorigin,
            b"picture" => sources_of_image.clear(),
            b"img" => {
                for at in sources_of_image.drain(..) {
                    found[at].is_cors |= has_crossorigin;
                }
            }
            _ => {}
        }
        for (reference, destination, always_cors) in references(tag) {
            let Ok(url) = base.as_ref().unwrap_or(url).join(reference.trim()) else { continue };
            let resource = Resource {
                url,
                element: element.clone(),
                destination,
                is_cors: always_cors
                    || has_crossorigin
                    || (player_is_cors && destination == Some(Destination::Media) && element == "source"),
                has_integrity: tag.attribute("integrity").is_some_and(|value| !value.trim().is_empty()),
            };
            let is_web = matches!(resource.url.scheme(), "http" | "https");
            if is_web && found.len() < MAX_RESOURCES && !found.contains(&resource) {
                if element == "source" && destination == Some(Destination::Image) {
                    sources_of_image.push(found.len());
                }
                found.push(resource);
            }
        }
    });
    found
}

type Reference = (String, Option<Destination>, bool);

fn references(tag: &Tag<'_>) -> Vec<Reference> {
    use Destination::{Font, Image, Media, Script, Style};
    let get = |name| tag.attribute(name);
    let one = |value: Option<String>, what| value.map(|value| (value, Some(what), false)).into_iter();
    let set = |name| candidates(&get(name).unwrap_or_default()).into_iter().map(|url| (url, Some(Image), false));
    match tag.name() {
        b"img" => one(get("src"), Image).chain(set("srcset")).collect(),
        b"source" => one(get("src"), Media).chain(set("srcset")).collect(),
        b"audio" | b"track" => one(get("src"), Media).collect(),
        b"video" => one(get("src"), Media).chain(one(get("poster"), Image)).collect(),
        b"script" => {
            let is_module = get("type").is_some_and(|kind| kind.trim().eq_ignore_ascii_case("module"));
            get("src").map(|src| (src, Some(Script), is_module)).into_iter().collect()
        }
        b"link" => {
            let Some(href) = get("href") else { return Vec::new() };
            let rel = get("rel").unwrap_or_default().to_ascii_lowercase();
            let purpose = get("as").unwrap_or_default().to_ascii_lowercase();
            let is = |word: &str| rel.split_ascii_whitespace().any(|token| token == word);
            let loaded = if is("stylesheet") {
                Some((Some(Style), false))
            } else if is("modulepreload") {
                Some((Some(Script), true))
            } else if is("icon") {
                Some((Some(Image), false))
            } else if is("manifest") {
                Some((None, false))
            } else if is("preload") {
                Some(match purpose.as_str() {
                    "image" => (Some(Image), false),
                    "audio" | "video" | "track" => (Some(Media), false),
                    "font" => (Some(Font), true),
                    "style" => (Some(Style), false),
                    "script" => (Some(Script), false),
                    _ => (None, false),
                })
            } else {
                None
            };
            loaded.map(|(destination, is_cors)| (href, destination, is_cors)).into_iter().collect()
        }
        _ => Vec::new(),
    }
}

/// The URLs of a `srcset` (HTML, section 4.8.4.3.10).
fn candidates(srcset: &str) -> Vec<String> {
    let mut urls = Vec::new();
    let mut rest = srcset;
    loop {
        rest = rest.trim_start_matches(|c: char| c.is_ascii_whitespace() || c == ',');
        if rest.is_empty() {
            return urls;
        }
        let (url, after) = rest.split_at(rest.find(|c: char| c.is_ascii_whitespace()).unwrap_or(rest.len()));
        urls.push(url.trim_end_matches(',').to_owned());
        // A comma right after the URL ends the candidate; otherwise its descriptors do, which may have commas in parentheses.
        rest = if url.ends_with(',') { after } else { after_descriptors(after) };
    }
}

fn after_descriptors(text: &str) -> &str {
    let mut depth = 0usize;
    for (at, c) in text.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => return text.get(at + 1..).unwrap_or_default(),
            _ => {}
        }
    }
    ""
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn found(html: &str) -> Vec<(String, Option<Destination>, bool, bool)> {
        let url = Url::parse("https://a.test/dir/page").unwrap();
        let list = resources(&url, html.as_bytes());
        list.into_iter().map(|r| (r.url.to_string(), r.destination, r.is_cors, r.has_integrity)).collect()
    }

    #[test]
    fn every_element_that_loads_something_is_seen() {
        use Destination::{Font, Image, Media, Script, Style};
        let table = [
            ("<img src=x.png>", vec![("dir/x.png", Some(Image), false, false)]),
            (
                "<img crossorigin srcset=' /1.png 1x , /2.png,/3.png 2x, /a,b.png 30w'>",
                vec![
                    ("1.png", Some(Image), true, false),
                    ("2.png,/3.png", Some(Image), true, false),
                    ("a,b.png", Some(Image), true, false),
                ],
            ),
            ("<picture><source srcset='/a.avif'></picture>", vec![("a.avif", Some(Image), false, false)]),
            (
                "<video src=/v.mp4 poster=/p.jpg>",
                vec![("v.mp4", Some(Media), false, false), ("p.jpg", Some(Image), false, false)],
            ),
            ("<audio><source src=/a.ogg></audio>", vec![("a.ogg", Some(Media), false, false)]),
            (
                "<audio crossorigin><source src=/a.ogg></audio><audio><source src=/b.ogg></audio>",
                vec![("a.ogg", Some(Media), true, false), ("b.ogg", Some(Media), false, false)],
            ),
            (
                "<picture><source srcset=/a.avif><img crossorigin src=/a.png></picture><source srcset=/b.avif><img src=/b.png>",
                vec![
                    ("a.avif", Some(Image), true, false),
                    ("a.png", Some(Image), true, false),
                    ("b.avif", Some(Image), false, false),
                    ("b.png", Some(Image), false, false),
                ],
            ),
            ("<LINK REL='preload StyleSheet' HREF=/a.css>", vec![("a.css", Some(Style), false, false)]),
            ("<link rel=preload as=font href=/f.woff2 crossorigin>", vec![("f.woff2", Some(Font), true, false)]),
            ("<link rel=manifest href=/m.json>", vec![("m.json", None, false, false)]),
            ("<script src=/a.js integrity=sha384-x crossorigin></script>", vec![("a.js", Some(Script), true, true)]),
            ("<script type=module src=/a.js integrity=' '></script>", vec![("a.js", Some(Script), true, false)]),
            ("<link rel=modulepreload href=/m.js>", vec![("m.js", Some(Script), true, false)]),
            (
                "<base href='/other/'><img src=x><base href=/no/><img src=y>",
                vec![("other/x", Some(Image), false, false), ("other/y", Some(Image), false, false)],
            ),
            ("<img src=data:image/png,x><img src='http://['><a href=/x><link rel=canonical href=/y><img>", vec![]),
        ];
        for (html, expected) in table {
            let expected: Vec<_> =
                expected.into_iter().map(|(p, d, c, i)| (format!("https://a.test/{p}"), d, c, i)).collect();
            assert_eq!(found(html), expected, "{html}");
        }
    }

    proptest! {
        #[test]
        fn hostile_pages_never_panic(html in "(<(img|link|script|base) (src|srcset|href|rel)=.{0,20}>?){0,4}", set in ".{0,40}") {
            let _ = found(&html);
            prop_assert!(candidates(&set).len() <= set.len());
        }
    }
}
