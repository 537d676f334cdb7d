//! Keeps audits going: who is due, what is asked, and where the verdicts go.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use p2pcdn_core::lookup::{REPLICA_PREFIX, RETURN_PREFIX};
use p2pcdn_core::peer::PEER_DOCUMENT_PATH;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::client::{AuditClient, Target};
use super::doubt::Doubt;
use super::guise::guise;
use super::pick::{Pick, extent, pick};
use super::verdict::{Expected, allowed_ms, verdict};
use super::watch::{Slot, Watch, lock};
use crate::catalogue::{Catalogue, OwnObject};
use crate::clock::{judging_now_ms, monotonic_ms, now_s};
use crate::evidence::Evidence;
use crate::evidence::judge::Finding;
use crate::identity::Connector;
use crate::publish::Board;
use crate::replicate::origin::holders::{Copy, Holder, Holders};
use crate::reputation::account::{Cause, Verdict};
use crate::reputation::book::Book;
use crate::reputation::{Audited, Need};
use crate::telemetry::Metrics;

/// Audits the holders of this site's objects.
pub struct Auditor {
    parts: Parts,
    client: AuditClient,
    domain: String,
    watch: Arc<Mutex<Watch>>,
    doubt: Mutex<Doubt>,
}

/// What an auditor works with.
pub struct Parts {
    /// The site's own objects.
    pub catalogue: Arc<Catalogue>,
    /// Who holds them.
    pub board: Arc<Board>,
    /// Leases, and the weights that verdicts change.
    pub holders: Arc<Holders>,
    /// Where verdicts go.
    pub book: Arc<Book>,
    /// The way out.
    pub connector: Arc<Connector>,
    /// What visitors' browsers report, which audits answer; none where the operator has not opted in.
    pub evidence: Option<Arc<Evidence>>,
    /// Counters.
    pub metrics: Arc<Metrics>,
}

/// How often it is looked up who is due.
const TICK: Duration = Duration::from_millis(200);
/// Audits at the same time.
const MAX_AUDITS: usize = 32;
/// Shortest body that says how fast a host is, in bytes.
const MEASURABLE_BYTES: u64 = 128 * 1024;
/// Choices that are made before any object will do.
const TRIES: usize = 8;
/// Peers that were well and are asked, beside the site's own name, before this site suspects itself.
const CONTROLS: usize = 3;
/// Longest wait for a control fetch.
const CONTROL_TIMEOUT: Duration = Duration::from_secs(5);

impl Auditor {
    /// An auditor for the site `domain`.
    pub fn new(domain: String, parts: Parts, client: AuditClient) -> Self {
        Self { parts, client, domain, watch: Arc::default(), doubt: Mutex::default() }
    }

    /// See [`Watch::redirected`].
    pub fn redirected(&self, domain: &str, requests: u32, bytes: u64) {
        lock(&self.watch).redirected(domain, requests, bytes);
    }

    /// A client came back for an object that these should hold, or says so: each is looked at soon, and not too often.
    pub fn hinted(&self, copy: &Copy, holders: &[String]) {
        let mut watch = lock(&self.watch);
        holders.iter().for_each(|domain| watch.hinted(domain, copy));
    }

    /// Tells those who judge by visitors' browsers whom they had suspended before this start, or they would suspend as many others.
    pub fn remember_suspensions(&self) {
        let Some(evidence) = &self.parts.evidence else { return };
        self.parts.book.judge(|reputation, now_ms| {
            for (domain, left_ms, suspensions) in reputation.suspensions(now_ms) {
                evidence.restore(domain, left_ms, suspensions);
            }
        });
    }

    /// The operator holds nothing against a holder any more: what visitors reported of it is forgotten.
    pub fn forgiven(&self, domain: &str) {
        if let Some(evidence) = &self.parts.evidence {
            evidence.forget(domain);
        }
    }

    /// Audits whoever is due until cancelled.
    pub async fn run(self: Arc<Self>, cancel: CancellationToken) {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut audits = JoinSet::new();
        loop {
            tokio::select! {
                () = cancel.cancelled() => return,
                _ = tick.tick() => {}
            }
            while audits.try_join_next().is_some() {}
            // Decay, the end of an isolation and the like change weights without anybody saying so.
            self.parts.holders.review();
            for (domain, copy) in self.due(MAX_AUDITS.saturating_sub(audits.len())) {
                let auditor = self.clone();
                let slot = Slot::of(self.watch.clone(), domain.clone(), copy.is_some());
                audits.spawn(async move { auditor.audit(&domain, copy, slot).await });
            }
        }
    }

