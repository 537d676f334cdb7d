//! Who is really connecting: the PROXY protocol header that the proxy in front writes, version 2 as Envoy or version 1 as nginx.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use ppp::v1;
use ppp::v2::{Addresses, Command, Header, ParseError};
use tokio::io::{AsyncRead, AsyncReadExt};

/// Longest header in bytes, TLVs included.
pub const MAX_HEADER_BYTES: usize = 536;

/// Why a connection does not begin with a usable header; the fault of whoever connected past the proxy, or of the proxy's settings.
#[derive(Debug, thiserror::Error)]
pub enum ProxyProtocolError {
    /// Something else than a header of version 1 or 2.
    #[error("the connection does not begin with a PROXY protocol header")]
    Malformed(#[source] ParseError),
    /// It begins like a header of version 1, but is none.
    #[error("the PROXY protocol v1 header is malformed")]
    MalformedText(#[source] v1::BinaryParseError),
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

/// Bytes before the part whose length a header of version 2 tells; no header of version 1 that names an address is as short.
const FIXED_BYTES: usize = 16;
/// How a header of version 1 begins and ends, and its greatest length.
const TEXT_START: &[u8] = b"PROXY ";
const TEXT_END: &[u8] = b"\r\n";
const MAX_TEXT_BYTES: usize = 107;

/// Reads the header, not a byte more, and returns the client's address.
pub async fn read_header(
    stream: &mut (impl AsyncRead + Unpin),
    timeout: Duration,
) -> Result<SocketAddr, ProxyProtocolError> {
    let read = async {
        let mut header = [0; MAX_HEADER_BYTES];
        stream.read_exact(&mut header[..FIXED_BYTES]).await?;
        if header.starts_with(TEXT_START) {
            return read_text(stream, &mut header[..MAX_TEXT_BYTES]).await;
        }
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

/// Reads the rest of a header of version 1, whose end only shows when it is there.
async fn read_text(stream: &mut (impl AsyncRead + Unpin), header: &mut [u8]) -> Result<SocketAddr, ProxyProtocolError> {
    let mut length = FIXED_BYTES;
    while !header[..length].ends_with(TEXT_END) {
        header[length] = stream.read_u8().await?;
        length += 1;
        if length == header.len() {
            break;
        }
    }
    let header = v1::Header::try_from(&header[..length]).map_err(ProxyProtocolError::MalformedText)?;
    match header.addresses {
        v1::Addresses::Tcp4(v4) => Ok((v4.source_address, v4.source_port).into()),
        v1::Addresses::Tcp6(v6) => Ok((v6.source_address, v6.source_port).into()),
        v1::Addresses::Unknown => Err(ProxyProtocolError::NoAddress),
    }
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
    async fn the_older_version_is_understood_as_nginx_writes_it() {
        for (header, client) in [
            ("PROXY TCP4 203.0.113.7 192.0.2.1 4711 443\r\n", "203.0.113.7:4711"),
            ("PROXY TCP4 1.1.1.1 2.2.2.2 1 2\r\n", "1.1.1.1:1"),
            ("PROXY TCP6 2001:db8::7 2001:db8::1 4711 443\r\n", "[2001:db8::7]:4711"),
        ] {
            let (result, rest) = read(&[header.as_bytes(), b"after"].concat()).await;
            assert_eq!(result.unwrap(), client.parse().unwrap());
            assert_eq!(rest, b"after");
        }
        for malformed in [
            "PROXY TCP4 1.1.1.1 2.2.2.2 1\r\n",
            "PROXY TCP4 1.1.1.1 2.2.2.2 1 2\n....\r\n",
            "PROXY UDP4 1.1.1.1 2.2.2.2 1 2\r\n",
        ] {
            let (result, _) = read(malformed.as_bytes()).await;
            assert!(matches!(result, Err(ProxyProtocolError::MalformedText(_))), "{malformed:?}");
        }
        let endless = [&b"PROXY TCP4 "[..], &[b'1'; 200]].concat();
        assert!(matches!(read(&endless).await.0, Err(ProxyProtocolError::MalformedText(_))));
        assert!(matches!(read(b"PROXY UNKNOWN\r\n\x16\r\n").await.0, Err(ProxyProtocolError::NoAddress)));
        assert!(matches!(read(b"PROXY TCP4 1.1.1.1 2").await.0, Err(ProxyProtocolError::Io(_))));
    }

    #[tokio::test]
    async fn other_beginnings_are_refused_for_their_reason() {
        let too_long = header(Command::Proxy, MAX_HEADER_BYTES - FIXED_BYTES - 12 - 2);
        assert!(matches!(read(&too_long).await.0, Err(ProxyProtocolError::TooLong)));
        assert!(matches!(read(&header(Command::Local, 0)).await.0, Err(ProxyProtocolError::NoAddress)));
        assert!(matches!(read(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.0, Err(ProxyProtocolError::Malformed(_))));
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
            let _ = runtime.block_on(read(&[TEXT_START, &bytes].concat()));
            bytes = [header(Command::Proxy, 9), bytes].concat();
            let position = position.index(bytes.len());
            bytes[position] ^= flip;
            let _ = runtime.block_on(read(&bytes));
        }
    }
}
