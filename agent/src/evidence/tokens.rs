//! What a browser shows for having been sent to look, so that nobody chooses which host to report on. Pure: time is an argument.

use p2pcdn_core::lookup::HashKey;
use p2pcdn_core::object::Sha256;

use super::judge::limits::Seen;
use super::meter::Meter;

/// One object at one host, as somebody in one network was sent to look at it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Look<'a> {
    /// The host's domain.
    pub(super) holder: &'a str,
    /// Path of the object, with its query.
    pub(super) path: &'a str,
    /// The version.
    pub(super) sha256: Sha256,
    /// Keyed hash of the network.
    pub(super) network: u64,
}

/// Gives tokens, and takes each back once.
///
/// A token is a keyed hash of the look and of the time, so nothing is kept of it until it comes back. Of those that do, as many are
/// remembered as come within [`SLOT_MS`]; see [`Seen`].
pub(super) struct Tokens {
    key: HashKey,
    given: Meter,
    spent: Seen,
}

/// Why a token is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refused {
    /// It was not given for this look, or too long ago.
    Foreign,
    /// It has been shown before.
    Spent,
}

/// A token is good for this long at least, and at most for twice as long. Pages look at one object at a time, for half a minute at most.
pub(super) const SLOT_MS: u64 = 600_000;

impl Tokens {
    /// Gives a network at most so many in each window.
    pub(super) fn new(key: HashKey, most: u16, window_ms: u64) -> Self {
        Self { key, given: Meter::new(most, window_ms), spent: Seen::default() }
    }

    /// Whether a network may have one more. Asking again and again for another host only uses them up.
    pub(super) fn admits(&mut self, network: u64, now_ms: u64) -> bool {
        self.given.admits(network, now_ms)
    }

    /// A token for a look.
    pub(super) fn give(&self, look: &Look<'_>, now_ms: u64) -> u64 {
        self.token(look, now_ms / SLOT_MS)
    }

    /// Takes back a token that was given for one of these looks, and says for which.
    ///
    /// # Errors
    /// [`Refused`] if none of them counts by it.
    pub(super) fn take_any<'a>(
        &mut self,
        looks: impl Iterator<Item = Look<'a>>,
        token: u64,
        now_ms: u64,
    ) -> Result<Look<'a>, Refused> {
        for look in looks {
            match self.take(&look, token, now_ms) {
                Ok(()) => return Ok(look),
                Err(Refused::Foreign) => {}
                Err(Refused::Spent) => return Err(Refused::Spent),
            }
        }
        Err(Refused::Foreign)
    }

    /// Takes back the token of a look.
    ///
    /// # Errors
    /// [`Refused`] if the look does not count by it.
    pub(super) fn take(&mut self, look: &Look<'_>, token: u64, now_ms: u64) -> Result<(), Refused> {
        let slot = now_ms / SLOT_MS;
        let is_of = |slot: u64| self.token(look, slot) == token;
        if !is_of(slot) && !slot.checked_sub(1).is_some_and(is_of) {
            return Err(Refused::Foreign);
        }
        if self.spent.contains(token, 4 * SLOT_MS, now_ms) {
            return Err(Refused::Spent);
        }
        self.spent.insert(token);
        Ok(())
    }

    fn token(&self, look: &Look<'_>, slot: u64) -> u64 {
        // The lengths of all parts but one are fixed or said, so no two looks are written alike.
        let mut text = Vec::with_capacity(64 + look.holder.len() + look.path.len());
        text.extend_from_slice(&slot.to_be_bytes());
        text.extend_from_slice(&look.network.to_be_bytes());
        text.extend_from_slice(&look.sha256.0);
        text.extend_from_slice(&(look.holder.len() as u64).to_be_bytes());
        text.extend_from_slice(look.holder.as_bytes());
        text.extend_from_slice(look.path.as_bytes());
        self.key.of(b"token", &text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOOK: Look<'_> = Look { holder: "r.b.test", path: "/x.png", sha256: Sha256([3; 32]), network: 7 };

    fn tokens() -> Tokens {
        Tokens::new(HashKey([1, 2]), 20, 3_600_000)
    }

    #[test]
    fn a_token_is_good_once_for_its_look_in_its_network() {
        let mut tokens = tokens();
        let token = tokens.give(&LOOK, 0);
        let others = [
            Look { holder: "r.c.test", ..LOOK },
            Look { path: "/y.png", ..LOOK },
            Look { sha256: Sha256([4; 32]), ..LOOK },
            Look { network: 8, ..LOOK },
            Look { holder: "r.b.tes", path: "t/x.png", ..LOOK },
        ];
        for other in others {
            assert_eq!(tokens.take(&other, token, 0), Err(Refused::Foreign), "{other:?}");
        }
        assert_eq!(tokens.take(&LOOK, token ^ 1, 0), Err(Refused::Foreign));
        assert_eq!(tokens.take(&LOOK, token, 0), Ok(()));
        assert_eq!(tokens.take(&LOOK, token, 0), Err(Refused::Spent));
    }

    #[test]
    fn a_token_ends_after_twice_its_time_and_is_not_forgotten_before() {
        for (given_ms, shown_ms, is_good) in [
            (0, SLOT_MS, true),
            (SLOT_MS - 1, SLOT_MS, true),
            (0, 2 * SLOT_MS - 1, true),
            (0, 2 * SLOT_MS, false),
            (2 * SLOT_MS, SLOT_MS, false),
        ] {
            let mut tokens = tokens();
            let token = tokens.give(&LOOK, given_ms);
            assert_eq!(tokens.take(&LOOK, token, shown_ms).is_ok(), is_good, "{given_ms} {shown_ms}");
        }
        let mut tokens = tokens();
        let token = tokens.give(&LOOK, 0);
        assert_eq!(tokens.take(&LOOK, token, 1), Ok(()));
        assert_eq!(
            tokens.take(&LOOK, token, 2 * SLOT_MS - 1),
            Err(Refused::Spent),
            "remembered for as long as it is good"
        );
    }

    #[test]
    fn another_key_gives_others() {
        let token = tokens().give(&LOOK, 0);
        let mut tokens = Tokens::new(HashKey([1, 3]), 20, 3_600_000);
        assert_eq!(tokens.take(&LOOK, token, 0), Err(Refused::Foreign));
    }
}
