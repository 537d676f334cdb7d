//! A site in one process: its document on a TLS socket, its peer listener behind a proxy that writes PROXY headers.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::StatusCode;
use p2pcdn_core::peer::ROTATION_DOCUMENT_PATH;
use ppp::v2::{Builder, Command, Protocol, Version};
use rustls::ServerConfig;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::clock::now_s;
use crate::http_server::{self, Listener, empty, json};
use crate::identity::hello::HELLO_PATH;
use crate::identity::peer_listener::{ListenerBounds, ListenerCounters, serve};
use crate::identity::rotation::{Rotation, Rotations};
use crate::identity::testing::{self, Authority};
use crate::identity::{
    AboutUs, Connector, Introducer, Membership, NodeCertificate, NodeKey, OpenBounds, OwnRecord, PeerClient,
    RosterBounds, Signed, sequence, sign,
};

/// Every pause outlasts the tests, so whatever happens was caused by an event.
const TIME_SCALE: f64 = 10_000.0;

/// Everything ends when it is dropped.
pub(super) struct Site {
    pub(super) about: AboutUs,
    pub(super) key: Arc<NodeKey>,
    pub(super) membership: Arc<Membership>,
    pub(super) introducer: Arc<Introducer>,
    pub(super) client: Arc<PeerClient>,
    pub(super) counters: Arc<ListenerCounters>,
    /// Where the peer listener expects PROXY headers.
    pub(super) behind_proxy: SocketAddr,
    /// What the site's document says.
    document: Arc<Mutex<Arc<Signed>>>,
    rotations: Arc<Mutex<Rotations>>,
    cancel: DropGuard,
}

impl Site {
    /// A site below `HOST.localhost`.
    pub(super) async fn start(ca: &Authority, host: &str) -> Self {
        Self::start_with(ca, host, ListenerBounds::default()).await
    }

    /// A site that lets others in without an invitation.
    pub(super) async fn start_open(ca: &Authority, host: &str, open: OpenBounds) -> Self {
        let roster = RosterBounds { open: Some(open), ..RosterBounds::default() };
        Self::start_as(ca, host, ListenerBounds::default(), roster).await
    }

    pub(super) async fn start_with(ca: &Authority, host: &str, bounds: ListenerBounds) -> Self {
        Self::start_as(ca, host, bounds, RosterBounds::default()).await
    }

    async fn start_as(ca: &Authority, host: &str, bounds: ListenerBounds, roster: RosterBounds) -> Self {
        let host = format!("{host}.localhost");
        let (web, proxy, peers) = (bind().await, bind().await, bind().await);
        let authority = |listener: &TcpListener| format!("{host}:{}", listener.local_addr().unwrap().port());
        let about = AboutUs { endpoint: authority(&proxy), ..testing::about(&authority(&web)) };

        let (key, db) = (Arc::new(testing::node_key()), testing::database());
        let own = Arc::new(OwnRecord::new(key.clone(), about.clone(), db.clone(), now_s()).unwrap());
        let membership = Arc::new(Membership::open(db, &about.domain, roster).unwrap());
        let connector = Arc::new(Connector::new(true, ca.trusting()));
        let client = Arc::new(PeerClient::new(connector.clone(), NodeCertificate::new(&key).unwrap()));
        let document = Arc::new(Mutex::new(own.signed(now_s())));
        let rotations = Arc::<Mutex<Rotations>>::default();
        let introducer = Introducer::new(membership.clone(), connector, client.clone(), own, TIME_SCALE);
        let (introducer, counters) = (Arc::new(introducer), Arc::<ListenerCounters>::default());

        let cancel = CancellationToken::new();
        let behind_proxy = peers.local_addr().unwrap();
        let documents = (document.clone(), rotations.clone());
        tokio::spawn(serve_documents(web, ca.server_config(&[&host]), documents, cancel.clone()));
        tokio::spawn(pass_on(proxy, behind_proxy, cancel.clone()));
        let hellos = introducer.clone();
        let handler = move |identity, request: http::Request<hyper::body::Incoming>| {
            let introducer = hellos.clone();
            async move {
                match request.uri().path() {
                    HELLO_PATH => introducer.hello_route(identity, request).await,
                    _ => empty(StatusCode::NOT_FOUND),
                }
            }
        };
        let tls = NodeCertificate::new(&key).unwrap().server_config().unwrap();
        tokio::spawn(serve(peers, tls, bounds, counters.clone(), membership.clone(), handler, cancel.clone()));
        let cancel = cancel.drop_guard();
        Self { about, key, membership, introducer, client, counters, behind_proxy, document, rotations, cancel }
    }

