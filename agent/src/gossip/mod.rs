//! What sites tell each other about third ones: signed facts, spread from peer to peer, believed by nobody without a look of its own.
//!
//! The pure part: [`statements`] and [`proof`]s are what can be said, a [`record`] is one of them with its signature, the [`table`] keeps
//! those that hold, [`reconcile`] makes two tables equal by exchanging [`messages`]. A [`partner`] to talk to is drawn so that no swarm
//! gets more than its share, and [`hearsay`] says what a reporter's word is worth. The [`teller`] is what the rest of the agent has to do with,
//! and [`exchange`] is its I/O.
//!
//! Only signed facts about oneself or one's own observations travel: peer records, rotations, observations, proofs. Whether somebody is
//! alive is nobody's business but one's own.

pub mod exchange;
pub mod hearsay;
mod limits;
mod members;
pub mod messages;
pub mod partner;
pub mod proof;
pub mod reconcile;
pub mod record;
pub mod statements;
pub mod table;
pub mod teller;

pub use members::{Bounds, Refused};
pub use record::{Blob, Record};
pub use statements::{Observation, Observations};
pub use table::{Check, Claim, Outcome, Table};
pub use teller::{Event, Gossip, OwnViews};
