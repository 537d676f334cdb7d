use super::*;
use proptest::prelude::*;

/// A moment; all headers of the table are seen then.
const NOW_S: u64 = 1_700_000_000;

fn at(offset_s: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(NOW_S + offset_s)
}

/// Headers from lines `name: value`.
fn head(lines: &[&str]) -> HeaderMap {
    let pairs = lines.iter().map(|line| line.split_once(": ").unwrap());
    pairs.map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).fold(
        HeaderMap::new(),
        |mut headers, (name, value): (HeaderName, HeaderValue)| {
            headers.append(name, value);
            headers
        },
    )
}

/// Judges a PNG with one minute of freshness and these further headers.
fn judged(further: &[&str]) -> Result<Shareable, WhyNot> {
    let mut headers = head(further);
    for (name, value) in head(&["content-type: image/png", "cache-control: max-age=60"]) {
        let name = name.unwrap();
        if !headers.contains_key(&name) {
            headers.insert(name, value);
        }
    }
    judge(StatusCode::OK, &headers, at(0), at(0), false)
}

fn lifetime(further: &[&str]) -> Result<(u32, u32), WhyNot> {
    judged(further).map(|found| (found.max_age_s, found.fresh_until_s - NOW_S as u32))
}

#[test]
fn only_200_is_shared() {
    let headers = head(&["content-type: image/png", "cache-control: max-age=60"]);
    for status in [203, 204, 206, 301, 302, 303, 307, 401, 403, 404, 410, 429, 500, 503] {
        let status = StatusCode::from_u16(status).unwrap();
        assert_eq!(judge(status, &headers, at(0), at(0), false), Err(WhyNot::Status(status.as_u16())));
    }
    assert!(judge(StatusCode::OK, &headers, at(0), at(0), false).is_ok());
}

