//! What an answer says about the host that gave it.

use bytes::Bytes;
use p2pcdn_core::object::{CHUNK_BYTES, ObjectRecord, Sha256};
use sha2::Digest;

use super::pick::Extent;
use crate::reputation::account::Verdict;

/// What was asked for.
#[derive(Debug)]
pub struct Expected<'a> {
    /// The origin's record.
    pub record: &'a ObjectRecord,
    /// How much of it.
    pub extent: Extent,
    /// The version before, as long as it may still be served.
    pub former: Option<Sha256>,
    /// Bytes per second that the host grants; 0 if nobody knows.
    pub lease_bytes_per_s: u64,
    /// The only place where a host may send a client: back home.
    pub return_url: &'a str,
}

/// What came.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Status.
    pub status: u16,
    /// Content type, as sent.
    pub content_type: Option<Vec<u8>>,
    /// Where the client is sent, as sent.
    pub location: Option<Vec<u8>>,
    /// Whether the body is in another coding than the origin's.
    pub is_coded: bool,
    /// The body, or as much of it as the extent needs.
    pub body: Bytes,
    /// Whether the body ended as announced, or is as long as the extent needs.
    pub is_complete: bool,
    /// Milliseconds from the request to the last byte.
    pub took_ms: u64,
}

/// Milliseconds that any answer may take, whatever the lease.
const SLACK_MS: u64 = 2_000;
/// How many times as long as the lease promises an answer may take before it is slow.
const SLOWNESS: u64 = 8;

/// The verdict on an answer, or on there being none; nothing where it proves nothing, since the version was being replaced.
pub fn verdict(expected: &Expected<'_>, answer: Option<&Answer>) -> Option<Verdict> {
    let Some(answer) = answer else { return Some(Verdict::Unreachable) };
    let is_typed = answer.content_type.as_deref() == Some(expected.record.content_type.as_bytes());
    match answer.status {
        200..=299 => {}
        // Sent back: its visitors do not get the object there. Sent anywhere else, they get what that place has.
        301..=303 | 307 | 308 if answer.location.as_deref() != Some(expected.return_url.as_bytes()) => {
            return Some(Verdict::WrongBytes);
        }
        // Browsers show what calls itself the object, whatever the status.
        400.. if is_typed => return Some(Verdict::WrongBytes),
        500.. => return Some(Verdict::Unreachable),
        _ => return Some(Verdict::Missing),
    }
    // A proxy in between that compresses is a mistake and no lie.
    if answer.is_coded {
        return Some(Verdict::Missing);
    }
    if !answer.is_complete {
        // What breaks off may have been cut by anybody, but not what came before.
        let is_sound = has_right_chunks(expected, answer) || has_right_chunks(expected, answer);
        return Some(if is_sound { Verdict::Unreachable } else { Verdict::WrongBytes });
    }
    match is_right(expected, answer) {
        // Once more, since own memory can be at fault, too.
        false if !is_right(expected, answer) => match is_former(expected, answer) {
            true => None,
            false => Some(Verdict::WrongBytes),
        },
        _ if !is_typed => Some(Verdict::Missing),
        _ if answer.took_ms > allowed_ms(expected.lease_bytes_per_s, answer.body.len() as u64) => Some(Verdict::Slow),
        _ => Some(Verdict::Good),
    }
}

/// Milliseconds that so many bytes may take from a host with this lease.
pub fn allowed_ms(lease_bytes_per_s: u64, bytes: u64) -> u64 {
    let promised_ms = (bytes.saturating_mul(1000)).checked_div(lease_bytes_per_s).unwrap_or(0);
    promised_ms.saturating_mul(SLOWNESS).saturating_add(SLACK_MS)
}

/// Where in the object the body begins that comes with this status.
pub fn begins_at(extent: Extent, status: u16) -> u64 {
    match extent {
        Extent::From { from, .. } if status == 206 => from,
        Extent::Whole | Extent::From { .. } => 0,
    }
}

