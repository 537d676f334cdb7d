//! Which object an audit asks for, and how much of it.

use p2pcdn_core::object::{CHUNK_BYTES, Class};

/// Where the object comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pick {
    /// The popular object at this place.
    Popular(usize),
    /// Any object that the holder has, each alike.
    Any,
}

/// Chooses among the popular objects by how often each is asked for, and at `uniform_share` of all times among all alike, so that no
/// holder can spare its room by dropping what nobody asks for. Both draws are uniform in 0..1.
pub fn pick(popularity: &[f64], uniform_share: f64, which: f64, place: f64) -> Pick {
    let total: f64 = popularity.iter().filter(|weight| weight.is_finite()).sum();
    if which < uniform_share || total <= 0.0 {
        return Pick::Any;
    }
    let mut below = 0.0;
    for (at, weight) in popularity.iter().enumerate().filter(|(_, weight)| weight.is_finite()) {
        below += weight;
        if place * total < below {
            return Pick::Popular(at);
        }
    }
    Pick::Any
}

/// How much of an object an audit reads: what one visitor does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// First byte; where that is not 0, it is asked for by `Range: bytes=FROM-`.
    pub from: u64,
    /// Where the reader loses interest: at the end of a chunk or of the object.
    pub until: u64,
}

/// Longest object of which every audit reads all.
pub const MAX_WHOLE_BYTES: u64 = 8 * CHUNK_BYTES;
/// Most that one audit reads, in bytes: eight times as much, 16 MiB, so that four at once cost no more than what audits may overdraw and
/// a host that keeps its lease is done within its patience. Of longer objects, audits without a range see the first 16 MiB, and those of
/// visitors who seek or resume see any later part; a host of something longer that lies only further in is met by the latter alone.
pub const MAX_AUDIT_BYTES: u64 = 8 * MAX_WHOLE_BYTES;
/// About as much as an audit reads that a client's hint has led to, in bytes: two chunks, since clients can make up any number of hints.
pub const HINTED_BYTES: u64 = 2 * CHUNK_BYTES;
/// Share of audits that read as far as any may. The depth of the others is log-uniform: visitors leave early, and so a lie early on costs
/// little to find.
const PATIENT: f64 = 0.25;
/// Share of audits that begin inside of an object: of what players play, where viewers seek,
const SEEKING: f64 = 0.5;
/// and of anything else only where it is too long to be read from its beginning, as if somebody resumed.
const RESUMING: f64 = 0.25;

/// Chooses an extent for an object of this class and size; draws are uniform in 0..1.
pub fn extent(class: Class, size: u64, mut draw: impl FnMut() -> f64) -> Extent {
    if size <= MAX_WHOLE_BYTES {
        return Extent { from: 0, until: size };
    }
    let inside = match class {
        Class::Media => SEEKING,
        _ if size > MAX_AUDIT_BYTES => RESUMING,
        _ => 0.0,
    };
    let anywhere = if draw() < inside { ((draw() * size as f64) as u64).min(size - 1) } else { 0 };
    // A whole chunk has to follow, be it the last one.
    let from = anywhere.min((size - 1) / CHUNK_BYTES * CHUNK_BYTES);
    let first = from.next_multiple_of(CHUNK_BYTES);
    let chunks = (size - first).div_ceil(CHUNK_BYTES).min(MAX_AUDIT_BYTES / CHUNK_BYTES);
    let depth = if draw() < PATIENT { chunks } else { (((chunks + 1) as f64).powf(draw()) as u64).clamp(1, chunks) };
    Extent { from, until: (first + depth * CHUNK_BYTES).min(size) }
}

impl Extent {
    /// As much of it as an audit reads that a client's hint has led to: whole chunks of [`HINTED_BYTES`] in all, and what comes before them.
    pub fn hinted(self) -> Self {
        let first = self.from.next_multiple_of(CHUNK_BYTES);
        Self { until: self.until.min(first.saturating_add(HINTED_BYTES)), ..self }
    }

    /// Bytes that the audit takes.
    pub fn bytes(self) -> u64 {
        self.until.saturating_sub(self.from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn popular_objects_are_chosen_in_proportion_and_others_now_and_then() {
        let popularity = [3.0, 0.0, 1.0];
        assert_eq!(pick(&popularity, 0.1, 0.05, 0.0), Pick::Any);
        assert_eq!(pick(&popularity, 0.1, 0.5, 0.74), Pick::Popular(0));
        assert_eq!(pick(&popularity, 0.1, 0.5, 0.76), Pick::Popular(2));
        assert_eq!(pick(&[], 0.1, 0.5, 0.5), Pick::Any);
        assert_eq!(pick(&[f64::NAN, 0.0], 0.1, 0.5, 0.5), Pick::Any);
    }

    proptest! {
        #[test]
        fn a_reader_sees_a_whole_chunk_and_no_more_than_one_audit_may(
            class in 0..6usize, size in 1..1u64 << 34, draws in prop::array::uniform4(0.0..1.0)
        ) {
            let (class, mut next) = (Class::ALL[class], draws.iter().copied());
            let extent = extent(class, size, || next.next().unwrap());
            prop_assert!(extent.from < extent.until && extent.until <= size);
            let first = extent.from.next_multiple_of(CHUNK_BYTES);
            prop_assert!(first < extent.until && (extent.until == size || extent.until.is_multiple_of(CHUNK_BYTES)));
            prop_assert!(extent.bytes() < MAX_AUDIT_BYTES + CHUNK_BYTES);
            let hinted = extent.hinted();
            prop_assert!(hinted.from == extent.from && hinted.until <= extent.until && first < hinted.until);
            prop_assert!(hinted.bytes() < HINTED_BYTES + CHUNK_BYTES);
            prop_assert!(hinted.until == extent.until || hinted.until.is_multiple_of(CHUNK_BYTES));
            prop_assert!(size > MAX_WHOLE_BYTES || (extent.from, extent.until) == (0, size));
            prop_assert!(class == Class::Media || size > MAX_AUDIT_BYTES || extent.from == 0);
        }

        #[test]
        fn every_chunk_is_read_now_and_then(class in 0..6usize, chunks in 1..100u64, short in 0..CHUNK_BYTES, place in 0.0..1.0, seed: u64) {
            let (class, size) = (Class::ALL[class], chunks * CHUNK_BYTES - short);
            let chunk = (place * chunks as f64) as u64;
            let mut rng = fastrand::Rng::with_seed(seed);
            let reads = |extent: Extent| {
                extent.from <= chunk * CHUNK_BYTES && ((chunk + 1) * CHUNK_BYTES).min(size) <= extent.until
            };
            let read = (0..1000).filter(|_| reads(extent(class, size, || rng.f64()))).count();
            // A quarter of those from the beginning; beyond 16 MiB, of those that resume, wherever they begin.
            let is_near = chunk < MAX_AUDIT_BYTES / CHUNK_BYTES;
            let least = if class == Class::Media { 0.12 } else if size <= MAX_AUDIT_BYTES { 0.25 } else if is_near { 0.18 } else { 0.02 };
            prop_assert!(read as f64 > 1000.0 * least * 0.7, "{} of 1000", read);
        }
    }
}
