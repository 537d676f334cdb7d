use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;
use http::HeaderValue;
use p2pcdn_core::destination::Destinations;
use p2pcdn_core::object::{Class, Embedding, ObjectRecord, Sharing};

use super::*;
use crate::identity::testing;
use crate::publish::Exposure;

const SETTINGS: EvidenceSettings = EvidenceSettings { enabled: true, sample: 0.01, max_object_bytes: 1 << 20 };

#[test]
fn the_script_is_under_two_kib_compressed_and_has_the_settings() {
    let script = script(&SETTINGS);
    let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
    gzip.write_all(script.as_bytes()).unwrap();
    let compressed = gzip.finish().unwrap().len();
    assert!(compressed < 2048, "{compressed} bytes");
    assert!(script.contains("const sample = 0.01;\nconst maxBytes = 1048576;\n"), "{script}");
    assert!(!script.contains("//"), "comments are for readers of the source");
}

/// A site with one image at two hosts.
struct Lab {
    evidence: Evidence,
    board: Arc<Board>,
    load: Arc<Mutex<LoadMeter>>,
    findings: mpsc::Receiver<Finding>,
}

fn exposure(weight: u16) -> Exposure {
    Exposure { weight, newcomer: false, lease_bytes_per_s: 1 }
}

const DIGEST: Sha256 = Sha256([3; 32]);

fn lab() -> Lab {
    let board = Arc::new(Board::new("a.test".into(), 7, HashKey([1, 2])));
    for (domain, replica_name) in [("b.test", "r.b.test"), ("c.test", "r.c.test:8443")] {
        board.set_peer(domain, replica_name, exposure(1000));
    }
    let record = ObjectRecord {
        origin: "a.test".into(),
        path: "/x.png".into(),
        sha256: DIGEST,
        size: 1 << 20,
        content_type: "image/png".into(),
        etag: "\"x\"".into(),
        max_age_s: 1,
        stale_if_error_s: 0,
        sharing: Sharing::SameOrigin,
        embedding: Embedding::Unstated,
        chunks: Vec::new(),
        sequence: 1,
        expires_s: 1,
    };
    board.put_object(&record, Class::Image, None, u32::MAX);
    for domain in ["b.test", "c.test"] {
        board.set_holder("/x.png", &DIGEST, domain, true);
    }
    let (sender, findings) = mpsc::channel(1);
    let load = Arc::new(Mutex::new(LoadMeter::default()));
    let (holders, metrics) = (Arc::new(Holders::new(board.clone(), testing::book())), Arc::new(Metrics::default()));
    let key = HashKey([3, 4]);
    let evidence = Evidence::new(
        "a.test".into(),
        &SETTINGS,
        Bounds::default(),
        key,
        board.clone(),
        holders,
        load.clone(),
        metrics,
        sender,
    );
    Lab { evidence, board, load, findings }
}

#[test]
fn browsers_are_sent_where_redirects_would_go_and_the_page_may_load() {
    let lab = lab();
    let place = || lab.evidence.place("/x.png").map(|place| place.url);
    let mut urls: Vec<_> = (0..64).filter_map(|_| place()).collect();
    urls.sort_unstable();
    urls.dedup();
    let at = |holder: &str| format!("https://{holder}/.well-known/p2pcdn/v1/r/a.test/{DIGEST}/x.png");
    assert_eq!(urls, [at("r.b.test"), at("r.c.test:8443")]);
    for nowhere in ["/y.png", "/x.png?v=1", "x.png", "/../x.png", ""] {
        assert!(lab.evidence.place(nowhere).is_none(), "{nowhere}");
    }

    lab.board.set_peer("b.test", "r.b.test", exposure(0));
    assert_eq!(place(), Some(at("r.c.test:8443")), "the other one has no weight");
    for (destination, is_in_the_way) in
        [(Destination::Font, false), (Destination::Image, true), (Destination::Fetch, true)]
    {
        lab.board.set_blocked("c.test", "r.c.test:8443", Destinations::NONE.with(destination));
        assert_eq!(place().is_none(), is_in_the_way, "{destination:?}");
    }
    lab.board.set_blocked("c.test", "r.c.test:8443", Destinations::NONE);
    lab.load.lock().unwrap().set_killed(true);
    assert_eq!(place(), None, "redirects are paused");
}

