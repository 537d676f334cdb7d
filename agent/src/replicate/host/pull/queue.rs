//! What waits to be pulled: fair between origins, and never more than so much. Pure.

use std::collections::{BTreeMap, HashMap, VecDeque};

/// Memory that everything waiting may take, in bytes; a small object's record takes about two KiB.
pub(super) const MAX_WAITING_BYTES: usize = 64 << 20;
/// Of this, for one origin.
pub(super) const MAX_WAITING_BYTES_PER_ORIGIN: usize = MAX_WAITING_BYTES / 2;
/// What an entry takes beside its record.
const ENTRY_BYTES: usize = 1024;
/// Entries that are looked through for a batch.
const LOOKED_THROUGH: usize = 1024;

/// Origins take turns, and what one of them has waiting is first come, first served.
pub(super) struct Queue<T> {
    origins: HashMap<String, Lane<T>>,
    /// Origins that have something waiting, each once.
    turns: VecDeque<String>,
    bytes: usize,
    arrivals: u64,
}

struct Lane<T> {
    entries: BTreeMap<u64, Entry<T>>,
    by_path: HashMap<String, u64>,
    bytes: usize,
}

struct Entry<T> {
    path: String,
    bytes: usize,
    item: T,
}

/// There is no room for another entry of this origin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Full;

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self { origins: HashMap::new(), turns: VecDeque::new(), bytes: 0, arrivals: 0 }
    }
}

impl<T> Queue<T> {
    /// What waits under this path.
    pub(super) fn find(&self, origin: &str, path: &str) -> Option<&T> {
        let lane = self.origins.get(origin)?;
        lane.entries.get(lane.by_path.get(path)?).map(|entry| &entry.item)
    }

    /// Whether another entry of `bytes` would be refused, short of what other origins would have to give up for it.
    pub(super) fn is_full(&self, origin: &str, bytes: usize) -> bool {
        self.bytes_of(origin) + bytes + ENTRY_BYTES > MAX_WAITING_BYTES_PER_ORIGIN
    }

    /// Puts an item of `bytes` at the end of its origin's. Others leave in its favour: what was waiting under the same path, and,
    /// where everything is full, the newest of the origin that has most.
    pub(super) fn push(
        &mut self,
        origin: &str,
        path: &str,
        bytes: usize,
        item: T,
        left: &mut Vec<T>,
    ) -> Result<(), Full> {
        left.extend(self.remove(origin, path));
        if self.is_full(origin, bytes) {
            return Err(Full);
        }
        let bytes = bytes + ENTRY_BYTES;
        let own = self.bytes_of(origin) + bytes;
        while self.bytes + bytes > MAX_WAITING_BYTES {
            let most = self.origins.iter().max_by_key(|(_, lane)| lane.bytes).filter(|(_, lane)| lane.bytes > own);
            let last = most.and_then(|(origin, lane)| Some((origin.clone(), *lane.entries.keys().next_back()?)));
            let (origin, number) = last.ok_or(Full)?;
            left.extend(self.take(&origin, number));
        }
        let lane = self.origins.entry(origin.to_owned()).or_insert_with(|| {
            self.turns.push_back(origin.to_owned());
            Lane { entries: BTreeMap::new(), by_path: HashMap::new(), bytes: 0 }
        });
        self.arrivals += 1;
        lane.entries.insert(self.arrivals, Entry { path: path.to_owned(), bytes, item });
        lane.by_path.insert(path.to_owned(), self.arrivals);
        lane.bytes += bytes;
        self.bytes += bytes;
        Ok(())
    }

    /// Takes out what waits under this path.
    pub(super) fn remove(&mut self, origin: &str, path: &str) -> Option<T> {
        let number = *self.origins.get(origin)?.by_path.get(path)?;
        self.take(origin, number)
    }

    /// The oldest item of the origin whose turn it is among those that `may`.
    pub(super) fn pop(&mut self, may: impl Fn(&str) -> bool) -> Option<(String, T)> {
        let at = self.turns.iter().position(|origin| may(origin))?;
        let origin = self.turns.remove(at)?;
        self.turns.push_back(origin.clone());
        let number = *self.origins.get(&origin)?.entries.keys().next()?;
        let item = self.take(&origin, number)?;
        Some((origin, item))
    }

