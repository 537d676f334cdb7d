//! Where the table keeps its entries.

/// Items per block: few enough blocks for a processor to have all their addresses at hand.
const BLOCK: usize = 1024;

/// A list in blocks of one size, so that growing neither moves items nor leaves gaps of other sizes behind: at a million objects that
/// saves a quarter of a table's memory over a vector that regrows.
#[derive(Debug)]
pub(super) struct Blocks<T> {
    /// All full but the last one, none empty.
    blocks: Vec<Vec<T>>,
}

impl<T> Default for Blocks<T> {
    fn default() -> Self {
        Self { blocks: Vec::new() }
    }
}

impl<T> Blocks<T> {
    pub(super) fn len(&self) -> usize {
        self.blocks.last().map_or(0, |last| (self.blocks.len() - 1) * BLOCK + last.len())
    }

    pub(super) fn get(&self, at: usize) -> Option<&T> {
        self.blocks.get(at / BLOCK)?.get(at % BLOCK)
    }

    pub(super) fn get_mut(&mut self, at: usize) -> Option<&mut T> {
        self.blocks.get_mut(at / BLOCK)?.get_mut(at % BLOCK)
    }

    pub(super) fn push(&mut self, item: T) {
        match self.blocks.last_mut() {
            Some(last) if last.len() < BLOCK => last.push(item),
            _ => {
                let mut block = Vec::with_capacity(BLOCK);
                block.push(item);
                self.blocks.push(block);
            }
        }
    }

    pub(super) fn swap_remove(&mut self, at: usize) {
        let Some(last) = self.blocks.last_mut().and_then(Vec::pop) else { return };
        if let Some(slot) = self.get_mut(at) {
            *slot = last;
        }
        self.blocks.pop_if(|block| block.is_empty());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn blocks_agree_with_a_plain_list(steps in prop::collection::vec(any::<Option<prop::sample::Index>>(), 0..3000)) {
            let (mut blocks, mut plain) = (Blocks::default(), Vec::new());
            for (n, step) in steps.into_iter().enumerate() {
                match step.filter(|_| !plain.is_empty() && n % 3 == 0) {
                    Some(at) => {
                        let at = at.index(plain.len());
                        plain.swap_remove(at);
                        blocks.swap_remove(at);
                    }
                    None => {
                        plain.push(n);
                        blocks.push(n);
                    }
                }
                prop_assert_eq!(blocks.len(), plain.len());
            }
            prop_assert!((0..plain.len() + 9).all(|at| blocks.get(at) == plain.get(at)));
        }
    }
}
