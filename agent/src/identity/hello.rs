//! The first exchange between two agents: each shows its signed record over a connection made with the same key.

use std::time::Duration;

use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use p2pcdn_core::peer::PEER_DOCUMENT_PATH;
use serde::{Deserialize, Serialize};

use super::OUR_VERSIONS;
use super::introducer::{Introducer, MeetError};
use super::introduction::{Introduction, IntroductionError, check};
use super::membership::{Membership, MembershipError};
use super::neighbourhood::network;
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
