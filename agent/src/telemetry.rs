//! Logs and metrics. Nothing here is about single visitors: counts only.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::sync::{Mutex, PoisonError};

use p2pcdn_core::eligibility::Refusal;
use p2pcdn_core::sync::Refused;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};
use tracing_subscriber::EnvFilter;

use crate::replicate::messages::Decline;
use crate::reputation::account::Verdict;

/// Starts logging to standard error, in colours if that is a terminal and `NO_COLOR` says nothing else; `RUST_LOG` chooses what, by
/// default `info`.
pub fn start_logging(json: bool) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let is_plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let in_colours = std::io::stderr().is_terminal() && !is_plain;
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(in_colours).with_writer(std::io::stderr);
    // A second start, as in tests, keeps the first one's settings.
    let _ = if json { logs.json().try_init() } else { logs.try_init() };
}

/// Every metric that the agent exports.
pub struct Metrics {
    registry: Mutex<Registry>,
    /// Messages of the filter that were answered.
    pub syncs: Counter,
    /// Messages of the filter that were malformed.
    pub sync_errors: Counter,
    /// Redirects by holder.
    pub redirects: Family<PeerLabel, Counter>,
    /// Bytes of the objects redirected, by holder.
    pub redirected_bytes: Family<PeerLabel, Counter>,
    /// Requests that stayed here, by reason.
    pub refused: Family<ReasonLabel, Counter>,
    /// Own objects that peers have declined.
    pub declined: Family<DeclineLabel, Counter>,
    /// Clients that came back from a holder.
    pub returned: Counter,
    /// Replicas served for others.
    pub served: Counter,
    /// Bytes of replicas served for others.
    pub served_bytes: Counter,
    /// Of these, by origin.
    pub served_bytes_by_origin: Family<PeerLabel, Counter>,
    /// Clients sent back to the origin.
    pub sent_back: Counter,
    /// Of these, because the origin's lease was used up.
    pub over_lease: Counter,
    /// Bytes of objects that peers have fetched from here, by peer.
    pub uploaded_bytes: Family<PeerLabel, Counter>,
    /// Audits by peer and verdict.
    pub audits: Family<AuditLabel, Counter>,
    /// Bytes of objects fetched from peers, by the peer that sent them.
    pub pulled_bytes: Family<PeerLabel, Counter>,
    /// Replicas taken in.
    pub pulled: Counter,
    /// What visitors' browsers reported, by what they found.
    pub evidence: Family<OutcomeLabel, Counter>,
    /// What did not count of what they sent, by reason.
    pub evidence_ignored: Family<ReasonLabel, Counter>,
    /// What followed from them.
    pub evidence_findings: Family<OutcomeLabel, Counter>,
    /// Exchanges of gossip that this site has begun, and that were finished.
    pub gossip_exchanges: Counter,
    /// Messages of gossip that were refused: too many, or malformed.
    pub gossip_refused: Counter,
    /// Records of gossip that were not taken in because they do not hold.
    pub gossip_unfit: Counter,
    /// Bytes of gossip sent and received, without what carries them.
    pub gossip_sent_bytes: Counter,
    /// See [`Metrics::gossip_sent_bytes`].
    pub gossip_received_bytes: Counter,
    gauges: Gauges,
}

/// A peer by its domain.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct PeerLabel {
    /// The domain.
    pub peer: String,
}

/// A reason by its name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ReasonLabel {
    /// See [`Refusal::name`].
    pub reason: String,
}

/// What came of something.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct OutcomeLabel {
    /// One of a few words.
    pub outcome: &'static str,
}

/// A peer and why it declines.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct DeclineLabel {
    /// The peer's domain.
    pub peer: String,
    /// See [`Decline::name`].
    pub reason: &'static str,
}

/// A peer and what an audit found.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct AuditLabel {
    /// The peer's domain.
    pub peer: String,
    /// See [`Verdict::name`].
    pub verdict: &'static str,
}

/// States that are read when somebody asks.
#[derive(Debug, Clone, Copy, Default)]
pub struct State {
    /// Own objects.
    pub own_objects: usize,
    /// Own objects with at least one holder.
    pub table_objects: usize,
    /// Replicas held for others.
    pub replicas: usize,
    /// Bytes of replicas held for others.
    pub replica_bytes: u64,
    /// Peers whose key is pinned.
    pub peers: usize,
    /// Share of eligible requests to redirect, in millionths.
    pub fraction_ppm: u32,
}