/// Bytes of a body with this status that have to be read.
pub fn bytes_needed(extent: Extent, status: u16, size: u64) -> u64 {
    match extent {
        Extent::Whole => size,
        Extent::From { .. } if status == 206 => extent.bytes(size),
        // Ranges may be ignored; then the first chunk is as good.
        Extent::From { .. } => CHUNK_BYTES.min(size),
    }
}

fn is_right(expected: &Expected<'_>, answer: &Answer) -> bool {
    let Expected { record, extent, .. } = expected;
    let Extent::From { chunk, .. } = *extent else {
        return digest(&answer.body) == record.sha256;
    };
    let chunk = if answer.status == 206 { chunk } else { 0 };
    let begin = (chunk * CHUNK_BYTES).saturating_sub(begins_at(*extent, answer.status)) as usize;
    let length = CHUNK_BYTES.min(record.size - chunk * CHUNK_BYTES) as usize;
    let body = answer.body.get(begin..begin.saturating_add(length));
    body.is_some_and(|body| Some(&digest(body)) == record.chunks.get(chunk as usize))
}

/// Whether every chunk is right that came in whole.
fn has_right_chunks(expected: &Expected<'_>, answer: &Answer) -> bool {
    let begin = begins_at(expected.extent, answer.status);
    let first = begin.div_ceil(CHUNK_BYTES);
    let skipped = usize::try_from(first * CHUNK_BYTES - begin).unwrap_or(usize::MAX);
    let whole = answer.body.get(skipped..).unwrap_or_default().chunks_exact(CHUNK_BYTES as usize);
    let known = expected.record.chunks.iter().skip(usize::try_from(first).unwrap_or(usize::MAX));
    whole.zip(known).all(|(chunk, known)| digest(chunk) == *known)
}

fn is_former(expected: &Expected<'_>, answer: &Answer) -> bool {
    match (expected.former, expected.extent) {
        (Some(former), Extent::Whole) => digest(&answer.body) == former,
        // The URL names the version, and chunk hashes of one that is gone are not kept.
        (Some(_) | None, _) => false,
    }
}