    /// Origins that have something waiting.
    pub(super) fn origins(&self) -> impl Iterator<Item = &String> {
        self.turns.iter()
    }

    /// The oldest items of an origin that `fits` wants, at most `most`.
    pub(super) fn gather(&mut self, origin: &str, most: usize, mut fits: impl FnMut(&T) -> bool) -> Vec<T> {
        let Some(lane) = self.origins.get(origin) else { return Vec::new() };
        let near = lane.entries.iter().take(LOOKED_THROUGH);
        let wanted: Vec<u64> = near.filter(|(_, entry)| fits(&entry.item)).map(|(n, _)| *n).take(most).collect();
        wanted.into_iter().filter_map(|number| self.take(origin, number)).collect()
    }

    /// Takes out everything that is not wanted any more.
    pub(super) fn sift(&mut self, is_unwanted: impl Fn(&T) -> bool) -> Vec<T> {
        let of_lane = |(origin, lane): (&String, &Lane<T>)| {
            let unwanted = lane.entries.iter().filter(|(_, entry)| is_unwanted(&entry.item));
            unwanted.map(|(number, _)| (origin.clone(), *number)).collect::<Vec<_>>()
        };
        let unwanted: Vec<(String, u64)> = self.origins.iter().flat_map(of_lane).collect();
        unwanted.into_iter().filter_map(|(origin, number)| self.take(&origin, number)).collect()
    }

    #[cfg(test)]
    pub(super) fn is_anything(&self) -> bool {
        self.bytes > 0
    }

    fn bytes_of(&self, origin: &str) -> usize {
        self.origins.get(origin).map_or(0, |lane| lane.bytes)
    }