#[derive(Default)]
struct Gauges {
    own_objects: Gauge,
    table_objects: Gauge,
    replicas: Gauge,
    replica_bytes: Gauge,
    peers: Gauge,
    fraction_ppm: Gauge,
}

impl Default for Metrics {
    fn default() -> Self {
        let metrics = Self {
            registry: Mutex::default(),
            syncs: Counter::default(),
            sync_errors: Counter::default(),
            redirects: Family::default(),
            redirected_bytes: Family::default(),
            refused: Family::default(),
            declined: Family::default(),
            returned: Counter::default(),
            served: Counter::default(),
            served_bytes: Counter::default(),
            served_bytes_by_origin: Family::default(),
            sent_back: Counter::default(),
            over_lease: Counter::default(),
            uploaded_bytes: Family::default(),
            audits: Family::default(),
            pulled_bytes: Family::default(),
            pulled: Counter::default(),
            evidence: Family::default(),
            evidence_ignored: Family::default(),
            evidence_findings: Family::default(),
            gossip_exchanges: Counter::default(),
            gossip_refused: Counter::default(),
            gossip_unfit: Counter::default(),
            gossip_sent_bytes: Counter::default(),
            gossip_received_bytes: Counter::default(),
            gauges: Gauges::default(),
        };
        let mut registry = Registry::with_prefix("p2pcdn");
        registry.register("syncs", "Messages of the filter that were answered", metrics.syncs.clone());
        registry.register("sync_errors", "Messages of the filter that were malformed", metrics.sync_errors.clone());
        registry.register("redirects", "Redirects by holder", metrics.redirects.clone());
        let bytes = metrics.redirected_bytes.clone();
        registry.register_with_unit("redirected", "Bytes of redirected objects by holder", Unit::Bytes, bytes);
        registry.register("refused", "Requests that stayed here by reason", metrics.refused.clone());
        let declined = metrics.declined.clone();
        registry.register("declined", "Own objects that peers have declined by peer and reason", declined);
        registry.register("returned", "Clients that came back from a holder", metrics.returned.clone());
        registry.register("served", "Replicas served for others", metrics.served.clone());
        let bytes = metrics.served_bytes.clone();
        registry.register_with_unit("served_replicas", "Bytes of replicas served for others", Unit::Bytes, bytes);
        let bytes = metrics.served_bytes_by_origin.clone();
        registry.register_with_unit("served_for", "Bytes of replicas served, by origin", Unit::Bytes, bytes);
        registry.register("sent_back", "Clients sent back to the origin", metrics.sent_back.clone());
        registry.register("over_lease", "Clients sent back because a lease was used up", metrics.over_lease.clone());
        registry.register("audits", "Audits by peer and verdict", metrics.audits.clone());
        let bytes = metrics.uploaded_bytes.clone();
        registry.register_with_unit("uploaded", "Bytes of objects that peers fetched from here", Unit::Bytes, bytes);
        let bytes = metrics.pulled_bytes.clone();
        registry.register_with_unit("pulled", "Bytes of objects fetched from peers", Unit::Bytes, bytes);
        registry.register("pulled_replicas", "Replicas taken in", metrics.pulled.clone());
        let evidence = metrics.evidence.clone();
        registry.register("evidence", "Reports of visitors' browsers by what they found", evidence);
        let ignored = metrics.evidence_ignored.clone();
        registry.register("evidence_ignored", "Reports of visitors' browsers that did not count by reason", ignored);
        let findings = metrics.evidence_findings.clone();
        registry.register("evidence_findings", "What followed from reports of visitors' browsers", findings);
        registry.register("gossip_exchanges", "Exchanges of gossip begun here", metrics.gossip_exchanges.clone());
        registry.register("gossip_refused", "Messages of gossip that were refused", metrics.gossip_refused.clone());
        registry.register("gossip_unfit", "Records of gossip that do not hold", metrics.gossip_unfit.clone());
        let bytes = metrics.gossip_sent_bytes.clone();
        registry.register_with_unit("gossip_sent", "Bytes of gossip sent", Unit::Bytes, bytes);
        let bytes = metrics.gossip_received_bytes.clone();
        registry.register_with_unit("gossip_received", "Bytes of gossip received", Unit::Bytes, bytes);
        let gauges = &metrics.gauges;
        registry.register("own_objects", "Objects of this site", gauges.own_objects.clone());
        registry.register("table_objects", "Objects of this site with a holder", gauges.table_objects.clone());
        registry.register("replicas", "Replicas held for others", gauges.replicas.clone());
        let bytes = gauges.replica_bytes.clone();
        registry.register_with_unit("replica", "Bytes of replicas held for others", Unit::Bytes, bytes);
        registry.register("peers", "Peers whose key is pinned", gauges.peers.clone());
        registry.register("fraction_ppm", "Share of requests to redirect, in millionths", gauges.fraction_ppm.clone());
        Self { registry: Mutex::new(registry), ..metrics }
    }
}

