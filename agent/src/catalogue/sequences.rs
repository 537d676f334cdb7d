//! Numbers for the records of own objects.

use crate::clock::now_s;
use crate::identity::sequence::STEP;
use crate::identity::{Counter, CounterError};

/// Record numbers are drawn from the durable counter in blocks, since a commit to disk for each would make a first scan slow.
pub(super) struct Sequences {
    counter: Counter,
    next: u64,
    left: u64,
}

/// As many as there are in a second, so that a crash costs no more than that.
const SEQUENCES_PER_BLOCK: u64 = (1 << 20) / STEP;
impl Sequences {
    pub(super) fn new(counter: Counter) -> Self {
        Self { counter, next: 0, left: 0 }
    }

    pub(super) fn next(&mut self) -> Result<u64, CounterError> {
        if self.left == 0 {
            self.next = self.counter.reserve(now_s(), SEQUENCES_PER_BLOCK)?;
            self.left = SEQUENCES_PER_BLOCK;
        }
        let sequence = self.next;
        self.next += STEP;
        self.left -= 1;
        Ok(sequence)
    }
}
