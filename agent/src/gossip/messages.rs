//! The four messages of an exchange, and their bytes, which docs/gossip.md draws.
//!
//! Fields are fixed in size and little endian, so that what a message costs is known before it is built.

use super::record::Blob;

/// Version of the format.
pub const FORMAT: u8 = 1;
/// Longest message in bytes. Each side sends two of them in an exchange, which are within [`MAX_EXCHANGE_BYTES`] together.
pub const MAX_MESSAGE_BYTES: usize = 46 * 1024;
/// Most bytes that one side sends in an exchange.
pub const MAX_EXCHANGE_BYTES: usize = 64 * 1024;
/// Longest [`Opening`]: a little over 20 KiB.
pub const MAX_OPENING_BYTES: usize = 2 + 4 * 8 + 2 + MAX_WINDOW * PAIR_BYTES + 2 + MAX_NEWS * PAIR_BYTES;
/// Longest [`Reply`].
pub const MAX_REPLY_BYTES: usize = 40 * 1024;
/// Longest [`Closing`]: what an opening leaves.
pub const MAX_CLOSING_BYTES: usize = MAX_EXCHANGE_BYTES - MAX_OPENING_BYTES;
/// Longest [`Last`]: what a reply leaves.
pub const MAX_LAST_BYTES: usize = MAX_EXCHANGE_BYTES - MAX_REPLY_BYTES;
/// Most pairs in a window.
pub const MAX_WINDOW: usize = 1024;
/// Most pairs of news.
pub const MAX_NEWS: usize = 128;
/// Most places that one message asks for.
pub const MAX_WANTS: usize = 256;

/// A place, the sequence that holds it, and a tag of the record: two records of one sequence have different tags but for one chance in
/// 65,536, which their signer cannot raise, since tags follow from the opening's salt.
pub type Pair = (u64, u64, u16);

const PAIR_BYTES: usize = 18;

/// First: which records the asking side has in a stretch of places.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Opening {
    /// [`super::table::Table::summary`]: if it is the other side's as well, there is nothing to say.
    pub summary: u64,
    /// Drawn for this exchange: what tags follow from.
    pub salt: u64,
    /// First and last place of the stretch.
    pub stretch: (u64, u64),
    /// Every record in it, in the order of places; at most [`MAX_WINDOW`].
    pub window: Vec<Pair>,
    /// What is new here, wherever its place is; at most [`MAX_NEWS`].
    pub news: Vec<Pair>,
}

/// Second: what the answering side lacks, and what it has that the other lacks.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Reply {
    /// Places; at most [`MAX_WANTS`].
    pub wants: Vec<u64>,
    /// What the other side lacks.
    pub records: Vec<Blob>,
    /// What is new here; at most [`MAX_NEWS`].
    pub news: Vec<Pair>,
}

/// Third: what was asked for, and what of the other side's news is lacking here.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Closing {
    /// Places; at most [`MAX_WANTS`].
    pub wants: Vec<u64>,
    /// What was asked for.
    pub records: Vec<Blob>,
}

/// Fourth: what was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Last {
    /// What was asked for.
    pub records: Vec<Blob>,
}

/// Any of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// First.
    Opening(Opening),
    /// Second.
    Reply(Reply),
    /// Third.
    Closing(Closing),
    /// Fourth.
    Last(Last),
}

/// The bytes are no message of this format, or break one of its bounds; always their sender's fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a gossip message of this format")]
pub struct Malformed;

/// Bytes of records in a message.
pub(super) fn record_bytes(blob: &Blob) -> usize {
    2 + blob.len()
}

impl Opening {
    /// Bytes on the wire.
    pub fn bytes(&self) -> usize {
        2 + 4 * 8 + 2 + self.window.len() * PAIR_BYTES + 2 + self.news.len() * PAIR_BYTES
    }
}

impl Reply {
    /// Bytes on the wire.
    pub fn bytes(&self) -> usize {
        2 + 2 + 8 * self.wants.len() + bytes_of(&self.records) + 2 + self.news.len() * PAIR_BYTES
    }
}

