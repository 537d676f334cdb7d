//! `cargo xtask bench`: what the filter costs, beside what the proxy's own machinery costs in the same run.

use std::{fs, io, path::PathBuf};

use p2pcdn_tests::{
    Dist, Lab, Site,
    client::{self, Client},
    content::noise,
    invite_each_other, poll,
};
use serde::Serialize;
use tokio::{task::JoinSet, time::Duration};

use crate::{TaskError, dist, layout::Layout, setup};

#[derive(clap::Subcommand)]
pub(crate) enum Bench {
    /// CPU time of Envoy per request: direct response, the same behind the filter, native redirect, the filter's redirect.
    ///
    /// One Envoy with one worker, HTTP/1.1 over TLS, the variants in turn in every round. Ratios are reference / ours: 1 is level, more is
    /// better. Absolute figures include TLS and depend on the machine; compare ratios only.
    Redirect(RedirectArgs),
}

#[derive(clap::Args)]
pub(crate) struct RedirectArgs {
    /// Rounds; the result is the median.
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u32).range(3..=99))]
    rounds: u32,

    /// Requests per variant and round.
    #[arg(long, default_value_t = 4000, value_parser = clap::value_parser!(u32).range(100..=1_000_000))]
    requests: u32,

    /// Write ratios and every round's figures to this file, as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// Why a benchmark has no result.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BenchError {
    #[error(transparent)]
    Lab(#[from] p2pcdn_tests::Error),
    #[error(transparent)]
    Client(#[from] client::ClientError),
    #[error("{variant}: {wrong} of {all} answers were not {expected}")]
    Answers { variant: &'static str, wrong: u32, all: u32, expected: u16 },
    #[error("cannot {what}: {source}")]
    Io { what: String, source: io::Error },
    #[error("a request did not end: {0}")]
    Task(#[from] tokio::task::JoinError),
    #[error("writing the figures: {0}")]
    Json(#[from] serde_json::Error),
}

/// CPU time per request in microseconds.
#[derive(Debug, Clone, Copy, Serialize)]
struct Round {
    direct_us: f64,
    pass_us: f64,
    native_redirect_us: f64,
    redirect_us: f64,
}

#[derive(Debug, Serialize)]
struct Ratios {
    redirect_over_native: f64,
    pass_over_direct: f64,
}

#[derive(Debug, Serialize)]
struct Figures {
    ratios: Ratios,
    rounds: Vec<Round>,
}

struct Variant {
    name: &'static str,
    path: &'static str,
    status: u16,
}

const DIRECT: Variant = Variant { name: "direct response", path: "/bench/direct", status: 200 };
const PASS: Variant = Variant { name: "behind the filter", path: "/bench/pass", status: 200 };
const NATIVE: Variant = Variant { name: "native redirect", path: "/bench/redirect", status: 307 };
const FILTER: Variant = Variant { name: "filter's redirect", path: "/image.png", status: 307 };

/// Routes of the references, put before a route of the shipped configuration.
const MARKER: &str = "- match: { prefix: /.well-known/p2pcdn/ }";
const ROUTES: &str = "- match: { prefix: /bench/direct }
                          direct_response: { status: 200 }
                        - match: { prefix: /bench/pass }
                          direct_response: { status: 200 }
                          typed_per_filter_config: *with_p2pcdn
                        - match: { prefix: /bench/redirect }
                          redirect: { host_redirect: elsewhere.example, response_code: TEMPORARY_REDIRECT }
                        - match: { prefix: /.well-known/p2pcdn/ }";

/// Connections that take turns; enough to keep one worker busy.
const CONNECTIONS: u32 = 4;
/// How long the lab may take to get ready.
const READY: Duration = Duration::from_secs(60);

pub(crate) fn run(layout: &Layout, bench: &Bench) -> Result<(), TaskError> {
    let Bench::Redirect(args) = bench;
    let tools = setup::everything(layout)?;
    dist::build_shipped(layout, tools.wasm)?;
    let runtime = tokio::runtime::Runtime::new()
        .map_err(|source| BenchError::Io { what: "start the load generator".into(), source })?;
    Ok(runtime.block_on(redirect(Dist::at(&tools.envoy, &layout.dist()), args))?)
}

async fn redirect(dist: Result<Dist, p2pcdn_tests::Error>, args: &RedirectArgs) -> Result<(), BenchError> {
    let lab = Lab::with(dist?)?;
    let mut sites = [lab.site("alpha")?, lab.site("beta")?];
    prepare(&lab, &mut sites).await?;
    let mut rounds = Vec::new();
    for number in 1..=args.rounds {
        let round = Round {
            direct_us: cost(&lab.client, &sites[0], &DIRECT, args.requests).await?,
            pass_us: cost(&lab.client, &sites[0], &PASS, args.requests).await?,
            native_redirect_us: cost(&lab.client, &sites[0], &NATIVE, args.requests).await?,
            redirect_us: cost(&lab.client, &sites[0], &FILTER, args.requests).await?,
        };
        let Round { direct_us, pass_us, native_redirect_us, redirect_us } = round;
        println!(
            "round {number}: direct {direct_us:.1} us, behind the filter {pass_us:.1} us, \
             native redirect {native_redirect_us:.1} us, filter's redirect {redirect_us:.1} us"
        );
        rounds.push(round);
    }
    let ratios = Ratios {
        redirect_over_native: median(rounds.iter().map(|r| r.native_redirect_us / r.redirect_us).collect()),
        pass_over_direct: median(rounds.iter().map(|r| r.direct_us / r.pass_us).collect()),
    };
    println!(
        "median: redirect over native {:.3}, pass-through over direct {:.3}",
        ratios.redirect_over_native, ratios.pass_over_direct
    );
    if let Some(path) = &args.json {
        let json = serde_json::to_vec_pretty(&Figures { ratios, rounds })?;
        fs::write(path, json).map_err(|source| BenchError::Io { what: format!("write {}", path.display()), source })?;
    }
    for site in &mut sites {
        site.stop().await?;
    }
    Ok(())
}

/// Two friends, the first of which redirects everything it can.
async fn prepare(lab: &Lab, sites: &mut [Site; 2]) -> Result<(), BenchError> {
    sites[0].workers(1);
    sites[0].edit(MARKER, ROUTES);
    sites[0].edit(r#""requests_per_s": 0"#, r#""requests_per_s": 1"#);
    sites[0].edit(r#""exclude": []"#, r#""exclude": [], "stay_local_s": 0, "pure_balancer_at": 1"#);
    sites[0].content.put(FILTER.path, &noise(1, 20 << 10))?;
    invite_each_other(sites);
    for site in sites.iter_mut() {
        site.set("host.lease", "100GB");
        site.start_agent()?;
        site.start_envoy()?;
    }
    for site in sites.iter_mut() {
        site.ready().await?;
    }
    // Requests make the filter report, the report makes it redirect.
    let url = sites[0].url(FILTER.path);
    let redirected = async || match lab.client.get(&url).await {
        Ok(response) if response.status() == FILTER.status => Ok(()),
        Ok(response) => Err(response.status().to_string()),
        Err(error) => Err(error.to_string()),
    };
    Ok(poll(READY, "redirect", redirected).await?)
}

/// CPU time of the site's Envoy per request, in microseconds.
async fn cost(client: &Client, site: &Site, variant: &Variant, requests: u32) -> Result<f64, BenchError> {
    let url = site.url(variant.path);
    let before = cpu_ns(site)?;
    let mut tasks = JoinSet::new();
    for _ in 0..CONNECTIONS {
        let (client, url, status) = (client.clone(), url.clone(), variant.status);
        tasks.spawn(async move {
            let mut wrong = 0;
            for _ in 0..requests / CONNECTIONS {
                wrong += u32::from(client.get(&url).await?.status() != status);
            }
            Ok::<_, client::ClientError>(wrong)
        });
    }
    let mut wrong = 0;
    while let Some(counted) = tasks.join_next().await {
        wrong += counted??;
    }
    let all = requests / CONNECTIONS * CONNECTIONS;
    // A probe that was late on a busy machine may keep a few redirects back.
    if wrong > all / 100 {
        return Err(BenchError::Answers { variant: variant.name, wrong, all, expected: variant.status });
    }
    Ok(cpu_ns(site)?.saturating_sub(before) as f64 / 1000.0 / f64::from(all))
}

/// Nanoseconds that all threads of the site's Envoy have run (first figure of schedstat, see proc(5)).
fn cpu_ns(site: &Site) -> Result<u64, BenchError> {
    let fail = |source| BenchError::Io { what: "read Envoy's CPU time".into(), source };
    let process = site.envoy.id().ok_or_else(|| fail(io::ErrorKind::NotFound.into()))?;
    let mut total = 0;
    for thread in fs::read_dir(format!("/proc/{process}/task")).map_err(fail)? {
        let stat = fs::read_to_string(thread.map_err(fail)?.path().join("schedstat")).map_err(fail)?;
        total += stat.split(' ').next().and_then(|ns| ns.parse::<u64>().ok()).unwrap_or(0);
    }
    Ok(total)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::median;

    #[test]
    fn one_noisy_round_does_not_move_the_median() {
        assert!((median(vec![0.7, 99.0, 0.6]) - 0.7).abs() < f64::EPSILON);
    }
}
