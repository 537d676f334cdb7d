//! SIGKILL at random moments, the start included.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read};
use std::process::Stdio;
use std::time::Duration;

use p2pcdn_core::object::Sha256;

use crate::lab::{assert_no_orphans, assert_whole, open};
use crate::{part, runtime};

/// How often the process is killed.
const KILLS: &str = "P2PCDN_STORE_KILLS";
const FEW_KILLS: u32 = 20;
/// Every so many kills the metadata is lost as well.
const LOSS_EVERY: u32 = 5;
const LONGEST_LIFE_MS: u64 = 400;

/// What is known of one path from what the process said.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Known {
    Held(Sha256),
    Gone,
    /// Something was under way.
    Either,
}

pub(crate) fn killed_at_random() {
    let kills = std::env::var(KILLS).map_or(FEW_KILLS, |text| text.parse().expect("P2PCDN_STORE_KILLS is a number"));
    let directory = tempfile::tempdir().unwrap();
    let replicas = directory.path().join("replicas");
    let mut known = HashMap::new();
    let mut confirmed = 0;
    for kill in 1..=kills {
        let mut process = part("churn").arg(directory.path()).stdout(Stdio::piped()).spawn().unwrap();
        let mut stdout = BufReader::new(process.stdout.take().unwrap());
        let mut said = String::new();
        if kill % 2 == 0 {
            // Every other life begins to count with the first change, however long the start takes.
            stdout.read_line(&mut said).unwrap();
        }
        std::thread::sleep(Duration::from_millis(getrandom::u64().unwrap() % LONGEST_LIFE_MS));
        let early = process.try_wait().unwrap();
        assert_eq!(early, None, "the process failed by itself");
        process.kill().unwrap();
        stdout.read_to_string(&mut said).unwrap();
        process.wait().unwrap();
        confirmed += note(&mut known, &said);
        if kill % LOSS_EVERY == 0 && replicas.join("replicas.redb").exists() {
            std::fs::remove_file(replicas.join("replicas.redb")).unwrap();
        }
        runtime().block_on(async {
            let store = open(&replicas).await.unwrap();
            let held = assert_whole(&store).await;
            assert_no_orphans(&store, &replicas);
            for (path, state) in &mut known {
                let found = held.get(path).map_or(Known::Gone, |digest| Known::Held(*digest));
                assert!(
                    *state == Known::Either || *state == found,
                    "{path:?}: {state:?}, found {found:?}, kill {kill}"
                );
                *state = found;
            }
            let strange = held.keys().find(|path| !known.contains_key(*path));
            assert_eq!(strange, None, "never begun");
        });
    }
    assert!(confirmed > u64::from(kills / 4), "only {confirmed} changes before {kills} kills");
    println!("  {kills} kills, {confirmed} confirmed changes");
}

/// Returns how many changes were confirmed.
fn note(known: &mut HashMap<(String, String), Known>, said: &str) -> u64 {
    let mut confirmed = 0;
    // The last line may be cut off.
    for line in said.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n')) {
        let [what, origin, path, digest] = line.split(' ').collect::<Vec<_>>()[..] else { panic!("{line:?}") };
        let state = match what {
            "held" => Known::Held(digest.parse().unwrap()),
            "gone" => Known::Gone,
            _ => Known::Either,
        };
        confirmed += u64::from(state != Known::Either);
        known.insert((origin.into(), path.into()), state);
    }
    confirmed
}
