//! The filter's own tests in a proxy like Envoy.

use crate::settings::Proxy;

const PROXY: Proxy = Proxy::Envoy;

#[path = "tests.rs"]
mod tests;
