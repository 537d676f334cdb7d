//! A run of the world of sites and hosts.

use std::collections::BTreeSet;

use fastrand::Rng;

use super::objects::Objects;
use super::outcome::{Day, Outcome};
use super::people::People;
use super::scenario::{Group, World};
use super::site::{Common, Site};
use super::talk::{Talk, WAVE_MS};
use crate::reputation::formulas::Formulas;

/// When the world begins, in milliseconds since the Unix epoch: any time that is not close to 0.
pub(super) const START_MS: u64 = 1_800_000_000_000;
const HOUR_MS: u64 = 3_600_000;
const DAY_MS: u64 = 24 * HOUR_MS;
/// A peer that left comes back after so long.
const AWAY_MS: u64 = HOUR_MS;

/// Runs the world from its first to its last day; `tick` is called after each.
pub(super) fn run(world: &World, groups: &[Group], seed: u64, tick: &mut dyn FnMut()) -> Outcome {
    let mut rng = Rng::with_seed(seed);
    let objects = Objects::new(world.objects, &mut rng);
    let mut people = People::new(world, groups, START_MS, &mut rng);
    let formulas = Formulas::default();
    let mut sites: Vec<Site> = (0..world.sites).map(|peer| Site::new(peer, world, &formulas)).collect();
    let mut outcome = Outcome { prefix_share: people.prefix_share(), ..Outcome::default() };
    let mut talk = world.gossip.then(|| Talk::new(world, &mut rng));
    let step_ms = u64::from(world.step_minutes) * 60_000;
    let days = world.days.ceil() as u64;
    let end_ms = START_MS + (world.days * DAY_MS as f64) as u64;
    for day_number in 0..days {
        let mut day = Day::default();
        let first_ms = START_MS + day_number * DAY_MS;
        for now_ms in (first_ms..(first_ms + DAY_MS).min(end_ms)).step_by(step_ms as usize) {
            let mut found_out = Vec::new();
            if let Some(talk) = &mut talk
                && (now_ms - START_MS) % WAVE_MS < step_ms
            {
                talk.wave(world, &people, &mut sites, &mut outcome, &mut rng, now_ms);
            }
            let common = Common { world, objects: &objects, people: &people, start_ms: START_MS };
            for site in &mut sites {
                if (now_ms - START_MS) % HOUR_MS < step_ms {
                    site.hour(&common, &mut outcome, &mut rng, now_ms);
                }
                found_out.extend(site.step(&common, &mut day, &mut rng, now_ms));
            }
            found_out.sort_unstable();
            found_out.dedup();
            found_out.into_iter().for_each(|peer| people.leave(peer, now_ms + AWAY_MS));
        }
        outcome.days.push(day);
        tick();
    }
    let common = Common { world, objects: &objects, people: &people, start_ms: START_MS };
    sites.iter().for_each(|site| site.end(&common, &mut outcome));
    outcome.members_evicted = talk.map_or(0, |talk| talk.evicted(&people));
    count_honest(&sites, &people, &mut outcome);
    outcome
}

/// How many honest peers were holders somewhere, and how many of them some site isolated.
fn count_honest(sites: &[Site], people: &People, outcome: &mut Outcome) {
    let honest: BTreeSet<&str> = people.peers.iter().filter(|peer| peer.honest).map(|peer| &*peer.domain).collect();
    let (mut holders, mut isolated) = (BTreeSet::new(), BTreeSet::new());
    for reputation in sites.iter().map(|site| &site.reputation) {
        for domain in reputation.domains().filter_map(|domain| honest.get(domain.as_str())) {
            let audits = reputation.account(domain).map_or(0, |account| account.audits.iter().sum::<u64>());
            if audits == 0 {
                continue;
            }
            holders.insert(*domain);
            if reputation.marks(domain).is_some_and(|marks| marks.integrity.isolations > 0) {
                isolated.insert(*domain);
            }
        }
    }
    (outcome.honest_holders, outcome.honest_isolated) = (holders.len() as u32, isolated.len() as u32);
}