    /// Acts on what visitors' browsers have found, until cancelled: a host that they suspect is audited at once and more often, and one
    /// that audits cannot find fault with all the same gets no more redirects of this site.
    pub async fn heed(self: Arc<Self>, mut findings: mpsc::Receiver<Finding>, cancel: CancellationToken) {
        loop {
            let finding = tokio::select! {
                () = cancel.cancelled() => return,
                Some(finding) = findings.recv() => finding,
            };
            let holder = finding.holder();
            match &finding {
                Finding::Suspect { text, .. } => {
                    tracing::warn!(peer = %holder, "looking at a host more closely: {text}");
                    self.parts.book.judge(|reputation, now_ms| reputation.suspected(holder, Cause::Visitors, now_ms));
                    lock(&self.watch).suspected(holder);
                }
                Finding::Suspend { text, .. } => {
                    tracing::warn!(peer = %holder, "host tells audits from visitors, no more redirects: {text}");
                    self.parts.book.judge(|reputation, now_ms| reputation.suspended(holder, text, now_ms));
                }
                Finding::Resume { .. } => {
                    tracing::warn!(peer = %holder, "host may be used again");
                    self.parts.book.judge(|reputation, now_ms| reputation.resumed(holder, now_ms));
                }
            }
            self.parts.holders.review();
        }
    }

    /// Holders to audit now, `room` at most, with the copy that a hint is about.
    fn due(&self, room: usize) -> Vec<(String, Option<Copy>)> {
        let listed = self.parts.holders.list();
        // Under a name that is not its own, a host would be judged by what another one serves.
        let is_due = |(domain, holder): &(&String, &Holder)| holder.is_named && self.parts.board.held_by(domain) > 0;
        let mut holding: Vec<&String> = listed.iter().filter(is_due).map(|(domain, _)| domain).collect();
        // Where slots are short, nobody is always first.
        let first = (draw() * holding.len() as f64) as usize;
        holding.rotate_left(first);
        let (formulas, holding): (_, Vec<(String, Need)>) = self.parts.book.judge(|reputation, now_ms| {
            let needs = holding.into_iter().map(|domain| (domain.clone(), reputation.need(domain, now_ms)));
            (reputation.formulas().clone(), needs.collect())
        });
        let mut watch = lock(&self.watch);
        watch.retain(|domain| listed.contains_key(domain));
        watch.due(&holding, room, &formulas, judging_now_ms(), draw)
    }

    /// `hinted` is a copy that a client's word is about. Clients choose what they speak of, and may be the host's friends or foes: such an
    /// audit counts only where it finds wrong bytes. Whether the copy is there at all is for probes to see.
    async fn audit(&self, domain: &str, hinted: Option<Copy>, mut slot: Slot) {
        let is_hinted = hinted.is_some();
        let Some(object) = self.choose(domain, hinted) else { return };
        let Some(holder) = self.parts.holders.get(domain).filter(|holder| holder.is_named) else { return };
        let record = &object.record;
        let extent = extent(object.class, record.size, draw);
        let extent = if is_hinted { extent.hinted() } else { extent };
        let path = format!("{REPLICA_PREFIX}{}/{}{}", self.domain, record.sha256, record.path);
        let guise = guise(object.class, extent, &self.domain, &holder.replica_name, now_s(), draw);
        let target = Target { authority: &holder.replica_name, path: &path, record, extent };
        let patience =
            Duration::from_millis(allowed_ms(holder.lease_bytes_per_s, extent.bytes()).saturating_mul(2).min(60_000));
        let begun_ms = judging_now_ms();
        slot.reserve(extent);
        let answer = self.client.ask(&target, guise, patience).await;
        if let Err(error) = &answer {
            tracing::debug!(peer = %domain, path = %record.path, %error, "audit");
        }
        let answer = answer.ok();
        let grace_ms = self.parts.book.judge(|reputation, _| reputation.formulas().grace_ms);
        let is_recent = monotonic_ms().saturating_sub(object.since_ms) < grace_ms;
        let former = object.former.filter(|_| is_recent);
        let return_url = format!("https://{}{RETURN_PREFIX}{}", self.domain, record.path.trim_start_matches('/'));
        let lease_bytes_per_s = holder.lease_bytes_per_s;
        let expected = Expected { record, former, lease_bytes_per_s, return_url: &return_url };
        let verdict = verdict(&expected, answer.as_ref());
        let bytes = answer.as_ref().map_or(0, |answer| answer.body.bytes);
        slot.took(bytes);
        let Some(verdict) = verdict else { return };
        // The host has heard of the change before this site's own table did.
        let is_current = self.parts.board.holds(&record.path, &record.sha256, domain);
        if verdict == Verdict::Missing && !is_current {
            return;
        }
        if is_hinted && verdict != Verdict::WrongBytes {
            return;
        }
        // Whoever has answered anything can be reached.
        if answer.is_none() && self.is_own_fault(domain).await {
            return;
        }
        let bytes_per_s = answer.filter(|_| bytes >= MEASURABLE_BYTES && verdict != Verdict::Unreachable);
        let bytes_per_s = bytes_per_s.map(|answer| bytes as f64 * 1000.0 / answer.took_ms.max(1) as f64);
        self.conclude(domain, &Audited { verdict, path: &record.path, bytes_per_s, begun_ms }, &object);
    }

