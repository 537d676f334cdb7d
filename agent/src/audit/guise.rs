//! What browsers and tools send, so that an audit looks like one of them: the headers, in their order, after a redirect.
//!
//! The handshake of TLS and the order of HTTP/2's own fields are those of the libraries used here, as of many other clients, and not those
//! of a browser. A host that looks for that can be caught by browsers only.

use http::header::{
    ACCEPT, ACCEPT_ENCODING, ACCEPT_LANGUAGE, ACCESS_CONTROL_ALLOW_ORIGIN, CONNECTION, ORIGIN, RANGE, USER_AGENT,
};
use http::{HeaderMap, HeaderName, HeaderValue};
use p2pcdn_core::object::Class;

use super::pick::Extent;
use crate::identity::neighbourhood::registrable;

/// How an audit asks.
#[derive(Debug, Clone, PartialEq)]
pub struct Guise {
    /// Headers beside Host, in order.
    pub headers: HeaderMap,
    /// Whether HTTP/2 is offered.
    pub http2: bool,
}

/// What a request looks like that asks for an object of this class of `site` at `replica_name`; draws are uniform in 0..1.
pub fn guise(
    class: Class,
    extent: Extent,
    site: &str,
    replica_name: &str,
    now_s: u64,
    mut draw: impl FnMut() -> f64,
) -> Guise {
    let is_inside = extent.from > 0;
    // Players ask from the beginning by a range as well; whatever else a page shows or links to is asked for in whole.
    let range = (is_inside || class == Class::Media).then(|| format!("bytes={}-", extent.from));
    // What resumes a long download is a tool.
    let resumes = is_inside && class != Class::Media && class.is_leaf();
    if class == Class::Archive || resumes || (class.is_leaf() && draw() < 0.1) {
        return tool(range.as_deref().filter(|_| is_inside), draw());
    }
    let browser = if draw() < 0.75 { Browser::chrome(now_s, draw()) } else { Browser::firefox(now_s, draw()) };
    browser.asks(class, range.as_deref(), site, replica_name, draw())
}

/// Whether what was asked for with these headers, as a browser, comes with others that keep it from the page, whatever the bytes are: without
/// leave to read it for a request by CORS (Fetch, section 4.10), or with a resource policy against any other (section 3.7).
pub fn is_kept_from_page(asked: &HeaderMap, answered: &HeaderMap) -> bool {
    let value = |name: &HeaderName| {
        // As browsers read them: several are one, and none of those that mean something.
        let values: Vec<&[u8]> = answered.get_all(name).iter().map(HeaderValue::as_bytes).collect();
        (!values.is_empty()).then(|| values.join(&b", "[..]))
    };
    let is = |name: &'static str, wanted: &str| asked.get(name).is_some_and(|value| value == wanted);
    if is("sec-fetch-mode", "cors") {
        let origin = asked.get(ORIGIN).map(HeaderValue::as_bytes);
        return value(&ACCESS_CONTROL_ALLOW_ORIGIN).is_none_or(|allowed| allowed != b"*" && Some(&*allowed) != origin);
    }
    let policy = value(&HeaderName::from_static("cross-origin-resource-policy"));
    is("sec-fetch-mode", "no-cors")
        && match policy.as_deref() {
            Some(b"same-origin") => true,
            Some(b"same-site") => !is("sec-fetch-site", "same-site"),
            _ => false,
        }
}

struct Browser {
    user_agent: String,
    /// Client hints, which Chrome alone sends: brands and platform.
    hints: Option<(String, &'static str)>,
}

/// Both browsers publish a major version every four weeks; one that stood still would be a tell-tale.
const RELEASE_S: u64 = 28 * 24 * 3600;
/// Chrome 142 appeared on 28 October 2025 (chromiumdash.appspot.com/schedule), Firefox 144 on 14 October (whattrainisitnow.com).
const CHROME: (u64, u64) = (142, 1_761_609_600);
const FIREFOX: (u64, u64) = (144, 1_760_400_000);

const LANGUAGES: [&str; 6] = [
    "en-US,en;q=0.9",
    "en-GB,en;q=0.9,en-US;q=0.8",
    "de-DE,de;q=0.9,en-US;q=0.8,en;q=0.7",
    "fr-FR,fr;q=0.9,en-US;q=0.8,en;q=0.7",
    "es-ES,es;q=0.9,en;q=0.8",
    "en-US,en;q=0.9,pt;q=0.8",
];

fn major((version, since_s): (u64, u64), now_s: u64) -> u64 {
    version + now_s.saturating_sub(since_s) / RELEASE_S
}

fn one_of<T: Copy>(choices: &[T], fallback: T, draw: f64) -> T {
    choices.get((draw * choices.len() as f64) as usize).copied().unwrap_or(fallback)
}

impl Browser {
    fn chrome(now_s: u64, draw: f64) -> Self {
        let version = major(CHROME, now_s);
        let systems = [
            ("Windows NT 10.0; Win64; x64", "\"Windows\""),
            ("Macintosh; Intel Mac OS X 10_15_7", "\"macOS\""),
            ("X11; Linux x86_64", "\"Linux\""),
        ];
        let (system, platform) = one_of(&systems, systems[0], draw * draw);
        let brands =
            format!("\"Chromium\";v=\"{version}\", \"Google Chrome\";v=\"{version}\", \"Not_A Brand\";v=\"99\"");
        let user_agent = format!(
            "Mozilla/5.0 ({system}) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/{version}.0.0.0 Safari/537.36"
        );
        Self { user_agent, hints: Some((brands, platform)) }
    }

