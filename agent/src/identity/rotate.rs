//! `p2pcdn key rotate`: another node key, for which the old one vouches, and the file in which it does.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use p2pcdn_core::peer::NodeKey as PublicKey;

use super::node_key::{NodeKey, NodeKeyError, io_error, write_durably};
use super::rotation::{MAX_DOCUMENT_BYTES, MAX_ROTATIONS, Rotation, RotationError, Rotations};
use super::sequence::after;
use super::signed::sign;

/// Why the key was not changed, or what was said about former ones cannot be read; the operator's to mend.
#[derive(Debug, thiserror::Error)]
pub enum RotateError {
    /// An agent uses the state directory.
    #[error(
        "an agent runs on {0}; stop it first, as in: systemctl stop p2pcdn. Visitors are served by the proxy meanwhile"
    )]
    Running(PathBuf),
    /// The key in the state directory cannot be used or written.
    #[error(transparent)]
    Key(#[from] NodeKeyError),
    /// The file with former keys' words cannot be read.
    #[error(
        "{path}: {source}; without it peers that knew a former key have to accept the present one by hand: remove it to go on"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: io::Error,
    },
}

/// What was before, and what is now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rotated {
    /// The key that was in use.
    pub old: PublicKey,
    /// The key that is in use from now on.
    pub new: PublicKey,
}

/// Beside the node key; what [`Rotations`] is as JSON.
pub(super) const FILE: &str = "rotations.json";

/// Gives a site whose agent does not run another key; `now_s` is seconds since the Unix epoch.
///
/// The last [`MAX_ROTATIONS`] rotations are kept. A crash at any point leaves the old key with what was known before, or the new one with the
/// old one's word for it.
pub fn rotate(domain: &str, state_dir: &Path, now_s: u64) -> Result<Rotated, RotateError> {
    let mut key = NodeKey::load(state_dir).map_err(|error| match error {
        NodeKeyError::InUse(path) => RotateError::Running(path),
        error => error.into(),
    })?;
    let old = key.public();
    let mut known = load(state_dir, &old)?;
    let last = known.rotations.last().and_then(|signed| signed.open::<Rotation>().ok()).map_or(0, |last| last.sequence);
    key.replace(state_dir, |key, new| {
        let (domain, sequence) = (domain.to_owned(), after(last, now_s));
        let rotation = Rotation { domain, old_key: old, new_key: *new, sequence, issued_s: now_s };
        let path = state_dir.join(FILE);
        let json = |error: serde_json::Error| io_error(&path)(error.into());
        known.rotations.push(sign(key, &rotation).map_err(json)?);
        let too_many = known.rotations.len().saturating_sub(MAX_ROTATIONS);
        known.rotations.drain(..too_many);
        store(state_dir, &known)
    })?;
    Ok(Rotated { old, new: key.public() })
}

/// The rotations that led to the present key, the oldest first; none if there is no such file.
pub fn load(state_dir: &Path, present: &PublicKey) -> Result<Rotations, RotateError> {
    let path = state_dir.join(FILE);
    let damaged = |source| RotateError::Damaged { path: path.clone(), source };
    let rotations = read(&path).map_err(damaged)?.unwrap_or_default();
    // What a former key has said of another one than the present is of no use to anybody.
    let leads_here = rotations.rotations.last().and_then(|signed| signed.open::<Rotation>().ok());
    Ok(if leads_here.is_some_and(|last| last.new_key == *present) { rotations } else { Rotations::default() })
}

/// Writes them in place of what was there, durably.
pub(super) fn store(state_dir: &Path, rotations: &Rotations) -> Result<(), NodeKeyError> {
    let path = state_dir.join(FILE);
    let temporary = state_dir.join("rotations.json.new");
    let json = serde_json::to_vec(rotations).map_err(|error| io_error(&path)(error.into()))?;
    write_durably(&temporary, &json).map_err(io_error(&temporary))?;
    std::fs::rename(&temporary, &path).map_err(io_error(&path))?;
    File::open(state_dir).and_then(|directory| directory.sync_all()).map_err(io_error(state_dir))
}

