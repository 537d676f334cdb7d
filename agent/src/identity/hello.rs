//! The first exchange between two agents: each shows its signed record over a connection made with the same key.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use governor::{DefaultDirectRateLimiter, DefaultKeyedRateLimiter, Quota, RateLimiter};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use p2pcdn_core::peer::{NodeKey as PublicKey, PEER_DOCUMENT_PATH};
use serde::{Deserialize, Serialize};

use super::OUR_VERSIONS;
use super::introducer::{Introducer, MeetError, backoff};
use super::introduction::{Introduction, IntroductionError, check};
use super::membership::{Membership, MembershipError};
use super::neighbourhood::{Network, network};
use super::peer_client::Refusal;
use super::peer_listener::PeerIdentity;
use super::plain::plain;
use super::roster::{Claim, Introduced, NoRoom};
use super::signed::Signed;
use crate::clock::now_s;
use crate::http_server::{Body, json};

/// Path of the exchange, for POST.
pub const HELLO_PATH: &str = "/v1/hello";
/// Longest message of the exchange in bytes.
pub const MAX_HELLO_BYTES: usize = 32 * 1024;

/// What the side that connects says.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Hello {
    /// Its peer record.
    pub record: Signed,
    /// Protocol versions that it speaks.
    pub versions: Vec<u16>,
}

/// What the other side answers if it knows the caller.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct HelloAnswer {
    /// Its peer record.
    pub record: Signed,
    /// The version to speak from now on.
    pub version: u16,
}

/// Why a hello is refused. The caller reads the name of the variant and the remedy.
#[derive(Debug, thiserror::Error)]
pub enum HelloRefusal {
    /// No JSON of a [`Hello`], or too long.
    #[error("the message is malformed: {0}")]
    Malformed(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The record is not signed with the key of the connection.
    #[error("the record is signed with another key than the connection's")]
    WrongSigner,
    /// The record does not hold.
    #[error("the record is refused: {0}")]
    Record(#[source] IntroductionError),
    /// No protocol version in common.
    #[error("no common protocol version: this agent speaks {OUR_VERSIONS:?}, you speak {0:?}; upgrade the older one")]
    Version(Vec<u16>),
    /// The operator has not invited that domain; it is pending now.
    #[error("ask the operator of {ours} to run: p2pcdn peer accept {theirs}")]
    NotInvited {
        /// This site.
        ours: String,
        /// The caller's site.
        theirs: String,
    },
    /// Membership is open, and has no room for the domain.
    #[error("{0}; try again later, or ask its operator for an invitation")]
    NoRoom(NoRoom),
    /// The domain is pinned with another key.
    #[error(
        "{ours} knows {theirs} by another key; if yours is right, ask its operator to run: p2pcdn peer accept {theirs}"
    )]
    KeyChanged {
        /// This site.
        ours: String,
        /// The caller's site.
        theirs: String,
    },
    /// The domain's own document shows another key than the caller has.
    #[error("https://{0}{PEER_DOCUMENT_PATH} shows another key than yours; does its proxy lead to this agent?")]
    KeyMismatch(String),
    /// The domain's own document could not be had.
    #[error("your own document could not be checked: {0}")]
    DialBack(#[source] IntroductionError),
    /// The domain's document is being fetched, or could not be had just now.
    #[error("your document is being checked or could not be had a moment ago; try again later")]
    TryLater,
    /// The key has said hello too often of late.
    #[error("you say hello too often; try again later")]
    TooOften,
    /// This side's fault.
    #[error("this agent cannot store what it learnt")]
    Storage(#[from] MembershipError),
}

impl HelloRefusal {
    /// Status of the answer.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Malformed(_) | Self::WrongSigner | Self::Record(_) | Self::Version(_) => StatusCode::BAD_REQUEST,
            Self::NotInvited { .. } | Self::KeyChanged { .. } | Self::KeyMismatch(_) => StatusCode::FORBIDDEN,
            Self::DialBack(_) => StatusCode::BAD_GATEWAY,
            Self::TryLater | Self::NoRoom(_) => StatusCode::SERVICE_UNAVAILABLE,
            Self::TooOften => StatusCode::TOO_MANY_REQUESTS,
            Self::Storage(_) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// One word for programs, metrics and logs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Malformed(_) => "malformed",
            Self::WrongSigner => "wrong_signer",
            Self::Record(_) => "record_refused",
            Self::Version(_) => "no_common_version",
            Self::NotInvited { .. } => "not_invited",
            Self::NoRoom(_) => "no_room",
            Self::KeyChanged { .. } => "key_changed",
            Self::KeyMismatch(_) => "key_mismatch",
            Self::DialBack(_) => "dial_back_failed",
            Self::TryLater => "try_later",
            Self::TooOften => "too_often",
            Self::Storage(_) => "storage",
        }
    }
}

