//! The request path in one piece: from a request's head to its fate, for whoever stands in a site's way.
//!
//! A [`Gate`] is what one worker of a proxy knows and decides by. The filter has one in each VM; the agent has one for proxies that have
//! no place for a filter. It learns from the agent by [`exchange`], and writes its answers in `answer`; [`settings`] is what the
//! operator decides, [`tally`] what is told the agent. Time is asked of whoever runs it, as [`Surroundings`].

mod answer;
mod draws;
pub mod exchange;
mod first_hand;
mod hot;
pub mod reader;
pub mod settings;
pub mod tally;

use crate::decide::{Candidate, Steering, is_full, leaves};
use crate::destination::Destinations;
use crate::eligibility::{Accepted, Client, Refusal, judge, judge_condition, judge_object};
use crate::lookup::{HashKey, canonical_path, returned_path};
use crate::replica_table::{Found, MAX_SET_HOLDERS, ReplicaTable};
use crate::request_head::RequestHead;
use crate::sync::{Have, Op};
pub use answer::Leaving;
use draws::Draws;
use first_hand::FirstHand;
pub use first_hand::Look;
use settings::GateSettings;
use tally::{Counted, Tally};

/// What a gate asks of whoever runs it.
pub trait Surroundings {
    /// Milliseconds since the Unix epoch; 0 if the clock cannot be read, which makes every table void.
    fn now_ms(&self) -> u64;
    /// Answers the current request in the origin's place. No name but `link` is repeated, and that not beyond [`Medium::max_links`].
    fn answer(&mut self, status: u16, headers: &[(&str, &[u8])], body: &[u8]);
}

/// What an answer can be made of, where it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Medium {
    /// Whether it can have a body, so that tools that ask for a Metalink document get one.
    pub has_body: bool,
    /// How many `link` headers it can have.
    pub max_links: usize,
}

impl Medium {
    /// A local reply of Envoy.
    pub const ENVOY: Self = Self { has_body: true, max_links: 8 };
    /// A local reply of nginx's proxy-wasm host: of repeated headers the last one wins.
    pub const NGINX: Self = Self { has_body: true, max_links: 1 };
    /// The answer to a subrequest, of which single headers are taken over.
    pub const SUBREQUEST: Self = Self { has_body: false, max_links: 1 };
}

/// What one worker knows of replicas, and decides by.
#[derive(Debug)]
pub struct Gate {
    settings: GateSettings,
    medium: Medium,
    /// Drawn when it was made, by which the agent tells it from others.
    pub number: u64,
    /// How much to redirect.
    pub steering: Steering,
    /// What is to be told the agent.
    pub tally: Tally,
    /// What operators watch.
    pub counted: Counted,
    /// Whether there has been any request: until then the agent need not be asked for the table.
    pub has_served: bool,
    table: ReplicaTable,
    hash_key: HashKey,
    first_hand: FirstHand,
    draws: Draws,
    turn: u64,
    /// Kept between requests so that neither is allocated anew.
    candidates: Vec<Candidate>,
    location: Vec<u8>,
    have: Have,
    is_behind: bool,
    confirmed_ms: u64,
    ttl_ms: u32,
    lease_share_ppm: u32,
    refilled_ms: u64,
    reported_ms: u64,
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

/// What the response will be treated by, since proxies show no request header any more once the request has gone on.
#[derive(Debug, Default)]
pub enum Kept {
    /// Nothing.
    #[default]
    Nothing,
    /// A request for an object in the table, that the origin answers.
    Watched(Watched),
    /// A request that a host sent back, for an object in the table.
    Returned(Returned),
    /// A request for a page by its path, which the origin answers: [`Gate::see_page`] once it has been seen.
    Page(String),
    /// A browser's request that was redirected, for an object that other sites' pages may read or embed.
    Shared(Leaving),
}

/// A request that a host sent back.
#[derive(Debug)]
pub struct Returned {
    /// See [`crate::sync::ObjectRow::validator`].
    pub validator: u32,
    /// The page's origin.
    pub origin: Option<Vec<u8>>,
    /// Whether the answer may be for one visitor only.
    pub has_credentials: bool,
}

/// An object in the table that the origin is about to answer for.
#[derive(Debug)]
pub struct Watched {
    /// The object's key.
    pub key: u64,
    /// See [`crate::sync::ObjectRow::validator`].
    pub validator: u32,
    /// What the answer tells first-hand of whether the table is right.
    pub look: Look,
    client: Client,
    is_head: bool,
    authority: Vec<u8>,
    target: String,
    address: Vec<u8>,
}

/// What a redirect has to know of its request.
#[derive(Debug, Clone, Copy)]
struct Ask<'a> {
    client: Client,
    /// Whether no body will be sent.
    is_head: bool,
    /// Authority as the client wrote it.
    authority: &'a [u8],
    /// Canonical target.
    target: &'a str,
    /// The client's address; empty if the proxy does not say.
    address: &'a [u8],
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

    fn ask(&self) -> Ask<'_> {
        let Self { client, is_head, authority, target, address, .. } = self;
        Ask { client: *client, is_head: *is_head, authority, target, address }
    }
}

impl Gate {
    /// Knows no replicas yet, so that everything stays. `max_objects` bounds its table; `seed` is any number that others do not have.
    pub fn new(settings: GateSettings, medium: Medium, max_objects: usize, seed: u64, now_ms: u64) -> Self {
        let mut draws = Draws::new(seed);
        Self {
            number: draws.number(),
            steering: Steering::default(),
            tally: Tally::default(),
            counted: Counted::default(),
            has_served: false,
            table: ReplicaTable::new(max_objects),
            hash_key: HashKey::default(),
            first_hand: FirstHand::new(settings.stay_local_s),
            draws,
            turn: 0,
            candidates: Vec::with_capacity(MAX_SET_HOLDERS),
            location: Vec::new(),
            have: Have::default(),
            is_behind: false,
            confirmed_ms: 0,
            ttl_ms: 0,
            lease_share_ppm: 0,
            refilled_ms: now_ms,
            reported_ms: now_ms,
            settings,
            medium,
        }
    }