    fn firefox(now_s: u64, draw: f64) -> Self {
        let version = major(FIREFOX, now_s);
        let systems = ["Windows NT 10.0; Win64; x64", "Macintosh; Intel Mac OS X 10.15", "X11; Linux x86_64"];
        let system = one_of(&systems, systems[0], draw * draw);
        let user_agent = format!("Mozilla/5.0 ({system}; rv:{version}.0) Gecko/20100101 Firefox/{version}.0");
        Self { user_agent, hints: None }
    }

    fn asks(&self, class: Class, range: Option<&str>, site: &str, replica_name: &str, draw: f64) -> Guise {
        let name = HeaderName::from_static;
        let (accept, dest, is_cors) = match class {
            Class::Image if self.hints.is_some() => {
                ("image/avif,image/webp,image/apng,image/svg+xml,image/*,*/*;q=0.8", "image", false)
            }
            Class::Image => ("image/avif,image/webp,image/png,image/svg+xml,image/*;q=0.8,*/*;q=0.5", "image", false),
            Class::Media | Class::Archive => ("*/*", "video", false),
            Class::Font => ("*/*", "font", true),
            Class::Style => ("text/css,*/*;q=0.1", "style", true),
            Class::Script => ("*/*", "script", true),
        };
        let site_relation = if registrable(site) == registrable(replica_name) { "same-site" } else { "cross-site" };
        let language = one_of(&LANGUAGES, LANGUAGES[0], draw);
        let encodings = if class == Class::Media { "identity;q=1, *;q=0" } else { "gzip, deflate, br, zstd" };
        let origin = is_cors.then(|| format!("https://{site}"));
        let mode = if is_cors { "cors" } else { "no-cors" };
        let mut pairs: Vec<(HeaderName, &str)> = Vec::with_capacity(14);
        match &self.hints {
            Some((brands, platform)) => {
                pairs.push((name("sec-ch-ua-platform"), platform));
                pairs.extend(origin.as_deref().map(|origin| (ORIGIN, origin)));
                pairs.extend([
                    (USER_AGENT, &*self.user_agent),
                    (name("sec-ch-ua"), brands),
                    (name("sec-ch-ua-mobile"), "?0"),
                    (ACCEPT, accept),
                    (name("sec-fetch-site"), site_relation),
                    (name("sec-fetch-mode"), mode),
                    (name("sec-fetch-dest"), dest),
                    (ACCEPT_ENCODING, encodings),
                    (ACCEPT_LANGUAGE, language),
                ]);
                pairs.extend(range.map(|range| (RANGE, range)));
                pairs.push((name("priority"), if class == Class::Image { "i" } else { "u=1" }));
            }
            None => {
                pairs.extend([(USER_AGENT, &*self.user_agent), (ACCEPT, accept), (ACCEPT_LANGUAGE, language)]);
                pairs.push((ACCEPT_ENCODING, encodings));
                pairs.extend(range.map(|range| (RANGE, range)));
                pairs.extend(origin.as_deref().map(|origin| (ORIGIN, origin)));
                pairs.extend([
                    (name("sec-fetch-dest"), dest),
                    (name("sec-fetch-mode"), mode),
                    (name("sec-fetch-site"), site_relation),
                    (name("priority"), if class == Class::Image { "u=5, i" } else { "u=2" }),
                ]);
            }
        }
        Guise { headers: headers(&pairs), http2: true }
    }
}

/// curl, wget or aria2.
fn tool(range: Option<&str>, draw: f64) -> Guise {
    let range = range.map(|range| (RANGE, range));
    let (mut pairs, http2): (Vec<(HeaderName, &str)>, bool) = match (draw * 3.0) as u32 {
        0 => (vec![(USER_AGENT, "curl/8.14.1"), (ACCEPT, "*/*")], true),
        1 => {
            let wget = [(USER_AGENT, "Wget/1.25.0"), (ACCEPT, "*/*"), (ACCEPT_ENCODING, "identity")];
            (wget.into_iter().chain([(CONNECTION, "Keep-Alive")]).collect(), false)
        }
        _ => (vec![(USER_AGENT, "aria2/1.37.0"), (ACCEPT, "*/*")], false),
    };
    // curl puts it first, as others do after their own.
    pairs.splice(0..0, range);
    Guise { headers: headers(&pairs), http2 }
}

fn headers(pairs: &[(HeaderName, &str)]) -> HeaderMap {
    let value = |(name, text): &(HeaderName, &str)| Some((name.clone(), HeaderValue::from_str(text).ok()?));
    pairs.iter().filter_map(value).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use p2pcdn_core::object::CHUNK_BYTES;
    use proptest::prelude::*;

    const NOW_S: u64 = 1_790_000_000;

    fn draws(mut seed: u64) -> impl FnMut() -> f64 {
        move || {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 11) as f64 / (1u64 << 53) as f64
        }
    }

