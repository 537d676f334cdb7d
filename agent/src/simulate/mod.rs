//! What the rules of trust are worth, seen in virtual time: the very code that decides in the agent, in a world that is made up.
//!
//! Whatever p2pcdn decides is decided by that code: whom a redirect goes to ([`p2pcdn_core::decide::choose`]), how many audits are due and
//! for what ([`crate::audit`]), what follows from them ([`crate::reputation`]), what sites tell each other and make of it
//! ([`crate::gossip`]), and when browsers' reports count ([`crate::evidence::judge`]). Made up are the sites, their visitors and objects, the
//! hosts with what they answer to whom, and time. A [`scenario`] says who does what and when; a run of it with one seed has one
//! [`outcome`], always the same; [`report`] makes figures of those, and [`plots`] pictures.

mod cost;
pub mod figure;
mod objects;
pub mod outcome;
mod people;
pub mod plots;
pub mod report;
pub mod scenario;
mod site;
mod statements;
mod talk;
#[cfg(test)]
mod tests;
mod trust;

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use outcome::Outcome;
use scenario::{Group, Scenario, World};

/// One world of one scenario, with what came of it by seed.
#[derive(Debug, Clone)]
pub struct Runs {
    /// The variant; empty if the scenario has only one world.
    pub name: String,
    /// What came of it, in the order of seeds.
    pub outcomes: Vec<Outcome>,
}

/// How far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Virtual days that are over, of all worlds together.
    pub days: u64,
    /// Virtual days in all.
    pub of: u64,
}

/// Runs every world of all scenarios with the seeds from 1 to `seeds`, in `threads` threads; worlds that are the same run once. The result has
/// the order of the scenarios and their variants.
pub fn run(scenarios: &[Scenario], seeds: u64, threads: usize, progress: &(dyn Fn(Progress) + Sync)) -> Vec<Vec<Runs>> {
    let mut worlds: BTreeMap<String, (World, Vec<Group>)> = BTreeMap::new();
    for (_, world, groups) in scenarios.iter().flat_map(Scenario::worlds) {
        worlds.insert(name_of(&world, &groups), (world, groups));
    }
    let jobs: Vec<(&String, &World, &[Group], u64)> = worlds
        .iter()
        .flat_map(|(name, (world, groups))| (1..=seeds).map(move |seed| (name, world, groups.as_slice(), seed)))
        .collect();
    let of = jobs.iter().map(|(_, world, ..)| days_of(world)).sum();
    let (next, days) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let done: Mutex<BTreeMap<(&String, u64), Outcome>> = Mutex::default();
    let work = || {
        while let Some((name, world, groups, seed)) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
            let mut tick = || {
                let days = days.fetch_add(1, Ordering::Relaxed) as u64 + 1;
                progress(Progress { days, of });
            };
            let outcome = run_one(world, groups, *seed, &mut tick);
            done.lock().unwrap_or_else(|broken| broken.into_inner()).insert((name, *seed), outcome);
        }
    };
    std::thread::scope(|scope| {
        (1..threads.max(1)).for_each(|_| {
            scope.spawn(work);
        });
        work();
    });
    let done = done.into_inner().unwrap_or_else(|broken| broken.into_inner());
    let runs = |(name, world, groups): (String, World, Vec<Group>)| {
        let key = name_of(&world, &groups);
        let outcomes = (1..=seeds).filter_map(|seed| done.get(&(&key, seed)).cloned()).collect();
        Runs { name, outcomes }
    };
    scenarios.iter().map(|scenario| scenario.worlds().into_iter().map(runs).collect()).collect()
}

/// Runs one world with one seed; `tick` is called after each virtual day.
pub fn run_one(world: &World, groups: &[Group], seed: u64, tick: &mut dyn FnMut()) -> Outcome {
    if world.full_tables > 0 { cost::run(world, seed, tick) } else { trust::run(world, groups, seed, tick) }
}

fn days_of(world: &World) -> u64 {
    if world.full_tables > 0 { 1 } else { world.days.ceil() as u64 }
}

/// The same for worlds that are the same but for the names of groups.
fn name_of(world: &World, groups: &[Group]) -> String {
    let nameless: Vec<Group> = groups.iter().map(|group| Group { name: String::new(), ..group.clone() }).collect();
    serde_json::to_string(&(world, nameless)).unwrap_or_default()
}
