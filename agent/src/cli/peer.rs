//! `p2pcdn peer`.

use clap::Subcommand;
use serde_json::Value;

use super::client::Agent;
use super::{CliError, show};
use crate::local_api::status::{PeerState, PeerStatus};
use crate::local_api::{PEER_ACCEPT_PATH, PEER_ADD_PATH, PEER_REMOVE_PATH, PeerRequest};

#[derive(Debug, Subcommand)]
pub(super) enum PeerCommand {
    /// Invite a site; it becomes a peer once it has added this one, too.
    Add {
        /// Its domain.
        domain: String,
    },
    /// Accept a site that wants to be a peer, or the new key of one that has changed it.
    Accept {
        /// Its domain.
        domain: String,
    },
    /// Show every site that this one has to do with.
    List(show::Format),
    /// End the acquaintance with a site: its replicas are no longer used.
    ///
    /// Where membership is open it is not let in again, either, until it is added by name. A domain that stands in peers.invited comes back
    /// at the next start.
    Remove {
        /// Its domain.
        domain: String,
    },
}

pub(super) async fn run(agent: &Agent<'_>, command: PeerCommand) -> Result<(), CliError> {
    match command {
        PeerCommand::Add { domain } => {
            let peer: PeerStatus = agent.post(PEER_ADD_PATH, &PeerRequest { domain }).await?;
            match peer.state {
                PeerState::Pinned => println!("{} is a peer already", peer.domain),
                _ => println!("invited {}; its operator has to add this site, too: p2pcdn peer add", peer.domain),
            }
        }
        PeerCommand::Accept { domain } => {
            let peer: PeerStatus = agent.post(PEER_ACCEPT_PATH, &PeerRequest { domain }).await?;
            println!("accepted {}; p2pcdn peer list shows when both sides have met", peer.domain);
        }
        PeerCommand::Remove { domain } => {
            let _: Value = agent.post(PEER_REMOVE_PATH, &PeerRequest { domain: domain.clone() }).await?;
            println!("removed {domain}");
        }
        PeerCommand::List(format) => show::peers(agent, format).await?,
    }
    Ok(())
}
