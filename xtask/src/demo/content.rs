//! Real files that are on every machine that can build this project.

use std::{
    collections::BTreeSet,
    env, fs,
    ops::RangeInclusive,
    path::{Path, PathBuf},
    process::Command,
};

use p2pcdn_tests::content::{Content, candidates, digest};

use super::DemoError;
use crate::process;

/// Objects that the demo offers: each stays local once in ten seconds, so more of them would blur the figures.
const OBJECTS: usize = 100;
/// Of those, fonts and images when there are enough.
const FONTS_AND_IMAGES: usize = 40;
/// Below this, a redirect costs more than it saves and objects stay local.
const FLOOR: u64 = 8 << 10;
/// Small enough for two cores to carry both sides of seven times the target.
const OWN_SIZES: RangeInclusive<u64> = FLOOR..=64 << 10;
const GIVEN_SIZES: RangeInclusive<u64> = FLOOR..=1 << 20;

/// A file and the path that it gets on the site.
type Source = (String, PathBuf);

/// Copies a selection of files into a site.
pub(super) fn fill(site: &Content, given: Option<&Path>) -> Result<(), DemoError> {
    let (sources, sizes, places) = match given {
        Some(directory) => {
            let sources = spread(within(candidates(directory), &GIVEN_SIZES), OBJECTS);
            (sources, GIVEN_SIZES, vec![directory.display().to_string()])
        }
        None => {
            let (cache, docs) = (cargo_cache(), rust_docs());
            let leaves = docs.as_deref().map(candidates).unwrap_or_default();
            let leaves = spread(distinct(within(leaves, &OWN_SIZES)), FONTS_AND_IMAGES);
            let crates = spread(within(crates(&cache), &OWN_SIZES), OBJECTS - leaves.len());
            let places = [Some(cache), docs].into_iter().flatten().map(|p| p.display().to_string()).collect();
            (leaves.into_iter().chain(crates).collect(), OWN_SIZES, places)
        }
    };
    if sources.is_empty() {
        return Err(DemoError::NoContent { from: *sizes.start(), to: *sizes.end(), places });
    }
    for (path, file) in sources {
        let bytes =
            fs::read(&file).map_err(|source| DemoError::Io { what: format!("read {}", file.display()), source })?;
        site.put(&path, &bytes)?;
    }
    Ok(())
}

fn cargo_cache() -> PathBuf {
    let home = env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(env::home_dir()?.join(".cargo"))).unwrap_or_default();
    home.join("registry/cache")
}

/// Every crate that Cargo has downloaded, whichever registry it came from.
fn crates(cache: &Path) -> Vec<Source> {
    let files = candidates(cache).into_iter().filter(|(path, _)| path.ends_with(".crate"));
    files.map(|(path, file)| (format!("/crates/{}", path.rsplit('/').next().unwrap_or_default()), file)).collect()
}

fn rust_docs() -> Option<PathBuf> {
    let sysroot = process::read(Command::new("rustc").args(["--print", "sysroot"])).ok()?;
    let docs = Path::new(sysroot.trim()).join("share/doc/rust/html");
    docs.is_dir().then_some(docs)
}

fn within(mut sources: Vec<Source>, sizes: &RangeInclusive<u64>) -> Vec<Source> {
    sources.retain(|(_, file)| file.metadata().is_ok_and(|m| sizes.contains(&m.len())));
    sources
}

/// One of each: the books in the Rust documentation all bring the same fonts.
fn distinct(mut sources: Vec<Source>) -> Vec<Source> {
    let mut seen = BTreeSet::new();
    sources.retain(|(_, file)| fs::read(file).is_ok_and(|bytes| seen.insert(digest(&bytes))));
    sources
}

/// At most `count` of them, from everywhere in the list.
fn spread(sources: Vec<Source>, count: usize) -> Vec<Source> {
    let step = sources.len().div_ceil(count.max(1)).max(1);
    sources.into_iter().step_by(step).take(count).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_selection_comes_from_everywhere_in_the_list() {
        let sources = |count: usize| (0..count).map(|n| (n.to_string(), PathBuf::new())).collect::<Vec<_>>();
        let paths = |all, count| spread(sources(all), count).into_iter().map(|(path, _)| path).collect::<Vec<_>>();
        assert_eq!(paths(9, 3), ["0", "3", "6"]);
        assert_eq!(paths(2, 3), ["0", "1"]);
        assert!(paths(0, 3).is_empty());
        assert!(paths(5, 0).is_empty());
    }
}
