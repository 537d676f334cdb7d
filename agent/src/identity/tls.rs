//! TLS in both roles: between agents by node key, towards the web by the ordinary chain of trust.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use p2pcdn_core::object::Sha256;
use p2pcdn_core::peer::{ALPN, NodeKey as PublicKey};
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::server::NoServerSessionStorage;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::version::TLS13;
use rustls::{
    CertificateError, ClientConfig, CommonState, DigitallySignedStruct, DistinguishedName, OtherError, RootCertStore,
    ServerConfig, SignatureScheme,
};

use super::node_key::NodeKey;
use super::signed::verify;

/// The node key's self-signed certificate, from which the configurations for both roles are made.
///
/// Names and dates in it mean nothing: peers look at the key alone.
pub struct NodeCertificate {
    certificate: CertificateDer<'static>,
    key: PrivatePkcs8KeyDer<'static>,
}

/// Why a TLS configuration could not be made; this side's fault.
#[derive(Debug, thiserror::Error)]
pub enum TlsSetupError {
    /// The node key could not be encoded.
    #[error("encoding the node key: {0}")]
    Key(#[from] ed25519_dalek::pkcs8::Error),
    /// The certificate could not be made.
    #[error("making the node certificate: {0}")]
    Certificate(#[from] rcgen::Error),
    /// The TLS library refused the configuration.
    #[error("configuring TLS: {0}")]
    Config(#[from] rustls::Error),
    /// A file of extra roots cannot be read or holds no certificate.
    #[error("{path}: {reason}")]
    ExtraRoot {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: ExtraRootError,
    },
    /// The system has no roots and none were configured.
    #[error("the system has no root certificates and trust.extra_roots names none")]
    NoRoots,
}

/// What is wrong with a file of extra roots.
#[derive(Debug, thiserror::Error)]
pub enum ExtraRootError {
    /// Unreadable or no PEM.
    #[error("not readable as PEM: {0}")]
    Pem(#[from] rustls::pki_types::pem::Error),
    /// A certificate that cannot be a root.
    #[error("not usable as a root: {0}")]
    Root(#[from] rustls::Error),
    /// No certificate in it.
    #[error("no certificate in it")]
    Empty,
}

/// Why the other end of a connection is not the peer that was meant; its fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PeerCertificateError {
    /// No certificate, several, or none that is well formed with an Ed25519 key.
    #[error("the other side showed no Ed25519 node certificate")]
    NotANode,
    /// Another key than the pinned one.
    #[error("the other side has node key {got}, not the pinned {expected}")]
    WrongKey {
        /// The pinned key.
        expected: PublicKey,
        /// The key shown.
        got: PublicKey,
    },
    /// The connection does not speak ALPN `p2pcdn/1`.
    #[error("the other side does not speak ALPN p2pcdn/1 (is its proxy passing it on to the agent?)")]
    Alpn,
}

impl NodeCertificate {
    /// Makes the certificate of `key`.
    pub fn new(key: &NodeKey) -> Result<Self, TlsSetupError> {
        let pkcs8 = key.pkcs8()?;
        let pair = rcgen::KeyPair::from_pkcs8_der_and_sign_algo(&pkcs8, &rcgen::PKCS_ED25519)?;
        let certificate = rcgen::CertificateParams::new(["p2pcdn.invalid".to_owned()])?.self_signed(&pair)?;
        Ok(Self { certificate: certificate.der().clone(), key: pkcs8 })
    }

    /// Server role: any client that proves an Ed25519 key is let in; what it may do is decided later, by that key.
    pub fn server_config(&self) -> Result<Arc<ServerConfig>, TlsSetupError> {
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])?
            .with_client_cert_verifier(Arc::new(ByNodeKey { expected: None }))
            .with_single_cert(vec![self.certificate.clone()], self.key.clone_key().into())?;
        config.alpn_protocols = vec![ALPN.to_vec()];
        // Every connection proves its key afresh.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Arc::new(config))
    }

    /// Client role: only the server that proves the key `expected` is talked to.
    pub fn client_config(&self, expected: PublicKey) -> Result<Arc<ClientConfig>, TlsSetupError> {
        let mut config = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(ByNodeKey { expected: Some(expected) }))
            .with_client_auth_cert(vec![self.certificate.clone()], self.key.clone_key().into())?;
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.resumption = Resumption::disabled();
        Ok(Arc::new(config))
    }
}

/// The node key that the other end of a finished handshake has proven; an error unless ALPN `p2pcdn/1` was agreed upon.
pub fn peer_node_key(connection: &CommonState) -> Result<PublicKey, PeerCertificateError> {
    if connection.alpn_protocol() != Some(ALPN) {
        return Err(PeerCertificateError::Alpn);
    }
    match connection.peer_certificates() {
        Some([certificate]) => node_key_of(certificate),
        _ => Err(PeerCertificateError::NotANode),
    }
}

/// The ordinary chain of trust: the system's roots and the PEM files in `extra_roots`; HTTP/1.1 only.
pub fn web_client_config(extra_roots: &[PathBuf]) -> Result<Arc<ClientConfig>, TlsSetupError> {
    let mut roots = RootCertStore::empty();
    let native = rustls_native_certs::load_native_certs();
    for error in native.errors {
        tracing::warn!(%error, "some root certificates of the system cannot be used");
    }
    roots.add_parsable_certificates(native.certs);
    extra_roots.iter().try_for_each(|path| add_extra_roots(&mut roots, path))?;
    if roots.is_empty() {
        return Err(TlsSetupError::NoRoots);
    }
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// Whether there are certificates in a PEM file of `extra_roots`.
pub fn check_extra_root(path: &Path) -> Result<(), TlsSetupError> {
    add_extra_roots(&mut RootCertStore::empty(), path)
}

fn add_extra_roots(roots: &mut RootCertStore, path: &Path) -> Result<(), TlsSetupError> {
    add_roots(roots, path).map_err(|reason| TlsSetupError::ExtraRoot { path: path.into(), reason })
}

fn add_roots(roots: &mut RootCertStore, path: &Path) -> Result<(), ExtraRootError> {
    let before = roots.len();
    for certificate in CertificateDer::pem_file_iter(path)? {
        roots.add(certificate?)?;
    }
    if roots.len() == before { Err(ExtraRootError::Empty) } else { Ok(()) }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn node_key_of(certificate: &CertificateDer<'_>) -> Result<PublicKey, PeerCertificateError> {
    let Ok((&[], parsed)) = x509_parser::parse_x509_certificate(certificate) else {
        return Err(PeerCertificateError::NotANode);
    };
    let spki = parsed.public_key();
    if spki.algorithm.algorithm != x509_parser::oid_registry::OID_SIG_ED25519 {
        return Err(PeerCertificateError::NotANode);
    }
    let key = spki.subject_public_key.data.as_ref().try_into();
    key.map(Sha256).map_err(|_| PeerCertificateError::NotANode)
}

/// Believes the key in a certificate as soon as the handshake is signed with it.
#[derive(Debug)]
struct ByNodeKey {
    expected: Option<PublicKey>,
}

impl ByNodeKey {
    fn check(&self, certificate: &CertificateDer<'_>, others: &[CertificateDer<'_>]) -> Result<(), rustls::Error> {
        let got = match others {
            [] => node_key_of(certificate),
            _ => Err(PeerCertificateError::NotANode),
        };
        let error = match (got, self.expected) {
            (Ok(got), Some(expected)) if got != expected => PeerCertificateError::WrongKey { expected, got },
            (Ok(_), _) => return Ok(()),
            (Err(error), _) => error,
        };
        Err(CertificateError::Other(OtherError(Arc::new(error))).into())
    }

    // Signatures are checked against the very key that `node_key_of` reads, so no second certificate parser can disagree.
    fn check_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let valid = signed.scheme == SignatureScheme::ED25519
            && node_key_of(certificate)
                .is_ok_and(|key| signed.signature().try_into().is_ok_and(|signature| verify(&key, message, signature)));
        if valid { Ok(HandshakeSignatureValid::assertion()) } else { Err(CertificateError::BadSignature.into()) }
    }
}

impl ServerCertVerifier for ByNodeKey {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.check(end_entity, intermediates).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(CertificateError::BadSignature.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.check_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }
}

impl ClientCertVerifier for ByNodeKey {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.check(end_entity, intermediates).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(CertificateError::BadSignature.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.check_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }
}
