//! What cannot be had again when a state directory is lost: the node key, who the peers are, how far sequences have got, and what the
//! operator has said: what is denied, whether this host leaves, and whether redirects are paused.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use redb::{Database, ReadableDatabase};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::membership::{MembershipError, PEERS, parse};
use super::node_key::{NodeKey, NodeKeyError, StateLock, write_durably};
use super::rotate::{self, RotateError};
use super::rotation::Rotations;
use super::sequence::{COUNTERS, restored};
use crate::pause::OPERATOR;
use crate::replicate::host::deny::DENIED;
use crate::replicate::host::terms::HOSTING;
use crate::reputation::book::{ACCOUNTS, MARKS};
use crate::state_db::rows;

/// A backup, as it stands in its file.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Backup {
    /// [`VERSION`].
    p2pcdn_backup: u32,
    /// The site's domain.
    pub domain: String,
    /// PKCS#8 PEM.
    node_key: String,
    counters: BTreeMap<String, u64>,
    peers: BTreeMap<String, Value>,
    /// Each with its time; none in a backup from before they were put into it.
    #[serde(default)]
    denied: BTreeMap<String, u64>,
    #[serde(default)]
    hosting: BTreeMap<String, u64>,
    #[serde(default)]
    operator: BTreeMap<String, u64>,
    /// What is held against peers and for them.
    #[serde(default)]
    accounts: BTreeMap<String, Value>,
    #[serde(default)]
    marks: BTreeMap<String, Value>,
    /// How the key followed from former ones.
    #[serde(default)]
    rotations: Rotations,
}

/// The same as it stands in the metadata.
#[derive(Default)]
struct Tables {
    counters: BTreeMap<String, u64>,
    peers: BTreeMap<String, Vec<u8>>,
    denied: BTreeMap<String, u64>,
    hosting: BTreeMap<String, u64>,
    operator: BTreeMap<String, u64>,
    accounts: BTreeMap<String, Value>,
    marks: BTreeMap<String, Value>,
}

