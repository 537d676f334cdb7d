use std::collections::BTreeSet;

use http::HeaderValue;
use proptest::prelude::*;

use super::*;

const SITE: &str = "a.test";
const REPLICA: &str = "replica.b.test";

fn names(blocked: Destinations) -> Vec<&'static str> {
    Destination::ALL.into_iter().filter(|d| blocked.contains(*d)).map(name).collect()
}

fn page(headers: &[&str], html: &str) -> Policies {
    let name = CONTENT_SECURITY_POLICY;
    let headers = headers.iter().map(|value| (name.clone(), HeaderValue::from_str(value).unwrap()));
    Policies::of_page(&headers.collect(), html.as_bytes())
}

#[test]
fn a_policy_forbids_what_browsers_would_block_after_a_redirect() {
    let all = ["images", "media", "fonts", "styles", "scripts", "fetch"];
    let table: [(&str, &[&str]); 28] = [
        ("", &[]),
        ("upgrade-insecure-requests; frame-ancestors 'none'", &[]),
        ("default-src 'none'", &all),
        ("default-src", &all),
        ("default-src 'self'", &all),
        ("default-src *", &[]),
        ("default-src https:", &[]),
        ("DEFAULT-SRC HTTPS:", &[]),
        ("default-src http:", &[]),
        ("default-src data: blob:", &all),
        ("default-src 'self' replica.b.test", &[]),
        ("default-src 'self' https://replica.b.test", &[]),
        ("default-src 'self' https://REPLICA.b.test:443", &[]),
        ("default-src 'self' *.b.test", &[]),
        ("default-src 'self' b.test *.replica.b.test", &all),
        ("default-src 'self' https://replica.b.test:8443", &all),
        ("default-src 'self' https://replica.b.test:*", &[]),
        ("default-src https://replica.b.test:99999", &all),
        ("img-src https://replica.b.test/only/here/", &[]),
        ("img-src 'self'", &["images"]),
        ("default-src 'self'; img-src *", &["media", "fonts", "styles", "scripts", "fetch"]),
        ("img-src *; img-src 'none'", &[]),
        ("media-src 'self'; font-src 'self'", &["media", "fonts"]),
        ("style-src 'self' 'unsafe-inline'", &["styles"]),
        ("style-src *; style-src-elem 'self'", &["styles"]),
        ("script-src 'self' 'nonce-abc' 'sha256-AAAA'", &["scripts"]),
        ("script-src * 'strict-dynamic'", &["scripts"]),
        ("script-src 'none'; script-src-elem *; worker-src 'none'; object-src 'none'", &[]),
    ];
    for (policy, forbidden) in table {
        assert_eq!(names(blocked(&Policies::declared(policy), SITE, REPLICA)), forbidden, "{policy}");
    }
}

#[test]
fn every_header_every_list_and_every_meta_counts_and_reports_do_not() {
    let several = page(&["img-src 'self', media-src 'self'", "font-src 'self'"], "");
    assert_eq!(names(blocked(&several, SITE, REPLICA)), ["images", "media", "fonts"]);
    let meta = page(&[], "<meta http-equiv='Content-Security-Policy' content=\"img-src 'self'\">");
    assert_eq!(names(blocked(&meta, SITE, REPLICA)), ["images"]);
    let both = page(&["font-src 'self'"], "<meta http-equiv='Content-Security-Policy' content=\"img-src 'self'\">");
    assert_eq!(names(blocked(&both, SITE, REPLICA)), ["images", "fonts"]);
    let report =
        ("content-security-policy-report-only".parse().unwrap(), HeaderValue::from_static("default-src 'none'"));
    assert!(Policies::of_page(&HeaderMap::from_iter([report]), b"").is_empty());
}

#[test]
fn pages_together_allow_what_each_of_them_allows() {
    let pages =
        [page(&["img-src *"], ""), page(&["img-src https://replica.b.test"], ""), page(&["media-src 'self'"], "")];
    let strictest = strictest(&pages);
    assert_eq!(names(blocked(&strictest, SITE, REPLICA)), ["media"]);
    assert_eq!(names(blocked(&strictest, SITE, "replica.c.test")), ["images", "media"]);
}

