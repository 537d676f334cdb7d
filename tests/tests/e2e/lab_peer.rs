//! A peer that says what a test has it say: it is known by its domain and its key like any other, but no agent is behind it.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use p2pcdn_agent::identity::hello::{HELLO_PATH, HelloAnswer};
use p2pcdn_agent::identity::introduction::fetch_peer_record;
use p2pcdn_agent::identity::{
    Connector, NodeCertificate, NodeKey, PeerClient, PeerClientError, Signed, Statement, sign, web_client_config,
};
use p2pcdn_agent::replicate::batch::{BATCHES_PATH, BatchRequest, header};
use p2pcdn_agent::replicate::messages::{
    ACKNOWLEDGEMENTS_PATH, Acknowledgements, Done, LeaseGrant, MAX_MESSAGE_BYTES, OBJECTS_PATH, OFFERS_PATH, Offer,
    OfferAnswer, Verdict, WITHDRAWALS_PATH,
};
use p2pcdn_core::object::{CHUNK_BYTES, Sha256};
use p2pcdn_core::peer::{PEER_DOCUMENT_PATH, PeerRecord};
use p2pcdn_tests::content::digest;
use p2pcdn_tests::{Lab, Site};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

/// A statement of any content, to be signed as one of a kind.
macro_rules! any_statement {
    ($name:ident, $kind:literal) => {
        #[derive(Serialize, Deserialize)]
        #[serde(transparent)]
        pub(crate) struct $name(pub(crate) Value);

        impl Statement for $name {
            const TYPE: &'static str = $kind;
        }
    };
}

any_statement!(AnyPeer, "peer");
any_statement!(AnyObject, "object");
any_statement!(AnyAcknowledgement, "acknowledgement");

/// The peer; it ends with the test's runtime.
pub(crate) struct LabPeer {
    pub(crate) domain: String,
    pub(crate) key: NodeKey,
    pub(crate) record: Signed,
    client: PeerClient,
    connector: Arc<Connector>,
    inner: Arc<Inner>,
}

struct Inner {
    record: Signed,
    objects: Mutex<HashMap<Sha256, Bytes>>,
    offered: Mutex<Vec<Signed>>,
    acknowledged: Mutex<Vec<Signed>>,
    keeps_waiting: AtomicBool,
}

impl LabPeer {
    /// A peer who speaks these versions, and in whose record stands more than this release knows of.
    pub(crate) async fn start(lab: &Lab, name: &str, versions: &[u16]) -> Self {
        let (web, peers) = (listen().await, listen().await);
        let authority = |listener: &TcpListener| format!("{name}.localhost:{}", listener.local_addr().unwrap().port());
        let domain = authority(&web);
        let key = NodeKey::load_or_create(&lab.directory().join(name)).unwrap();
        let now_s = now_s();
        let record = json!({
            "domain": domain, "node_key": key.public(), "sequence": 1, "issued_s": now_s, "expires_s": now_s + 3600,
            "endpoint": authority(&peers), "replica_name": domain, "versions": versions, "later": { "colour": "blue" },
        });
        let record = sign(&key, &AnyPeer(record)).unwrap();
        let inner = Arc::new(Inner {
            record: record.clone(),
            objects: Mutex::default(),
            offered: Mutex::default(),
            acknowledged: Mutex::default(),
            keeps_waiting: AtomicBool::new(false),
        });
        let leaf = lab.ca.issue(&[&format!("{name}.localhost")]).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![leaf.certificate], leaf.key)
            .unwrap();
        let certificate = NodeCertificate::new(&key).unwrap();
        tokio::spawn(serve(web, TlsAcceptor::from(Arc::new(config)), inner.clone(), false));
        tokio::spawn(serve(peers, TlsAcceptor::from(certificate.server_config().unwrap()), inner.clone(), true));
        let web_tls = web_client_config(&[lab.directory().join("ca.pem")]).unwrap();
        let connector = Arc::new(Connector::new(true, web_tls));
        let client = PeerClient::new(connector.clone(), certificate);
        Self { domain, key, record, client, connector, inner }
    }

    /// Describes bytes as an object of this peer's, and gives them to whoever asks.
    pub(crate) fn object(&self, path: &str, bytes: &Bytes, sequence: u64) -> Value {
        self.inner.objects.lock().unwrap().insert(digest(bytes), bytes.clone());
        let chunks: Vec<Sha256> = bytes.chunks(CHUNK_BYTES as usize).map(digest).collect();
        json!({
            "origin": self.domain, "path": path, "sha256": digest(bytes), "size": bytes.len(),
            "content_type": "image/png", "etag": "\"x\"", "max_age_s": 1, "stale_if_error_s": 0,
            "sharing": "same-origin", "embedding": "unstated", "chunks": chunks, "sequence": sequence,
            "expires_s": now_s() + 3600,
        })
    }

    /// From now on whoever asks for bytes waits for them in vain.
    pub(crate) fn keep_waiting(&self) {
        self.inner.keeps_waiting.store(true, Ordering::Relaxed);
    }

    /// The record of a site that this peer talks to.
    pub(crate) async fn meet(&self, site: &Site) -> PeerRecord {
        fetch_peer_record(&self.connector, site.domain.as_str(), now_s()).await.unwrap().record
    }

    /// Says something to a site.
    pub(crate) async fn says(
        &self,
        site: &PeerRecord,
        path: &str,
        message: &impl Serialize,
    ) -> Result<Value, PeerClientError> {
        self.client.json(site, path, message, MAX_MESSAGE_BYTES).await
    }

    /// What was offered to it.
    pub(crate) fn offered(&self) -> Vec<Signed> {
        self.inner.offered.lock().unwrap().clone()
    }

    /// What hosts have acknowledged to it.
    pub(crate) fn acknowledged(&self) -> Vec<Signed> {
        self.inner.acknowledged.lock().unwrap().clone()
    }
}

