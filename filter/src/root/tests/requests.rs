//! From a request to its verdict.

use super::*;
use crate::host::encode_pairs;
use crate::host::fake::LocalResponse;
use p2pcdn_core::eligibility::Refusal;
use p2pcdn_core::sync::{Redirected, Wanted};
use proptest::prelude::*;

/// A body as the proxy sends it.
fn host_adds(body: &[u8]) -> Vec<u8> {
    let end: &[u8] = if PROXY == Proxy::Nginx { b"\n" } else { b"" };
    [body, end].concat()
}

#[test]
fn a_request_for_a_replicated_object_is_redirected() {
    let mut site = Site::loaded("");
    assert_eq!(site.get("/a.png"), Verdict::Redirected);
    let headers = [
        ("location", location("/a.png")),
        ("referrer-policy", "no-referrer".into()),
        ("cache-control", "no-store".into()),
        ("digest", "SHA-256=q6urq6urq6urq6urq6urq6urq6urq6urq6urq6urq6s=".into()),
    ];
    let headers = headers.map(|(name, value)| (name.into(), value.into())).to_vec();
    let body = host_adds(b"");
    assert_eq!(site.host.local_responses(), [LocalResponse { status: 307, headers, body }]);
    let counted = ["requests", "eligible", "redirected"].map(|name| site.metric(&format!("p2pcdn.{name}")));
    assert_eq!(counted, [2, 1, 1]);

    site.root.tick();
    let report = site.last_report();
    assert_eq!((report.counts.requests, report.counts.eligible, report.counts.redirected), (1, 1, 1));
    assert_eq!((report.counts.eligible_bytes, report.counts.redirected_bytes), (BYTES, BYTES));
    assert_eq!(report.redirected_to, [Redirected { holder: 0, requests: 1, bytes: BYTES }]);
    assert_eq!(report.hot, [(key("/a.png"), 1)]);
}

#[test]
fn what_nobody_else_has_stays_and_so_does_what_only_the_origin_can_answer() {
    let site = Site::loaded("");
    assert_eq!(site.get("/c.png"), Verdict::Local);
    assert_eq!(site.fate(&[(":method", "POST"), (":path", "/a.png")]), Verdict::Local);
    assert_eq!(site.metric("p2pcdn.refused.method"), 1);
    assert_eq!(site.locations(), Vec::<String>::new());
}

#[test]
fn until_the_agent_has_spoken_everything_is_local() {
    let site = Site::new("");
    assert_eq!(site.get("/a.png"), Verdict::Local);
    assert_eq!(Root::new(site.host.clone(), 1).request().head(true), Verdict::Local);
}

#[test]
fn the_share_that_is_redirected_is_the_one_that_the_agent_asks_for() {
    let mut site = Site::new("");
    site.load(Update { steering: Steering { fraction_ppm: 250_000, ..ALL }, ..update(table()) });
    let redirected = (0..4000).filter(|_| site.get("/a.png") == Verdict::Redirected).count();
    assert!((850..1150).contains(&redirected), "{redirected}");
    assert_eq!(site.metric("p2pcdn.fraction_ppm"), 250_000);
}

