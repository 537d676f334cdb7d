//! Stories of whole sites: the real Envoy, real agents, real TLS on loopback. One program, since each further one would have to be linked.

mod support;

mod idle;
mod overload;
mod pause;
