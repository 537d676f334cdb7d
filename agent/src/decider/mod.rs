//! Decides for proxies that have no place for the filter, by the same code: one more worker's [`Gate`], here in the agent.
//!
//! The proxy asks about each request and gets 204 (it stays) or 401 with the headers of the redirect, which stock nginx takes over by
//! `auth_request`. In doubt the answer is 204: no 401, no 403 and no failure that a visitor could see.

mod original;

use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use http::header::{ACCESS_CONTROL_ALLOW_ORIGIN, HOST, VARY};
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use p2pcdn_core::gate::settings::{GateSettings, Mode};
use p2pcdn_core::gate::tally::Tally;
use p2pcdn_core::gate::{Gate, Kept, Medium, Returned, Surroundings};
use p2pcdn_core::sync::{Report, Update};

use crate::clock::now_ms;
use crate::http_server::{Body, empty};
use crate::settings::DecideSettings;

/// GET: what becomes of a request.
pub const DECIDE_PATH: &str = "/v1/decide";
/// GET: the same for a request that the origin has failed to answer.
pub const RESCUE_PATH: &str = "/v1/rescue";

/// Decides, for whoever asks.
pub struct Decider {
    gate: Mutex<Gate>,
    is_off: bool,
    knows_tags: bool,
}

/// A report on its way.
pub struct Sent {
    /// What the agent is told.
    pub report: Report,
    tally: Tally,
    at_ms: u64,
}

impl Decider {
    /// Knows no replicas yet, so that everything stays. `knows_tags` says whether the table has the entity tags that visitors are told;
    /// `seed` is any number that others do not have.
    pub fn new(settings: &DecideSettings, knows_tags: bool, seed: u64) -> Self {
        let GateSettings { mode, .. } = settings.gate;
        let gate = Gate::new(settings.gate.clone(), Medium::SUBREQUEST, settings.max_objects, seed, now_ms());
        Self { gate: Mutex::new(gate), is_off: mode == Mode::Off, knows_tags }
    }

    /// Answers a request for [`DECIDE_PATH`] or [`RESCUE_PATH`].
    pub fn answer<B>(&self, request: &Request<B>) -> Response<Body> {
        let stays = || empty(StatusCode::NO_CONTENT);
        if self.is_off || request.method() != Method::GET || !is_from_proxy(request) {
            return stays();
        }
        let Some(mut head) = original::head(request.headers()) else { return stays() };
        if head.etag.is_some() && !self.knows_tags {
            head.note_condition();
        }
        let mut reply = Reply::default();
        let kept = match request.uri().path() {
            RESCUE_PATH => {
                self.gate().fail(&head, &mut reply);
                Kept::Nothing
            }
            // How many requests are in flight nginx does not say.
            _ => self.gate().decide(&head, 0, &mut reply).1,
        };
        match (reply.redirect, kept) {
            (Some(redirect), _) => redirect,
            (None, Kept::Returned(returned)) => open_to_pages(&returned),
            (None, Kept::Page(path)) => {
                // What nginx makes of it is not told here.
                self.gate().see_page(&path);
                stays()
            }
            (None, _) => stays(),
        }
    }

    /// What there is to tell the agent, if anybody has asked yet.
    pub fn report(&self) -> Option<Sent> {
        let (mut gate, at_ms) = (self.gate(), now_ms());
        gate.refill_leases(at_ms);
        if !gate.has_served {
            return None;
        }
        let tally = gate.take_tally();
        Some(Sent { report: gate.report(&tally, 0, at_ms), tally, at_ms })
    }

    /// Takes in the agent's answer; whether there is more to hear already.
    pub fn apply(&self, sent: Sent, update: Update) -> bool {
        let mut gate = self.gate();
        if let Err(error) = gate.apply(update, sent.at_ms, now_ms()) {
            tracing::error!(%error, "the table cannot be taken in");
            gate.tally.add(&sent.tally);
            return false;
        }
        gate.is_behind()
    }

    fn gate(&self) -> MutexGuard<'_, Gate> {
        self.gate.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The answer to a client that a host sent back, as far as it is known before the origin's: any page may read what carries no
/// credentials. The proxy leaves it out where the origin calls its answer private.
fn open_to_pages(returned: &Returned) -> Response<Body> {
    let mut response = empty(StatusCode::NO_CONTENT);
    if !returned.has_credentials {
        let headers = response.headers_mut();
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
        headers.insert("cross-origin-resource-policy", HeaderValue::from_static("cross-origin"));
        headers.insert(VARY, HeaderValue::from_static("origin, cookie, authorization"));
    }
    response
}

/// A page cannot add headers of its own to what it sends to loopback, and who resolves another name to it says so by that name.
fn is_from_proxy<B>(request: &Request<B>) -> bool {
    let host = request.headers().get(HOST).map(HeaderValue::as_bytes);
    host == Some(b"p2pcdn")
}

#[derive(Default)]
struct Reply {
    redirect: Option<Response<Body>>,
}

impl Surroundings for Reply {
    fn now_ms(&self) -> u64 {
        now_ms()
    }

    fn answer(&mut self, _: u16, headers: &[(&str, &[u8])], _: &[u8]) {
        let mut response = empty(StatusCode::UNAUTHORIZED);
        for (name, value) in headers {
            let name = HeaderName::from_bytes(name.as_bytes());
            let value = HeaderValue::from_maybe_shared(Bytes::copy_from_slice(value));
            // Never so: what the gate writes is plain.
            let (Ok(name), Ok(value)) = (name, value) else { return };
            response.headers_mut().append(name, value);
        }
        self.redirect = Some(response);
    }
}

#[cfg(test)]
mod tests;
