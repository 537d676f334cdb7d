//! Who is really connecting: the PROXY protocol header (version 2) that the proxy in front writes.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use ppp::v2::{Addresses, Command, Header, ParseError};
use tokio::io::{AsyncRead, AsyncReadExt};

/// Longest header in bytes, TLVs included.
pub const MAX_HEADER_BYTES: usize = 536;

/// Why a connection does not begin with a usable header; the fault of whoever connected past the proxy, or of the proxy's settings.
#[derive(Debug, thiserror::Error)]
pub enum ProxyProtocolError {
    /// Something else than a header of version 2.
    #[error("the connection does not begin with a PROXY protocol v2 header")]
    Malformed(#[source] ParseError),
    /// Longer than [`MAX_HEADER_BYTES`].
    #[error("the PROXY protocol header is longer than {MAX_HEADER_BYTES} bytes")]
    TooLong,
    /// A health check of the proxy, or a client without an IP address.
    #[error("the PROXY protocol header names no client address")]
    NoAddress,
    /// The connection ended or failed before the header was complete.
    #[error("no PROXY protocol header: {0}")]
    Io(#[from] io::Error),
    /// The header was not complete in time.
    #[error("no PROXY protocol header in time")]
    Timeout,
}

/// Bytes before the part whose length the header tells.
const FIXED_BYTES: usize = 16;

/// Reads the header, not a byte more, and returns the client's address.
pub async fn read_header(
    stream: &mut (impl AsyncRead + Unpin),
    timeout: Duration,
) -> Result<SocketAddr, ProxyProtocolError> {
    let read = async {
        let mut header = [0; MAX_HEADER_BYTES];
        stream.read_exact(&mut header[..FIXED_BYTES]).await?;
        match Header::try_from(&header[..FIXED_BYTES]) {
            Ok(_) | Err(ParseError::Partial(..)) => {}
            Err(error) => return Err(ProxyProtocolError::Malformed(error)),
        }
        let length = FIXED_BYTES + usize::from(u16::from_be_bytes([header[14], header[15]]));
        let rest = header.get_mut(FIXED_BYTES..length).ok_or(ProxyProtocolError::TooLong)?;
        stream.read_exact(rest).await?;
        client_address(&header[..length])
    };
    tokio::time::timeout(timeout, read).await.map_err(|_| ProxyProtocolError::Timeout)?
}

fn client_address(header: &[u8]) -> Result<SocketAddr, ProxyProtocolError> {
    let header = Header::try_from(header).map_err(ProxyProtocolError::Malformed)?;
    match (header.command, header.addresses) {
        (Command::Proxy, Addresses::IPv4(v4)) => Ok((v4.source_address, v4.source_port).into()),
        (Command::Proxy, Addresses::IPv6(v6)) => Ok((v6.source_address, v6.source_port).into()),
        _ => Err(ProxyProtocolError::NoAddress),
    }
}

#[cfg(test)]
mod tests {
    use ppp::v2::{Builder, Protocol, Type, Version};
    use proptest::prelude::*;

    use super::*;

    fn header(command: Command, tlv: usize) -> Vec<u8> {
        let client: SocketAddr = "203.0.113.7:4711".parse().unwrap();
        let server: SocketAddr = "192.0.2.1:443".parse().unwrap();
        let builder = Builder::with_addresses(Version::Two | command, Protocol::Stream, (client, server));
        builder.write_tlv(Type::NoOp, &vec![0; tlv]).unwrap().build().unwrap()
    }

    async fn read(mut bytes: &[u8]) -> (Result<SocketAddr, ProxyProtocolError>, Vec<u8>) {
        let result = read_header(&mut bytes, Duration::from_secs(5)).await;
        (result, bytes.to_vec())
    }

    #[tokio::test]
    async fn the_client_is_known_and_what_follows_is_left_alone() {
        for tlv in [0, 100, MAX_HEADER_BYTES - FIXED_BYTES - 12 - 3] {
            let bytes = [header(Command::Proxy, tlv), b"after".to_vec()].concat();
            let (result, rest) = read(&bytes).await;
            assert_eq!(result.unwrap(), "203.0.113.7:4711".parse().unwrap());
            assert_eq!(rest, b"after");
        }
    }

    #[tokio::test]
    async fn other_beginnings_are_refused_for_their_reason() {
        let too_long = header(Command::Proxy, MAX_HEADER_BYTES - FIXED_BYTES - 12 - 2);
        assert!(matches!(read(&too_long).await.0, Err(ProxyProtocolError::TooLong)));
        assert!(matches!(read(&header(Command::Local, 0)).await.0, Err(ProxyProtocolError::NoAddress)));
        assert!(matches!(read(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.0, Err(ProxyProtocolError::Malformed(_))));
        assert!(matches!(read(b"PROXY TCP4 1.1.1.1 2.2.2.2 1 2\r\n").await.0, Err(ProxyProtocolError::Malformed(_))));
        assert!(matches!(read(&header(Command::Proxy, 9)[..20]).await.0, Err(ProxyProtocolError::Io(_))));
    }

    #[tokio::test]
    async fn a_silent_connection_is_not_waited_for() {
        let (_held, mut silent) = tokio::io::duplex(64);
        let result = read_header(&mut silent, Duration::from_millis(10)).await;
        assert!(matches!(result, Err(ProxyProtocolError::Timeout)));
    }

    proptest! {
        #[test]
        fn hostile_bytes_never_panic(mut bytes: Vec<u8>, position: prop::sample::Index, flip: u8) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
            let _ = runtime.block_on(read(&bytes));
            bytes = [header(Command::Proxy, 9), bytes].concat();
            let position = position.index(bytes.len());
            bytes[position] ^= flip;
            let _ = runtime.block_on(read(&bytes));
        }
    }
}
