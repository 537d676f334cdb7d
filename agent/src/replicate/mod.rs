//! How copies come to be: the origin offers, a host admits, pulls, verifies, commits and acknowledges, and only then is redirected to.
//!
//! [`messages`] are what both sides say. On the origin's side [`share`] offers what [`plan`] finds lacking by [`wanted`] and [`rank`],
//! [`holders`] judges who can be redirected to now, and [`probe`] asks them; on the host's side [`admit`] decides what is taken in and
//! [`pull`] fetches it, small objects many in one answer ([`batch`]), from whoever holds it: [`upload`] gives bytes to peers, within
//! [`bandwidth`].
//! [`withdraw`] takes replicas back, in the order that never leaves a redirect without bytes. [`peer_api`] is the door for all of it.

pub mod admit;
pub mod bandwidth;
pub mod batch;
pub mod holders;
pub mod messages;
pub mod peer_api;
pub mod plan;
pub mod probe;
pub mod pull;
pub mod rank;
pub mod share;
pub mod upload;
pub mod wanted;
pub mod withdraw;

pub use bandwidth::Bandwidth;
