//! What sites tell each other about others: it gets around, what is hostile does not, and a partition mends itself.

use std::time::Duration;

use futures_util::future::join_all;
use p2pcdn_agent::gossip::Blob;
use p2pcdn_agent::identity::{PeerClientError, sequence};
use p2pcdn_core::peer::PeerRecord;
use p2pcdn_tests::network::{Network, Place};
use p2pcdn_tests::{Lab, Site, poll};
use serde_json::{Value, json};
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::pretender::Pretender;
use crate::support::{PATIENCE, adapt, introduce, lab, metric, peer, resident_bytes};

/// What a site knows of another by gossip.
async fn heard(site: &Site, of: &Site) -> Result<Value, String> {
    let gossip = site.gossip().await.map_err(|error| error.to_string())?;
    let members = gossip["members"].as_array().into_iter().flatten();
    let found = members.into_iter().find(|member| member["domain"] == of.domain.as_str());
    found.cloned().ok_or_else(|| format!("{} is unknown to {}: {gossip}", of.name, site.name))
}

async fn all_know_each_other(sites: &[Site]) {
    for site in sites {
        for other in sites {
            poll(PATIENCE, format!("{} known to {}", other.name, site.name), async || heard(site, other).await)
                .await
                .unwrap();
        }
    }
}

/// Three sites that know each other by gossip.
async fn acquainted() -> (Lab, [Site; 3]) {
    let (lab, mut sites) = lab(["alpha", "beta", "gamma"]);
    introduce(&mut sites).await;
    all_know_each_other(&sites).await;
    (lab, sites)
}

#[tokio::test]
async fn observations_get_around_by_way_of_a_third_and_warnings_of_the_unproven_move_nothing() {
    let (lab, mut sites) = acquainted().await;
    let [alpha, beta, gamma] = &mut sites;
    alpha.agent.stop().await.unwrap();
    let pretender = Pretender::of(&lab, alpha);
    let record = Pretender::record_of(&lab, beta).await;
    let seen = [("elsewhere.example", 20, 1, 3), (gamma.domain.as_str(), 0, 0, 99)];
    pretender.tell(&record, vec![pretender.observations(&seen, 0)]).await.unwrap();
    let entries = poll(PATIENCE, "what alpha has seen, at gamma", async || {
        let list = heard(gamma, alpha).await?["observations"].clone();
        if list.is_null() { Err("no list") } else { Ok::<_, &str>(list["entries"].clone()) }.map_err(String::from)
    });
    assert_eq!(entries.await.unwrap(), json!([[gamma.domain.as_str(), 0, 0, 99], ["elsewhere.example", 20, 1, 3]]));
    assert_eq!(heard(gamma, alpha).await.unwrap()["credit"], 0.0);
    assert_eq!(peer(beta, gamma).await.unwrap()["state"], "pinned");
}

#[tokio::test]
async fn a_site_that_contradicts_itself_is_convicted_wherever_both_of_its_words_meet() {
    let (lab, mut sites) = acquainted().await;
    let [alpha, beta, gamma] = &mut sites;
    alpha.agent.stop().await.unwrap();
    let pretender = Pretender::of(&lab, alpha);
    let now_s = p2pcdn_agent::clock::now_s();
    for (site, word) in [(&*beta, "one"), (&*gamma, "other")] {
        let own: PeerRecord = Pretender::record_of(&lab, site).await;
        let claim = PeerRecord {
            domain: alpha.domain.to_string(),
            node_key: pretender.key.public(),
            sequence: sequence::at(now_s + 1),
            endpoint: alpha.domain.to_string(),
            replica_name: alpha.replica_name.to_string(),
            contact: word.into(),
            ..own.clone()
        };
        pretender.tell(&own, vec![pretender.record(&claim)]).await.unwrap();
    }
    for site in [&*beta, &*gamma] {
        poll(PATIENCE, format!("conviction at {}", site.name), async || {
            let convicted = site.gossip().await.map_err(|error| error.to_string())?["convicted"].clone();
            let text = convicted[pretender.key.public().to_string()].as_str().map(str::to_owned);
            text.ok_or_else(|| convicted.to_string())
        })
        .await
        .unwrap();
    }
}

/// The CPU time that the agent has taken.
fn cpu_time(site: &Site) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", site.agent.id().unwrap())).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    // USER_HZ is 100 on every Linux that this runs on.
    Duration::from_millis(ticks * 10)
}

/// Records that cost as much as can be before they are found out: everything is in order but the signature.
fn forgeries(pretender: &Pretender, count: u64, from: u64) -> Vec<Blob> {
    let forged = |number: u64| {
        let mut blob = pretender.observations(&[("elsewhere.example", 1, 0, 0)], from + number).to_vec();
        blob[40] ^= 1;
        Blob::from(blob)
    };
    (0..count).map(forged).collect()
}

