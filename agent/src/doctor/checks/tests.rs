use bytes::Bytes;
use http::HeaderValue;
use p2pcdn_core::object::Sha256;

use super::*;
use crate::doctor::elements::resources;

type Header<'a> = (&'static str, &'a str);
type Line<'a> = (Severity, Option<&'a str>);

fn headers(pairs: &[Header<'_>]) -> HeaderMap {
    pairs.iter().map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_str(value).unwrap())).collect()
}

fn page(pairs: &[Header<'_>], html: &str) -> Page {
    let url = Url::parse("https://a.test/index.html").unwrap();
    Page { url, headers: headers(pairs), html: Bytes::copy_from_slice(html.as_bytes()) }
}

fn holder_facts() -> HolderFacts {
    let sample = Sample { path: "/x.png".into(), sha256: Sha256([1; 32]), size: 7, content_type: "image/png".into() };
    let (domain, replica_name) = ("b.test".into(), "replica.b.test".into());
    HolderFacts { domain, replica_name, blocked: Destinations::NONE, sample: Some(sample) }
}

fn lines(findings: &[Finding]) -> Vec<Line<'_>> {
    findings.iter().map(|finding| (finding.severity, finding.add.as_deref())).collect()
}

#[test]
fn a_policy_that_forbids_is_answered_with_the_directive_to_write() {
    use Severity::{Fail, Ok, Warn};
    let table: [(&str, bool, &[Line<'_>]); 5] = [
        ("", true, &[(Ok, None)]),
        ("img-src 'self' data:", false, &[(Fail, Some("img-src 'self' data: https://replica.b.test"))]),
        ("img-src 'none'", false, &[(Fail, Some("img-src https://replica.b.test"))]),
        ("script-src 'self'", false, &[(Ok, None)]),
        (
            "default-src 'self'; img-src *; media-src *",
            true,
            &[
                (Fail, Some("font-src 'self' https://replica.b.test")),
                (Fail, Some("style-src 'self' https://replica.b.test")),
                (Fail, Some("script-src 'self' https://replica.b.test")),
                (Warn, Some("connect-src 'self' https://replica.b.test")),
            ],
        ),
    ];
    for (csp, shares_code, expected) in table {
        let page = page(&[("content-security-policy", csp)], "");
        let findings = policy(&page, &holder_facts(), Destinations::NONE, shares_code);
        assert_eq!(lines(&findings), expected, "{csp}");
    }
    let elsewhere = Destinations::NONE.with(Destination::Font).with(Destination::Style).with(Destination::Download);
    let findings = policy(&page(&[], ""), &holder_facts(), elsewhere, false);
    assert_eq!(lines(&findings), [(Warn, Some("p2pcdn doctor https://a.test/OTHER/PAGE"))]);
    assert_eq!(findings[0].says, "another page of the site blocks fonts: they stay at the site");
}

#[test]
fn whatever_is_wrong_comes_with_the_line_or_command_to_add() {
    let io = || std::io::Error::other("x");
    let egress = || EgressError::Connect { authority: "a.test".into(), source: io() };
    let private = || EgressError::NotGlobal { authority: "a.test".into(), address: [10, 0, 0, 1].into() };
    let url = Url::parse("https://a.test/it's?x").unwrap();
    let mut found: Vec<Finding> = [
        PageError::Egress(egress()),
        PageError::Egress(private()),
        PageError::Status(StatusCode::NOT_FOUND),
        PageError::Status(StatusCode::FORBIDDEN),
        PageError::Elsewhere("https://b.test/".into()),
        PageError::Redirects,
        PageError::NotHtml("image/png".into()),
        PageError::Encoded,
    ]
    .iter()
    .map(|error| super::page(&url, error))
    .collect();
    assert_eq!(found[0].add.as_deref(), Some("curl -sSI 'https://a.test/it%27s?x'"));
    assert_eq!(found[1].add.as_deref(), Some("[egress] allow_private = true"));
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
    let tls = || EgressError::Tls { authority: "b.test".into(), source: io() };
    for certificate in [Err(egress()), Err(tls()), Ok(None), Ok(Some(1_000_001))] {
        let statuses = [200, 302, 404, 500].map(|status| StatusCode::from_u16(status).unwrap());
        let certificate = || match &certificate {
            Err(EgressError::Tls { .. }) => Err(tls()),
            Err(_) => Err(egress()),
            Ok(end) => Ok(*end),
        };
        let answers =
            statuses.map(|status| Ok(WebResponse { status, headers: headers(&[]), body: Bytes::new(), remote: None }));
        for replica in answers.into_iter().chain([Err(egress())]).map(Some).chain([None]) {
            let probed = Probed { certificate: certificate(), replica };
            found.extend(holder("a.test", &holder_facts(), &probed, true, now));
        }
    }
    let nameless = HolderFacts { replica_name: "no name".into(), ..holder_facts() };
    found.extend(policy(&page(&[], ""), &nameless, Destinations::NONE, true));
    found.push(
        holder("a.test", &nameless, &Probed { certificate: Err(egress()), replica: Some(Err(egress())) }, true, now)
            .remove(1),
    );
    let embedded = page(&[], "<img src=/x>");
    found.extend(embed(&embedded, &resources(&embedded.url, &embedded.html).remove(0), Err(egress())));
    found.extend(agent(&AgentFacts { knows_policy: false, holders: vec![] }));
    found.push(no_agent());
    found.push(insecure_page(&Url::parse("http://a.test/").unwrap()));
    for finding in found.iter().filter(|finding| finding.severity != Severity::Ok) {
        assert!(finding.add.as_ref().is_some_and(|line| !line.is_empty()), "{finding:?}");
    }
}

#[test]
fn a_line_to_add_is_whole_however_long_it_is() {
    let sources = vec!["https://cdn.example.test"; 100].join(" ");
    let page = page(&[("content-security-policy", &format!("img-src {sources}"))], "");
    let findings = policy(&page, &holder_facts(), Destinations::NONE, false);
    assert_eq!(lines(&findings), [(Severity::Fail, Some(&*format!("img-src {sources} https://replica.b.test")))]);
}

#[test]
fn an_agent_that_knows_no_policy_or_no_holder_says_so() {
    let lines_of = |knows_policy, holders: Vec<HolderFacts>| {
        agent(&AgentFacts { knows_policy, holders }).into_iter().map(|f| (f.check, f.severity)).collect::<Vec<_>>()
    };
    assert_eq!(lines_of(true, vec![holder_facts()]), []);
    assert_eq!(lines_of(false, vec![]), [(Check::Csp, Severity::Fail), (Check::Holders, Severity::Warn)]);
}

#[test]
fn code_needs_both_attributes_and_only_where_it_is_shared() {
    let html = "<script src=/lib/a.js></script><script type=module src=/lib/b.js></script><script src=/own.js></script>
        <script src=/lib/c.js integrity=sha384-x crossorigin></script><script src=https://b.test/lib/d.js></script>
        <link rel=stylesheet href=/lib/e.css crossorigin><img src=/lib/f.png>";
    let page = page(&[], html);
    let resources = resources(&page.url, &page.html);
    let paths = ["/lib/".to_owned()];
    let found: Vec<Finding> =
        shared_code(&resources, "a.test", &paths).filter_map(|code_| code(&page, code_, Some("sha384-now"))).collect();
    let expected = [
        (Severity::Warn, Some("integrity=\"sha384-now\" crossorigin=\"anonymous\"")),
        (Severity::Warn, Some("integrity=\"sha384-now\"")),
        (Severity::Ok, None),
        (Severity::Warn, Some("integrity=\"sha384-now\"")),
    ];
    assert_eq!(lines(&found), expected);
    assert_eq!(shared_code(&resources, "a.test", &[]).count(), 0);
}

#[test]
fn http_within_https_is_found() {
    let page = page(&[], "<img src=http://a.test/x.png><img src=/y.png>");
    let found = mixed_content(&resources(&page.url, &page.html));
    assert_eq!(lines(&found), [(Severity::Fail, Some("https://a.test/x.png"))]);
}

#[test]
fn pages_of_other_sites_need_to_be_let_in() {
    let isolated = [("cross-origin-embedder-policy", "require-corp; report-to=\"x\"")];
    let (cors, corp) = (Some("Access-Control-Allow-Origin: *"), Some("Cross-Origin-Resource-Policy: cross-origin"));
    let table: [(&str, bool, &[Header<'_>], Line<'_>); 6] = [
        ("<img src=/x crossorigin>", false, &[], (Severity::Fail, cors)),
        (
            "<img src=/x crossorigin>",
            false,
            &[("access-control-allow-origin", "https://a.test")],
            (Severity::Warn, cors),
        ),
        ("<img src=/x crossorigin>", true, &[("access-control-allow-origin", "*")], (Severity::Ok, None)),
        ("<img src=/x>", false, &[], (Severity::Ok, None)),
        ("<img src=/x>", true, &[("cross-origin-resource-policy", "same-site")], (Severity::Fail, corp)),
        ("<img src=/x>", true, &[("cross-origin-resource-policy", "cross-origin")], (Severity::Ok, None)),
    ];
    for (html, is_isolated, answer, expected) in table {
        let page = page(if is_isolated { &isolated } else { &[] }, html);
        let resource = resources(&page.url, &page.html).remove(0);
        assert_eq!(lines(&embed(&page, &resource, Ok(headers(answer)))), [expected], "{html} {answer:?}");
    }
}

#[test]
fn what_a_holder_answers_is_compared_with_the_record() {
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
    let good = [
        ("content-length", "7"),
        ("content-type", "image/png"),
        ("access-control-allow-origin", "https://a.test"),
        ("cross-origin-resource-policy", "cross-origin"),
        ("date", "Mon, 12 Jan 1970 13:46:00 GMT"),
    ];
    let severities = |status, changed: (&'static str, &str), days: u64| {
        let mut headers = headers(&good);
        headers.insert(changed.0, HeaderValue::from_str(changed.1).unwrap());
        let replica = Some(Ok(WebResponse { status, headers, body: Bytes::new(), remote: None }));
        let probed = Probed { certificate: Ok(Some(1_000_000 + days * 86_400)), replica };
        let found = holder("a.test", &holder_facts(), &probed, true, now);
        found.into_iter().filter(|f| f.severity != Severity::Ok).map(|f| (f.check, f.severity)).collect::<Vec<_>>()
    };
    let none = ("x", "y");
    assert_eq!(severities(StatusCode::OK, none, 80), []);
    assert_eq!(severities(StatusCode::OK, none, 5), [(Check::Tls, Severity::Warn)]);
    assert_eq!(severities(StatusCode::OK, ("content-length", "8"), 80), [(Check::Replica, Severity::Fail)]);
    assert_eq!(severities(StatusCode::OK, ("content-type", "text/html"), 80), [(Check::Replica, Severity::Fail)]);
    assert_eq!(
        severities(StatusCode::OK, ("access-control-allow-origin", "null"), 80),
        [(Check::Cors, Severity::Fail)]
    );
    assert_eq!(
        severities(StatusCode::OK, ("cross-origin-resource-policy", "same-site"), 80),
        [(Check::Corp, Severity::Fail)]
    );
    let late = ("date", "Mon, 12 Jan 1970 13:48:00 GMT");
    assert_eq!(severities(StatusCode::OK, late, 80), [(Check::Clock, Severity::Fail)]);
    assert_eq!(severities(StatusCode::FOUND, none, 80), [(Check::Replica, Severity::Warn)]);
    assert_eq!(severities(StatusCode::NOT_FOUND, none, 80), [(Check::Replica, Severity::Fail)]);
}
