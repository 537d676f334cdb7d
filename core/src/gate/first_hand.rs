//! Which objects have lately been served here, so that their freshness was seen first-hand.

/// Slots of 12 bytes. Two objects that share one displace each other, and then both stay local more often.
const SLOTS: usize = 1 << 14;

/// What the answer to a request tells of its object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    /// Nothing: the object has lately been seen.
    Nothing,
    /// That it may have changed: the answer may be for this visitor only, or for a part.
    Hint,
    /// What it is: any stranger would get the same.
    Proof,
}

/// When each object was last seen to be served here, forgetful by design.
#[derive(Debug)]
pub(super) struct FirstHand {
    period_s: u32,
    slots: Box<[Slot]>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Slot {
    tag: u32,
    /// The last look of any kind.
    since_s: u32,
    /// The last one that proves something.
    proved_s: u32,
}

impl FirstHand {
    /// Objects count as seen for `period_s` seconds; with 0, always.
    pub(super) fn new(period_s: u32) -> Self {
        let slots = if period_s == 0 { 0 } else { SLOTS };
        Self { period_s, slots: vec![Slot::default(); slots].into() }
    }

    /// What the answer to a request will tell; other than [`Look::Nothing`], the caller leaves it to the origin, and that is noted.
    ///
    /// `is_plain` requests look once in the period before `now_s` whatever others have seen, or visitors with cookies could keep it from
    /// being seen at all.
    pub(super) fn look(&mut self, key: u64, is_plain: bool, now_s: u64) -> Look {
        let Some(slot) = self.slots.get_mut(key as usize % SLOTS) else { return Look::Nothing };
        // Truncated alike, so that differences hold up to 136 years.
        let (now_s, tag) = (now_s as u32, (key >> 32) as u32);
        if slot.tag != tag {
            *slot =
                Slot { tag, since_s: now_s.wrapping_sub(self.period_s), proved_s: now_s.wrapping_sub(self.period_s) };
        }
        let is_over = |since_s: u32| now_s.wrapping_sub(since_s) >= self.period_s;
        if is_plain && is_over(slot.proved_s) {
            (slot.since_s, slot.proved_s) = (now_s, now_s);
            return Look::Proof;
        }
        if is_over(slot.since_s) {
            slot.since_s = now_s;
            return Look::Hint;
        }
        Look::Nothing
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Look::{Hint, Nothing, Proof};

    #[test]
    fn one_request_in_each_period_stays() {
        let mut first = FirstHand::new(10);
        let looks: Vec<Look> = (1000..1021).map(|now_s| first.look(5 << 32, true, now_s)).collect();
        let stayed: Vec<usize> = (0..looks.len()).filter(|i| looks[*i] == Proof).collect();
        assert_eq!(stayed, [0, 10, 20]);
        assert!(!looks.contains(&Hint));
    }

    #[test]
    fn requests_that_prove_nothing_do_not_use_up_the_look_of_one_that_does() {
        let mut first = FirstHand::new(10);
        let looks = [(false, 0), (false, 1), (true, 2), (true, 3), (false, 9), (false, 12), (true, 12), (false, 13)];
        let looks = looks.map(|(is_plain, at_s)| first.look(5 << 32, is_plain, 1000 + at_s));
        assert_eq!(looks, [Hint, Nothing, Proof, Nothing, Nothing, Hint, Proof, Nothing]);
    }

    #[test]
    fn objects_that_share_a_slot_stay_local_more_often() {
        let mut first = FirstHand::new(10);
        assert_eq!(first.look(1 << 32, true, 1000), Proof);
        assert_eq!(first.look(2 << 32, true, 1000), Proof);
        assert_eq!(first.look(1 << 32, true, 1001), Proof);
        assert_eq!(first.look(1 << 32, true, 1002), Nothing);
    }

    #[test]
    fn a_clock_that_was_set_back_makes_objects_stay_local() {
        let mut first = FirstHand::new(10);
        assert_eq!(first.look(1 << 32, true, 1000), Proof);
        assert_eq!(first.look(1 << 32, true, 500), Proof);
    }

    #[test]
    fn the_rule_can_be_switched_off() {
        assert_eq!(FirstHand::new(0).look(1, true, 1000), Nothing);
    }
}
