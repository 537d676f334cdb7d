//! What operators watch; resolved once, when the filter is configured.

use p2pcdn_core::eligibility::Refusal;

use crate::host::{Host, MetricId, MetricKind};

/// Numbers of the filter's metrics in the proxy. Envoy shows them below `wasmcustom.`.
#[derive(Debug, Clone)]
pub struct Metrics {
    /// `p2pcdn.requests`: requests that reached the filter.
    pub requests: MetricId,
    /// `p2pcdn.eligible`: requests that could have been redirected, for a fresh object in the table.
    pub eligible: MetricId,
    /// `p2pcdn.redirected`: requests that were.
    pub redirected: MetricId,
    /// `p2pcdn.would_redirect`: requests that would have been, in mode `observe`.
    pub would_redirect: MetricId,
    /// `p2pcdn.returned`: requests for a return URL of an object in the table.
    pub returned: MetricId,
    /// `p2pcdn.excluded`: requests below an excluded prefix.
    pub excluded: MetricId,
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
    /// `p2pcdn.heartbeat_s`: when any VM last heard from the agent, in seconds since the Unix epoch.
    pub heartbeat_s: MetricId,
    refused: [MetricId; Refusal::ALL.len()],
}

impl Metrics {
    /// Defines them all in the proxy.
    pub fn define<H: Host>(host: &H) -> Self {
        let counter = |name: &str| host.define(MetricKind::Counter, name);
        let gauge = |name: &str| host.define(MetricKind::Gauge, name);
        Self {
            requests: counter("p2pcdn.requests"),
            eligible: counter("p2pcdn.eligible"),
            redirected: counter("p2pcdn.redirected"),
            would_redirect: counter("p2pcdn.would_redirect"),
            returned: counter("p2pcdn.returned"),
            excluded: counter("p2pcdn.excluded"),
            sync_failures: counter("p2pcdn.sync_failures"),
            in_flight: gauge("p2pcdn.in_flight"),
            fraction_ppm: gauge("p2pcdn.fraction_ppm"),
            killed: gauge("p2pcdn.killed"),
            table_version: gauge("p2pcdn.table_version"),
            table_objects: gauge("p2pcdn.table_objects"),
            heartbeat_s: gauge("p2pcdn.heartbeat_s"),
            refused: Refusal::ALL.map(|refusal| counter(&format!("p2pcdn.refused.{}", refusal.name()))),
        }
    }

    /// `p2pcdn.refused.<name>`: requests that stayed for this reason.
    pub fn refused(&self, refusal: Refusal) -> MetricId {
        self.refused.get(refusal as usize).copied().flatten()
    }
}
