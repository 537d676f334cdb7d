//! What only nginx does to a filter.

use p2pcdn_core::sync::{HolderRow, Op, Update};

use super::tests::{Site, holder_row, location, nothing_new, table, update};
use crate::agreed::KEY;
use crate::host::Host;
use crate::host::fake::FakeHost;
use crate::request::Verdict;
use crate::root::Root;
use crate::settings::Proxy;

const GET: (&str, &str) = (":method", "GET");

#[test]
fn a_path_that_nginx_reads_otherwise_than_it_was_sent_stays() {
    let site = Site::loaded("");
    for raw in ["/x/../a.png", "//a.png", "/%61.png", "/./a.png", "/a%2epng", "/a.png%00"] {
        assert_eq!(site.get(raw), Verdict::Local, "{raw}");
    }
    assert_eq!(site.metric("p2pcdn.refused.path"), 6);
    assert_eq!((site.get("/a.png"), site.locations()), (Verdict::Redirected, vec![location("/a.png")]));
}

#[test]
fn the_authority_is_what_the_client_sent_and_without_one_the_request_stays() {
    let site = Site::loaded("");
    site.host.set_request(&[GET, (":path", "/a.png"), ("Host", "a.test")]);
    assert_eq!(site.root.request().head(false), Verdict::Redirected);
    for other in [&[][..], &[("Host", "b.test")], &[("host", "")]] {
        site.host.set_request(&[&[GET, (":path", "/a.png")], other].concat());
        assert_eq!(site.root.request().head(false), Verdict::Local, "{other:?}");
    }
}

#[test]
fn header_names_count_however_they_are_written() {
    let site = Site::loaded("");
    let long = "X-".repeat(60);
    for header in [("Range", "bytes=5-"), ("AUTHORIZATION", "x"), ("Cookie", "a=b"), ("X-Secret", "x"), (&*long, "x")] {
        assert_eq!(site.fate(&[GET, (":path", "/a.png"), header]), Verdict::Local, "{header:?}");
    }
    assert_eq!(site.fate(&[GET, (":path", "/a.png"), ("Accept-Language", "de")]), Verdict::Redirected);
}

#[test]
fn no_configuration_kills_the_workers() {
    for configuration in ["", "{", "nginx", r#"{"proxy": "nginx"}"#, r#"{"proxy": "nginx", "agent": {"cluster": 5}}"#] {
        let host = FakeHost::new(Proxy::Nginx, 1, configuration);
        let mut root = Root::new(host.clone(), 1);
        assert!(host.configuring(|size| root.configure(size)), "{configuration}");
        assert!(!host.logged().is_empty(), "{configuration}");
        host.set_request(&[GET, (":path", "/a.png"), ("Host", "a.test")]);
        assert_eq!(root.request().head(false), Verdict::Local);
        root.tick();
        assert_eq!(host.posts(), []);
    }
}

#[test]
fn a_filter_that_is_not_told_where_it_is_redirects_nothing_in_nginx() {
    let host = FakeHost::new(Proxy::Nginx, 1_700_000_000_000, r#"{"agent": {"cluster": "127.0.0.1:7080"}}"#);
    let mut site = Site::beside(&host, 1);
    site.load(update(table()));
    assert_eq!((site.get("/a.png"), site.locations()), (Verdict::Local, vec![]));
}

#[test]
fn a_callout_goes_to_an_address_and_not_to_a_cluster() {
    for (target, is_sent) in [("p2pcdn_agent", false), ("unix:/run/p2pcdn.sock", true), ("localhost:7080", true)] {
        let configuration = format!(r#"{{"proxy": "nginx", "agent": {{"cluster": "{target}"}}}}"#);
        let mut site = Site::beside(&FakeHost::new(Proxy::Nginx, 1, &configuration), 1);
        site.get("/a.png");
        site.root.tick();
        assert_eq!(site.host.posts().len() == 1, is_sent, "{target}");
    }
}

#[test]
fn vms_agree_though_values_tear_and_a_reload_forgets_them() {
    let mut first = Site::loaded("");
    let mut second = Site::beside(&first.host, 2);
    second.load(update(table()));
    for upset in [FakeHost::tear_next_value, FakeHost::reload] {
        upset(&first.host);
        for site in [&mut first, &mut second] {
            site.host.pass_ms(250);
            site.root.tick();
            site.answer(&nothing_new());
        }
        assert_eq!((first.get("/a.png"), second.get("/a.png")), (Verdict::Redirected, Verdict::Redirected));
        assert!(first.host.shared(&format!("{KEY}127.0.0.1:7080")).is_some());
    }
}

#[test]
fn a_tool_is_told_one_further_place_since_the_last_of_repeated_headers_wins() {
    let mut site = Site::loaded("");
    let more = (1..4).map(|id| {
        let authority = format!("replica.c{id}.test");
        Op::Holder(HolderRow { id, authority, ..holder_row(1 << 30) })
    });
    let set = Op::Set { id: 0, holders: vec![0, 1, 2, 3] };
    site.root.tick();
    site.answer(&Update { ops: more.chain([set]).collect(), ..nothing_new() });
    let fates = (0..8).map(|_| site.get("/a.png")).filter(|fate| *fate == Verdict::Redirected).count();
    assert!(fates > 0);
    for answer in site.host.local_responses() {
        let links: Vec<_> = answer.headers.iter().filter(|(name, _)| name == "link").collect();
        assert_eq!(links.len(), 1, "{answer:?}");
        let location = &answer.headers.iter().find(|(name, _)| name == "location").unwrap().1;
        assert!(!links[0].1.windows(location.len()).any(|window| window == location), "{answer:?}");
    }
}
