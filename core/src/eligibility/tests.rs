use proptest::prelude::*;

use super::*;

const TOOL: Client = Client::Tool { takes_metalink: false };

fn rules() -> Rules {
    Rules {
        classes: Class::ALL.to_vec(),
        min_bytes: 8192,
        exclude: vec!["/private/".into()],
        queries: vec!["v".into(), "size".into()],
        fetch_paths: vec!["/data/".into()],
        plain_style_paths: vec!["/themes/".into()],
        download_paths: vec!["/releases/".into()],
        cross_site_paths: vec!["/badges/".into()],
        any_range: false,
    }
}

fn judge_at(path: &str, headers: &[(&str, &str)], rules: &Rules, is_full: bool) -> Result<Client, Refusal> {
    let mut head = RequestHead::default();
    for (name, value) in [(":method", "GET"), (":authority", "a.test"), (":path", path)] {
        head.observe(name.as_bytes(), value.as_bytes());
    }
    for (name, value) in headers {
        head.observe(name.as_bytes(), value.as_bytes());
    }
    judge(&head, rules, is_full).map(|accepted| accepted.client)
}

fn judged(headers: &[(&str, &str)]) -> Result<Client, Refusal> {
    judge_at("/x.png", headers, &rules(), false)
}

/// The headers of a browser, in the words that the table of the README uses.
fn browser<'a>(dest: &'a str, mode: &'a str, site: &'a str) -> [(&'a str, &'a str); 4] {
    let agent = ("user-agent", "Mozilla/5.0");
    [("sec-fetch-dest", dest), ("sec-fetch-mode", mode), ("sec-fetch-site", site), agent]
}

#[test]
fn tools_are_told_from_browsers_by_their_name() {
    assert_eq!(judged(&[]), Ok(TOOL));
    assert_eq!(judged(&[("user-agent", "curl/8.5.0")]), Ok(TOOL));
    assert_eq!(judged(&[("user-agent", "Debian APT-HTTP/1.3 (2.6.1)")]), Ok(TOOL));
    assert_eq!(judged(&[("user-agent", "Mozilla/5.0 (X11)")]), Err(Refusal::UserAgent));
    assert_eq!(judged(&[("user-agent", "git/2.47.3")]), Err(Refusal::UserAgent));
    assert_eq!(judged(&[("accept", "*/*,application/metalink4+xml,application/metalink+xml")]), Ok(TOOL), "aria2");
    assert_eq!(judged(&[("private-token", "secret")]), Err(Refusal::Headers), "a tool would show it to the host");
    assert_eq!(judged(&[("cookie", "a=b")]), Err(Refusal::Credentials));
    assert_eq!(judged(&[("want-digest", "SHA-256"), ("icy-metadata", "1"), ("accept-encoding", "gzip")]), Ok(TOOL));
    let metalink = judged(&[("accept", "application/metalink4+xml")]);
    assert_eq!(metalink, Ok(Client::Tool { takes_metalink: true }));
}

