//! The local socket: the filter's sync, decisions for nginx, the command line and metrics. Whoever reaches it controls the agent.

mod decide;
mod holders;
pub mod hosting;
pub mod status;
mod sync;
pub mod trust;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use http::header::{HOST, ORIGIN};
use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use serde::{Deserialize, Serialize};

use crate::audit::auditor::Auditor;
use crate::catalogue::{Catalogue, Purge};
use crate::clock::now_s;
use crate::decider::{DECIDE_PATH, Decider, RESCUE_PATH};
use crate::gossip::Gossip;
use crate::http_server::{Body, json, read_body, text, with_body};
use crate::identity::{Introducer, Membership, Refusal};
use crate::load::LoadMeter;
use crate::nginx_map::NginxMap;
use crate::pause::Pause;
use crate::policy::watch::PolicyWatch;
use crate::publish::Board;
use crate::replicate::host::pull::Puller;
use crate::replicate::host::terms::Terms;
use crate::replicate::host::withdraw::Withdrawer;
use crate::replicate::origin::holders::Holders;
use crate::replicate::origin::share::Sharer;
use crate::reputation::book::Book;
use crate::serve::leases::Leases;
use crate::store::ReplicaStore;
use crate::telemetry::Metrics;
use trust::{TRUST_BAN_PATH, TRUST_FORGIVE_PATH, TRUST_PATH, TRUST_WHY_PATH};

/// Everything that can be asked for on this machine.
pub struct LocalApi {
    /// Authority of the site.
    pub domain: String,
    /// What the filter is told.
    pub board: Arc<Board>,
    /// Looks at what hosts really serve; none on a site that only hosts.
    pub auditor: Option<Arc<Auditor>>,
    /// What is known of all peers.
    pub book: Arc<Book>,
    /// What decides for proxies without the filter.
    pub decider: Arc<Decider>,
    /// What writes the map file for stock nginx; none where nobody wants one.
    pub nginx_map: Option<Arc<NginxMap>>,
    /// How loaded the site is.
    pub load: Arc<Mutex<LoadMeter>>,
    /// What the operator said of redirects.
    pub pause: Arc<Pause>,
    /// Who can be redirected to.
    pub holders: Arc<Holders>,
    /// Who is a peer.
    pub membership: Arc<Membership>,
    /// How acquaintances go.
    pub introducer: Arc<Introducer>,
    /// What the site's own pages allow.
    pub policy: Arc<PolicyWatch>,
    /// Own objects; none on a site that only hosts.
    pub catalogue: Option<Arc<Catalogue>>,
    /// Offers to peers; none on a site that only hosts.
    pub sharer: Option<Arc<Sharer>>,
    /// Replicas held for others.
    pub store: Arc<ReplicaStore>,
    /// On which terms anything is carried.
    pub terms: Arc<Terms>,
    /// What origins are granted.
    pub leases: Arc<Leases>,
    /// What is being taken in.
    pub puller: Arc<Puller>,
    /// What is being given up.
    pub withdrawer: Arc<Withdrawer>,
    /// What others say about others.
    pub gossip: Arc<Gossip>,
    /// Counters.
    pub metrics: Arc<Metrics>,
}

/// Body of a request about one peer.
#[derive(Debug, Serialize, Deserialize)]
pub struct PeerRequest {
    /// Its domain.
    pub domain: String,
}

/// POST: what the filter asks once a tick.
pub const SYNC_PATH: &str = "/v1/sync";
/// GET: [`status::Status`].
pub const STATUS_PATH: &str = "/v1/status";
/// GET: [`crate::doctor::AgentFacts`].
pub const HOLDERS_PATH: &str = "/v1/holders";
/// GET: a list of [`status::ObjectStatus`].
pub const OBJECTS_PATH: &str = "/v1/objects";
/// GET: [`crate::gossip::teller::GossipStatus`].
pub const GOSSIP_PATH: &str = "/v1/gossip";
/// POST [`PeerRequest`]: invites a peer.
pub const PEER_ADD_PATH: &str = "/v1/peers/add";
/// POST [`PeerRequest`]: accepts a pending peer, or a changed key.
pub const PEER_ACCEPT_PATH: &str = "/v1/peers/accept";
/// POST [`PeerRequest`]: ends the acquaintance.
pub const PEER_REMOVE_PATH: &str = "/v1/peers/remove";
/// POST: ends all redirects.
pub const PAUSE_PATH: &str = "/v1/pause";
/// POST: resumes redirects.
pub const RESUME_PATH: &str = "/v1/resume";
/// POST [`Purge`], answered by [`crate::catalogue::Purged`]: takes objects out of the table and finds them out anew.
pub const PURGE_PATH: &str = "/v1/purge";
/// GET: a list of [`crate::replicate::host::deny::DenyEntry`].
pub const DENY_PATH: &str = "/v1/deny";
/// POST [`hosting::DenyRequest`], answered by [`hosting::Denied`]: these are no longer carried, and no longer served from now on.
pub const DENY_ADD_PATH: &str = "/v1/deny/add";
/// POST [`hosting::DenyRequest`], answered by [`hosting::Denied`]: these may be carried again.
pub const DENY_REMOVE_PATH: &str = "/v1/deny/remove";
/// GET, or POST [`hosting::LeaveRequest`]; answered by [`crate::replicate::host::terms::Departure`].
pub const LEAVE_PATH: &str = "/v1/leave";
/// POST, answered by [`crate::nginx_map::Written`]: writes the map file for stock nginx now.
pub const NGINX_MAP_PATH: &str = "/v1/nginx-map";
/// GET: metrics in the OpenMetrics text format.
pub const METRICS_PATH: &str = "/metrics";

