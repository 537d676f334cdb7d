//! What the tests of this crate need to be somebody.

use std::net::SocketAddr;
use std::sync::Arc;

use p2pcdn_core::object::{CHUNK_BYTES, Embedding, ObjectRecord, Sha256, Sharing};
use p2pcdn_core::peer::{NodeKey as PublicKey, PeerRecord};
use rustls::pki_types::PrivateKeyDer;
use rustls::{ClientConfig, ServerConfig};
use sha2::Digest;

use super::OUR_VERSIONS;
use super::node_key::NodeKey;
use super::own_record::{AboutUs, OwnRecord};
use super::tls::web_client_config;
use crate::clock::now_s;
use crate::reputation::book::{Book, Mode};
use crate::reputation::formulas::Formulas;
use crate::state_db::StateDb;

/// A fresh node key.
pub(crate) fn node_key() -> NodeKey {
    NodeKey::load_or_create(tempfile::tempdir().unwrap().path()).unwrap()
}

/// What is known of peers: nothing yet.
pub(crate) fn book() -> Arc<Book> {
    Arc::new(Book::open(database(), Formulas::default(), Mode::On).unwrap())
}

/// A database in memory.
pub(crate) fn database() -> Arc<StateDb> {
    Arc::new(StateDb::in_memory())
}

/// Settings of a site whose names are all `domain`.
pub(crate) fn about(domain: &str) -> AboutUs {
    AboutUs {
        domain: domain.into(),
        endpoint: domain.into(),
        replica_name: domain.into(),
        contact: "mailto:operator@example.org".into(),
        attachments: false,
    }
}

/// The own record of `domain`.
pub(crate) fn own_record(domain: &str, key: Arc<NodeKey>, db: Arc<StateDb>, now_s: u64) -> OwnRecord {
    OwnRecord::new(key, about(domain), db, now_s).unwrap()
}

/// What an origin says of an image with these bytes; expired.
pub(crate) fn object_record(origin: &str, path: &str, bytes: &[u8]) -> ObjectRecord {
    let hash = |bytes: &[u8]| Sha256(sha2::Sha256::digest(bytes).into());
    ObjectRecord {
        origin: origin.into(),
        path: path.into(),
        sha256: hash(bytes),
        size: bytes.len() as u64,
        content_type: "image/png".into(),
        etag: "\"x\"".into(),
        max_age_s: 1,
        stale_if_error_s: 0,
        sharing: Sharing::SameOrigin,
        embedding: Embedding::Unstated,
        chunks: bytes.chunks(CHUNK_BYTES as usize).map(hash).collect(),
        sequence: 1,
        expires_s: 1,
    }
}

/// A record that is valid for the next hour.
pub(crate) fn peer_record(domain: &str, node_key: PublicKey, sequence: u64) -> PeerRecord {
    let now_s = now_s();
    PeerRecord {
        domain: domain.into(),
        node_key,
        sequence,
        issued_s: now_s,
        expires_s: now_s + 3600,
        endpoint: domain.into(),
        replica_name: domain.into(),
        versions: OUR_VERSIONS.to_vec(),
        capabilities: vec![],
        contact: String::new(),
    }
}

/// A local address on which nobody listens.
pub(crate) async fn free_address() -> SocketAddr {
    tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

/// A throw-away certificate authority.
pub(crate) struct Authority {
    issuer: rcgen::Issuer<'static, rcgen::KeyPair>,
    root: tempfile::NamedTempFile,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::default();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let root = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(root.path(), params.self_signed(&key).unwrap().pem()).unwrap();
        Self { issuer: rcgen::Issuer::new(params, key), root }
    }

    /// For clients that believe this authority, too.
    pub(crate) fn trusting(&self) -> Arc<ClientConfig> {
        web_client_config(&[self.root.path().to_owned()]).unwrap()
    }

    /// For a server with those names.
    pub(crate) fn server_config(&self, names: &[&str]) -> Arc<ServerConfig> {
        let key = rcgen::KeyPair::generate().unwrap();
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let certificate = rcgen::CertificateParams::new(names).unwrap().signed_by(&key, &self.issuer).unwrap();
        let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
        let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)
            .unwrap();
        Arc::new(config)
    }
}
