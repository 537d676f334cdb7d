//! Small objects travel together: what a batch of them looks like on its way.
//!
//! The answer to a [`BatchRequest`] is one frame for each digest, in the order asked for: four bytes, big-endian, that say how many bytes
//! follow, or [`MISSING`] if the source does not have the object.

use std::collections::VecDeque;

use bytes::{Buf, Bytes, BytesMut};
use p2pcdn_core::object::{CHUNK_BYTES, Sha256};
use serde::{Deserialize, Serialize};

/// POST: [`BatchRequest`] from a host to any peer that may have the objects, answered with frames.
pub const BATCHES_PATH: &str = "/v1/batches";

/// Largest object that travels in a batch, in bytes: one chunk.
pub const MAX_SMALL_BYTES: u64 = CHUNK_BYTES;
/// Bytes of objects in one batch.
pub const MAX_BATCH_BYTES: u64 = 4 << 20;
/// Stands where the length would: the source does not have the object.
pub const MISSING: u32 = u32::MAX;

const HEADER_BYTES: usize = 4;

/// Objects that a host would like to have in one answer.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct BatchRequest {
    /// Digests of objects of at most [`MAX_SMALL_BYTES`], at most [`super::messages::MAX_BATCH`].
    pub digests: Vec<Sha256>,
}

/// One frame as it was received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Item {
    /// The source does not have this one.
    Missing,
    /// As many bytes as were expected; whether they are the right ones is still to be seen.
    Bytes(Bytes),
}

/// Why an answer is not what was asked for; always the source's fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    /// A frame has another length than the object.
    #[error("{got} bytes of an object that has {want}")]
    Length {
        /// What the frame says.
        got: u32,
        /// What the record says.
        want: u64,
    },
    /// Bytes after the last frame.
    #[error("more bytes than were asked for")]
    TooLong,
    /// The answer ended early.
    #[error("the answer ended {0} objects early")]
    CutOff(usize),
}

/// What precedes the bytes of an object; `None` for one that is missing or no small one.
pub fn header(size: Option<u64>) -> Bytes {
    let size = size.filter(|size| *size <= MAX_SMALL_BYTES).and_then(|size| u32::try_from(size).ok());
    Bytes::copy_from_slice(&size.unwrap_or(MISSING).to_be_bytes())
}

/// Takes frames apart as they come in, and holds no more than one object at a time.
pub struct Decoder {
    sizes: VecDeque<u64>,
    /// Header of the present frame, or its bytes once `left` is known.
    buffer: BytesMut,
    is_body: bool,
}

impl Decoder {
    /// Expects frames of objects of these sizes.
    pub fn new(sizes: impl IntoIterator<Item = u64>) -> Self {
        Self { sizes: sizes.into_iter().collect(), buffer: BytesMut::new(), is_body: false }
    }

    /// Whether every object has come.
    pub fn is_complete(&self) -> bool {
        self.sizes.is_empty()
    }

    /// Takes from `bytes` until an object is complete; `None` when all of them are used up.
    pub fn next(&mut self, bytes: &mut Bytes) -> Result<Option<Item>, BatchError> {
        while !bytes.is_empty() {
            let Some(want) = self.sizes.front().copied() else { return Err(BatchError::TooLong) };
            if self.is_body {
                if let Some(whole) = self.fill(bytes, usize::try_from(want).unwrap_or(usize::MAX)) {
                    self.is_body = false;
                    self.sizes.pop_front();
                    return Ok(Some(Item::Bytes(whole)));
                }
            } else if let Some(mut header) = self.fill(bytes, HEADER_BYTES) {
                match header.get_u32() {
                    MISSING => {
                        self.sizes.pop_front();
                        return Ok(Some(Item::Missing));
                    }
                    got if u64::from(got) == want => self.is_body = true,
                    got => return Err(BatchError::Length { got, want }),
                }
            }
        }
        Ok(None)
    }

    /// The answer has ended.
    pub fn end(&self) -> Result<(), BatchError> {
        if self.is_complete() { Ok(()) } else { Err(BatchError::CutOff(self.sizes.len())) }
    }

