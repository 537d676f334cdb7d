//! Who this agent is, and whom it knows.
//!
//! [`node_key`] is the agent's one key; [`signed`] statements are made with it, [`own_record`] being the one about itself. [`tls`]
//! turns the key into both ends of the connections between agents: [`peer_listener`] lets others in (behind
//! [`proxy_protocol`]) and [`peer_client`] goes to them. Everything that leaves goes through the [`connector`], which asks
//! [`address`] where it may go; [`web`] is HTTPS over it. An [`introduction`] fetches what a domain says about itself, the
//! [`roster`] decides what that changes, and [`membership`] remembers it. [`hello`] is the first exchange between two agents,
//! as often as `knocks` allows, and the [`introducer`] keeps it going. What strangers say passes through [`plain()`] before anybody reads it.

pub mod address;
pub mod backup;
pub mod connector;
pub mod hello;
pub mod introducer;
pub mod introduction;
mod knocks;
pub mod membership;
pub mod neighbourhood;
pub mod node_key;
pub mod once_per;
pub mod own_record;
pub mod peer_client;
pub mod peer_listener;
pub mod plain;
pub mod proxy_protocol;
pub mod roster;
pub mod rotate;
pub mod rotation;
pub mod sequence;
pub mod signed;
pub mod tls;
pub mod web;

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

use p2pcdn_core::peer::PROTOCOL_VERSION;

pub use connector::{Connector, EgressError};
pub use introducer::{Contact, Introducer, MeetError};
pub use introduction::Introduction;
pub use membership::{Membership, MembershipError};
pub use neighbourhood::{Network, network, registrable};
pub use node_key::{NodeKey, NodeKeyError};
pub use own_record::{AboutUs, OwnRecord, OwnRecordError};
pub use peer_client::{PeerClient, PeerClientError, Refusal};
pub use peer_listener::PeerIdentity;
pub use plain::plain;
pub use roster::{Introduced, OpenBounds, Peer, RosterBounds, Standing};
pub use sequence::{Counter, CounterError};
pub use signed::{Signed, SignedError, Statement, sign};
pub use tls::{NodeCertificate, TlsSetupError, check_extra_root, web_client_config};
pub use web::WebResponse;

/// Protocol versions that this agent speaks, lowest first.
pub const OUR_VERSIONS: &[u16] = &[PROTOCOL_VERSION];
