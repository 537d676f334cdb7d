//! What serving replicas costs a host, beside nginx with the same files.

mod servers;
mod slow;

use std::{collections::BTreeMap, fs, path::PathBuf, process::Command};

use comfy_table::{Table, presets};
use serde::{Deserialize, Serialize};

use super::{
    Bed, BenchError, median,
    report::{self, Line, Required},
    write_json,
};
use crate::process;
use servers::{SIZES, Server, Servers, Size};

#[derive(clap::Args)]
pub(crate) struct ServeArgs {
    /// Rounds; the result is the median.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(5..=99))]
    rounds: u32,

    /// Seconds of each measurement; there are twelve in a round.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=60))]
    seconds: u32,

    /// Write ratios and every round's figures to this file, as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

const CONNECTIONS: &str = "16";
const SCRIPT: &str = include_str!("serve/load.lua");

/// One server with objects of one size in one round.
#[derive(Debug, Clone, Copy, Serialize)]
struct Figure {
    answers_per_s: f64,
    /// CPU time of the server's whole process in microseconds per answer.
    cpu_us: f64,
    /// Share of the measurement that the server has run: below 1, something else was the bottleneck.
    busy: f64,
    p99_us: u64,
}

/// By way, size and server, as in `envoy_4k_agent` or `direct_8m_nginx`.
type Round = BTreeMap<String, Figure>;

#[derive(Debug, Serialize)]
struct Figures {
    /// Throughput through Envoy: agent over nginx.
    over_nginx_4k: f64,
    over_nginx_64k: f64,
    over_nginx_8m: f64,
    /// Growth of the agent's resident memory for each of a thousand clients that read 1 KiB/s, connected to the agent itself.
    bytes_per_slow_reader: f64,
    /// What the kernel keeps for each in the sockets of both sides.
    kernel_bytes_per_slow_reader: f64,
    /// CPU time per answer through Envoy: nginx over agent.
    cpu_over_nginx_4k: f64,
    cpu_over_nginx_64k: f64,
    cpu_over_nginx_8m: f64,
    /// Throughput without Envoy, where the server itself is the bottleneck: agent over nginx.
    direct_over_nginx_4k: f64,
    direct_over_nginx_64k: f64,
    direct_over_nginx_8m: f64,
    rounds: Vec<Round>,
}

/// The way to a server.
const WAYS: [&str; 2] = ["envoy", "direct"];

pub(super) async fn run(bed: &Bed, args: &ServeArgs) -> Result<(), BenchError> {
    println!("bringing replicas to a host");
    let servers = Servers::start(bed).await?;
    let mut rounds = Vec::new();
    for number in 1..=args.rounds {
        let mut round = Round::new();
        for way in WAYS {
            for size in &SIZES {
                for server in Server::BOTH {
                    let figure = measure(bed, &servers, way, size, server, args.seconds)?;
                    round.insert(key(way, size, server), figure);
                }
            }
        }
        let line: Vec<_> = round.iter().map(|(key, figure)| format!("{key} {:.0}", figure.answers_per_s)).collect();
        println!("round {number}, answers a second: {}", line.join(", "));
        rounds.push(round);
    }
    let slow = slow::measure(&servers).await?;

    let over_nginx = |way, size, figure: fn(&Figure) -> f64| {
        let of = |round: &Round, server| figure(&round[&key(way, &SIZES[size], server)]);
        median(rounds.iter().map(|round| of(round, Server::Agent) / of(round, Server::Nginx)))
    };
    let [fast, cheap] = [|figure: &Figure| figure.answers_per_s, |figure: &Figure| 1.0 / figure.cpu_us];
    let figures = Figures {
        over_nginx_4k: over_nginx("envoy", 0, fast),
        over_nginx_64k: over_nginx("envoy", 1, fast),
        over_nginx_8m: over_nginx("envoy", 2, fast),
        bytes_per_slow_reader: slow.resident_bytes,
        kernel_bytes_per_slow_reader: slow.kernel_bytes,
        cpu_over_nginx_4k: over_nginx("envoy", 0, cheap),
        cpu_over_nginx_64k: over_nginx("envoy", 1, cheap),
        cpu_over_nginx_8m: over_nginx("envoy", 2, cheap),
        direct_over_nginx_4k: over_nginx("direct", 0, fast),
        direct_over_nginx_64k: over_nginx("direct", 1, fast),
        direct_over_nginx_8m: over_nginx("direct", 2, fast),
        rounds,
    };
    show(&figures);
    args.json.as_ref().map_or(Ok(()), |path| write_json(path, &figures))
}

fn key(way: &str, size: &Size, server: Server) -> String {
    format!("{way}_{}_{}", size.name, server.name())
}

/// What wrk counted.
#[derive(Debug, Deserialize)]
struct Counted {
    requests: u64,
    bytes: u64,
    duration_us: u64,
    failed: u64,
    p99_us: u64,
}

fn measure(
    bed: &Bed,
    servers: &Servers,
    way: &str,
    size: &Size,
    server: Server,
    seconds: u32,
) -> Result<Figure, BenchError> {
    let script = bed.lab.directory().join("serve.lua");
    fs::write(&script, SCRIPT).map_err(BenchError::io(format!("write {}", script.display())))?;
    let address = if way == "envoy" { servers.envoy()? } else { servers.address(server) };
    let mut wrk = Command::new("wrk");
    wrk.args(["--threads", "1", "--connections", CONNECTIONS, "--duration", &format!("{seconds}s"), "--script"]);
    wrk.arg(&script).args([&format!("http://{address}"), "--", servers.host(server)]).args(servers.paths(size));
    let ran_before = servers.cpu_s(server)?;
    let said = process::read(&mut wrk)?;
    let ran_s = servers.cpu_s(server)? - ran_before;
    let counted = said.lines().rev().find(|line| line.starts_with('{'));
    let counted: Counted = serde_json::from_str(counted.ok_or_else(|| BenchError::Load(said.clone()))?)?;
    if counted.bytes == 0 || counted.failed > 0 {
        return Err(BenchError::Load(said));
    }
    // Of large objects few are complete when the time is over, but what came of the others counts as well. Of small ones the heads
    // would count too, which differ.
    let answers = match size.bytes {
        0..1_000_000 => counted.requests as f64,
        bytes => counted.bytes as f64 / bytes as f64,
    };
    let duration_s = counted.duration_us as f64 / 1e6;
    Ok(Figure {
        answers_per_s: answers / duration_s,
        cpu_us: ran_s * 1e6 / answers,
        busy: ran_s / duration_s,
        p99_us: counted.p99_us,
    })
}

fn show(figures: &Figures) {
    let mut table = Table::new();
    let header = ["median of rounds", "answers/s", "MB/s", "CPU us/answer", "server busy", "p99 us"];
    table.load_style(presets::UTF8_FULL_CONDENSED).set_header(header);
    for way in WAYS {
        for (size, server) in SIZES.iter().flat_map(|size| Server::BOTH.map(|server| (size, server))) {
            let key = key(way, size, server);
            let of = |field: fn(&Figure) -> f64| median(figures.rounds.iter().map(|round| field(&round[&key])));
            let rate = of(|f| f.answers_per_s);
            let (cpu, busy, p99) = (of(|f| f.cpu_us), of(|f| f.busy), of(|f| f.p99_us as f64));
            let mb = rate * size.bytes as f64 / 1e6;
            let cells = [format!("{rate:.0}"), format!("{mb:.0}"), format!("{cpu:.1}"), format!("{busy:.2}")];
            table.add_row([key].into_iter().chain(cells).chain([format!("{p99:.0}")]));
        }
    }
    println!("\n{table}");
    let line = |name, reached, required| Line { name, reached, required };
    report::print(&[
        line("4 KiB, throughput over nginx", figures.over_nginx_4k, Required::AtLeast(0.7)),
        line("64 KiB, throughput over nginx", figures.over_nginx_64k, Required::AtLeast(0.9)),
        line("8 MiB, throughput over nginx", figures.over_nginx_8m, Required::AtLeast(0.9)),
        line("bytes per slow reader", figures.bytes_per_slow_reader, Required::AtMost(65536.0)),
    ]);
    println!(
        "nginx's CPU time per answer over the agent's, through Envoy: {:.2}, {:.2}, {:.2}; throughput without Envoy, agent over nginx: \
         {:.2}, {:.2}, {:.2}; kernel memory per slow reader, both sides: {:.0} KiB",
        figures.cpu_over_nginx_4k,
        figures.cpu_over_nginx_64k,
        figures.cpu_over_nginx_8m,
        figures.direct_over_nginx_4k,
        figures.direct_over_nginx_64k,
        figures.direct_over_nginx_8m,
        figures.kernel_bytes_per_slow_reader / 1024.0
    );
}