#[test]
fn browsers_are_redirected_where_no_page_can_notice() {
    use Destination::{Download, Fetch, Font, Image, Media, Script, Style};
    let ok = |destination| Ok(Client::Browser(destination));
    let (no, cross) = (Err(Refusal::Destination), Err(Refusal::CrossSite));
    let table = [
        ("image", "no-cors", "same-origin", "/x", ok(Image)),
        ("image", "cors", "same-origin", "/x", ok(Image)),
        ("video", "no-cors", "same-origin", "/x", ok(Media)),
        ("audio", "cors", "same-origin", "/x", ok(Media)),
        ("font", "cors", "same-origin", "/x", ok(Font)),
        ("image", "no-cors", "cross-site", "/x", cross),
        ("image", "no-cors", "same-site", "/x", cross),
        ("image", "no-cors", "cross-site", "/badges/x", ok(Image)),
        ("image", "cors", "same-site", "/badges/x", ok(Image)),
        ("style", "cors", "cross-site", "/badges/x", cross),
        ("image", "navigate", "same-origin", "/x", no),
        ("image", "same-origin", "same-origin", "/x", no),
        ("empty", "cors", "same-origin", "/x", no),
        ("empty", "cors", "same-origin", "/data/x", ok(Fetch)),
        ("empty", "no-cors", "same-origin", "/data/x", ok(Fetch)),
        ("empty", "same-origin", "same-origin", "/data/x", no),
        ("empty", "cors", "cross-site", "/data/x", cross),
        ("empty", "navigate", "same-origin", "/x", no),
        ("empty", "navigate", "same-origin", "/releases/x", ok(Download)),
        ("script", "cors", "same-origin", "/x", ok(Script)),
        ("script", "no-cors", "same-origin", "/x", no),
        ("script", "cors", "cross-site", "/x", cross),
        ("style", "cors", "same-origin", "/x", ok(Style)),
        ("style", "no-cors", "same-origin", "/x", no),
        ("style", "no-cors", "same-origin", "/themes/x", ok(Style)),
        ("document", "navigate", "none", "/x", no),
        ("document", "navigate", "none", "/releases/x", no),
        ("iframe", "navigate", "same-origin", "/x", no),
        ("frame", "navigate", "same-origin", "/releases/x", no),
        ("object", "no-cors", "same-origin", "/x", no),
        ("embed", "no-cors", "same-origin", "/x", no),
        ("track", "cors", "same-origin", "/x", no),
        ("manifest", "cors", "same-origin", "/x", no),
        ("worker", "same-origin", "same-origin", "/x", no),
        ("sharedworker", "same-origin", "same-origin", "/x", no),
        ("serviceworker", "same-origin", "same-origin", "/x", no),
        ("audioworklet", "cors", "same-origin", "/x", no),
        ("xslt", "same-origin", "same-origin", "/x", no),
        ("report", "no-cors", "same-origin", "/data/x", no),
    ];
    for (dest, mode, site, path, verdict) in table {
        let headers = browser(dest, mode, site);
        assert_eq!(judge_at(path, &headers, &rules(), false), verdict, "{dest} {mode} {site} {path}");
    }
    let mut click = browser("document", "navigate", "cross-site").to_vec();
    click.push(("sec-fetch-user", "?1"));
    assert_eq!(judge_at("/releases/x", &click, &rules(), false), ok(Download));
    assert_eq!(judge_at("/x", &click, &rules(), false), no);
    assert_eq!(judged(&[("sec-fetch-dest", "image"), ("sec-fetch-mode", "no-cors")]), cross);
    assert_eq!(judged(&[("sec-fetch-site", "same-origin")]), no);
}

/// What a cell of the README's table says: always, never, or below the paths that one key lists.
fn promised(cell: &str, key: &str) -> bool {
    match cell.trim().strip_prefix("below ") {
        Some(listed) => listed.trim_matches('`') == key,
        None => cell.trim().starts_with("yes"),
    }
}

fn quoted(cell: &str) -> Vec<&str> {
    cell.split('`').skip(1).step_by(2).collect()
}

#[test]
fn the_readme_promises_what_is_done() {
    let (_, after) = include_str!("../../../README.md").split_once("| destination | mode | own pages |").unwrap();
    let rows: Vec<&str> = after.lines().skip(2).take_while(|line| line.starts_with('|')).collect();
    assert!(rows.len() > 10);
    let below = || vec!["/x".to_owned()];
    let opted_in = |key: &str| {
        let mut rules = Rules { classes: Class::ALL.to_vec(), ..Rules::default() };
        match key {
            "cross_site_paths" => rules.cross_site_paths = below(),
            "plain_style_paths" => rules.plain_style_paths = below(),
            "fetch_paths" => rules.fetch_paths = below(),
            "download_paths" => rules.download_paths = below(),
            _ => {}
        }
        rules
    };
    for row in rows {
        let cells: Vec<&str> = row.trim_matches('|').split('|').collect();
        let [destinations, modes, own, others] = cells[..] else { panic!("{row}") };
        let clicked = if destinations.contains("clicked") { "?1" } else { "?0" };
        let listed = quoted(modes);
        let modes = if modes.trim() == "any" { vec!["cors", "no-cors", "same-origin", "navigate"] } else { listed };
        let destinations = destinations.split('(').next().unwrap();
        for (dest, mode) in quoted(destinations).into_iter().flat_map(|dest| modes.iter().map(move |mode| (dest, mode)))
        {
            for key in ["", "cross_site_paths", "plain_style_paths", "fetch_paths", "download_paths"] {
                for (site, cell) in [("same-origin", own), ("cross-site", others), ("same-site", others)] {
                    let mut headers = browser(dest, mode, site).to_vec();
                    headers.push(("sec-fetch-user", clicked));
                    let done = judge_at("/x.png", &headers, &opted_in(key), false).is_ok();
                    assert_eq!(done, promised(cell, key), "{dest} {mode} {site} {key}");
                }
            }
        }
    }
}

