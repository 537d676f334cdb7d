//! The agent's one long-lived key.

use std::fs::{DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use ed25519_dalek::pkcs8::spki::der::pem::LineEnding;
use ed25519_dalek::pkcs8::{DecodePrivateKey, EncodePrivateKey};
use ed25519_dalek::{Signer, SigningKey};
use p2pcdn_core::peer::NodeKey as PublicKey;
use rustls::pki_types::PrivatePkcs8KeyDer;

/// The Ed25519 private key of this agent instance; the state directory stays locked for as long as this value lives.
pub struct NodeKey {
    signing: SigningKey,
    _lock: File,
}

/// Why there is no node key; the operator's to mend, except [`NodeKeyError::Random`].
#[derive(Debug, thiserror::Error)]
pub enum NodeKeyError {
    /// Another agent runs on the same state directory.
    #[error("another p2pcdn agent is using {0} (its lock is held); stop it or choose another state directory")]
    InUse(PathBuf),
    /// Users other than the owner can read the key.
    #[error("{0} can be read by others; run: chmod 600 {0}")]
    Exposed(PathBuf),
    /// The file is no PKCS#8 PEM of an Ed25519 key.
    #[error("{0} is not an Ed25519 private key in PKCS#8 PEM")]
    Malformed(PathBuf),
    /// The system gave no random numbers.
    #[error("no random numbers from the system: {0}")]
    Random(getrandom::Error),
    /// The key could not be encoded.
    #[error("encoding the node key: {0}")]
    Encoding(#[from] ed25519_dalek::pkcs8::Error),
    /// Reading or writing below the state directory failed.
    #[error("{path}: {source}")]
    Io {
        /// The file or directory concerned.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// Largest key file that is read, in bytes.
const MAX_PEM_BYTES: u64 = 4096;

impl NodeKey {
    /// Locks `state_dir` and reads `node.key` in it; creates the directory (mode 0700) and the key (mode 0600) on first run.
    pub fn load_or_create(state_dir: &Path) -> Result<Self, NodeKeyError> {
        DirBuilder::new().recursive(true).mode(0o700).create(state_dir).map_err(io_error(state_dir))?;
        let lock = lock(state_dir)?;
        finish_rotation(state_dir)?;
        let path = state_dir.join("node.key");
        let signing = match File::open(&path) {
            Ok(file) => read(file, &path)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => create(state_dir, &path)?,
            Err(error) => return Err(io_error(&path)(error)),
        };
        Ok(Self { signing, _lock: lock })
    }

    /// Locks `state_dir` and reads the key that has to be there; nothing is created but the lock.
    pub(super) fn load(state_dir: &Path) -> Result<Self, NodeKeyError> {
        let path = state_dir.join("node.key");
        File::open(&path).map_err(io_error(&path))?;
        let lock = lock(state_dir)?;
        finish_rotation(state_dir)?;
        let file = File::open(&path).map_err(io_error(&path))?;
        Ok(Self { signing: read(file, &path)?, _lock: lock })
    }

    /// Another key, which takes this one's place; what makes the change known is written by `record`, given the other key, before that.
    ///
    /// A crash at any point leaves this key with what was known before, or the other one with what `record` wrote: see
    /// [`super::rotate::completes`].
    pub(super) fn replace(
        &mut self,
        state_dir: &Path,
        record: impl FnOnce(&Self, &PublicKey) -> Result<(), NodeKeyError>,
    ) -> Result<(), NodeKeyError> {
        let signing = generate()?;
        let next = state_dir.join(NEXT_KEY);
        write_durably(&next, signing.to_pkcs8_pem(LineEnding::LF)?.as_bytes()).map_err(io_error(&next))?;
        record(self, &p2pcdn_core::object::Sha256(signing.verifying_key().to_bytes()))?;
        finish_rotation(state_dir)?;
        self.signing = signing;
        Ok(())
    }

    /// The private key, for a backup.
    pub(super) fn pem(&self) -> Result<String, NodeKeyError> {
        Ok(self.signing.to_pkcs8_pem(LineEnding::LF)?.to_string())
    }

    /// Locks `state_dir`, which is created if it is not there, for [`StateLock::put_key`].
    pub(super) fn lock(state_dir: &Path) -> Result<StateLock, NodeKeyError> {
        DirBuilder::new().recursive(true).mode(0o700).create(state_dir).map_err(io_error(state_dir))?;
        Ok(StateLock { _lock: lock(state_dir)?, state_dir: state_dir.to_owned() })
    }

    /// The public half, by which peers know this agent.
    pub fn public(&self) -> PublicKey {
        p2pcdn_core::object::Sha256(self.signing.verifying_key().to_bytes())
    }

    /// The Ed25519 signature over `message`.
    pub(super) fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.signing.sign(message).to_bytes()
    }

    /// The key as PKCS#8, for the TLS stack.
    pub(super) fn pkcs8(&self) -> Result<PrivatePkcs8KeyDer<'static>, ed25519_dalek::pkcs8::Error> {
        Ok(self.signing.to_pkcs8_der()?.as_bytes().to_vec().into())
    }
}

/// A state directory that nobody else uses.
pub(super) struct StateLock {
    _lock: File,
    state_dir: PathBuf,
}

impl StateLock {
    /// Checks a key from a backup.
    pub(super) fn check(pem: &str) -> bool {
        SigningKey::from_pkcs8_pem(pem).is_ok()
    }

    /// Puts a key from a backup in its place, durably.
    pub(super) fn put_key(&self, pem: &str) -> Result<(), NodeKeyError> {
        install(&self.state_dir, &self.state_dir.join("node.key"), pem)
    }
}

fn lock(state_dir: &Path) -> Result<File, NodeKeyError> {
    let path = state_dir.join("node.lock");
    let file =
        OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path).map_err(io_error(&path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(NodeKeyError::InUse(state_dir.to_owned())),
        Err(TryLockError::Error(source)) => Err(NodeKeyError::Io { path, source }),
    }
}

fn read(file: File, path: &Path) -> Result<SigningKey, NodeKeyError> {
    let mode = file.metadata().map_err(io_error(path))?.permissions().mode();
    if mode & 0o077 != 0 {
        return Err(NodeKeyError::Exposed(path.to_owned()));
    }
    let mut pem = String::new();
    file.take(MAX_PEM_BYTES).read_to_string(&mut pem).map_err(io_error(path))?;
    SigningKey::from_pkcs8_pem(&pem).map_err(|_| NodeKeyError::Malformed(path.to_owned()))
}

/// A key that is to take the present one's place as soon as that is known to be its successor.
const NEXT_KEY: &str = "node.key.next";

/// Brings a rotation to its end that a crash has interrupted, forwards if the old key's word is written, else backwards.
fn finish_rotation(state_dir: &Path) -> Result<(), NodeKeyError> {
    let next = state_dir.join(NEXT_KEY);
    let file = match File::open(&next) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        file => file.map_err(io_error(&next))?,
    };
    // What a crash has cut off is no key, and nobody has heard of it.
    let key = read(file, &next).ok().map(|key| p2pcdn_core::object::Sha256(key.verifying_key().to_bytes()));
    if key.is_some_and(|key| super::rotate::completes(state_dir, &key)) {
        let path = state_dir.join("node.key");
        std::fs::rename(&next, &path).map_err(io_error(&path))?;
    } else {
        std::fs::remove_file(&next).map_err(io_error(&next))?;
    }
    sync_directory(state_dir)
}

fn generate() -> Result<SigningKey, NodeKeyError> {
    let mut secret = [0; 32];
    getrandom::fill(&mut secret).map_err(NodeKeyError::Random)?;
    Ok(SigningKey::from_bytes(&secret))
}

fn create(state_dir: &Path, path: &Path) -> Result<SigningKey, NodeKeyError> {
    let signing = generate()?;
    let pem = signing.to_pkcs8_pem(LineEnding::LF)?;
    install(state_dir, path, &pem)?;
    tracing::info!(path = %path.display(), "created the node key; p2pcdn backup copies it, peers know this site by it");
    Ok(signing)
}

fn install(state_dir: &Path, path: &Path, pem: &str) -> Result<(), NodeKeyError> {
    let temporary = state_dir.join("node.key.new");
    write_durably(&temporary, pem.as_bytes()).map_err(io_error(&temporary))?;
    std::fs::rename(&temporary, path).map_err(io_error(path))?;
    sync_directory(state_dir)
}

fn sync_directory(state_dir: &Path) -> Result<(), NodeKeyError> {
    File::open(state_dir).and_then(|dir| dir.sync_all()).map_err(io_error(state_dir))
}

pub(super) fn write_durably(path: &Path, bytes: &[u8]) -> io::Result<()> {
    // Truncating also covers what a crash left behind, whatever its mode was.
    let mut file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(path)?;
    file.set_permissions(Permissions::from_mode(0o600))?;
    file.write_all(bytes)?;
    file.sync_all()
}

pub(super) fn io_error(path: &Path) -> impl Fn(io::Error) -> NodeKeyError {
    let path = path.to_owned();
    move |source| NodeKeyError::Io { path: path.clone(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_outlives_the_process_and_is_private() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("deep/state");
        let first = NodeKey::load_or_create(&state).unwrap().public();
        assert_eq!(NodeKey::load_or_create(&state).unwrap().public(), first);
        let mode = std::fs::metadata(state.join("node.key")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(!state.join("node.key.new").exists());
    }

    #[test]
    fn a_second_instance_is_told_so() {
        let dir = tempfile::tempdir().unwrap();
        let first = NodeKey::load_or_create(dir.path()).unwrap();
        assert!(matches!(NodeKey::load_or_create(dir.path()), Err(NodeKeyError::InUse(_))));
        drop(first);
        assert!(NodeKey::load_or_create(dir.path()).is_ok());
    }

    #[test]
    fn an_exposed_key_is_refused_with_the_remedy() {
        let dir = tempfile::tempdir().unwrap();
        drop(NodeKey::load_or_create(dir.path()).unwrap());
        let path = dir.path().join("node.key");
        std::fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
        let error = NodeKey::load_or_create(dir.path()).err().unwrap();
        assert!(error.to_string().contains(&format!("chmod 600 {}", path.display())), "{error}");
    }

    #[test]
    fn a_damaged_key_is_never_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("node.key");
        write_durably(&path, b"not a key").unwrap();
        assert!(matches!(NodeKey::load_or_create(dir.path()), Err(NodeKeyError::Malformed(_))));
        assert_eq!(std::fs::read(&path).unwrap(), b"not a key");
    }

    #[test]
    fn what_a_crash_left_of_a_new_key_does_no_harm() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("node.key.new"), "-----BEGIN").unwrap();
        let key = NodeKey::load_or_create(dir.path()).unwrap().public();
        assert_eq!(NodeKey::load_or_create(dir.path()).unwrap().public(), key);
    }
}
