//! The message that each filter VM and the agent exchange once per tick: counts go up, changes of the replica table come down.
//!
//! A frame is, byte by byte: magic `p2p\x01` (4), format version (1), kind (1), length of the body in bytes (4, little endian),
//! SipHash-1-3 of the body under a zero key (8, little endian), body. The body is postcard, a documented compact format. The checksum is
//! against torn and truncated buffers, not against an enemy: both ends are the operator's own.

use std::hash::Hasher;

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use siphasher::sip::SipHasher13;

use crate::decide::{Steering, Targets};
use crate::destination::Destinations;
use crate::eligibility::Refusal;
use crate::lookup::HashKey;
use crate::object::{Class, Embedding, Sha256, Sharing};

/// Format version of the body; a reader accepts its own and says so otherwise.
///
/// It is the first release's: no filter or agent out there speaks an earlier one. Whoever changes it lets the agent, which is upgraded
/// first, go on reading and writing the one before for one release.
pub const FORMAT: u8 = 3;
/// Most bytes of one frame in either direction: what the slowest proxy host still takes in without stalling its worker.
pub const MAX_FRAME_BYTES: usize = 1 << 20;
/// Most hot keys in one report.
pub const MAX_HOT: usize = 64;
/// Most returned keys in one report, and most keys in [`Report::contradicted`] and [`Report::questioned`].
pub const MAX_RETURNED: usize = 64;
/// Most paths in [`Report::wanted`].
pub const MAX_WANTED: usize = 32;
/// Most paths in [`Report::pages`].
pub const MAX_PAGES: usize = 8;

const MAGIC: [u8; 4] = *b"p2p\x01";
const HEADER_BYTES: usize = 18;

/// How much of a snapshot a VM has taken in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Progress {
    /// Nothing yet.
    #[default]
    Empty,
    /// Every object whose key is not above this one.
    UpTo(u64),
    /// Everything.
    Complete,
}

impl Progress {
    /// Whether objects with this key have been taken in.
    pub fn covers(self, key: u64) -> bool {
        match self {
            Self::Empty => false,
            Self::UpTo(last) => key <= last,
            Self::Complete => true,
        }
    }
}

/// Which state of the table a VM has.
///
/// The agent answers with all changes since `version` to what `progress` covers, and with the next page of a snapshot if that is not
/// everything; so what has been loaded is current even while loading goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Have {
    /// Which run of the agent drew up the table; 0 for none.
    pub session: u64,
    /// The last change that was applied.
    pub version: u64,
    /// How far the snapshot has been loaded.
    pub progress: Progress,
}

/// What one VM has seen since its last report that was answered.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Report {
    /// Number that this VM drew when it started.
    pub vm: u64,
    /// The table it has.
    pub have: Have,
    /// Milliseconds since the last report that was answered.
    pub interval_ms: u32,
    /// Counts over that interval.
    pub counts: Counts,
    /// Requests of this VM in flight now.
    pub in_flight: u32,
    /// Objects asked for most: key and number of requests, at most [`MAX_HOT`].
    pub hot: Vec<(u64, u32)>,
    /// Redirects by holder.
    pub redirected_to: Vec<Redirected>,
    /// Keys that clients were sent back for, at most [`MAX_RETURNED`]; a hint, since clients can lie.
    pub returned: Vec<u64>,
    /// Keys of objects for which the origin was seen to answer a plain request with another strong entity tag; at most
    /// [`MAX_RETURNED`]. The VM has taken them out of its table.
    pub contradicted: Vec<u64>,
    /// Keys of objects for which the origin was seen to answer otherwise than with the version in the table, which proves
    /// nothing; at most [`MAX_RETURNED`].
    pub questioned: Vec<u64>,
    /// Eligible requests by target that found nothing in the table, at most [`MAX_WANTED`] targets: what could be shared.
    pub wanted: Vec<Wanted>,
    /// Paths that browsers navigated to, at most [`MAX_PAGES`]: pages whose policy matters.
    pub pages: Vec<String>,
    /// Requests that stayed, by reason.
    pub refused: Vec<Refused>,
    /// What the operator wants this site to carry itself.
    pub targets: Targets,
}