#[test]
fn larger_objects_are_not_looked_at_and_questions_are_limited() {
    let mut lab = lab();
    while lab.evidence.place("/x.png").is_some() {}
    lab.evidence.lookups = RateLimiter::direct(Quota::per_second(LOOKUPS_PER_S));
    assert!(lab.evidence.place("/x.png").is_some());
    lab.evidence.max_object_bytes -= 1;
    assert!(lab.evidence.place("/x.png").is_none());
}

#[test]
fn reports_become_findings_and_a_full_queue_makes_the_host_be_found_again() {
    let mut lab = lab();
    let said = |holder: &str| Said {
        path: "/x.png".into(),
        outcome: Outcome::Wrong,
        sha256: Some(DIGEST),
        holder: Some(holder.into()),
    };
    let report = |networks: std::ops::Range<u64>| networks.for_each(|n| lab.evidence.said(&said("r.b.test"), n));
    report(0..10);
    lab.evidence.said(&Said { sha256: None, ..said("r.b.test") }, 10);
    lab.evidence.said(&said("r.d.test"), 11);
    lab.evidence.forget("b.test");
    report(20..26);
    let mut taken = || lab.findings.try_recv().map(|found| (found.name(), found.holder().to_owned())).ok();
    let suspect = Some(("suspect", "b.test".to_owned()));
    assert_eq!((taken(), taken()), (suspect.clone(), None), "there was no room for the second one");
    report(30..40);
    assert_eq!((taken(), taken()), (suspect, None));
}

#[test]
fn only_what_the_proxy_wrote_is_the_visitors_address() {
    let table: [(&[&str], Option<&str>); 7] = [
        (&[], None),
        (&["192.0.2.1"], Some("192.0.2.1")),
        (&["10.0.0.1, 192.0.2.1"], Some("192.0.2.1")),
        (&["10.0.0.1", "10.0.0.2,2001:db8::1"], Some("2001:db8::1")),
        (&["192.0.2.1, "], None),
        (&["192.0.2.1, unknown"], None),
        (&["\u{e4}"], None),
    ];
    for (lines, expected) in table {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(X_FORWARDED_FOR, HeaderValue::from_bytes(line.as_bytes()).unwrap());
        }
        assert_eq!(visitor(&headers), expected.map(|address| address.parse().unwrap()), "{headers:?}");
    }
}

#[test]
fn only_pages_of_the_site_itself_are_listened_to() {
    for (site, is_own) in
        [(None, false), (Some("same-origin"), true), (Some("same-site"), false), (Some("none"), false)]
    {
        let site = site.map(|site| (SEC_FETCH_SITE, HeaderValue::from_static(site)));
        assert_eq!(is_own_page(&site.into_iter().collect()), is_own);
    }
}

#[test]
fn a_report_has_nothing_but_what_is_asked_for() {
    let said = |json: &str| serde_json::from_str::<Said>(json).map(|said| said.outcome).ok();
    assert_eq!(said(r#"{"path":"/a.png","outcome":"integrity"}"#), Some(Outcome::Integrity));
    let sha256 = Sha256([7; 32]);
    let whole = format!(r#"{{"path":"/a.png","outcome":"wrong","sha256":"{sha256}","holder":"replica.b.test"}}"#);
    assert_eq!(said(&whole), Some(Outcome::Wrong));
    for bad in [
        r#"{"path":"/a.png"}"#,
        r#"{"path":"/a.png","outcome":"bad"}"#,
        r#"{"path":"/a.png","outcome":"good","visitor":"x"}"#,
        r#"{"path":"/a.png","outcome":"good","sha256":"7"}"#,
    ] {
        assert_eq!(said(bad), None, "{bad}");
    }
}
