//! The agent from start to stop.

mod error;
mod sockets;
mod tasks;

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use http::Request;
use hyper::body::Incoming;
use p2pcdn_core::lookup::HashKey;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::audit::auditor::{self, Auditor};
use crate::audit::client::AuditClient;
use crate::catalogue::learn::Learner;
use crate::catalogue::stranger::Stranger;
use crate::catalogue::watch::Watcher;
use crate::catalogue::{Catalogue, Hints, Source, origin};
use crate::clock::{monotonic_ms, now_s};
use crate::decider::Decider;
use crate::evidence::judge::Bounds;
use crate::evidence::{self, Evidence, MAX_FINDINGS};
use crate::gossip::Gossip;
use crate::gossip::teller::{self, MAX_PROOFS};
use crate::http_server::serve;
use crate::identity::once_per::OncePerMinute;
use crate::identity::peer_listener::{self, ListenerBounds, ListenerCounters};
use crate::identity::rotate;
use crate::identity::{
    AboutUs, Connector, Counter, Introducer, Membership, NodeCertificate, NodeKey, OpenBounds, OwnRecord, PeerClient,
    RosterBounds, web_client_config,
};
use crate::known_time;
use crate::load::LoadMeter;
use crate::local_api::LocalApi;
use crate::nginx_map::NginxMap;
use crate::pause::Pause;
use crate::policy::watch::PolicyWatch;
use crate::publish::Board;
use crate::replicate::host::bookkeeper::Bookkeeper;
use crate::replicate::host::outbox::Outbox;
use crate::replicate::host::pull::Puller;
use crate::replicate::host::scrub::scrub;
use crate::replicate::host::terms::Terms;
use crate::replicate::host::withdraw::{MAX_WAITING, Withdrawer};
use crate::replicate::origin::holders::Holders;
use crate::replicate::origin::probe::Prober;
use crate::replicate::origin::share::{self, Sharer};
use crate::replicate::peer_api::{MAX_BODIES, MAX_BODIES_OF_ONE, PeerApi};
use crate::replicate::turns::Turns;
use crate::replicate::upload::Uploads;
use crate::reputation::book::Book;
use crate::reputation::hearing::{Hearing, own_view};
use crate::serve::ReplicaServer;
use crate::serve::leases::Leases;
use crate::settings::Settings;
use crate::state_db::StateDb;
use crate::store::{BucketAccess, Location, ReplicaStore};
use crate::telemetry::Metrics;

pub use error::RunError;
use sockets::{Local, Sockets};
use tasks::{Tasks, raise_descriptor_limit};

/// Who finds out what the site's own objects are.
enum Finder {
    Watcher(Arc<Watcher>, Hints),
    Learner(Arc<Learner>, Hints),
}

