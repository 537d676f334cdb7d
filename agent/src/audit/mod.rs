//! Looking, as an ordinary client would, at what hosts really serve.
//!
//! [`schedule`] says how many audits are due, [`pick`] which objects they ask for and how, [`guise`] how the request looks, [`reading`] what
//! of the body is right once its [`codings`] are undone, [`verdict`] what an answer proves, and [`doubt`] whether this site had better suspect
//! itself; all of them are pure, and the simulator runs what it needs of them. [`watch`] keeps what each holder is owed, [`client`] asks, and
//! the [`auditor`] keeps it all going.

pub mod auditor;
pub mod client;
pub mod codings;
pub mod doubt;
pub mod guise;
pub mod pick;
pub mod reading;
pub mod schedule;
pub mod verdict;
pub mod watch;
