//! A request from its headers to its verdict.

use std::cell::RefCell;
use std::rc::Rc;

use p2pcdn_core::decide::{Candidate, is_full, leaves};
use p2pcdn_core::destination::Destinations;
use p2pcdn_core::eligibility::{Accepted, Client, Refusal, judge, judge_condition, judge_object};
use p2pcdn_core::lookup::{canonical_path, returned_path};
use p2pcdn_core::replica_table::{Found, ReplicaTable};
use p2pcdn_core::request_head::RequestHead;

use crate::first_hand::Look;
use crate::host::{Host, now_ms, pairs};
use crate::redirect::Leaving;
use crate::root::Vm;

/// One request and, later, its response.
#[derive(Debug)]
pub struct Request<H: Host> {
    /// `None` while the filter is off: then nothing is looked at.
    pub(crate) vm: Option<Rc<RefCell<Vm<H>>>>,
    pub(crate) verdict: Verdict,
    pub(crate) kept: Kept,
    is_counted: bool,
}

/// What the response will be treated by: Envoy shows no request header any more once the request has gone on.
#[derive(Debug, Default)]
pub(crate) enum Kept {
    /// Nothing.
    #[default]
    Nothing,
    /// A request for an object in the table, that the origin answers.
    Watched(Watched),
    /// A request that a host sent back, for an object in the table.
    Returned(Returned),
    /// A request for a page by its path, which the origin answers.
    Page(String),
    /// A browser's request that was redirected, for an object that other sites' pages may read or embed.
    Shared(Leaving),
}

/// A request that a host sent back.
#[derive(Debug)]
pub(crate) struct Returned {
    /// See [`p2pcdn_core::sync::ObjectRow::validator`].
    pub(crate) validator: u32,
    /// The page's origin.
    pub(crate) origin: Option<Vec<u8>>,
    /// Whether the answer may be for one visitor only.
    pub(crate) has_credentials: bool,
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

/// An object in the table that the origin is about to answer for.
#[derive(Debug)]
pub(crate) struct Watched {
    /// The object's key.
    pub(crate) key: u64,
    /// See [`p2pcdn_core::sync::ObjectRow::validator`].
    pub(crate) validator: u32,
    /// What the answer tells first-hand of whether the table is right.
    pub(crate) look: Look,
    /// Who asked for what.
    pub(crate) client: Client,
    pub(crate) is_head: bool,
    pub(crate) authority: Vec<u8>,
    pub(crate) target: String,
    pub(crate) address: Vec<u8>,
}

impl<'a> Ask<'a> {
    fn new(head: &RequestHead<'a>, accepted: Accepted<'a>) -> Self {
        Self {
            client: accepted.client,
            is_head: head.method == b"HEAD",
            authority: head.authority,
            target: accepted.target,
            address: head.client(),
        }
    }
}

impl Watched {
    fn new(key: u64, validator: u32, look: Look, ask: &Ask<'_>) -> Self {
        Self {
            key,
            validator,
            look,
            client: ask.client,
            is_head: ask.is_head,
            authority: ask.authority.to_vec(),
            target: ask.target.to_owned(),
            address: ask.address.to_vec(),
        }
    }

    /// The request as it was.
    pub(crate) fn ask(&self) -> Ask<'_> {
        let Self { client, is_head, authority, target, address, .. } = self;
        Ask { client: *client, is_head: *is_head, authority, target, address }
    }
}

/// What a redirect has to know of its request.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ask<'a> {
    /// Who asks.
    pub(crate) client: Client,
    /// Whether no body will be sent.
    pub(crate) is_head: bool,
    /// Authority as the client wrote it.
    pub(crate) authority: &'a [u8],
    /// Canonical target.
    pub(crate) target: &'a str,
    /// The client's address; empty if the proxy does not say.
    pub(crate) address: &'a [u8],
}

impl<H: Host> Request<H> {
    /// A request of which nothing is known yet.
    pub fn new(vm: Option<Rc<RefCell<Vm<H>>>>) -> Self {
        Self { vm, verdict: Verdict::Local, kept: Kept::Nothing, is_counted: false }
    }

