//! From the first start of three sites to the last figure.

use p2pcdn_tests::{
    Lab, Site, invite_each_other,
    load::{Generator, Sample},
    poll,
    tally::tally,
};
use serde_json::Value;
use tokio::time::{Duration, Instant, sleep_until};

use super::{
    DemoArgs, DemoError, Proxy, content,
    figures::{Death, EXTREME, Figures, Growth, HOST_KILLED, IDLE, Phase, RAMP, RECOVERY, TARGET, Window},
    report,
    screen::{Line, pulse},
};

/// How long it may take until everything is at one of the hosts.
const PLACEMENT: Duration = Duration::from_secs(120);
/// How often the screen changes.
const FRAME: Duration = Duration::from_millis(250);
/// How often copies are counted.
const GROWTH: Duration = Duration::from_secs(1);
/// From the start of its phase to the death of the host, so that requests in flight belong to that phase.
const BEFORE_DEATH: Duration = Duration::from_secs(2);

/// Plays every phase and reports; the sites run on, except for beta, which was killed.
pub(super) async fn everything(lab: &Lab, sites: &mut [Site; 3], args: &DemoArgs) -> Result<(), DemoError> {
    content::fill(&sites[0].content, args.content.as_deref())?;
    invite_each_other(sites);
    start(sites, args.proxy).await?;

    let origin = sites[0].domain.clone();
    let generator = Generator::new(lab.client.clone(), origin.clone(), sites[0].content.clone());
    let begun = Instant::now();
    let (samples, windows, growth) = (Vec::new(), Vec::new(), Vec::new());
    let mut stage = Stage { generator, origin, begun, samples, windows, growth };
    stage.generator.offer(IDLE.offered_rps);
    placed(sites).await?;
    for phase in [&IDLE, &RAMP, &EXTREME] {
        stage.play(phase, sites).await?;
    }
    let died = stage.play_death(sites).await?;
    stage.play(&RECOVERY, sites).await?;

    let Stage { generator, mut samples, windows, origin, growth, .. } = stage;
    samples.extend(generator.finish().await);
    let death = Death { replica_name: &sites[1].replica_name, at: died };
    let hosts = [&sites[1].replica_name, &sites[2].replica_name];
    let figures = Figures { growth, ..Figures::new(&origin, &hosts, &samples, &windows, &death) };
    if let Some(path) = &args.json {
        report::write(&figures, path)?;
    }
    report::print(&figures)
}

async fn start(sites: &mut [Site], proxy: Proxy) -> Result<(), DemoError> {
    let line = Line::begin("start", sites.len() as u64);
    for site in sites.iter_mut() {
        site.decide("target.requests_per_s", TARGET);
        // One copy of everything to begin with: further ones come with the load.
        site.set("share.replicas", 1);
        // So that no lease is what limits the demo.
        site.set("host.lease", "1GB");
        site.start_agent()?;
        site.start_envoy()?;
    }
    for (at, site) in sites.iter_mut().enumerate() {
        line.show(at as u64, format!("{} is starting", site.name));
        site.ready().await?;
    }
    let domains: Vec<_> = sites.iter().map(|site| format!("https://{}", site.domain)).collect();
    line.end(&format!("three sites, each an {} and an agent: {}", proxy.name(), domains.join(", ")));
    Ok(())
}

/// Waits until alpha knows that each object is at a host, and that the hosts answer that hold any.
async fn placed(sites: &[Site; 3]) -> Result<(), DemoError> {
    let [alpha, beta, gamma] = sites;
    let objects = alpha.content.len() as u64;
    let bytes: u64 = alpha.content.objects().iter().map(|o| o.size).sum();
    let line = Line::begin("replicas", objects);
    let begun = Instant::now();
    poll(PLACEMENT, "replica of everything", async || {
        let status = alpha.status().await?;
        let (holds, weights) =
            [beta, gamma].map(|host| holding(&status, host)).into_iter().unzip::<_, _, Vec<_>, Vec<_>>();
        let held = holds.iter().sum();
        let in_table = number(&status, "/table/objects");
        let state = format!("{held} verified, {in_table} of {objects} in the table");
        line.show(held, state.clone());
        // Who holds nothing yet is not probed.
        let is_ready = holds.iter().zip(&weights).all(|(holds, weight)| *holds == 0 || *weight > 0);
        if in_table >= objects && is_ready { Ok(()) } else { Err(Placing::Yet(state)) }
    })
    .await?;
    line.end(&format!(
        "{objects} objects, {:.1} MB, each verified at beta or gamma after {:.1} s",
        bytes as f64 / 1e6,
        begun.elapsed().as_secs_f64()
    ));
    Ok(())
}

