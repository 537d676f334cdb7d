//! How sure a rate is.

/// So many of so many; both may have faded to fractions.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rate {
    pub(super) bad: f64,
    pub(super) of: f64,
}

impl Rate {
    /// What the true rate exceeds: the lower end of Wilson's score interval with so many standard deviations.
    pub(super) fn at_least(self, deviations: f64) -> f64 {
        let (middle, half) = self.wilson(deviations);
        middle - half
    }

    /// What exceeds the true rate.
    pub(super) fn at_most(self, deviations: f64) -> f64 {
        let (middle, half) = self.wilson(deviations);
        middle + half
    }

    fn wilson(self, deviations: f64) -> (f64, f64) {
        if self.of <= 0.0 {
            return (0.5, 0.5);
        }
        let of = self.of;
        let (share, square) = ((self.bad / of).clamp(0.0, 1.0), deviations * deviations);
        let whole = 1.0 + square / of;
        let spread = (share * (1.0 - share) / of + square / (4.0 * of * of)).sqrt();
        ((share + square / (2.0 * of)) / whole, deviations / whole * spread)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near(a: f64, b: f64) -> bool {
        (a - b).abs() < 0.001
    }

    #[test]
    fn the_interval_is_wilsons() {
        // With 1.96 deviations, as textbooks have it.
        let rate = Rate { bad: 10.0, of: 100.0 };
        assert!(near(rate.at_least(1.96), 0.0552), "{}", rate.at_least(1.96));
        assert!(near(rate.at_most(1.96), 0.1744), "{}", rate.at_most(1.96));
        let all = Rate { bad: 3.0, of: 3.0 };
        assert!(near(all.at_least(4.0), 3.0 / 19.0) && near(all.at_most(4.0), 1.0));
    }

    #[test]
    fn nothing_is_known_of_nothing() {
        let none = Rate { bad: 0.0, of: 0.0 };
        assert!(near(none.at_least(4.0), 0.0) && near(none.at_most(4.0), 1.0));
    }
}
