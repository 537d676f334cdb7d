use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;
use http::HeaderValue;
use p2pcdn_core::destination::Destinations;
use p2pcdn_core::object::{Class, ObjectRecord, Sha256};
use serde_json::json;

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
    let record = ObjectRecord { sha256: DIGEST, size: 1 << 20, ..testing::object_record("a.test", "/x.png", b"") };
    board.put_object(&record, Class::Image, None, u32::MAX);
    for domain in ["b.test", "c.test"] {
        board.set_holder("/x.png", &DIGEST, domain, true);
    }
    let (sender, findings) = mpsc::channel(1);
    let load = Arc::new(Mutex::new(LoadMeter::default()));
    let parts = Parts {
        board: board.clone(),
        holders: Arc::new(Holders::new(board.clone(), testing::book())),
        load: load.clone(),
        metrics: Arc::new(Metrics::default()),
        key: HashKey([3, 4]),
        findings: sender,
    };
    let evidence = Evidence::new("a.test".into(), &SETTINGS, Bounds::default(), parts);
    Lab { evidence, board, load, findings }
}

impl Lab {
    /// Where the browser of somebody in a network is sent.
    fn place(&self, network: u64) -> Option<Place> {
        self.evidence.place("/x.png", network)
    }

    /// As [`Self::place`], from the first of the networks in which that is a given host.
    fn place_at(&self, holder: &str, networks: &mut impl Iterator<Item = u64>) -> (u64, Place) {
        let at = format!("https://{holder}/");
        let mut places = networks.filter_map(|network| Some((network, self.place(network)?)));
        places.find(|(_, place)| place.url.starts_with(&at)).unwrap()
    }

    fn report(&self, said: &serde_json::Value, network: u64) -> StatusCode {
        self.evidence.take(Some(said.to_string().as_bytes()), network)
    }

    fn ignored(&self, reason: &str) -> u64 {
        let label = ReasonLabel { reason: reason.to_owned() };
        self.evidence.parts.metrics.evidence_ignored.get_or_create(&label).get()
    }

    fn counted(&self, outcome: Outcome) -> u64 {
        let label = OutcomeLabel { outcome: outcome.name() };
        self.evidence.parts.metrics.evidence.get_or_create(&label).get()
    }

    /// Lets a second or so pass for what is limited for all together.
    fn rested(&mut self) {
        self.evidence.lookups = RateLimiter::direct(Quota::per_second(LOOKUPS_PER_S));
        self.evidence.reports = RateLimiter::direct(Quota::per_second(REPORTS_PER_S));
    }
}

/// What the script says of a place.
fn said(place: &Place, outcome: &str) -> serde_json::Value {
    let holder = place.url.split('/').nth(2);
    json!({ "path": "/x.png", "outcome": outcome, "sha256": place.sha256, "holder": holder, "token": place.token })
}

