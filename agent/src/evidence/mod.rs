//! What visitors' browsers find out about hosts.

pub mod judge;