/// Longest body of a request about a peer, in bytes.
const MAX_REQUEST_BYTES: usize = 4096;
/// Longest body of a purge, in bytes; a command line holds no more.
const MAX_PURGE_BYTES: usize = 4 << 20;

impl LocalApi {
    /// Answers one request.
    pub async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Response<Body> {
        // Comes with the headers of a visitor's request.
        if matches!(request.uri().path(), DECIDE_PATH | RESCUE_PATH) {
            return self.decider.answer(&request);
        }
        if !is_local(&request) {
            return text(StatusCode::FORBIDDEN, "this socket is for programs on this machine, not for web pages\n");
        }
        let path = request.uri().path().to_owned();
        match (request.method(), path.as_str()) {
            (&Method::POST, SYNC_PATH) => self.sync(request).await,
            (&Method::GET, STATUS_PATH) => json(StatusCode::OK, &self.status()),
            (&Method::GET, HOLDERS_PATH) => json(StatusCode::OK, &self.agent_facts()),
            (&Method::GET, GOSSIP_PATH) => json(StatusCode::OK, &self.gossip.status()),
            (&Method::GET, OBJECTS_PATH) => json(StatusCode::OK, &self.objects()),
            (&Method::GET, METRICS_PATH) => {
                let metrics = self.metrics.text(&self.state());
                with_body(StatusCode::OK, "application/openmetrics-text; version=1.0.0; charset=utf-8", metrics.into())
            }
            (&Method::POST, PEER_ADD_PATH | PEER_ACCEPT_PATH | PEER_REMOVE_PATH) => self.peer(&path, request).await,
            (&Method::GET, TRUST_PATH) => json(StatusCode::OK, &self.trust()),
            (&Method::POST, TRUST_WHY_PATH | TRUST_FORGIVE_PATH | TRUST_BAN_PATH) => self.judge(&path, request).await,
            (&Method::POST, PURGE_PATH) => self.purge(request).await,
            (&Method::GET, DENY_PATH) => json(StatusCode::OK, &self.terms.deny.list()),
            (&Method::POST, DENY_ADD_PATH | DENY_REMOVE_PATH) => self.deny(&path, request).await,
            (&Method::GET, LEAVE_PATH) => json(StatusCode::OK, &self.departure()),
            (&Method::POST, LEAVE_PATH) => self.leave(request).await,
            (&Method::POST, NGINX_MAP_PATH) => self.write_nginx_map().await,
            (&Method::POST, PAUSE_PATH) => self.set_paused(true).await,
            (&Method::POST, RESUME_PATH) => self.set_paused(false).await,
            _ => text(StatusCode::NOT_FOUND, "no such route\n"),
        }
    }

    async fn peer(&self, path: &str, request: Request<Incoming>) -> Response<Body> {
        let body = read_body(request.into_body(), MAX_REQUEST_BYTES).await;
        let Some(PeerRequest { domain }) = body.and_then(|body| serde_json::from_slice(&body).ok()) else {
            return text(StatusCode::BAD_REQUEST, "a peer's domain is missing\n");
        };
        let outcome = match path {
            PEER_ADD_PATH => self.membership.invite(&domain).map(|()| true),
            PEER_ACCEPT_PATH => self.membership.accept(&domain).map(|()| true),
            _ => self.membership.remove(&domain, now_s()),
        };
        match outcome {
            Ok(true) => json(StatusCode::OK, &self.peer_status(&domain)),
            Ok(false) => refuse("unknown_peer", format!("nothing is known of {domain}")),
            Err(error) => refuse("refused", error.to_string()),
        }
    }

    async fn purge(&self, request: Request<Incoming>) -> Response<Body> {
        let body = read_body(request.into_body(), MAX_PURGE_BYTES).await;
        let Some(purge) = body.and_then(|body| serde_json::from_slice::<Purge>(&body).ok()) else {
            return text(StatusCode::BAD_REQUEST, "not a list of paths, a prefix or all\n");
        };
        let Some(catalogue) = &self.catalogue else {
            return refuse("no_objects", "this site shares no objects of its own".into());
        };
        json(StatusCode::OK, &catalogue.purge(&purge).await)
    }

    /// In force at once, and refused only as to the time after a restart.
    async fn set_paused(&self, is_paused: bool) -> Response<Body> {
        let done = if is_paused { "paused" } else { "resumed" };
        tracing::warn!("redirects {done} by the operator");
        let pause = self.pause.clone();
        match tokio::task::spawn_blocking(move || pause.set(is_paused)).await {
            Ok(Err(error)) => refuse("not_saved", format!("redirects are {done}, but only until a restart: {error}")),
            _ => json(StatusCode::OK, &self.status()),
        }
    }

    fn load(&self) -> MutexGuard<'_, LoadMeter> {
        self.load.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A web page in a browser on this machine can reach loopback, too, and can make any name resolve to it: but it says who it is, or for
/// which name it takes this machine.
fn is_local(request: &Request<Incoming>) -> bool {
    let headers = request.headers();
    let from_page = headers.contains_key(ORIGIN) || headers.contains_key("sec-fetch-site");
    let host = headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let name = if host.starts_with('[') { host } else { host.split(':').next().unwrap_or_default() };
    let is_ours = matches!(name, "" | "p2pcdn" | "localhost" | "127.0.0.1") || host.starts_with("[::1]");
    !from_page && is_ours
}

fn refuse(error: &str, remedy: String) -> Response<Body> {
    json(StatusCode::CONFLICT, &Refusal { error: error.into(), remedy })
}
