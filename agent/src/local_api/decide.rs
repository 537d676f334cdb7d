//! The agent's own gate is kept current like that of any VM, and what nginx's log says counts like what a VM reports.

use std::sync::Arc;
use std::time::Duration;

use http::{Response, StatusCode};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::{LocalApi, refuse};
use crate::clock::{monotonic_ms, now_ms};
use crate::http_server::{Body, json};

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
            if let Some(report) = self.nginx_map.as_ref().and_then(|map| map.report(now_ms())) {
                self.update(&report);
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

    pub(super) async fn write_nginx_map(&self) -> Response<Body> {
        let Some(map) = &self.nginx_map else {
            return refuse("no_map", "this agent writes no map: set nginx.map".into());
        };
        let steering = self.load().steering(monotonic_ms());
        match map.write(steering).await {
            Ok(written) => json(StatusCode::OK, &written),
            Err(error) => refuse("not_taken", error.to_string()),
        }
    }
}
