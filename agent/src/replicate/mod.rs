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
mod progress;
pub mod turns;
pub mod upload;

pub use bandwidth::Bandwidth;

use crate::identity::{Peer, PeerClient, PeerClientError};
use messages::{Done, MAX_MESSAGE_BYTES, WITHDRAWALS_PATH, Withdrawal, WithdrawalReason, Withdrawals};

/// Tells a peer of copies that are no more or shall be no more.
pub async fn send_withdrawals(
    client: &PeerClient,
    peer: &Peer,
    withdrawals: Vec<Withdrawal>,
    reason: WithdrawalReason,
) -> Result<(), PeerClientError> {
    let message = Withdrawals { withdrawals, reason };
    let _: Done = client.json(&peer.record, WITHDRAWALS_PATH, &message, MAX_MESSAGE_BYTES).await?;
    Ok(())
}