impl Closing {
    /// Bytes on the wire.
    pub fn bytes(&self) -> usize {
        2 + 2 + 8 * self.wants.len() + bytes_of(&self.records)
    }

    /// Whether there is no need to send it.
    pub fn is_empty(&self) -> bool {
        self.wants.is_empty() && self.records.is_empty()
    }
}

impl Last {
    /// Bytes on the wire.
    pub fn bytes(&self) -> usize {
        2 + bytes_of(&self.records)
    }
}

fn bytes_of(records: &[Blob]) -> usize {
    2 + records.iter().map(record_bytes).sum::<usize>()
}

impl Message {
    /// The message as bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![FORMAT];
        match self {
            Self::Opening(Opening { summary, salt, stretch, window, news }) => {
                out.push(1);
                [summary, salt, &stretch.0, &stretch.1].into_iter().for_each(|word| out.extend(word.to_le_bytes()));
                put_pairs(&mut out, window);
                put_pairs(&mut out, news);
            }
            Self::Reply(Reply { wants, records, news }) => {
                out.push(2);
                put_places(&mut out, wants);
                put_records(&mut out, records);
                put_pairs(&mut out, news);
            }
            Self::Closing(Closing { wants, records }) => {
                out.push(3);
                put_places(&mut out, wants);
                put_records(&mut out, records);
            }
            Self::Last(Last { records }) => {
                out.push(4);
                put_records(&mut out, records);
            }
        }
        out
    }

    /// Reads a message; all of `bytes` has to be it.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut rest = Rest(bytes);
        let [format, tag] = rest.array::<2>()?;
        if format != FORMAT {
            return Err(Malformed);
        }
        let (message, most) = match tag {
            1 => {
                let [summary, salt, from, to] = [rest.word()?, rest.word()?, rest.word()?, rest.word()?];
                let (window, news) = (rest.pairs(MAX_WINDOW)?, rest.pairs(MAX_NEWS)?);
                let is_sorted = window.windows(2).all(|two| two[0].0 < two[1].0);
                let is_inside = window.iter().all(|(id, ..)| (from..=to).contains(id));
                if !is_sorted || !is_inside {
                    return Err(Malformed);
                }
                (Self::Opening(Opening { summary, salt, stretch: (from, to), window, news }), MAX_OPENING_BYTES)
            }
            2 => {
                let (wants, records, news) = (rest.places()?, rest.records()?, rest.pairs(MAX_NEWS)?);
                (Self::Reply(Reply { wants, records, news }), MAX_REPLY_BYTES)
            }
            3 => (Self::Closing(Closing { wants: rest.places()?, records: rest.records()? }), MAX_CLOSING_BYTES),
            4 => (Self::Last(Last { records: rest.records()? }), MAX_LAST_BYTES),
            _ => return Err(Malformed),
        };
        if rest.0.is_empty() && bytes.len() <= most { Ok(message) } else { Err(Malformed) }
    }
}

fn put_count(out: &mut Vec<u8>, count: usize) {
    // Every list is far shorter by its bound.
    out.extend(u16::try_from(count).unwrap_or(u16::MAX).to_le_bytes());
}

fn put_pairs(out: &mut Vec<u8>, pairs: &[Pair]) {
    put_count(out, pairs.len());
    for (id, sequence, tag) in pairs {
        out.extend(id.to_le_bytes());
        out.extend(sequence.to_le_bytes());
        out.extend(tag.to_le_bytes());
    }
}

fn put_places(out: &mut Vec<u8>, places: &[u64]) {
    put_count(out, places.len());
    places.iter().for_each(|id| out.extend(id.to_le_bytes()));
}

fn put_records(out: &mut Vec<u8>, records: &[Blob]) {
    put_count(out, records.len());
    for blob in records {
        put_count(out, blob.len());
        out.extend_from_slice(blob);
    }
}

struct Rest<'a>(&'a [u8]);

