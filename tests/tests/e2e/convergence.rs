//! The number of copies follows demand: from the floor to every host under load, and back once the load ends.

use p2pcdn_tests::content::{Content, noise};
use p2pcdn_tests::load::Generator;
use p2pcdn_tests::{Site, poll};
use serde_json::Value;
use tokio::time::Instant;

use crate::support::{IN_A_ROW, PATIENCE, PRESSURE, assert_sound, busy, fill, introduce, lab, observe};

const HOT: usize = 3;
const COLD: usize = 12;

/// Waits until every hot object has so many copies, every other one has one, and the hosts have no more than that.
async fn copies(sites: &[Site], of_hot: usize) {
    let (alpha, hosts) = sites.split_first().unwrap();
    poll(PATIENCE, format!("{of_hot} copies of what is hot, one of the rest"), async || {
        let listed = alpha.local("/v1/objects").await.map_err(|e| e.to_string())?;
        let objects: Vec<Value> = serde_json::from_slice(listed.body()).map_err(|e| e.to_string())?;
        let mut found = Vec::new();
        for object in &objects {
            let is_hot = object["path"].as_str().is_some_and(|path| path.starts_with("/hot/"));
            let held = object["holders"].as_array().map_or(0, Vec::len);
            found.push((is_hot, object["wanted"].as_u64(), held));
        }
        let mut hosted = 0;
        for host in hosts {
            hosted += host.status().await.map_err(|e| e.to_string())?["objects"]["hosted"].as_u64().unwrap_or(0);
        }
        let right = |(is_hot, wanted, held): &(bool, Option<u64>, usize)| {
            let copies = if *is_hot { of_hot } else { 1 };
            (*wanted, *held) == (Some(copies as u64), copies)
        };
        let are_all_right = found.len() == HOT + COLD && found.iter().all(right);
        let is_rest_gone = hosted == (of_hot * HOT + COLD) as u64;
        if are_all_right && is_rest_gone { Ok(()) } else { Err(format!("{hosted} hosted: {found:?}")) }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn copies_rise_with_demand_until_the_site_is_a_pure_balancer_and_fall_afterwards() {
    let (lab, mut sites) = lab(["alpha", "beta", "gamma", "delta"]);
    busy(&mut sites[0]);
    sites[0].set("share.replicas", 1);
    sites[0].set("share.keep", "40s");
    for number in 0..HOT {
        sites[0].content.put(&format!("/hot/{number}.png"), &noise(100 + number as u64, 20 << 10)).unwrap();
    }
    let hot = Content::scan(&sites[0].directory().join("srv")).unwrap();
    fill(&sites[0], COLD as u64);
    introduce(&mut sites).await;
    copies(&sites, 1).await;

    let alpha = &sites[0];
    let load = Generator::new(lab.client.clone(), alpha.domain.clone(), hot);
    load.offer(PRESSURE);
    copies(&sites, sites.len() - 1).await;
    poll(PATIENCE, "pure balancer that lacks nothing", async || {
        let status = alpha.status().await.map_err(|e| e.to_string())?;
        let (lack, balancer) = (&status["objects"]["lacks_replicas"], &status["steering"]["pure_balancer"]);
        if (lack, balancer) == (&false.into(), &true.into()) { Ok(()) } else { Err(format!("{lack} {balancer}")) }
    })
    .await
    .unwrap();
    // The workers hear of the last copies within a tick.
    poll(PATIENCE, "nothing but redirects to all hosts", async || {
        let (tally, samples) = observe(&load, alpha, Instant::now(), 2 * IN_A_ROW).await;
        assert_sound(&tally);
        let all_redirected = samples.iter().all(|sample| !sample.redirects.is_empty());
        let is_even =
            tally.by_host.len() == 3 && tally.by_host.values().all(|requests| *requests as usize > IN_A_ROW / 4);
        if all_redirected && is_even { Ok(()) } else { Err(format!("{tally:?}")) }
    })
    .await
    .unwrap();

    load.finish().await;
    copies(&sites, 1).await;
}