    /// What the operator has decided.
    pub fn settings(&self) -> &GateSettings {
        &self.settings
    }

    /// The table.
    pub fn table(&self) -> &ReplicaTable {
        &self.table
    }

    /// What stands in the table for this entity tag.
    pub fn validator(&self, etag: &[u8]) -> u32 {
        self.hash_key.validator(etag)
    }

    /// Says what becomes of a request, and answers it if it is redirected. `in_flight` counts the requests of the whole proxy.
    pub fn decide(&mut self, head: &RequestHead<'_>, in_flight: u64, proxy: &mut impl Surroundings) -> (Verdict, Kept) {
        self.count_request();
        if let Some(target) = returned_path(head.path) {
            return (Verdict::Returned, self.note_return(head, target));
        }
        let is_full = is_full(in_flight, self.settings.in_flight_limit);
        let accepted = judge(head, &self.settings.rules, is_full);
        if accepted == Err(Refusal::Reload) {
            self.refuse(Refusal::Reload);
            return (Verdict::Local, if head.is_page() { page(head.path) } else { self.watch(head) });
        }
        accepted.and_then(|accepted| self.consider(head, accepted, is_full, proxy)).unwrap_or_else(|refusal| {
            self.refuse(refusal);
            (Verdict::Local, if head.is_page() { page(head.path) } else { Kept::Nothing })
        })
    }

    /// The origin failed to answer a request that nothing was kept of: redirects the client if it may.
    pub fn fail(&mut self, head: &RequestHead<'_>, proxy: &mut impl Surroundings) -> Verdict {
        match self.watch(head) {
            Kept::Watched(watched) if self.rescue(&watched, proxy).is_some() => Verdict::Redirected,
            _ => Verdict::Local,
        }
    }

    /// The origin failed to answer: redirects the client if it may; what is then to be kept of the redirect.
    pub fn rescue(&mut self, watched: &Watched, proxy: &mut impl Surroundings) -> Option<Kept> {
        self.tally.counts.origin_failures = self.tally.counts.origin_failures.saturating_add(1);
        self.counted.origin_failures = self.counted.origin_failures.saturating_add(1);
        if !self.settings.rescue {
            return None;
        }
        let found = self.table.find(watched.key)?;
        let now_ms = proxy.now_ms();
        let now_s = now_ms / 1000;
        let usable_until_s = u64::from(found.fresh_until_s).saturating_add(found.stale_if_error_s.into());
        let is_usable = self.is_current(now_ms) && usable_until_s > now_s && !self.steering.killed;
        if !is_usable {
            return None;
        }
        gather(&mut self.candidates, &self.table, &found, watched.client);
        let leaving = Leaving::of(&found, now_s);
        if !self.send_away(&watched.ask(), &leaving, proxy) {
            return None;
        }
        self.tally.counts.rescued = self.tally.counts.rescued.saturating_add(1);
        self.counted.rescued = self.counted.rescued.saturating_add(1);
        Some(kept_of(watched.client, leaving))
    }

    /// A visitor has been shown a page, whose policy matters from now on; what leads on or fails is none.
    pub fn see_page(&mut self, path: &str) {
        self.tally.page(path);
    }

    /// The origin was seen to have another version: the table does not have the object any more, and the agent will hear.
    pub fn contradict(&mut self, key: u64) {
        self.tally.contradicted.note(key);
        // Removing fails for no key.
        let _ = self.table.apply(vec![Op::Remove { key }]);
    }

    fn note_return(&mut self, head: &RequestHead<'_>, target: &[u8]) -> Kept {
        let key = self.hash_key.of(head.authority, target);
        let Some(found) = self.table.find(key) else { return Kept::Nothing };
        let validator = found.validator;
        self.tally.returned.note(key);
        self.counted.returned = self.counted.returned.saturating_add(1);
        let origin = head.origin.map(<[u8]>::to_vec);
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
        proxy: &mut impl Surroundings,
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
        let now_ms = proxy.now_ms();
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

        let leaves = leaves(&self.steering, is_full, self.draws.ppm());
        // A look is for a request that stays.
        let look = if leaves && is_full { Look::Nothing } else { self.first_hand.look(key, head.is_plain(), now_s) };
        if leaves && look == Look::Nothing {
            gather(&mut self.candidates, &self.table, &found, client);
            let leaving = Leaving::of(&found, now_s);
            if self.send_away(&ask, &leaving, proxy) {
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
fn kept_of(client: Client, leaving: Leaving) -> Kept {
    let is_shared = matches!(client, Client::Browser(_)) && leaving.shared_with().next().is_some();
    if is_shared { Kept::Shared(leaving) } else { Kept::Nothing }
}

/// Whoever of the object's holders could be sent this client now.
fn gather(candidates: &mut Vec<Candidate>, table: &ReplicaTable, found: &Found<'_>, client: Client) {
    candidates.clear();
    candidates.extend(found.holders.iter().filter_map(|id| {
        let holder = table.holder(*id)?;
        let can_take = holder.weight > 0 && holder.lease.is_open() && !is_blocked(holder.blocked, client);
        can_take.then_some(Candidate { holder: *id, weight: holder.weight, newcomer: holder.newcomer })
    }));
}

fn is_blocked(blocked: Destinations, client: Client) -> bool {
    match client {
        Client::Browser(destination) => blocked.contains(destination),
        Client::Tool { .. } => false,
    }
}
