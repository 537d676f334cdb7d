//! The p2pcdn agent: moves replicas between sites, verifies them, and tells the filter who holds what.
//!
//! An object travels from the [`catalogue`] (what this site has) through [`replicate`] (who may copy it) into other sites'
//! [`store`]s, from which they [`serve`] it; what came of that is [`publish`]ed to the filter over the [`local_api`], together with
//! how much to redirect, which follows from the [`load`]. [`identity`] says who is who.
//!
//! What hosts serve is looked at by [`audit`] and judged by [`reputation`], which hears of others by [`gossip`] and of visitors by
//! [`evidence`]; [`simulate`] runs those rules in made-up worlds. For proxies without the filter, the [`decider`] decides or a [`nginx_map`] does.

pub mod audit;
pub mod catalogue;
pub mod cli;
pub mod clock;
pub mod conditional;
pub mod decider;
pub mod demand;
pub mod doctor;
pub mod egress;
pub mod evidence;
pub mod gossip;
pub mod http_server;
pub mod identity;
pub mod known_time;
pub mod load;
pub mod local_api;
pub mod nginx_map;
pub mod pause;
pub mod policy;
pub mod publish;
pub mod rate_limit;
pub mod replicate;
pub mod reputation;
pub mod run;
pub mod serve;
pub mod settings;
pub mod shutdown;
pub mod simulate;
pub mod state_db;
pub mod store;
pub mod telemetry;