    fn conclude(&self, domain: &str, audited: &Audited<'_>, object: &OwnObject) {
        let verdict = audited.verdict;
        self.doubt().note(domain, verdict, judging_now_ms());
        lock(&self.watch).concluded(domain, verdict);
        self.parts.metrics.audited(domain, verdict);
        self.parts.book.judge(|reputation, now_ms| reputation.audited(domain, audited, now_ms));
        if let Some(evidence) = &self.parts.evidence {
            // Whoever fails otherwise for once has not shown auditors what it shows visitors.
            evidence.audited(domain, verdict != Verdict::WrongBytes);
        }
        match verdict {
            Verdict::Good => {}
            Verdict::WrongBytes => {
                tracing::warn!(peer = %domain, path = audited.path, "host serves wrong bytes: no more redirects");
            }
            Verdict::Missing => self.parts.board.set_holder(audited.path, &object.record.sha256, domain, false),
            Verdict::Slow | Verdict::Unreachable => {
                tracing::info!(peer = %domain, path = audited.path, verdict = verdict.name(), "audit");
            }
        }
        // At once, so that the next tick of every worker knows.
        self.parts.holders.review();
    }

    /// Whether it is this site that cannot reach anybody: many fail together, and so do all of some that were well and the site's own
    /// public name.
    async fn is_own_fault(&self, domain: &str) -> bool {
        let now_ms = judging_now_ms();
        let mut controls = {
            let mut doubt = self.doubt();
            doubt.note(domain, Verdict::Unreachable, now_ms);
            if !doubt.calls_for_control(now_ms) {
                return false;
            }
            doubt.reachable(CONTROLS)
        };
        controls.push(self.domain.clone());
        for control in &controls {
            // One alone may be in league with those that fail.
            let answer = self.parts.connector.get_web(control, PEER_DOCUMENT_PATH, 64 * 1024, CONTROL_TIMEOUT).await;
            if answer.is_ok() {
                return false;
            }
        }
        tracing::warn!(?controls, "many peers fail together and so do all controls: this site may be cut off");
        true
    }

    /// What to ask a holder for: the copy that is in doubt, else by popularity or at random.
    fn choose(&self, domain: &str, hinted: Option<Copy>) -> Option<Arc<OwnObject>> {
        let present = |copy: &Copy| {
            let object = self.parts.catalogue.find(&copy.path)?;
            let is_held = self.parts.board.holds(&copy.path, &copy.sha256, domain);
            (is_held && object.record.sha256 == copy.sha256).then_some(object)
        };
        if let Some(copy) = hinted {
            return present(&copy);
        }
        let uniform_share = self.parts.book.judge(|reputation, _| reputation.formulas().uniform_share);
        let which = draw();
        if which >= uniform_share {
            let (paths, popularity): (Vec<String>, Vec<f64>) = {
                let (demand, now_ms) = (self.parts.catalogue.demand(), monotonic_ms());
                let half_life_ms = demand.half_life_ms();
                let requests = |heat: crate::demand::Heat| heat.at(now_ms, half_life_ms).requests;
                demand.iter().map(|(path, heat)| (path.to_owned(), requests(heat))).unzip()
            };
            for _ in 0..TRIES {
                let Pick::Popular(at) = pick(&popularity, uniform_share, which, draw()) else { break };
                let object = paths.get(at).and_then(|path| self.parts.catalogue.find(path));
                let is_held = |object: &Arc<OwnObject>| {
                    self.parts.board.holds(&object.record.path, &object.record.sha256, domain)
                };
                if let Some(object) = object.filter(is_held) {
                    return Some(object);
                }
            }
        }
        let any = || self.parts.board.any_of(domain, getrandom::u64().unwrap_or_default());
        (0..TRIES).find_map(|_| present(&any()?))
    }

    fn doubt(&self) -> MutexGuard<'_, Doubt> {
        self.doubt.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Uniform in 0..1. Without random numbers audits would be foreseeable, but still audits.
fn draw() -> f64 {
    getrandom::u64().map_or(0.5, |random| (random >> 11) as f64 / (1u64 << 53) as f64)
}