/// Longest wait for the body of a hello.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

impl Introducer {
    /// The route [`HELLO_PATH`] of the peer listener.
    pub async fn hello_route(&self, identity: PeerIdentity, request: Request<Incoming>) -> Response<Body> {
        match self.read_hello(&identity, request).await {
            Ok(answer) => json(StatusCode::OK, &answer),
            Err(refused) => {
                let code = refused.code();
                if let Some(suppressed) = self.log.due(code) {
                    let PeerIdentity { key, remote } = identity;
                    tracing::info!(%key, %remote, suppressed, code, reason = plain(&refused), "refused a hello");
                }
                json(refused.status(), &Refusal { error: code.into(), remedy: refused.to_string() })
            }
        }
    }

    async fn read_hello(
        &self,
        identity: &PeerIdentity,
        request: Request<Incoming>,
    ) -> Result<HelloAnswer, HelloRefusal> {
        if !self.knocks.hears(&identity.key) {
            return Err(HelloRefusal::TooOften);
        }
        let body = Limited::new(request.into_body(), MAX_HELLO_BYTES).collect();
        match tokio::time::timeout(BODY_TIMEOUT, body).await {
            Ok(Ok(body)) => self.answer_hello(identity, &body.to_bytes()).await,
            Ok(Err(error)) => Err(HelloRefusal::Malformed(error)),
            Err(late) => Err(HelloRefusal::Malformed(late.into())),
        }
    }

    /// Answers a hello; an invited domain is asked for its own document first, one request per domain at a time.
    pub async fn answer_hello(&self, identity: &PeerIdentity, body: &[u8]) -> Result<HelloAnswer, HelloRefusal> {
        let hello: Hello = serde_json::from_slice(body).map_err(|error| HelloRefusal::Malformed(error.into()))?;
        if hello.record.key != identity.key {
            return Err(HelloRefusal::WrongSigner);
        }
        let common = hello.versions.iter().copied().filter(|version| OUR_VERSIONS.contains(version)).max();
        let version = common.ok_or_else(|| HelloRefusal::Version(hello.versions.into_iter().take(8).collect()))?;
        let now_s = now_s();
        let claimed = check(hello.record, now_s).map_err(HelloRefusal::Record)?;
        let said = claimed.clone();
        let claim = move |membership: &Membership| membership.claim(&said, now_s);
        match self.membership.blocking(claim).await? {
            Claim::Known => {}
            Claim::Unproven => self.dial_back(&claimed, identity).await?,
            Claim::Pending { .. } | Claim::Away => return Err(self.not_invited(&claimed)),
            Claim::NoRoom(reason) => return Err(HelloRefusal::NoRoom(reason)),
        }
        self.heard_from(&claimed.record.domain);
        Ok(HelloAnswer { record: (*self.own.signed(now_s)).clone(), version })
    }

