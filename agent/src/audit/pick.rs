//! Which object an audit asks for, and how much of it.

use p2pcdn_core::object::CHUNK_BYTES;

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

/// How an audit asks for an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// All of it.
    Whole,
    /// `Range: bytes=FROM-`, as players and resumed downloads ask; the reader stops once it has the chunk that follows.
    From {
        /// First byte.
        from: u64,
        /// The chunk that is compared.
        chunk: u64,
    },
}

/// Longest object that is asked for in whole; of longer ones, a range costs at most two chunks.
pub const MAX_WHOLE_BYTES: u64 = 8 * CHUNK_BYTES;

/// Chooses an extent; both draws are uniform in 0..1. A player begins at 0, somebody who seeks or resumes anywhere.
pub fn extent(size: u64, kind: f64, place: f64) -> Extent {
    if size <= MAX_WHOLE_BYTES {
        return Extent::Whole;
    }
    let from = if kind < 0.25 { 0 } else { ((place * size as f64) as u64).min(size - 1) };
    let chunk = from.div_ceil(CHUNK_BYTES);
    // Too near the end for a whole chunk to follow.
    let last = (size - 1) / CHUNK_BYTES;
    if chunk > last { Extent::From { from: last * CHUNK_BYTES, chunk: last } } else { Extent::From { from, chunk } }
}

impl Extent {
    /// Bytes that the audit takes of an object of `size` bytes.
    pub fn bytes(self, size: u64) -> u64 {
        match self {
            Self::Whole => size,
            Self::From { from, chunk } => ((chunk + 1) * CHUNK_BYTES).min(size).saturating_sub(from),
        }
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
        fn a_range_holds_the_chunk_that_is_compared_and_little_more(size in 1..1u64 << 40, kind in 0.0..1.0, place in 0.0..1.0) {
            let extent = extent(size, kind, place);
            let bytes = extent.bytes(size);
            match extent {
                Extent::Whole => prop_assert!(bytes == size && size <= MAX_WHOLE_BYTES),
                Extent::From { from, chunk } => {
                    let end = ((chunk + 1) * CHUNK_BYTES).min(size);
                    prop_assert!(from <= chunk * CHUNK_BYTES && chunk * CHUNK_BYTES < size && from + bytes == end);
                    prop_assert!(bytes > 0 && bytes < 2 * CHUNK_BYTES);
                }
            }
        }
    }
}