/// Requests by fate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Counts {
    /// Requests that reached the filter.
    pub requests: u64,
    /// Of these, requests that could have been redirected.
    pub eligible: u64,
    /// Bytes of their objects.
    pub eligible_bytes: u64,
    /// Requests that were redirected.
    pub redirected: u64,
    /// Bytes of their objects.
    pub redirected_bytes: u64,
    /// Requests for objects in the table that the origin failed to answer.
    pub origin_failures: u64,
    /// Of these, requests that were redirected instead; also counted as redirected.
    pub rescued: u64,
}

impl Counts {
    /// Adds `other` to these counts; saturates.
    pub fn add(&mut self, other: &Self) {
        self.requests = self.requests.saturating_add(other.requests);
        self.eligible = self.eligible.saturating_add(other.eligible);
        self.eligible_bytes = self.eligible_bytes.saturating_add(other.eligible_bytes);
        self.redirected = self.redirected.saturating_add(other.redirected);
        self.redirected_bytes = self.redirected_bytes.saturating_add(other.redirected_bytes);
        self.origin_failures = self.origin_failures.saturating_add(other.origin_failures);
        self.rescued = self.rescued.saturating_add(other.rescued);
    }
}

/// A target that was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wanted {
    /// Canonical target.
    pub target: String,
    /// Requests.
    pub requests: u32,
}

/// Requests that stayed for one reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// Why.
    pub reason: Refusal,
    /// Requests.
    pub requests: u64,
}

/// Redirects to one holder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Redirected {
    /// The holder's number in the table.
    pub holder: u16,
    /// Redirects.
    pub requests: u32,
    /// Bytes of their objects.
    pub bytes: u64,
}

/// The agent's answer to a [`Report`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Update {
    /// What the VM has once it applied `ops`.
    pub now: Have,
    /// Whether everything the VM had goes first.
    pub clear: bool,
    /// Key of the hash that `ops` use.
    pub hash_key: HashKey,
    /// Milliseconds after which the table is void unless another update arrives.
    pub ttl_ms: u32,
    /// How much to redirect.
    pub steering: Steering,
    /// This VM's share of every lease, in millionths.
    pub lease_share_ppm: u32,
    /// Whether there is more to tell already, so that the VM had better ask again soon.
    pub more: bool,
    /// Changes, in the order in which they happened.
    pub ops: Vec<Op>,
}

/// One change of the replica table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Op {
    /// Describes a holder anew.
    Holder(HolderRow),
    /// Describes a set of holders anew.
    Set {
        /// The set's number.
        id: u16,
        /// Numbers of its holders.
        holders: Vec<u16>,
    },
    /// Adds or replaces an object.
    Object(ObjectRow),
    /// Removes an object.
    Remove {
        /// The object's key.
        key: u64,
    },
}

/// A peer that clients can be redirected to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HolderRow {
    /// Number of the holder in this table.
    pub id: u16,
    /// Its replica name.
    pub authority: String,
    /// 0 (no redirects) to 1000.
    pub weight: u16,
    /// Bytes per second that it grants to this origin.
    pub lease_bytes_per_s: u64,
    /// Has yet to prove itself, see [`crate::decide::choose`].
    pub newcomer: bool,
    /// What browsers cannot load there because the site's own Content-Security-Policy forbids it, or may and nobody knows.
    pub blocked: Destinations,
}

/// An object of which verified replicas exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectRow {
    /// Keyed hash of authority and path.
    pub key: u64,
    /// The version that the holders have.
    pub sha256: Sha256,
    /// Length in bytes, below 2^40.
    pub size: u64,
    /// What kind of object.
    pub class: Class,
    /// [`HashKey::validator`] of the strong entity tag that the origin answers with; 0 if that is not known.
    pub validator: u32,
    /// Seconds since the Unix epoch until which this version may be served unasked; `u32::MAX` while the agent itself watches the file.
    pub fresh_until_s: u32,
    /// Seconds after that for which a stale copy may stand in for a failing origin.
    pub stale_if_error_s: u32,
    /// Who may read it across origins.
    pub sharing: Sharing,
    /// Who may embed it.
    pub embedding: Embedding,
    /// Number of the set of its holders.
    pub set: u16,
}

