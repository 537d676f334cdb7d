use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;
use http::HeaderValue;

use super::*;

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
