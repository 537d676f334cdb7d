//! A request from its headers to its verdict.

use std::cell::RefCell;
use std::rc::Rc;

use p2pcdn_core::decide::{Candidate, is_full, leaves};
use p2pcdn_core::eligibility::{Accepted, Client, Refusal, judge, judge_condition, judge_object};
use p2pcdn_core::lookup::{canonical_path, returned_path};
use p2pcdn_core::replica_table::{Found, ReplicaTable};
use p2pcdn_core::request_head::RequestHead;

use crate::host::{Host, now_ms, pairs};
use crate::redirect::Leaving;
use crate::root::Vm;

/// One request and, later, its response.
#[derive(Debug)]
pub struct Request<H: Host> {
    /// `None` while the filter is off: then nothing is looked at.
    pub(crate) vm: Option<Rc<RefCell<Vm<H>>>>,
    pub(crate) verdict: Verdict,
    is_counted: bool,
}

/// What becomes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It continues to the origin.
    Local,
    /// It continues to the origin, whose answer is compared with what the table says.
    Watched(Watched),
    /// It continues to the origin, which a host sent the client back to.
    Returned {
        /// Whether the object is in the table, and so public.
        is_known: bool,
    },
    /// It has been answered.
    Redirected,
}

/// An object in the table that the origin is about to answer for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Watched {
    /// The object's key.
    pub key: u64,
    /// See [`p2pcdn_core::sync::ObjectRow::validator`].
    pub validator: u32,
    /// Whether the answer tells first-hand if the table is right: it is the first in its period, and a stranger's.
    pub is_first_hand: bool,
}

impl<H: Host> Request<H> {
    /// A request of which nothing is known yet.
    pub fn new(vm: Option<Rc<RefCell<Vm<H>>>>) -> Self {
        Self { vm, verdict: Verdict::Local, is_counted: false }
    }

    /// Takes in the request's headers, and answers it if it is redirected.
    pub fn head(&mut self) -> Verdict {
        if let Some(mut vm) = self.vm.as_ref().and_then(|vm| vm.try_borrow_mut().ok()) {
            if !self.is_counted {
                self.is_counted = true;
                vm.in_flight = vm.in_flight.saturating_add(1);
            }
            let headers = vm.host.request_headers();
            self.verdict = vm.decide(&headers);
        }
        self.verdict
    }
}

impl<H: Host> Drop for Request<H> {
    fn drop(&mut self) {
        if self.is_counted
            && let Some(mut vm) = self.vm.as_ref().and_then(|vm| vm.try_borrow_mut().ok())
        {
            vm.in_flight = vm.in_flight.saturating_sub(1);
        }
    }
}

impl<H: Host> Vm<H> {
    fn decide(&mut self, headers: &[u8]) -> Verdict {
        #[cfg(all(feature = "fault-injection", target_arch = "wasm32"))]
        if pairs(headers).any(|header| header == (b"x-p2pcdn-crash", b"1")) {
            crate::host::wasm::trap();
        }
        let mut head = RequestHead::default();
        pairs(headers).for_each(|(name, value)| head.observe(name, value));
        self.count_request();
        if let Some(target) = returned_path(head.path) {
            return self.note_return(head.authority, target);
        }
        let is_full = is_full(self.in_flight_everywhere(), self.settings.in_flight_limit);
        let accepted = judge(&head, &self.settings.rules, is_full);
        accepted.and_then(|accepted| self.consider(&head, accepted, is_full)).unwrap_or_else(|refusal| {
            if head.is_page() {
                self.note_page(head.path);
            }
            self.refuse(refusal);
            Verdict::Local
        })
    }

    fn note_return(&mut self, authority: &[u8], target: &[u8]) -> Verdict {
        let key = self.hash_key.of(authority, target);
        let is_known = self.table.find(key).is_some();
        if is_known {
            self.tally.returned.note(key);
            self.counted.returned = self.counted.returned.saturating_add(1);
        }
        Verdict::Returned { is_known }
    }

    fn note_page(&mut self, target: &[u8]) {
        // Queries may name people.
        let path = target.split(|b| *b == b'?').next().unwrap_or_default();
        if let Ok(path) = canonical_path(path) {
            self.tally.page(path);
        }
    }

    /// Looks the object up and, if the request leaves, answers it.
    fn consider(&mut self, head: &RequestHead<'_>, accepted: Accepted<'_>, is_full: bool) -> Result<Verdict, Refusal> {
        if !self.has_table() {
            return Err(Refusal::Unknown);
        }
        let Accepted { client, target } = accepted;
        let key = self.hash_key.of(head.authority, target.as_bytes());
        self.tally.hot.count(key, 1, || ());
        let Some(found) = self.table.find(key) else {
            self.tally.wanted.count(key, 1, || target.to_owned());
            return Err(Refusal::Unknown);
        };
        judge_object(client, found.class, found.size, &self.settings.rules)?;
        judge_condition(head.etag, found.validator, |etag| self.hash_key.validator(etag))?;
        let watched = |is_first_hand| Verdict::Watched(Watched { key, validator: found.validator, is_first_hand });
        let now_ms = now_ms(&self.host);
        let now_s = now_ms / 1000;
        if !self.is_current(now_ms) || u64::from(found.fresh_until_s) <= now_s {
            let verdict = watched(false);
            self.refuse(Refusal::Stale);
            return Ok(verdict);
        }
        if !found.holders.iter().any(|id| self.table.holder(*id).is_some_and(|h| !is_blocked(h.blocked, client))) {
            return Err(Refusal::Policy);
        }
        let bytes = if head.method == b"HEAD" { 0 } else { found.size };
        self.tally.counts.eligible = self.tally.counts.eligible.saturating_add(1);
        self.tally.counts.eligible_bytes = self.tally.counts.eligible_bytes.saturating_add(bytes);
        self.counted.eligible = self.counted.eligible.saturating_add(1);

        let is_seen = self.first_hand.seen(key, now_s);
        let stays = watched(!is_seen && head.is_plain());
        if !leaves(&self.word.steering, is_full, self.draws.ppm()) || !(is_seen || is_full) {
            return Ok(stays);
        }
        gather(&mut self.candidates, &self.table, &found, client);
        let leaving = Leaving::of(&found, now_s);
        Ok(if self.send_away(head, accepted, &leaving) { Verdict::Redirected } else { stays })
    }

    fn refuse(&mut self, refusal: Refusal) {
        self.counted.refused.count(refusal, 1);
        self.tally.refused.count(refusal, 1);
    }

    fn count_request(&mut self) {
        self.has_served = true;
        self.tally.counts.requests = self.tally.counts.requests.saturating_add(1);
        self.counted.requests = self.counted.requests.saturating_add(1);
    }
}

/// Whoever of the object's holders could be sent this client now.
pub(crate) fn gather(candidates: &mut Vec<Candidate>, table: &ReplicaTable, found: &Found<'_>, client: Client) {
    candidates.clear();
    candidates.extend(found.holders.iter().filter_map(|id| {
        let holder = table.holder(*id)?;
        let can_take = holder.weight > 0 && holder.lease.is_open() && !is_blocked(holder.blocked, client);
        can_take.then_some(Candidate { holder: *id, weight: holder.weight })
    }));
}

fn is_blocked(blocked: p2pcdn_core::destination::Destinations, client: Client) -> bool {
    match client {
        Client::Browser(destination) => blocked.contains(destination),
        Client::Tool { .. } => false,
    }
}
