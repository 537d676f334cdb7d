//! What deciding costs stock nginx, and how fast the agent decides.

use std::{
    collections::BTreeMap,
    fs,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::PathBuf,
    time::Duration,
};

use comfy_table::{Table, presets};
use p2pcdn_tests::{poll, process::Program};
use serde::Serialize;

use super::{
    Bed, BenchError,
    load::{self, Pace},
    machine, median,
    proxy::between,
    publisher::Publisher,
    report::{self, Line, Required},
    write_json,
};
use crate::setup;

#[derive(clap::Args)]
pub(crate) struct NginxArgs {
    /// Rounds; the result is the median.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(3..=99))]
    rounds: u32,

    /// Seconds of each measurement; there are five in a round.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=60))]
    seconds: u32,

    /// Write ratios and every round's figures to this file, as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

const OBJECTS: u32 = 100_000;
const FRAME: &str = include_str!("nginx/nginx.conf");
/// What nginx asks the agent, around the number of an object; what the browser said of itself follows.
const DECIDE: [&str; 2] = [
    "GET /v1/decide HTTP/1.1\r\nX-Original-URI: /objects/",
    ".png\r\nHost: p2pcdn\r\nX-Original-Method: GET\r\nX-Original-Host: www.example.org\r\nX-Forwarded-For: 192.0.2.7\r\n",
];
/// What nginx does without any decision.
const PLAIN: &str = "location / { return 307 https://replica.example/x.png; }\n";
const PATIENCE: Duration = Duration::from_secs(60);

/// One nginx in one round.
#[derive(Debug, Clone, Copy, Serialize)]
struct Figure {
    /// CPU time of nginx in microseconds per request.
    cpu_us: f64,
    /// CPU time of the agent in microseconds per request.
    agent_cpu_us: f64,
    requests_per_s: f64,
    p99_us: u64,
}

type Round = BTreeMap<&'static str, Figure>;

#[derive(Debug, Serialize)]
struct Figures {
    /// CPU time of nginx per request: without a decision over with one by the agent.
    auth_request_over_plain: f64,
    /// The same with the map file.
    map_over_plain: f64,
    /// The agent alone on one core.
    decide_per_s: f64,
    decide_half_load: HalfLoad,
    rounds: Vec<Round>,
}

/// The agent at about half the rate that it is to reach.
#[derive(Debug, Clone, Copy, Serialize)]
struct HalfLoad {
    requests_per_s: f64,
    p99_us: f64,
}

const VARIANTS: [&str; 3] = ["plain", "auth_request", "map"];

pub(super) async fn run(bed: &Bed, args: &NginxArgs) -> Result<(), BenchError> {
    println!("filling the agent's table with {OBJECTS} objects");
    let map = bed.lab.directory().join("nginx-map.conf");
    let publisher = Publisher::for_nginx(bed, "agent", OBJECTS, &map).await?;
    let mut servers = BTreeMap::new();
    for variant in VARIANTS {
        servers.insert(variant, Nginx::start(bed, variant, &publisher).await?);
    }
    // The first request has the table loaded.
    offer(bed, servers["auth_request"].address, 1)?;
    publisher.loaded_by(1).await?;

    let mut rounds = Vec::new();
    for number in 1..=args.rounds {
        let mut round = Round::new();
        for variant in VARIANTS {
            round.insert(variant, measure(bed, &servers[variant], &publisher, args.seconds)?);
        }
        let line: Vec<_> = VARIANTS.iter().map(|v| format!("{v} {:.1}", round[v].cpu_us)).collect();
        println!("round {number}, us of nginx's CPU a request: {}", line.join(", "));
        rounds.push(round);
    }
    drop(servers);
    drop(publisher);
    let alone = bed.lab.directory().join("alone.conf");
    let publisher = bed.cores.start_alone(|| Publisher::for_nginx(bed, "agent-alone", OBJECTS, &alone))?.await?;
    let (decide_per_s, decide_half_load) = decide(bed, &publisher, args).await?;

    let over_plain = |variant: &str| median(rounds.iter().map(|r| r["plain"].cpu_us / r[variant].cpu_us));
    let figures = Figures {
        auth_request_over_plain: over_plain("auth_request"),
        map_over_plain: over_plain("map"),
        decide_per_s,
        decide_half_load,
        rounds,
    };
    show(&figures);
    args.json.as_ref().map_or(Ok(()), |path| write_json(path, &figures))
}

fn offer(bed: &Bed, address: SocketAddr, seconds: u32) -> Result<load::Counted, BenchError> {
    load::offer(bed, &format!("http://{address}"), "/objects/", OBJECTS, seconds)
}

fn measure(bed: &Bed, nginx: &Nginx, agent: &Publisher, seconds: u32) -> Result<Figure, BenchError> {
    let before = (nginx.cpu_s()?, agent.cpu_s()?);
    let counted = offer(bed, nginx.address, seconds)?;
    let ran = (nginx.cpu_s()? - before.0, agent.cpu_s()? - before.1);
    let us = |s: f64| s * 1e6 / counted.requests as f64;
    Ok(Figure {
        cpu_us: us(ran.0),
        agent_cpu_us: us(ran.1),
        requests_per_s: counted.requests as f64 * 1e6 / counted.duration_us.max(1) as f64,
        p99_us: counted.p99_us,
    })
}

/// What the agent reaches alone on its core, and how late its answers are at about half of what it is to reach.
async fn decide(bed: &Bed, agent: &Publisher, args: &NginxArgs) -> Result<(f64, HalfLoad), BenchError> {
    let url = format!("http://{}", agent.address);
    let ask = |pace: Pace, seconds: u32| load::ask(bed, &url, DECIDE, OBJECTS, pace, seconds);
    let full_load = Pace { connections: 16, delay_ms: 0 };
    // wrk waits in whole milliseconds: 20 connections that wait 2 ms each ask 10 000 times a second at most.
    let half_load = Pace { connections: 20, delay_ms: 2 };
    ask(full_load, 1)?;
    agent.loaded_by(1).await?;
    let (mut full, mut half, mut late) = (Vec::new(), Vec::new(), Vec::new());
    let rate = |counted: &load::Counted| counted.requests as f64 * 1e6 / counted.duration_us.max(1) as f64;
    for _ in 0..args.rounds {
        full.push(rate(&ask(full_load, args.seconds)?));
        let counted = ask(half_load, args.seconds)?;
        half.push(rate(&counted));
        late.push(counted.p99_us as f64);
    }
    Ok((median(full), HalfLoad { requests_per_s: median(half), p99_us: median(late) }))
}

/// A running nginx with one worker, alone on its core.
struct Nginx {
    program: Program,
    address: SocketAddr,
}

impl Nginx {
    async fn start(bed: &Bed, variant: &str, agent: &Publisher) -> Result<Self, BenchError> {
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|held| held.local_addr());
        let address = free.map_err(BenchError::io("find a free port"))?;
        let directory = bed.lab.directory().join(variant);
        fs::create_dir_all(&directory).map_err(BenchError::io("make a directory for nginx"))?;
        let (http, server) = match variant {
            "auth_request" => asking(bed, agent)?,
            "map" => mapping(bed, agent)?,
            _ => (String::new(), PLAIN.to_owned()),
        };
        let text = FRAME.replace("«directory»", &directory.display().to_string()).replace("«http»\n", &http);
        let text = text.replace("«listen»", &address.to_string()).replace("«server»\n", &server);
        let file = directory.join("nginx.conf");
        fs::write(&file, text).map_err(BenchError::io("write nginx's configuration"))?;
        let path = setup::find_program("nginx").unwrap_or_else(|| "nginx".into());
        let mut program = Program::new(variant, &path, vec!["-c".into(), file.into_os_string()], &directory);
        bed.cores.start_alone(|| program.start())??;
        let ready = poll(PATIENCE, "answer from nginx", async || {
            if let Err(ended) = program.check() {
                return Ok(Err(ended));
            }
            bed.lab.client.get(&format!("http://{address}/")).await.map(|_| Ok(()))
        });
        ready.await??;
        Ok(Self { program, address })
    }

