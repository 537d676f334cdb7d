//! The one way out: every connection that the agent makes to somebody else begins here.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use p2pcdn_core::object::is_authority;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::address::{is_global, is_unicast};
use super::web::IdleConnections;

/// Makes connections: a name is resolved once, the address is checked, and that very address is connected to.
pub struct Connector {
    allow_private: bool,
    pub(super) web_tls: Arc<ClientConfig>,
    pub(super) idle: IdleConnections,
}

/// Why nothing came of an outgoing connection or request.
#[derive(Debug, thiserror::Error)]
pub enum EgressError {
    /// The caller's fault: not an authority or not a path.
    #[error("{0:?} cannot stand in a URL")]
    Target(String),
    /// The name does not resolve.
    #[error("{authority} does not resolve: {source}")]
    Resolve {
        /// Whom the connection was meant for.
        authority: String,
        /// What the resolver said.
        source: io::Error,
    },
    /// All addresses of the name are private or otherwise special.
    #[error("{authority} leads to {address}, which is not on the public internet (egress.allow_private is off)")]
    NotGlobal {
        /// Whom the connection was meant for.
        authority: String,
        /// The last address refused.
        address: IpAddr,
    },
    /// No address of the name accepted a connection.
    #[error("{authority} does not accept connections: {source}")]
    Connect {
        /// Whom the connection was meant for.
        authority: String,
        /// The last failure.
        source: io::Error,
    },
    /// The TLS handshake failed.
    #[error("TLS with {authority}: {source}")]
    Tls {
        /// Whom the connection was meant for.
        authority: String,
        /// What went wrong.
        source: io::Error,
    },
    /// The other side does not answer in proper HTTP.
    #[error("HTTP with {authority}: {source}")]
    Http {
        /// Whom the request was meant for.
        authority: String,
        /// What went wrong.
        source: hyper::Error,
    },
    /// The answer's body is longer than the caller takes.
    #[error("{authority} answered with more than {limit} bytes")]
    TooLong {
        /// Who answered.
        authority: String,
        /// The bound in bytes.
        limit: usize,
    },
    /// Not done in time.
    #[error("{authority} took too long")]
    Timeout {
        /// Whom the request was meant for.
        authority: String,
    },
}

/// Addresses of one name that are tried at most.
const MAX_ADDRESSES: usize = 6;

impl Connector {
    /// `allow_private` is for labs: it lets connections go to private addresses, too. `web_tls` is for HTTPS.
    pub fn new(allow_private: bool, web_tls: Arc<ClientConfig>) -> Self {
        Self { allow_private, web_tls, idle: IdleConnections::default() }
    }

    /// A TCP connection to `authority` (port 443 unless it names one), its addresses tried one after the other.
    pub async fn connect(&self, authority: &str, timeout: Duration) -> Result<TcpStream, EgressError> {
        let deadline = Instant::now() + timeout;
        let late = || EgressError::Timeout { authority: authority.into() };
        let addresses = timeout_at(deadline, resolve(authority)).await.map_err(|_| late())?.and_then(|found| {
            let checked = self.reachable(&found).map_err(|refused| match refused {
                Some(address) => EgressError::NotGlobal { authority: authority.into(), address },
                None => EgressError::Resolve { authority: authority.into(), source: io::ErrorKind::NotFound.into() },
            });
            checked.map(interleave)
        })?;
        let mut last = io::ErrorKind::TimedOut.into();
        for (tried, address) in addresses.iter().enumerate() {
            // Whoever is left gets an equal share of the time that is left, so a dead address never costs all of it.
            let left = (addresses.len() - tried) as u32;
            let share = deadline.saturating_duration_since(Instant::now()) / left;
            match tokio::time::timeout(share, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => {
                    // Messages are small and waited for.
                    let _ = stream.set_nodelay(true);
                    return Ok(stream);
                }
                Ok(Err(error)) => last = error,
                Err(_) if left == 1 => return Err(late()),
                Err(_) => {}
            }
        }
        Err(EgressError::Connect { authority: authority.into(), source: last })
    }

    /// A TLS connection to `authority`, all within `timeout`; whom to believe is up to `tls`.
    pub async fn connect_tls(
        &self,
        authority: &str,
        tls: Arc<ClientConfig>,
        timeout: Duration,
    ) -> Result<TlsStream<TcpStream>, EgressError> {
        let deadline = Instant::now() + timeout;
        let (host, _) = host_and_port(authority)?;
        let name = ServerName::try_from(host.to_owned()).map_err(|_| EgressError::Target(authority.into()))?;
        let stream = self.connect(authority, timeout).await?;
        match timeout_at(deadline, TlsConnector::from(tls).connect(name, stream)).await {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(source)) => Err(EgressError::Tls { authority: authority.into(), source }),
            Err(_) => Err(EgressError::Timeout { authority: authority.into() }),
        }
    }

    /// The addresses that may be connected to; if there are none, one of those refused.
    fn reachable(&self, found: &[SocketAddr]) -> Result<Vec<SocketAddr>, Option<IpAddr>> {
        let allowed = |ip| if self.allow_private { is_unicast(ip) } else { is_global(ip) };
        let (good, bad): (Vec<_>, Vec<_>) = found.iter().partition(|address| allowed(address.ip()));
        if good.is_empty() { Err(bad.last().map(SocketAddr::ip)) } else { Ok(good) }
    }
}