/// A message that travels in a frame.
pub trait Message: Serialize + DeserializeOwned {
    /// Tells reports from updates.
    const KIND: u8;
}

impl Message for Report {
    const KIND: u8 = 1;
}

impl Message for Update {
    const KIND: u8 = 2;
}

/// Why a frame was not understood; always its sender's fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Shorter than its header, or than the header says, or longer.
    #[error("the frame has another length than it says")]
    Length,
    /// Above [`MAX_FRAME_BYTES`].
    #[error("the frame is longer than {MAX_FRAME_BYTES} bytes")]
    TooLong,
    /// Not a frame of this protocol.
    #[error("not a p2pcdn sync frame")]
    Magic,
    /// A report where an update is due, or the reverse.
    #[error("the frame is of another kind")]
    Kind,
    /// Another format version.
    #[error("format version {0} where {FORMAT} is spoken: bring filter and agent to neighbouring releases")]
    Format(u8),
    /// Torn or changed on the way.
    #[error("the checksum does not match")]
    Checksum,
    /// The body is not a message.
    #[error("the body is not a message")]
    Body,
}

/// Writes `message` as one frame; fails only with [`FrameError::TooLong`] or, for a type that postcard cannot write, [`FrameError::Body`].
pub fn encode<T: Message>(message: &T) -> Result<Vec<u8>, FrameError> {
    let body = postcard::to_allocvec(message).map_err(|_| FrameError::Body)?;
    let length = u32::try_from(body.len()).map_err(|_| FrameError::TooLong)?;
    if body.len().saturating_add(HEADER_BYTES) > MAX_FRAME_BYTES {
        return Err(FrameError::TooLong);
    }
    let mut frame = Vec::with_capacity(HEADER_BYTES + body.len());
    frame.extend_from_slice(&MAGIC);
    frame.extend_from_slice(&[FORMAT, T::KIND]);
    frame.extend_from_slice(&length.to_le_bytes());
    frame.extend_from_slice(&checksum(&body).to_le_bytes());
    frame.extend_from_slice(&body);
    Ok(frame)
}

/// Reads one frame that fills `frame` exactly.
pub fn decode<T: Message>(frame: &[u8]) -> Result<T, FrameError> {
    if frame.len() > MAX_FRAME_BYTES {
        return Err(FrameError::TooLong);
    }
    let (magic, rest) = frame.split_first_chunk::<4>().ok_or(FrameError::Length)?;
    let ([format, kind], rest) = rest.split_first_chunk::<2>().ok_or(FrameError::Length)?;
    let (length, rest) = rest.split_first_chunk::<4>().ok_or(FrameError::Length)?;
    let (sum, body) = rest.split_first_chunk::<8>().ok_or(FrameError::Length)?;
    if *magic != MAGIC {
        return Err(FrameError::Magic);
    }
    if *format != FORMAT {
        return Err(FrameError::Format(*format));
    }
    if *kind != T::KIND {
        return Err(FrameError::Kind);
    }
    if usize::try_from(u32::from_le_bytes(*length)) != Ok(body.len()) {
        return Err(FrameError::Length);
    }
    if u64::from_le_bytes(*sum) != checksum(body) {
        return Err(FrameError::Checksum);
    }
    match postcard::take_from_bytes(body) {
        Ok((message, [])) => Ok(message),
        _ => Err(FrameError::Body),
    }
}

