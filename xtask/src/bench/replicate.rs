//! What replication costs an origin and its hosts: real agents behind real proxies, mutual TLS over loopback.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use p2pcdn_tests::{Dist, Lab, Site, content::noise, invite_each_other, poll};
use serde::Serialize;

use super::{
    BenchError, machine, median,
    report::{self, Line, Required},
    write_json,
};
use crate::layout::Layout;

#[derive(clap::Args)]
pub(crate) struct ReplicateArgs {
    /// Rounds; the result is the median.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(3..=99))]
    rounds: u32,

    /// Write the figures and every round to this file, as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

const HOSTS: usize = 8;
const LARGE_BYTES: usize = 64 << 20;
const SMALL_OBJECTS: u64 = 10_000;
const SMALL_BYTES: usize = 4 << 10;
/// How long anything may take.
const DEADLINE: Duration = Duration::from_secs(180);

#[derive(Debug, Serialize)]
struct Figures {
    /// Bytes that the origin sends for one object and eight hosts, over the object's size.
    origin_upload_over_size: f64,
    small_objects_per_s: f64,
    /// CPU time of the origin's agent and of the busiest host's, for one round of both kinds.
    agent_cpu_s: f64,
    /// The most memory that any agent has had.
    agent_peak_mib: f64,
    rounds: Vec<Round>,
}

#[derive(Debug, Serialize)]
struct Round {
    /// One object of 64 MiB to eight hosts.
    large: Spread,
    /// Ten thousand objects of 4 KiB to one host.
    small: Spread,
}

#[derive(Debug, Serialize)]
struct Spread {
    seconds: f64,
    origin_upload_over_size: f64,
    objects_per_s: f64,
    origin_cpu_s: f64,
    /// Of the busiest one.
    host_cpu_s: f64,
    origin_peak_mib: f64,
    /// Of the largest one.
    host_peak_mib: f64,
}

pub(super) fn run(layout: &Layout, envoy: &Path, args: &ReplicateArgs) -> Result<(), BenchError> {
    let dist = Dist::at(envoy, &layout.dist())?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(BenchError::io("start the runtime"))?.block_on(measure(&dist, args))
}

async fn measure(dist: &Dist, args: &ReplicateArgs) -> Result<(), BenchError> {
    let mut rounds = Vec::new();
    for number in 1..=args.rounds {
        let (large, small) = (large(dist).await?, small(dist).await?);
        println!(
            "round {number}: {:.2} x the object left the origin in {:.1} s; {:.0} small objects/s",
            large.origin_upload_over_size, large.seconds, small.objects_per_s
        );
        rounds.push(Round { large, small });
    }
    let of = |figure: fn(&Round) -> f64| median(rounds.iter().map(figure));
    let cpu_s = |spread: &Spread| spread.origin_cpu_s + spread.host_cpu_s;
    let peak_mib = |spread: &Spread| spread.origin_peak_mib.max(spread.host_peak_mib);
    let figures = Figures {
        origin_upload_over_size: of(|round| round.large.origin_upload_over_size),
        small_objects_per_s: of(|round| round.small.objects_per_s),
        agent_cpu_s: median(rounds.iter().map(|round| cpu_s(&round.large) + cpu_s(&round.small))),
        agent_peak_mib: median(rounds.iter().map(|round| peak_mib(&round.large).max(peak_mib(&round.small)))),
        rounds,
    };
    let line = |name, reached, required| Line { name, reached, required };
    report::print(&[
        line("origin's upload over size", figures.origin_upload_over_size, Required::AtMost(1.3)),
        line("small objects per second", figures.small_objects_per_s, Required::AtLeast(2000.0)),
    ]);
    println!(
        "agents of origin and busiest host: {:.1} s of CPU; the largest agent: {:.0} MiB",
        figures.agent_cpu_s, figures.agent_peak_mib
    );
    args.json.as_ref().map_or(Ok(()), |path| write_json(path, &figures))
}

/// One object of 64 MiB from a site to its eight peers, all of which know each other.
async fn large(dist: &Dist) -> Result<Spread, BenchError> {
    let lab = Lab::with(dist.clone())?;
    let mut sites = sites(&lab, HOSTS)?;
    invite_each_other(&mut sites);
    for site in &mut sites {
        site.start_agent()?;
        site.start_envoy()?;
    }
    for site in &mut sites {
        site.ready().await?;
    }
    for site in &sites {
        acquainted(site, HOSTS).await?;
    }
    let (origin, hosts) = (&sites[0], &sites[1..]);
    let object = noise(1, LARGE_BYTES);
    let watch = Watch::start(origin, hosts).await?;
    origin.content.put("/large.zip", &object)?;
    for host in hosts {
        holds(host, 1).await?;
    }
    watch.stop(1, LARGE_BYTES).await
}

/// Ten thousand objects of 4 KiB from a site that has them to a peer that comes up.
async fn small(dist: &Dist) -> Result<Spread, BenchError> {
    let lab = Lab::with(dist.clone())?;
    let mut sites = sites(&lab, 1)?;
    invite_each_other(&mut sites);
    for number in 0..SMALL_OBJECTS {
        sites[0].content.put(&format!("/{number}.png"), &noise(number, SMALL_BYTES))?;
    }
    sites[0].start().await?;
    let catalogued = poll(DEADLINE, "catalogue", async || {
        let own = metric(&sites[0], "p2pcdn_own_objects").await.map_err(|error| error.to_string())?;
        if own as u64 == SMALL_OBJECTS { Ok(()) } else { Err(format!("{own} objects")) }
    });
    catalogued.await?;
    sites[1].start_agent()?;
    sites[1].start_envoy()?;
    let (origin, hosts) = (&sites[0], &sites[1..]);
    let mut watch = Watch::start(origin, hosts).await?;
    // From the last look at an empty host.
    let begun = poll(DEADLINE, "first replicas", async || {
        let looked = Instant::now();
        if metric(origin, "p2pcdn_uploaded_bytes_total").await.map_err(|error| error.to_string())? > 0.0 {
            return Ok(());
        }
        watch.begun = looked;
        Err("none yet".to_owned())
    });
    begun.await?;
    holds(&hosts[0], SMALL_OBJECTS).await?;
    watch.stop(SMALL_OBJECTS, SMALL_OBJECTS as usize * SMALL_BYTES).await
}

/// An origin and its hosts, not started.
fn sites(lab: &Lab, hosts: usize) -> Result<Vec<Site>, BenchError> {
    let names = (0..=hosts).map(|number| if number == 0 { "origin".to_owned() } else { format!("host{number}") });
    let site = |name: String| {
        let mut site = lab.site(&name)?;
        site.workers(1);
        for key in ["host.pull_bandwidth", "host.pull_per_origin", "share.upload_bandwidth", "share.upload_per_peer"] {
            site.set(key, "4GB");
        }
        site.set("host.lease", "1GB");
        site.set("share.min_object", "1KiB");
        site.set("share.replicas", hosts);
        site.set("site.csp", "none");
        Ok(site)
    };
    names.map(site).collect()
}

/// Waits until the site has granted and been granted leases by so many peers.
async fn acquainted(site: &Site, peers: usize) -> Result<(), BenchError> {
    let acquainted = poll(DEADLINE, format!("peers of {}", site.name), async || {
        let status = site.status().await.map_err(|error| error.to_string())?;
        let listed = status["peers"].as_array().into_iter().flatten();
        let known = listed.filter(|peer| peer["lease_bytes_per_s"].as_u64() > Some(0)).count();
        if known == peers { Ok(()) } else { Err(format!("{known} of {peers}")) }
    });
    Ok(acquainted.await?)
}

/// Waits until the host holds so many objects.
async fn holds(host: &Site, objects: u64) -> Result<(), BenchError> {
    let held = poll(DEADLINE, format!("{objects} replicas at {}", host.name), async || {
        let replicas = metric(host, "p2pcdn_replicas").await.map_err(|error| error.to_string())?;
        if replicas as u64 >= objects { Ok(()) } else { Err(format!("{replicas} replicas")) }
    });
    Ok(held.await?)
}

/// The sum of a metric over all its labels; 0 if there is none yet.
async fn metric(site: &Site, name: &str) -> Result<f64, BenchError> {
    let answer = site.local("/metrics").await?;
    let text = String::from_utf8_lossy(answer.body()).into_owned();
    let value = |line: &str| {
        let (metric, value) = line.rsplit_once(' ')?;
        let is_it = metric.split('{').next() == Some(name);
        is_it.then(|| value.parse::<f64>().ok()).flatten()
    };
    Ok(text.lines().filter_map(value).sum())
}

/// What the agents have used up since it was started.
struct Watch<'a> {
    origin: &'a Site,
    hosts: &'a [Site],
    begun: Instant,
    uploaded: f64,
    cpu_s: Vec<f64>,
}

