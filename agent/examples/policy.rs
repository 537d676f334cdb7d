//! Replays traces of requests through the agent's own ranking: what `cargo xtask bench policy` measures.
//!
//! One host with room for a part of the objects; counts of demand, worth and what displaces what are the agent's code. What is left
//! out is time: a copy is there at once. An example rather than a program, so that no site gets it.
//!
//! `policy [LOG...]` prints the rounds and the default policy as JSON. Each LOG is an access log in the common log format (as nginx and Apache write
//! it), which is replayed beside the traces that are made up and a small one that was recorded.

use std::collections::HashMap;
use std::env;
use std::error::Error;
use std::fs;
use std::sync::Arc;

use p2pcdn_agent::demand::Demand;
use p2pcdn_agent::replicate::origin::rank::{Policy, Shelf, Worth};
use serde::Serialize;

const OBJECTS: usize = 20_000;
const REQUESTS: usize = 300_000;
/// About what a busy site of this size is asked for.
const REQUESTS_PER_S: f64 = 100.0;
const SEEDS: [u64; 3] = [1, 2, 3];
/// Exponents of popularity: measured ones of web traffic lie between (Breslau and others 1999).
const EXPONENTS: [f64; 3] = [0.7, 0.9, 1.1];
/// Room at the host, of the bytes of all objects.
const BUDGETS: [f64; 3] = [0.02, 0.1, 0.3];
/// Smallest and largest object, and the exponent of the Pareto distribution in between.
const SIZES: (f64, f64, f64) = (8192.0, 16_777_216.0, 1.1);

/// What Envoy logged of half a minute of the end-to-end tests' own load, with 120 images of 8 KiB to 1 MiB on one site over its target:
/// path, size and second of each request, the redirected ones included. Paths are numbers, and nothing else was kept. The load asks for
/// all objects alike, so this is about the unevenness of a real proxy's arrivals and not about popularity.
const RECORDED: &str = include_str!("policy_recorded.log");

/// Requests in the order of time.
struct Trace {
    name: String,
    seed: u64,
    paths: Vec<Arc<str>>,
    bytes: Vec<u64>,
    /// Milliseconds and number of the object.
    requests: Vec<(u64, usize)>,
}

#[derive(Serialize)]
struct Outcome {
    /// What the agent does unless it is told otherwise.
    default: Policy,
    rounds: Vec<Round>,
}

#[derive(Serialize)]
struct Round {
    trace: String,
    seed: u64,
    /// Room, of the bytes of all objects.
    budget: f64,
    policy: Policy,
    /// Bytes that the host has served for each byte of its room.
    offloaded_per_byte: f64,
    /// The same of bytes copied there.
    copied_per_byte: f64,
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut traces: Vec<Trace> = Vec::new();
    for seed in SEEDS {
        traces.extend(EXPONENTS.iter().map(|exponent| made_up(*exponent, seed)));
        traces.push(uniform(seed));
    }
    traces.push(recorded("recorded", RECORDED));
    for file in env::args().skip(1) {
        traces.push(recorded(&file, &fs::read_to_string(&file)?));
    }
    let mut rounds = Vec::new();
    for trace in &traces {
        for budget in BUDGETS {
            rounds.extend([Policy::Lru, Policy::Gdsf].map(|policy| replay(trace, budget, policy)));
        }
    }
    println!("{}", serde_json::to_string(&Outcome { default: Policy::default(), rounds })?);
    Ok(())
}

fn replay(trace: &Trace, budget: f64, policy: Policy) -> Round {
    let room = (trace.bytes.iter().sum::<u64>() as f64 * budget) as u64;
    let numbers: HashMap<&str, usize> = trace.paths.iter().enumerate().map(|(at, path)| (&**path, at)).collect();
    let bytes_of = |path: &str| numbers.get(path).map_or(0, |at| trace.bytes[*at]);
    let (mut demand, mut shelf, mut held) = (Demand::default(), Shelf::default(), HashMap::<usize, Worth>::new());
    let (mut offloaded, mut copied) = (0u64, 0u64);
    for (now_ms, at) in &trace.requests {
        let (path, bytes) = (&trace.paths[*at], trace.bytes[*at]);
        demand.note(path, 1, bytes, *now_ms);
        let Some(heat) = demand.heat(path) else { continue };
        let worth = policy.worth(&heat, bytes, demand.half_life_ms());
        if let Some(former) = held.insert(*at, worth) {
            offloaded += bytes;
            shelf.take(path, former, bytes);
            shelf.put(path, worth, bytes);
            continue;
        }
        let lacking = (shelf.bytes() + bytes).saturating_sub(room);
        let Some(displaced) = shelf.displaced_by(policy, worth, lacking, bytes_of) else {
            held.remove(at);
            continue;
        };
        for other in displaced {
            if let Some(worth) = numbers.get(&*other).and_then(|at| held.remove(at)) {
                shelf.take(&other, worth, bytes_of(&other));
            }
        }
        shelf.put(path, worth, bytes);
        copied += bytes;
    }
    let per_byte = |bytes: u64| bytes as f64 / room.max(1) as f64;
    Round {
        trace: trace.name.clone(),
        seed: trace.seed,
        budget,
        policy,
        offloaded_per_byte: per_byte(offloaded),
        copied_per_byte: per_byte(copied),
    }
}