    pub(super) fn domain(&self) -> &str {
        &self.about.domain
    }

    /// Keeps up acquaintances from now on.
    pub(super) fn introduce_itself(&self) {
        tokio::spawn(self.introducer.clone().introductions(self.cancel_token()));
    }

    /// The site's document says that it has `key` from now on.
    pub(super) fn show_key(&self, key: &Arc<NodeKey>) {
        // In a database of its own, so the sequence may be any; a later time makes it higher.
        let own = OwnRecord::new(key.clone(), self.about.clone(), testing::database(), now_s() + 1).unwrap();
        *self.document.lock().unwrap() = own.signed(now_s());
    }

    /// The site's document says that one key has followed another, as `signer` signs it.
    pub(super) fn show_rotation(&self, signer: &NodeKey, old: &NodeKey, new: &NodeKey) {
        let rotation = Rotation {
            domain: self.about.domain.clone(),
            old_key: old.public(),
            new_key: new.public(),
            sequence: sequence::at(now_s()),
            issued_s: now_s(),
        };
        let signed = Signed { key: old.public(), ..sign(signer, &rotation).unwrap() };
        self.rotations.lock().unwrap().rotations.push(signed);
    }

    /// The site's document says what is true again.
    pub(super) fn show_own_key(&self) {
        self.show_key(&self.key);
    }

    fn cancel_token(&self) -> CancellationToken {
        self.cancel.token().clone()
    }
}

/// Waits until `done`; panics if that takes longer than anybody would wait.
pub(super) async fn until(what: &str, done: impl Fn() -> bool) {
    let wait = async {
        while !done() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), wait).await.unwrap_or_else(|_| panic!("never happened: {what}"));
}

/// What a proxy writes in front of a connection from `client`.
pub(super) fn proxy_header(client: &str) -> Vec<u8> {
    let client: SocketAddr = client.parse().unwrap();
    let addresses = (client, SocketAddr::new(client.ip(), 443));
    Builder::with_addresses(Version::Two | Command::Proxy, Protocol::Stream, addresses).build().unwrap()
}

async fn bind() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").await.unwrap()
}

struct TlsListener(TcpListener, TlsAcceptor);

impl Listener for TlsListener {
    type Stream = TlsStream<TcpStream>;

    async fn next(&self) -> io::Result<Self::Stream> {
        self.1.accept(self.0.accept().await?.0).await
    }
}

type Documents = (Arc<Mutex<Arc<Signed>>>, Arc<Mutex<Rotations>>);

async fn serve_documents(
    listener: TcpListener,
    tls: Arc<ServerConfig>,
    documents: Documents,
    cancel: CancellationToken,
) {
    let (document, rotations) = documents;
    let handler = move |request: http::Request<hyper::body::Incoming>| {
        let answer = match request.uri().path() {
            ROTATION_DOCUMENT_PATH => json(StatusCode::OK, &*rotations.lock().unwrap()),
            _ => json(StatusCode::OK, &**document.lock().unwrap()),
        };
        async move { answer }
    };
    http_server::serve(TlsListener(listener, tls.into()), handler, cancel).await;
}

async fn pass_on(listener: TcpListener, to: SocketAddr, cancel: CancellationToken) {
    while let Some(accepted) = cancel.run_until_cancelled(listener.accept()).await {
        let (mut near, client) = accepted.unwrap();
        let cancel = cancel.clone();
        tokio::spawn(cancel.run_until_cancelled_owned(async move {
            let mut far = TcpStream::connect(to).await.unwrap();
            far.write_all(&proxy_header(&client.to_string())).await.unwrap();
            // Either side may break off.
            let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
        }));
    }
}
