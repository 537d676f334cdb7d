//! How long the machine kept this process waiting, so that a story can tell a slow machine from a slow product.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

/// What the ticker sleeps.
const TICK: Duration = Duration::from_millis(10);
/// What it may be late without that being a stall: timers are no finer, and a little is everyday. Only what exceeds it is taken off, so that
/// timers that are always late by this or less stretch nothing.
const USUAL: Duration = Duration::from_millis(10);

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
        worked(&self.noted.lock().expect("no holder panics"), from, to)
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

fn worked(noted: &[Stall], from: Instant, to: Instant) -> Duration {
    let stalled = noted.iter().map(|stall| stall.to.min(to).saturating_duration_since(stall.from.max(from))).sum();
    to.saturating_duration_since(from).saturating_sub(stalled)
}

async fn tick(noted: Arc<Mutex<Vec<Stall>>>) {
    loop {
        let due = Instant::now() + TICK;
        sleep(TICK).await;
        noted.lock().expect("no holder panics").extend(stall(due, Instant::now()));
    }
}

/// The stall in a tick that was due then and came now, if it was one.
fn stall(due: Instant, now: Instant) -> Option<Stall> {
    let from = due + USUAL;
    (now > from).then_some(Stall { from, to: now })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two seconds of a machine whose timers are always so late.
    fn worked_with_timers_late_by(late: Duration) -> Duration {
        let start = Instant::now();
        let mut now = start;
        let mut noted = Vec::new();
        while now - start < Duration::from_secs(2) {
            let due = now + TICK;
            now = due + late;
            noted.extend(stall(due, now));
        }
        worked(&noted, start, now)
    }

    #[test]
    fn timers_that_are_always_late_do_not_stretch_time_without_end() {
        assert!(worked_with_timers_late_by(USUAL) >= Duration::from_secs(2));
        assert!(worked_with_timers_late_by(2 * USUAL) >= Duration::from_secs(1));
        assert!(worked_with_timers_late_by(6 * USUAL) >= Duration::from_millis(500));
    }

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