    #[test]
    fn versions_go_with_the_time() {
        assert_eq!(major(CHROME, CHROME.1), 142);
        assert_eq!(major(CHROME, CHROME.1 + RELEASE_S * 3 - 1), 144);
        assert_eq!(major(FIREFOX, 0), 144, "a clock that is behind");
    }

    #[test]
    fn fonts_are_asked_for_as_pages_of_the_site_do() {
        let browser = Browser::chrome(NOW_S, 0.0);
        let headers = browser.asks(Class::Font, None, "www.a.example", "replica.b.example", 0.0).headers;
        assert_eq!(headers[ORIGIN], "https://www.a.example");
        assert_eq!(headers["sec-fetch-mode"], "cors");
        assert_eq!(headers["sec-fetch-site"], "cross-site");
        let sibling = browser.asks(Class::Image, None, "www.a.example", "replica.a.example", 0.0).headers;
        assert_eq!(sibling["sec-fetch-site"], "same-site");
        assert!(!sibling.contains_key(ORIGIN));
    }

    #[test]
    fn what_browsers_keep_from_a_page_is_known() {
        let browser = Browser::firefox(NOW_S, 0.0);
        let cors = browser.asks(Class::Font, None, "www.a.example", "r.b.example", 0.0).headers;
        let plain = browser.asks(Class::Image, None, "www.a.example", "r.b.example", 0.0).headers;
        let sibling = browser.asks(Class::Image, None, "www.a.example", "r.a.example", 0.0).headers;
        let (allow, policy) = (ACCESS_CONTROL_ALLOW_ORIGIN, HeaderName::from_static("cross-origin-resource-policy"));
        let table = [
            (&cors, &allow, vec![], true),
            (&cors, &allow, vec!["*"], false),
            (&cors, &allow, vec!["https://www.a.example"], false),
            (&cors, &allow, vec!["https://b.example"], true),
            (&cors, &allow, vec!["null"], true),
            (&cors, &allow, vec!["https://www.a.example", "*"], true),
            (&plain, &policy, vec![], false),
            (&plain, &policy, vec!["cross-origin"], false),
            (&plain, &policy, vec!["same-origin"], true),
            (&plain, &policy, vec!["same-site"], true),
            (&plain, &policy, vec!["nonsense"], false),
            (&sibling, &policy, vec!["same-site"], false),
            (&sibling, &policy, vec!["same-origin"], true),
        ];
        for (asked, name, values, is_kept) in table {
            let mut answered = HeaderMap::new();
            for value in &values {
                answered.append(name.clone(), HeaderValue::from_str(value).unwrap());
            }
            assert_eq!(is_kept_from_page(asked, &answered), is_kept, "{values:?}");
        }
        let policy = HeaderMap::from_iter([(policy, HeaderValue::from_static("same-origin"))]);
        assert!(!is_kept_from_page(&tool(None, 0.0).headers, &policy), "tools look at neither");
    }

    proptest! {
        #[test]
        fn no_guise_says_more_than_a_visitor_would(class in 0..6usize, from in prop_oneof![Just(0u64), Just(77)], seed: u64) {
            let class = Class::ALL[class];
            let extent = Extent { from, until: CHUNK_BYTES };
            let guise = guise(class, extent, "www.a.example", "replica.b.example", NOW_S, draws(seed));
            prop_assert!(guise.headers.contains_key(USER_AGENT) && guise.headers.contains_key(ACCEPT));
            prop_assert!(!guise.headers.contains_key("referer") && !guise.headers.contains_key("cookie"));
            let is_tool = !guise.headers.contains_key("sec-fetch-dest");
            prop_assert!(!is_tool || class.is_leaf());
            let is_player = class == Class::Media && !is_tool;
            let wanted = (from > 0 || is_player).then(|| format!("bytes={from}-"));
            let range = guise.headers.get(RANGE).map(|range| range.to_str().unwrap().to_owned());
            prop_assert_eq!(range, wanted, "who asks for all of it asks without a range");
        }
    }
}
