//! The state of one VM, and its exchange with the agent and the other VMs on every tick.

use std::cell::RefCell;
use std::rc::Rc;

use p2pcdn_core::gate::Gate;
use p2pcdn_core::gate::settings::Mode;
use p2pcdn_core::gate::tally::Tally;
use p2pcdn_core::replica_table::TableError;
use p2pcdn_core::sync::{FrameError, MAX_FRAME_BYTES, Update, decode, encode};

use crate::agreed::{Agreed, KEY, Load, Word};
use crate::host::{Host, Level, now_ms};
use crate::metrics::Metrics;
use crate::request::Request;
use crate::settings::{Proxy, Settings};

/// Where the agent takes reports.
pub const SYNC_PATH: &str = "/v1/sync";
/// Shared data key by which proxies are told apart.
const PROBE_KEY: &str = "p2pcdn/1/probe";
/// Time between exchanges while the agent has more to tell than fits one answer.
const LOADING_TICK_MS: u32 = 10;
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

    /// Takes in `size` bytes of configuration; if they are wrong, everything that is goes to the log.
    ///
    /// `false` if the proxy is to refuse them. Every worker of nginx would die of that, so there the filter passes everything instead.
    pub fn configure(&mut self, size: usize) -> bool {
        let json = self.host.configuration(size);
        self.vm = None;
        let settings = match Settings::parse(&json) {
            Ok(settings) => settings,
            Err(errors) => {
                errors.iter().for_each(|error| self.host.log(Level::Error, &error.to_string()));
                return is_nginx(&self.host, &json);
            }
        };
        if settings.gate.mode != Mode::Off {
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

/// Whether the proxy is nginx, although the configuration is no good.
///
/// It may say so nevertheless. Otherwise, nginx does not overwrite a shared value whose number is not told, and Envoy does.
fn is_nginx<H: Host>(host: &H, json: &[u8]) -> bool {
    let name = b"nginx";
    let overwrites = || host.set_shared(PROBE_KEY, b"1", 0) && host.set_shared(PROBE_KEY, b"1", 0);
    json.windows(name.len()).any(|window| window == name) || !overwrites()
}

/// The state that all requests of one VM share.
#[derive(Debug)]
pub struct Vm<H> {
    pub(crate) host: H,
    pub(crate) proxy: Proxy,
    pub(crate) metrics: Metrics,
    pub(crate) gate: Gate,
    pub(crate) in_flight: u32,
    agent_cluster: String,
    agent_timeout_ms: u32,
    word: Word,
    agreed_key: String,
    in_flight_elsewhere: u64,
    exchange: Option<Exchange>,
    usual_tick_ms: u32,
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
        let seed = host.now_ns() ^ u64::from(context_id).rotate_left(32);
        let medium = settings.proxy.medium();
        Self {
            proxy: settings.proxy,
            metrics: Metrics::define(&host),
            gate: Gate::new(settings.gate, medium, settings.max_objects, seed, now_ms(&host)),
            in_flight: 0,
            agreed_key: format!("{KEY}{}", settings.agent_cluster),
            agent_cluster: settings.agent_cluster,
            agent_timeout_ms: settings.agent_timeout_ms,
            word: Word::default(),
            in_flight_elsewhere: 0,
            exchange: None,
            usual_tick_ms: settings.tick_ms,
            tick_ms: settings.tick_ms,
            logged_ms: [None; SyncError::CAUSES],
            host,
        }
    }

    /// Own requests in flight now, and those of the other VMs as of their last tick.
    pub(crate) fn in_flight_everywhere(&self) -> u64 {
        self.in_flight_elsewhere.saturating_add(self.in_flight.into())
    }

    fn tick(&mut self) {
        let now_ms = now_ms(&self.host);
        self.gate.refill_leases(now_ms);
        self.agree(now_ms);
        self.report(now_ms);
        self.metrics.show(&self.host, &std::mem::take(&mut self.gate.counted));
    }

    fn agree(&mut self, now_ms: u64) {
        let own = Load { vm: self.gate.number, in_flight: self.in_flight, at_ms: now_ms };
        let own = self.gate.has_served.then_some(own);
        let agreed = Agreed::exchange(&self.host, &self.agreed_key, self.word, own, now_ms);
        self.word.adopt(agreed.word, now_ms);
        self.gate.steering = self.word.steering;
        self.in_flight_elsewhere = agreed.in_flight_elsewhere(self.gate.number);
        if self.gate.has_served {
            self.host.set(self.metrics.in_flight, self.in_flight_everywhere());
        }
    }

    fn report(&mut self, now_ms: u64) {
        let patience_ms = 2 * u64::from(self.agent_timeout_ms);
        // A proxy that forgot the callout must not end the exchange for good.
        if let Some(lost) = self.exchange.take_if(|e| now_ms.saturating_sub(e.sent_ms) > patience_ms) {
            self.fail(&lost.sent, SyncError::NoAnswer, now_ms);
        }
        if self.exchange.is_some() || !self.gate.has_served {
            return;
        }
        let sent = self.gate.take_tally();
        let report = self.gate.report(&sent, self.in_flight, now_ms);
        let token = encode(&report).map_err(SyncError::from).and_then(|frame| {
            let token = self.host.post(&self.agent_cluster, SYNC_PATH, &frame, self.agent_timeout_ms);
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
        match self.receive(num_headers, body_size, exchange.sent_ms, now_ms) {
            Ok(()) => self.pace(if self.gate.is_behind() { LOADING_TICK_MS } else { self.usual_tick_ms }),
            Err(error) => self.fail(&exchange.sent, error, now_ms),
        }
    }

    fn receive(&mut self, num_headers: usize, body_size: usize, sent_ms: u64, now_ms: u64) -> Result<(), SyncError> {
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
        let update: Update = decode(&self.host.answer_body(body_size))?;
        let steering = update.steering;
        self.gate.apply(update, sent_ms, now_ms)?;
        self.word = Word { steering, heard_ms: now_ms };
        self.agree(now_ms);
        self.show();
        Ok(())
    }

    fn show(&self) {
        let (host, metrics, table) = (&self.host, &self.metrics, self.gate.table());
        host.set(metrics.fraction_ppm, self.word.steering.fraction_ppm.into());
        host.set(metrics.killed, self.word.steering.killed.into());
        host.set(metrics.table_version, self.gate.have().version);
        host.set(metrics.table_objects, table.len() as u64);
        host.set(metrics.table_refused, table.refused());
        host.set(metrics.heartbeat_s, self.gate.confirmed_ms() / 1000);
    }

    fn fail(&mut self, unanswered: &Tally, error: SyncError, now_ms: u64) {
        self.gate.tally.add(unanswered);
        self.host.add(self.metrics.sync_failures, 1);
        self.pace(self.usual_tick_ms);
        let Some(logged_ms) = self.logged_ms.get_mut(error.cause()) else { return };
        if logged_ms.is_none_or(|at_ms| now_ms.saturating_sub(at_ms) >= LOG_PERIOD_MS) {
            *logged_ms = Some(now_ms);
            self.host.log(Level::Warn, &format!("cluster {}: {error}", self.agent_cluster));
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
mod under_envoy;
#[cfg(test)]
mod under_nginx;
