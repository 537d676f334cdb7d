use std::collections::BTreeMap;

use http_body_util::Empty;
use p2pcdn_core::decide::{ONE_PPM, Steering};
use p2pcdn_core::destination::Destinations;
use p2pcdn_core::gate::reader::Reader;
use p2pcdn_core::lookup::HashKey;
use p2pcdn_core::object::{Class, Embedding, Sha256, Sharing};
use p2pcdn_core::sync::{Have, HolderRow, ObjectRow, Op, Progress};
use proptest::prelude::*;

use super::*;

const HASH_KEY: HashKey = HashKey([1, 2]);
const ALL: Steering = Steering { fraction_ppm: ONE_PPM, pure_balancer: false, killed: false };
/// What nginx tells of a request that leaves.
const GET: [(&str, &str); 4] =
    [("host", "p2pcdn"), ("x-original-uri", "/a.png"), ("x-original-method", "GET"), ("x-original-host", "a.test")];

fn decider(json: &str) -> Decider {
    let mut reader = Reader::new(json.as_bytes()).unwrap();
    let gate = GateSettings::read(&mut reader, false);
    reader.finish().unwrap();
    Decider::new(&DecideSettings { gate, max_objects: 100 }, false, 1)
}

/// Holds `/a.png` at three hosts.
fn loaded(json: &str, steering: Steering) -> Decider {
    let decider = decider(json);
    ask(&decider, &GET);
    let sent = decider.report().unwrap();
    assert!(!decider.apply(sent, update(steering)));
    decider
}

fn update(steering: Steering) -> Update {
    let holder = |id| {
        let authority = format!("replica.{id}.test");
        Op::Holder(HolderRow {
            id,
            authority,
            weight: 1000,
            newcomer: false,
            lease_bytes_per_s: 1 << 40,
            blocked: Destinations::NONE,
        })
    };
    let object = ObjectRow {
        key: HASH_KEY.of(b"a.test", b"/a.png"),
        sha256: Sha256([0xab; 32]),
        size: 100_000,
        class: Class::Image,
        validator: 0,
        fresh_until_s: u32::MAX,
        stale_if_error_s: 0,
        sharing: Sharing::Anyone,
        embedding: Embedding::Anyone,
        set: 0,
    };
    let ops = (0..3).map(holder).chain([Op::Set { id: 0, holders: vec![0, 1, 2] }, Op::Object(object)]).collect();
    Update {
        now: Have { session: 1, version: 1, progress: Progress::Complete },
        clear: true,
        hash_key: HASH_KEY,
        ttl_ms: 60_000,
        steering,
        lease_share_ppm: ONE_PPM,
        more: false,
        ops,
    }
}

fn request(path: &str, headers: &[(&str, &str)]) -> Request<Empty<Bytes>> {
    let request = Request::builder().uri(path);
    headers.iter().fold(request, |request, (name, value)| request.header(*name, *value)).body(Empty::new()).unwrap()
}

fn ask(decider: &Decider, headers: &[(&str, &str)]) -> Response<Body> {
    decider.answer(&request(DECIDE_PATH, headers))
}

fn leaves(decider: &Decider, headers: &[(&str, &str)]) -> bool {
    let answer = ask(decider, headers);
    assert_eq!(answer.status() == 401, answer.headers().contains_key("location"));
    assert!(matches!(answer.status().as_u16(), 204 | 401));
    answer.status() == 401
}

/// [`GET`], one header of which is another.
fn but<'a>(name: &str, value: &'a str) -> Vec<(&'a str, &'a str)> {
    let mut headers = GET.to_vec();
    headers.iter_mut().filter(|(known, _)| *known == name).for_each(|header| header.1 = value);
    headers
}

#[test]
fn a_request_that_leaves_is_answered_with_every_header_of_the_redirect_once() {
    let answer = ask(&loaded("{}", ALL), &GET);
    assert_eq!(answer.status(), 401);
    let headers: BTreeMap<_, _> =
        answer.headers().iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
    assert_eq!(headers.len(), answer.headers().len(), "none is repeated");
    let location = headers["location"];
    assert!(location.starts_with("https://replica."), "{location}");
    assert!(location.ends_with(&format!(".test/.well-known/p2pcdn/v1/r/a.test/{}/a.png", "ab".repeat(32))));
    assert!(headers["link"].ends_with(">; rel=duplicate") && !headers["link"].contains(location));
    assert_eq!(headers["digest"], "SHA-256=q6urq6urq6urq6urq6urq6urq6urq6urq6urq6urq6s=");
    for (name, value) in [
        ("referrer-policy", "no-referrer"),
        ("cache-control", "no-store"),
        ("access-control-allow-origin", "*"),
        ("cross-origin-resource-policy", "cross-origin"),
    ] {
        assert_eq!(headers[name], value);
    }
}

