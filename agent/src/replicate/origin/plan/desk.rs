//! What is known of one host, and its list of work.

use std::cmp::Reverse;
use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use p2pcdn_core::object::Sha256;

use super::{MAX_UNDER_WAY, spread_of};
use crate::replicate::messages::{MAX_BATCH, Room};
use crate::replicate::origin::rank::{Shelf, Worth};

pub(super) struct Desk {
    pub(super) domain: String,
    /// The host's part of [`Desk::distance`].
    spread: u64,
    pub(super) is_live: bool,
    pub(super) lease_bytes_per_s: u64,
    /// How much good was heard of it, from 0 to 1.
    pub(super) praise: f64,
    room: Option<Room>,
    /// Until then, what it says of its room does not count yet what it was asked to give up.
    making_room_ms: u64,
    /// A host that takes nothing at all is asked again then; 0 if it does.
    pub(super) paused_until_ms: u64,
    due: BTreeSet<(Reverse<Worth>, Arc<str>)>,
    pub(super) under_way: usize,
    pub(super) under_way_bytes: u64,
    pub(super) shelf: Shelf,
    /// Copies to take back, and from when on.
    pub(super) leaving: VecDeque<(u64, Arc<str>, Sha256)>,
    /// Bytes displaced here since then.
    churn: (u64, u64),
}

/// What a host is taken to have room for that does not say.
const UNKNOWN_ROOM: Room = Room { used_bytes: 0, free_bytes: 10 << 30 };

impl Desk {
    pub(super) fn new(domain: &str) -> Self {
        Self {
            domain: domain.to_owned(),
            spread: spread_of(domain),
            is_live: false,
            lease_bytes_per_s: 0,
            praise: 0.0,
            room: None,
            making_room_ms: 0,
            paused_until_ms: 0,
            due: BTreeSet::new(),
            under_way: 0,
            under_way_bytes: 0,
            shelf: Shelf::default(),
            leaving: VecDeque::new(),
            churn: (0, 0),
        }
    }

    pub(super) fn takes_offers(&self, now_ms: u64) -> bool {
        self.is_live && self.paused_until_ms <= now_ms
    }

    /// Whether a pause has just ended.
    pub(super) fn is_back(&mut self, now_ms: u64) -> bool {
        let is_back = (1..=now_ms).contains(&self.paused_until_ms);
        if is_back {
            self.paused_until_ms = 0;
        }
        is_back
    }

    /// How far an object is from the host: those nearest hold it. Rendezvous hashing, by which each host gets a share as large as its
    /// room, twice as large if all that was heard of it is good, and one that comes or goes moves nothing between others.
    pub(super) fn distance(&self, object_spread: u64) -> f64 {
        let Room { used_bytes, free_bytes } = self.room.unwrap_or(UNKNOWN_ROOM);
        let room = used_bytes.saturating_add(free_bytes).max(1) as f64;
        let mixed = mix(self.spread ^ object_spread);
        let draw = (mixed >> 11) as f64 / (1u64 << 53) as f64;
        -draw.max(f64::MIN_POSITIVE).ln() / (room * (1.0 + self.praise))
    }

    /// Bytes that it is thought to take in still.
    pub(super) fn free(&self) -> u64 {
        self.room.map_or(u64::MAX, |room| room.free_bytes)
    }

    pub(super) fn set_room(&mut self, room: Room, now_ms: u64) {
        if now_ms >= self.making_room_ms {
            self.room = Some(room);
        }
    }

    /// Bytes that are about to be taken in.
    pub(super) fn take_room(&mut self, bytes: u64) {
        if let Some(room) = &mut self.room {
            room.free_bytes = room.free_bytes.saturating_sub(bytes);
            room.used_bytes = room.used_bytes.saturating_add(bytes);
        }
    }

    /// Bytes that it is about to give up, and will have by then.
    pub(super) fn make_room(&mut self, bytes: u64, until_ms: u64) {
        if let Some(room) = &mut self.room {
            room.free_bytes = room.free_bytes.saturating_add(bytes);
            room.used_bytes = room.used_bytes.saturating_sub(bytes);
        }
        self.making_room_ms = until_ms;
    }

    /// It said that it has no room for so many bytes; what it says next counts again.
    pub(super) fn is_full_for(&mut self, bytes: u64) {
        let room = self.room.unwrap_or(UNKNOWN_ROOM);
        self.room = Some(Room { free_bytes: room.free_bytes.min(bytes.saturating_sub(1)), ..room });
    }

    pub(super) fn is_saturated(&self) -> bool {
        self.under_way + MAX_BATCH > MAX_UNDER_WAY
    }

    pub(super) fn has_work(&self, now_ms: u64) -> bool {
        (self.is_live && !self.due.is_empty() && !self.is_saturated())
            || self.leaving.front().is_some_and(|(at_ms, ..)| *at_ms <= now_ms)
    }

    pub(super) fn queue(&mut self, worth: Worth, path: &Arc<str>) {
        self.due.insert((Reverse(worth), path.clone()));
    }

    pub(super) fn unqueue(&mut self, worth: Worth, path: &Arc<str>) {
        self.due.remove(&(Reverse(worth), path.clone()));
    }

    pub(super) fn pop_due(&mut self) -> Option<(Reverse<Worth>, Arc<str>)> {
        if self.under_way >= MAX_UNDER_WAY { None } else { self.due.pop_first() }
    }

    /// Whether so many bytes may be displaced here now, and notes them if so.
    pub(super) fn may_displace(&mut self, bytes: u64, now_ms: u64, period_ms: u64) -> bool {
        if now_ms.saturating_sub(self.churn.0) >= period_ms {
            self.churn = (now_ms, 0);
        }
        let displaced = self.churn.1.saturating_add(bytes);
        let may = self.churn.1 == 0 || displaced <= self.shelf.bytes() / 8;
        if may {
            self.churn.1 = displaced;
        }
        may
    }
}

/// The finalizer of SplitMix64 (Steele and others 2014).
fn mix(bits: u64) -> u64 {
    let bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}