/// Zipf popularity with a flash crowd (for a tenth of the time half of the requests are for twenty objects that nobody knew) and a scan
/// (every object once, between the other requests).
fn made_up(exponent: f64, seed: u64) -> Trace {
    let mut random = Random(seed);
    let (paths, bytes) = objects(&mut random);
    let mut cumulated = Vec::with_capacity(OBJECTS);
    let mut sum = 0.0;
    for rank in 1..=OBJECTS {
        sum += (rank as f64).powf(-exponent);
        cumulated.push(sum);
    }
    let (crowd, scan) = (REQUESTS / 2..REQUESTS / 10 * 6, REQUESTS / 4 * 3);
    let (mut requests, mut now_ms) = (Vec::with_capacity(REQUESTS + OBJECTS), 0.0);
    for number in 0..REQUESTS {
        now_ms += 1000.0 / REQUESTS_PER_S;
        let popular = cumulated.partition_point(|below| *below < random.next() * sum).min(OBJECTS - 1);
        let in_crowd = crowd.contains(&number) && random.next() < 0.5;
        let at = if in_crowd { OBJECTS - 1 - (random.next() * 20.0) as usize } else { popular };
        requests.push((now_ms as u64, at));
        requests.extend(number.checked_sub(scan).filter(|at| *at < OBJECTS).map(|at| (now_ms as u64, at)));
    }
    Trace { name: format!("zipf {exponent}"), seed, paths, bytes, requests }
}

/// As the load generator of tests and demo asks: everything alike, so that there is nothing to be learned.
fn uniform(seed: u64) -> Trace {
    let mut random = Random(seed);
    let (paths, bytes) = objects(&mut random);
    let request = |number: usize| (number as f64 * 1000.0 / REQUESTS_PER_S) as u64;
    let requests = (0..REQUESTS).map(|number| (request(number), (random.next() * OBJECTS as f64) as usize)).collect();
    Trace { name: "uniform".into(), seed, paths, bytes, requests }
}

fn objects(random: &mut Random) -> (Vec<Arc<str>>, Vec<u64>) {
    let (least, most, exponent) = SIZES;
    let paths = (0..OBJECTS).map(|number| Arc::from(format!("/{number}"))).collect();
    let size = |draw: f64| (least / (1.0 - draw * (1.0 - (least / most).powf(exponent))).powf(1.0 / exponent)) as u64;
    (paths, (0..OBJECTS).map(|_| size(random.next())).collect())
}

/// Whole GET answers of a log; its lines are taken to be evenly spaced within each second.
fn recorded(name: &str, log: &str) -> Trace {
    let mut trace =
        Trace { name: name.to_owned(), seed: 0, paths: Vec::new(), bytes: Vec::new(), requests: Vec::new() };
    let mut numbers: HashMap<String, usize> = HashMap::new();
    let (mut first, mut last, mut in_second) = (None, 0, 0);
    for line in log.lines() {
        let Some((second, path, bytes)) = entry(line) else { continue };
        in_second = if second == last { in_second + 1 } else { 0 };
        last = second;
        let now_ms = (second - *first.get_or_insert(second)).max(0) as u64 * 1000 + in_second.min(999);
        let at = *numbers.entry(path.to_owned()).or_insert_with(|| {
            trace.paths.push(Arc::from(path));
            trace.bytes.push(bytes);
            trace.paths.len() - 1
        });
        trace.requests.push((now_ms, at));
    }
    trace
}

/// Seconds, path and bytes of a line like `- - - [10/Oct/2000:13:55:36 -0700] "GET /x.gif HTTP/1.0" 200 2326`.
fn entry(line: &str) -> Option<(i64, &str, u64)> {
    let (_, rest) = line.split_once('[')?;
    let (time, rest) = rest.split_once("] \"")?;
    let (request, rest) = rest.split_once("\" ")?;
    let (path, _) = request.strip_prefix("GET ")?.split_once(' ')?;
    let mut answer = rest.strip_prefix("200 ")?.split(' ');
    let bytes = answer.next()?.parse().ok().filter(|bytes| *bytes > 0)?;
    let mut parts = time.split([':', ' ']);
    let mut date = parts.next()?.split('/');
    let day: i64 = date.next()?.parse().ok()?;
    let month = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let month = date.next().and_then(|name| month.iter().position(|known| *known == name))? as i64;
    let clock: Vec<i64> = parts.take(3).map_while(|part| part.parse().ok()).collect();
    let [hours, minutes, seconds] = clock[..] else { return None };
    // Months of 31 days: gaps are no matter, only the order is.
    Some((((month * 31 + day) * 24 + hours) * 3600 + minutes * 60 + seconds, path, bytes))
}

/// SplitMix64 (Steele and others 2014), from 0 to 1.
struct Random(u64);

impl Random {
    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let bits = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((bits ^ (bits >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }
}
