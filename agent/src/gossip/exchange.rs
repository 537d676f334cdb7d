//! Gossip over the connections between agents: once a minute with a partner of one's own choice, and whenever somebody else chooses this site.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use p2pcdn_core::peer::{NodeKey as PublicKey, PeerRecord};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::messages::{
    MAX_CLOSING_BYTES, MAX_LAST_BYTES, MAX_MESSAGE_BYTES, MAX_OPENING_BYTES, MAX_REPLY_BYTES, Message,
};
use super::partner::View;
use super::record::Record;
use super::teller::Gossip;
use crate::clock::{expiry_now_s, now_s};
use crate::http_server::{Body, json, read_body, with_body};
use crate::identity::{Introduced, Introduction, Network, Peer, PeerClientError, Refusal, plain};

/// POST of a [`Message`]: an opening is answered with a reply, a closing with a last one.
pub const GOSSIP_PATH: &str = "/v1/gossip";

/// Time between two exchanges that this site begins, before scaling.
const PERIOD: Duration = Duration::from_secs(60);
/// Exchanges in one order of partners.
const TURNS: u64 = 60;
/// Domains that are asked for their record at the same time.
const MAX_QUESTIONS: usize = 4;

/// Why an exchange came to nothing.
#[derive(Debug, thiserror::Error)]
enum ExchangeError {
    /// The partner did not answer, or refused.
    #[error(transparent)]
    Peer(#[from] PeerClientError),
    /// It answered with something else.
    #[error("the answer is no message of this protocol")]
    Malformed,
    /// This machine's fault.
    #[error("no random numbers: {0}")]
    Random(#[from] getrandom::Error),
}

/// What the table was told of the peers of this site, by domain.
type Told = HashMap<String, (PublicKey, u64, Option<Network>)>;

impl Gossip {
    /// Talks and listens until cancelled.
    pub async fn run(self: Arc<Self>, cancel: CancellationToken) {
        let period = PERIOD.mul_f64(self.time_scale);
        let (mut told, mut turn) = (Told::new(), 0);
        let (mut exchanges, mut questions) = (JoinSet::new(), JoinSet::new());
        let mut next = tokio::time::Instant::now();
        while !cancel.is_cancelled() {
            tokio::select! {
                () = cancel.cancelled() => return,
                () = tokio::time::sleep_until(next) => {
                    self.refresh(&mut told);
                    if turn % TURNS == 0 {
                        self.table().reconsider();
                    }
                    // Whoever came in meanwhile has its rank already, so an order that is made anew is the same but for them.
                    let own = self.key.public();
                    let view = View::new(self.table().candidates().filter(|other| other.key != own), self.seed, turn / TURNS);
                    // One that takes long does not put off the next, which is with another partner.
                    if let Some(partner) = view.partner(turn % TURNS).filter(|_| exchanges.len() < MAX_QUESTIONS) {
                        let gossip = self.clone();
                        exchanges.spawn(async move { gossip.exchange(&partner).await });
                    }
                    turn += 1;
                    next += period.mul_f64(jitter());
                    next = next.max(tokio::time::Instant::now());
                }
                () = self.wake.notified() => {}
                Some(_) = exchanges.join_next() => {}
                Some(_) = questions.join_next() => {}
            }
            while questions.len() < MAX_QUESTIONS
                && let Some(domain) = self.next_wish()
            {
                let gossip = self.clone();
                questions.spawn(async move { gossip.ask(&domain).await });
            }
        }
    }

    /// Answers a message of somebody who is a peer, or known by gossip.
    pub async fn answer(&self, peer: &PublicKey, request: Request<Incoming>) -> Response<Body> {
        let refuse = |status, error: &str, remedy: &str| {
            self.metrics.gossip_refused.inc();
            json(status, &Refusal { error: error.into(), remedy: remedy.into() })
        };
        if !self.limits.hears(peer) {
            return refuse(StatusCode::TOO_MANY_REQUESTS, "busy", "say less");
        }
        let body = read_body(request.into_body(), MAX_MESSAGE_BYTES).await;
        let message = body.as_ref().and_then(|body| Message::decode(body).ok());
        self.metrics.gossip_received_bytes.inc_by(body.map_or(0, |body| body.len() as u64));
        let mut check = self.checker(peer);
        let answer = match message {
            Some(Message::Opening(opening)) => Message::Reply(self.table().answer(&opening)),
            Some(Message::Closing(closing)) => {
                let (last, taken) = self.table().finish(&closing, now_s(), &mut check);
                self.note(taken).await;
                Message::Last(last)
            }
            _ => return refuse(StatusCode::BAD_REQUEST, "malformed", "bring both agents to neighbouring releases"),
        };
        let bytes = answer.encode();
        self.metrics.gossip_sent_bytes.inc_by(bytes.len() as u64);
        with_body(StatusCode::OK, "application/octet-stream", bytes.into())
    }

    async fn exchange(&self, partner: &PublicKey) {
        let pinned = self.membership.by_key(partner).map(|peer| peer.record.clone());
        let known = pinned.or_else(|| self.table().peer(partner));
        let Some(record) = known else { return };
        match self.exchange_with(&record).await {
            Ok(()) => drop(self.metrics.gossip_exchanges.inc()),
            Err(error) => tracing::debug!(partner = plain(&record.domain), error = plain(error), "gossip"),
        }
    }

    async fn exchange_with(&self, partner: &PeerRecord) -> Result<(), ExchangeError> {
        let salt = getrandom::u64()?;
        let opening = self.table().offer_window(salt);
        debug_assert!(opening.bytes() <= MAX_OPENING_BYTES);
        let answer = self.send(partner, Message::Opening(opening), MAX_REPLY_BYTES).await?;
        let Message::Reply(reply) = answer else { return Err(ExchangeError::Malformed) };
        let (closing, taken) = self.table().close(salt, &reply, now_s(), &mut self.checker(&partner.node_key));
        self.note(taken).await;
        if closing.is_empty() {
            return Ok(());
        }
        debug_assert!(closing.bytes() <= MAX_CLOSING_BYTES);
        let answer = self.send(partner, Message::Closing(closing), MAX_LAST_BYTES).await?;
        let Message::Last(last) = answer else { return Err(ExchangeError::Malformed) };
        let taken = self.table().take(&last.records, now_s(), &mut self.checker(&partner.node_key));
        self.note(taken).await;
        Ok(())
    }

    async fn send(&self, partner: &PeerRecord, message: Message, limit: usize) -> Result<Message, ExchangeError> {
        let bytes = message.encode();
        self.metrics.gossip_sent_bytes.inc_by(bytes.len() as u64);
        let answer = self.client.bytes(partner, GOSSIP_PATH, bytes, limit).await?;
        self.metrics.gossip_received_bytes.inc_by(answer.len() as u64);
        Message::decode(&answer).map_err(|_| ExchangeError::Malformed)
    }

    /// Asks a domain that was heard of for its record.
    async fn ask(&self, domain: &str) {
        match self.introducer.discover(domain).await {
            None => {}
            Some(Ok((_, Introduced::Away))) => self.table().expel(domain),
            Some(Ok((introduction, _))) => self.admit(&introduction),
            Some(Err(error)) => {
                tracing::debug!(domain = plain(domain), error = plain(error), "heard of by gossip, and not found");
            }
        }
    }

    fn admit(&self, introduction: &Introduction) {
        let Introduction { record, signed, network, .. } = introduction;
        let pinned = self.membership.by_domain(&record.domain);
        let is_peer = pinned.is_some_and(|peer| peer.key() == record.node_key);
        if !is_peer && !self.is_open() {
            return;
        }
        if let Some(Ok(read)) = Record::of(signed).map(|blob| Record::read(blob, now_s())) {
            let admitted = self.table().admit(&read, *network, is_peer);
            if let Err(reason) = admitted {
                tracing::debug!(domain = record.domain, %reason, "not admitted to gossip");
            }
        }
    }

    /// Brings the table up to date with who is a peer of this site, what this site says of itself, and the time.
    fn refresh(&self, told: &mut Told) {
        // A clock that jumps must not make this site forget everybody.
        let (now_s, expiry_now_s) = (now_s(), expiry_now_s());
        if let Err(error) = self.membership.forget_ended(expiry_now_s) {
            tracing::error!(%error, "forgetting open peers");
        }
        let own = self.own.signed(now_s);
        if let Some(Ok(record)) = Record::of(&own).map(|blob| Record::read(blob, now_s))
            && let Err(reason) = self.table().admit(&record, None, true)
        {
            tracing::warn!(%reason, "this site's own record does not fit into gossip");
        }
        self.own.rotations().rotations.iter().for_each(|signed| self.publish_signed(signed, now_s));
        self.membership.peers().iter().for_each(|peer| self.tell(told, peer, now_s));
        told.retain(|domain, _| {
            let is_peer = self.membership.carries(domain);
            if !is_peer {
                self.table().expel(domain);
            }
            is_peer
        });
        self.table().expire(expiry_now_s);
        self.review();
    }

    fn tell(&self, told: &mut Told, peer: &Peer, now_s: u64) {
        let state = (peer.key(), peer.record.sequence, peer.network);
        if told.get(&peer.record.domain) == Some(&state) {
            return;
        }
        // A record that has ended meanwhile is told once the peer has a new one.
        if let Some(Ok(record)) = Record::of(&peer.signed).map(|blob| Record::read(blob, now_s))
            && self.table().admit(&record, peer.network, true).is_ok()
        {
            told.insert(peer.record.domain.clone(), state);
        }
    }
}

/// From 0.75 to 1.25, so that sites that were started together do not stay together.
fn jitter() -> f64 {
    0.75 + getrandom::u32().map_or(0.5, |random| f64::from(random) / f64::from(u32::MAX)) / 2.0
}
