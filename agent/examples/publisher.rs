//! The agent's replica table on a socket of its own, filled with made-up objects: what `cargo xtask bench` loads into real filters.
//!
//! Table, change log, pages and HTTP server are the agent's code, so that CPU time and memory of this process are those of an agent
//! with that many objects. What is left out is what brings objects there: files, peers, TLS. An example rather than a program, so
//! that no site gets it.
//!
//! `publisher OBJECTS FRACTION_PPM` serves on a free port, which it prints once the table is full. Beside the filter's exchange
//! there are `/loaded`, which answers how many VMs have everything, `/changes/N`, after which N objects a second change their holders,
//! and `/rename/NAME`, which gives the first holder another name.
//!
//! `publisher OBJECTS FRACTION_PPM MAP` also decides at `/v1/decide`, writes the map file for stock nginx once, and takes nginx's log on
//! a free port, which it prints.

use std::collections::BTreeSet;
use std::env;
use std::error::Error;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use p2pcdn_agent::decider::{DECIDE_PATH, Decider};
use p2pcdn_agent::http_server::{Body, empty, read_body, serve, text, with_body};
use p2pcdn_agent::local_api::SYNC_PATH;
use p2pcdn_agent::nginx_map::{NginxMap, NginxSettings, Reload};
use p2pcdn_agent::publish::{Board, Exposure};

use p2pcdn_agent::settings::DecideSettings;
use p2pcdn_core::decide::{ONE_PPM, Steering};
use p2pcdn_core::gate::reader::Reader;
use p2pcdn_core::gate::settings::GateSettings;
use p2pcdn_core::lookup::HashKey;
use p2pcdn_core::object::{Class, Embedding, ObjectRecord, Sha256, Sharing};
use p2pcdn_core::sync::{MAX_FRAME_BYTES, Progress, Report, Update, decode, encode};
use tokio::net::{TcpListener, UdpSocket};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

/// Whose objects: the site's name in envoy-config/site.yaml.
const ORIGIN: &str = "www.example.org";
/// Every object is held by the first two; the third one comes and goes when holders change.
const HOLDERS: [&str; 3] = ["a.example", "b.example", "c.example"];
/// Bytes of every object: worth a redirect.
const SIZE: u64 = 20 << 10;
/// More than any benchmark redirects.
const LEASE_BYTES_PER_S: u64 = 1 << 50;
const EXPOSURE: Exposure = Exposure { weight: 1000, newcomer: false, lease_bytes_per_s: LEASE_BYTES_PER_S };
/// Longer than any benchmark pauses.
const TTL_MS: u32 = 600_000;
/// How finely changes are spread over a second.
const STEP: Duration = Duration::from_millis(10);
const STEPS_PER_S: u64 = 100;

struct Publisher {
    board: Arc<Board>,
    decider: Option<Arc<Decider>>,
    steering: Steering,
    changes_per_s: AtomicU64,
    /// Numbers of the VMs that have said so.
    loaded: Mutex<BTreeSet<u64>>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let (numbers, map) = arguments.split_at_checked(2).ok_or("expected OBJECTS FRACTION_PPM [MAP]")?;
    let (objects, fraction_ppm): (u32, u32) = (numbers[0].parse()?, numbers[1].parse()?);
    let steering = Steering { fraction_ppm, ..Steering::default() };
    let board = Arc::new(filled(objects));
    let decider = match map {
        [map] => Some(serve_nginx(map, steering, board.clone()).await?),
        _ => None,
    };
    let publisher =
        Arc::new(Publisher { board, decider, steering, changes_per_s: AtomicU64::new(0), loaded: Mutex::default() });
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    println!("listening on {}", listener.local_addr()?);
    tokio::spawn(change(publisher.clone(), objects));
    tokio::spawn(keep_current(publisher.clone()));
    let answer = move |request| publisher.clone().answer(request);
    serve(listener, answer, CancellationToken::new()).await;
    Ok(())
}

/// Writes the map file and takes nginx's log; returns what decides.
async fn serve_nginx(map: &str, steering: Steering, board: Arc<Board>) -> Result<Arc<Decider>, Box<dyn Error>> {
    let mut reader = Reader::new(b"{}").map_err(|errors| format!("{errors:?}"))?;
    let gate = GateSettings::read(&mut reader, false);
    let log = UdpSocket::bind(("127.0.0.1", 0)).await?;
    println!("log on {}", log.local_addr()?);
    let (map, period) = (Some(map.into()), Duration::from_secs(10));
    let settings = NginxSettings { map, reload: Reload::Nobody, period, log: log.local_addr()? };
    let nginx = Arc::new(NginxMap::new(&settings, &gate, ORIGIN, board, 2).ok_or("no map")?);
    nginx.write(steering).await?;
    tokio::spawn(nginx.listen(log, CancellationToken::new()));
    Ok(Arc::new(Decider::new(&DecideSettings { gate, max_objects: 1 << 20 }, true, 1)))
}

