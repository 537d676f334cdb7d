//! How two tables become equal, a stretch at a time: four messages, each a pure function of the one before.
//!
//! ```text
//! asking side                                 answering side
//! let opening = a.offer_window(salt);      -> let reply = b.answer(&opening);
//! let closing = a.close(salt, &reply, ..); -> let last = b.finish(&closing, ..);
//! a.take(&last.records, ..)
//! ```
//!
//! The answering side keeps nothing between its two answers. The window of the asking side goes round: all places are compared after as many
//! exchanges as there are windows in the table; news go first, so that they need not wait for that.

use std::hash::Hasher;

use siphasher::sip::SipHasher13;

use super::messages::{
    Closing, Last, MAX_CLOSING_BYTES, MAX_LAST_BYTES, MAX_NEWS, MAX_REPLY_BYTES, MAX_WANTS, MAX_WINDOW, Opening, Pair,
    Reply, record_bytes,
};
use super::record::{Blob, HEAD_BYTES, Record, Unfit};
use super::table::{Check, Claim, Entry, Outcome, Table};

/// What became of one record that came in.
pub type Taken = Result<(Record, Outcome), Unfit>;

impl Table {
    /// First message; the next one begins where this one's window ends. `salt` should be random.
    pub fn offer_window(&mut self, salt: u64) -> Opening {
        let from = self.cursor;
        let mut window: Vec<Pair> =
            self.entries.range(from..).take(MAX_WINDOW + 1).map(|(id, entry)| pair(salt, *id, entry)).collect();
        let to = match window.get(MAX_WINDOW) {
            Some((next, ..)) => {
                self.cursor = *next;
                next - 1
            }
            None => {
                self.cursor = 0;
                u64::MAX
            }
        };
        window.truncate(MAX_WINDOW);
        Opening { summary: self.summary(), salt, stretch: (from, to), window, news: self.latest(salt) }
    }

    /// Second message: what the other side lacks of its stretch, and what of its window and news is lacking here.
    pub fn answer(&self, opening: &Opening) -> Reply {
        let mut reply = Reply::default();
        if opening.summary == self.summary() {
            return reply;
        }
        let salt = opening.salt;
        reply.news = self.latest(salt);
        opening.news.iter().for_each(|theirs| self.want(&mut reply.wants, salt, theirs));
        let mut room = MAX_REPLY_BYTES - reply.bytes();
        let (from, to) = opening.stretch;
        let mut theirs = opening.window.iter().peekable();
        let mut lacking = Vec::new();
        for (id, entry) in self.entries.range(from..=to.max(from)) {
            while let Some(unknown) = theirs.next_if(|their| their.0 < *id) {
                self.want(&mut reply.wants, salt, unknown);
            }
            match theirs.next_if(|their| their.0 == *id) {
                Some(their) if their.1 >= entry.sequence => self.want(&mut reply.wants, salt, their),
                _ => lacking.push(&entry.blob),
            }
        }
        theirs.for_each(|unknown| self.want(&mut reply.wants, salt, unknown));
        room -= 8 * MAX_WANTS.min(room / 8);
        fill(&mut reply.records, lacking.into_iter(), room);
        reply
    }

    /// Third message: takes what came, gives what was asked for, and asks for what of the other side's news is lacking here.
    ///
    /// `salt` is that of the opening.
    pub fn close(&mut self, salt: u64, reply: &Reply, now_s: u64, check: Checker<'_>) -> (Closing, Vec<Taken>) {
        let taken = self.take(&reply.records, now_s, check);
        let mut closing = Closing::default();
        reply.news.iter().for_each(|theirs| self.want(&mut closing.wants, salt, theirs));
        let room = MAX_CLOSING_BYTES - closing.bytes();
        fill(&mut closing.records, self.wanted(&reply.wants), room);
        (closing, taken)
    }

    /// Fourth message: takes what came, and gives what was asked for.
    pub fn finish(&mut self, closing: &Closing, now_s: u64, check: Checker<'_>) -> (Last, Vec<Taken>) {
        let mut last = Last::default();
        let room = MAX_LAST_BYTES - last.bytes();
        fill(&mut last.records, self.wanted(&closing.wants), room);
        (last, self.take(&closing.records, now_s, check))
    }

    /// Takes in records as they came; `now_s` is seconds since the Unix epoch.
    pub fn take(&mut self, records: &[Blob], now_s: u64, check: Checker<'_>) -> Vec<Taken> {
        let insert = |blob: &Blob| {
            let record = Record::read(blob.clone(), now_s)?;
            let outcome = self.insert(&record, check);
            Ok((record, outcome))
        };
        records.iter().map(insert).collect()
    }

    fn latest(&self, salt: u64) -> Vec<Pair> {
        let present = |id: &u64| Some(pair(salt, *id, self.entries.get(id)?));
        self.news.iter().filter_map(present).take(MAX_NEWS).collect()
    }

    /// Asks for a record that is later than what is here, or contradicts it.
    fn want(&self, wants: &mut Vec<u64>, salt: u64, theirs: &Pair) {
        let (id, sequence, tag) = *theirs;
        let is_lacking = self.entries.get(&id).is_none_or(|held| {
            held.sequence < sequence || (held.sequence == sequence && tag_of(salt, &held.blob) != tag)
        });
        let is_useless = || self.useless.get(&id).is_some_and(|useless| *useless >= sequence);
        if is_lacking && !is_useless() && wants.len() < MAX_WANTS && !wants.contains(&id) {
            wants.push(id);
        }
    }

    fn wanted<'a>(&'a self, wants: &'a [u64]) -> impl Iterator<Item = &'a Blob> {
        wants.iter().filter_map(|id| Some(&self.entries.get(id)?.blob))
    }
}

/// Verifies signatures; one that was asked to verify too many says [`Check::Later`].
pub type Checker<'a> = &'a mut dyn FnMut(&Claim<'_>) -> Check;

fn pair(salt: u64, id: u64, entry: &Entry) -> Pair {
    (id, entry.sequence, tag_of(salt, &entry.blob))
}

/// 16 bits that differ between different records.
fn tag_of(salt: u64, blob: &Blob) -> u16 {
    let mut hasher = SipHasher13::new_with_keys(salt, 0);
    // The signature stands for the payload as well.
    hasher.write(&blob[..HEAD_BYTES.min(blob.len())]);
    hasher.finish() as u16
}

/// As many of `blobs` as fit into `room` bytes.
fn fill<'a>(records: &mut Vec<Blob>, blobs: impl Iterator<Item = &'a Blob>, mut room: usize) {
    for blob in blobs {
        let bytes = record_bytes(blob);
        if bytes <= room {
            room -= bytes;
            records.push(blob.clone());
        }
    }
}