/// Whether a former key's word for `next` is written.
pub(super) fn completes(state_dir: &Path, next: &PublicKey) -> bool {
    let written = read(&state_dir.join(FILE)).ok().flatten();
    let last = written.and_then(|written| written.rotations.last()?.open::<Rotation>().ok());
    last.is_some_and(|last| last.new_key == *next)
}

fn read(path: &Path) -> io::Result<Option<Rotations>> {
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file?,
    };
    let mut json = Vec::new();
    file.take(MAX_DOCUMENT_BYTES as u64 + 1).read_to_end(&mut json)?;
    let rotations: Rotations = serde_json::from_slice(&json)?;
    if rotations.rotations.len() > MAX_ROTATIONS {
        return Err(io::Error::new(io::ErrorKind::InvalidData, RotationError::Malformed));
    }
    Ok(Some(rotations))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW_S: u64 = 1_800_000_000;

    #[test]
    fn each_key_vouches_for_the_next_and_the_last_eight_are_kept() {
        let directory = tempfile::tempdir().unwrap();
        let state = directory.path();
        let mut keys = vec![NodeKey::load_or_create(state).unwrap().public()];
        for n in 0..10 {
            let rotated = rotate("a.test", state, NOW_S + n).unwrap();
            assert_eq!(rotated.old, *keys.last().unwrap());
            assert_eq!(NodeKey::load_or_create(state).unwrap().public(), rotated.new);
            keys.push(rotated.new);
        }
        let known = load(state, &keys[10]).unwrap();
        assert_eq!(known.rotations.len(), MAX_ROTATIONS);
        assert!(serde_json::to_vec(&known).unwrap().len() < MAX_DOCUMENT_BYTES);
        for (n, former) in keys[..10].iter().enumerate() {
            assert_eq!(known.lead("a.test", former, &keys[10], NOW_S + 10).is_ok(), n >= 2, "key {n}");
        }
        assert_eq!(load(state, &keys[9]).unwrap(), Rotations::default());
    }

    #[test]
    fn the_key_of_a_running_agent_is_not_changed() {
        let directory = tempfile::tempdir().unwrap();
        let running = NodeKey::load_or_create(directory.path()).unwrap();
        assert!(matches!(rotate("a.test", directory.path(), NOW_S), Err(RotateError::Running(_))));
        drop(running);
        assert!(matches!(rotate("a.test", &directory.path().join("none"), NOW_S), Err(RotateError::Key(_))));
    }

    #[test]
    fn a_crash_at_any_point_leaves_a_key_and_the_words_that_lead_to_it() {
        let directory = tempfile::tempdir().unwrap();
        let (state, at) = (directory.path().join("state"), |name: &str| directory.path().join("state").join(name));
        let old = NodeKey::load_or_create(&state).unwrap().public();
        let old_key = std::fs::read(at("node.key")).unwrap();
        let Rotated { new, .. } = rotate("a.test", &state, NOW_S).unwrap();
        let (new_key, words) = (std::fs::read(at("node.key")).unwrap(), std::fs::read(at(FILE)).unwrap());
        let after_crash = |next: Option<&[u8]>, words: Option<&[u8]>| {
            write_durably(&at("node.key"), &old_key).unwrap();
            for (name, bytes) in [("node.key.next", next), (FILE, words)] {
                // It may not be there.
                let _ = std::fs::remove_file(at(name));
                if let Some(bytes) = bytes {
                    write_durably(&at(name), bytes).unwrap();
                }
            }
            let present = NodeKey::load_or_create(&state).unwrap().public();
            assert!(!at("node.key.next").exists());
            (present, load(&state, &present).unwrap().rotations.len())
        };
        assert_eq!(after_crash(Some(&new_key[..40]), None), (old, 0), "while the new key is written");
        assert_eq!(after_crash(Some(&new_key), None), (old, 0), "before the old key's word is written");
        assert_eq!(after_crash(Some(&new_key), Some(&words)), (new, 1), "before the new key takes its place");
        assert_eq!(after_crash(None, Some(&words)), (old, 0), "not by a crash, but of no harm");
        assert!(rotate("a.test", &state, NOW_S + 1).is_ok());
    }
}