#[test]
fn pages_that_differ_in_nonces_alone_share_a_policy() {
    let page = |nonce| page(&[&format!("script-src 'nonce-{nonce}' 'self'; report-uri /{nonce}")], "");
    let pages = [page("a"), page("b")];
    assert_eq!(strictest(&pages), Policies::declared("script-src 'self'"));
}

#[test]
fn an_objection_names_the_directive_that_forbids() {
    let found = objections(&Policies::declared("default-src 'self'; img-src data:"), SITE, REPLICA).unwrap();
    let of = |destination| found.iter().find(|objection| objection.destination == destination).unwrap();
    assert_eq!(
        (of(Destination::Image).directive.as_str(), &of(Destination::Image).sources[..]),
        ("img-src", &["data:".to_owned()][..])
    );
    assert_eq!(of(Destination::Font).directive, "default-src");
}

#[test]
fn ports_count_and_what_is_no_authority_is_blocked() {
    let policy = Policies::declared("img-src https://replica.b.test:8443");
    assert_eq!(names(blocked(&policy, SITE, "replica.b.test:8443")), Vec::<&str>::new());
    assert_eq!(names(blocked(&policy, SITE, "replica.b.test")), ["images"]);
    assert_eq!(blocked(&Policies::default(), SITE, "b.test:port"), governed());
}

#[test]
fn policies_beyond_the_bounds_forbid_everything() {
    let long = format!("img-src * {}", "x".repeat(MAX_POLICY_BYTES));
    assert_eq!(blocked(&Policies::declared(&long), SITE, REPLICA), governed());
    let many: Vec<String> = (0..=MAX_POLICIES).map(|i| format!("img-src * x{i}.test")).collect();
    assert_eq!(blocked(&Policies::declared(&many[1..].join(",")), SITE, REPLICA), Destinations::NONE);
    assert_eq!(blocked(&Policies::declared(&many.join(",")), SITE, REPLICA), governed());
}

fn policy_text() -> impl Strategy<Value = String> {
    let directive = prop::sample::select(DIRECTIVES.to_vec());
    let source = prop_oneof![
        prop::sample::select(vec!["'self'", "'none'", "*", "https:", "*.b.test", "replica.b.test", "'nonce-x'"])
            .prop_map(str::to_owned),
        "[a-z*.:/']{0,12}:[0-9]{1,6}",
        "\\PC{0,10}",
    ];
    let sources = prop::collection::vec(source, 0..4);
    prop::collection::vec(
        (directive, sources).prop_map(|(name, sources)| format!("{name} {}", sources.join(" "))),
        0..4,
    )
    .prop_map(|directives| directives.join(";"))
}

proptest! {
    #[test]
    fn hostile_bytes_never_panic(header in prop::collection::vec(any::<u8>(), 0..200), html: Vec<u8>, authority in "\\PC{0,20}") {
        let headers = HeaderValue::from_bytes(&header).ok().map(|value| (CONTENT_SECURITY_POLICY, value));
        let policies = Policies::of_page(&headers.into_iter().collect(), &html);
        let _ = blocked(&policies, SITE, REPLICA);
        let _ = blocked(&policies, &authority, &authority);
    }

    #[test]
    fn one_more_policy_never_unblocks(texts in prop::collection::vec(policy_text(), 0..4), more in policy_text()) {
        let pages: Vec<Policies> = texts.iter().map(|text| Policies::declared(text)).collect();
        let before = blocked(&strictest(&pages), SITE, REPLICA);
        let after = blocked(&strictest(pages.iter().chain([&Policies::declared(&more)])), SITE, REPLICA);
        let set = |blocked| names(blocked).into_iter().collect::<BTreeSet<_>>();
        prop_assert!(set(before).is_subset(&set(after)), "{texts:?} {more}");
    }

    #[test]
    fn what_is_left_out_of_a_policy_never_decides(text in policy_text()) {
        let parsed = Policy::parse(&text, PolicySource::Header, PolicyDisposition::Enforce);
        let whole = Policies(BTreeSet::from([parsed.to_string()]));
        // Ports that do not exist are what the library does not expect.
        prop_assume!(parsed.directive_set.iter().flat_map(|d| &d.value).all(|source| is_source(source)));
        prop_assert_eq!(blocked(&whole, SITE, REPLICA), blocked(&Policies::declared(&text.replace(',', " ")), SITE, REPLICA));
    }
}
