//! The table of a million objects: loading it, changes under load, and how soon a change is in force.

mod probe;

use std::{fmt, path::PathBuf, time::Duration};

use serde::Serialize;
use tokio::time::{Instant, sleep};

use super::{
    Bed, BenchError, load, median,
    proxy::{Handler, Proxy},
    publisher::{ALL, Publisher},
    report::{self, Line, Required},
    write_json,
};

#[derive(clap::Args)]
pub(crate) struct TableArgs {
    /// Pairs of measurements without and with changes; the result is the median.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(3..=99))]
    rounds: u32,

    /// Seconds of each measurement.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=60))]
    seconds: u32,

    /// Write the figures to this file, as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

const OBJECTS: u32 = 1_000_000;
const CHANGES_PER_S: u32 = 10_000;
const LISTENER: &str = "table";
const PREFIX: &str = "/objects/";
/// The filter's `tick_ms` where its configuration says nothing.
const TICK_MS: f64 = 250.0;
/// What a tick may take.
const LONGEST_TICK_MS: f64 = 2.0;
/// Names that a holder is given one after the other. Each is given as soon as all workers know the one before, so soon after a tick.
const RENAMINGS: u32 = 12;
/// Time that the loop of a worker without requests is watched.
const WATCHED: Duration = Duration::from_secs(8);
/// Makes Envoy measure how long each turn of a worker's event loop takes; it adds these up once a second.
const MEASURE_LOOPS: &str = "{ enable_dispatcher_stats: true, stats_flush_interval: 1s }";
const FLUSHED: Duration = Duration::from_millis(2500);

#[derive(Debug, Serialize)]
struct Figures {
    p99_with_changes_over_without: f64,
    /// Longest turn of the event loop of a worker that serves no requests, in ms, over loading and over the change stream. It has at
    /// most a tick and an answer of the agent in it, so no tick took longer.
    longest_tick_ms: f64,
    /// Time until every worker has a change, at most, in ticks.
    visible_within_ticks: f64,
    /// CPU seconds of the agent's table over the whole benchmark: filling it, sending it to three VMs, and the changes.
    agent_cpu_s: f64,
    /// Most that it had in memory.
    agent_rss_mib: f64,
    loading_s: f64,
    rounds: Vec<Round>,
}

/// 99th percentiles of latency, in microseconds.
#[derive(Debug, Clone, Copy, Serialize)]
struct Round {
    without_us: u64,
    with_us: u64,
}

pub(super) async fn run(bed: &Bed, args: &TableArgs) -> Result<(), BenchError> {
    println!("filling a table of {OBJECTS} objects");
    let publisher = Publisher::start(bed, "table", OBJECTS, ALL).await?;
    let filled_s = publisher.cpu_s()?;
    let handlers = [(LISTENER, Handler::Filter(&publisher))];

    let proxy = Proxy::start(bed, "envoy", 1, MEASURE_LOOPS, &handlers).await?;
    let mut connection = probe::Connection::open(proxy.address(LISTENER)?).await?;
    sleep(FLUSHED).await;
    let before = loops(&proxy).await?;
    let (start, ran_before) = (Instant::now(), proxy.worker_ns()?);
    // A VM asks for the table once it has served a request.
    connection.location().await?;
    publisher.loaded_by(1).await?;
    let loading_s = start.elapsed().as_secs_f64();
    let loading_ran_s = proxy.worker_ns()?.saturating_sub(ran_before) as f64 / 1e9;
    let loading = watch(&proxy, &before, FLUSHED).await?;
    let sent_s = publisher.cpu_s()? - filled_s;
    println!("loaded in {loading_s:.1} s, {loading_ran_s:.2} s of the worker's CPU time; {loading}");

    let before = loops(&proxy).await?;
    publisher.change(CHANGES_PER_S).await?;
    let changing_before_s = publisher.cpu_s()?;
    let changing = watch(&proxy, &before, WATCHED).await?;
    let changing_s = (publisher.cpu_s()? - changing_before_s) / WATCHED.as_secs_f64();
    println!("{CHANGES_PER_S} changes a second: {changing}");

    let rounds = compare(bed, &proxy, &publisher, args).await?;
    drop(proxy);
    let visible_within_ticks = visible(bed, &publisher, &handlers).await?;

    let figures = Figures {
        p99_with_changes_over_without: median(rounds.iter().map(|r| r.with_us as f64 / r.without_us.max(1) as f64)),
        longest_tick_ms: loading.longest_ms.max(changing.longest_ms),
        visible_within_ticks,
        agent_cpu_s: publisher.cpu_s()?,
        agent_rss_mib: publisher.peak_bytes()? as f64 / f64::from(1 << 20),
        loading_s,
        rounds,
    };
    show(&figures);
    println!(
        "agent: {:.1} s of CPU in all (filling {filled_s:.1}, sending to one VM {sent_s:.1}, {:.0} % of a core over changes), {:.0} MiB",
        figures.agent_cpu_s,
        changing_s * 100.0,
        figures.agent_rss_mib
    );
    args.json.as_ref().map_or(Ok(()), |path| write_json(path, &figures))
}

/// Latencies without and with changes, in turn.
async fn compare(bed: &Bed, proxy: &Proxy, publisher: &Publisher, args: &TableArgs) -> Result<Vec<Round>, BenchError> {
    let url = format!("http://{}", proxy.address(LISTENER)?);
    let mut rounds = Vec::new();
    for number in 1..=args.rounds {
        let mut p99_us = [0, 0];
        for (p99_us, per_s) in p99_us.iter_mut().zip([0, CHANGES_PER_S]) {
            publisher.change(per_s).await?;
            // Ticks of the phase before are over.
            sleep(Duration::from_secs(1)).await;
            *p99_us = load::offer(bed, &url, PREFIX, OBJECTS, args.seconds)?.p99_us;
        }
        let [without_us, with_us] = p99_us;
        println!("round {number}: p99 {without_us} us without changes, {with_us} us with");
        rounds.push(Round { without_us, with_us });
    }
    Ok(rounds)
}

/// Over two workers, under changes: the longest time until all connections see a change, in ticks.
async fn visible(
    bed: &Bed,
    publisher: &Publisher,
    handlers: &[(&'static str, Handler<'_>)],
) -> Result<f64, BenchError> {
    let proxy = Proxy::start(bed, "envoy2", 2, "{}", handlers).await?;
    let mut connections = probe::Connections::open(&proxy, LISTENER).await?;
    // The VM of the first proxy has said that it has everything, and now these two.
    publisher.loaded_by(3).await?;
    let mut longest_ms: f64 = 0.0;
    for number in 0..RENAMINGS {
        let name = format!("replica{number}.a.example");
        let start = Instant::now();
        publisher.rename(&name).await?;
        connections.see(&name).await?;
        longest_ms = longest_ms.max(start.elapsed().as_secs_f64() * 1000.0);
    }
    Ok(longest_ms / TICK_MS)
}

/// How often a turn of the worker's event loop took at most so long: microseconds (rounded up to two digits), turns.
type Loops = Vec<(u64, u64)>;

async fn loops(proxy: &Proxy) -> Result<Loops, BenchError> {
    const NAME: &str = "listener_manager.worker_0.dispatcher.loop_duration_us";
    let text = proxy.admin(&format!("/stats?format=json&histogram_buckets=detailed&filter={NAME}")).await?;
    let stats: serde_json::Value = serde_json::from_str(&text)?;
    let totals = stats["stats"][0]["histograms"]["details"][0]["totals"].as_array();
    let totals = totals.ok_or_else(|| BenchError::Stat(NAME.into()))?;
    let bucket = |bucket: &serde_json::Value| {
        let upper_us = bucket["lower_bound"].as_f64()? + bucket["width"].as_f64()?;
        Some((upper_us.ceil() as u64, bucket["count"].as_u64()?))
    };
    totals.iter().map(|b| bucket(b).ok_or_else(|| BenchError::Stat(NAME.into()))).collect()
}

/// Turns of the loop in some time.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Turns {
    longest_ms: f64,
    /// Turns that took longer than a tick may. On a busy machine, some of them have waited for the core.
    long: u64,
    all: u64,
}

