//! The p2pcdn proxy-wasm filter: the glue between a proxy and the pure request path of `p2pcdn-core`.
//!
//! [`settings`] checks the configuration once; [`root`] keeps the state of one VM and exchanges it with the agent on every tick;
//! [`request`] shows each request to the gate of `p2pcdn-core`, which decides, and [`response`] looks at what the origin answers. They
//! see the proxy only through [`host`]. [`agreed`] is what all VMs of a proxy share, and [`metrics`] what operators watch.
//!
//! No call on the request path does I/O, formats text or panics: any doubt lets the request continue to the origin.
#![deny(unsafe_code)]
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, clippy::unreachable)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing))]

pub mod agreed;
#[cfg(target_arch = "wasm32")]
mod entry;
pub mod host;
pub mod metrics;
pub mod request;
pub mod response;
pub mod root;
pub mod settings;
