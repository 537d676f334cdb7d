//! What operators watch; resolved once, when the filter is configured, and brought up to date on every tick.

use p2pcdn_core::eligibility::Refusal;
use p2pcdn_core::gate::tally::Counted;

use crate::host::{Host, MetricId, MetricKind};

/// Numbers of the filter's metrics in the proxy. Envoy shows them below `wasmcustom.`.
#[derive(Debug, Clone)]
pub struct Metrics {
    /// `p2pcdn.sync_failures`: exchanges with the agent that came to nothing.
    pub sync_failures: MetricId,
    /// `p2pcdn.in_flight`: requests in flight in all VMs, as of the last tick.
    pub in_flight: MetricId,
    /// `p2pcdn.fraction_ppm`: share of eligible requests to redirect, in millionths.
    pub fraction_ppm: MetricId,
    /// `p2pcdn.killed`: 1 while the operator has switched redirects off.
    pub killed: MetricId,
    /// `p2pcdn.table_version`: the last change of the table that a VM applied.
    pub table_version: MetricId,
    /// `p2pcdn.table_objects`: objects in the table of the VM that was updated last.
    pub table_objects: MetricId,
    /// `p2pcdn.table_refused`: objects that this table had no room for since it was last loaded; see `max_objects`.
    pub table_refused: MetricId,
    /// `p2pcdn.heartbeat_s`: when any VM last heard from the agent, in seconds since the Unix epoch.
    pub heartbeat_s: MetricId,
    requests: MetricId,
    eligible: MetricId,
    redirected: MetricId,
    would_redirect: MetricId,
    returned: MetricId,
    origin_failures: MetricId,
    rescued: MetricId,
    refused: [MetricId; Refusal::ALL.len()],
}

impl Metrics {
    /// Defines them all in the proxy.
    pub fn define<H: Host>(host: &H) -> Self {
        let counter = |name: &str| host.define(MetricKind::Counter, name);
        let gauge = |name: &str| host.define(MetricKind::Gauge, name);
        Self {
            sync_failures: counter("p2pcdn.sync_failures"),
            in_flight: gauge("p2pcdn.in_flight"),
            fraction_ppm: gauge("p2pcdn.fraction_ppm"),
            killed: gauge("p2pcdn.killed"),
            table_version: gauge("p2pcdn.table_version"),
            table_objects: gauge("p2pcdn.table_objects"),
            table_refused: gauge("p2pcdn.table_refused"),
            heartbeat_s: gauge("p2pcdn.heartbeat_s"),
            requests: counter("p2pcdn.requests"),
            eligible: counter("p2pcdn.eligible"),
            redirected: counter("p2pcdn.redirected"),
            would_redirect: counter("p2pcdn.would_redirect"),
            returned: counter("p2pcdn.returned"),
            origin_failures: counter("p2pcdn.origin_failures"),
            rescued: counter("p2pcdn.rescued"),
            refused: Refusal::ALL.map(|refusal| counter(&format!("p2pcdn.refused.{}", refusal.name()))),
        }
    }

    /// Adds what was counted to the proxy's counters.
    pub fn show<H: Host>(&self, host: &H, counted: &Counted) {
        let counters = [
            (self.requests, counted.requests),
            (self.eligible, counted.eligible),
            (self.redirected, counted.redirected),
            (self.would_redirect, counted.would_redirect),
            (self.returned, counted.returned),
            (self.origin_failures, counted.origin_failures),
            (self.rescued, counted.rescued),
        ];
        for (metric, n) in counters.into_iter().filter(|(_, n)| *n > 0) {
            host.add(metric, n);
        }
        for refused in counted.refused.counts() {
            let metric = self.refused.get(refused.reason as usize).copied().flatten();
            host.add(metric, u32::try_from(refused.requests).unwrap_or(u32::MAX));
        }
    }
}
