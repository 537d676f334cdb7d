//! The replica socket: what this site serves for others, its documents for peers, and where its visitors' browsers report.
//!
//! A replica never acts as part of this site: it has a name of its own, its headers come from a closed list, and whatever cannot be
//! served exactly as its origin recorded it sends the client back there.

mod admission;
mod cors;
mod headers;
pub mod leases;

use std::ops::Range;
use std::sync::Arc;

use futures_util::TryStreamExt;
use http::header::{ALLOW, CONTENT_DISPOSITION, HOST, LOCATION, REFERRER_POLICY, VARY};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use p2pcdn_core::lookup::{REPLICA_PREFIX, RETURN_PREFIX, ReplicaPath};
use p2pcdn_core::object::{Class, Sharing};
use p2pcdn_core::peer::{PEER_DOCUMENT_PATH, ROTATION_DOCUMENT_PATH};
use tokio::sync::mpsc;

use crate::clock::{expiry_now_s, monotonic_ms, now_s};
use crate::conditional::{Plan, plan};
use crate::evidence::Evidence;
use crate::http_server::{Body, empty, json, text};
use crate::identity::{Membership, OwnRecord};
use crate::settings::Settings;
use crate::store::{Content, ReadError, Replica, ReplicaStore};
use crate::telemetry::Metrics;
use admission::{Use, attachment, is_served, use_of};
use cors::share;
use leases::{Draw, Leases};

/// Serves replicas.
pub struct ReplicaServer {
    domain: String,
    replica_name: String,
    downloads: bool,
    own: Arc<OwnRecord>,
    membership: Arc<Membership>,
    store: Arc<ReplicaStore>,
    leases: Arc<Leases>,
    doomed: mpsc::Sender<Arc<Replica>>,
    metrics: Arc<Metrics>,
    evidence: Option<Arc<Evidence>>,
}

impl ReplicaServer {
    /// `doomed` takes replicas that turn out damaged.
    pub fn new(
        settings: &Settings,
        own: Arc<OwnRecord>,
        membership: Arc<Membership>,
        store: Arc<ReplicaStore>,
        leases: Arc<Leases>,
        doomed: mpsc::Sender<Arc<Replica>>,
        metrics: Arc<Metrics>,
    ) -> Self {
        let (domain, replica_name) = (settings.site.domain.clone(), settings.public.replica_name.clone());
        let downloads = settings.host.downloads;
        Self { domain, replica_name, downloads, own, membership, store, leases, doomed, metrics, evidence: None }
    }

    /// Takes what visitors' browsers report, too.
    #[must_use]
    pub fn with_evidence(self, evidence: Option<Arc<Evidence>>) -> Self {
        Self { evidence, ..self }
    }

    /// Answers one request.
    pub async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Response<Body> {
        let authority = request.headers().get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
        let authority = authority.strip_suffix(":443").unwrap_or(authority);
        if authority.eq_ignore_ascii_case(&self.domain) {
            if let Some(evidence) = self.evidence.as_ref().filter(|_| Evidence::answers(request.uri().path())) {
                return evidence.answer(request).await;
            }
            return match (request.method(), request.uri().path()) {
                (&Method::GET, PEER_DOCUMENT_PATH) => json(StatusCode::OK, &*self.own.signed(now_s())),
                (&Method::GET, ROTATION_DOCUMENT_PATH) => json(StatusCode::OK, self.own.rotations()),
                _ => text(StatusCode::NOT_FOUND, "only the documents for peers are served here\n"),
            };
        }
        if !authority.eq_ignore_ascii_case(&self.replica_name) {
            return text(StatusCode::MISDIRECTED_REQUEST, "replicas are served under another name\n");
        }
        if request.method() == Method::GET && request.uri().path() == REPLICA_PREFIX {
            return json(StatusCode::OK, &*self.own.signed(now_s()));
        }
        self.answer_replica(&request).await
    }