#[test]
fn browsers_are_sent_where_redirects_would_go_and_the_page_may_load() {
    let lab = lab();
    let mut networks = 0..;
    let mut place = || lab.place(networks.next()?).map(|place| place.url);
    let mut urls: Vec<_> = (0..64).filter_map(|_| place()).collect();
    urls.sort_unstable();
    urls.dedup();
    let at = |holder: &str| format!("https://{holder}/.well-known/p2pcdn/v1/r/a.test/{DIGEST}/x.png");
    assert_eq!(urls, [at("r.b.test"), at("r.c.test:8443")]);
    for nowhere in ["/y.png", "/x.png?v=1", "x.png", "/../x.png", ""] {
        assert!(lab.evidence.place(nowhere, 7).is_none(), "{nowhere}");
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
    assert_eq!((0..100).filter(|_| lab.place(7).is_some()).count(), 20, "a network's share of an hour");
    assert!((100..10_000).any(|network| lab.place(network).is_none()), "there is a bound on all of them together");
    lab.rested();
    assert!(lab.place(8).is_some());
    lab.evidence.max_object_bytes -= 1;
    assert!(lab.place(9).is_none());
}

#[test]
fn reports_become_findings_and_a_full_queue_makes_the_host_be_found_again() {
    let mut lab = lab();
    let mut networks = 0..;
    let mut report = |lab: &mut Lab, count: usize| {
        for _ in 0..count {
            lab.rested();
            let (network, place) = lab.place_at("r.b.test", &mut networks);
            assert_eq!(lab.report(&said(&place, "wrong"), network), StatusCode::NO_CONTENT);
        }
    };
    let suspect = Some(("suspect", "b.test".to_owned()));
    let taken = |lab: &mut Lab| lab.findings.try_recv().map(|found| (found.name(), found.holder().to_owned())).ok();
    report(&mut lab, 10);
    lab.evidence.forget("b.test");
    report(&mut lab, 10);
    assert_eq!((taken(&mut lab), taken(&mut lab)), (suspect.clone(), None), "there was no room for the second one");
    report(&mut lab, 10);
    assert_eq!((taken(&mut lab), taken(&mut lab)), (suspect, None));
}

/// A host was suspended for good where nobody was told that its time was over.
#[test]
fn the_end_of_a_suspension_is_said_until_it_is_heard() {
    let mut lab = lab();
    for holder in ["b.test", "c.test"] {
        lab.evidence.restore(holder, 0, 1);
    }
    let mut resumed = Vec::new();
    for _ in 0..3 {
        lab.evidence.tick(6);
        resumed.extend(std::iter::from_fn(|| lab.findings.try_recv().ok()).map(|found| found.holder().to_owned()));
    }
    resumed.sort_unstable();
    assert_eq!(resumed, ["b.test", "c.test"], "each once, though there was room for one at a time");
    assert!(lock(&lab.evidence.unsaid).is_empty());
}

#[test]
fn nobody_reports_on_a_host_of_his_choice_or_with_what_another_was_given() {
    let lab = lab();
    let (network, place) = lab.place_at("r.b.test", &mut (0..));
    let mut other = said(&place, "wrong");
    other["holder"] = "r.c.test:8443".into();
    let mut made_up = said(&place, "wrong");
    made_up["token"] = format!("{:016x}", 7).into();
    for (forged, network) in [(other, network), (made_up, network), (said(&place, "wrong"), network + 1)] {
        assert_eq!(lab.report(&forged, network), StatusCode::NO_CONTENT, "whoever forges is told nothing");
    }
    let mut without = said(&place, "wrong");
    without["token"].take();
    lab.report(&without, network);
    assert_eq!((lab.ignored("token"), lab.ignored("unknown"), lab.counted(Outcome::Wrong)), (3, 1, 0));
    lab.report(&said(&place, "wrong"), network);
    lab.report(&said(&place, "wrong"), network);
    assert_eq!((lab.counted(Outcome::Wrong), lab.ignored("repeated")), (1, 1));
}

/// Whoever claimed the name of a liar, or had a liar claim its own, stood between it and what visitors said of it.
#[test]
fn what_visitors_report_is_held_against_who_was_chosen_whoever_claims_its_name() {
    let mut lab = lab();
    // Known before, and with weight enough of its own until it took the other's name.
    lab.board.set_peer("b.test", "r.c.test:8443", exposure(0));
    lab.board.set_peer("d.test", "r.d.test", exposure(1000));
    lab.board.set_holder("/x.png", &DIGEST, "d.test", true);
    let mut networks = 0..;
    for _ in 0..10 {
        lab.rested();
        let (network, place) = lab.place_at("r.c.test:8443", &mut networks);
        assert_eq!(lab.report(&said(&place, "wrong"), network), StatusCode::NO_CONTENT);
    }
    assert_eq!(lab.findings.try_recv().map(|found| found.holder().to_owned()), Ok("c.test".to_owned()));
    assert_eq!(lock(&lab.evidence.judge).doubtful(monotonic_ms()).collect::<Vec<_>>(), ["c.test"]);
}

/// Thirty-six forged reports on one host from six networks suspended it within half a minute.
#[test]
fn a_burst_of_forged_reports_suspends_nobody() {
    let mut lab = lab();
    lab.board.set_peer("d.test", "r.d.test", exposure(1000));
    lab.board.set_holder("/x.png", &DIGEST, "d.test", true);
    let mut findings = Vec::new();
    for turn in 0..200 {
        lab.rested();
        let network = turn % 6;
        if let Some(place) = lab.place(network) {
            let outcome = if place.url.starts_with("https://r.c.test") { "wrong" } else { "good" };
            lab.report(&said(&place, outcome), network);
        }
        (0..5).for_each(|_| lab.evidence.audited("c.test", true));
        findings.extend(std::iter::from_fn(|| lab.findings.try_recv().ok()).map(|found| found.name()));
    }
    assert!(findings.iter().all(|finding| *finding == "suspect"), "{findings:?}");
}

/// Fifty bodies a second that said nothing, from one address, had most of what browsers reported refused.
#[test]
fn junk_costs_its_own_network_and_silences_nobody() {
    let lab = lab();
    let (network, place) = lab.place_at("r.b.test", &mut (0..));
    for _ in 0..500 {
        assert_eq!(lab.evidence.take(Some(b"x"), 1000), StatusCode::BAD_REQUEST);
        let mut forged = said(&place, "wrong");
        forged["token"] = "1".into();
        lab.report(&forged, 1000);
    }
    assert_eq!(lab.report(&said(&place, "good"), network), StatusCode::NO_CONTENT);
    assert_eq!(lab.counted(Outcome::Good), 1);

    let admitted = |network| lock(&lab.evidence.requests).admits(network, monotonic_ms());
    assert_eq!((0..500).filter(|_| admitted(1000)).count(), usize::from(REQUESTS_PER_MIN), "the rest is not even read");
    assert!(admitted(network));
}

#[test]
fn hints_of_one_network_are_limited_like_its_looks() {
    let lab = lab();
    for _ in 0..30 {
        lab.report(&json!({ "path": "/x.png", "outcome": "integrity" }), 7);
    }
    assert_eq!((lab.counted(Outcome::Integrity), lab.ignored("network")), (20, 10));
    assert!(lab.place(7).is_none() && lab.place(8).is_some());
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