    /// Asks the domain itself whether the caller's key is its own.
    async fn dial_back(&self, claimed: &Introduction, identity: &PeerIdentity) -> Result<(), HelloRefusal> {
        let domain = &claimed.record.domain;
        let ip = identity.remote.ip().to_canonical();
        let from = (!ip.is_loopback()).then(|| network(ip));
        let is_stranger = !self.membership.carries(domain);
        let attempt = self.dial_backs.begin(domain, is_stranger, from).ok_or(HelloRefusal::TryLater)?;
        let (fetched, introduced) = self.look_up(domain, now_s()).await.map_err(|error| match error {
            MeetError::Introduction(error) => HelloRefusal::DialBack(error),
            MeetError::Membership(error) => HelloRefusal::Storage(error),
            // Nobody was asked for more than its record.
            _ => HelloRefusal::TryLater,
        })?;
        let same_key = fetched.record.node_key == claimed.record.node_key;
        match introduced {
            Introduced::Pinned | Introduced::AlreadyKnown if same_key => {
                attempt.succeeded();
                Ok(())
            }
            Introduced::Pinned => Err(HelloRefusal::KeyMismatch(domain.clone())),
            Introduced::AlreadyKnown | Introduced::RefusedKeyChanged => {
                Err(HelloRefusal::KeyChanged { ours: self.own.domain().into(), theirs: domain.clone() })
            }
            // The operator removed the domain while it was being asked.
            Introduced::Pending | Introduced::Away => Err(self.not_invited(claimed)),
            Introduced::NoRoom(reason) => Err(HelloRefusal::NoRoom(reason)),
        }
    }

    fn not_invited(&self, claimed: &Introduction) -> HelloRefusal {
        HelloRefusal::NotInvited { ours: self.own.domain().into(), theirs: claimed.record.domain.clone() }
    }
}

/// How often each key may say hello: one that is pinned can have every hello written to disk, by a newer record.
pub(super) struct Knocks(DefaultKeyedRateLimiter<PublicKey>);

/// Time in which one key may say hello once, before scaling, and how often it may at once: after failures hellos come a second apart at first.
const KNOCK_PERIOD: Duration = Duration::from_secs(5);
const KNOCKS_AT_ONCE: NonZeroU32 = NonZeroU32::new(16).unwrap();
/// Above so many keys, those that have long been silent are forgotten.
const REMEMBERED_KEYS: usize = 1024;

impl Knocks {
    pub(super) fn new(time_scale: f64) -> Self {
        Self(RateLimiter::keyed(one_in(KNOCK_PERIOD, time_scale).allow_burst(KNOCKS_AT_ONCE)))
    }

    fn hears(&self, key: &PublicKey) -> bool {
        if self.0.len() > REMEMBERED_KEYS {
            self.0.retain_recent();
        }
        self.0.check_key(key).is_ok()
    }
}

fn one_in(period: Duration, time_scale: f64) -> Quota {
    let period = period.mul_f64(time_scale).max(Duration::from_nanos(1));
    Quota::with_period(period).unwrap_or(Quota::per_second(NonZeroU32::MIN))
}

/// Dial-backs in progress and the failures of earlier ones.
pub(super) struct DialBacks {
    all: Arc<Mutex<HashMap<String, DialBack>>>,
    /// For those that nobody has invited.
    strangers: DefaultDirectRateLimiter,
    /// Of these, for those that knock from one network.
    networks: DefaultKeyedRateLimiter<Network>,
    time_scale: f64,
}

#[derive(Default)]
struct DialBack {
    running: bool,
    failures: u32,
    not_before: Option<Instant>,
}

/// Longest pause after failed dial-backs, before scaling.
const MAX_PAUSE: Duration = Duration::from_secs(60);
/// The same for strangers, whose names anybody can make up.
const MAX_STRANGER_PAUSE: Duration = Duration::from_secs(24 * 3600);
/// Time between two dial-backs to strangers, before scaling, and how many there may be at once after a time without.
const STRANGER_PERIOD: Duration = Duration::from_secs(2);
const STRANGERS_AT_ONCE: NonZeroU32 = NonZeroU32::new(16).unwrap();
/// The same for those that knock from one network: whoever makes up names takes few of the turns of others.
const NETWORK_PERIOD: Duration = Duration::from_secs(20);
const OF_NETWORK_AT_ONCE: NonZeroU32 = NonZeroU32::new(4).unwrap();
/// Above so many networks, those that have long been silent are forgotten.
const REMEMBERED_NETWORKS: usize = 1024;
/// Domains that are remembered; of those that are not being asked, the one that may be asked first makes room.
const MAX_REMEMBERED: usize = 4096;