#[test]
fn until_it_knows_replicas_and_while_the_site_copes_everything_stays() {
    assert!(!leaves(&decider("{}"), &GET));
    assert!(!leaves(&loaded("{}", Steering::default()), &GET));
    assert!(!leaves(&loaded("{}", Steering { killed: true, ..ALL }), &GET));
    let off = decider(r#"{"mode": "off"}"#);
    assert!(!leaves(&off, &GET) && off.report().is_none());
    let observer = loaded(r#"{"mode": "observe"}"#, ALL);
    assert!(!leaves(&observer, &GET));
    assert_eq!(observer.report().unwrap().report.counts.eligible, 1);
}

#[test]
fn requests_that_are_told_of_badly_stay() {
    let decider = loaded("{}", ALL);
    assert!(leaves(&decider, &GET));
    for missing in GET {
        let rest: Vec<_> = GET.into_iter().filter(|header| *header != missing).collect();
        assert!(!leaves(&decider, &rest), "without {}", missing.0);
    }
    for repeated in &GET[1..] {
        assert!(!leaves(&decider, &[&GET[..], &[*repeated]].concat()), "{repeated:?} twice");
    }
    for (name, value) in [("host", "evil.test"), ("x-original-host", "b.test"), ("x-original-method", "POST")] {
        assert!(!leaves(&decider, &but(name, value)), "{name}: {value}");
    }
    let told = [
        ("x-original-body", "5"),
        ("x-original-body", "chunked"),
        ("x-original-upgrade", "h2c"),
        ("x-original-expect", "100-continue"),
        ("content-length", "5"),
        ("authorization", "x"),
        ("x-secret", "x"),
        ("cookie", "a=b"),
        ("if-none-match", "\"other\""),
    ];
    for header in told {
        assert!(!leaves(&decider, &[&GET[..], &[header]].concat()), "{header:?}");
    }
    assert!(leaves(&decider, &[&GET[..], &[("x-original-body", "0")]].concat()));
    let mut post = request(DECIDE_PATH, &GET);
    *post.method_mut() = Method::POST;
    assert_eq!(decider.answer(&post).status(), 204);
}

#[test]
fn a_path_that_the_proxy_could_read_otherwise_stays() {
    let decider = loaded("{}", ALL);
    for path in ["/x/../a.png", "//a.png", "/%61.png", "/a.png?x", "/a.png#", "a.png", "https://a.test/a.png", ""] {
        assert!(!leaves(&decider, &but("x-original-uri", path)), "{path}");
    }
}

#[test]
fn a_request_that_came_back_stays_and_is_reported() {
    let decider = loaded("{}", ALL);
    let back = but("x-original-uri", "/.well-known/p2pcdn/v1/back/a.png");
    let answer = ask(&decider, &back);
    assert_eq!(
        (answer.status().as_u16(), &answer.headers()["access-control-allow-origin"]),
        (204, &"*".parse().unwrap())
    );
    let with_cookie = ask(&decider, &[&back[..], &[("cookie", "a=b")]].concat());
    assert!(with_cookie.headers().is_empty());
    let unknown = ask(&decider, &but("x-original-uri", "/.well-known/p2pcdn/v1/back/b.png"));
    assert!(unknown.headers().is_empty());
    assert_eq!(decider.report().unwrap().report.returned, [HASH_KEY.of(b"a.test", b"/a.png")]);
}

#[test]
fn a_failing_origin_is_replaced_by_a_replica_for_what_could_be_redirected_only() {
    let decider = loaded("{}", Steering::default());
    let rescued = |headers: &[(&str, &str)]| decider.answer(&request(RESCUE_PATH, headers)).status() == 401;
    assert!(rescued(&GET) && !leaves(&decider, &GET));
    assert!(!rescued(&but("x-original-method", "POST")));
    assert!(!rescued(&but("x-original-uri", "/.well-known/p2pcdn/v1/back/a.png")));
    let counts = decider.report().unwrap().report.counts;
    assert_eq!((counts.origin_failures, counts.rescued, counts.redirected), (1, 1, 1));
}

#[test]
fn what_was_counted_is_told_once_or_again_if_the_answer_was_no_use() {
    let decider = loaded("{}", ALL);
    ask(&decider, &GET);
    let sent = decider.report().unwrap();
    assert_eq!((sent.report.counts.requests, sent.report.counts.redirected), (1, 1));
    let injected = HolderRow {
        id: 0,
        authority: "x\r\ny".into(),
        weight: 1,
        newcomer: false,
        lease_bytes_per_s: 1,
        blocked: Destinations::NONE,
    };
    decider.apply(sent, Update { ops: vec![Op::Holder(injected)], ..update(ALL) });
    let again = decider.report().unwrap();
    assert_eq!(again.report.counts.requests, 1);
    decider.apply(again, Update { clear: false, ops: vec![], ..update(ALL) });
    assert_eq!(decider.report().unwrap().report.counts.requests, 0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn hostile_headers_never_panic_and_never_inject(
        headers in prop::collection::vec(("[!-~]{1,20}", any::<Vec<u8>>()), 0..6), uri: Vec<u8>, host: Vec<u8>
    ) {
        let decider = loaded("{}", ALL);
        let mut request = request(DECIDE_PATH, &GET);
        let own = [("x-original-uri".to_owned(), uri), ("x-original-host".to_owned(), host)];
        for (name, value) in headers.into_iter().chain(own) {
            let name = HeaderName::from_bytes(name.to_ascii_lowercase().as_bytes());
            if let (Ok(name), Ok(value)) = (name, HeaderValue::from_bytes(&value)) {
                request.headers_mut().insert(name, value);
            }
        }
        let answer = decider.answer(&request);
        prop_assert!(matches!(answer.status().as_u16(), 204 | 401));
    }
}
