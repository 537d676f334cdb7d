//! The answer to a request that leaves: to whom, and with which headers.

use super::settings::{Affinity, Mode};
use super::{Ask, Gate, Surroundings};
use crate::decide::{ONE_PPM, choose};
use crate::eligibility::Client;
use crate::lookup::RETURN_PREFIX;
use crate::metalink;
use crate::object::{Embedding, Sha256, Sharing};
use crate::redirect::{
    NO_STORE, REFERRER_POLICY, STATUS, VARY, allowed_origin, duplicate, resource_policy, write_digest, write_lifetime,
    write_location,
};
use crate::replica_table::Found;

/// Most places that a download tool is told at once.
const MAX_PLACES: usize = 8;

/// What the answer says of the object.
#[derive(Debug, Clone, Copy)]
pub struct Leaving {
    sha256: Sha256,
    size: u64,
    sharing: Sharing,
    embedding: Embedding,
    fresh_for_s: u32,
}

impl Leaving {
    pub(super) fn of(found: &Found<'_>, now_s: u64) -> Self {
        let fresh_for_s = u64::from(found.fresh_until_s).saturating_sub(now_s);
        Self {
            sha256: *found.sha256,
            size: found.size,
            sharing: found.sharing,
            embedding: found.embedding,
            fresh_for_s: u32::try_from(fresh_for_s).unwrap_or(u32::MAX),
        }
    }

    /// What the answer says of who else than the origin's pages may read or embed the object.
    ///
    /// Where a route of the proxy adds these headers to every answer, a redirect has them twice, and browsers take that for neither (Fetch,
    /// sections 4.9 and 3.7): whoever can had better say them once.
    pub fn shared_with(&self) -> impl Iterator<Item = (&'static str, &'static [u8])> {
        let origin = allowed_origin(self.sharing).map(|value| ("access-control-allow-origin", value));
        origin.into_iter().chain(resource_policy(self.embedding).map(|value| ("cross-origin-resource-policy", value)))
    }
}

impl Gate {
    /// Sends the client to one of the gathered candidates, having counted and drawn on its lease; `false` if it stays after all.
    pub(super) fn send_away(&mut self, ask: &Ask<'_>, leaving: &Leaving, proxy: &mut impl Surroundings) -> bool {
        let Some(chosen) = self.choose_holder(ask.address) else { return false };
        let Some(holder) = self.table.holder_mut(chosen) else { return false };
        if !write_location(&mut self.location, &holder.authority, ask.authority, &leaving.sha256, ask.target) {
            return false;
        }
        let bytes = if ask.is_head { 0 } else { leaving.size };
        holder.lease.draw(bytes);
        if self.settings.mode == Mode::Observe {
            self.counted.would_redirect = self.counted.would_redirect.saturating_add(1);
            return false;
        }
        self.tally.counts.redirected = self.tally.counts.redirected.saturating_add(1);
        self.tally.counts.redirected_bytes = self.tally.counts.redirected_bytes.saturating_add(bytes);
        self.tally.redirected(chosen, 1, bytes);
        self.counted.redirected = self.counted.redirected.saturating_add(1);
        match ask.client {
            Client::Tool { takes_metalink } if self.settings.metalink => {
                self.answer_tool(ask, leaving, takes_metalink && !ask.is_head && self.medium.has_body, proxy);
            }
            Client::Tool { .. } | Client::Browser(_) => self.answer(leaving, &[], proxy),
        }
        true
    }

    fn choose_holder(&mut self, address: &[u8]) -> Option<u16> {
        let (turn, draw_ppm) = match self.settings.affinity {
            Affinity::None => (self.turn, self.draws.ppm()),
            // As good as random from client to client, and the same in every worker.
            Affinity::Client => {
                let hash = self.hash_key.of(b"", address);
                (hash, ((u128::from(hash) * u128::from(ONE_PPM)) >> 64) as u32)
            }
        };
        self.turn = self.turn.wrapping_add(1);
        choose(&self.candidates, self.steering.pure_balancer, turn, draw_ppm)
    }

    fn answer(&self, leaving: &Leaving, more: &[(&str, &[u8])], proxy: &mut impl Surroundings) {
        let mut lifetime = Vec::new();
        let lifetime_s = self.settings.redirect_max_age_s.min(leaving.fresh_for_s);
        let mut headers: Vec<(&str, &[u8])> = Vec::with_capacity(8);
        headers.push(("location", &self.location));
        headers.push(REFERRER_POLICY);
        if lifetime_s == 0 {
            headers.push(("cache-control", NO_STORE));
        } else {
            write_lifetime(&mut lifetime, lifetime_s);
            headers.extend([("cache-control", &lifetime[..]), VARY]);
        }
        headers.extend(leaving.shared_with().map(|(name, value)| -> (&str, &[u8]) { (name, value) }));
        headers.extend_from_slice(more);
        proxy.answer(STATUS, &headers, b"");
    }

    /// Tells a download tool the digest and every place, by headers (RFC 6249) or, if it asks for that, by a document (RFC 5854).
    fn answer_tool(&mut self, ask: &Ask<'_>, leaving: &Leaving, as_document: bool, proxy: &mut impl Surroundings) {
        let mut places = vec![self.location.clone()];
        for candidate in self.candidates.iter().take(MAX_PLACES) {
            let mut place = Vec::new();
            let holder = self.table.holder(candidate.holder);
            let is_written = holder.is_some_and(|holder| {
                write_location(&mut place, &holder.authority, ask.authority, &leaving.sha256, ask.target)
            });
            if is_written && place != self.location {
                places.push(place);
            }
        }
        if as_document {
            places.push(return_url(ask));
            let mut document = Vec::new();
            metalink::write(&mut document, ask.target, leaving.size, &leaving.sha256, places.iter().map(Vec::as_slice));
            let headers = [
                ("content-type", metalink::CONTENT_TYPE),
                ("cache-control", NO_STORE),
                ("vary", b"accept"),
                ("x-content-type-options", b"nosniff"),
            ];
            proxy.answer(200, &headers, &document);
            return;
        }
        let mut digest = Vec::new();
        write_digest(&mut digest, &leaving.sha256);
        // The location itself is no duplicate: a tool would open two connections there.
        let links: Vec<Vec<u8>> =
            places.iter().skip(1).take(self.medium.max_links).map(|place| duplicate(place)).collect();
        let mut headers: Vec<(&str, &[u8])> = vec![("digest", &digest)];
        headers.extend(links.iter().map(|link| ("link", link.as_slice())));
        self.answer(leaving, &headers, proxy);
    }
}

/// Where this very site serves the object without redirecting again. The authority has been written into a location before.
fn return_url(ask: &Ask<'_>) -> Vec<u8> {
    let path = ask.target.trim_start_matches('/');
    [b"https://", ask.authority, RETURN_PREFIX.as_bytes(), path.as_bytes()].concat()
}