#[test]
fn what_cors_would_make_different_stays() {
    let image = |mode, name, value| {
        let mut headers = browser("image", mode, "same-origin").to_vec();
        headers.push((name, value));
        judged(&headers)
    };
    let ok = Ok(Client::Browser(Destination::Image));
    assert_eq!(image("no-cors", "cookie", "a=b"), ok);
    assert_eq!(image("cors", "cookie", "a=b"), Err(Refusal::Credentials));
    assert_eq!(image("cors", "x-requested-with", "x"), Err(Refusal::Headers));
    for usual in
        ["accept-language", "sec-ch-ua", "referer", "origin", "dnt", "priority", "x-forwarded-proto", "alt-used"]
    {
        assert_eq!(image("cors", usual, "x"), ok, "{usual}");
    }
}

#[test]
fn what_only_the_origin_can_answer_stays() {
    let table = [
        (":method", "POST", Err(Refusal::Method)),
        (":method", "OPTIONS", Err(Refusal::Method)),
        (":method", "HEAD", Ok(TOOL)),
        (":method", "get", Err(Refusal::Method)),
        (":path", "/a%2Fb", Err(Refusal::Path)),
        (":path", "/a//b", Err(Refusal::Path)),
        (":path", "/a%20b?v=1", Err(Refusal::Path)),
        (":path", "/.well-known/p2pcdn/v1/back/x.png", Err(Refusal::Path)),
        (":path", "/.well-known/p2pcdn/v1/r/a.test/x", Err(Refusal::Path)),
        (":path", "/private/x.png", Err(Refusal::Excluded)),
        ("content-length", "1", Err(Refusal::Body)),
        ("content-length", "0", Ok(TOOL)),
        ("transfer-encoding", "chunked", Err(Refusal::Body)),
        ("authorization", "Basic x", Err(Refusal::Authorization)),
        ("upgrade", "websocket", Err(Refusal::Upgrade)),
        ("expect", "100-continue", Err(Refusal::Expect)),
        ("range", "bytes=0-", Ok(TOOL)),
        ("range", "bytes=0-99", Ok(TOOL)),
        ("range", "bytes=1-", Err(Refusal::Range)),
        ("range", "bytes=-5", Err(Refusal::Range)),
        ("range", "bytes=0-1,5-6", Err(Refusal::Range)),
        ("range", "lines=0-", Err(Refusal::Range)),
        ("if-modified-since", "x", Err(Refusal::Conditional)),
        ("if-range", "\"x\"", Err(Refusal::Conditional)),
        ("cache-control", "No-Cache", Err(Refusal::Reload)),
        ("cache-control", "foo, max-age=0", Err(Refusal::Reload)),
        ("cache-control", "max-age=10", Ok(TOOL)),
        ("pragma", "no-cache", Err(Refusal::Reload)),
    ];
    for (name, value, verdict) in table {
        assert_eq!(judged(&[(name, value)]), verdict, "{name}: {value}");
    }
    assert_eq!(judged(&[("range", "bytes=0-"), ("range", "bytes=0-")]), Err(Refusal::Range));
    assert_eq!(judge_at("/x.png", &[("cache-control", "no-cache")], &rules(), true), Ok(TOOL), "a full proxy");
}

#[test]
fn ranges_may_start_anywhere_where_the_operator_says_so() {
    let any = Rules { any_range: true, ..rules() };
    let at = |range| judge_at("/x.mp4", &[("range", range)], &any, false);
    assert_eq!((at("bytes=5-"), at("bytes=5-9")), (Ok(TOOL), Ok(TOOL)));
    for odd in ["bytes=-5", "bytes=0-1,5-6", "bytes=", "bytes=a-b", "bytes=1"] {
        assert_eq!(at(odd), Err(Refusal::Range), "{odd}");
    }
}