impl fmt::Display for Turns {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { longest_ms, long, all } = self;
        write!(out, "longest turn of the loop {longest_ms:.2} ms, {long} of {all} above {LONGEST_TICK_MS} ms")
    }
}

/// The turns since `before`, once some time has passed.
async fn watch(proxy: &Proxy, before: &Loops, time: Duration) -> Result<Turns, BenchError> {
    sleep(time).await;
    Ok(turns(before, &loops(proxy).await?))
}

fn turns(before: &Loops, after: &Loops) -> Turns {
    let known = |us| before.iter().find(|(bound, _)| *bound == us).map_or(0, |(_, count)| *count);
    let mut turns = Turns { longest_ms: 0.0, long: 0, all: 0 };
    for (us, count) in after {
        let (ms, new) = (*us as f64 / 1000.0, count.saturating_sub(known(*us)));
        turns.all += new;
        if new > 0 {
            turns.longest_ms = turns.longest_ms.max(ms);
            turns.long += if ms > LONGEST_TICK_MS { new } else { 0 };
        }
    }
    turns
}

fn show(figures: &Figures) {
    let line = |name, reached, most| Line { name, reached, required: Required::AtMost(most) };
    report::print(&[
        line("p99 with changes over without", figures.p99_with_changes_over_without, 1.25),
        line("longest tick, ms", figures.longest_tick_ms, LONGEST_TICK_MS),
        line("in force everywhere, ticks", figures.visible_within_ticks, 3.0),
    ]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_turns_that_were_added_count() {
        let before = vec![(10, 5), (90_000, 1)];
        let after = vec![(10, 7), (1200, 1), (2100, 3), (90_000, 1)];
        assert_eq!(turns(&before, &after), Turns { longest_ms: 2.1, long: 3, all: 6 });
        assert_eq!(turns(&after, &after), Turns { longest_ms: 0.0, long: 0, all: 0 });
    }
}