#[test]
fn a_killed_site_redirects_nothing() {
    let mut site = Site::loaded(r#", "in_flight_limit": 1"#);
    site.root.tick();
    site.answer(&Update { steering: Steering { killed: true, ..ALL }, ..nothing_new() });
    let _held = [site.ask(&[]), site.ask(&[])];
    assert_eq!((site.get("/a.png"), site.metric("p2pcdn.killed")), (Verdict::Local, 1));
}

#[test]
fn an_object_whose_freshness_is_over_stays() {
    let mut site = Site::loaded("");
    let fresh_until_s = (NOW_MS / 1000) as u32 + 1;
    site.root.tick();
    let short = Op::Object(ObjectRow { fresh_until_s, ..row("/a.png", Class::Image) });
    site.answer(&Update { ops: vec![short], ..nothing_new() });
    assert_eq!(site.get("/a.png"), Verdict::Redirected);
    site.host.pass_ms(1000);
    assert_eq!((site.get("/a.png"), site.get("/b.woff2")), (Verdict::Local, Verdict::Redirected));
}

#[test]
fn requests_are_in_flight_until_they_are_dropped() {
    let mut site = Site::loaded("");
    let mut held = site.ask(&[(":method", "GET"), (":path", "/c.png")]);
    held.head(true);
    let redirected = site.ask(&[(":method", "GET"), (":path", "/a.png")]);
    let _untouched = site.root.request();
    site.root.tick();
    assert_eq!((site.last_report().in_flight, site.metric("p2pcdn.in_flight")), (2, 2));
    drop((held, redirected));
    site.answer(&nothing_new());
    site.root.tick();
    assert_eq!((site.last_report().in_flight, site.metric("p2pcdn.in_flight")), (0, 0));
}

#[test]
fn a_full_proxy_redirects_at_once_even_what_would_stay_local() {
    let mut site = Site::new(r#", "in_flight_limit": 1, "stay_local_s": 10"#);
    site.load(Update { steering: Steering::default(), ..update(table()) });
    assert_eq!(site.get("/a.png"), Verdict::Local);
    let held = site.ask(&[(":method", "GET"), (":path", "/c.png")]);
    assert_eq!(site.get("/b.woff2"), Verdict::Redirected);
    drop(held);
    assert_eq!(site.get("/b.woff2"), Verdict::Local);
}

#[test]
fn in_every_period_the_first_request_for_an_object_stays() {
    let site = Site::loaded(r#", "stay_local_s": 10"#);
    assert_eq!([site.get("/a.png"), site.get("/a.png")], [Verdict::Local, Verdict::Redirected]);
    assert_eq!(site.get("/b.woff2"), Verdict::Local);
    site.host.pass_ms(10_000);
    assert_eq!([site.get("/a.png"), site.get("/a.png")], [Verdict::Local, Verdict::Redirected]);
}

#[test]
fn excluded_paths_small_objects_and_other_classes_stay() {
    let excluding = Site::loaded(r#", "exclude": ["/a"]"#);
    assert_eq!((excluding.get("/a.png"), excluding.get("/b.woff2")), (Verdict::Local, Verdict::Redirected));
    assert_eq!(excluding.metric("p2pcdn.refused.excluded"), 1);

    let large_only = Site::loaded(r#", "min_bytes": 100001"#);
    assert_eq!((large_only.get("/a.png"), large_only.metric("p2pcdn.eligible")), (Verdict::Local, 0));

    let fonts_only = Site::loaded(r#", "classes": ["font"]"#);
    assert_eq!((fonts_only.get("/a.png"), fonts_only.get("/b.woff2")), (Verdict::Local, Verdict::Redirected));
    let asks_for_video = [
        (":method", "GET"),
        (":path", "/b.woff2"),
        ("sec-fetch-dest", "video"),
        ("sec-fetch-mode", "no-cors"),
        ("sec-fetch-site", "same-origin"),
    ];
    assert_eq!(fonts_only.fate(&asks_for_video), Verdict::Local);
    assert_eq!(fonts_only.metric("p2pcdn.refused.class"), 2);
}

#[test]
fn a_lease_that_is_used_up_keeps_requests_here_until_it_is_refilled() {
    let mut site = Site::new("");
    site.load(Update { lease_share_ppm: ONE_PPM / 2, ..update([table(), vec![holder(2 * BYTES)]].concat()) });
    site.host.pass_ms(1000);
    site.root.tick();
    assert_eq!(site.fate(&[(":method", "HEAD"), (":path", "/a.png")]), Verdict::Redirected);
    assert_eq!([site.get("/a.png"), site.get("/a.png")], [Verdict::Redirected, Verdict::Local]);
    site.host.pass_ms(500);
    site.root.tick();
    assert_eq!([site.get("/a.png"), site.get("/a.png")], [Verdict::Redirected, Verdict::Local]);
    site.host.pass_ms(500);
    site.root.tick();
    assert_eq!(site.get("/a.png"), Verdict::Local, "the debt of the last one is paid back first");
}

#[test]
fn a_lease_that_the_agent_has_ended_leaves_no_debt_behind() {
    let mut site = Site::new("");
    let lease = |bytes_per_s| Update { clear: false, ..update(vec![holder(bytes_per_s)]) };
    site.load(update([table(), vec![holder(BYTES / 2)]].concat()));
    site.host.pass_ms(1000);
    site.root.tick();
    assert_eq!([site.get("/a.png"), site.get("/a.png")], [Verdict::Redirected, Verdict::Local]);
    // The agent has all workers pay that back.
    site.load(lease(0));
    assert_eq!(site.get("/a.png"), Verdict::Local);
    site.load(lease(BYTES / 2));
    site.host.pass_ms(10);
    site.root.tick();
    assert_eq!(site.get("/a.png"), Verdict::Redirected);
}

#[test]
fn in_mode_observe_it_counts_what_it_would_do() {
    let mut site = Site::loaded(r#", "mode": "observe""#);
    assert_eq!(site.get("/a.png"), Verdict::Local);
    assert_eq!((site.metric("p2pcdn.would_redirect"), site.metric("p2pcdn.redirected")), (1, 0));
    site.root.tick();
    let report = site.last_report();
    assert_eq!((report.counts.eligible, report.counts.redirected, report.redirected_to.len()), (1, 0, 0));
    assert_eq!(site.locations(), Vec::<String>::new());
}

#[test]
fn in_mode_off_it_looks_at_nothing() {
    let mut site = Site::new(r#", "mode": "off""#);
    assert_eq!(site.get("/a.png"), Verdict::Local);
    site.root.tick();
    assert_eq!((site.host.posts(), site.host.tick_ms(), site.metric("p2pcdn.requests")), (vec![], 0, 0));
}

#[test]
fn what_the_table_does_not_have_is_wanted_and_what_stays_is_counted() {
    let mut site = Site::loaded("");
    site.get("/new.png?who=me");
    site.get("/new.png");
    site.get("/new.png");
    site.root.tick();
    let report = site.last_report();
    let new = Wanted { target: "/new.png".into(), requests: 2 };
    assert_eq!(report.wanted, [new]);
    let refused = |reason| report.refused.iter().find(|refused| refused.reason == reason).map(|r| r.requests);
    assert_eq!((refused(Refusal::Query), refused(Refusal::Unknown)), (Some(1), Some(2)));
}

#[test]
fn what_the_sites_policy_blocks_at_every_holder_stays_for_browsers_and_leaves_for_tools() {
    let mut site = Site::loaded("");
    let image = [
        (":method", "GET"),
        (":path", "/a.png"),
        ("sec-fetch-dest", "image"),
        ("sec-fetch-mode", "no-cors"),
        ("sec-fetch-site", "same-origin"),
    ];
    assert_eq!(site.fate(&image), Verdict::Redirected);
    let blocked = Destinations::NONE.with(Destination::Image);
    site.root.tick();
    site.answer(&Update { ops: vec![Op::Holder(HolderRow { blocked, ..holder_row(1 << 30) })], ..nothing_new() });
    assert_eq!((site.fate(&image), site.get("/a.png")), (Verdict::Local, Verdict::Redirected));
    assert_eq!((site.metric("p2pcdn.refused.policy"), site.metric("p2pcdn.eligible")), (1, 2));
}

#[test]
fn a_redirect_says_who_may_read_and_embed_the_object_and_how_long_it_holds() {
    let mut site = Site::loaded(r#", "redirect_max_age_s": 20, "metalink": false"#);
    site.root.tick();
    let fresh_until_s = (NOW_MS / 1000) as u32 + 5;
    let open = ObjectRow {
        sharing: Sharing::Anyone,
        embedding: Embedding::Anyone,
        fresh_until_s,
        ..row("/a.png", Class::Image)
    };
    site.answer(&Update { ops: vec![Op::Object(open)], ..nothing_new() });
    assert_eq!(site.get("/a.png"), Verdict::Redirected);
    let headers = site.host.local_responses().pop().unwrap().headers;
    let value = |wanted: &str| {
        headers.iter().find(|(name, _)| name == wanted).map(|(_, v)| String::from_utf8_lossy(v).into_owned())
    };
    assert_eq!(value("cache-control").unwrap(), "private, max-age=5");
    assert!(value("vary").unwrap().contains("sec-fetch-dest"));
    assert_eq!(value("access-control-allow-origin").unwrap(), "*");
    assert_eq!(value("cross-origin-resource-policy").unwrap(), "cross-origin");
    assert_eq!(value("digest"), None);
}

#[test]
fn with_affinity_an_address_is_sent_to_one_holder_and_addresses_to_all() {
    let mut site = Site::loaded(r#", "affinity": "client""#);
    let second = HolderRow { id: 1, authority: "replica.c.test".into(), ..holder_row(1 << 30) };
    let both = Op::Set { id: 0, holders: vec![0, 1] };
    for pure_balancer in [false, true] {
        site.root.tick();
        let steering = Steering { pure_balancer, ..ALL };
        site.answer(&Update { steering, ops: vec![Op::Holder(second.clone()), both.clone()], ..nothing_new() });
        let holder_of = |address: &str| {
            let headers = [(":method", "GET"), (":path", "/a.png"), ("x-forwarded-for", address)];
            assert_eq!(site.fate(&headers), Verdict::Redirected);
            site.locations().pop().unwrap()
        };
        let addresses: Vec<String> = (0..20).map(|n| format!("192.0.2.{n}")).collect();
        let first: Vec<String> = addresses.iter().map(|address| holder_of(address)).collect();
        let again: Vec<String> = addresses.iter().map(|address| holder_of(address)).collect();
        assert_eq!(first, again);
        let at_b = first.iter().filter(|location| location.contains("replica.b.test")).count();
        assert!((4..=16).contains(&at_b), "{at_b}");
    }
}

#[test]
fn a_tool_that_reads_metalinks_gets_every_place_and_this_one_last() {
    let site = Site::loaded("");
    let accept = ("accept", "application/metalink4+xml");
    assert_eq!(site.fate(&[(":method", "GET"), (":path", "/a.png"), accept]), Verdict::Redirected);
    let LocalResponse { status, headers, body } = site.host.local_responses().pop().unwrap();
    assert_eq!((status, &headers[0].1[..]), (200, &b"application/metalink4+xml"[..]));
    let body = String::from_utf8(body).unwrap();
    let places =
        format!("<url>{}</url>\n<url>https://a.test/.well-known/p2pcdn/v1/back/a.png</url>", location("/a.png"));
    assert!(body.contains(&places) && body.contains("<size>100000</size>"), "{body}");
    assert_eq!(site.fate(&[(":method", "HEAD"), (":path", "/a.png"), accept]), Verdict::Redirected);
    assert_eq!(site.host.local_responses().pop().unwrap().status, 307);
}

#[test]
fn a_request_with_a_body_stays() {
    let site = Site::loaded("");
    for header in [("content-length", "1"), ("transfer-encoding", "chunked")] {
        assert_eq!(site.fate(&[(":method", "GET"), (":path", "/a.png"), header]), Verdict::Local);
    }
    assert_eq!(site.metric("p2pcdn.refused.body"), 2);
    // Where the proxy knows, a body that no header announces counts as well.
    site.host.set_request(&[(":authority", "a.test"), (":method", "GET"), (":path", "/a.png")]);
    let fate = if PROXY == Proxy::Envoy { Verdict::Local } else { Verdict::Redirected };
    assert_eq!(site.root.request().head(false), fate);
}

#[test]
fn a_client_that_knows_another_version_is_redirected_and_one_that_knows_this_one_is_not() {
    let site = Site::loaded("");
    let knows = |etag| site.fate(&[(":method", "GET"), (":path", "/a.png"), ("if-none-match", etag)]);
    assert_eq!((knows("\"one\""), knows("\"zero\"")), (Verdict::Local, Verdict::Redirected));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn hostile_headers_never_panic_and_never_inject(
        map: Vec<u8>,
        headers in prop::collection::vec((any::<Vec<u8>>(), any::<Vec<u8>>()), 0..4),
        authority: Vec<u8>,
    ) {
        let site = Site::loaded("");
        site.host.set_request_map(map);
        prop_assert_ne!(site.root.request().head(true), Verdict::Redirected);

        let own: [(&[u8], &[u8]); 3] = [(b":method", b"GET"), (b":path", b"/a.png"), (b":authority", &authority)];
        let hostile = headers.iter().map(|(name, value)| (&name[..], &value[..]));
        let all: Vec<_> = own.into_iter().chain(hostile).collect();
        site.host.set_request_map(encode_pairs(all.iter().copied()));
        site.root.request().head(true);
        prop_assert!(site.locations().iter().all(|location| location.bytes().all(|b| (0x21..=0x7e).contains(&b))));
    }
}