impl<'a> Watch<'a> {
    async fn start(origin: &'a Site, hosts: &'a [Site]) -> Result<Self, BenchError> {
        let uploaded = metric(origin, "p2pcdn_uploaded_bytes_total").await?;
        let mut watch = Self { origin, hosts, begun: Instant::now(), uploaded, cpu_s: Vec::new() };
        watch.cpu_s = watch.agents().map(cpu_s).collect::<Result<_, _>>()?;
        Ok(watch)
    }

    async fn stop(self, objects: u64, bytes: usize) -> Result<Spread, BenchError> {
        let seconds = self.begun.elapsed().as_secs_f64();
        let uploaded = metric(self.origin, "p2pcdn_uploaded_bytes_total").await? - self.uploaded;
        let (mut cpu, mut peak) = (Vec::new(), Vec::new());
        for (agent, before) in self.agents().zip(&self.cpu_s) {
            cpu.push(cpu_s(agent)? - before);
            let bytes = machine::resident_bytes(agent, "VmHWM").map_err(BenchError::io("read an agent's memory"))?;
            peak.push(bytes as f64 / f64::from(1 << 20));
        }
        let most = |of: &[f64]| of.iter().skip(1).copied().fold(0.0, f64::max);
        Ok(Spread {
            seconds,
            origin_upload_over_size: uploaded / bytes as f64,
            objects_per_s: objects as f64 / seconds,
            origin_cpu_s: cpu[0],
            host_cpu_s: most(&cpu),
            origin_peak_mib: peak[0],
            host_peak_mib: most(&peak),
        })
    }

    /// Process ids, the origin's first.
    fn agents(&self) -> impl Iterator<Item = u32> {
        [self.origin].into_iter().chain(self.hosts).map(|site| site.agent.id().unwrap_or_default())
    }
}

fn cpu_s(process: u32) -> Result<f64, BenchError> {
    machine::cpu_s(process).map_err(BenchError::io("read an agent's CPU time"))
}