impl DialBacks {
    /// None yet; pauses are multiplied by `time_scale`.
    pub(super) fn new(time_scale: f64) -> Self {
        let strangers = RateLimiter::direct(one_in(STRANGER_PERIOD, time_scale).allow_burst(STRANGERS_AT_ONCE));
        let networks = RateLimiter::keyed(one_in(NETWORK_PERIOD, time_scale).allow_burst(OF_NETWORK_AT_ONCE));
        Self { all: Arc::default(), strangers, networks, time_scale }
    }

    /// The right to dial back now, unless somebody does already, the last failure was too recent, or too many strangers were asked, in all
    /// or for knocks `from` its network.
    pub(super) fn begin(&self, domain: &str, is_stranger: bool, from: Option<Network>) -> Option<Attempt> {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        let known = all.get(domain);
        if known.is_some_and(|known| known.running || known.not_before.is_some_and(|then| Instant::now() < then)) {
            return None;
        }
        if is_stranger && (from.is_some_and(|network| !self.hears(&network)) || self.strangers.check().is_err()) {
            return None;
        }
        if known.is_none() && all.len() >= MAX_REMEMBERED {
            let idle = all.iter().filter(|(_, other)| !other.running).min_by_key(|(_, other)| other.not_before);
            let first = idle.map(|(domain, _)| domain.clone())?;
            all.remove(&first);
        }
        all.entry(domain.to_owned()).or_default().running = true;
        let longest = if is_stranger { MAX_STRANGER_PAUSE } else { MAX_PAUSE };
        Some(Attempt { all: self.all.clone(), domain: domain.to_owned(), longest, time_scale: self.time_scale })
    }

    fn hears(&self, from: &Network) -> bool {
        if self.networks.len() > REMEMBERED_NETWORKS {
            self.networks.retain_recent();
        }
        self.networks.check_key(from).is_ok()
    }
}

/// One dial-back; a failure unless it is told otherwise, so also when the caller goes away.
pub(super) struct Attempt {
    all: Arc<Mutex<HashMap<String, DialBack>>>,
    domain: String,
    longest: Duration,
    time_scale: f64,
}

impl Attempt {
    pub(super) fn succeeded(self) {
        self.all.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.domain);
    }

    /// It succeeded, and whoever brings the domain up again is not listened to for a while.
    pub(super) fn enough_for_now(self) {
        let not_before = Some(Instant::now() + MAX_PAUSE.mul_f64(self.time_scale));
        let all = self.all.clone();
        let mut all = all.lock().unwrap_or_else(PoisonError::into_inner);
        all.insert(self.domain.clone(), DialBack { running: false, failures: 0, not_before });
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(dial_back) = all.get_mut(&self.domain).filter(|dial_back| dial_back.running) {
            dial_back.running = false;
            dial_back.failures = dial_back.failures.saturating_add(1);
            let pause = backoff(dial_back.failures, self.longest).mul_f64(self.time_scale);
            dial_back.not_before = Some(Instant::now() + pause);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_knocks_with_invented_names_leaves_others_their_turn() {
        let dial_backs = DialBacks::new(1.0);
        let of = |ip: &str| Some(network(ip.parse().unwrap()));
        let knock = |name: String, ip: &str| dial_backs.begin(&name, true, of(ip)).is_some();
        let asked = (0..1000).filter(|n| knock(format!("{n}.test"), &format!("203.0.113.{}", n % 256))).count();
        assert!(asked <= 5, "{asked} dial-backs");
        assert!(knock("honest.test".into(), "198.51.100.1") && knock("other.test".into(), "2001:db8::1"));
        assert!(dial_backs.begin("invited.test", false, of("203.0.113.1")).is_some());
        let asked =
            (0..1000).filter(|n| knock(format!("many{n}.test"), &format!("10.{}.{}.1", n / 256, n % 256))).count();
        assert!(asked <= 16, "{asked} dial-backs in all");
    }
}
