//! How long the machine kept this process waiting, so that a story can tell a slow machine from a slow product.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

/// What the ticker sleeps.
const TICK: Duration = Duration::from_millis(10);
/// What it may be late without that being a stall: timers are no finer, and a little is everyday.
const USUAL: Duration = Duration::from_millis(5);

/// Notes stalls until it is dropped: the times in which a task that had only slept could not run.
pub struct Stalls {
    noted: Arc<Mutex<Vec<Stall>>>,
    ticker: JoinHandle<()>,
}

#[derive(Debug, Clone, Copy)]
struct Stall {
    from: Instant,
    to: Instant,
}

impl Stalls {
    /// Watches from now on.
    pub fn watch() -> Self {
        let noted = Arc::<Mutex<Vec<_>>>::default();
        let ticker = tokio::spawn(tick(noted.clone()));
        Self { noted, ticker }
    }

    /// The time between the two without the stalls in it.
    pub fn worked(&self, from: Instant, to: Instant) -> Duration {
        let noted = self.noted.lock().expect("no holder panics");
        let stalled = noted.iter().map(|stall| stall.to.min(to).saturating_duration_since(stall.from.max(from))).sum();
        to.saturating_duration_since(from).saturating_sub(stalled)
    }

    /// Waits until the machine has worked for so long since `from`, and says when that was.
    pub async fn passed(&self, from: Instant, time: Duration) -> Instant {
        loop {
            let now = Instant::now();
            if self.worked(from, now) >= time {
                return now;
            }
            sleep(TICK).await;
        }
    }
}

impl Drop for Stalls {
    fn drop(&mut self) {
        self.ticker.abort();
    }
}

async fn tick(noted: Arc<Mutex<Vec<Stall>>>) {
    loop {
        let due = Instant::now() + TICK;
        sleep(TICK).await;
        let now = Instant::now();
        if now > due + USUAL {
            noted.lock().expect("no holder panics").push(Stall { from: due, to: now });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_stall_does_not_count_as_work_and_idle_time_does() {
        let stalls = Stalls::watch();
        let start = Instant::now();
        sleep(4 * TICK).await;
        std::thread::sleep(30 * TICK);
        sleep(TICK).await;
        let end = stalls.passed(start, 10 * TICK).await;
        assert!(end - start >= 38 * TICK, "{:?}", end - start);
        assert!(stalls.worked(start, end) >= 10 * TICK);
        // Other stalls than this one shorten it, too.
        assert!(stalls.worked(start, end) + 28 * TICK <= end - start);
        assert_eq!(stalls.worked(end, start), Duration::ZERO);
    }
}
