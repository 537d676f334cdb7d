//! The agent's own gate is kept current like that of any VM.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::LocalApi;

/// Time between exchanges, which cost no way here.
const TICK: Duration = Duration::from_millis(100);

impl LocalApi {
    /// Tells the agent what its gate has seen, and the gate what has changed, until cancelled.
    pub async fn keep_gate_current(self: Arc<Self>, cancel: CancellationToken) {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = cancel.cancelled() => return,
                _ = tick.tick() => {}
            }
            while let Some(sent) = self.decider.report() {
                let update = self.update(&sent.report);
                if !self.decider.apply(sent, update) {
                    break;
                }
                // Requests come between the pages of a large table.
                tokio::task::yield_now().await;
            }
        }
    }
}
