//! How often paths are asked for, and how many bytes that is, with what is long past forgotten.

use std::collections::HashMap;

/// After so long without requests, half of the earlier ones count.
pub const HALF_LIFE_MS: f64 = 60_000.0;
/// Paths that are counted; beyond that, the half that is asked for less is forgotten.
pub const MAX_PATHS: usize = 16_384;

/// Requests and bytes by path, decaying.
#[derive(Debug)]
pub struct Demand {
    heat: HashMap<String, Heat>,
    half_life_ms: f64,
}

/// What is known of one path's requests.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Heat {
    /// Requests that still counted at `at_ms`.
    pub requests: f64,
    /// Bytes of their objects, likewise.
    pub bytes: f64,
    /// When it was last asked for, on the monotonic clock.
    pub at_ms: u64,
}

impl Heat {
    /// What still counts at a later time.
    pub fn at(self, now_ms: u64, half_life_ms: f64) -> Self {
        let kept = (-(now_ms.saturating_sub(self.at_ms) as f64) / half_life_ms).exp2();
        Self { requests: self.requests * kept, bytes: self.bytes * kept, at_ms: self.at_ms }
    }
}

impl Default for Demand {
    fn default() -> Self {
        Self::new(HALF_LIFE_MS)
    }
}

impl Demand {
    /// Nobody has asked for anything; `half_life_ms` as in [`HALF_LIFE_MS`].
    pub fn new(half_life_ms: f64) -> Self {
        Self { heat: HashMap::new(), half_life_ms }
    }

    /// See [`HALF_LIFE_MS`].
    pub fn half_life_ms(&self) -> f64 {
        self.half_life_ms
    }

    /// Counts requests for a path and the bytes of its object, 0 if that is not known.
    pub fn note(&mut self, path: &str, requests: u32, object_bytes: u64, now_ms: u64) {
        let requests = f64::from(requests);
        let bytes = requests * object_bytes as f64;
        if let Some(heat) = self.heat.get_mut(path) {
            let kept = heat.at(now_ms, self.half_life_ms);
            *heat = Heat { requests: kept.requests + requests, bytes: kept.bytes + bytes, at_ms: now_ms };
            return;
        }
        if self.heat.len() >= MAX_PATHS {
            self.forget_colder_half(now_ms);
        }
        self.heat.insert(path.to_owned(), Heat { requests, bytes, at_ms: now_ms });
    }

    /// Requests for a path that still count.
    pub fn of(&self, path: &str, now_ms: u64) -> f64 {
        self.heat.get(path).map_or(0.0, |heat| heat.at(now_ms, self.half_life_ms).requests)
    }

    /// What is known of every path that was asked for, as it was when it was last asked for.
    pub fn iter(&self) -> impl Iterator<Item = (&str, Heat)> {
        self.heat.iter().map(|(path, heat)| (path.as_str(), *heat))
    }

    /// The path that is asked for most among those that `is_wanted` lets through, if it is asked for at least so often.
    pub fn hottest(&self, least: f64, now_ms: u64, is_wanted: impl Fn(&str) -> bool) -> Option<&str> {
        let counted = self.heat.iter().map(|(path, heat)| (path, heat.at(now_ms, self.half_life_ms).requests));
        let wanted = counted.filter(|(path, requests)| *requests >= least && is_wanted(path));
        wanted.max_by(|(_, a), (_, b)| a.total_cmp(b)).map(|(path, _)| path.as_str())
    }

    /// Forgets a path.
    pub fn forget(&mut self, path: &str) {
        self.heat.remove(path);
    }

    fn forget_colder_half(&mut self, now_ms: u64) {
        let count = |heat: &Heat| heat.at(now_ms, self.half_life_ms).requests;
        let mut all: Vec<f64> = self.heat.values().map(count).collect();
        let middle = all.len() / 2;
        let (_, median, _) = all.select_nth_unstable_by(middle, f64::total_cmp);
        let median = *median;
        self.heat.retain(|_, heat| heat.at(now_ms, self.half_life_ms).requests > median);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn demand_halves_in_a_minute_and_adds_up() {
        let mut demand = Demand::default();
        demand.note("/a", 8, 10, 0);
        assert!((demand.of("/a", 60_000) - 4.0).abs() < 1e-9);
        demand.note("/a", 4, 10, 60_000);
        assert!((demand.of("/a", 120_000) - 4.0).abs() < 1e-9);
        assert!((demand.iter().next().unwrap().1.bytes - 80.0).abs() < 1e-9);
        assert_eq!(demand.of("/b", 0), 0.0);
        demand.forget("/a");
        assert_eq!(demand.of("/a", 0), 0.0);
    }

    #[test]
    fn the_hottest_path_is_one_that_is_wanted_and_hot_enough() {
        let mut demand = Demand::default();
        for (path, requests) in [("/a", 9), ("/b", 5), ("/c", 1)] {
            demand.note(path, requests, 0, 0);
        }
        assert_eq!(demand.hottest(2.0, 0, |_| true), Some("/a"));
        assert_eq!(demand.hottest(2.0, 0, |path| path != "/a"), Some("/b"));
        assert_eq!(demand.hottest(2.0, 0, |path| path == "/c"), None);
        assert_eq!(demand.hottest(2.0, 180_000, |_| true), None);
    }

    #[test]
    fn a_flood_of_paths_does_not_displace_what_is_hot() {
        let mut demand = Demand::default();
        demand.note("/hot", 100, 0, 0);
        for number in 0..10 * MAX_PATHS {
            demand.note(&format!("/{number}"), 1, 0, 0);
            assert!(demand.heat.len() <= MAX_PATHS);
        }
        assert_eq!(demand.of("/hot", 0), 100.0);
    }
}