impl PeerLabel {
    /// Of the peer with this domain.
    pub fn of(peer: &str) -> Self {
        Self { peer: peer.to_owned() }
    }
}

impl ReasonLabel {
    fn of(reason: Refusal) -> Self {
        Self { reason: reason.name().to_owned() }
    }
}

impl Metrics {
    /// Counts requests that stayed here.
    pub fn refused(&self, refused: &[Refused]) {
        // Each reason once: a report with more of them is not the filter's.
        for Refused { reason, requests } in refused.iter().take(Refusal::ALL.len()) {
            self.refused.get_or_create(&ReasonLabel::of(*reason)).inc_by(*requests);
        }
    }

    /// Requests that stayed here, by reason; only reasons that there were.
    pub fn refusals(&self) -> BTreeMap<String, u64> {
        let count =
            |reason: &Refusal| Some((reason.name().to_owned(), self.refused.get(&ReasonLabel::of(*reason))?.get()));
        Refusal::ALL.iter().filter_map(count).collect()
    }

    /// Counts an object that a peer has declined.
    pub fn declined(&self, peer: &str, reason: Decline) {
        let label = DeclineLabel { peer: peer.to_owned(), reason: reason.name() };
        self.declined.get_or_create(&label).inc();
    }

    /// Counts one audit.
    pub fn audited(&self, peer: &str, verdict: Verdict) {
        self.audits.get_or_create(&AuditLabel { peer: peer.to_owned(), verdict: verdict.name() }).inc();
    }

    /// Counts redirects to one peer.
    pub fn redirected(&self, peer: &str, requests: u32, bytes: u64) {
        let label = PeerLabel::of(peer);
        self.redirects.get_or_create(&label).inc_by(u64::from(requests));
        self.redirected_bytes.get_or_create(&label).inc_by(bytes);
    }

    /// Bytes of the objects redirected to one peer since the start.
    pub fn redirected_bytes_to(&self, peer: &str) -> u64 {
        self.redirected_bytes.get(&PeerLabel { peer: peer.to_owned() }).map_or(0, |bytes| bytes.get())
    }

    /// Counts bytes of replicas served for one origin.
    pub fn served_for(&self, origin: &str, bytes: u64) {
        self.served_bytes_by_origin.get_or_create(&PeerLabel { peer: origin.to_owned() }).inc_by(bytes);
    }

    /// Everything in the OpenMetrics text format.
    pub fn text(&self, state: &State) -> String {
        let set = |gauge: &Gauge, value: u64| {
            gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        };
        set(&self.gauges.own_objects, state.own_objects as u64);
        set(&self.gauges.table_objects, state.table_objects as u64);
        set(&self.gauges.replicas, state.replicas as u64);
        set(&self.gauges.replica_bytes, state.replica_bytes);
        set(&self.gauges.peers, state.peers as u64);
        set(&self.gauges.fraction_ppm, u64::from(state.fraction_ppm));
        let mut text = String::new();
        let registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        // Writing to a string does not fail.
        let _ = encode(&mut text, &registry);
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_show_counts_by_peer() {
        let metrics = Metrics::default();
        metrics.redirected("b.test", 3, 99);
        metrics.declined("b.test", Decline::OriginQuota);
        let text = metrics.text(&State { peers: 2, ..State::default() });
        assert!(text.contains("p2pcdn_redirects_total{peer=\"b.test\"} 3"), "{text}");
        assert!(text.contains("p2pcdn_redirected_bytes_total{peer=\"b.test\"} 99"), "{text}");
        assert!(text.contains("p2pcdn_peers 2"), "{text}");
        assert!(text.contains("p2pcdn_declined_total{peer=\"b.test\",reason=\"origin_quota\"} 1"), "{text}");
    }
}