impl Rest<'_> {
    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (head, rest) = self.0.split_first_chunk::<N>().ok_or(Malformed)?;
        self.0 = rest;
        Ok(*head)
    }

    fn word(&mut self) -> Result<u64, Malformed> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    fn count(&mut self, most: usize) -> Result<usize, Malformed> {
        let count = usize::from(u16::from_le_bytes(self.array()?));
        if count <= most { Ok(count) } else { Err(Malformed) }
    }

    fn pairs(&mut self, most: usize) -> Result<Vec<Pair>, Malformed> {
        (0..self.count(most)?).map(|_| Ok((self.word()?, self.word()?, u16::from_le_bytes(self.array()?)))).collect()
    }

    fn places(&mut self) -> Result<Vec<u64>, Malformed> {
        (0..self.count(MAX_WANTS)?).map(|_| self.word()).collect()
    }

    fn records(&mut self) -> Result<Vec<Blob>, Malformed> {
        let count = self.count(usize::from(u16::MAX))?;
        let mut records = Vec::new();
        for _ in 0..count {
            let length = self.count(usize::from(u16::MAX))?;
            let (blob, rest) = self.0.split_at_checked(length).ok_or(Malformed)?;
            // An empty one would let a few bytes stand for very many.
            if blob.is_empty() {
                return Err(Malformed);
            }
            self.0 = rest;
            records.push(blob.into());
        }
        Ok(records)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pairs(most: usize) -> impl Strategy<Value = Vec<Pair>> {
        prop::collection::vec(any::<Pair>(), 0..most)
    }

    fn records() -> impl Strategy<Value = Vec<Blob>> {
        prop::collection::vec(prop::collection::vec(any::<u8>(), 1..200).prop_map(Blob::from), 0..20)
    }

    fn message() -> impl Strategy<Value = Message> {
        let places = || prop::collection::vec(any::<u64>(), 0..20);
        prop_oneof![
            (any::<[u64; 2]>(), pairs(40), pairs(20)).prop_map(|([summary, salt], mut window, news)| {
                window.sort_unstable();
                window.dedup_by_key(|pair| pair.0);
                Message::Opening(Opening { summary, salt, stretch: (0, u64::MAX), window, news })
            }),
            (places(), records(), pairs(20)).prop_map(|(wants, records, news)| Message::Reply(Reply {
                wants,
                records,
                news
            })),
            (places(), records()).prop_map(|(wants, records)| Message::Closing(Closing { wants, records })),
            records().prop_map(|records| Message::Last(Last { records })),
        ]
    }

    proptest! {
        #[test]
        fn a_message_is_read_as_it_was_written_and_costs_what_it_says(message in message()) {
            let bytes = message.encode();
            let said = match &message {
                Message::Opening(opening) => opening.bytes(),
                Message::Reply(reply) => reply.bytes(),
                Message::Closing(closing) => closing.bytes(),
                Message::Last(last) => last.bytes(),
            };
            prop_assert_eq!(bytes.len(), said);
            prop_assert_eq!(Message::decode(&bytes), Ok(message));
        }

        #[test]
        fn hostile_bytes_are_refused_or_mean_what_they_say(mut bytes: Vec<u8>, message in message(), at: prop::sample::Index, to: u8) {
            if let Ok(message) = Message::decode(&bytes) {
                prop_assert_eq!(message.encode(), bytes.clone());
            }
            bytes = message.encode();
            let at = at.index(bytes.len());
            bytes[at] = to;
            if let Ok(message) = Message::decode(&bytes) {
                prop_assert_eq!(message.encode(), bytes);
            }
        }
    }

    #[test]
    fn a_window_is_in_order_and_inside_of_its_stretch() {
        let opening = |stretch, window: &[Pair]| {
            Message::decode(
                &Message::Opening(Opening { stretch, window: window.to_vec(), ..Opening::default() }).encode(),
            )
        };
        assert!(opening((1, 5), &[(1, 0, 0), (5, 0, 0)]).is_ok());
        assert_eq!(opening((1, 5), &[(5, 0, 0), (1, 0, 0)]), Err(Malformed));
        assert_eq!(opening((1, 5), &[(2, 0, 0), (2, 1, 0)]), Err(Malformed));
        assert_eq!(opening((1, 5), &[(6, 0, 0)]), Err(Malformed));
        assert_eq!(opening((5, 1), &[(3, 0, 0)]), Err(Malformed));
    }
}
