//! Compares the body of an answer as it comes, so that no more of it is held than a chunk.

use std::borrow::Cow;

use p2pcdn_core::object::{CHUNK_BYTES, ObjectRecord, Sha256};
use sha2::Digest;

use super::codings::{Coding, codings, decode};
use super::pick::{Extent, MAX_AUDIT_BYTES, MAX_WHOLE_BYTES};

/// A body of which some has come.
pub struct Reading<'a> {
    comparison: Comparison<'a>,
    /// Where in the object the reader has had enough.
    until: u64,
    codings: Vec<Coding>,
    is_success: bool,
    can_decode: bool,
    held: Vec<u8>,
    bytes: u64,
}

/// How a body came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// As it announced, or just so if it did not.
    Announced,
    /// The reader has had enough.
    Enough,
    /// The reader's patience ran out.
    Late,
    /// It broke off.
    Broken,
}

/// Whether a body was decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decoded {
    /// It was not coded.
    Uncoded,
    /// All of it.
    Whole,
    /// There is more of it, or it is broken.
    Partly,
}

/// What a body was. All but `bytes` speaks of the decoded one.
#[derive(Debug, Clone, PartialEq)]
pub struct Body {
    /// Bytes that came, as they travelled.
    pub bytes: u64,
    /// How it ended.
    pub end: End,
    /// Whether it was decoded.
    pub decoded: Decoded,
    /// Whether a chunk that came in whole is wrong, or there is more than the object has.
    pub is_wrong: bool,
    /// Whether a chunk came in whole and is right.
    pub is_sound: bool,
    /// Whether it came as far as was to be read.
    pub is_full: bool,
    /// The digest, if it began at the object's beginning.
    pub digest: Option<Sha256>,
    /// Whether it begins as images do.
    pub is_image: bool,
}

/// Most of a coded body that is held, in bytes; what follows is not looked at. Hosts do not code, and 32 audits may be under way.
const MAX_CODED_BYTES: u64 = MAX_WHOLE_BYTES;
/// As much of the body of an error, in bytes, coded or not: enough for a signature.
const ERROR_BYTES: u64 = 4096;
/// Bytes that tell an image.
const SIGNATURE_BYTES: u64 = 32;

impl<'a> Reading<'a> {
    /// Of the answer with this status and `Content-Encoding` to a request for so much of an object.
    pub fn new(record: &'a ObjectRecord, extent: Extent, status: u16, content_encoding: &[u8]) -> Self {
        let is_ignored = extent.from > 0 && status != 206;
        let (begin, until) = if is_ignored {
            // Ranges may be ignored; then as much of the beginning is as good.
            (0, extent.bytes().next_multiple_of(CHUNK_BYTES).min(record.size))
        } else {
            (extent.from, extent.until)
        };
        Self {
            comparison: Comparison::new(Cow::Borrowed(record), begin),
            until,
            codings: codings(content_encoding),
            is_success: (200..300).contains(&status),
            // What is cut out of a coded body cannot be told from nonsense.
            can_decode: begin == 0,
            held: Vec::new(),
            bytes: 0,
        }
    }

    /// Takes in what came.
    pub fn take(&mut self, bytes: &[u8]) {
        self.bytes += bytes.len() as u64;
        if self.is_success && self.codings.is_empty() {
            self.comparison.take(bytes);
        } else {
            let room = usize::try_from(self.most_held()).unwrap_or(usize::MAX).saturating_sub(self.held.len());
            self.held.extend_from_slice(&bytes[..bytes.len().min(room)]);
        }
    }

    /// Whether there is no need for more. An object of which all is read is read until it ends, or is longer than it should be.
    pub fn has_enough(&self) -> bool {
        if !self.is_success || !self.codings.is_empty() {
            return self.bytes >= self.most_held();
        }
        let is_to_the_end = self.until == self.comparison.record.size;
        self.comparison.at > self.until || (self.comparison.at == self.until && !is_to_the_end)
    }

    /// Whether [`Reading::finish`] has work to do that takes a while.
    pub fn is_coded(&self) -> bool {
        !self.codings.is_empty()
    }

    /// What it is as long as nobody has decoded it.
    pub fn unread(&self, end: End) -> Body {
        let decoded = Decoded::Partly;
        let bytes = self.bytes;
        Body { bytes, end, decoded, is_wrong: false, is_sound: false, is_full: false, digest: None, is_image: false }
    }

