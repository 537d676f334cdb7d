//! From a response to what the filter makes of it.

use super::*;

const IMAGE: [(&str, &str); 2] = [(":method", "GET"), (":path", "/a.png")];
type Headers = &'static [(&'static str, &'static str)];

const BACK: [(&str, &str); 2] = [(":method", "GET"), (":path", "/.well-known/p2pcdn/v1/back/a.png")];

impl Site {
    /// Asks, and lets the origin answer; whether the filter replaced that answer.
    fn respond(&self, request: &[(&str, &str)], status: u16, headers: &[(&str, &str)]) -> bool {
        let mut request = self.ask(request);
        assert_ne!(request.verdict, Verdict::Redirected);
        self.host.set_response(status, headers);
        request.complete_response()
    }

    fn idle(keys: &str) -> Self {
        let mut site = Self::new(keys);
        site.load(Update { steering: Steering::default(), ..update(table()) });
        site
    }

    fn knows(&self, path: &str) -> bool {
        self.root.vm.as_ref().unwrap().borrow().gate.table().find(key(path)).is_some()
    }
}

#[test]
fn answers_to_return_urls_are_opened_to_every_page_for_objects_in_the_table_only() {
    let mut site = Site::loaded("");
    site.respond(&[(":method", "GET"), (":path", "/.well-known/p2pcdn/v1/back/c.png")], 200, &[]);
    assert_eq!(site.host.response_headers(), []);
    let public: Headers = &[("etag", "\"one\""), ("vary", "accept-encoding")];
    assert!(!site.respond(&BACK, 200, public));
    let value = |name: &str| {
        let headers = site.host.response_headers();
        headers.into_iter().find(|(known, _)| known == name).map(|(_, value)| String::from_utf8(value).unwrap())
    };
    assert_eq!(value("access-control-allow-origin").unwrap(), "*");
    assert_eq!(value("cross-origin-resource-policy").unwrap(), "cross-origin");
    assert_eq!(value("vary").unwrap(), "accept-encoding, origin, cookie, authorization");
    site.respond(&[&BACK[..], &[("origin", "null")]].concat(), 200, public);
    assert_eq!(value("access-control-allow-origin").unwrap(), "null");
    assert_eq!(value("access-control-allow-credentials").unwrap(), "true");
    site.respond(&[&BACK[..], &[("origin", "null"), ("cookie", "a=b")]].concat(), 200, public);
    assert_eq!(value("access-control-allow-origin").unwrap(), "*", "no credentials where a cookie came");
    for odd in ["https://a.test\r\nset-cookie: a=b", "https://a.test\0", "\u{7f}", "https://ä.test", "a b"] {
        site.respond(&[&BACK[..], &[("origin", odd)]].concat(), 200, public);
        assert_eq!(value("access-control-allow-origin").unwrap(), "*", "{odd:?}");
    }
    assert_eq!(site.metric("p2pcdn.returned"), 8);
    site.root.tick();
    assert_eq!(site.last_report().returned, [key("/a.png")]);
}

#[test]
fn what_may_be_for_one_visitor_only_is_opened_to_nobody() {
    let cases: [(Headers, u16, Headers, bool); 8] = [
        (&[], 200, &[], true),
        (&[], 200, &[("etag", "\"two\"")], true),
        (&[], 404, &[], false),
        (&[], 200, &[("cache-control", "Private, max-age=60")], false),
        (&[], 200, &[("set-cookie", "a=b")], false),
        (&[("cookie", "a=b")], 200, &[], false),
        (&[("authorization", "Basic x")], 200, &[("etag", "\"two\"")], false),
        (&[("authorization", "Basic x")], 200, &[("etag", "\"one\"")], true),
    ];
    for (request, status, response, is_opened) in cases {
        let site = Site::loaded("");
        site.respond(&[&BACK[..], &[("origin", "https://evil.test")], request].concat(), status, response);
        let headers = site.host.response_headers();
        assert_eq!(!headers.is_empty(), is_opened, "{request:?} {status} {response:?}");
        assert!(headers.iter().all(|(name, _)| name != "access-control-allow-credentials"), "{request:?} {response:?}");
    }
}

