//! What a site has to serve: objects of different sizes, some of which are asked for far more often than others.

use fastrand::Rng;

/// Exponent of the Zipf law that popularity follows, as measured for web content (Breslau et al. 1999 found 0.64 to 0.83 at proxies).
const ZIPF: f64 = 0.8;
/// Median size in bytes, and standard deviation of its logarithm: pictures mostly, and a few long downloads.
const MEDIAN_BYTES: f64 = 60_000.0;
const LOG_DEVIATION: f64 = 1.2;
/// Smaller objects are not worth a redirect.
const MIN_BYTES: f64 = 8192.0;
const MAX_BYTES: f64 = 256.0 * 1024.0 * 1024.0;

/// The objects of every site; their number is their rank.
pub(super) struct Objects {
    pub(super) sizes: Vec<u64>,
    /// How often each is asked for, relative to the others.
    pub(super) popularity: Vec<f64>,
    pub(super) paths: Vec<String>,
    /// Sums of the popularity, divided by the last one.
    below: Vec<f64>,
}

impl Objects {
    pub(super) fn new(count: u32, rng: &mut Rng) -> Self {
        let sizes = (0..count).map(|_| {
            let bytes = (MEDIAN_BYTES.ln() + LOG_DEVIATION * normal(rng)).exp();
            bytes.clamp(MIN_BYTES, MAX_BYTES) as u64
        });
        let sizes = sizes.collect();
        let popularity: Vec<f64> = (1..=count).map(|rank| f64::from(rank).powf(-ZIPF)).collect();
        let total: f64 = popularity.iter().sum();
        let mut sum = 0.0;
        let below = popularity.iter().map(|share| {
            sum += share / total;
            sum
        });
        let below = below.collect();
        let paths = (0..count).map(|number| format!("/{number}.jpg")).collect();
        Self { sizes, popularity, paths, below }
    }

    /// The object that a visitor asks for.
    pub(super) fn draw(&self, rng: &mut Rng) -> usize {
        let draw = rng.f64();
        self.below.partition_point(|below| *below <= draw).min(self.sizes.len() - 1)
    }
}

/// A draw from the standard normal distribution, by the method of Box and Muller.
fn normal(rng: &mut Rng) -> f64 {
    (-2.0 * (1.0 - rng.f64()).ln()).sqrt() * (std::f64::consts::TAU * rng.f64()).cos()
}
