//! What can go wrong in the store, by whose fault it is.

use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::identity::SignedError;

/// Why the store could not do its work; this machine's fault.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A file or directory could not be read or written.
    #[error("{}: {source}{}", path.display(), remedy(source.kind()))]
    Io {
        /// Which one.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A bucket without keys.
    #[error(
        "store.url names a bucket, but AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY are not in the agent's environment"
    )]
    NoKeys,
    /// The object store failed.
    #[error("replica bytes: {0}")]
    Bytes(#[from] object_store::Error),
    /// The server of a bucket does not let this agent work in it.
    #[error("{0}; check store.url, store.endpoint and the keys in AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")]
    Refused(object_store::Error),
    /// The metadata could not be read or written.
    #[error("replica metadata: {0}")]
    Metadata(Box<redb::Error>),
    /// A statement in the metadata no longer opens.
    #[error("replica metadata: {0}")]
    Statement(#[from] SignedError),
    /// A statement could not be written.
    #[error("replica metadata: {0}")]
    Json(#[from] serde_json::Error),
    /// The work was cut off because the agent stops.
    #[error("the agent is stopping")]
    Stopping,
    /// What failed for several replicas at once.
    #[error(transparent)]
    Shared(#[from] Arc<StoreError>),
}

/// Why a replica cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// Its bytes are gone.
    #[error("the bytes are missing")]
    Missing,
    /// Its bytes are not what the record says.
    #[error("the bytes do not match the record")]
    Corrupt,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why an object was not taken in.
#[derive(Debug, thiserror::Error)]
pub enum IncomingError {
    /// The sender's fault: a chunk, or the whole, is not what the record says.
    #[error("wrong bytes in chunk {chunk}")]
    WrongBytes {
        /// Number of the chunk, from 0.
        chunk: usize,
    },
    /// The sender's fault: more bytes than the record says.
    #[error("more bytes than the record says")]
    TooLong,
    /// The sender's fault: the body ended early.
    #[error("the body ended after {received} bytes")]
    CutOff {
        /// Bytes that came and were verified.
        received: u64,
    },
    /// The caller's fault: the statement is about other bytes than those taken in.
    #[error("the record is about other bytes")]
    OtherBytes,
    /// Nobody's fault: a newer version came in meanwhile.
    #[error("a newer version has come in meanwhile")]
    Outdated,
    /// This machine's fault.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl StoreError {
    /// Whether the disk, or the user's share of it, is used up: what was held goes on being served, and room may come back.
    pub fn is_full(&self) -> bool {
        let mut next: Option<&(dyn Error + 'static)> = Some(self);
        while let Some(error) = next {
            if error.downcast_ref::<io::Error>().is_some_and(|io| is_full(io.kind())) {
                return true;
            }
            next = error.source();
        }
        // redb and Arc do not name what they wrap as their source.
        match self {
            Self::Metadata(error) => matches!(&**error, redb::Error::Io(io) if is_full(io.kind())),
            Self::Shared(error) => error.is_full(),
            _ => false,
        }
    }

    /// Tells refusals, which the operator has to mend, from failures, after which a store elsewhere may answer later.
    pub(super) fn sort_out(self) -> Self {
        match self {
            Self::Bytes(error) if is_refusal(&error) => Self::Refused(error),
            other => other,
        }
    }

    pub(super) fn io(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { path, source }
    }
}

fn is_refusal(error: &object_store::Error) -> bool {
    // A listing that is refused is no variant of its own, but the error codes of the protocol are in its text.
    const CODES: [&str; 4] = ["NoSuchBucket", "AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch"];
    let text = error.to_string();
    CODES.iter().any(|code| text.contains(code))
}

fn is_full(kind: io::ErrorKind) -> bool {
    matches!(kind, io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

fn remedy(kind: io::ErrorKind) -> &'static str {
    match kind {
        kind if is_full(kind) => "; free space there or lower host.quota, what is held is still served",
        io::ErrorKind::PermissionDenied => "; make it readable and writable for the user who runs p2pcdn",
        io::ErrorKind::ReadOnlyFilesystem => "; mount it for writing or choose another place in store.url",
        _ => "",
    }
}