/// Headers, and lifetime and rest of it in seconds.
type Case<'a> = (&'a [&'a str], Result<(u32, u32), WhyNot>);

#[test]
fn lifetimes_are_those_declared_to_shared_caches_less_the_age() {
    let table: &[Case] = &[
        (&[], Ok((60, 60))),
        (&["cache-control: public, MAX-AGE=60"], Ok((60, 60))),
        (&["cache-control: max-age=\"60\""], Ok((60, 60))),
        (&["cache-control: max-age=60, s-maxage=600"], Ok((600, 600))),
        (&["cache-control: S-MaxAge=10, max-age=600"], Ok((10, 10))),
        (&["cache-control: max-age=600", "cache-control: s-maxage=10"], Ok((10, 10))),
        (&["cache-control: s-maxage=0, max-age=600"], Err(WhyNot::NotFresh)),
        (&["cache-control: max-age=0"], Err(WhyNot::NotFresh)),
        (&["cache-control: max-age=much"], Err(WhyNot::NotFresh)),
        (&["cache-control: max-age=-1"], Err(WhyNot::NotFresh)),
        (&["cache-control: public"], Err(WhyNot::NotFresh)),
        (&["cache-control: immutable"], Err(WhyNot::NotFresh)),
        (&["cache-control: public", "last-modified: Tue, 14 Nov 2000 22:13:20 GMT"], Err(WhyNot::NotFresh)),
        (&["age: 45"], Ok((60, 15))),
        (&["age: 60"], Err(WhyNot::NotFresh)),
        (&["age: 600"], Err(WhyNot::NotFresh)),
        (&["age: 18446744073709551615"], Err(WhyNot::NotFresh)),
        (&["cache-control: max-age=18446744073709551615"], Ok((u32::MAX, u32::MAX - 1 - NOW_S as u32))),
        // NOW_S is 2023-11-14T22:13:20Z.
        (&["date: Tue, 14 Nov 2023 22:13:00 GMT"], Ok((60, 40))),
        (&["date: Tue, 14 Nov 2023 22:13:00 GMT", "age: 30"], Ok((60, 30))),
        (&["date: Tue, 14 Nov 2023 22:14:00 GMT"], Ok((60, 60))),
        (&["date: Tue, 14 Nov 2023 22:12:00 GMT"], Err(WhyNot::NotFresh)),
        (
            &["cache-control: public", "date: Tue, 14 Nov 2023 22:13:20 GMT", "expires: Tue, 14 Nov 2023 22:13:50 GMT"],
            Ok((30, 30)),
        ),
        (&["cache-control: public", "expires: 0"], Err(WhyNot::NotFresh)),
        (&["cache-control: max-age=99999999999"], Ok((u32::MAX, u32::MAX - 1 - NOW_S as u32))),
    ];
    for (further, want) in table {
        assert_eq!(lifetime(further), *want, "{further:?}");
    }
    let headers = head(&["content-type: image/png", "cache-control: max-age=60"]);
    let slow = judge(StatusCode::OK, &headers, at(0), at(20), false).unwrap();
    assert_eq!(slow.fresh_until_s, NOW_S as u32 + 60, "the time of the transfer counts as age");
}

#[test]
fn a_lifetime_is_made_up_only_where_the_operator_wants_it_and_none_is_declared() {
    let lifetime = |further: &[&str], heuristic| {
        let headers = head(&[&["content-type: image/png", "date: Tue, 14 Nov 2023 22:13:20 GMT"], further].concat());
        let found = judge(StatusCode::OK, &headers, at(0), at(0), heuristic);
        found.map(|found| (found.max_age_s, found.fresh_until_s - NOW_S as u32))
    };
    let recent = "last-modified: Tue, 14 Nov 2023 21:56:40 GMT";
    let long_ago = "last-modified: Tue, 14 Nov 2000 22:13:20 GMT";
    assert_eq!(lifetime(&[recent], false), Err(WhyNot::NotFresh));
    assert_eq!(lifetime(&[recent], true), Ok((100, 100)), "a tenth");
    assert_eq!(lifetime(&[recent, "cache-control: public"], true), Ok((100, 100)));
    assert_eq!(lifetime(&[long_ago], true), Ok((86_400, 86_400)), "a day at most");
    assert_eq!(lifetime(&[], true), Err(WhyNot::NotFresh));
    assert_eq!(lifetime(&[long_ago, "cache-control: max-age=60"], true), Ok((60, 60)));
    assert_eq!(lifetime(&[long_ago, "cache-control: max-age=0"], true), Err(WhyNot::NotFresh));
    assert_eq!(lifetime(&[long_ago, "expires: 0"], true), Err(WhyNot::NotFresh));
    assert_eq!(lifetime(&[long_ago, "cache-control: no-cache"], true), Err(WhyNot::Forbidden("no-cache")));
}

#[test]
fn what_forbids_sharing_is_named() {
    let table: &[(&[&str], WhyNot)] = &[
        (&["cache-control: private, max-age=60"], WhyNot::Forbidden("private")),
        (&["cache-control: PRIVATE, max-age=60"], WhyNot::Forbidden("private")),
        (&["cache-control: private=\"set-cookie\", max-age=60"], WhyNot::Forbidden("private")),
        (&["cache-control: max-age=60", "cache-control: No-Store"], WhyNot::Forbidden("no-store")),
        (&["cache-control: no-cache, max-age=60"], WhyNot::Forbidden("no-cache")),
        (&["cache-control: no-cache=\"x-y\", max-age=60"], WhyNot::Forbidden("no-cache")),
        (&["cache-control: max-age=60, \u{e9}"], WhyNot::Malformed(CACHE_CONTROL)),
        (&["cache-control: proxy-revalidate, max-age=60"], WhyNot::NotFresh),
        (&["set-cookie: a=b"], WhyNot::Cookie),
        (&["set-cookie: a=b", "cache-control: public, max-age=60"], WhyNot::Cookie),
        (&["content-encoding: gzip"], WhyNot::Coding),
        (&["content-encoding: identity, br"], WhyNot::Coding),
        (&["vary: *"], WhyNot::Vary),
        (&["vary: Accept-Encoding, Cookie"], WhyNot::Vary),
        (&["vary: accept-encoding", "vary: user-agent"], WhyNot::Vary),
        (&["vary: Accept"], WhyNot::Vary),
        (&["content-disposition: attachment; filename=x.png"], WhyNot::Disposition),
        (&["content-type: text/html"], WhyNot::ContentType),
        (&["content-type: application/octet-stream"], WhyNot::ContentType),
        (&["content-type: image/png, text/html"], WhyNot::ContentType),
        (&["content-type: image/png", "content-type: text/html"], WhyNot::ContentType),
        (&["content-type: text/css; charset=iso-8859-1"], WhyNot::ContentType),
        (&["content-type: audio/ogg; codecs=opus"], WhyNot::ContentType),
        (&["content-type: image/png; charset=utf-8; x=y"], WhyNot::ContentType),
    ];
    for (further, why) in table {
        assert_eq!(judged(further), Err(why.clone()), "{further:?}");
    }
    for good in ["vary: Accept-Encoding", "vary: origin, ACCEPT-ENCODING", "content-encoding: identity"] {
        assert!(judged(&[good]).is_ok(), "{good}");
    }
    let untyped = head(&["cache-control: max-age=60"]);
    assert_eq!(judge(StatusCode::OK, &untyped, at(0), at(0), false), Err(WhyNot::ContentType));
}

#[test]
fn types_come_in_their_one_spelling() {
    let table = [
        ("Image/PNG", "image/png", Class::Image, false),
        ("image/svg+xml; charset=utf-8", "image/svg+xml", Class::Image, true),
        ("image/vnd.microsoft.icon", "image/x-icon", Class::Image, false),
        ("text/css;charset=UTF-8", "text/css", Class::Style, true),
        ("text/css;", "text/css", Class::Style, false),
        ("application/javascript; charset=\"utf-8\"", "text/javascript", Class::Script, true),
        ("application/x-font-woff", "font/woff", Class::Font, false),
        ("application/x-gzip", "application/gzip", Class::Archive, false),
    ];
    for (given, content_type, class, has_charset) in table {
        let found = judged(&[&format!("content-type: {given}")]).unwrap();
        assert_eq!((found.content_type, found.class, found.has_charset), (content_type, class, has_charset), "{given}");
    }
    for (_, spelling) in ALIASES {
        assert!(Class::of_content_type(spelling).is_some(), "{spelling}");
    }
}

#[test]
fn who_may_use_it_is_what_the_origin_says() {
    let sharing = |line| judged(&[line]).unwrap().sharing;
    assert_eq!(sharing("access-control-allow-origin: *"), Sharing::Anyone);
    assert_eq!(sharing("access-control-allow-origin: https://a.test"), Sharing::SameOrigin);
    assert_eq!(sharing("vary: origin"), Sharing::SameOrigin);
    let embedding = |line| judged(&[line]).unwrap().embedding;
    assert_eq!(embedding("cross-origin-resource-policy: cross-origin"), Embedding::Anyone);
    assert_eq!(embedding("cross-origin-resource-policy: same-site"), Embedding::Own);
    assert_eq!(embedding("cross-origin-resource-policy: same-origin"), Embedding::Own);
    assert_eq!(embedding("cross-origin-resource-policy: nonsense"), Embedding::Unstated);
    assert_eq!(embedding("vary: origin"), Embedding::Unstated);
}

#[test]
fn stale_copies_stand_in_only_where_nothing_forbids_it() {
    let stale = |value: &str| judged(&[&format!("cache-control: {value}")]).unwrap().stale_if_error_s;
    assert_eq!(stale("max-age=60"), 0);
    assert_eq!(stale("max-age=60, Stale-If-Error=300"), 300);
    assert_eq!(stale("max-age=60, stale-if-error=long"), 0);
    assert_eq!(stale("max-age=60, stale-if-error=300, must-revalidate"), 0);
    assert_eq!(stale("s-maxage=60, stale-if-error=300"), 0);
}

#[test]
fn only_strong_entity_tags_are_taken() {
    let etag = |value: &str| judged(&[&format!("etag: {value}")]).unwrap().etag;
    assert_eq!(etag("\"x\"").as_deref(), Some("\"x\""));
    for weak in ["W/\"x\"", "x", "\"a\"b\"", &format!("\"{}\"", "x".repeat(200))] {
        assert_eq!(etag(weak), None, "{weak}");
    }
}

#[test]
fn conditions_are_made_only_from_what_vouches_for_every_byte() {
    let sent = |lines: &[&str]| {
        let conditions = conditions(&head(lines));
        let value = |name: &str| conditions.get(name).map(|v| v.to_str().unwrap().to_owned());
        (value("if-none-match"), value("if-modified-since"))
    };
    let modified = "last-modified: Tue, 14 Nov 2023 22:13:20 GMT";
    let date = modified.split_once(": ").map(|(_, date)| date.to_owned());
    assert_eq!(sent(&["etag: \"x\"", modified]), (Some("\"x\"".into()), None));
    assert_eq!(sent(&["etag: W/\"x\"", modified, "date: Tue, 14 Nov 2023 22:14:20 GMT"]), (None, date));
    assert_eq!(sent(&["etag: W/\"x\"", modified, "date: Tue, 14 Nov 2023 22:14:19 GMT"]), (None, None));
    assert_eq!(sent(&["etag: W/\"x\"", modified]), (None, None));
}

#[test]
fn a_304_renews_the_head_but_not_what_describes_the_body() {
    let stored = head(&["content-type: image/png", "cache-control: max-age=60", "etag: \"x\"", "age: 50"]);
    let merged = updated(&stored, &head(&["cache-control: max-age=90", "content-type: text/html", "date: x"]));
    assert_eq!(merged, head(&["content-type: image/png", "etag: \"x\"", "cache-control: max-age=90", "date: x"]));
}

#[test]
fn the_end_of_a_body_has_to_be_known() {
    assert_eq!(announced(&head(&["content-length: 5"])), Ok(5));
    assert_eq!(announced(&head(&["transfer-encoding: chunked"])), Err(WhyNot::Length));
    assert_eq!(announced(&head(&["date: x"])), Err(WhyNot::Length));
}

proptest! {
    #[test]
    fn hostile_heads_never_panic(
        lines in prop::collection::vec(
            ("(cache-control|vary|age|date|expires|etag|content-type|pragma|content-length)", prop::collection::vec(0x20u8..=0xff, 0..40)),
            0..8,
        ),
        status in 100u16..600,
    ) {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            if let Ok(value) = HeaderValue::from_bytes(&value) {
                headers.append(HeaderName::try_from(name).unwrap(), value);
            }
        }
        let status = StatusCode::from_u16(status).unwrap();
        let _ = (judge(status, &headers, at(0), at(1), true), announced(&headers), conditions(&headers), updated(&headers, &headers));
    }

    #[test]
    fn whatever_else_is_said_a_forbidding_word_holds(
        word in "([pP]rivate|no-[sS]tore|NO-CACHE)", before in "[a-z0-9=\", -]{0,20}", after in "[a-z0-9=\", -]{0,20}",
    ) {
        let line = format!("cache-control: {before}, {word}, {after}, max-age=60");
        prop_assert!(judged(&[&line]).is_err());
    }
}
