//! What the operator decides about hosting while the agent runs: what is denied, and whether this host leaves.

use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use serde::{Deserialize, Serialize};

use super::{DENY_ADD_PATH, LocalApi, refuse};
use crate::clock::now_s;
use crate::http_server::{Body, json, read_body, text};
use crate::replicate::host::deny::{Denial, DenyError};
use crate::replicate::host::terms::Departure;

/// Body of a request that changes the deny list.
#[derive(Debug, Serialize, Deserialize)]
pub struct DenyRequest {
    /// What to deny, or no longer.
    pub denials: Vec<Denial>,
}

/// What became of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Denied {
    /// Entries that were added or removed; those that were as asked for before are not counted.
    pub changed: usize,
    /// Replicas that are denied, and so no longer served, but still to be removed.
    pub replicas: usize,
    /// Whether a restart now would forget it, since the disk takes nothing; it is written as soon as it does.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unsaved: bool,
}

/// Body of a request to leave or to come back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaveRequest {
    /// Whether this host leaves.
    pub leave: bool,
}

/// Longest list in bytes: every entry that the deny list can hold, if most are digests.
const MAX_DENY_BYTES: usize = 8 << 20;
const MAX_LEAVE_BYTES: usize = 1024;

impl LocalApi {
    pub(super) async fn deny(&self, path: &str, request: Request<Incoming>) -> Response<Body> {
        let body = read_body(request.into_body(), MAX_DENY_BYTES).await;
        let Some(DenyRequest { denials }) = body.and_then(|body| serde_json::from_slice(&body).ok()) else {
            return text(StatusCode::BAD_REQUEST, "not a list of domains, paths and digests\n");
        };
        let deny = &self.terms.deny;
        let is_added = path == DENY_ADD_PATH;
        match if is_added { deny.add(&denials, now_s()) } else { deny.remove(&denials) } {
            Ok(changed) => {
                tracing::warn!(
                    changed,
                    "deny list {} by the operator",
                    if is_added { "extended" } else { "shortened" }
                );
                let replicas = self.withdrawer.denied();
                self.withdrawer.hurry();
                self.puller.reconsider().await;
                json(StatusCode::OK, &Denied { changed, replicas, unsaved: !deny.is_saved() })
            }
            Err(error @ DenyError::Full) => refuse("full", error.to_string()),
            Err(error @ DenyError::InSettings(_)) => refuse("in_settings", error.to_string()),
        }
    }

    pub(super) async fn leave(&self, request: Request<Incoming>) -> Response<Body> {
        let body = read_body(request.into_body(), MAX_LEAVE_BYTES).await;
        let Some(LeaveRequest { leave }) = body.and_then(|body| serde_json::from_slice(&body).ok()) else {
            return text(StatusCode::BAD_REQUEST, "neither to leave nor to stay\n");
        };
        if leave != self.terms.is_leaving() {
            self.terms.set_leaving(leave, now_s());
            tracing::warn!("the operator has this host {}", if leave { "leave" } else { "stay" });
            self.withdrawer.hurry();
            self.puller.reconsider().await;
        }
        json(StatusCode::OK, &self.departure())
    }

    pub(super) fn departure(&self) -> Departure {
        self.withdrawer.departure()
    }
}
