//! Answers, byte by byte, and what each of them proves.

use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;
use p2pcdn_core::object::CHUNK_BYTES;
use proptest::prelude::*;
use sha2::Digest;

use super::*;
use crate::audit::pick::Extent;
use crate::audit::reading::Reading;
use crate::identity::testing;

const HOME: &str = "https://a.test/.well-known/p2pcdn/v1/back/a.png";
const GIF: &[u8] = b"GIF89a\x01\0\x01\0\x80\0\0";
const CHUNK: usize = CHUNK_BYTES as usize;

fn digest(bytes: &[u8]) -> Sha256 {
    Sha256(sha2::Sha256::digest(bytes).into())
}

fn record(body: &[u8]) -> ObjectRecord {
    ObjectRecord { expires_s: 2, ..testing::object_record("a.test", "/a.png", body) }
}

fn expected(record: &ObjectRecord) -> Expected<'_> {
    Expected { record, former: None, lease_bytes_per_s: 1000, return_url: HOME }
}

fn whole(record: &ObjectRecord) -> Extent {
    Extent { from: 0, until: record.size }
}

/// An answer that ends by itself, or where the reader has had enough, or breaks off at its end.
fn answer(record: &ObjectRecord, extent: Extent, status: u16, coding: &str, body: &[u8], is_cut: bool) -> Answer {
    let mut reading = Reading::new(record, extent, status, coding.as_bytes());
    let mut pieces = body.chunks(10_000);
    let body = loop {
        match pieces.next() {
            _ if reading.has_enough() => break reading.finish(End::Enough),
            Some(piece) => reading.take(piece),
            None => break reading.finish(if is_cut { End::Broken } else { End::Announced }),
        }
    };
    Answer {
        status,
        content_type: Some(b"image/png".to_vec()),
        location: None,
        total: None,
        may_be_coded: true,
        is_kept_from_page: false,
        body,
        took_ms: 10,
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut coder = GzEncoder::new(Vec::new(), Compression::fast());
    coder.write_all(bytes).unwrap();
    coder.finish().unwrap()
}

fn long(chunks: usize) -> Vec<u8> {
    let mut rng = fastrand::Rng::with_seed(7);
    (0..chunks * CHUNK + 5).map(|_| rng.u8(..)).collect()
}

#[test]
fn each_answer_has_its_verdict() {
    let record = record(b"right");
    let plain = |status, body: &[u8]| answer(&record, whole(&record), status, "", body, false);
    let coded = |status, coding: &str, body: &[u8]| answer(&record, whole(&record), status, coding, body, false);
    let right = plain(200, b"right");
    let to = |url: &str| Answer { location: Some(url.into()), ..plain(302, b"") };
    let typed = |content_type: &str, answer: Answer| Answer { content_type: Some(content_type.into()), ..answer };
    let text = |status| typed("text/plain", plain(status, b"no such replica"));
    let (good, bad, evil) = (gzip(b"right"), gzip(b"wrong"), gzip(GIF));
    let table = [
        (None, Verdict::Unreachable),
        (Some(right.clone()), Verdict::Good),
        (Some(Answer { is_kept_from_page: true, ..right.clone() }), Verdict::Missing),
        (Some(plain(200, b"wrong")), Verdict::WrongBytes),
        (Some(Answer { is_kept_from_page: true, ..plain(200, b"wrong") }), Verdict::WrongBytes),
        (Some(plain(200, b"right and more")), Verdict::WrongBytes),
        (Some(plain(200, b"")), Verdict::WrongBytes),
        (Some(to(HOME)), Verdict::Missing),
        (Some(to("https://elsewhere.test/a.png")), Verdict::WrongBytes),
        (Some(text(404)), Verdict::Missing),
        (Some(text(416)), Verdict::Missing),
        (Some(text(503)), Verdict::Unreachable),
        (Some(typed("text/html; charset=utf-8", plain(503, b"<html>busy</html>"))), Verdict::Unreachable),
        (Some(typed("text/html", plain(404, b"BMW has no such page, nor have we"))), Verdict::Missing),
        (Some(plain(404, b"shown all the same")), Verdict::WrongBytes),
        (Some(typed("image/gif", plain(404, GIF))), Verdict::WrongBytes),
        (Some(typed("Image/Whatever", plain(500, b"x"))), Verdict::WrongBytes),
        (Some(typed("image/gif", plain(404, b""))), Verdict::Missing),
        (Some(typed("text/html", plain(404, GIF))), Verdict::WrongBytes),
        (Some(typed("text/html", coded(404, "gzip", &evil))), Verdict::WrongBytes),
        (Some(typed("text/html", coded(404, "made-up", GIF))), Verdict::WrongBytes),
        (Some(typed("text/html", plain(300, GIF))), Verdict::WrongBytes),
        (Some(typed("text/html", plain(503, b"\0\0\0\x20ftypavif\0\0\0\0"))), Verdict::WrongBytes),
        (Some(typed("text/html", plain(503, b"RIFF\x10\0\0\0WEBPVP8 "))), Verdict::WrongBytes),
        (Some(typed("text/html", plain(503, b"BM\x9a\0\0\0\0\0\0\0\x36\0\0\0\x28\0\0\0"))), Verdict::WrongBytes),
        (Some(plain(203, b"wrong")), Verdict::WrongBytes),
        (Some(typed("image/gif", plain(200, b"wrong"))), Verdict::WrongBytes),
        (Some(typed("text/html", plain(200, b"wrong"))), Verdict::WrongBytes),
        (Some(typed("text/html", right.clone())), Verdict::Missing),
        (Some(coded(200, "gzip", &good)), Verdict::Good),
        (Some(Answer { may_be_coded: false, ..coded(200, "gzip", &good) }), Verdict::Missing),
        (Some(coded(206, "gzip", &good)), Verdict::Missing),
        (Some(typed("text/html", coded(200, "gzip", &good))), Verdict::Missing),
        (Some(coded(200, "gzip", &bad)), Verdict::WrongBytes),
        (Some(coded(200, "GZIP, gzip", &gzip(&bad))), Verdict::WrongBytes),
        (Some(typed("image/gif", coded(200, "gzip", &evil))), Verdict::WrongBytes),
        (Some(coded(200, "gzip", b"right, but not coded")), Verdict::Missing),
        (Some(coded(200, "gzip", &bad[..12])), Verdict::Missing),
        (Some(coded(200, "aws-chunked", b"right")), Verdict::Good),
        (Some(coded(200, "made-up", b"wrong")), Verdict::WrongBytes),
        (Some(answer(&record, whole(&record), 200, "", b"ri", true)), Verdict::Unreachable),
        (Some(Answer { took_ms: 2_041, ..right.clone() }), Verdict::Slow),
        (Some(Answer { took_ms: 2_040, ..right }), Verdict::Good),
    ];
    for (answer, wanted) in table {
        assert_eq!(verdict(&expected(&record), answer.as_ref()), Some(wanted), "{answer:?}");
    }
}

#[test]
fn an_error_that_calls_itself_an_image_shows_nothing_where_no_image_was_asked_for() {
    let record = ObjectRecord { content_type: "video/mp4".into(), ..record(b"right") };
    let mut error = answer(&record, whole(&record), 404, "", GIF, false);
    error.content_type = Some(b"image/gif".to_vec());
    assert_eq!(verdict(&expected(&record), Some(&error)), Some(Verdict::Missing));
}

#[test]
fn the_version_before_is_no_corruption_within_its_grace() {
    let record = record(b"new");
    let plain = |body: &[u8]| answer(&record, whole(&record), 200, "", body, false);
    let mut expected = expected(&record);
    assert_eq!(verdict(&expected, Some(&plain(b"old"))), Some(Verdict::WrongBytes));
    expected.former = Some(digest(b"old"));
    assert_eq!(verdict(&expected, Some(&plain(b"old"))), None);
    assert_eq!(verdict(&expected, Some(&plain(b"other"))), Some(Verdict::WrongBytes));
    let coded = answer(&record, whole(&record), 200, "gzip", &gzip(b"old"), false);
    assert_eq!(verdict(&expected, Some(&coded)), None);
}

#[test]
fn every_chunk_that_is_read_is_compared_whatever_the_request_was() {
    let body = long(12);
    let record = record(&body);
    for (from, until) in [(0, 1), (0, 12), (1, 2), (CHUNK + 1, 12), (CHUNK * 3, 5), (CHUNK * 12, 13)] {
        let extent = Extent { from: from as u64, until: ((until * CHUNK) as u64).min(record.size) };
        let end = extent.until as usize;
        let said =
            |status, body: &[u8]| verdict(&expected(&record), Some(&answer(&record, extent, status, "", body, false)));
        assert_eq!(said(206, &body[from..]), Some(Verdict::Good), "{from}");
        assert_eq!(said(200, &body), Some(Verdict::Good), "a server may ignore the range: {from}");
        for bent in (from.next_multiple_of(CHUNK)..end).step_by(CHUNK) {
            let mut wrong = body.clone();
            wrong[bent] ^= 1;
            assert_eq!(said(206, &wrong[from..]), Some(Verdict::WrongBytes), "{from} {bent}");
        }
        assert!(until > 12 || said(206, &body[from + 1..]) == Some(Verdict::WrongBytes), "another part: {from}");
    }
}

#[test]
fn what_is_right_at_first_and_wrong_after_is_wrong() {
    let body = long(12);
    let record = record(&body);
    let mut two_faced = body.clone();
    two_faced[528 << 10..].fill(0);
    let read = |chunks: u64, body: &[u8]| {
        let extent = Extent { from: 0, until: (chunks * CHUNK_BYTES).min(record.size) };
        verdict(&expected(&record), Some(&answer(&record, extent, 200, "", body, false)))
    };
    assert_eq!(read(2, &two_faced), Some(Verdict::Good), "not read so far");
    assert_eq!(read(3, &two_faced), Some(Verdict::WrongBytes));
    assert_eq!(read(13, &two_faced), Some(Verdict::WrongBytes));
    assert_eq!(read(3, b"something short"), Some(Verdict::WrongBytes), "all of it, and not the object");
    let mut last = body.clone();
    *last.last_mut().unwrap() ^= 1;
    assert_eq!((read(11, &last), read(13, &last)), (Some(Verdict::Good), Some(Verdict::WrongBytes)));
    assert_eq!(read(13, &[&body[..], b"more"].concat()), Some(Verdict::WrongBytes));
}

#[test]
fn a_part_of_what_is_long_is_no_lie_unless_it_is_a_part_of_something_else() {
    let body = long(12);
    let record = record(&body);
    let mut part = answer(&record, whole(&record), 206, "", &body[..CHUNK * 2 + 9], false);
    for (total, wanted) in [
        (None, Verdict::Unreachable),
        (Some(record.size), Verdict::Unreachable),
        (Some(CHUNK_BYTES * 2 + 9), Verdict::WrongBytes),
    ] {
        part.total = total;
        assert_eq!(verdict(&expected(&record), Some(&part)), Some(wanted), "{total:?}");
    }
}

#[test]
fn cutting_it_off_hides_nothing() {
    let mut body = long(12);
    let record = record(&body);
    body[CHUNK] ^= 1;
    let cut = |coding: &str, body: &[u8]| {
        verdict(&expected(&record), Some(&answer(&record, whole(&record), 200, coding, body, true)))
    };
    assert_eq!(cut("", &body[..CHUNK * 2 - 1]), Some(Verdict::Unreachable), "nothing wrong came in whole");
    assert_eq!(cut("", &body[..CHUNK * 2]), Some(Verdict::WrongBytes));
    let coded = gzip(&body);
    assert_eq!(cut("gzip", &coded[..CHUNK]), Some(Verdict::Missing), "nor here");
    assert_eq!(cut("gzip", &coded[..CHUNK * 3]), Some(Verdict::WrongBytes));
}

#[test]
fn whoever_is_as_fast_as_its_lease_is_good_though_the_reader_had_to_leave() {
    let body = long(12);
    let record = record(&body);
    let mut reading = Reading::new(&record, whole(&record), 200, b"");
    reading.take(&body[..CHUNK * 4]);
    let late = reading.finish(End::Late);
    let answer = Answer { body: late, ..answer(&record, whole(&record), 200, "", &body, false) };
    let took = |took_ms| verdict(&expected(&record), Some(&Answer { took_ms, ..answer.clone() }));
    let allowed_ms = allowed_ms(1000, CHUNK_BYTES * 4);
    assert_eq!((took(allowed_ms), took(allowed_ms + 1)), (Some(Verdict::Good), Some(Verdict::Unreachable)));
    assert_eq!(super::allowed_ms(0, 2 << 20), 2_000, "who grants nothing");
    assert_eq!(super::allowed_ms(0, 16 << 20), 16_000);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn no_honest_host_is_convicted(
        size in 1..600_000usize, status in prop_oneof![Just(200u16), Just(206)], cut in 0..600_000usize, is_coded: bool, is_cut: bool
    ) {
        let body = long(3)[..size].to_vec();
        let record = record(&body);
        let sent = if is_coded { gzip(&body) } else { body };
        let is_cut = is_cut && cut < sent.len();
        let sent = if is_cut { &sent[..cut] } else { &sent };
        let answer = answer(&record, whole(&record), status, if is_coded { "gzip" } else { "" }, sent, is_cut);
        let verdict = verdict(&expected(&record), Some(&answer));
        prop_assert!(verdict.is_some() && verdict != Some(Verdict::WrongBytes), "{:?}", answer);
        prop_assert_eq!(verdict == Some(Verdict::Good), !is_cut && (status == 200 || !is_coded), "{:?}", answer);
    }
}
