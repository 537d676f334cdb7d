//! Stories of whole sites: the real Envoy, real agents, real TLS on loopback. One program, since each further one would have to be linked.

mod support;

mod alone;
mod changed_objects;
mod damaged_replica;
mod idle;
mod keys;
mod lost_host;
mod overload;
mod pause;
