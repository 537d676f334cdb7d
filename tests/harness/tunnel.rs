//! A proxy that leads programs from outside into the lab, whose names no resolver of the machine knows.
//!
//! It answers `CONNECT` and nothing else, connects names below `localhost` to 127.0.0.1 and nothing else, and needs no privileges, unlike a
//! hosts file of one's own. TLS stays between the program and the site.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, copy_bidirectional};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinHandle;

/// Longest request head that is read.
const MAX_HEAD: u64 = 16 << 10;

/// The proxy; it ends when this value is dropped, its connections when both ends have closed them.
pub struct Tunnel {
    address: SocketAddr,
    accept: JoinHandle<()>,
}

impl Tunnel {
    /// Opens it on a free port of loopback.
    ///
    /// # Errors
    /// Whatever the system says.
    pub async fn open() -> io::Result<Self> {
        Self::open_from(Ipv4Addr::LOCALHOST).await
    }

    /// Like [`Tunnel::open`]; sites see its connections come from another address of loopback, as from another visitor.
    ///
    /// # Errors
    /// Whatever the system says.
    pub async fn open_from(source: Ipv4Addr) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let accept = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                // A program that breaks off is no concern of anybody else.
                tokio::spawn(async move { lead(stream, source).await.ok() });
            }
        });
        Ok(Self { address, accept })
    }

    /// Its URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.address.port()
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        self.accept.abort();
    }
}

async fn lead(stream: TcpStream, source: Ipv4Addr) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if (&mut stream).take(MAX_HEAD).read_line(&mut head).await? == 0 || head.len() as u64 > MAX_HEAD {
            return Ok(());
        }
    }
    let Some(mut site) = connect(&head, source).await else {
        return stream.write_all(b"HTTP/1.1 502 Not in the lab\r\ncontent-length: 0\r\n\r\n").await;
    };
    stream.write_all(b"HTTP/1.1 200 Connected\r\n\r\n").await?;
    copy_bidirectional(&mut stream, &mut site).await.map(drop)
}

async fn connect(head: &str, source: Ipv4Addr) -> Option<TcpStream> {
    let target = head.strip_prefix("CONNECT ")?.split(' ').next()?;
    let (host, port) = target.rsplit_once(':')?;
    let port: u16 = port.parse().ok()?;
    if !host.ends_with(".localhost") {
        return None;
    }
    let socket = TcpSocket::new_v4().ok()?;
    socket.bind((source, 0).into()).ok()?;
    socket.connect((Ipv4Addr::LOCALHOST, port).into()).await.ok()
}