/// Host and port of an authority.
fn host_and_port(authority: &str) -> Result<(&str, u16), EgressError> {
    let wrong = || EgressError::Target(authority.into());
    if !is_authority(authority) {
        return Err(wrong());
    }
    match authority.split_once(':') {
        Some((host, port)) => Ok((host, port.parse().map_err(|_| wrong())?)),
        None => Ok((authority, 443)),
    }
}

async fn resolve(authority: &str) -> Result<Vec<SocketAddr>, EgressError> {
    let (host, port) = host_and_port(authority)?;
    if let Ok(address) = host.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(address, port)]);
    }
    // RFC 6761, section 6.3: these names never go to DNS.
    if host == "localhost" || host.ends_with(".localhost") {
        return Ok(vec![(Ipv4Addr::LOCALHOST, port).into(), (Ipv6Addr::LOCALHOST, port).into()]);
    }
    #[expect(clippy::disallowed_methods, reason = "this is the one connector")]
    let found = tokio::net::lookup_host((host, port)).await;
    match found {
        Ok(found) => Ok(found.collect()),
        Err(source) => Err(EgressError::Resolve { authority: authority.into(), source }),
    }
}

/// The families take turns, so that one that is broken costs one attempt; the resolver's order holds within each.
fn interleave(addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let first_is_v6 = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let (first, second): (Vec<_>, Vec<_>) = addresses.into_iter().partition(|a| a.is_ipv6() == first_is_v6);
    let mut merged = Vec::new();
    let (mut first, mut second) = (first.into_iter(), second.into_iter());
    while merged.len() < MAX_ADDRESSES {
        let before = merged.len();
        merged.extend(first.next());
        merged.extend(second.next());
        if merged.len() == before {
            break;
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::testing;

    fn connector(allow_private: bool) -> Connector {
        let authority = testing::Authority::new();
        Connector::new(allow_private, authority.trusting())
    }

    #[tokio::test]
    async fn loopback_is_refused_unless_private_addresses_are_allowed() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        for host in ["127.0.0.1", "a.localhost", "localhost"] {
            let authority = format!("{host}:{port}");
            let refused = connector(false).connect(&authority, Duration::from_secs(5)).await;
            assert!(matches!(refused, Err(EgressError::NotGlobal { .. })), "{refused:?}");
            connector(true).connect(&authority, Duration::from_secs(5)).await.unwrap();
        }
    }

    #[tokio::test]
    async fn what_is_no_single_machine_is_refused_even_in_a_lab() {
        for authority in ["0.0.0.0:80", "224.0.0.1:80", "255.255.255.255:80"] {
            let refused = connector(true).connect(authority, Duration::from_secs(5)).await;
            assert!(matches!(refused, Err(EgressError::NotGlobal { .. })), "{refused:?}");
        }
    }

    #[tokio::test]
    async fn hostile_authorities_never_reach_the_resolver() {
        for authority in ["", "a b", "user@host", "a.test:443", "a.test/x", "[::1]", "a.test\r\nHost: b"] {
            let refused = connector(true).connect(authority, Duration::from_secs(5)).await;
            assert!(matches!(refused, Err(EgressError::Target(_))), "{authority:?}");
        }
    }

    #[tokio::test]
    async fn a_closed_port_is_told_apart_from_a_name_that_does_not_exist() {
        let free = testing::free_address().await;
        let refused = connector(true).connect(&free.to_string(), Duration::from_secs(5)).await;
        assert!(matches!(refused, Err(EgressError::Connect { .. })), "{refused:?}");
    }

    #[test]
    fn families_take_turns() {
        let address = |text: &str| text.parse::<SocketAddr>().unwrap();
        let [a, b, c] = ["1.1.1.1:1", "1.1.1.2:1", "1.1.1.3:1"].map(address);
        let six = address("[2600::1]:1");
        assert_eq!(interleave(vec![a, b, c, six]), [a, six, b, c]);
        assert_eq!(interleave(vec![six, a, b]), [six, a, b]);
        assert_eq!(interleave(vec![]), []);
    }
}
