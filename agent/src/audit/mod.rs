//! Looking, as an ordinary client would, at what hosts really serve.
//!
//! [`schedule`] says how many audits are due, [`pick`] which objects they ask for and how, and [`doubt`] whether this site had better
//! suspect itself; all three are pure and run in the simulator as well.

pub mod doubt;
pub mod pick;
pub mod schedule;
