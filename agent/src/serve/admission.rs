//! Which requests a replica is for at all, by what their browsers say of them (Fetch Metadata Request Headers).

use http::{HeaderMap, HeaderName};
use p2pcdn_core::object::Class;

/// What a request is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    /// A part of some page, or a tool's download.
    Part,
    /// A window of its own: fit for downloads and nothing else.
    Window,
    /// A frame, a plug-in or a worker.
    Frame,
    /// A page or a service worker under the replica name itself.
    Own,
}

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
const SEC_FETCH_MODE: HeaderName = HeaderName::from_static("sec-fetch-mode");
const SEC_FETCH_DEST: HeaderName = HeaderName::from_static("sec-fetch-dest");
const SERVICE_WORKER: HeaderName = HeaderName::from_static("service-worker");

/// What runs or shows a response, instead of putting it into a page.
const FRAMES: [&[u8]; 8] =
    [b"iframe", b"frame", b"fencedframe", b"embed", b"object", b"worker", b"sharedworker", b"serviceworker"];

/// Tells what a request is for.
pub(super) fn use_of(headers: &HeaderMap) -> Use {
    let get = |name: HeaderName| headers.get(name).map(|value| value.as_bytes()).unwrap_or_default();
    let dest = get(SEC_FETCH_DEST);
    if get(SEC_FETCH_SITE) == b"same-origin" || get(SERVICE_WORKER) == b"script" {
        Use::Own
    } else if FRAMES.contains(&dest) {
        Use::Frame
    } else if dest == b"document" || get(SEC_FETCH_MODE) == b"navigate" {
        Use::Window
    } else {
        Use::Part
    }
}

/// Whether an object of this class is served to whoever asks so. Scripts are redirected in mode `cors` only, where the browser holds back what
/// the page's origin was not allowed to read; in any other mode a page of this very host could run one as its own, and so could
/// `importScripts`. Tools say nothing of a mode. Styles are redirected without CORS, too, where their origin's operator says so.
pub(super) fn is_served(headers: &HeaderMap, class: Option<Class>) -> bool {
    class != Some(Class::Script) || headers.get(SEC_FETCH_MODE).is_none_or(|mode| mode == "cors")
}

/// The `Content-Disposition` of a download: the name that the path ends with, with nothing in it that could mislead.
pub(super) fn attachment(target: &str) -> String {
    let path = target.split('?').next().unwrap_or_default();
    let last = path.rsplit('/').find(|segment| !segment.is_empty()).unwrap_or("download");
    let safe = |c: char| if c.is_ascii_alphanumeric() || "._+~-".contains(c) { c } else { '_' };
    let name: String = last.trim_start_matches('.').chars().map(safe).collect();
    format!("attachment; filename=\"{}\"", if name.is_empty() { "download" } else { &name })
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    #[test]
    fn only_parts_of_pages_and_tools_are_served_at_once() {
        let table: [(&[(&'static str, &'static str)], Use); 12] = [
            (&[], Use::Part),
            (
                &[("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "no-cors"), ("sec-fetch-dest", "image")],
                Use::Part,
            ),
            (&[("sec-fetch-mode", "cors"), ("sec-fetch-dest", "script")], Use::Part),
            (&[("sec-fetch-mode", "cors"), ("sec-fetch-dest", "empty")], Use::Part),
            (&[("sec-fetch-site", "same-site"), ("sec-fetch-dest", "font")], Use::Part),
            (&[("sec-fetch-site", "same-origin"), ("sec-fetch-dest", "script")], Use::Own),
            (&[("service-worker", "script"), ("sec-fetch-dest", "serviceworker")], Use::Own),
            (&[("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "document")], Use::Window),
            (&[("sec-fetch-mode", "navigate")], Use::Window),
            (&[("sec-fetch-dest", "document")], Use::Window),
            (&[("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "iframe")], Use::Frame),
            (&[("sec-fetch-mode", "same-origin"), ("sec-fetch-dest", "worker")], Use::Frame),
        ];
        for (pairs, expected) in table {
            let pair = |(name, value): &(&'static str, &'static str)| {
                (HeaderName::from_static(name), HeaderValue::from_static(value))
            };
            assert_eq!(use_of(&pairs.iter().map(pair).collect()), expected, "{pairs:?}");
        }
    }

    #[test]
    fn scripts_are_served_to_those_who_have_to_show_that_they_may_read_them() {
        let served = |mode: Option<&'static str>, class| {
            let mode = mode.map(|mode| (SEC_FETCH_MODE, HeaderValue::from_static(mode)));
            is_served(&mode.into_iter().collect(), class)
        };
        assert!(served(Some("cors"), Some(Class::Script)) && served(None, Some(Class::Script)));
        for mode in ["no-cors", "same-origin", "navigate", "websocket", ""] {
            assert!(!served(Some(mode), Some(Class::Script)), "{mode}");
            assert!(served(Some(mode), Some(Class::Style)) && served(Some(mode), Some(Class::Image)), "{mode}");
        }
    }

    #[test]
    fn downloads_are_named_by_their_path_and_by_nothing_else() {
        for (target, name) in [
            ("/a/b-1.0.tar.gz", "b-1.0.tar.gz"),
            ("/a/b.zip?name=evil.exe", "b.zip"),
            ("/a/", "a"),
            ("/", "download"),
            ("/.bashrc", "bashrc"),
            ("/a;b=c'd$.zip", "a_b_c_d_.zip"),
        ] {
            assert_eq!(attachment(target), format!("attachment; filename=\"{name}\""), "{target}");
        }
    }
}
