//! The p2pcdn proxy-wasm filter: the glue between a proxy and the pure request path of `p2pcdn-core`.
//!
//! [`settings`] checks the configuration once; [`root`] keeps the state of one VM and exchanges it with the agent on every tick;
//! [`request`] takes each request from headers to verdict and [`response`] completes the answer to a return URL. They see the proxy
//! only through [`host`]. What is counted between two reports lies in [`tally`], with [`hot`] for the objects asked for most;
//! [`agreed`] is what all VMs of a proxy share, [`first_hand`] what stays local to see its freshness, and [`metrics`] what operators watch.
//!
//! No call on the request path does I/O, formats text or panics: any doubt lets the request continue to the origin.
#![deny(unsafe_code)]
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, clippy::unreachable)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing))]

pub mod agreed;
#[cfg(target_arch = "wasm32")]
mod entry;
pub mod first_hand;
pub mod host;
pub mod hot;
pub mod metrics;
mod redirect;
pub mod request;
pub mod response;
pub mod root;
pub mod settings;
pub mod tally;
