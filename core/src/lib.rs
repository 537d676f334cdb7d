//! What the p2pcdn filter and agent share: the types that travel between them and the pure request path.
//!
//! A request travels through these modules in order: [`request_head`] takes in what matters of its headers, [`eligibility`] says
//! whether its client could follow a redirect at all, [`lookup`] turns authority and path into a key, [`replica_table`] knows who holds a verified replica,
//! [`decide`] says whether to redirect and to whom, and [`redirect`] writes the answer. [`sync`] is the message that keeps the
//! table current; [`object`] and [`peer`] are the statements that agents exchange. [`gate`] puts the path together.
//!
//! Nothing here does I/O, reads a clock or draws randomness: time and draws are arguments.
#![forbid(unsafe_code)]
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, clippy::unreachable)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing))]

pub mod decide;
pub mod destination;
pub mod eligibility;
pub mod gate;
pub mod lookup;
pub mod metalink;
pub mod object;
pub mod peer;
pub mod redirect;
pub mod replica_table;
pub mod request_head;
pub mod sync;
