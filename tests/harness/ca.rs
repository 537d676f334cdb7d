//! A certificate authority that lives as long as one test.

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose,
};
use rustls::RootCertStore;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::Error;

/// A throw-away CA.
pub struct Ca(CertifiedIssuer<'static, KeyPair>);

/// A server certificate and its key.
pub struct Leaf {
    /// Certificate as PEM.
    pub certificate_pem: String,
    /// Private key as PEM.
    pub key_pem: String,
    /// Certificate as DER.
    pub certificate: CertificateDer<'static>,
    /// Private key as DER.
    pub key: PrivateKeyDer<'static>,
}

impl Ca {
    /// A new CA with a key of its own.
    ///
    /// # Errors
    /// [`Error::Certificate`].
    pub fn new() -> Result<Self, Error> {
        let mut params = CertificateParams::new([])?;
        params.distinguished_name.push(DnType::CommonName, "p2pcdn throw-away CA");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        Ok(Self(CertifiedIssuer::self_signed(params, KeyPair::generate()?)?))
    }

    /// The root certificate as PEM.
    pub fn pem(&self) -> String {
        self.0.pem()
    }

    /// A store that trusts this CA and nothing else.
    pub fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(self.0.der().clone()).expect("a certificate that rcgen made is well-formed");
        roots
    }

    /// A server certificate for `names`, as public CAs issue them: server authentication only.
    ///
    /// # Errors
    /// [`Error::Certificate`], for example when a name is no DNS name.
    pub fn issue(&self, names: &[&str]) -> Result<Leaf, Error> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(names.iter().map(|n| n.to_string()).collect::<Vec<_>>())?;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let certificate = params.signed_by(&key, &self.0)?;
        Ok(Leaf {
            certificate_pem: certificate.pem(),
            key_pem: key.serialize_pem(),
            certificate: certificate.der().clone(),
            key: key.into(),
        })
    }
}
