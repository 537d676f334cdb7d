//! A request from its headers to its verdict.

use std::cell::RefCell;
use std::rc::Rc;

use p2pcdn_core::decide::{Candidate, choose, is_full, leaves};
use p2pcdn_core::eligibility::{Client, Refusal, RequestHead};
use p2pcdn_core::lookup::returned_path;
use p2pcdn_core::redirect::{HEADERS, STATUS, write_location};

use crate::host::{Host, now_ms, pairs};
use crate::root::Vm;
use crate::settings::Mode;

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
    /// It continues to the origin, which a host sent the client back to.
    Returned,
    /// It has been answered.
    Redirected,
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
        if let Some(path) = returned_path(head.path) {
            return self.note_return(head.authority, path);
        }
        match head.judge() {
            Err(refusal) => self.host.add(self.metrics.refused(refusal), 1),
            Ok((_, path)) if self.settings.exclude.iter().any(|prefix| path.starts_with(&**prefix)) => {
                self.host.add(self.metrics.excluded, 1);
            }
            Ok((client, path)) => {
                if self.choose_replica(&head, client, path).is_some() {
                    return self.redirect();
                }
            }
        }
        Verdict::Local
    }

    fn note_return(&mut self, authority: &[u8], path: &[u8]) -> Verdict {
        let key = self.hash_key.of(authority, path);
        if self.table.find(key).is_none() {
            return Verdict::Local;
        }
        self.tally.returned(key);
        self.host.add(self.metrics.returned, 1);
        Verdict::Returned
    }

    /// Writes the location if the request leaves, having counted and drawn on the holder's lease; `None` if it stays.
    fn choose_replica(&mut self, head: &RequestHead<'_>, client: Client, path: &str) -> Option<()> {
        let key = self.hash_key.of(head.authority, path.as_bytes());
        if self.has_table() {
            self.tally.hot.count(key, 1);
        }
        let found = self.table.find(key)?;
        let now_ms = now_ms(&self.host);
        let now_s = now_ms / 1000;
        let is_fresh = self.is_current(now_ms) && u64::from(found.fresh_until_s) > now_s;
        if !is_fresh || found.size < self.settings.min_bytes {
            return None;
        }
        if !client.takes(found.class) || !self.settings.classes.contains(&found.class) {
            self.host.add(self.metrics.refused(Refusal::Class), 1);
            return None;
        }
        let bytes = if head.method == b"HEAD" { 0 } else { found.size };
        self.tally.counts.eligible = self.tally.counts.eligible.saturating_add(1);
        self.tally.counts.eligible_bytes = self.tally.counts.eligible_bytes.saturating_add(bytes);
        self.host.add(self.metrics.eligible, 1);

        let steering = self.word.steering;
        let is_full = is_full(self.in_flight_everywhere(), self.settings.in_flight_limit);
        let is_seen = self.first_hand.seen(key, now_s);
        if !leaves(&steering, is_full, self.draws.ppm()) || !(is_seen || is_full) {
            return None;
        }
        let table = &self.table;
        self.candidates.clear();
        self.candidates.extend(found.holders.iter().filter_map(|id| {
            let holder = table.holder(*id)?;
            let can_take = holder.weight > 0 && holder.lease.is_open();
            can_take.then_some(Candidate { holder: *id, weight: holder.weight })
        }));
        let chosen = choose(&self.candidates, steering.pure_balancer, self.turn, self.draws.ppm())?;
        self.turn = self.turn.wrapping_add(1);
        let name = &table.holder(chosen)?.authority;
        if !write_location(&mut self.location, name, head.authority, found.sha256, path) {
            return None;
        }
        self.table.holder_mut(chosen)?.lease.draw(bytes);
        if self.settings.mode == Mode::On {
            self.tally.counts.redirected = self.tally.counts.redirected.saturating_add(1);
            self.tally.counts.redirected_bytes = self.tally.counts.redirected_bytes.saturating_add(bytes);
            self.tally.redirected(chosen, 1, bytes);
        }
        Some(())
    }

    fn redirect(&self) -> Verdict {
        if self.settings.mode == Mode::Observe {
            self.host.add(self.metrics.would_redirect, 1);
            return Verdict::Local;
        }
        let [cache, referrer] = HEADERS;
        self.host.respond(STATUS, &[("location", &self.location), cache, referrer]);
        self.host.add(self.metrics.redirected, 1);
        Verdict::Redirected
    }

    fn count_request(&mut self) {
        self.has_served = true;
        self.tally.counts.requests = self.tally.counts.requests.saturating_add(1);
        self.host.add(self.metrics.requests, 1);
    }
}
