//! Why the agent could not start, or had to stop.

use std::io;

use crate::catalogue::{CatalogueError, SourceError};
use crate::identity::rotate::RotateError;
use crate::identity::{MembershipError, NodeKeyError, OwnRecordError, TlsSetupError};
use crate::replicate::host::terms::TermsError;
use crate::store::StoreError;

/// Why the agent could not start, or had to stop.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The state directory could not be used.
    #[error("state.directory {path}: {source}; create it and make it writable for this user")]
    State {
        /// The directory.
        path: String,
        /// What the system said.
        source: io::Error,
    },
    /// The metadata could not be opened.
    #[error("{path}: {source}")]
    Database {
        /// The file.
        path: String,
        /// What is wrong.
        source: Box<redb::Error>,
    },
    /// A socket could not be opened.
    #[error("{key} = {address}: {source}")]
    Listen {
        /// Its key in the settings.
        key: &'static str,
        /// The address.
        address: String,
        /// What the system said.
        source: io::Error,
    },
    /// No key, or not a safe one.
    #[error(transparent)]
    NodeKey(#[from] NodeKeyError),
    /// What former keys have said cannot be read.
    #[error(transparent)]
    Rotations(#[from] RotateError),
    /// No own peer record.
    #[error(transparent)]
    OwnRecord(#[from] OwnRecordError),
    /// No TLS.
    #[error(transparent)]
    Tls(#[from] TlsSetupError),
    /// Peers could not be read or written.
    #[error(transparent)]
    Membership(#[from] MembershipError),
    /// Replicas could not be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Whether redirects are paused could not be read.
    #[error("the operator's pause in state.redb: {0}")]
    Pause(Box<redb::Error>),
    /// The terms of hosting could not be read.
    #[error(transparent)]
    Terms(#[from] TermsError),
    /// What was known of peers could not be read.
    #[error("reputations: {0}")]
    Book(#[source] Box<redb::Error>),
    /// Withdrawals that are yet to be told could not be read.
    #[error("withdrawals: {0}")]
    Outbox(#[from] Box<redb::Error>),
    /// The site's own objects have no place to come from.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The content directory cannot be followed.
    #[error("site.directory: {0}")]
    Catalogue(#[from] CatalogueError),
    /// The system gave no random numbers.
    #[error("no random numbers: {0}")]
    Random(#[from] getrandom::Error),
}