    /// Takes in the request's headers, and answers it if it is redirected.
    ///
    /// `is_whole` says that no body follows.
    pub fn head(&mut self, is_whole: bool) -> Verdict {
        if let Some(mut vm) = self.vm.as_ref().and_then(|vm| vm.try_borrow_mut().ok()) {
            if !self.is_counted {
                self.is_counted = true;
                vm.in_flight = vm.in_flight.saturating_add(1);
            }
            let headers = vm.host.request_headers();
            (self.verdict, self.kept) = vm.decide(&headers, is_whole);
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
    fn decide(&mut self, headers: &[u8], is_whole: bool) -> (Verdict, Kept) {
        #[cfg(all(feature = "fault-injection", target_arch = "wasm32"))]
        if pairs(headers).any(|header| header == (b"x-p2pcdn-crash", b"1")) {
            crate::host::wasm::trap();
        }
        let mut head = RequestHead::default();
        pairs(headers).for_each(|(name, value)| head.observe(name, value));
        if !is_whole {
            head.note_body();
        }
        self.count_request();
        if let Some(target) = returned_path(head.path) {
            return (Verdict::Returned, self.note_return(&head, target, headers));
        }
        let is_full = is_full(self.in_flight_everywhere(), self.settings.in_flight_limit);
        let accepted = judge(&head, &self.settings.rules, is_full);
        if accepted == Err(Refusal::Reload) {
            self.refuse(Refusal::Reload);
            return (Verdict::Local, if head.is_page() { page(head.path) } else { self.watch(&head) });
        }
        accepted.and_then(|accepted| self.consider(&head, accepted, is_full)).unwrap_or_else(|refusal| {
            self.refuse(refusal);
            (Verdict::Local, if head.is_page() { page(head.path) } else { Kept::Nothing })
        })
    }

    fn note_return(&mut self, head: &RequestHead<'_>, target: &[u8], headers: &[u8]) -> Kept {
        let key = self.hash_key.of(head.authority, target);
        let Some(found) = self.table.find(key) else { return Kept::Nothing };
        let validator = found.validator;
        self.tally.returned.note(key);
        self.counted.returned = self.counted.returned.saturating_add(1);
        let origin = pairs(headers).find(|(name, _)| *name == b"origin").map(|(_, value)| value.to_vec());
        Kept::Returned(Returned { validator, origin, has_credentials: head.has_credentials() })
    }

    /// A visitor who wants the origin's own word gets a replica only if the origin has none to give.
    fn watch(&mut self, head: &RequestHead<'_>) -> Kept {
        let Ok(accepted) = judge(head, &self.settings.rules, true) else { return Kept::Nothing };
        let ask = Ask::new(head, accepted);
        let key = self.hash_key.of(head.authority, accepted.target.as_bytes());
        match self.table.find(key) {
            Some(found) if self.judge_found(&accepted, &found).is_ok() => {
                Kept::Watched(Watched::new(key, found.validator, Look::Nothing, &ask))
            }
            _ => Kept::Nothing,
        }
    }

    fn judge_found(&self, accepted: &Accepted<'_>, found: &Found<'_>) -> Result<(), Refusal> {
        judge_object(accepted, found.class, found.size, found.sharing, &self.settings.rules)
    }

    /// Looks the object up and, if the request leaves, answers it.
    fn consider(
        &mut self,
        head: &RequestHead<'_>,
        accepted: Accepted<'_>,
        is_full: bool,
    ) -> Result<(Verdict, Kept), Refusal> {
        if !self.has_table() {
            return Err(Refusal::Unknown);
        }
        let ask = Ask::new(head, accepted);
        let Ask { client, target, is_head, .. } = ask;
        let key = self.hash_key.of(head.authority, target.as_bytes());
        self.tally.hot.count(key, 1, || ());
        let Some(found) = self.table.find(key) else {
            self.tally.wanted.count(key, 1, || target.to_owned());
            return Err(Refusal::Unknown);
        };
        self.judge_found(&accepted, &found)?;
        let validator = found.validator;
        let stays = |look| (Verdict::Local, Kept::Watched(Watched::new(key, validator, look, &ask)));
        if let Err(refusal) = judge_condition(head.etag, validator, |etag| self.hash_key.validator(etag)) {
            self.refuse(refusal);
            return Ok(stays(Look::Nothing));
        }
        let now_ms = now_ms(&self.host);
        let now_s = now_ms / 1000;
        if !self.is_current(now_ms) || u64::from(found.fresh_until_s) <= now_s {
            self.refuse(Refusal::Stale);
            return Ok(stays(Look::Nothing));
        }
        if !found.holders.iter().any(|id| self.table.holder(*id).is_some_and(|h| !is_blocked(h.blocked, client))) {
            return Err(Refusal::Policy);
        }
        let bytes = if is_head { 0 } else { found.size };
        self.tally.counts.eligible = self.tally.counts.eligible.saturating_add(1);
        self.tally.counts.eligible_bytes = self.tally.counts.eligible_bytes.saturating_add(bytes);
        self.counted.eligible = self.counted.eligible.saturating_add(1);

        let leaves = leaves(&self.word.steering, is_full, self.draws.ppm());
        // A look is for a request that stays.
        let look = if leaves && is_full { Look::Nothing } else { self.first_hand.look(key, head.is_plain(), now_s) };
        if leaves && look == Look::Nothing {
            gather(&mut self.candidates, &self.table, &found, client);
            let leaving = Leaving::of(&found, now_s);
            if self.send_away(&ask, &leaving) {
                return Ok((Verdict::Redirected, kept_of(client, leaving)));
            }
        }
        Ok(stays(look))
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

/// A page that a visitor may be about to see.
fn page(target: &[u8]) -> Kept {
    // Queries may name people.
    let path = target.split(|b| *b == b'?').next().unwrap_or_default();
    canonical_path(path).map_or(Kept::Nothing, |path| Kept::Page(path.to_owned()))
}

/// What a redirect's own headers will be looked at by: only those of shared objects are.
pub(crate) fn kept_of(client: Client, leaving: Leaving) -> Kept {
    if matches!(client, Client::Browser(_)) && leaving.is_shared() { Kept::Shared(leaving) } else { Kept::Nothing }
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

fn is_blocked(blocked: Destinations, client: Client) -> bool {
    match client {
        Client::Browser(destination) => blocked.contains(destination),
        Client::Tool { .. } => false,
    }
}
