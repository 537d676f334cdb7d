//! Asks hosts, as a client would, for something that they hold: whoever does not answer gets no more redirects.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, Method, StatusCode};
use p2pcdn_core::lookup::REPLICA_PREFIX;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::holders::{Copy, Due, Holders};
use crate::clock::{monotonic_ms, now_s};
use crate::identity::introduction::proves_replica_name;
use crate::identity::once_per::OncePerMinute;
use crate::identity::{Connector, Membership};
use crate::publish::Board;

/// Probes the holders of this site's objects.
pub struct Prober {
    /// Whose objects.
    pub origin: String,
    /// Where verdicts go.
    pub holders: Arc<Holders>,
    /// Who holds what.
    pub board: Arc<Board>,
    /// The peers' keys.
    pub membership: Arc<Membership>,
    /// The way out.
    pub connector: Arc<Connector>,
    /// Keeps one line a minute of what goes wrong in every second.
    pub log: OncePerMinute,
}

/// How often it is looked up who is due.
const TICK: Duration = Duration::from_millis(50);
/// A host that takes longer would make visitors wait: together with the period it bounds how long a dead host stays in the table.
const TIMEOUT: Duration = Duration::from_millis(700);
/// Probes at the same time.
const MAX_PROBES: usize = 64;

impl Prober {
    /// Probes whoever is due until cancelled.
    pub async fn run(self: Arc<Self>, cancel: CancellationToken) {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut probes = JoinSet::new();
        loop {
            tokio::select! {
                () = cancel.cancelled() => return,
                _ = tick.tick() => {}
            }
            while probes.try_join_next().is_some() {}
            // A host that dies closes its connections: that is heard of long before the next probe is due.
            self.holders.hurry(|replica_name| self.connector.lost_connection(replica_name));
            // Who does not fit in now is due at the next tick.
            for due in self.holders.due(monotonic_ms(), MAX_PROBES.saturating_sub(probes.len())) {
                let prober = self.clone();
                probes.spawn(async move { prober.probe(due).await });
            }
        }
    }

    async fn probe(&self, due: Due) {
        let Due { domain, is_unnamed, replica_name, suspect } = due;
        if is_unnamed && !self.proves_name(&domain, &replica_name).await {
            return self.holders.probed(&domain, false, monotonic_ms());
        }
        let any = || self.board.sample(&domain);
        // Who holds nothing gets no redirects either.
        let Some(Copy { path, sha256 }) = suspect.or_else(any) else { return self.holders.holds_nothing(&domain) };
        let url = format!("{REPLICA_PREFIX}{}/{sha256}{path}", self.origin);
        let answer = self.connector.request_web(Method::HEAD, &replica_name, &url, HeaderMap::new(), 0, TIMEOUT).await;
        match answer.map(|answer| answer.status) {
            Ok(StatusCode::OK) => self.holders.probed(&domain, true, monotonic_ms()),
            // The host is there but sends this object's clients back: that copy is gone.
            Ok(StatusCode::FOUND | StatusCode::NOT_FOUND) => {
                tracing::info!(peer = %domain, %path, "host no longer has a replica");
                self.board.set_holder(&path, &sha256, &domain, false);
                self.holders.probed(&domain, true, monotonic_ms());
            }
            Ok(status) => {
                tracing::debug!(peer = %domain, %status, "probe");
                self.holders.probed(&domain, false, monotonic_ms());
            }
            Err(error) => {
                tracing::debug!(peer = %domain, %error, "probe");
                self.holders.probed(&domain, false, monotonic_ms());
            }
        }
    }

    /// Whether the name at which the holder claims to serve replicas shows its key.
    async fn proves_name(&self, domain: &str, replica_name: &str) -> bool {
        let Some(peer) = self.membership.by_domain(domain).filter(|peer| peer.record.replica_name == replica_name)
        else {
            return false;
        };
        match proves_replica_name(&self.connector, &peer.record, TIMEOUT, now_s()).await {
            Ok(true) => {
                self.holders.named(domain, replica_name);
                return true;
            }
            Ok(false) => {
                if let Some(suppressed) = self.log.due("replica name") {
                    tracing::warn!(peer = %domain, %replica_name, suppressed, "the name for its replicas belongs to another site: no redirects");
                }
            }
            Err(error) => tracing::debug!(peer = %domain, %replica_name, %error, "whose replica name it is"),
        }
        false
    }
}
