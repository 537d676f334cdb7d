//! Stories of whole sites: the real Envoy, real agents, real TLS on loopback. One program, since each further one would have to be linked.

mod file_server;
mod origin_server;
mod support;

mod agent_gone;
mod alone;
mod backup;
mod browser;
mod catching_up;
mod changed_objects;
mod clients;
mod clock;
mod code_paths;
mod command_line;
mod convergence;
mod damaged_replica;
mod doctor;
mod documents;
mod earlier_holders;
mod filter_crash;
mod filter_settings;
mod freshness;
mod hostile_input;
mod hosting;
mod idle;
mod interrupted_transfer;
mod keys;
mod lost_host;
mod no_loops;
mod overload;
mod partition;
mod pause;
mod policy;
mod purge;
mod slow_readers;
mod url_origin;