/// Brings what decides up to date as the agent does.
async fn keep_current(publisher: Arc<Publisher>) {
    let mut tick = tokio::time::interval(Duration::from_millis(100));
    loop {
        tick.tick().await;
        let Some(decider) = &publisher.decider else { return };
        while let Some(sent) = decider.report() {
            let update = publisher.update(&sent.report);
            if !decider.apply(sent, update) {
                break;
            }
            tokio::task::yield_now().await;
        }
    }
}

fn filled(objects: u32) -> Board {
    let board = Board::new(ORIGIN.into(), 1, HashKey([1, 2]));
    for domain in HOLDERS {
        board.set_peer(domain, &format!("replica.{domain}"), EXPOSURE);
    }
    for number in 0..objects {
        let (path, sha256) = (path(number), sha256(number));
        let record = ObjectRecord {
            origin: ORIGIN.into(),
            path,
            sha256,
            size: SIZE,
            content_type: "image/png".into(),
            etag: format!("\"{number}\""),
            max_age_s: 3600,
            stale_if_error_s: 0,
            sharing: Sharing::SameOrigin,
            embedding: Embedding::Unstated,
            chunks: vec![sha256],
            sequence: number.into(),
            expires_s: u64::MAX,
        };
        board.put_object(&record, Class::Image, Some(&record.etag), u32::MAX);
        HOLDERS.iter().take(2).for_each(|domain| board.set_holder(&record.path, &sha256, domain, true));
    }
    board
}

/// The path that load.lua asks for.
fn path(number: u32) -> String {
    format!("/objects/{number:07}.png")
}

/// Digests as different as real ones, by the finaliser of SplitMix64.
fn sha256(number: u32) -> Sha256 {
    let mut digest = [0; 32];
    for (word, salt) in digest.chunks_exact_mut(8).zip(0..) {
        let mut z = (u64::from(number) << 2 | salt).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word.copy_from_slice(&(z ^ (z >> 31)).to_le_bytes());
    }
    Sha256(digest)
}

/// Gives and takes the third holder, object by object, as often as was asked for.
async fn change(publisher: Arc<Publisher>, objects: u32) {
    let mut steps = tokio::time::interval(STEP);
    steps.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut number, mut holds) = (0, true);
    loop {
        steps.tick().await;
        for _ in 0..publisher.changes_per_s.load(Ordering::Relaxed) / STEPS_PER_S {
            publisher.board.set_holder(&path(number), &sha256(number), HOLDERS[2], holds);
            number = (number + 1) % objects;
            holds ^= number == 0;
        }
    }
}

impl Publisher {
    async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Response<Body> {
        if let Some(decider) = self.decider.as_ref().filter(|_| request.uri().path() == DECIDE_PATH) {
            return decider.answer(&request);
        }
        let path = request.uri().path().to_owned();
        if path == SYNC_PATH {
            return self.sync(request).await;
        }
        if let Some(per_s) = path.strip_prefix("/changes/").and_then(|n| n.parse().ok()) {
            self.changes_per_s.store(per_s, Ordering::Relaxed);
            return empty(StatusCode::NO_CONTENT);
        }
        if let Some(name) = path.strip_prefix("/rename/") {
            self.board.set_peer(HOLDERS[0], name, EXPOSURE);
            return empty(StatusCode::NO_CONTENT);
        }
        if path == "/loaded" {
            return text(StatusCode::OK, self.loaded().len().to_string());
        }
        empty(StatusCode::NOT_FOUND)
    }

    async fn sync(&self, request: Request<Incoming>) -> Response<Body> {
        let body = read_body(request.into_body(), MAX_FRAME_BYTES).await.unwrap_or_default();
        let report: Report = match decode(&body) {
            Ok(report) => report,
            Err(error) => return text(StatusCode::BAD_REQUEST, format!("{error}\n")),
        };
        match encode(&self.update(&report)) {
            Ok(frame) => with_body(StatusCode::OK, "application/octet-stream", frame.into()),
            Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
        }
    }

    fn update(&self, report: &Report) -> Update {
        if report.have.progress == Progress::Complete {
            self.loaded().insert(report.vm);
        }
        let changes = self.board.changes_since(report.have);
        Update {
            now: changes.now,
            clear: changes.clear,
            hash_key: self.board.hash_key(),
            ttl_ms: TTL_MS,
            steering: self.steering,
            lease_share_ppm: ONE_PPM,
            more: changes.more,
            ops: changes.ops,
        }
    }

    fn loaded(&self) -> MutexGuard<'_, BTreeSet<u64>> {
        self.loaded.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