#[test]
fn another_strong_tag_evicts_at_once_and_tells_the_agent() {
    let mut site = Site::idle(r#", "stay_local_s": 10"#);
    site.respond(&IMAGE, 200, &[("etag", "\"one\"")]);
    assert!(site.knows("/a.png"));
    site.host.pass_ms(10_000);
    site.respond(&IMAGE, 200, &[("etag", "\"two\"")]);
    assert!(!site.knows("/a.png"));
    site.root.tick();
    assert_eq!((site.last_report().contradicted, site.last_report().questioned), (vec![key("/a.png")], vec![]));
}

#[test]
fn anything_less_than_proof_only_asks_the_agent() {
    let cases: [(u16, Headers, bool); 9] = [
        (200, &[("etag", "W/\"two\"")], true),
        (200, &[], true),
        (404, &[], true),
        (301, &[], true),
        (200, &[("etag", "\"two\""), ("content-encoding", "gzip")], false),
        (200, &[("etag", "\"one\"")], false),
        (304, &[], false),
        (431, &[], false),
        (206, &[("etag", "\"two\"")], false),
    ];
    for (status, headers, is_questioned) in cases {
        let mut site = Site::idle(r#", "stay_local_s": 10"#);
        site.respond(&IMAGE, status, headers);
        assert!(site.knows("/a.png"), "{status} {headers:?}");
        site.root.tick();
        let report = site.last_report();
        assert_eq!(
            (report.contradicted.len(), !report.questioned.is_empty()),
            (0, is_questioned),
            "{status} {headers:?}"
        );
    }
}

#[test]
fn what_a_stranger_would_not_get_proves_nothing() {
    // A tool's unlisted header or a reload is not looked at; browsers send cookies with every image.
    const BROWSER: Headers =
        &[("sec-fetch-site", "same-origin"), ("sec-fetch-mode", "no-cors"), ("sec-fetch-dest", "image")];
    let cases: [(Headers, (&str, &str), u16, bool); 6] = [
        (&[], ("x-original-url", "/other"), 200, false),
        (&[], ("cache-control", "no-cache"), 200, false),
        (&[], ("range", "bytes=0-"), 200, true),
        (&[], ("range", "bytes=0-"), 206, true),
        (BROWSER, ("cookie", "a=b"), 200, true),
        (BROWSER, ("cookie", "a=b"), 404, true),
    ];
    for (client, header, status, is_questioned) in cases {
        let mut site = Site::idle(r#", "stay_local_s": 10"#);
        site.respond(&[&IMAGE[..], client, &[header]].concat(), status, &[("etag", "\"two\"")]);
        assert!(site.knows("/a.png"), "{header:?}");
        site.root.tick();
        let report = site.last_report();
        assert_eq!(
            (report.contradicted, !report.questioned.is_empty()),
            (vec![], is_questioned),
            "{header:?} {status}"
        );
    }
}

#[test]
fn visitors_with_cookies_do_not_use_up_the_look_that_proves_something() {
    let mut site = Site::loaded(r#", "stay_local_s": 10"#);
    let browser = [("sec-fetch-site", "same-origin"), ("sec-fetch-mode", "no-cors"), ("sec-fetch-dest", "image")];
    let with_cookie = [&IMAGE[..], &browser, &[("cookie", "a=b")]].concat();
    site.respond(&with_cookie, 200, &[("etag", "\"one\"")]);
    assert_eq!(site.ask(&with_cookie).verdict, Verdict::Redirected, "once in a period is enough");
    site.respond(&IMAGE, 200, &[("etag", "\"two\"")]);
    assert!(!site.knows("/a.png"), "a stranger's request is looked at all the same");
    site.root.tick();
    assert_eq!(site.last_report().contradicted, [key("/a.png")]);
}

#[test]
fn pages_that_visitors_were_shown_are_told_to_the_agent() {
    let mut site = Site::loaded("");
    let navigation = |path: &'static str| {
        [
            (":method", "GET"),
            (":path", path),
            ("sec-fetch-dest", "document"),
            ("sec-fetch-mode", "navigate"),
            ("sec-fetch-site", "none"),
        ]
    };
    site.respond(&navigation("/blog/?who=me"), 200, &[]);
    site.respond(&[&navigation("/reloaded")[..], &[("cache-control", "max-age=0")]].concat(), 304, &[]);
    for status in [301, 302, 401, 404, 503] {
        site.respond(&navigation("/no-page"), status, &[]);
    }
    site.root.tick();
    assert_eq!(site.last_report().pages, ["/blog/", "/reloaded"]);
}

#[test]
fn a_failing_origin_is_replaced_by_a_replica() {
    for status in [500, 502, 503, 504] {
        let site = Site::idle("");
        assert!(site.respond(&IMAGE, status, &[]), "{status}");
        assert_eq!(site.locations(), [location("/a.png")]);
        assert_eq!((site.metric("p2pcdn.origin_failures"), site.metric("p2pcdn.rescued")), (1, 1));
    }
    for header in [("if-none-match", "\"one\""), ("cache-control", "no-cache")] {
        let returning = Site::idle("");
        assert!(returning.respond(&[&IMAGE[..], &[header]].concat(), 503, &[]), "{header:?}");
    }
    let not_failing = Site::idle("");
    assert!(!not_failing.respond(&IMAGE, 501, &[]) && !not_failing.respond(&IMAGE, 429, &[]));
    let off = Site::idle(r#", "rescue": false"#);
    assert!(!off.respond(&IMAGE, 503, &[]));
    assert_eq!((off.metric("p2pcdn.origin_failures"), off.metric("p2pcdn.rescued")), (1, 0));
}

#[test]
fn a_redirect_says_once_who_may_read_and_embed_whatever_the_proxys_routes_add() {
    let browser = [("sec-fetch-site", "same-origin"), ("sec-fetch-mode", "cors"), ("sec-fetch-dest", "image")];
    let image = [&IMAGE[..], &browser].concat();
    let row = |sharing, embedding| ObjectRow { sharing, embedding, ..row("/a.png", Class::Image) };
    let said = |sharing, embedding, is_rescued: bool| {
        let mut site = if is_rescued { Site::idle("") } else { Site::loaded("") };
        site.root.tick();
        let steering = if is_rescued { Steering::default() } else { ALL };
        site.answer(&Update { ops: vec![Op::Object(row(sharing, embedding))], steering, ..nothing_new() });
        let mut request = site.ask(&image);
        if is_rescued {
            site.host.set_response(503, &[]);
            assert!(request.complete_response());
        }
        // The proxy shows the answer that the filter has sent.
        site.host.set_response(307, &[]);
        assert!(!request.complete_response());
        let headers = site.host.response_headers();
        headers.into_iter().map(|(name, value)| (name, String::from_utf8(value).unwrap())).collect::<Vec<_>>()
    };
    let header = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    for is_rescued in [false, true] {
        assert_eq!(said(Sharing::SameOrigin, Embedding::Unstated, is_rescued), [], "nothing is looked at twice");
        let both = [header("access-control-allow-origin", "*"), header("cross-origin-resource-policy", "cross-origin")];
        assert_eq!(said(Sharing::Anyone, Embedding::Anyone, is_rescued), both);
    }
}

#[test]
fn a_stale_copy_stands_in_for_a_failing_origin_only_as_long_as_the_origin_allowed() {
    let mut site = Site::loaded("");
    site.root.tick();
    let fresh_until_s = (NOW_MS / 1000) as u32 + 1;
    let allowed = ObjectRow { fresh_until_s, stale_if_error_s: 90, ..row("/a.png", Class::Image) };
    let not_allowed = ObjectRow { fresh_until_s, ..row("/b.woff2", Class::Font) };
    site.answer(&Update { ops: vec![Op::Object(allowed), Op::Object(not_allowed)], ..nothing_new() });
    site.host.pass_ms(2000);
    assert!(site.respond(&IMAGE, 503, &[]));
    assert!(!site.respond(&[(":method", "GET"), (":path", "/b.woff2")], 503, &[]));
    site.host.pass_ms(57_000);
    assert!(site.respond(&IMAGE, 503, &[]));
    site.host.pass_ms(2000);
    assert!(!site.respond(&IMAGE, 503, &[]), "rounded down to a minute");
    assert_eq!(site.metric("p2pcdn.refused.stale"), 4);
}

#[test]
fn nothing_that_came_back_is_rescued_or_it_would_loop() {
    let site = Site::idle("");
    for target in ["a.png", "c.png"] {
        let path = format!("/.well-known/p2pcdn/v1/back/{target}");
        let mut request = site.ask(&[(":method", "GET"), (":path", &path)]);
        site.host.set_response(503, &[]);
        assert!(!request.complete_response());
    }
    assert_eq!(site.locations(), Vec::<String>::new());
}

#[test]
fn a_paused_site_rescues_nothing() {
    let mut site = Site::idle("");
    site.root.tick();
    site.answer(&Update { steering: Steering { killed: true, ..Steering::default() }, ..nothing_new() });
    assert!(!site.respond(&IMAGE, 503, &[]));
}

#[test]
fn a_post_is_never_answered_in_the_origins_place() {
    let site = Site::idle("");
    assert!(!site.respond(&[(":method", "POST"), (":path", "/a.png")], 503, &[]));
}
