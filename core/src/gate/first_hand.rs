//! Which objects have lately been served here, so that their freshness was seen first-hand.

/// Slots of 8 bytes. Two objects that share one displace each other, and then both stay local more often.
const SLOTS: usize = 1 << 14;

/// When each object was last seen to be served here, forgetful by design.
#[derive(Debug)]
pub(super) struct FirstHand {
    period_s: u32,
    slots: Box<[(u32, u32)]>,
}

impl FirstHand {
    /// Objects count as seen for `period_s` seconds; with 0, always.
    pub(super) fn new(period_s: u32) -> Self {
        let slots = if period_s == 0 { 0 } else { SLOTS };
        Self { period_s, slots: vec![(0, 0); slots].into() }
    }

    /// Whether the object was served here within the period before `now_s`; if not, the caller is about to, and that is noted.
    pub(super) fn seen(&mut self, key: u64, now_s: u64) -> bool {
        let Some((tag, since_s)) = self.slots.get_mut(key as usize % SLOTS) else { return true };
        // Truncated alike, so that differences hold up to 136 years.
        let (now_s, key_tag) = (now_s as u32, (key >> 32) as u32);
        if *tag == key_tag && now_s.wrapping_sub(*since_s) < self.period_s {
            return true;
        }
        (*tag, *since_s) = (key_tag, now_s);
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_request_in_each_period_stays() {
        let mut first = FirstHand::new(10);
        let seen: Vec<bool> = (1000..1021).map(|now_s| first.seen(5 << 32, now_s)).collect();
        let stayed: Vec<usize> = (0..seen.len()).filter(|i| !seen[*i]).collect();
        assert_eq!(stayed, [0, 10, 20]);
    }

    #[test]
    fn objects_that_share_a_slot_stay_local_more_often() {
        let mut first = FirstHand::new(10);
        assert!(!first.seen(1 << 32, 1000));
        assert!(!first.seen(2 << 32, 1000));
        assert!(!first.seen(1 << 32, 1001));
        assert!(first.seen(1 << 32, 1002));
    }

    #[test]
    fn a_clock_that_was_set_back_makes_objects_stay_local() {
        let mut first = FirstHand::new(10);
        assert!(!first.seen(1 << 32, 1000));
        assert!(!first.seen(1 << 32, 500));
    }

    #[test]
    fn the_rule_can_be_switched_off() {
        assert!(FirstHand::new(0).seen(1, 1000));
    }
}
