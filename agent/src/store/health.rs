//! Whether the store has just failed to write: then it is no use to accept what is offered.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::error::StoreError;

/// The last failure to write.
#[derive(Default)]
pub(super) struct Health(Mutex<Option<(Instant, String)>>);

/// After this time another write shows whether the trouble is over; until then everything is declined.
const PAUSE: Duration = Duration::from_secs(2);

impl Health {
    pub(super) fn failed(&self, error: &StoreError) {
        let mut last = self.last();
        if last.is_none() {
            tracing::error!(%error, "the store takes no more replicas for the time being");
        }
        *last = Some((Instant::now(), error.to_string()));
    }

    pub(super) fn wrote(&self) {
        if self.last().take().is_some() {
            tracing::info!("the store takes replicas again");
        }
    }

    /// What is wrong, until a write has gone well.
    pub(super) fn trouble(&self) -> Option<String> {
        self.last().as_ref().map(|(_, error)| error.clone())
    }

    pub(super) fn is_pausing(&self) -> bool {
        self.last().as_ref().is_some_and(|(since, _)| since.elapsed() < PAUSE)
    }

    fn last(&self) -> MutexGuard<'_, Option<(Instant, String)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