    fn take(&mut self, origin: &str, number: u64) -> Option<T> {
        let lane = self.origins.get_mut(origin)?;
        let entry = lane.entries.remove(&number)?;
        lane.by_path.remove(&entry.path);
        lane.bytes -= entry.bytes;
        self.bytes -= entry.bytes;
        if lane.entries.is_empty() {
            self.origins.remove(origin);
            self.turns.retain(|other| other != origin);
        }
        Some(entry.item)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn push(queue: &mut Queue<u32>, origin: &str, path: &str, bytes: usize, item: u32) -> Result<Vec<u32>, Full> {
        let mut left = Vec::new();
        queue.push(origin, path, bytes, item, &mut left).map(|()| left)
    }

    fn len(queue: &Queue<impl Sized>) -> usize {
        queue.origins.values().map(|lane| lane.entries.len()).sum()
    }

    fn everything(queue: &mut Queue<u32>) -> Vec<(String, u32)> {
        std::iter::from_fn(|| queue.pop(|_| true)).collect()
    }

    #[test]
    fn origins_take_turns_however_much_one_of_them_has_waiting() {
        let mut queue = Queue::default();
        for n in 0..100 {
            push(&mut queue, "busy", &n.to_string(), 1, n).unwrap();
        }
        for n in 0..2 {
            push(&mut queue, "calm", &n.to_string(), 1, n).unwrap();
        }
        let order: Vec<String> = everything(&mut queue).into_iter().take(5).map(|(origin, _)| origin).collect();
        assert_eq!(order, ["busy", "calm", "busy", "calm", "busy"]);
        assert_eq!(queue.bytes, 0);
    }

    #[test]
    fn an_origin_that_may_not_now_keeps_its_place() {
        let mut queue = Queue::default();
        push(&mut queue, "a", "/1", 1, 1).unwrap();
        push(&mut queue, "b", "/1", 1, 2).unwrap();
        assert_eq!(queue.pop(|origin| origin != "a"), Some(("b".into(), 2)));
        assert_eq!(queue.pop(|origin| origin != "a"), None);
        assert_eq!(queue.pop(|_| true), Some(("a".into(), 1)));
    }

    #[test]
    fn a_newer_entry_of_a_path_takes_the_place_of_the_older() {
        let mut queue = Queue::default();
        push(&mut queue, "a", "/1", 1, 1).unwrap();
        assert_eq!(push(&mut queue, "a", "/1", 1, 2), Ok(vec![1]));
        assert_eq!(queue.find("a", "/1"), Some(&2));
        assert_eq!((queue.remove("a", "/1"), len(&queue), queue.bytes), (Some(2), 0, 0));
    }

    #[test]
    fn a_flood_stops_at_its_origins_share_and_gives_way_to_others() {
        let (mut queue, large) = (Queue::default(), 1 << 20);
        let flood = |queue: &mut Queue<u32>, origin: &str| {
            (0..1000u32)
                .map_while(|n| push(queue, origin, &format!("/{n}"), large, n).ok())
                .map(|left| left.len())
                .sum::<usize>()
        };
        assert_eq!(flood(&mut queue, "a"), 0);
        assert!(queue.bytes <= MAX_WAITING_BYTES_PER_ORIGIN);
        flood(&mut queue, "b");
        flood(&mut queue, "c");
        assert!(queue.bytes <= MAX_WAITING_BYTES);
        let share = |origin: &str| queue.bytes_of(origin) * 100 / MAX_WAITING_BYTES;
        assert!(["a", "b", "c"].iter().all(|origin| share(origin) >= 28), "{:?}", ["a", "b", "c"].map(share));
    }

    #[test]
    fn a_batch_is_gathered_from_one_origin_in_order() {
        let mut queue = Queue::default();
        for n in 0..6 {
            push(&mut queue, "a", &format!("/{n}"), 1, n).unwrap();
            push(&mut queue, "b", &format!("/{n}"), 1, 100 + n).unwrap();
        }
        assert_eq!(queue.gather("a", 2, |n| n % 2 == 1), [1, 3]);
        assert_eq!(queue.gather("a", 9, |n| *n < 5), [0, 2, 4]);
        assert_eq!(len(&queue), 7);
    }

    #[test]
    fn what_is_not_wanted_any_more_goes_from_every_lane_and_the_rest_keeps_its_order() {
        let mut queue = Queue::default();
        for n in 0..6 {
            push(&mut queue, ["a", "b"][n as usize % 2], &format!("/{n}"), 1, n).unwrap();
        }
        let mut gone = queue.sift(|n| *n == 1 || *n % 2 == 0);
        gone.sort_unstable();
        assert_eq!(gone, [0, 1, 2, 4]);
        assert_eq!(everything(&mut queue), [("b".to_owned(), 3), ("b".to_owned(), 5)]);
        assert_eq!((queue.bytes, queue.turns.len()), (0, 0));
    }

    proptest! {
        #[test]
        fn nothing_is_lost_or_doubled_and_the_bounds_hold(
            steps in proptest::collection::vec((0..4u8, 0..6u8, 0..(9usize << 20), any::<bool>()), 1..80),
        ) {
            let (mut queue, mut inside) = (Queue::default(), std::collections::BTreeSet::new());
            for (number, (origin, path, bytes, is_pop)) in steps.into_iter().enumerate() {
                if is_pop {
                    let popped = queue.pop(|_| true).map(|(_, n)| n);
                    prop_assert_eq!(popped.is_none(), inside.is_empty());
                    prop_assert!(popped.is_none_or(|n| inside.remove(&n)));
                } else {
                    let mut left = Vec::new();
                    let pushed = queue.push(&format!("o{origin}"), &format!("/{path}"), bytes, number, &mut left);
                    prop_assert!(left.iter().all(|n| inside.remove(n)));
                    pushed.is_ok().then(|| inside.insert(number));
                }
                prop_assert!(queue.bytes <= MAX_WAITING_BYTES);
                prop_assert!(queue.origins.values().all(|lane| lane.bytes <= MAX_WAITING_BYTES_PER_ORIGIN));
                prop_assert_eq!(len(&queue), inside.len());
                prop_assert_eq!(queue.turns.len(), queue.origins.len());
            }
        }
    }
}
