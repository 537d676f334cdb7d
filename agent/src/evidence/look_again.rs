//! What this site does by itself about a host that visitors' browsers find wanting: looks there as a tool would.

use std::sync::Arc;
use std::time::Duration;

use p2pcdn_core::lookup::REPLICA_PREFIX;
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::Evidence;
use super::judge::Finding;
use crate::clock::now_s;
use crate::identity::Connector;
use crate::publish::Board;
use crate::replicate::origin::holders::Copy;

/// Takes findings and looks again at the hosts that they suspect.
pub struct LookAgain {
    /// Whose objects.
    pub origin: String,
    /// Where the findings come from, and what was seen goes to.
    pub evidence: Arc<Evidence>,
    /// Who holds what.
    pub board: Arc<Board>,
    /// The way out.
    pub connector: Arc<Connector>,
}

/// Copies that are fetched from a suspected host.
const COPIES: usize = 5;
/// Larger ones are left out.
const MAX_COPY_BYTES: u64 = 16 << 20;
/// How long fetching one may take.
const TIMEOUT: Duration = Duration::from_secs(20);

impl LookAgain {
    /// Takes findings until cancelled.
    pub async fn run(self, mut findings: mpsc::Receiver<Finding>, cancel: CancellationToken) {
        loop {
            let finding = tokio::select! {
                () = cancel.cancelled() => return,
                Some(finding) = findings.recv() => finding,
            };
            match finding {
                Finding::Suspect { holder, text } => {
                    tracing::warn!(peer = %holder, "looking again at a host: {text}");
                    tokio::select! {
                        () = cancel.cancelled() => return,
                        () = self.look(&holder) => {}
                    }
                }
                Finding::Suspend { holder, text } => {
                    tracing::warn!(peer = %holder, "host seems to tell this site from its visitors: {text}");
                }
                Finding::Resume { holder } => tracing::warn!(peer = %holder, "host may be used again"),
            }
        }
    }

    async fn look(&self, domain: &str) {
        for _ in 0..COPIES {
            let Some(copy) = self.board.sample(domain) else { return };
            if let Some(is_good) = self.fetch(domain, &copy).await {
                self.evidence.audited(domain, is_good);
            }
        }
    }

    /// Whether the bytes are right; `None` if there were none.
    async fn fetch(&self, domain: &str, Copy { path, sha256 }: &Copy) -> Option<bool> {
        let there = self.board.whereabouts(path, now_s())?;
        let limit = usize::try_from(there.size.min(MAX_COPY_BYTES)).ok()?;
        let holder = there
            .holders
            .into_iter()
            .find(|holder| self.board.domain_at(&holder.authority).is_some_and(|found| found == domain))?;
        let url = format!("{REPLICA_PREFIX}{}/{sha256}{path}", self.origin);
        let answer = self.connector.get_web(&holder.authority, &url, limit, TIMEOUT).await.ok()?;
        (answer.status == 200).then(|| <[u8; 32]>::from(Sha256::digest(&answer.body)) == sha256.0)
    }
}