    /// The same, with a record of its own.
    pub fn into_owned(self) -> Reading<'static> {
        let Self { comparison, until, codings, is_success, can_decode, held, bytes } = self;
        let Comparison { record, begin, at, chunk, whole, is_wrong, is_sound } = comparison;
        let record = Cow::Owned(record.into_owned());
        let comparison = Comparison { record, begin, at, chunk, whole, is_wrong, is_sound };
        Reading { comparison, until, codings, is_success, can_decode, held, bytes }
    }

    /// What it was.
    pub fn finish(mut self, end: End) -> Body {
        let mut start: Vec<u8> = Vec::new();
        let mut decoded = Decoded::Uncoded;
        if !self.is_success {
            decode(&self.codings, &self.held, SIGNATURE_BYTES, |piece| start.extend_from_slice(piece));
        } else if !self.codings.is_empty() {
            let limit = self.comparison.record.size.min(MAX_AUDIT_BYTES) + 1;
            let take = |piece: &[u8]| self.comparison.take(piece);
            let is_all = self.can_decode && decode(&self.codings, &self.held, limit, take);
            decoded = if is_all { Decoded::Whole } else { Decoded::Partly };
            self.until = self.comparison.record.size;
        }
        let Comparison { at, begin, whole, is_wrong, is_sound, record, .. } = self.comparison;
        let digest = (begin == 0).then(|| Sha256(whole.finalize().into()));
        Body {
            bytes: self.bytes,
            end,
            decoded,
            // If one digest contradicts the other, own memory is at fault.
            is_wrong: is_wrong && digest != Some(record.sha256),
            is_sound,
            is_full: at >= self.until,
            digest,
            is_image: begins_as_image(&start),
        }
    }

    fn most_held(&self) -> u64 {
        if self.is_success { MAX_CODED_BYTES } else { ERROR_BYTES }
    }
}

struct Comparison<'a> {
    record: Cow<'a, ObjectRecord>,
    begin: u64,
    at: u64,
    /// What came of the chunk that is coming.
    chunk: Vec<u8>,
    whole: sha2::Sha256,
    is_wrong: bool,
    is_sound: bool,
}

impl<'a> Comparison<'a> {
    fn new(record: Cow<'a, ObjectRecord>, begin: u64) -> Self {
        let whole = sha2::Sha256::new();
        Self { record, begin, at: begin, chunk: Vec::new(), whole, is_wrong: false, is_sound: false }
    }

    fn take(&mut self, mut bytes: &[u8]) {
        if self.begin == 0 {
            self.whole.update(bytes);
        }
        let size = self.record.size;
        while !bytes.is_empty() {
            if self.at >= size {
                self.is_wrong = true;
                self.at += bytes.len() as u64;
                return;
            }
            let first = self.at / CHUNK_BYTES * CHUNK_BYTES;
            let end = (first + CHUNK_BYTES).min(size);
            let room = usize::try_from(end - self.at).unwrap_or(usize::MAX);
            let (piece, rest) = bytes.split_at(bytes.len().min(room));
            // Of a chunk that began before, there is nothing to compare with.
            let is_comparable = self.begin <= first;
            if is_comparable {
                self.chunk.extend_from_slice(piece);
            }
            self.at += piece.len() as u64;
            bytes = rest;
            if self.at == end && is_comparable {
                self.compare(first / CHUNK_BYTES);
            }
        }
    }

    fn compare(&mut self, number: u64) {
        let known = usize::try_from(number).ok().and_then(|number| self.record.chunks.get(number));
        let is_right = || known == Some(&Sha256(sha2::Sha256::digest(&self.chunk).into()));
        // Once more, since own memory can be at fault, too.
        if is_right() || is_right() {
            self.is_sound = true;
        } else {
            self.is_wrong = true;
        }
        self.chunk.clear();
    }
}

/// Whether browsers take it for an image, whatever its content type says.
fn begins_as_image(start: &[u8]) -> bool {
    const BEGINNINGS: [&[u8]; 6] =
        [b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a", b"\xff\xd8\xff", b"\0\0\x01\0", b"\0\0\x02\0"];
    let has = |at: usize, wanted: &[u8]| start.get(at..).is_some_and(|rest| rest.starts_with(wanted));
    BEGINNINGS.iter().any(|beginning| has(0, beginning))
        || (has(0, b"RIFF") && has(8, b"WEBP"))
        || has(4, b"ftyp")
        // Two letters are text as well; the length of the header that follows is not.
        || (has(0, b"BM") && has(15, &[0; 3]))
}