const RECORDS_IN_A_MESSAGE: u64 = 100;
const MESSAGES_PER_S: u64 = 20;
/// Messages under way at the same time, so that what each of them takes does not limit the rate.
const AT_ONCE: u64 = 4;

#[tokio::test]
async fn thousands_of_hostile_records_a_second_cost_little_and_honest_gossip_goes_on() {
    let (lab, mut sites) = acquainted().await;
    let [alpha, beta, gamma] = &mut sites;
    gamma.agent.stop().await.unwrap();
    let pretender = Pretender::of(&lab, gamma);
    let record = Pretender::record_of(&lab, alpha).await;
    let messages: Vec<_> =
        (0..10).map(|n| forgeries(&pretender, RECORDS_IN_A_MESSAGE, n * RECORDS_IN_A_MESSAGE)).collect();

    let (memory, cpu) = (resident_bytes(alpha), cpu_time(alpha));
    let exchanges = metric(beta, "p2pcdn_gossip_exchanges_total").await;
    let (start, mut sent, mut refused) = (Instant::now(), 0, 0);
    let mut ticks = interval(Duration::from_millis(1000 * AT_ONCE / MESSAGES_PER_S));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    while sent < 10 * MESSAGES_PER_S {
        ticks.tick().await;
        let told = (sent..sent + AT_ONCE)
            .map(|number| pretender.tell(&record, messages[number as usize % messages.len()].clone()));
        for answer in join_all(told).await {
            match answer {
                Ok(_) => {}
                Err(PeerClientError::Refused { status, .. }) if status == 429 => refused += 1,
                Err(error) => panic!("{error}"),
            }
        }
        sent += AT_ONCE;
    }
    let took = start.elapsed();
    let (memory_after, cpu_after) = (resident_bytes(alpha), cpu_time(alpha));
    let rate = (sent * RECORDS_IN_A_MESSAGE) as f64 / took.as_secs_f64();
    let (grown, used) =
        (memory_after.saturating_sub(memory) >> 10, (cpu_after - cpu).as_secs_f64() / took.as_secs_f64());
    println!("{rate:.0} hostile records/s: {:.0} % of a core, {grown} KiB; {refused} of {sent} refused", used * 100.0);
    assert!(rate >= 1000.0, "{rate} records a second");
    assert!(refused >= sent / 2, "{refused} of {sent} messages refused");
    assert!(grown < 16 << 10, "grew by {grown} KiB");
    assert!(used < 0.5, "{used} of a core");
    let unfit = metric(alpha, "p2pcdn_gossip_unfit_total").await;
    assert!(unfit > 0);
    poll(PATIENCE, "an honest exchange", async || match metric(beta, "p2pcdn_gossip_exchanges_total").await {
        more if more > exchanges => Ok(()),
        same => Err(same),
    })
    .await
    .unwrap();
    assert!(heard(alpha, gamma).await.unwrap()["observations"].is_null());
    let honest = pretender.observations(&[("elsewhere.example", 1, 0, 0)], 5000);
    poll(PATIENCE, "the same peer heard again once it keeps to the rules", async || {
        pretender.tell(&record, vec![honest.clone()]).await.map_err(|error| error.to_string())?;
        let list = heard(alpha, gamma).await?["observations"].clone();
        if list.is_null() { Err("not verified yet".to_owned()) } else { Ok(()) }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn gossip_comes_together_again_after_a_partition() {
    let mut network = Network::new().unwrap();
    let lab = Lab::new().unwrap();
    let places: [Place; 2] = std::array::from_fn(|_| network.place().unwrap());
    let mut at = places.iter();
    let mut sites = ["alpha", "beta"].map(|name| adapt(lab.site_at(name, at.next().unwrap()).unwrap()));
    introduce(&mut sites).await;
    all_know_each_other(&sites).await;
    let [alpha, beta] = &mut sites;
    let sequence = async |site: &Site, of: &Site| heard(site, of).await.map(|member| member["sequence"].as_u64());
    network.part([&places[0], &places[1]]).unwrap();
    // What each says anew meanwhile, the other does not hear. To stop in order would take as long as connections to the other may drain.
    for site in [&mut *alpha, &mut *beta] {
        site.agent.kill();
        site.set("public.contact", "mailto:somebody@else.example");
        site.start_agent().unwrap();
        site.ready().await.unwrap();
    }
    all_know_each_other(&sites).await;
    let [alpha, beta] = &sites;
    let new = [sequence(alpha, alpha).await.unwrap(), sequence(beta, beta).await.unwrap()];
    let old = [sequence(beta, alpha).await.unwrap(), sequence(alpha, beta).await.unwrap()];
    assert!(old[0] < new[0] && old[1] < new[1], "{old:?} {new:?}");
    network.heal([&places[0], &places[1]]).unwrap();
    poll(PATIENCE, "equal knowledge", async || {
        let known = [sequence(beta, alpha).await?, sequence(alpha, beta).await?];
        if known == new { Ok(()) } else { Err(format!("{known:?}")) }
    })
    .await
    .unwrap();
}
