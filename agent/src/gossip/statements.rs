//! What an observer says about others: only what it has seen itself, one list at a time.

use p2pcdn_core::object::is_authority;
use serde::{Deserialize, Serialize};

use super::record::Unfit;
use crate::identity::Statement;

/// One observer's list; a later one replaces it.
///
/// Unknown fields are passed over, so that a later release may add some.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Observations {
    /// Grows with every list that this observer signs; see [`crate::identity::sequence`].
    pub sequence: u64,
    /// When it was signed, in seconds since the Unix epoch.
    pub issued_s: u64,
    /// When it ends, in seconds since the Unix epoch; at most [`MAX_LIST_LIFE_S`] after `issued_s`.
    pub expires_s: u64,
    /// What was seen, the most telling first; each subject once.
    pub entries: Vec<Observation>,
}

/// What an observer's own audits found at one host; as JSON a list, as in `["b.example",120,1,0]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "(String, u32, u32, u32)", into = "(String, u32, u32, u32)")]
pub struct Observation {
    /// Domain of the host.
    pub subject: String,
    /// Audits that found everything right.
    pub good: u32,
    /// Audits that found nothing, too little or nobody.
    pub bad: u32,
    /// Audits that found wrong bytes.
    pub wrong: u32,
}

/// Longest payload of a list in bytes.
pub const MAX_LIST_BYTES: usize = 1024;
/// Longest life of a list in seconds: a day, so that four lists may be lost.
pub const MAX_LIST_LIFE_S: u64 = 24 * 3600;
/// Time between two lists of one observer in seconds: 6 h.
pub const LIST_PERIOD_S: u64 = 6 * 3600;
/// Seconds by which two clocks may differ.
const CLOCK_SKEW_S: u64 = 300;

impl Statement for Observations {
    const TYPE: &'static str = "observations";
    const MAX_BYTES: usize = MAX_LIST_BYTES;
}

impl Observations {
    /// A list of as many of `seen` as fit: wrong bytes first, then other failures, then what was seen most.
    pub fn of(mut seen: Vec<Observation>, sequence: u64, now_s: u64) -> Self {
        seen.sort_by(|a, b| b.weight().cmp(&a.weight()).then_with(|| a.subject.cmp(&b.subject)));
        seen.dedup_by(|a, b| a.subject == b.subject);
        let expires_s = now_s.saturating_add(MAX_LIST_LIFE_S);
        let mut list = Self { sequence, issued_s: now_s, expires_s, entries: Vec::new() };
        let mut room = MAX_LIST_BYTES.saturating_sub(bytes(&list));
        for observation in seen {
            // A comma between two of them.
            let needed = bytes(&observation) + 1;
            if needed <= room {
                room -= needed;
                list.entries.push(observation);
            }
        }
        list
    }

    /// Checks every bound; `now_s` is seconds since the Unix epoch.
    pub fn validate(&self, now_s: u64) -> Result<(), Unfit> {
        let life_s = self.expires_s.saturating_sub(self.issued_s);
        let is_now = self.issued_s <= now_s.saturating_add(CLOCK_SKEW_S) && self.expires_s > now_s;
        if !is_now || life_s > MAX_LIST_LIFE_S {
            return Err(Unfit::Time);
        }
        let mut subjects: Vec<&str> = self.entries.iter().map(|entry| entry.subject.as_str()).collect();
        subjects.sort_unstable();
        let are_distinct = subjects.windows(2).all(|pair| pair[0] != pair[1]);
        if are_distinct && subjects.into_iter().all(is_authority) { Ok(()) } else { Err(Unfit::Content) }
    }
}

impl Observation {
    /// All audits in it.
    pub fn audits(&self) -> u64 {
        u64::from(self.good) + u64::from(self.bad) + u64::from(self.wrong)
    }

    fn weight(&self) -> (u32, u32, u64) {
        (self.wrong, self.bad, self.audits())
    }
}

impl From<(String, u32, u32, u32)> for Observation {
    fn from((subject, good, bad, wrong): (String, u32, u32, u32)) -> Self {
        Self { subject, good, bad, wrong }
    }
}

impl From<Observation> for (String, u32, u32, u32) {
    fn from(Observation { subject, good, bad, wrong }: Observation) -> Self {
        (subject, good, bad, wrong)
    }
}

fn bytes(value: &impl Serialize) -> usize {
    serde_json::to_vec(value).map_or(MAX_LIST_BYTES, |json| json.len())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn seen(subject: &str, good: u32, bad: u32, wrong: u32) -> Observation {
        Observation { subject: subject.into(), good, bad, wrong }
    }

    #[test]
    fn of_too_much_the_telling_is_said_and_it_always_fits() {
        let mut all: Vec<_> = (0..100).map(|n| seen(&format!("host-{n}.example.org"), 1000 + n, 0, 0)).collect();
        all.push(seen("liar.example", 3, 0, 1));
        all.push(seen("flaky.example", 3, 2, 0));
        let list = Observations::of(all, u64::MAX, u64::MAX - MAX_LIST_LIFE_S);
        let subjects: Vec<_> = list.entries.iter().map(|entry| &*entry.subject).take(3).collect();
        assert_eq!(subjects, ["liar.example", "flaky.example", "host-99.example.org"]);
        let json = serde_json::to_string(&list).unwrap();
        assert!(json.len() <= MAX_LIST_BYTES && json.len() > MAX_LIST_BYTES - 40, "{} bytes", json.len());
        assert!(json.contains("[\"liar.example\",3,0,1]"), "{json}");
    }

    #[test]
    fn a_list_holds_in_its_time_and_says_everything_once() {
        let list = Observations::of(vec![seen("a.test", 1, 0, 0)], 1, 1000);
        assert_eq!(list.validate(1000), Ok(()));
        assert_eq!(list.validate(600), Err(Unfit::Time));
        assert_eq!(list.validate(1000 + MAX_LIST_LIFE_S), Err(Unfit::Time));
        let long = Observations { expires_s: 1001 + MAX_LIST_LIFE_S, ..list.clone() };
        assert_eq!(long.validate(1000), Err(Unfit::Time));
        let twice = Observations { entries: vec![seen("a.test", 1, 0, 0), seen("a.test", 0, 0, 1)], ..list.clone() };
        assert_eq!(twice.validate(1000), Err(Unfit::Content));
        let odd = Observations { entries: vec![seen("a.test\r\nx", 1, 0, 0)], ..list };
        assert_eq!(odd.validate(1000), Err(Unfit::Content));
    }

    proptest! {
        #[test]
        fn whatever_was_seen_the_list_is_valid(
            all in proptest::collection::btree_map("[a-z]{1,60}\\.test", any::<(u32, u32, u32)>(), 0..80),
            now_s in 1u64..1 << 40,
        ) {
            let all = all.into_iter().map(|(subject, (good, bad, wrong))| seen(&subject, good, bad, wrong)).collect();
            let list = Observations::of(all, 1 << 50, now_s);
            prop_assert!(bytes(&list) <= MAX_LIST_BYTES);
            prop_assert_eq!(list.validate(now_s), Ok(()));
        }
    }
}