/// Runs until cancelled, then drains.
pub async fn run(settings: Settings, cancel: CancellationToken) -> Result<(), RunError> {
    raise_descriptor_limit();
    let state = &settings.state_directory;
    let in_state = |source| RunError::State { path: state.display().to_string(), source };
    std::fs::create_dir_all(state).map_err(in_state)?;
    let key = Arc::new(NodeKey::load_or_create(state)?);
    let db = Arc::new(open_database(&state.join("state.redb"))?);
    let sockets = Sockets::open(&settings).await?;
    let domain = &settings.site.domain;

    let about = AboutUs {
        domain: domain.clone(),
        endpoint: settings.public.endpoint.clone(),
        replica_name: settings.public.replica_name.clone(),
        contact: settings.public.contact.clone(),
        attachments: settings.host.downloads,
    };
    let rotations = rotate::load(state, &key.public())?;
    let own = Arc::new(OwnRecord::new(key.clone(), about, db.clone(), now_s())?.after(rotations));
    let open = settings.open_membership.then(OpenBounds::default);
    let bounds = RosterBounds { open, ..RosterBounds::default() };
    let membership = Arc::new(Membership::open(db.clone(), domain, bounds)?);
    for domain in &settings.invited {
        membership.invite(domain)?;
    }
    let certificate = NodeCertificate::new(&key)?;
    let peer_tls = certificate.server_config()?;
    let web_tls = web_client_config(&settings.extra_roots)?;
    let audit_tls = web_tls.clone();
    let connector = Arc::new(Connector::new(settings.allow_private, web_tls.clone()));
    let client = Arc::new(PeerClient::new(connector.clone(), certificate));
    let introducer = Arc::new(Introducer::new(
        membership.clone(),
        connector.clone(),
        client.clone(),
        own.clone(),
        settings.time_scale,
    ));

    let store = &settings.store;
    let access = BucketAccess { endpoint: store.endpoint.clone(), region: store.region.clone(), tls: web_tls };
    let location = Location {
        directory: state.join("replicas"),
        place: store.place.clone(),
        access,
        max_unfinished_bytes: store.unfinished_bytes,
    };
    let store = Arc::new(ReplicaStore::open(location).await?);
    let trust = settings.trust.clone();
    let book = Arc::new(Book::open(db.clone(), trust.formulas, trust.mode).map_err(RunError::Book)?);
    let terms = Arc::new(Terms::open(db.clone(), settings.host.clone(), book.clone(), now_s(), monotonic_ms())?);
    let leases = Arc::new(Leases::new(terms.clone(), settings.time_scale, monotonic_ms()));
    let outbox = Outbox::open(db.clone())?;
    let hash_key = HashKey([getrandom::u64()?, getrandom::u64()?]);
    let network_key = HashKey([getrandom::u64()?, getrandom::u64()?]);
    let board = Arc::new(Board::new(domain.clone(), getrandom::u64()?.max(1), hash_key));
    let policy = Arc::new(PolicyWatch::new(
        domain.clone(),
        &settings.policy,
        connector.clone(),
        membership.clone(),
        board.clone(),
        settings.time_scale,
    ));
    let holders = Arc::new(Holders::new(board.clone(), book.clone()));
    let load = Arc::new(Mutex::new(LoadMeter::default()));
    let pause = Arc::new(Pause::open(db.clone(), load.clone()).map_err(RunError::Pause)?);
    let metrics = Arc::new(Metrics::default());
    let source = Source::open(&settings.site, &settings.share, state).await?;
    let (catalogue, finder) = source
        .map(|source| {
            let (site, share, counter) =
                (settings.site.clone(), settings.share.clone(), Counter::new(db.clone(), "object"));
            let (source, time_scale) = (source.clone(), settings.time_scale);
            let (catalogue, hints) =
                Catalogue::new(source.clone(), site, share, key.clone(), counter, board.clone(), time_scale);
            let finder = match source {
                Source::Directory(directory) => {
                    let looks = || Stranger::new(connector.clone(), load.clone(), domain.clone(), time_scale);
                    let stranger = (!settings.share.unchecked).then(|| Arc::new(looks()));
                    Finder::Watcher(Arc::new(Watcher { catalogue: catalogue.clone(), directory, stranger }), hints)
                }
                Source::Site(area) => {
                    let learner =
                        Learner::new(catalogue.clone(), area, connector.clone(), load.clone(), settings.time_scale);
                    Finder::Learner(Arc::new(learner), hints)
                }
            };
            (catalogue, finder)
        })
        .unzip();
    let (proofs, accusations) = mpsc::channel(MAX_PROOFS);
    let known = book.clone();
    let views = move |domain: &str| known.judge(|reputation, _| reputation.account(domain).map(own_view));
    let parts = teller::Parts {
        key: key.clone(),
        own: own.clone(),
        membership: membership.clone(),
        introducer: introducer.clone(),
        client: client.clone(),
        db: db.clone(),
        metrics: metrics.clone(),
        views: Box::new(views),
    };
    let seed = [getrandom::u64()?, getrandom::u64()?];
    let (gossip, events) =
        Gossip::new(parts, settings.open_membership, &settings.trust.formulas, seed, settings.time_scale);
    let gossip = Arc::new(gossip);
    let sharer = catalogue.clone().map(|catalogue| {
        let parts = share::Parts {
            catalogue,
            membership: membership.clone(),
            client: client.clone(),
            board: board.clone(),
            holders: holders.clone(),
            gossip: gossip.clone(),
            load: load.clone(),
            metrics: metrics.clone(),
            proofs: proofs.clone(),
        };
        Arc::new(Sharer::new(parts, &settings.share, settings.time_scale))
    });
    let (findings, found) = mpsc::channel(MAX_FINDINGS);
    // Without objects of its own a site redirects nobody.
    let evidence = (settings.evidence.enabled && catalogue.is_some()).then(|| {
        let suspension_ms = settings.trust.formulas.suspension_ms;
        let bounds = Bounds { suspension_ms, ..Bounds::default().scaled(settings.time_scale) };
        let parts = evidence::Parts {
            board: board.clone(),
            holders: holders.clone(),
            load: load.clone(),
            metrics: metrics.clone(),
            key: network_key,
            findings,
        };
        Evidence::new(domain.clone(), &settings.evidence, bounds, parts)
    });
    let evidence = evidence.map(Arc::new);
    let auditor = catalogue.clone().map(|catalogue| {
        let parts = auditor::Parts {
            catalogue,
            board: board.clone(),
            holders: holders.clone(),
            book: book.clone(),
            connector: connector.clone(),
            evidence: evidence.clone(),
            metrics: metrics.clone(),
        };
        let auditor = Auditor::new(domain.clone(), parts, AuditClient::new(connector.clone(), &audit_tls));
        auditor.remember_suspensions();
        Arc::new(auditor)
    });
    let puller = Puller::new(
        domain.clone(),
        key,
        terms.clone(),
        store.clone(),
        membership.clone(),
        client.clone(),
        metrics.clone(),
    );
    let puller = Arc::new(puller.reporting_to(proofs));
    let (doomed, withdrawals) = mpsc::channel(MAX_WAITING);
    let withdrawer = Arc::new(Withdrawer::new(
        store.clone(),
        membership.clone(),
        client,
        terms.clone(),
        outbox,
        settings.time_scale,
    ));
    let prober = Arc::new(Prober {
        origin: domain.clone(),
        holders: holders.clone(),
        board: board.clone(),
        membership: membership.clone(),
        connector,
        log: OncePerMinute::default(),
    });
    let replica_server = ReplicaServer::new(
        &settings,
        own,
        membership.clone(),
        store.clone(),
        leases.clone(),
        doomed.clone(),
        metrics.clone(),
    );
    let replica_server = Arc::new(replica_server.with_evidence(evidence.clone()));
    let uploads =
        Uploads::new(catalogue.clone(), store.clone(), terms.clone(), doomed.clone(), metrics.clone(), &settings.share);
    let uploads = Arc::new(uploads);
    let peer_api = Arc::new(PeerApi {
        introducer: introducer.clone(),
        membership: membership.clone(),
        sharer: sharer.clone(),
        puller: puller.clone(),
        store: store.clone(),
        withdrawer: withdrawer.clone(),
        leases: leases.clone(),
        uploads: uploads.clone(),
        gossip: gossip.clone(),
        bodies: Turns::new(MAX_BODIES, MAX_BODIES_OF_ONE),
    });
    let nginx_map =
        NginxMap::new(&settings.nginx, &settings.decide.gate, domain, board.clone(), getrandom::u64()?.max(1))
            .map(Arc::new);
    // A proxy that serves the directory itself tells visitors tags of its own.
    let knows_tags = settings.site.directory.is_none();
    let local_api = Arc::new(LocalApi {
        domain: domain.clone(),
        board,
        auditor: auditor.clone(),
        book: book.clone(),
        decider: Arc::new(Decider::new(&settings.decide, knows_tags, getrandom::u64()?)),
        nginx_map: nginx_map.clone(),
        load: load.clone(),
        pause,
        holders: holders.clone(),
        membership: membership.clone(),
        introducer: introducer.clone(),
        policy: policy.clone(),
        catalogue: catalogue.clone(),
        sharer: sharer.clone(),
        store: store.clone(),
        terms: terms.clone(),
        leases: leases.clone(),
        puller: puller.clone(),
        withdrawer: withdrawer.clone(),
        gossip: gossip.clone(),
        metrics: metrics.clone(),
    });

    let hearing = Hearing {
        book: book.clone(),
        gossip: gossip.clone(),
        membership: membership.clone(),
        holders: holders.clone(),
    };
    let tasks = Tasks { tracker: TaskTracker::new(), cancel: cancel.clone() };
    let token = || cancel.child_token();
    tasks.spawn(introducer.introductions(token()));
    tasks.spawn(gossip.clone().run(token()));
    tasks.spawn(hearing.run(events, accusations, settings.time_scale, token()));
    tasks.spawn(puller.run(token()));
    let lacks_replicas = {
        let sharer = sharer.clone();
        move || sharer.as_ref().is_some_and(|sharer| sharer.lacks_replicas())
    };
    tasks.spawn(uploads.divide_uplink(load.clone(), lacks_replicas, token()));
    tasks.spawn(withdrawer.clone().run(withdrawals, token()));
    tasks.spawn(withdrawer.clone().make_room(token()));
    tasks.spawn(withdrawer.clone().retell(token()));
    tasks.spawn(scrub(store, withdrawer, doomed, settings.time_scale, token()));
    let books =
        Bookkeeper { terms, leases, load: load.clone(), membership: membership.clone(), metrics: metrics.clone() };
    tasks.spawn(books.run(token()));
    tasks.spawn(prober.run(token()));
    tasks.spawn(book.keep(token()));
    tasks.spawn(known_time::keep(db, token()));
    if let Some(auditor) = auditor {
        tasks.spawn(auditor.clone().run(token()));
        if let Some(evidence) = evidence {
            tasks.spawn(evidence.run(settings.time_scale, token()));
            tasks.spawn(auditor.heed(found, token()));
        }
    }
    if let Some(proxy) = settings.proxy.clone() {
        tasks.spawn(crate::egress::run(proxy, load, metrics, token()));
    }
    if let Some(sharer) = sharer {
        tasks.spawn(policy.run(token()));
        tasks.spawn(sharer.run(token()));
    }
    if let (Some(Finder::Watcher(watcher, _)), Some(listener)) = (&finder, sockets.origin) {
        let watcher = watcher.clone();
        let answer = move |request: Request<Incoming>| origin::answer(watcher.clone(), request);
        tasks.spawn(serve(listener, answer, token()));
    }
    let answer = move |request: Request<Incoming>| replica_server.clone().answer(request);
    tasks.spawn(serve(sockets.replica, answer, token()));
    let answer = move |identity, request: Request<Incoming>| peer_api.clone().answer(identity, request);
    let (bounds, counters) = (ListenerBounds::default(), Arc::new(ListenerCounters::default()));
    tasks.spawn(peer_listener::serve(sockets.peer, peer_tls, bounds, counters, membership, answer, token()));
    tasks.spawn(local_api.clone().keep_gate_current(token()));
    if let (Some(map), Some(socket)) = (nginx_map, sockets.nginx_log) {
        let load = local_api.load.clone();
        let steering = move || load.lock().unwrap_or_else(PoisonError::into_inner).steering(monotonic_ms());
        tasks.spawn(map.clone().listen(socket, token()));
        tasks.spawn(map.run(steering, token()));
    }
    let answer = move |request: Request<Incoming>| local_api.clone().answer(request);
    let mut unix_socket = None;
    match sockets.local {
        Local::Tcp(listener) => tasks.spawn(serve(listener, answer, token())),
        Local::Unix(listener, path) => {
            unix_socket = Some(path);
            tasks.spawn(serve(listener, answer, token()));
        }
    }
    tracing::info!(site = %domain, "p2pcdn runs");

    let mut outcome = Ok(());
    match finder {
        Some(Finder::Watcher(watcher, hints)) => outcome = watcher.run(hints, token()).await,
        Some(Finder::Learner(learner, hints)) => learner.run(hints, token()).await,
        None => cancel.cancelled().await,
    }
    // Without its catalogue the agent would redirect to versions that it no longer watches.
    cancel.cancel();
    tasks.tracker.close();
    tasks.tracker.wait().await;
    if let Some(path) = unix_socket {
        // Nobody can be listening there any more.
        let _ = std::fs::remove_file(path);
    }
    tracing::info!("p2pcdn has stopped");
    Ok(outcome?)
}

fn open_database(path: &Path) -> Result<StateDb, RunError> {
    let database = |source| RunError::Database { path: path.display().to_string(), source: Box::new(source) };
    let db = StateDb::open(path).map_err(database)?;
    known_time::recall(&db).map_err(database)?;
    Ok(db)
}