/// Why there is no backup, or nothing was restored from one.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// An agent uses the state directory.
    #[error(
        "an agent runs on {0}; stop it first, as in: systemctl stop p2pcdn. Visitors are served by the proxy meanwhile, \
         and peers come back by themselves"
    )]
    Running(PathBuf),
    /// Something is there that would be lost.
    #[error("{0} exists; name another file, or add --force to replace it")]
    Exists(PathBuf),
    /// The state directory is somebody's already.
    #[error(
        "{0} has a node key already; add --force to put the backup in its place (the old files stay beside it, as *.replaced)"
    )]
    InUse(PathBuf),
    /// The backup is another site's.
    #[error("the backup is {backup}'s, and the settings are {settings}'s; add --force if the site has a new domain")]
    Domain {
        /// Whose backup it is.
        backup: String,
        /// Who is to be restored.
        settings: String,
    },
    /// The file is no backup, or is damaged.
    #[error("{0} is no backup of this release of p2pcdn")]
    Malformed(PathBuf),
    /// The key in the state directory cannot be used.
    #[error(transparent)]
    Key(NodeKeyError),
    /// What former keys have said cannot be read.
    #[error(transparent)]
    Rotations(#[from] RotateError),
    /// A peer's entry is damaged.
    #[error(transparent)]
    Peer(#[from] MembershipError),
    /// The metadata could not be read or written.
    #[error("{path}: {source}")]
    Database {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: Box<redb::Error>,
    },
    /// A file could not be read or written.
    #[error("{path}: {source}")]
    Io {
        /// Which one.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The backup could not be written as JSON.
    #[error("writing the backup: {0}")]
    Json(#[from] serde_json::Error),
}

/// What a backup of this release calls itself.
const VERSION: u32 = 1;
/// Largest backup that is read: 4096 peers with records of 8 KiB, twice over.
const MAX_BYTES: u64 = 64 << 20;

impl Backup {
    /// Reads what is in a state directory that no agent uses.
    pub fn of(domain: &str, state_dir: &Path) -> Result<Self, BackupError> {
        let key = NodeKey::load(state_dir).map_err(|error| BackupError::of_key(error, state_dir))?;
        let path = state_dir.join("state.redb");
        let Tables { counters, peers, denied, hosting, operator, accounts, marks } =
            read(&path).map_err(database(&path))?;
        let peers = peers.into_iter().map(|(domain, json)| {
            parse(&domain, &json)?;
            Ok((domain, serde_json::from_slice(&json)?))
        });
        Ok(Self {
            p2pcdn_backup: VERSION,
            domain: domain.to_owned(),
            node_key: key.pem().map_err(BackupError::Key)?,
            counters,
            peers: peers.collect::<Result<_, BackupError>>()?,
            denied,
            hosting,
            operator,
            accounts,
            marks,
            rotations: rotate::load(state_dir, &key.public())?,
        })
    }

    /// Writes the backup durably to a file that only its owner can read.
    pub fn save(&self, file: &Path, force: bool) -> Result<(), BackupError> {
        if !force && std::fs::symlink_metadata(file).is_ok() {
            return Err(BackupError::Exists(file.to_owned()));
        }
        let json = serde_json::to_vec_pretty(self)?;
        let mut name = file.file_name().unwrap_or_default().to_owned();
        name.push(".new");
        let temporary = file.with_file_name(name);
        write_durably(&temporary, &json).map_err(fault(&temporary))?;
        std::fs::rename(&temporary, file).map_err(fault(file))
    }

    /// Reads a backup from its file.
    pub fn load(file: &Path) -> Result<Self, BackupError> {
        let mut json = Vec::new();
        let read = File::open(file).and_then(|opened| opened.take(MAX_BYTES).read_to_end(&mut json));
        read.map_err(fault(file))?;
        let backup = serde_json::from_slice::<Self>(&json).ok();
        let is_sound = |backup: &Self| backup.p2pcdn_backup == VERSION && StateLock::check(&backup.node_key);
        backup.filter(is_sound).ok_or_else(|| BackupError::Malformed(file.to_owned()))
    }

    /// Makes the state directory that of the backed-up site.
    ///
    /// Sequences go on above what can have been used by `now_s`, since the backup or after an earlier restore from it, and in another run
    /// (see [`super::sequence`]), so that none is used twice; `now_s` is seconds since the Unix epoch.
    pub fn restore(&self, domain: &str, state_dir: &Path, force: bool, now_s: u64) -> Result<(), BackupError> {
        if self.domain != domain && !force {
            return Err(BackupError::Domain { backup: self.domain.clone(), settings: domain.to_owned() });
        }
        let lock = NodeKey::lock(state_dir).map_err(|error| BackupError::of_key(error, state_dir))?;
        for name in ["node.key", "state.redb", rotate::FILE] {
            let path = state_dir.join(name);
            if path.exists() {
                if !force {
                    return Err(BackupError::InUse(state_dir.to_owned()));
                }
                std::fs::rename(&path, state_dir.join(format!("{name}.replaced"))).map_err(fault(&path))?;
            }
        }
        let (path, temporary) = (state_dir.join("state.redb"), state_dir.join("state.redb.new"));
        // An earlier attempt may have been cut off here.
        OpenOptions::new().create(true).truncate(true).write(true).open(&temporary).map_err(fault(&temporary))?;
        self.fill(&temporary, now_s)?;
        std::fs::rename(&temporary, &path).map_err(fault(&path))?;
        if !self.rotations.rotations.is_empty() {
            rotate::store(state_dir, &self.rotations).map_err(BackupError::Key)?;
        }
        // The key is last: without it nothing is restored, and the next attempt begins anew.
        lock.put_key(&self.node_key).map_err(BackupError::Key)
    }

    fn fill(&self, path: &Path, now_s: u64) -> Result<(), BackupError> {
        let draw = getrandom::u64().map_err(|error| BackupError::Key(NodeKeyError::Random(error)))?;
        let mut peers = Vec::with_capacity(self.peers.len());
        for (domain, entry) in &self.peers {
            let json = serde_json::to_vec(entry)?;
            parse(domain, &json)?;
            peers.push((domain.as_str(), json));
        }
        let write = || -> Result<(), redb::Error> {
            let db = Database::create(path)?;
            let transaction = db.begin_write()?;
            {
                let mut table = transaction.open_table(PEERS)?;
                for (domain, json) in &peers {
                    table.insert(*domain, json.as_slice())?;
                }
                let mut table = transaction.open_table(COUNTERS)?;
                for (name, last) in &self.counters {
                    table.insert(name.as_str(), restored(*last, now_s, draw))?;
                }
                for (name, rows) in [(ACCOUNTS, &self.accounts), (MARKS, &self.marks)] {
                    let mut table = transaction.open_table(name)?;
                    for (domain, row) in rows {
                        table.insert(domain.as_str(), row.to_string().as_bytes())?;
                    }
                }
                for (name, rows) in [(DENIED, &self.denied), (HOSTING, &self.hosting), (OPERATOR, &self.operator)] {
                    let mut table = transaction.open_table(name)?;
                    for (key, since_s) in rows {
                        table.insert(key.as_str(), *since_s)?;
                    }
                }
            }
            Ok(transaction.commit()?)
        };
        write().map_err(database(path))
    }
}

impl BackupError {
    fn of_key(error: NodeKeyError, state_dir: &Path) -> Self {
        match error {
            NodeKeyError::InUse(_) => Self::Running(state_dir.to_owned()),
            error => Self::Key(error),
        }
    }
}

fn read(path: &Path) -> Result<Tables, redb::Error> {
    let db = Database::open(path)?;
    let transaction = db.begin_read()?;
    Ok(Tables {
        counters: rows(&transaction, COUNTERS, |last| last)?,
        peers: rows(&transaction, PEERS, <[u8]>::to_vec)?,
        denied: rows(&transaction, DENIED, |since_s| since_s)?,
        hosting: rows(&transaction, HOSTING, |since_s| since_s)?,
        operator: rows(&transaction, OPERATOR, |value| value)?,
        // What is not understood says nothing.
        accounts: rows(&transaction, ACCOUNTS, |json| serde_json::from_slice(json).unwrap_or_default())?,
        marks: rows(&transaction, MARKS, |json| serde_json::from_slice(json).unwrap_or_default())?,
    })
}

fn database(path: &Path) -> impl FnOnce(redb::Error) -> BackupError {
    let path = path.to_owned();
    move |source| BackupError::Database { path, source: Box::new(source) }
}

fn fault(path: &Path) -> impl FnOnce(io::Error) -> BackupError {
    let path = path.to_owned();
    move |source| BackupError::Io { path, source }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::clock::now_s;
    use crate::identity::{Counter, Membership, RosterBounds, testing};
    use crate::pause::Pause;
    use crate::replicate::host::admit;
    use crate::replicate::host::terms::Terms;
    use crate::state_db::StateDb;

    fn next(state: &Path, name: &'static str) -> u64 {
        Counter::new(Arc::new(StateDb::open(&state.join("state.redb")).unwrap()), name).next(now_s()).unwrap()
    }

    #[test]
    fn what_is_restored_is_the_same_site_with_other_sequences() {
        let directory = tempfile::tempdir().unwrap();
        let (old, new, file) =
            (directory.path().join("old"), directory.path().join("new"), directory.path().join("file"));
        let key = NodeKey::load_or_create(&old).unwrap();
        let sequence = next(&old, "object");
        let membership = |state: &Path| {
            let db = Arc::new(StateDb::open(&state.join("state.redb")).unwrap());
            Membership::open(db, "a.test", RosterBounds::default()).unwrap()
        };
        membership(&old).invite("b.test").unwrap();
        let terms = |state: &Path| {
            let db = Arc::new(StateDb::open(&state.join("state.redb")).unwrap());
            Terms::open(db, admit::tests::host(), testing::book(), 0, 0).unwrap()
        };
        let pause = |state: &Path| {
            let (db, load) = (StateDb::open(&state.join("state.redb")).unwrap(), Arc::default());
            (Pause::open(Arc::new(db), Arc::clone(&load)).unwrap(), load)
        };
        terms(&old).deny.add(&["c.test/x".parse().unwrap()], 7).unwrap();
        terms(&old).set_leaving(true, 8);
        pause(&old).0.set(true).unwrap();

        assert!(matches!(Backup::of("a.test", &old), Err(BackupError::Running(_))));
        let public = key.public();
        drop(key);
        Backup::of("a.test", &old).unwrap().save(&file, false).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&file).unwrap().permissions());
        assert_eq!(mode & 0o777, 0o600);
        assert!(matches!(Backup::of("a.test", &old).unwrap().save(&file, false), Err(BackupError::Exists(_))));
        let used_since = next(&old, "object");

        let backup = Backup::load(&file).unwrap();
        assert!(matches!(backup.restore("b.test", &new, false, now_s()), Err(BackupError::Domain { .. })));
        backup.restore("a.test", &new, false, now_s() + 2).unwrap();
        let restored = NodeKey::load_or_create(&new).unwrap();
        assert_eq!(restored.public(), public);
        assert!(matches!(backup.restore("a.test", &new, true, now_s()), Err(BackupError::Running(_))));
        drop(restored);
        assert!(next(&new, "object") > used_since && used_since > sequence);
        assert!(membership(&new).standing("b.test").is_some());
        assert_eq!(terms(&new).deny.list(), terms(&old).deny.list());
        assert!(!terms(&new).deny.is_empty() && terms(&new).is_leaving());
        assert!(pause(&new).1.lock().unwrap().steering(0).killed);

        assert!(matches!(backup.restore("a.test", &new, false, now_s()), Err(BackupError::InUse(_))));
        backup.restore("a.test", &new, true, now_s()).unwrap();
        assert!(new.join("node.key.replaced").exists());

        // A second restore from the same file does not use again what the first has used.
        let used = next(&new, "object");
        backup.restore("a.test", &new, true, now_s() + 4).unwrap();
        assert!(next(&new, "object") > used);
    }

    #[test]
    fn a_damaged_backup_is_refused_before_anything_changes() {
        let directory = tempfile::tempdir().unwrap();
        let (state, file) = (directory.path().join("state"), directory.path().join("file"));
        drop(NodeKey::load_or_create(&state).unwrap());
        next(&state, "object");
        Backup::of("a.test", &state).unwrap().save(&file, false).unwrap();
        let whole = std::fs::read_to_string(&file).unwrap();
        for damaged in
            [whole.replace("PRIVATE", "PUBLIC"), whole.replace("_backup\": 1", "_backup\": 2"), whole[..90].into()]
        {
            std::fs::write(&file, damaged).unwrap();
            assert!(matches!(Backup::load(&file), Err(BackupError::Malformed(_))));
        }
        let empty = directory.path().join("empty");
        assert!(matches!(Backup::of("a.test", &empty), Err(BackupError::Key(_))));
        assert!(!empty.exists());
    }
}