    async fn answer_replica(&self, request: &Request<Incoming>) -> Response<Body> {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n");
            response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return response;
        }
        // Nothing served under the replica name may load more from it, and no replica may become a service worker or a page.
        let headers = request.headers();
        let purpose = use_of(headers);
        if purpose == Use::Own {
            return text(StatusCode::FORBIDDEN, "replicas are for the pages of their origin\n");
        }
        let target = request.uri().path_and_query().map(|target| target.as_str()).unwrap_or_default();
        let Some(asked) = ReplicaPath::parse(target) else {
            return text(StatusCode::NOT_FOUND, "no replica path\n");
        };
        if purpose == Use::Frame || (purpose == Use::Window && !self.downloads) {
            return text(StatusCode::NOT_FOUND, "replicas are not pages\n");
        }
        if !self.membership.carries(asked.origin) {
            return text(StatusCode::NOT_FOUND, "no such replica\n");
        }
        let is_denied = !self.leases.terms.serves(asked.origin, asked.path, &asked.sha256);
        let found = self.store.find(asked.origin, asked.path).filter(|_| !is_denied);
        if purpose == Use::Window && !found.as_deref().is_some_and(is_archive) {
            return text(StatusCode::NOT_FOUND, "no such download\n");
        }
        let Some(replica) =
            found.filter(|replica| replica.record.sha256 == asked.sha256 && !replica.is_expired(expiry_now_s()))
        else {
            return self.send_back(&asked, headers);
        };
        if !is_served(headers, Class::of_content_type(&replica.record.content_type)) {
            return text(StatusCode::FORBIDDEN, "scripts are for the pages of their origin, with crossorigin\n");
        }
        let plan = plan(headers, Some(&replica.record.etag), None, replica.record.size);
        let range = match &plan {
            Plan::Full => Some(0..replica.record.size),
            Plan::Partial(range) => Some(range.clone()),
            Plan::NotModified | Plan::PreconditionFailed | Plan::Unsatisfiable => None,
        };
        // What has no body costs nothing, and a HEAD is how origins find out whether a copy is there.
        let range = range.filter(|_| request.method() == Method::GET);
        let mut draw = None;
        if let Some(range) = &range {
            draw = self.leases.begin(asked.origin, range.end - range.start, monotonic_ms());
            if draw.is_none() {
                self.metrics.over_lease.inc();
                return self.send_back(&asked, headers);
            }
        }
        let body = range.zip(draw);
        match self.store.open_content(&replica.record).await {
            Ok(content) => self.serve(request, &replica, content, &plan, body).await,
            Err(ReadError::Store(error)) => {
                tracing::error!(origin = %asked.origin, path = %asked.path, %error, "reading a replica");
                self.send_back(&asked, headers)
            }
            Err(damage) => {
                tracing::error!(origin = %asked.origin, path = %asked.path, %damage, "a replica is damaged");
                // Full means that many are going already; nothing unverified is served meanwhile.
                let _ = self.doomed.try_send(replica.clone());
                self.send_back(&asked, headers)
            }
        }
    }

    /// `body` is the range to send, and what it may be sent from.
    async fn serve(
        &self,
        request: &Request<Incoming>,
        replica: &Replica,
        content: Content,
        plan: &Plan,
        body: Option<(Range<u64>, Draw)>,
    ) -> Response<Body> {
        let record = &replica.record;
        let mut response = match body {
            None => empty(StatusCode::OK),
            Some((range, mut draw)) => match content.read(range).await {
                Ok(stream) => {
                    self.metrics.served.inc();
                    let metrics = self.metrics.clone();
                    let counted = stream.inspect_ok(move |part| {
                        draw.send(part.len() as u64, monotonic_ms());
                        metrics.served_bytes.inc_by(part.len() as u64);
                    });
                    Response::new(StreamBody::new(counted.map_ok(Frame::data)).boxed_unsync())
                }
                Err(error) => {
                    tracing::error!(origin = %record.origin, path = %record.path, %error, "reading a replica");
                    return empty(StatusCode::INTERNAL_SERVER_ERROR);
                }
            },
        };
        *response.status_mut() = headers::status_of(plan);
        headers::describe(response.headers_mut(), record, plan);
        share(response.headers_mut(), request.headers(), &record.origin, record.sharing);
        if Class::of_content_type(&record.content_type) == Some(Class::Script) {
            // Whoever asks in another mode gets another answer.
            response.headers_mut().insert(VARY, HeaderValue::from_static("origin, sec-fetch-mode"));
        }
        if use_of(request.headers()) == Use::Window
            && let Ok(disposition) = HeaderValue::try_from(attachment(&record.path))
        {
            response.headers_mut().insert(CONTENT_DISPOSITION, disposition);
        }
        response
    }

    /// Sends a client to the origin, if that is a peer; the loop ends there, since return URLs are never redirected.
    fn send_back(&self, asked: &ReplicaPath<'_>, request: &HeaderMap) -> Response<Body> {
        if self.membership.by_domain(asked.origin).is_none() {
            return text(StatusCode::NOT_FOUND, "no such replica\n");
        }
        self.metrics.sent_back.inc();
        let url = format!("https://{}{RETURN_PREFIX}{}", asked.origin, asked.path.trim_start_matches('/'));
        let mut response = text(StatusCode::FOUND, "");
        if let Ok(location) = HeaderValue::try_from(url) {
            response.headers_mut().insert(LOCATION, location);
        }
        response.headers_mut().insert(REFERRER_POLICY, headers::NO_REFERRER);
        // It says nothing that was not asked with, so anybody may follow it; the origin then decides who may read.
        share(response.headers_mut(), request, asked.origin, Sharing::Anyone);
        response
    }
}

fn is_archive(replica: &Replica) -> bool {
    Class::of_content_type(&replica.record.content_type) == Some(Class::Archive)
}
