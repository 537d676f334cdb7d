//! What is thought of each peer, and the operator's word against it.

use std::collections::BTreeMap;

use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use serde::{Deserialize, Serialize};

use super::{LocalApi, MAX_REQUEST_BYTES, PeerRequest, refuse};
use crate::http_server::{Body, json, read_body, text};
use crate::reputation::account::{Membership, Verdict};
use crate::reputation::book::Mode;
use crate::reputation::{Explanation, Reputation, State};

/// GET: [`TrustStatus`].
pub const TRUST_PATH: &str = "/v1/trust";
/// POST [`PeerRequest`], answered by [`Explanation`]: why a peer has the weight it has.
pub const TRUST_WHY_PATH: &str = "/v1/trust/why";
/// POST [`PeerRequest`], answered by [`Explanation`]: nothing is held against a peer any more.
pub const TRUST_FORGIVE_PATH: &str = "/v1/trust/forgive";
/// POST [`PeerRequest`], answered by [`Explanation`]: a peer gets no redirects, and its objects are not carried, until it is forgiven.
pub const TRUST_BAN_PATH: &str = "/v1/trust/ban";

/// What is thought of all peers.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct TrustStatus {
    /// Whether anything follows from it.
    pub mode: Mode,
    /// Each of them.
    pub peers: Vec<TrustedPeer>,
}

/// What is thought of one peer.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct TrustedPeer {
    /// Its domain.
    pub domain: String,
    /// How it came to be a peer.
    pub membership: Membership,
    /// Where it stands.
    pub standing: State,
    /// 0 to 1.
    pub weight: f64,
    /// Good audits since the last wrong one.
    pub clean: u32,
    /// Audits by verdict.
    pub audits: BTreeMap<Verdict, u64>,
    /// Bytes per second that audits got; 0 for not measured yet.
    pub measured_bytes_per_s: f64,
}

impl LocalApi {
    pub(super) fn trust(&self) -> TrustStatus {
        // Before the book is opened: whoever has the holders may be waiting for it.
        let holders = self.holders.list();
        let needed = |domain: &str| holders.get(domain).map_or(0.0, |holder| holder.redirected_bytes_per_s);
        let peer = |reputation: &Reputation, domain: &String, now_ms| {
            let why = reputation.why(domain, needed(domain), now_ms)?;
            let account = reputation.account(domain)?;
            Some(TrustedPeer {
                domain: domain.clone(),
                membership: account.membership,
                standing: why.state,
                weight: why.weight,
                clean: account.clean,
                audits: why.audits,
                measured_bytes_per_s: account.measured_bytes_per_s,
            })
        };
        let peers = self.book.judge(|reputation, now_ms| {
            reputation.domains().filter_map(|domain| peer(reputation, domain, now_ms)).collect()
        });
        TrustStatus { mode: self.book.mode(), peers }
    }

    pub(super) async fn judge(&self, path: &str, request: Request<Incoming>) -> Response<Body> {
        let body = read_body(request.into_body(), MAX_REQUEST_BYTES).await;
        let Some(PeerRequest { domain }) = body.and_then(|body| serde_json::from_slice(&body).ok()) else {
            return text(StatusCode::BAD_REQUEST, "a peer's domain is missing\n");
        };
        let is_known = self.book.judge(|reputation, now_ms| match path {
            TRUST_FORGIVE_PATH => reputation.forgive(&domain, now_ms),
            TRUST_BAN_PATH => reputation.ban(&domain, now_ms),
            _ => true,
        });
        if let Some(auditor) = self.auditor.as_ref().filter(|_| path == TRUST_FORGIVE_PATH) {
            auditor.forgiven(&domain);
        }
        let needed = self.holders.get(&domain).map_or(0.0, |holder| holder.redirected_bytes_per_s);
        let why: Option<Explanation> = self.book.judge(|reputation, now_ms| reputation.why(&domain, needed, now_ms));
        self.holders.review();
        match why.filter(|_| is_known) {
            Some(why) => json(StatusCode::OK, &why),
            None => refuse("unknown_peer", format!("nothing is known of {domain}; p2pcdn peers lists who is known")),
        }
    }
}
