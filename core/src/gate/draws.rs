//! Draws for choices among equals: fast, and no secret.

use crate::decide::ONE_PPM;

/// SplitMix64 (Steele and others 2014).
#[derive(Debug)]
pub(super) struct Draws {
    state: u64,
}

impl Draws {
    /// The same seed gives the same draws.
    pub(super) fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// Uniform in `0..ONE_PPM`.
    pub(super) fn ppm(&mut self) -> u32 {
        // The upper half of the product is below `ONE_PPM`; its bias, 2^-44 of the range, is beyond notice.
        ((u128::from(self.next()) * u128::from(ONE_PPM)) >> 64) as u32
    }

    /// Any number but 0.
    pub(super) fn number(&mut self) -> u64 {
        self.next().max(1)
    }

    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_are_those_of_the_reference() {
        let mut draws = Draws::new(1_234_567);
        let expected = [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423];
        assert_eq!(expected.map(|_| draws.next()), expected);
    }

    #[test]
    fn millionths_are_uniform() {
        let mut draws = Draws::new(0);
        let mut tenths = [0u32; 10];
        (0..100_000).for_each(|_| tenths[draws.ppm() as usize / 100_000] += 1);
        assert!(tenths.iter().all(|n| (9_500..10_500).contains(n)), "{tenths:?}");
    }

    #[test]
    fn neighbouring_seeds_give_different_numbers() {
        let numbers: std::collections::HashSet<u64> = (0..1000).map(|seed| Draws::new(seed).number()).collect();
        assert_eq!(numbers.len(), 1000);
        assert!(!numbers.contains(&0));
    }
}