fn digest(bytes: &[u8]) -> Sha256 {
    Sha256(sha2::Sha256::digest(bytes).into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use p2pcdn_core::object::{Embedding, Sharing};

    const HOME: &str = "https://a.test/.well-known/p2pcdn/v1/back/a.png";

    fn record(body: &[u8]) -> ObjectRecord {
        ObjectRecord {
            origin: "a.test".into(),
            path: "/a.png".into(),
            sha256: digest(body),
            size: body.len() as u64,
            content_type: "image/png".into(),
            etag: "\"x\"".into(),
            max_age_s: 1,
            stale_if_error_s: 0,
            sharing: Sharing::SameOrigin,
            embedding: Embedding::Unstated,
            chunks: body.chunks(CHUNK_BYTES as usize).map(digest).collect(),
            sequence: 1,
            expires_s: 2,
        }
    }

    fn answer(status: u16, body: &[u8]) -> Answer {
        Answer {
            status,
            content_type: Some(b"image/png".to_vec()),
            location: None,
            is_coded: false,
            body: Bytes::copy_from_slice(body),
            is_complete: true,
            took_ms: 10,
        }
    }

    #[test]
    fn each_answer_has_its_verdict() {
        let record = record(b"right");
        let expected = Expected {
            record: &record,
            extent: Extent::Whole,
            former: None,
            lease_bytes_per_s: 1000,
            return_url: HOME,
        };
        let right = answer(200, b"right");
        let to = |url: &str| Answer { location: Some(url.into()), ..answer(302, b"") };
        let text = |status| Answer { content_type: Some(b"text/plain".to_vec()), ..answer(status, b"no such replica") };
        let table = [
            (None, Verdict::Unreachable),
            (Some(right.clone()), Verdict::Good),
            (Some(answer(200, b"wrong")), Verdict::WrongBytes),
            (Some(answer(200, b"")), Verdict::WrongBytes),
            (Some(to(HOME)), Verdict::Missing),
            (Some(to("https://elsewhere.test/a.png")), Verdict::WrongBytes),
            (Some(text(404)), Verdict::Missing),
            (Some(text(503)), Verdict::Unreachable),
            (Some(answer(404, b"shown all the same")), Verdict::WrongBytes),
            (Some(answer(203, b"wrong")), Verdict::WrongBytes),
            (Some(Answer { content_type: Some(b"image/gif".to_vec()), ..answer(200, b"wrong") }), Verdict::WrongBytes),
            (Some(Answer { is_coded: true, ..answer(200, b"compressed") }), Verdict::Missing),
            (Some(Answer { content_type: Some(b"text/html".to_vec()), ..right.clone() }), Verdict::Missing),
            (Some(Answer { is_complete: false, ..answer(200, b"ri") }), Verdict::Unreachable),
            (Some(Answer { took_ms: 2_041, ..right.clone() }), Verdict::Slow),
            (Some(Answer { took_ms: 2_040, ..right }), Verdict::Good),
        ];
        for (answer, wanted) in table {
            assert_eq!(verdict(&expected, answer.as_ref()), Some(wanted), "{answer:?}");
        }
    }

    #[test]
    fn the_version_before_is_no_corruption_within_its_grace() {
        let record = record(b"new");
        let mut expected =
            Expected { record: &record, extent: Extent::Whole, former: None, lease_bytes_per_s: 0, return_url: HOME };
        assert_eq!(verdict(&expected, Some(&answer(200, b"old"))), Some(Verdict::WrongBytes));
        expected.former = Some(digest(b"old"));
        assert_eq!(verdict(&expected, Some(&answer(200, b"old"))), None);
        assert_eq!(verdict(&expected, Some(&answer(200, b"other"))), Some(Verdict::WrongBytes));
    }

    #[test]
    fn ranges_are_compared_by_the_chunk_they_hold() {
        let mut body: Vec<u8> = (0..CHUNK_BYTES * 12 + 5).map(|at| (at % 251) as u8).collect();
        let record = record(&body);
        let size = body.len() as u64;
        for (from, chunk) in [(0, 0), (1, 1), (CHUNK_BYTES * 3, 3), (CHUNK_BYTES * 12, 12)] {
            let extent = Extent::From { from, chunk };
            let expected = Expected { record: &record, extent, former: None, lease_bytes_per_s: 0, return_url: HOME };
            let part = body[from as usize..(from + extent.bytes(size)) as usize].to_vec();
            assert_eq!(bytes_needed(extent, 206, size), part.len() as u64);
            assert_eq!(verdict(&expected, Some(&answer(206, &part))), Some(Verdict::Good), "{from}");
            // A server may ignore the range.
            let first = &body[..bytes_needed(extent, 200, size) as usize];
            assert_eq!(verdict(&expected, Some(&answer(200, first))), Some(Verdict::Good), "{from}");
            let mut bent = part.clone();
            *bent.last_mut().unwrap() ^= 1;
            assert_eq!(verdict(&expected, Some(&answer(206, &bent))), Some(Verdict::WrongBytes), "{from}");
            assert_eq!(verdict(&expected, Some(&answer(206, &part[1..]))), Some(Verdict::WrongBytes), "{from}");
        }
        body[CHUNK_BYTES as usize] ^= 1;
        let expected =
            Expected { record: &record, extent: Extent::Whole, former: None, lease_bytes_per_s: 0, return_url: HOME };
        let cut = |bytes: u64| Answer { is_complete: false, ..answer(200, &body[..bytes as usize]) };
        let verdict = |bytes| verdict(&expected, Some(&cut(bytes)));
        assert_eq!(verdict(CHUNK_BYTES * 2 - 1), Some(Verdict::Unreachable), "nothing wrong came in whole");
        assert_eq!(verdict(CHUNK_BYTES * 2), Some(Verdict::WrongBytes), "cutting it off hides nothing");
    }
}
