//! How copies come to be: the origin offers, a host admits, pulls, verifies, commits and acknowledges, and only then is redirected to.
//!
//! [`messages`] are what both sides say, [`origin`] and [`host`] what each of them does, and [`peer_api`] is the door for all of it.
//! [`upload`] gives bytes to peers on either side, within [`bandwidth`], small objects many in one answer ([`batch`]).

pub mod bandwidth;
pub mod batch;
pub mod host;
pub mod messages;
pub mod origin;
pub mod peer_api;
pub mod upload;

pub use bandwidth::Bandwidth;
