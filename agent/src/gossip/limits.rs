//! How much one peer, and all of them together, can make this site do.

use std::num::NonZeroU32;
use std::time::Duration;

use governor::{DefaultDirectRateLimiter, DefaultKeyedRateLimiter, Quota, RateLimiter};
use p2pcdn_core::peer::NodeKey as PublicKey;

use crate::rate_limit::{one_in, takes};

/// Token buckets; whoever has emptied its own is refused before anything is read, and records beyond those of signatures are passed over.
pub(super) struct Limits {
    messages: DefaultKeyedRateLimiter<PublicKey>,
    signatures: DefaultDirectRateLimiter,
    signatures_of_one: DefaultKeyedRateLimiter<PublicKey>,
}

/// Time in which one peer may send one message, before scaling, and how many it may send at once: an exchange has two.
const MESSAGE_PERIOD: Duration = Duration::from_secs(10);
const MESSAGES_AT_ONCE: NonZeroU32 = NonZeroU32::new(8).unwrap();
/// Signatures verified in a second, and at once: each takes about a tenth of a millisecond.
const SIGNATURES_PER_S: NonZeroU32 = NonZeroU32::new(500).unwrap();
const SIGNATURES_AT_ONCE: NonZeroU32 = NonZeroU32::new(1000).unwrap();
/// Of these, for what one peer sends.
const SIGNATURES_OF_ONE_PER_S: NonZeroU32 = NonZeroU32::new(50).unwrap();
const SIGNATURES_OF_ONE_AT_ONCE: NonZeroU32 = NonZeroU32::new(300).unwrap();

impl Limits {
    pub(super) fn new(time_scale: f64) -> Self {
        let signatures = Quota::per_second(SIGNATURES_PER_S).allow_burst(SIGNATURES_AT_ONCE);
        let of_one = Quota::per_second(SIGNATURES_OF_ONE_PER_S).allow_burst(SIGNATURES_OF_ONE_AT_ONCE);
        Self {
            messages: RateLimiter::keyed(one_in(MESSAGE_PERIOD, time_scale).allow_burst(MESSAGES_AT_ONCE)),
            signatures: RateLimiter::direct(signatures),
            signatures_of_one: RateLimiter::keyed(of_one),
        }
    }

    /// Whether a peer's message is listened to.
    pub(super) fn hears(&self, peer: &PublicKey) -> bool {
        takes(&self.messages, peer)
    }

    /// Whether one more signature of what a peer sent is verified.
    pub(super) fn verifies_for(&self, peer: &PublicKey) -> bool {
        takes(&self.signatures_of_one, peer) && self.signatures.check().is_ok()
    }
}

#[cfg(test)]
mod tests {
    use p2pcdn_core::object::Sha256;

    use super::*;

    #[test]
    fn who_says_too_much_is_not_heard_and_others_are() {
        let limits = Limits::new(1.0);
        let (hostile, honest) = (Sha256([1; 32]), Sha256([2; 32]));
        let heard = (0..1000).filter(|_| limits.hears(&hostile)).count();
        let verified = (0..5000).filter(|_| limits.verifies_for(&hostile)).count();
        assert!(heard <= 9 && verified <= 310, "{heard} messages, {verified} signatures");
        assert!(limits.hears(&honest) && limits.verifies_for(&honest));
    }
}