    fn cpu_s(&self) -> Result<f64, BenchError> {
        machine::cpu_s(self.program.id().unwrap_or_default()).map_err(BenchError::io("read nginx's CPU time"))
    }
}

/// The parts of stock-auth-request.conf that decide.
fn asking(bed: &Bed, agent: &Publisher) -> Result<(String, String), BenchError> {
    let shipped = shipped(bed, "stock-auth-request.conf")?.replace("127.0.0.1:7080", &agent.address);
    let upstream = between(&shipped, "upstream p2pcdn_agent", "# The agent's listen.replica.")?;
    let maps = between(&shipped, "# Visitors whom a host has sent back", "server {\n        listen 127.0.0.1:8443")?;
    let decides = between(&shipped, "# Static content.", "location @p2pcdn_rescue")?;
    let asks = between(&shipped, "# Where the agent is asked", "location ^~ /.well-known/p2pcdn/ {")?;
    Ok((format!("{upstream}{maps}"), format!("{decides}{asks}")))
}

/// The parts of stock-map.conf that decide.
fn mapping(bed: &Bed, agent: &Publisher) -> Result<(String, String), BenchError> {
    let map = bed.lab.directory().join("nginx-map.conf").display().to_string();
    let shipped = shipped(bed, "stock-map.conf")?.replace("/var/lib/p2pcdn/nginx-map.conf", &map);
    let log = agent.log_address().ok_or_else(|| BenchError::Stat("address for nginx's log".into()))?;
    let shipped = shipped.replace("127.0.0.1:7084", &log);
    let maps = between(&shipped, "# Room for 200,000 lines", "server {\n        listen 127.0.0.1:8443")?;
    let decides = between(&shipped, "# Static content.", "# Return URLs")?;
    Ok((maps.to_owned(), decides.to_owned()))
}

