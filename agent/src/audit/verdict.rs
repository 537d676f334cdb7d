//! What an answer says about the host that gave it.

use p2pcdn_core::object::{ObjectRecord, Sha256};

use super::pick::MAX_WHOLE_BYTES;
use super::reading::{Body, Decoded, End};
use crate::reputation::account::Verdict;

/// What was asked for.
#[derive(Debug)]
pub struct Expected<'a> {
    /// The origin's record.
    pub record: &'a ObjectRecord,
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
    /// Bytes of the object of which this is a part, as the answer says.
    pub total: Option<u64>,
    /// Whether the client offered to decode what it got.
    pub may_be_coded: bool,
    /// Whether a browser would keep it from the page by what other headers say; see [`super::guise::is_kept_from_page`].
    pub is_kept_from_page: bool,
    /// The body.
    pub body: Body,
    /// Milliseconds from the request to the last byte.
    pub took_ms: u64,
}

/// Milliseconds that any answer may take, whatever the lease.
const SLACK_MS: u64 = 2_000;
/// How many times as long as the lease promises an answer may take before it is slow.
const SLOWNESS: u64 = 8;

/// Bytes per second that are expected of who grants nothing, beyond what comes within the slack.
const UNSTATED_LEASE: u64 = 1024 * 1024;

/// The verdict on an answer, or on there being none; nothing where it proves nothing, since the version was being replaced.
pub fn verdict(expected: &Expected<'_>, answer: Option<&Answer>) -> Option<Verdict> {
    let Some(answer) = answer else { return Some(Verdict::Unreachable) };
    let (record, body) = (expected.record, &answer.body);
    let is_typed = answer.content_type.as_deref() == Some(record.content_type.as_bytes());
    match answer.status {
        200..=299 => {}
        // Sent back: its visitors do not get the object there. Sent anywhere else, they get what that place has.
        301..=303 | 307 | 308 if answer.location.as_deref() != Some(expected.return_url.as_bytes()) => {
            return Some(Verdict::WrongBytes);
        }
        301..=303 | 307 | 308 => return Some(Verdict::Missing),
        // Browsers show what calls itself the object, whatever the status.
        400.. if is_typed => return Some(Verdict::WrongBytes),
        _ if is_shown(record, answer) => return Some(Verdict::WrongBytes),
        500.. => return Some(Verdict::Unreachable),
        _ => return Some(Verdict::Missing),
    }
    let allowed_ms = allowed_ms(expected.lease_bytes_per_s, body.bytes);
    let is_in_time = answer.took_ms <= allowed_ms;
    if is_wrong(expected, answer) {
        let is_former = body.digest.is_some() && body.digest == expected.former;
        return (!is_former).then_some(Verdict::WrongBytes);
    }
    // A proxy in between that compresses is a mistake and no lie, and none at all if whoever asked can decode it.
    let is_decoded = body.decoded == Decoded::Whole && answer.may_be_coded && answer.status == 200;
    if body.decoded != Decoded::Uncoded && !is_decoded {
        return Some(Verdict::Missing);
    }
    match body.end {
        // It may have been cut by anybody.
        End::Broken => Some(Verdict::Unreachable),
        End::Announced if !body.is_full => Some(Verdict::Unreachable),
        // Longer than anybody waits, but as fast as the lease has it.
        End::Late if !(body.is_sound && is_in_time) => Some(Verdict::Unreachable),
        // Right bytes of which no page gets anything.
        _ if !is_typed || answer.is_kept_from_page => Some(Verdict::Missing),
        _ if !is_in_time => Some(Verdict::Slow),
        _ => Some(Verdict::Good),
    }
}

/// Milliseconds that so many bytes may take from a host with this lease.
pub fn allowed_ms(lease_bytes_per_s: u64, bytes: u64) -> u64 {
    let promised_ms = match lease_bytes_per_s {
        0 => bytes.saturating_sub(MAX_WHOLE_BYTES).saturating_mul(1000) / UNSTATED_LEASE,
        lease => (bytes.saturating_mul(1000) / lease).saturating_mul(SLOWNESS),
    };
    promised_ms.saturating_add(SLACK_MS)
}

/// Whether an answer that is no success shows an image all the same, where an image was asked for: browsers look at neither its status nor,
/// if it begins as images do, its type.
fn is_shown(record: &ObjectRecord, answer: &Answer) -> bool {
    let is_image = |text: &[u8]| text.get(..6).is_some_and(|start| start.eq_ignore_ascii_case(b"image/"));
    let says_so = answer.content_type.as_deref().is_some_and(is_image) && answer.body.bytes > 0;
    is_image(record.content_type.as_bytes()) && (says_so || answer.body.is_image)
}

/// Whether a success shows something else than the object. What has no end is wrong only in chunks that came in whole.
fn is_wrong(expected: &Expected<'_>, answer: &Answer) -> bool {
    let (body, size) = (&answer.body, expected.record.size);
    let is_over = match body.decoded {
        Decoded::Uncoded => body.end == End::Announced,
        Decoded::Whole => true,
        Decoded::Partly => false,
    };
    let is_short = is_over && !body.is_full;
    // Of what is asked for by ranges, a server may give as little at a time as it likes, as long as it is of the same object.
    let is_part = answer.status == 206 && size > MAX_WHOLE_BYTES && answer.total.is_none_or(|total| total == size);
    body.is_wrong || (is_short && !is_part)
}

#[cfg(test)]
mod tests;
