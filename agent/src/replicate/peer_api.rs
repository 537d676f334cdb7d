//! What peers may ask: each route knows who asks by the key of the connection, and strangers get no further than hello.

use std::sync::Arc;

use http::{HeaderMap, Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use serde::de::DeserializeOwned;

use super::batch::{BATCHES_PATH, BatchRequest};
use super::host::pull::Puller;
use super::host::withdraw::Withdrawer;
use super::messages::{
    ACKNOWLEDGEMENTS_PATH, Acknowledgements, Done, LeaseGrant, MAX_BATCH, MAX_MESSAGE_BYTES, OBJECTS_PATH, OFFERS_PATH,
    Offer, OfferAnswer, WITHDRAWALS_PATH, Withdrawals,
};
use super::origin::share::Sharer;
use super::turns::Turns;
use super::upload::{UploadError, Uploads};
use crate::clock::monotonic_ms;
use crate::gossip::Gossip;
use crate::gossip::exchange::GOSSIP_PATH;
use crate::http_server::{Body, json, read_body};
use crate::identity::hello::HELLO_PATH;
use crate::identity::{Introducer, Membership, Peer, PeerIdentity, Refusal};
use crate::serve::leases::{LEASE_VALID_S, Leases};
use crate::store::ReplicaStore;

/// Everything that peers can ask for.
pub struct PeerApi {
    /// Answers hello.
    pub introducer: Arc<Introducer>,
    /// Who is a peer.
    pub membership: Arc<Membership>,
    /// The origin's side; none on a site that only hosts.
    pub sharer: Option<Arc<Sharer>>,
    /// The host's side.
    pub puller: Arc<Puller>,
    /// Replicas held for others.
    pub store: Arc<ReplicaStore>,
    /// Drops replicas that their origin does not want kept.
    pub withdrawer: Arc<Withdrawer>,
    /// What each origin is granted.
    pub leases: Arc<Leases>,
    /// Bytes for peers.
    pub uploads: Arc<Uploads>,
    /// What others say about others.
    pub gossip: Arc<Gossip>,
    /// Messages that are read at the same time.
    pub bodies: Turns,
}

/// For [`PeerApi::bodies`]: each may be as long as [`MAX_MESSAGE_BYTES`].
pub const MAX_BODIES: usize = 16;
/// Of these, from one peer: one that sends slowly holds up its own messages only.
pub const MAX_BODIES_OF_ONE: usize = 2;

/// Why a request is refused; always the asking side's fault. The text is the remedy.
#[derive(Debug, Clone, Copy, thiserror::Error)]
enum Fault {
    #[error("say hello first")]
    Stranger,
    #[error("bring both agents to neighbouring releases")]
    Route,
    #[error("the message is too long or not of this protocol")]
    Message,
    #[error("send at most {MAX_BATCH} items in one message")]
    Batch,
    #[error("the object has changed; wait for its new offer")]
    Object,
    #[error("ask for a range within the object")]
    Range,
    #[error("too much is under way; try again later")]
    Busy,
}

impl PeerApi {
    /// Answers one request.
    pub async fn answer(self: Arc<Self>, identity: PeerIdentity, request: Request<Incoming>) -> Response<Body> {
        let (method, path) = (request.method().clone(), request.uri().path().to_owned());
        if (&method, path.as_str()) == (&Method::POST, HELLO_PATH) {
            return self.introducer.hello_route(identity, request).await;
        }
        let peer = self.membership.by_key(&identity.key);
        if (&method, path.as_str()) == (&Method::POST, GOSSIP_PATH)
            && (peer.is_some() || self.gossip.knows(&identity.key))
        {
            return self.gossip.answer(&identity.key, request).await;
        }
        let Some(peer) = peer else { return Fault::Stranger.answer() };
        let answer = match (method, path.as_str()) {
            (Method::POST, OFFERS_PATH) => self.offered(&peer, request).await,
            (Method::POST, ACKNOWLEDGEMENTS_PATH) => self.acknowledged(&peer, request).await,
            (Method::POST, WITHDRAWALS_PATH) => self.withdrawn(&peer, request).await,
            (Method::POST, BATCHES_PATH) => self.batch(&peer, request).await,
            (Method::GET, path) if path.starts_with(OBJECTS_PATH) => self.object(&peer, path, request.headers()).await,
            _ => Err(Fault::Route),
        };
        answer.unwrap_or_else(|fault| fault.answer())
    }

    async fn offered(&self, peer: &Arc<Peer>, request: Request<Incoming>) -> Result<Response<Body>, Fault> {
        let offer: Offer = self.message(peer, request).await?;
        check_batch(offer.records.len())?;
        let mut verdicts = Vec::with_capacity(offer.records.len());
        for offered in offer.records {
            verdicts.push(self.puller.consider(peer, offered).await);
        }
        let bytes_per_s = self.leases.grant(&peer.record.domain, monotonic_ms());
        let lease = LeaseGrant { bytes_per_s, valid_s: LEASE_VALID_S };
        let room = Some(self.puller.room_for(&peer.record.domain));
        Ok(json(StatusCode::OK, &OfferAnswer { verdicts, lease, room }))
    }

    async fn acknowledged(&self, peer: &Peer, request: Request<Incoming>) -> Result<Response<Body>, Fault> {
        let message: Acknowledgements = self.message(peer, request).await?;
        check_batch(message.acknowledgements.len())?;
        let Some(sharer) = &self.sharer else { return Ok(json(StatusCode::OK, &Done { taken: 0 })) };
        let taken = message.acknowledgements.iter().filter(|signed| sharer.acknowledged(peer, signed)).count();
        Ok(json(StatusCode::OK, &Done { taken }))
    }

    async fn withdrawn(&self, peer: &Peer, request: Request<Incoming>) -> Result<Response<Body>, Fault> {
        let message: Withdrawals = self.message(peer, request).await?;
        check_batch(message.withdrawals.len())?;
        let (mut taken, mut given_up) = (0, 0);
        for withdrawal in &message.withdrawals {
            if withdrawal.origin == peer.record.domain {
                let held = self.store.find(&withdrawal.origin, &withdrawal.path);
                if let Some(replica) = held.filter(|replica| replica.record.sha256 == withdrawal.sha256) {
                    taken += usize::from(self.withdrawer.forget(&replica).await);
                }
            } else if let Some(sharer) = &self.sharer
                && sharer.withdrawn(peer, withdrawal)
            {
                taken += 1;
                given_up += 1;
            }
        }
        if let Some(sharer) = self.sharer.as_ref().filter(|_| given_up > 0) {
            tracing::info!(peer = %peer.record.domain, replicas = given_up, reason = %message.reason, "withdrawn");
            sharer.holders.withdrawn(&peer.record.domain, message.reason, given_up);
        }
        Ok(json(StatusCode::OK, &Done { taken }))
    }

    async fn message<T: DeserializeOwned>(&self, peer: &Peer, request: Request<Incoming>) -> Result<T, Fault> {
        let turn = self.bodies.take(&peer.record.domain).await;
        let body = tokio::select! {
            biased;
            body = read_body(request.into_body(), MAX_MESSAGE_BYTES) => body,
            () = turn.is_over() => return Err(Fault::Busy),
        };
        body.and_then(|body| serde_json::from_slice(&body).ok()).ok_or(Fault::Message)
    }

    async fn object(&self, peer: &Peer, path: &str, headers: &HeaderMap) -> Result<Response<Body>, Fault> {
        let digest = path.strip_prefix(OBJECTS_PATH).and_then(|hex| hex.parse().ok()).ok_or(Fault::Object)?;
        Ok(self.uploads.object(&peer.record.domain, &digest, headers).await?)
    }

    async fn batch(&self, peer: &Peer, request: Request<Incoming>) -> Result<Response<Body>, Fault> {
        let wanted: BatchRequest = self.message(peer, request).await?;
        check_batch(wanted.digests.len())?;
        Ok(self.uploads.batch(&peer.record.domain, wanted.digests).await?)
    }
}

fn check_batch(items: usize) -> Result<(), Fault> {
    if items <= MAX_BATCH { Ok(()) } else { Err(Fault::Batch) }
}

impl From<UploadError> for Fault {
    fn from(error: UploadError) -> Self {
        match error {
            UploadError::NoObject => Self::Object,
            UploadError::Range => Self::Range,
            UploadError::Busy => Self::Busy,
        }
    }
}

impl Fault {
    fn answer(self) -> Response<Body> {
        let (status, error) = match self {
            Self::Stranger => (StatusCode::FORBIDDEN, "not_introduced"),
            Self::Route => (StatusCode::NOT_FOUND, "no_such_route"),
            Self::Message => (StatusCode::BAD_REQUEST, "malformed"),
            Self::Batch => (StatusCode::BAD_REQUEST, "too_many"),
            Self::Object => (StatusCode::NOT_FOUND, "no_such_object"),
            Self::Range => (StatusCode::RANGE_NOT_SATISFIABLE, "no_such_range"),
            Self::Busy => (StatusCode::SERVICE_UNAVAILABLE, "busy"),
        };
        json(status, &Refusal { error: error.into(), remedy: self.to_string() })
    }
}