fn shipped(bed: &Bed, name: &str) -> Result<String, BenchError> {
    let file = bed.lab.dist.nginx_config.join(name);
    fs::read_to_string(&file).map_err(BenchError::io(format!("read {}", file.display())))
}

fn show(figures: &Figures) {
    let mut table = Table::new();
    let header = ["median of rounds", "nginx CPU us/request", "agent CPU us/request", "requests/s", "p99 us"];
    table.load_style(presets::UTF8_FULL_CONDENSED).set_header(header);
    for variant in VARIANTS {
        let of = |field: fn(&Figure) -> f64| median(figures.rounds.iter().map(|round| field(&round[variant])));
        let (cpu, agent, rate) = (of(|f| f.cpu_us), of(|f| f.agent_cpu_us), of(|f| f.requests_per_s));
        let p99 = of(|f| f.p99_us as f64);
        table.add_row([
            variant.to_owned(),
            format!("{cpu:.2}"),
            format!("{agent:.2}"),
            format!("{rate:.0}"),
            format!("{p99:.0}"),
        ]);
    }
    println!("\n{table}");
    println!(
        "auth_request over plain {:.3}, map over plain {:.3}",
        figures.auth_request_over_plain, figures.map_over_plain
    );
    report::print(&[
        Line {
            name: "decisions a second on one core",
            reached: figures.decide_per_s,
            required: Required::AtLeast(20_000.0),
        },
        Line {
            name: "p99 us at about 10 000 a second",
            reached: figures.decide_half_load.p99_us,
            required: Required::AtMost(2000.0),
        },
    ]);
    println!("the latter at {:.0} a second", figures.decide_half_load.requests_per_s);
}