/// SipHash-1-3 under a zero key, as in the header of a frame.
pub fn checksum(bytes: &[u8]) -> u64 {
    let mut hasher = SipHasher13::new();
    hasher.write(bytes);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            (any::<u16>(), ".{0,40}", any::<u16>(), any::<u64>()).prop_map(
                |(id, authority, weight, lease_bytes_per_s)| {
                    Op::Holder(HolderRow {
                        id,
                        authority,
                        weight,
                        lease_bytes_per_s,
                        newcomer: weight % 2 == 1,
                        blocked: Destinations::NONE,
                    })
                }
            ),
            (any::<u16>(), prop::collection::vec(any::<u16>(), 0..40))
                .prop_map(|(id, holders)| Op::Set { id, holders }),
            (any::<u64>(), any::<[u8; 32]>(), any::<u64>(), 0..6usize, any::<u32>(), any::<u16>()).prop_map(
                |(key, digest, size, class, fresh_until_s, set)| {
                    let (sha256, class) = (Sha256(digest), Class::ALL[class]);
                    let (sharing, embedding) = (Sharing::SameOrigin, Embedding::Anyone);
                    Op::Object(ObjectRow {
                        key,
                        sha256,
                        size,
                        class,
                        validator: 1,
                        fresh_until_s,
                        stale_if_error_s: 9,
                        sharing,
                        embedding,
                        set,
                    })
                }
            ),
            any::<u64>().prop_map(|key| Op::Remove { key }),
        ]
    }

    fn update(ops: Vec<Op>) -> Update {
        Update {
            now: Have { session: 1, version: 2, progress: Progress::UpTo(3) },
            clear: true,
            hash_key: HashKey([4, 5]),
            ttl_ms: 6,
            steering: Steering::default(),
            lease_share_ppm: 7,
            more: false,
            ops,
        }
    }

    #[test]
    fn a_frame_of_the_wrong_kind_or_format_is_named() {
        let report = encode(&Report::default()).unwrap();
        assert_eq!(decode::<Update>(&report), Err(FrameError::Kind));
        let mut newer = report.clone();
        newer[4] = 9;
        assert_eq!(decode::<Report>(&newer), Err(FrameError::Format(9)));
        assert_eq!(decode::<Report>(&report[..10]), Err(FrameError::Length));
        assert_eq!(decode::<Report>(b"HTTP/1.1 503 Service Unavailable"), Err(FrameError::Magic));
    }

    #[test]
    fn a_body_that_claims_a_huge_list_is_refused_without_allocating_it() {
        // clear = 0 ... then a list of 2^63 operations in a body of a few bytes.
        let body = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f];
        let mut frame = MAGIC.to_vec();
        frame.extend_from_slice(&[FORMAT, Update::KIND]);
        frame.extend_from_slice(&(body.len() as u32).to_le_bytes());
        frame.extend_from_slice(&checksum(&body).to_le_bytes());
        frame.extend_from_slice(&body);
        assert_eq!(decode::<Update>(&frame), Err(FrameError::Body));
    }

    #[test]
    fn a_message_above_the_frame_limit_is_not_sent() {
        let many = update(vec![Op::Set { id: 0, holders: vec![u16::MAX; 1 << 19] }]);
        assert_eq!(encode(&many), Err(FrameError::TooLong));
    }

    proptest! {
        #[test]
        fn updates_survive_the_wire(ops in prop::collection::vec(op(), 0..30)) {
            let update = update(ops);
            prop_assert_eq!(decode::<Update>(&encode(&update).unwrap()), Ok(update));
        }

        #[test]
        fn any_changed_byte_is_noticed(ops in prop::collection::vec(op(), 0..8), at: prop::sample::Index, flip in 1..=255u8) {
            let mut frame = encode(&update(ops)).unwrap();
            let at = at.index(frame.len());
            frame[at] ^= flip;
            prop_assert!(decode::<Update>(&frame).is_err());
        }

        #[test]
        fn hostile_bytes_are_refused(bytes: Vec<u8>) {
            prop_assert!(decode::<Update>(&bytes).is_err());
            prop_assert!(decode::<Report>(&bytes).is_err());
        }

        #[test]
        fn hostile_bodies_never_panic(body: Vec<u8>) {
            let mut frame = MAGIC.to_vec();
            frame.extend_from_slice(&[FORMAT, Report::KIND]);
            frame.extend_from_slice(&(body.len() as u32).to_le_bytes());
            frame.extend_from_slice(&checksum(&body).to_le_bytes());
            frame.extend_from_slice(&body);
            let _ = decode::<Report>(&frame);
        }
    }
}