impl Inner {
    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let path = request.uri().path().to_owned();
        let body = request.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
        let is_for_bytes = path == BATCHES_PATH || path.starts_with(OBJECTS_PATH);
        if is_for_bytes && self.keeps_waiting.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
        match path.as_str() {
            PEER_DOCUMENT_PATH => json_of(&self.record),
            HELLO_PATH => json_of(&HelloAnswer { record: self.record.clone(), version: 1 }),
            OFFERS_PATH => {
                let offer: Offer = serde_json::from_slice(&body).unwrap();
                let verdicts = offer.records.iter().map(|_| Verdict::Accepted).collect();
                self.offered.lock().unwrap().extend(offer.records.into_iter().map(|offered| offered.record));
                let lease = LeaseGrant { bytes_per_s: 1 << 30, valid_s: 30 };
                json_of(&OfferAnswer { verdicts, lease, room: None })
            }
            ACKNOWLEDGEMENTS_PATH => {
                let message: Acknowledgements = serde_json::from_slice(&body).unwrap();
                let taken = message.acknowledgements.len();
                self.acknowledged.lock().unwrap().extend(message.acknowledgements);
                json_of(&Done { taken })
            }
            WITHDRAWALS_PATH => json_of(&Done { taken: 0 }),
            BATCHES_PATH => {
                let wanted: BatchRequest = serde_json::from_slice(&body).unwrap();
                let frame = |digest: &Sha256| match self.objects.lock().unwrap().get(digest) {
                    Some(bytes) => [header(Some(bytes.len() as u64)), bytes.clone()].concat(),
                    None => header(None).to_vec(),
                };
                Response::new(Bytes::from(wanted.digests.iter().flat_map(frame).collect::<Vec<u8>>()).into())
            }
            path => {
                let digest = path.strip_prefix(OBJECTS_PATH).and_then(|hex| hex.parse().ok());
                let bytes = digest.and_then(|digest: Sha256| self.objects.lock().unwrap().get(&digest).cloned());
                let mut response = Response::new(bytes.clone().unwrap_or_default().into());
                if bytes.is_none() {
                    *response.status_mut() = StatusCode::NOT_FOUND;
                }
                response
            }
        }
    }
}

async fn listen() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").await.unwrap()
}

async fn serve(listener: TcpListener, tls: TlsAcceptor, inner: Arc<Inner>, is_for_peers: bool) {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let (tls, inner) = (tls.clone(), inner.clone());
        tokio::spawn(async move {
            let Ok(stream) = tls.accept(stream).await else { return };
            let service = service_fn(move |request| {
                let inner = inner.clone();
                async move { Ok::<_, Infallible>(inner.answer(request).await) }
            });
            // Whoever has connected hangs up when it likes.
            let stream = TokioIo::new(stream);
            if is_for_peers {
                let _ = http2::Builder::new(TokioExecutor::new()).serve_connection(stream, service).await;
            } else {
                let _ = http1::Builder::new().serve_connection(stream, service).await;
            }
        });
    }
}

fn json_of(value: &impl Serialize) -> Response<Full<Bytes>> {
    Response::new(Bytes::from(serde_json::to_vec(value).unwrap()).into())
}

fn now_s() -> u64 {
    SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs()
}
