//! Stock nginx that redirects by itself, by a map file that the agent writes: the cheapest for nginx, and the slowest to follow.
//!
//! Who is redirected is judged by the same code as everywhere, when the file is written: for each object and each kind of request that
//! nginx can tell apart. What nginx sees comes back by its log, as datagrams.

mod log;
mod reload;
pub mod render;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use p2pcdn_core::decide::{Candidate, Steering};
use p2pcdn_core::destination::Destination;
use p2pcdn_core::gate::settings::{GateSettings, Mode};
use p2pcdn_core::gate::tally::Tally;
use p2pcdn_core::lookup::canonical_target;
use p2pcdn_core::sync::{Have, HolderRow, ObjectRow, Progress, Report};
use serde::{Deserialize, Serialize};
use tokio::net::UdpSocket;
use tokio_util::sync::CancellationToken;

use crate::clock::{now_ms, now_s};
use crate::publish::Board;
use log::Line;
pub use reload::{BringError, Reload, replace};
use render::{Entry, KINDS, may_leave, render};

/// What the operator decides about the map file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NginxSettings {
    /// The map file; none is written without one.
    pub map: Option<PathBuf>,
    /// How nginx takes it.
    pub reload: Reload,
    /// Shortest time between two files.
    pub period: Duration,
    /// Where nginx sends its log.
    pub log: SocketAddr,
}

/// What became of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Written {
    /// Where it is.
    pub file: String,
    /// Lines of the map.
    pub entries: usize,
    /// Share of requests that nginx redirects, in millionths.
    pub fraction_ppm: u32,
}

/// Writes the file and reads the log.
pub struct NginxMap {
    settings: NginxSettings,
    file: PathBuf,
    gate: GateSettings,
    origin: String,
    board: Arc<Board>,
    number: u64,
    seen: Mutex<Seen>,
    written: Mutex<State>,
}

/// Since the last report.
#[derive(Default)]
struct Seen {
    tally: Tally,
    has_served: bool,
    reported_ms: u64,
}

/// What nginx goes by.
#[derive(Clone, Copy, Default, PartialEq)]
struct State {
    steering: Steering,
    version: u64,
    at_s: u64,
}

/// A change of the fraction below this, in millionths, is not worth a file.
const STEP_PPM: u32 = 50_000;
/// How long nginx redirects by a file if none follows it, in seconds; by digits of its clock, so up to 100 s longer.
const TTL_S: u64 = 100;
/// While it redirects, nginx gets another file after so many seconds at the latest.
const RENEWAL_S: u64 = 60;
/// How often it is looked whether a file is due.
const LOOK: Duration = Duration::from_millis(500);
/// Longest line of the log.
const MAX_LINE_BYTES: usize = 4096;

impl NginxMap {
    /// For the site `origin`; `None` if the operator wants no file. `number` is any that others do not have.
    pub fn new(
        settings: &NginxSettings,
        gate: &GateSettings,
        origin: &str,
        board: Arc<Board>,
        number: u64,
    ) -> Option<Self> {
        let file = settings.map.clone()?;
        let (settings, gate, origin) = (settings.clone(), gate.clone(), origin.to_owned());
        let seen = Mutex::new(Seen { reported_ms: now_ms(), ..Seen::default() });
        Some(Self { settings, file, gate, origin, board, number, seen, written: Mutex::default() })
    }

    /// Writes a file whenever one is due, until cancelled. `steering` says how much to redirect.
    pub async fn run(self: Arc<Self>, steering: impl Fn() -> Steering, cancel: CancellationToken) {
        let mut look = tokio::time::interval(LOOK);
        let mut last_s = 0;
        let mut failing = false;
        loop {
            tokio::select! {
                () = cancel.cancelled() => break,
                _ = look.tick() => {}
            }
            let (steering, now_s) = (steering(), now_s());
            let is_early = now_s.abs_diff(last_s) < self.settings.period.as_secs();
            if !self.is_due(steering, now_s) || (is_early && !steering.killed) {
                continue;
            }
            last_s = now_s;
            match self.write(steering).await {
                Ok(written) => tracing::info!(?written, "nginx has another map"),
                Err(error) if !failing => tracing::error!(%error, "nginx keeps the map that it has"),
                Err(_) => {}
            }
            failing = self.is_due(steering, now_s);
        }
        // What nobody keeps current any more must not go on redirecting.
        if self.state().steering.fraction_ppm > 0
            && let Err(error) = self.write(Steering::default()).await
        {
            tracing::error!(%error, "nginx keeps redirecting for up to {} seconds", TTL_S + 100);
        }
    }

    /// Writes a file now and has nginx take it.
    pub async fn write(self: &Arc<Self>, steering: Steering) -> Result<Written, BringError> {
        let this = self.clone();
        let (steering, version, at_s) = (self.wanted(steering), self.board.size().version, now_s());
        let write = move || {
            let entries = if steering.fraction_ppm == 0 { Vec::new() } else { this.entries(at_s) };
            let authorities: BTreeMap<u16, String> =
                this.board.holders().into_iter().map(|row| (row.id, row.authority)).collect();
            let text = render(&this.origin, steering, &entries, &authorities, at_s, TTL_S);
            reload::bring(&this.file, &text, &this.settings.reload)?;
            *this.written.lock().unwrap_or_else(PoisonError::into_inner) = State { steering, version, at_s };
            let file = this.file.display().to_string();
            Ok(Written { file, entries: entries.len(), fraction_ppm: steering.fraction_ppm })
        };
        tokio::task::spawn_blocking(write).await.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
    }

