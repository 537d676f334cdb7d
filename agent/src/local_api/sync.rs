//! The exchange with the filter: its counts go into the load, the table's changes come back.

use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use p2pcdn_core::sync::{MAX_FRAME_BYTES, MAX_RETURNED, Report, Update, decode, encode};

use super::LocalApi;
use crate::clock::monotonic_ms;
use crate::http_server::{Body, read_body, text, with_body};

/// Without a word from the agent for so long, the filter redirects nothing.
const TABLE_TTL_MS: u32 = 3_000;

impl LocalApi {
    pub(super) async fn sync(&self, request: Request<Incoming>) -> Response<Body> {
        let Some(body) = read_body(request.into_body(), MAX_FRAME_BYTES).await else {
            self.metrics.sync_errors.inc();
            return text(StatusCode::BAD_REQUEST, "the report is too long or broke off\n");
        };
        let report: Report = match decode(&body) {
            Ok(report) => report,
            Err(error) => {
                self.metrics.sync_errors.inc();
                return text(StatusCode::BAD_REQUEST, format!("{error}\n"));
            }
        };
        match encode(&self.update(&report)) {
            Ok(frame) => {
                self.metrics.syncs.inc();
                with_body(StatusCode::OK, "application/octet-stream", frame.into())
            }
            Err(error) => {
                tracing::error!(%error, "an update cannot be sent");
                text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n"))
            }
        }
    }

    pub(super) fn update(&self, report: &Report) -> Update {
        let now_ms = monotonic_ms();
        // Numbers of another run's table mean nothing here.
        let is_ours = report.have.session == self.board.session();
        for redirected in report.redirected_to.iter().filter(|_| is_ours) {
            if let Some(domain) = self.board.domain_of(redirected.holder) {
                self.holders.redirected(&domain, redirected.requests, redirected.bytes, now_ms);
                if let Some(auditor) = &self.auditor {
                    auditor.redirected(&domain, redirected.requests, redirected.bytes);
                }
                self.metrics.redirected(&domain, redirected.requests, redirected.bytes);
            }
        }
        self.metrics.returned.inc_by(report.returned.len() as u64);
        for key in report.returned.iter().take(MAX_RETURNED).filter(|_| is_ours) {
            if let Some((copy, holders)) = self.board.by_key(*key) {
                holders.iter().for_each(|domain| self.holders.doubted(domain, copy.clone(), now_ms));
                if let Some(auditor) = &self.auditor {
                    auditor.hinted(&copy, &holders);
                }
            }
        }
        self.policy.visited(&report.pages);
        self.metrics.refused(&report.refused);
        if let Some(catalogue) = &self.catalogue {
            catalogue.observe(report, is_ours);
        }
        let mut load = self.load();
        load.observe(report, now_ms);
        self.holders.needed(load.is_near_target(now_ms), now_ms);
        let changes = self.board.changes_since(report.have);
        Update {
            now: changes.now,
            clear: changes.clear,
            hash_key: self.board.hash_key(),
            ttl_ms: TABLE_TTL_MS,
            steering: load.steering(now_ms),
            lease_share_ppm: load.share_ppm(report.vm, now_ms),
            more: changes.more,
            ops: changes.ops,
        }
    }
}
