//! The state of one VM, and its exchange with the agent and the other VMs on every tick.

use std::cell::RefCell;
use std::rc::Rc;

use p2pcdn_core::decide::{Candidate, Lease, ONE_PPM};
use p2pcdn_core::lookup::HashKey;
use p2pcdn_core::replica_table::{MAX_SET_HOLDERS, ReplicaTable, TableError};
use p2pcdn_core::sync::{FrameError, Have, MAX_FRAME_BYTES, Report, Update, decode, encode};

use crate::agreed::{Agreed, KEY, Load, Word, is_ahead};
use crate::first_hand::FirstHand;
use crate::host::{Host, Level, now_ms};
use crate::metrics::{Counted, Metrics};
use crate::request::Request;
use crate::settings::{Mode, Settings};
use crate::tally::Tally;

mod draws;

use draws::Draws;

/// Where the agent takes reports.
pub const SYNC_PATH: &str = "/v1/sync";
/// Time between exchanges while the agent has more to tell than fits one answer.
const LOADING_TICK_MS: u32 = 25;
/// The same cause is logged once in this time.
const LOG_PERIOD_MS: u64 = 60_000;

/// What the proxy creates once per VM and configuration.
#[derive(Debug)]
pub struct Root<H: Host> {
    host: H,
    context_id: u32,
    vm: Option<Rc<RefCell<Vm<H>>>>,
}

impl<H: Host> Root<H> {
    /// Not yet configured; until then every request passes.
    pub fn new(host: H, context_id: u32) -> Self {
        Self { host, context_id, vm: None }
    }

    /// Takes in `size` bytes of configuration; `false`, and everything wrong with it in the log, if it is refused.
    pub fn configure(&mut self, size: usize) -> bool {
        let settings = match Settings::parse(&self.host.configuration(size)) {
            Ok(settings) => settings,
            Err(errors) => {
                errors.iter().for_each(|error| self.host.log(Level::Error, &error.to_string()));
                return false;
            }
        };
        self.vm = None;
        if settings.mode != Mode::Off {
            self.host.set_tick_ms(settings.tick_ms);
            self.vm = Some(Rc::new(RefCell::new(Vm::new(self.host.clone(), settings, self.context_id))));
        }
        true
    }

    /// What a new request starts with.
    pub fn request(&self) -> Request<H> {
        Request::new(self.vm.clone())
    }

    /// Lets time pass.
    pub fn tick(&mut self) {
        if let Some(mut vm) = self.vm.as_ref().and_then(|vm| vm.try_borrow_mut().ok()) {
            vm.tick();
        }
    }

    /// Takes in the answer to an exchange; `num_headers` 0 means that there was none.
    pub fn answered(&mut self, token: u32, num_headers: usize, body_size: usize) {
        if let Some(mut vm) = self.vm.as_ref().and_then(|vm| vm.try_borrow_mut().ok()) {
            vm.answered(token, num_headers, body_size);
        }
    }
}

/// The state that all requests of one VM share.
#[derive(Debug)]
pub struct Vm<H> {
    pub(crate) host: H,
    pub(crate) settings: Settings,
    pub(crate) metrics: Metrics,
    pub(crate) table: ReplicaTable,
    pub(crate) hash_key: HashKey,
    pub(crate) word: Word,
    pub(crate) tally: Tally,
    pub(crate) counted: Counted,
    pub(crate) first_hand: FirstHand,
    pub(crate) draws: Draws,
    pub(crate) turn: u64,
    pub(crate) in_flight: u32,
    pub(crate) has_served: bool,
    /// Kept between requests so that neither is allocated anew.
    pub(crate) candidates: Vec<Candidate>,
    pub(crate) location: Vec<u8>,
    number: u64,
    agreed_key: String,
    in_flight_elsewhere: u64,
    have: Have,
    is_behind: bool,
    confirmed_ms: u64,
    ttl_ms: u32,
    lease_share_ppm: u32,
    refilled_ms: u64,
    exchange: Option<Exchange>,
    reported_ms: u64,
    tick_ms: u32,
    logged_ms: [Option<u64>; SyncError::CAUSES],
}

/// A report on its way.
#[derive(Debug)]
struct Exchange {
    token: u32,
    sent_ms: u64,
    sent: Tally,
}