#[test]
fn a_query_counts_only_if_all_of_it_is_listed() {
    let at = |path| judge_at(path, &[], &rules(), false);
    assert_eq!((at("/x.png?v=1"), at("/x.png?v=1&size=2"), at("/x.png?v")), (Ok(TOOL), Ok(TOOL), Ok(TOOL)));
    for other in ["/x.png?", "/x.png?w=1", "/x.png?v=1&w=1", "/x.png?v=%41", "/x.png?v=1?v", "/x.png?v=<", "/x.png?&"] {
        assert_eq!(at(other), Err(Refusal::Query), "{other}");
    }
}

#[test]
fn clients_get_the_class_they_asked_for() {
    let judged = |client, class, size, rules: &Rules| {
        let accepted = Accepted { client, target: "/x", is_foreign_reader: false };
        judge_object(&accepted, class, size, Sharing::SameOrigin, rules)
    };
    let browser = Client::Browser(Destination::Image);
    assert_eq!(judged(browser, Class::Image, 9000, &rules()), Ok(()));
    assert_eq!(judged(browser, Class::Image, 10, &rules()), Err(Refusal::Small));
    assert_eq!(judged(browser, Class::Archive, 9000, &rules()), Err(Refusal::Class));
    assert_eq!(judged(TOOL, Class::Archive, 9000, &rules()), Ok(()));
    assert_eq!(judged(TOOL, Class::Script, 9000, &rules()), Err(Refusal::Class));
    let fonts = Rules { classes: vec![Class::Font], ..rules() };
    assert_eq!(judged(TOOL, Class::Archive, 9000, &fonts), Err(Refusal::Class));
}

#[test]
fn pages_of_other_sites_read_what_everybody_may_read() {
    let judged = |mode, site, sharing| {
        let mut head = RequestHead::default();
        (head.method, head.path) = (b"GET", b"/badges/x.png");
        for (name, value) in browser("image", mode, site) {
            head.observe(name.as_bytes(), value.as_bytes());
        }
        let rules = rules();
        judge_object(&judge(&head, &rules, false).unwrap(), Class::Image, 9000, sharing, &rules)
    };
    for site in ["cross-site", "same-site"] {
        assert_eq!(judged("cors", site, Sharing::SameOrigin), Err(Refusal::Sharing), "{site}");
        assert_eq!(judged("cors", site, Sharing::Anyone), Ok(()), "{site}");
        assert_eq!(judged("no-cors", site, Sharing::SameOrigin), Ok(()), "{site}: it is shown and not read");
    }
    assert_eq!(judged("cors", "same-origin", Sharing::SameOrigin), Ok(()));
}

#[test]
fn a_condition_stays_unless_it_is_known_not_to_hold() {
    let hash = |etag: &[u8]| etag.len() as u32;
    let at = |etag: &'static str, validator| judge_condition(Some(etag.as_bytes()), validator, hash);
    assert_eq!(judge_condition(None, 0, hash), Ok(()));
    assert_eq!(at("\"abc\"", 9), Ok(()));
    for (etag, validator) in [("\"abc\"", 5), ("\"abc\"", 0), ("W/\"abc\"", 9), ("*", 9), ("\"a\", \"b\"", 9), ("", 9)]
    {
        assert_eq!(at(etag, validator), Err(Refusal::Conditional), "{etag} {validator}");
    }
}

#[test]
fn reasons_are_numbered_as_they_are_listed() {
    for (at, refusal) in Refusal::ALL.into_iter().enumerate() {
        assert_eq!(refusal as usize, at);
        assert_eq!(serde_json::to_value(refusal).unwrap(), refusal.name());
    }
}

proptest! {
    #[test]
    fn hostile_headers_never_panic(
        path: Vec<u8>, headers in prop::collection::vec((any::<Vec<u8>>(), any::<Vec<u8>>()), 0..8)
    ) {
        let mut head = RequestHead::default();
        head.method = b"GET";
        head.path = &path;
        for (name, value) in &headers {
            head.observe(name, value);
        }
        if let Ok(accepted) = judge(&head, &rules(), false) {
            prop_assert!(accepted.target.bytes().all(|b| (0x21..=0x7e).contains(&b)));
        }
        let _ = judge_condition(head.etag, 1, |_| 2);
    }
}
