//! Free ports, held until the program that listens on them starts.

use std::io;
use std::net::{Ipv4Addr, TcpListener};

/// Ports to draw from: below every usual ephemeral range. Otherwise an outgoing connection could take a site's port while the site
/// is down, and a connection to a dead port could even connect to itself.
const FIRST: u16 = 20_000;
const COUNT: u16 = 12_000;

/// A port on 127.0.0.1.
pub(crate) struct Port {
    pub(crate) number: u16,
    held: Option<TcpListener>,
}

impl Port {
    /// Finds a free port and holds it.
    pub(crate) fn hold() -> io::Result<Self> {
        // Tests in many processes draw at the same time, so each begins somewhere else: where the kernel puts it.
        let start = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port() % COUNT;
        let mut last = io::Error::from(io::ErrorKind::AddrInUse);
        for step in 0..COUNT {
            let number = FIRST + (start + step) % COUNT;
            match TcpListener::bind((Ipv4Addr::LOCALHOST, number)) {
                Ok(held) => return Ok(Self { number, held: Some(held) }),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// Lets go of it, just before its program starts.
    pub(crate) fn release(&mut self) {
        self.held = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_held_port_is_nobody_elses_and_a_released_one_is_free() {
        let mut port = Port::hold().unwrap();
        let other = Port::hold().unwrap();
        assert_ne!(port.number, other.number);
        assert!(TcpListener::bind((Ipv4Addr::LOCALHOST, port.number)).is_err());
        port.release();
        assert!(TcpListener::bind((Ipv4Addr::LOCALHOST, port.number)).is_ok());
    }
}