    /// Takes in nginx's log until cancelled.
    pub async fn listen(self: Arc<Self>, socket: UdpSocket, cancel: CancellationToken) {
        let mut datagram = vec![0; MAX_LINE_BYTES];
        loop {
            let received = tokio::select! {
                () = cancel.cancelled() => return,
                received = socket.recv(&mut datagram) => received,
            };
            if let Some(line) = received.ok().and_then(|size| Line::parse(&datagram[..size])) {
                self.note(&line);
            }
        }
    }

    /// What there is to tell the agent, if nginx has said anything.
    pub fn report(&self, now_ms: u64) -> Option<Report> {
        let mut seen = self.seen();
        if !seen.has_served {
            return None;
        }
        let tally = std::mem::take(&mut seen.tally);
        let interval_ms = now_ms.saturating_sub(std::mem::replace(&mut seen.reported_ms, now_ms));
        // It is not the table that is asked for here.
        let have =
            Have { session: self.board.session(), version: self.board.size().version, progress: Progress::Complete };
        Some(Report {
            vm: self.number,
            have,
            interval_ms: u32::try_from(interval_ms).unwrap_or(u32::MAX),
            counts: tally.counts,
            hot: tally.hot.counts().map(|(key, (), requests)| (key, requests)).collect(),
            redirected_to: tally.redirected_to().to_vec(),
            wanted: tally.wanted_targets(),
            targets: self.gate.targets,
            ..Report::default()
        })
    }

    fn note(&self, line: &Line<'_>) {
        let mut seen = self.seen();
        seen.has_served = true;
        let tally = &mut seen.tally;
        tally.counts.requests = tally.counts.requests.saturating_add(1);
        let kind = KINDS.into_iter().find(|(_, word)| *word == line.kind);
        let (Some((kind, _)), Ok(target)) = (kind, canonical_target(line.target.as_bytes())) else { return };
        let key = self.board.hash_key().of(self.origin.as_bytes(), target.as_bytes());
        tally.hot.count(key, 1, || ());
        let Some((row, holders)) = self.board.described(target) else {
            tally.wanted.count(key, 1, || target.to_owned());
            return;
        };
        if holders.is_empty() || !may_leave(kind, target, &row, &self.gate.rules, now_s(), 0) {
            return;
        }
        tally.counts.eligible = tally.counts.eligible.saturating_add(1);
        tally.counts.eligible_bytes = tally.counts.eligible_bytes.saturating_add(row.size);
        if let Some(holder) = self.board.number_of_authority(line.authority) {
            tally.counts.redirected = tally.counts.redirected.saturating_add(1);
            tally.counts.redirected_bytes = tally.counts.redirected_bytes.saturating_add(row.size);
            tally.redirected(holder, 1, row.size);
        }
    }

    fn is_due(&self, steering: Steering, now_s: u64) -> bool {
        let (wanted, state) = (self.wanted(steering), self.state());
        let (new, old) = (wanted.fraction_ppm, state.steering.fraction_ppm);
        if (new == 0) != (old == 0) || state.at_s == 0 {
            return true;
        }
        let is_redirecting = new > 0;
        let has_changed = new.abs_diff(old) >= STEP_PPM
            || wanted.pure_balancer != state.steering.pure_balancer
            || state.version != self.board.size().version;
        is_redirecting && (has_changed || now_s.abs_diff(state.at_s) >= RENEWAL_S)
    }

    /// How much nginx is to redirect.
    fn wanted(&self, steering: Steering) -> Steering {
        let is_on = self.gate.mode == Mode::On && !steering.killed;
        if is_on { steering } else { Steering::default() }
    }

    fn entries(&self, now_s: u64) -> Vec<Entry> {
        let rows: BTreeMap<u16, HolderRow> = self.board.holders().into_iter().map(|row| (row.id, row)).collect();
        let candidates = |kind: Destination, holders: &[u16]| -> Vec<Candidate> {
            let could_take =
                |row: &&HolderRow| row.weight > 0 && row.lease_bytes_per_s > 0 && !row.blocked.contains(kind);
            let rows = holders.iter().filter_map(|id| rows.get(id)).filter(could_take);
            rows.map(|row| Candidate { holder: row.id, weight: row.weight, newcomer: row.newcomer }).collect()
        };
        let mut entries = Vec::new();
        // Nothing that goes stale before another file comes.
        let for_s = TTL_S + 100;
        self.board.each(|path: &str, row: &ObjectRow, holders: &[u16]| {
            for (kind, word) in KINDS {
                if entries.len() < MAX_ENTRIES && may_leave(kind, path, row, &self.gate.rules, now_s, for_s) {
                    let candidates = candidates(kind, holders);
                    if !candidates.is_empty() {
                        entries.push(Entry { kind: word, path: path.to_owned(), sha256: row.sha256, candidates });
                    }
                }
            }
        });
        entries
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn state(&self) -> State {
        *self.written.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Most lines of the map, as nginx-config/stock-map.conf makes room for; objects beyond stay local.
const MAX_ENTRIES: usize = 200_000;

/// A file by which nothing is redirected, for an nginx that starts before the agent has written one.
pub fn empty(origin: &str) -> String {
    render(origin, Steering::default(), &[], &BTreeMap::new(), 0, 0)
}