    /// `want` bytes in one piece once they are there, without a copy if they came in one.
    fn fill(&mut self, bytes: &mut Bytes, want: usize) -> Option<Bytes> {
        if self.buffer.is_empty() && bytes.len() >= want {
            return Some(bytes.split_to(want));
        }
        let part = bytes.split_to(bytes.len().min(want - self.buffer.len()));
        self.buffer.extend_from_slice(&part);
        (self.buffer.len() == want).then(|| self.buffer.split().freeze())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn encode(objects: &[Option<Vec<u8>>]) -> Vec<u8> {
        let frame = |object: &Option<Vec<u8>>| {
            let size = object.as_ref().map(|bytes| bytes.len() as u64);
            [&header(size)[..], object.as_deref().unwrap_or_default()].concat()
        };
        objects.iter().flat_map(frame).collect()
    }

    fn decode(decoder: &mut Decoder, parts: &[&[u8]]) -> Result<Vec<Item>, BatchError> {
        let mut items = Vec::new();
        for part in parts {
            let mut part = Bytes::copy_from_slice(part);
            while let Some(item) = decoder.next(&mut part)? {
                items.push(item);
            }
        }
        decoder.end().map(|()| items)
    }

    #[test]
    fn what_was_not_asked_for_is_refused_before_it_is_kept() {
        let table: [(&[u64], &[u8], BatchError); 5] = [
            (&[5], &[0, 0, 0, 4], BatchError::Length { got: 4, want: 5 }),
            (&[5], &[0x7f, 0xff, 0xff, 0xff], BatchError::Length { got: 0x7fff_ffff, want: 5 }),
            (&[1], &[0, 0, 0, 1, 7, 0], BatchError::TooLong),
            (&[1, 1], &[0, 0, 0, 1, 7], BatchError::CutOff(1)),
            (&[3], &[0, 0, 0, 3, 7, 7], BatchError::CutOff(1)),
        ];
        for (sizes, bytes, expected) in table {
            let mut decoder = Decoder::new(sizes.iter().copied());
            assert_eq!(decode(&mut decoder, &[bytes]), Err(expected), "{bytes:?}");
            assert!(decoder.buffer.capacity() < 1024);
        }
    }

    #[test]
    fn an_object_of_more_than_one_chunk_is_never_announced() {
        assert_eq!(header(Some(MAX_SMALL_BYTES))[..], [0, 4, 0, 0]);
        assert_eq!(header(Some(MAX_SMALL_BYTES + 1))[..], header(None));
        assert_eq!(header(None)[..], MISSING.to_be_bytes());
    }

    proptest! {
        #[test]
        fn a_batch_comes_out_as_it_went_in_however_it_is_cut(
            objects in proptest::collection::vec(proptest::option::of(proptest::collection::vec(any::<u8>(), 1..50)), 0..8),
            cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..6),
        ) {
            let wire = encode(&objects);
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(wire.len() + 1)).collect();
            cuts.extend([0, wire.len()]);
            cuts.sort_unstable();
            let parts: Vec<&[u8]> = cuts.windows(2).map(|cut| &wire[cut[0]..cut[1]]).collect();
            let sizes = objects.iter().map(|object| object.as_ref().map_or(9, |bytes| bytes.len() as u64));
            let items = decode(&mut Decoder::new(sizes), &parts).unwrap();
            let expected = objects.into_iter().map(|object| object.map_or(Item::Missing, |b| Item::Bytes(b.into())));
            prop_assert_eq!(items, expected.collect::<Vec<_>>());
        }

        #[test]
        fn no_answer_is_buffered_beyond_one_object(sizes in proptest::collection::vec(0..100u64, 0..5), wire: Vec<u8>) {
            let most = sizes.iter().copied().max().unwrap_or(0) as usize;
            let mut decoder = Decoder::new(sizes);
            for byte in wire {
                let mut byte = Bytes::copy_from_slice(&[byte]);
                if decoder.next(&mut byte).is_err() {
                    break;
                }
                prop_assert!(decoder.buffer.len() <= most.max(HEADER_BYTES));
            }
        }
    }
}