/// Why an exchange came to nothing. The table stays as it is until its time to live is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
enum SyncError {
    /// The operator's: no such cluster, or the proxy could not send.
    #[error("the proxy has no cluster of this name, or cannot send to it")]
    NotSent,
    /// The agent's or its host's: refused, reset or timed out.
    #[error("the agent did not answer")]
    NoAnswer,
    /// The agent's, or the proxy's on its behalf.
    #[error("the agent's socket answered with status {0}")]
    Status(u16),
    /// The agent's.
    #[error("the agent's answer was not understood: {0}")]
    Frame(#[from] FrameError),
    /// The agent's.
    #[error("the agent's changes could not be applied: {0}")]
    Table(#[from] TableError),
}

impl SyncError {
    const CAUSES: usize = 5;

    fn cause(self) -> usize {
        match self {
            Self::NotSent => 0,
            Self::NoAnswer => 1,
            Self::Status(_) => 2,
            Self::Frame(_) => 3,
            Self::Table(_) => 4,
        }
    }
}

impl<H: Host> Vm<H> {
    fn new(host: H, settings: Settings, context_id: u32) -> Self {
        let now_ms = now_ms(&host);
        let mut draws = Draws::new(host.now_ns() ^ u64::from(context_id).rotate_left(32));
        Self {
            metrics: Metrics::define(&host),
            table: ReplicaTable::new(settings.max_objects),
            hash_key: HashKey::default(),
            word: Word::default(),
            tally: Tally::default(),
            counted: Counted::default(),
            first_hand: FirstHand::new(settings.stay_local_s),
            number: draws.number(),
            draws,
            turn: 0,
            in_flight: 0,
            has_served: false,
            candidates: Vec::with_capacity(MAX_SET_HOLDERS),
            location: Vec::new(),
            agreed_key: format!("{KEY}{}", settings.agent_cluster),
            in_flight_elsewhere: 0,
            have: Have::default(),
            is_behind: false,
            confirmed_ms: 0,
            ttl_ms: 0,
            lease_share_ppm: 0,
            refilled_ms: now_ms,
            exchange: None,
            reported_ms: now_ms,
            tick_ms: settings.tick_ms,
            logged_ms: [None; SyncError::CAUSES],
            host,
            settings,
        }
    }

    /// Whether the agent has told this VM anything yet.
    pub(crate) fn has_table(&self) -> bool {
        self.have.session != 0
    }

    /// Whether the agent has confirmed the table within its time to live.
    pub(crate) fn is_current(&self, now_ms: u64) -> bool {
        let age_ms = now_ms.saturating_sub(self.confirmed_ms);
        self.has_table() && age_ms < u64::from(self.ttl_ms) && !is_ahead(self.confirmed_ms, now_ms)
    }

    /// Own requests in flight now, and those of the other VMs as of their last tick.
    pub(crate) fn in_flight_everywhere(&self) -> u64 {
        self.in_flight_elsewhere.saturating_add(self.in_flight.into())
    }

    fn tick(&mut self) {
        let now_ms = now_ms(&self.host);
        self.refill_leases(now_ms);
        self.agree(now_ms);
        self.report(now_ms);
        self.metrics.show(&self.host, &std::mem::take(&mut self.counted));
    }

    fn refill_leases(&mut self, now_ms: u64) {
        let elapsed_ms = now_ms.saturating_sub(self.refilled_ms);
        let share = u128::from(self.lease_share_ppm.min(ONE_PPM));
        for holder in self.table.holders_mut() {
            if holder.lease_bytes_per_s == 0 {
                // Nothing goes there. A debt is the agent's to remember, who hears of it from all workers.
                holder.lease = Lease::default();
                continue;
            }
            let rate = u128::from(holder.lease_bytes_per_s) * share / u128::from(ONE_PPM);
            holder.lease.refill(rate as u64, elapsed_ms);
        }
        self.refilled_ms = now_ms;
    }

    fn agree(&mut self, now_ms: u64) {
        let own = Load { vm: self.number, in_flight: self.in_flight, at_ms: now_ms };
        let own = self.has_served.then_some(own);
        let agreed = Agreed::exchange(&self.host, &self.agreed_key, self.word, own, now_ms);
        self.word.adopt(agreed.word, now_ms);
        self.in_flight_elsewhere = agreed.in_flight_elsewhere(self.number);
        if self.has_served {
            self.host.set(self.metrics.in_flight, self.in_flight_everywhere());
        }
    }

    fn report(&mut self, now_ms: u64) {
        let patience_ms = 2 * u64::from(self.settings.agent_timeout_ms);
        // A proxy that forgot the callout must not end the exchange for good.
        if let Some(lost) = self.exchange.take_if(|e| now_ms.saturating_sub(e.sent_ms) > patience_ms) {
            self.fail(&lost.sent, SyncError::NoAnswer, now_ms);
        }
        if self.exchange.is_some() || !self.has_served {
            return;
        }
        let sent = std::mem::take(&mut self.tally);
        let report = Report {
            vm: self.number,
            have: self.have,
            interval_ms: u32::try_from(now_ms.saturating_sub(self.reported_ms)).unwrap_or(u32::MAX),
            counts: sent.counts,
            in_flight: self.in_flight,
            hot: sent.hot.counts().map(|(key, (), requests)| (key, requests)).collect(),
            redirected_to: sent.redirected_to().to_vec(),
            returned: sent.returned.as_slice().to_vec(),
            contradicted: sent.contradicted.as_slice().to_vec(),
            questioned: sent.questioned.as_slice().to_vec(),
            wanted: sent.wanted_targets(),
            pages: sent.pages().to_vec(),
            refused: sent.refused.counts().collect(),
            targets: self.settings.targets,
        };
        let settings = &self.settings;
        let token = encode(&report).map_err(SyncError::from).and_then(|frame| {
            let token = self.host.post(&settings.agent_cluster, SYNC_PATH, &frame, settings.agent_timeout_ms);
            token.ok_or(SyncError::NotSent)
        });
        match token {
            Ok(token) => self.exchange = Some(Exchange { token, sent_ms: now_ms, sent }),
            Err(error) => self.fail(&sent, error, now_ms),
        }
    }

    fn answered(&mut self, token: u32, num_headers: usize, body_size: usize) {
        let Some(exchange) = self.exchange.take_if(|exchange| exchange.token == token) else { return };
        let now_ms = now_ms(&self.host);
        match self.receive(num_headers, body_size, now_ms) {
            Ok(()) => {
                self.reported_ms = exchange.sent_ms;
                self.pace(if self.is_behind { LOADING_TICK_MS } else { self.settings.tick_ms });
            }
            Err(error) => self.fail(&exchange.sent, error, now_ms),
        }
    }

    fn receive(&mut self, num_headers: usize, body_size: usize, now_ms: u64) -> Result<(), SyncError> {
        if num_headers == 0 {
            return Err(SyncError::NoAnswer);
        }
        match self.host.answer_status() {
            Some(200) => {}
            Some(status) => return Err(SyncError::Status(status)),
            None => return Err(SyncError::NoAnswer),
        }
        if body_size > MAX_FRAME_BYTES {
            return Err(FrameError::TooLong.into());
        }
        let update = decode(&self.host.answer_body(body_size))?;
        self.apply(update, now_ms)
    }

    fn apply(&mut self, update: Update, now_ms: u64) -> Result<(), SyncError> {
        if update.clear || update.hash_key != self.hash_key {
            let mut table = ReplicaTable::new(self.settings.max_objects);
            table.apply(update.ops)?;
            self.table = table;
            self.hash_key = update.hash_key;
            self.tally.forget_table();
        } else {
            self.table.apply(update.ops)?;
        }
        self.have = update.now;
        self.is_behind = update.more;
        self.confirmed_ms = now_ms;
        self.ttl_ms = update.ttl_ms;
        self.lease_share_ppm = update.lease_share_ppm;
        self.word = Word { steering: update.steering, heard_ms: now_ms };
        self.refill_leases(now_ms);
        self.agree(now_ms);
        self.show();
        Ok(())
    }

    fn show(&self) {
        let (host, metrics) = (&self.host, &self.metrics);
        host.set(metrics.fraction_ppm, self.word.steering.fraction_ppm.into());
        host.set(metrics.killed, self.word.steering.killed.into());
        host.set(metrics.table_version, self.have.version);
        host.set(metrics.table_objects, self.table.len() as u64);
        host.set(metrics.table_refused, self.table.refused());
        host.set(metrics.heartbeat_s, self.confirmed_ms / 1000);
    }

    fn fail(&mut self, unanswered: &Tally, error: SyncError, now_ms: u64) {
        self.tally.add(unanswered);
        self.host.add(self.metrics.sync_failures, 1);
        self.pace(self.settings.tick_ms);
        let Some(logged_ms) = self.logged_ms.get_mut(error.cause()) else { return };
        if logged_ms.is_none_or(|at_ms| now_ms.saturating_sub(at_ms) >= LOG_PERIOD_MS) {
            *logged_ms = Some(now_ms);
            self.host.log(Level::Warn, &format!("cluster {}: {error}", self.settings.agent_cluster));
        }
    }

    fn pace(&mut self, tick_ms: u32) {
        if self.tick_ms != tick_ms {
            self.tick_ms = tick_ms;
            self.host.set_tick_ms(tick_ms);
        }
    }
}

#[cfg(test)]
mod tests;