/// How many objects a host holds and which weight it has, as a status says.
fn holding(status: &Value, host: &Site) -> (u64, u64) {
    let peers = status["peers"].as_array().map(Vec::as_slice).unwrap_or_default();
    let peer = peers.iter().find(|peer| peer["domain"] == host.domain.as_str()).unwrap_or(&Value::Null);
    (number(peer, "/holds"), number(peer, "/weight"))
}

/// Why placement is not complete.
#[derive(Debug, thiserror::Error)]
enum Placing {
    #[error("{0}")]
    Yet(String),
    #[error(transparent)]
    Lab(#[from] p2pcdn_tests::Error),
}

fn number(status: &Value, pointer: &str) -> u64 {
    status.pointer(pointer).and_then(Value::as_u64).unwrap_or(0)
}

/// The load generator and what it has seen.
struct Stage {
    generator: Generator,
    origin: http::uri::Authority,
    begun: Instant,
    samples: Vec<Sample>,
    windows: Vec<Window>,
    growth: Vec<Growth>,
}

impl Stage {
    async fn play(&mut self, phase: &'static Phase, sites: &mut [Site]) -> Result<(), DemoError> {
        self.generator.offer(phase.offered_rps);
        let line = Line::begin(phase.name, (phase.settle + phase.measure).as_millis() as u64);
        self.measure(phase, line, Instant::now(), sites).await
    }

    /// Kills beta, and returns when.
    async fn play_death(&mut self, sites: &mut [Site; 3]) -> Result<Instant, DemoError> {
        let phase = &HOST_KILLED;
        self.generator.offer(phase.offered_rps);
        let line = Line::begin(phase.name, phase.measure.as_millis() as u64);
        let begun = Instant::now();
        self.watch(phase, &line, begun, begun + BEFORE_DEATH, sites).await?;
        let died = Instant::now();
        sites[1].kill();
        self.measure(phase, line, begun, sites).await?;
        Ok(died)
    }

    /// Watches a phase that began at `begun` to its end, and takes down which requests count for it.
    async fn measure(
        &mut self,
        phase: &'static Phase,
        line: Line,
        begun: Instant,
        sites: &mut [Site],
    ) -> Result<(), DemoError> {
        let (start, end) = (begun + phase.settle, begun + phase.settle + phase.measure);
        self.watch(phase, &line, begun, end, sites).await?;
        self.windows.push(Window { phase, start, end });
        let counted = self.samples.iter().filter(|s| (start..end).contains(&s.due));
        let summary = pulse(&self.origin, counted, phase.measure);
        line.end(&format!("{:.0} requests/s offered: {summary}", phase.offered_rps));
        Ok(())
    }

    /// Shows what ends in each frame until `end`; fails if a program ends that should run.
    async fn watch(
        &mut self,
        phase: &'static Phase,
        line: &Line,
        begun: Instant,
        end: Instant,
        sites: &mut [Site],
    ) -> Result<(), DemoError> {
        let (mut shown, mut counted, mut first) = (Instant::now(), Instant::now(), self.samples.len());
        while shown < end {
            sleep_until((shown + FRAME).min(end)).await;
            let ended = self.generator.take();
            let span = shown.elapsed();
            shown = Instant::now();
            let copies = self.growth.last().map_or(0.0, |growth| growth.replicas_per_object);
            let pulse = pulse(&self.origin, &ended, span);
            line.show(begun.elapsed().as_millis() as u64, format!("{pulse}, {copies:.1} copies of each object"));
            self.samples.extend(ended);
            for site in sites.iter_mut() {
                site.agent.check()?;
                site.envoy.check()?;
            }
            if counted.elapsed() >= GROWTH || shown >= end {
                self.count(phase, first, &sites[0]).await?;
                (counted, first) = (Instant::now(), self.samples.len());
            }
        }
        Ok(())
    }

    /// Notes how many copies there are, and what the requests that ended since the sample `first` were worth.
    async fn count(&mut self, phase: &Phase, first: usize, alpha: &Site) -> Result<(), DemoError> {
        let status = alpha.status().await?;
        let peers = status["peers"].as_array().map(Vec::as_slice).unwrap_or_default();
        let replicas = peers.iter().map(|peer| number(peer, "/holds")).sum();
        let ended = tally(&self.origin, &self.samples[first..]);
        self.growth.push(Growth {
            at_s: (self.begun.elapsed().as_secs_f64() * 10.0).round() / 10.0,
            phase: phase.name,
            replicas,
            replicas_per_object: replicas as f64 / number(&status, "/objects/own").max(1) as f64,
            offload: ended.bytes_offloaded as f64 / ended.bytes_total.max(1) as f64,
        });
        Ok(())
    }
}
