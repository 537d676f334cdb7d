//! Connections that stay with their worker, to see what each worker says.

use std::{io, net::SocketAddr, time::Duration};

use p2pcdn_tests::Error;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::super::{BenchError, proxy::Proxy};

/// Enough for both of two workers to get some.
const CONNECTIONS: usize = 16;
/// Longest head of an answer.
const MAX_HEAD_BYTES: usize = 8192;
/// What a browser asks for an image, in brief.
const REQUEST: &[u8] = b"GET /objects/0000000.png HTTP/1.1\r\nHost: www.example.org\r\nSec-Fetch-Site: same-origin\r\n\
    Sec-Fetch-Mode: no-cors\r\nSec-Fetch-Dest: image\r\n\r\n";
/// How long a change may take to be seen.
const SEEN: Duration = Duration::from_secs(30);

pub(super) struct Connection(TcpStream);

impl Connection {
    pub(super) async fn open(address: SocketAddr) -> Result<Self, BenchError> {
        TcpStream::connect(address).await.map(Self).map_err(BenchError::io(format!("connect to {address}")))
    }

    /// Where an object is redirected to; empty if it stays.
    pub(super) async fn location(&mut self) -> Result<String, BenchError> {
        let head = self.ask().await.map_err(BenchError::io("ask Envoy"))?;
        let location = head.lines().find_map(|line| line.strip_prefix("location: "));
        Ok(location.unwrap_or_default().to_owned())
    }

    /// The head of an answer, none of which has a body here.
    async fn ask(&mut self) -> io::Result<String> {
        self.0.write_all(REQUEST).await?;
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            if head.len() > MAX_HEAD_BYTES || self.0.read_buf(&mut head).await? == 0 {
                return Err(io::ErrorKind::InvalidData.into());
            }
        }
        Ok(String::from_utf8_lossy(&head).into_owned())
    }
}

/// Connections to every worker.
pub(super) struct Connections(Vec<Connection>);

impl Connections {
    /// Opens them, and asks once over each of them.
    pub(super) async fn open(proxy: &Proxy, listener: &str) -> Result<Self, BenchError> {
        let mut connections = Vec::new();
        for _ in 0..CONNECTIONS {
            let mut connection = Connection::open(proxy.address(listener)?).await?;
            connection.location().await?;
            connections.push(connection);
        }
        for worker in ["worker_0", "worker_1"] {
            let open = proxy.stats(&format!("{worker}.downstream_cx_active")).await?;
            if open.iter().sum::<u64>() == 0 {
                return Err(BenchError::OneWorker);
            }
        }
        Ok(Self(connections))
    }

    /// Waits until every connection has been redirected to this name. Other holders are chosen as well, which says nothing.
    pub(super) async fn see(&mut self, name: &str) -> Result<(), BenchError> {
        for connection in &mut self.0 {
            let seen = async {
                while !connection.location().await?.contains(name) {}
                Ok::<(), BenchError>(())
            };
            let timeout =
                || Error::Deadline { what: format!("redirect to {name}"), deadline: SEEN, last: String::new() };
            tokio::time::timeout(SEEN, seen).await.map_err(|_| timeout())??;
        }
        Ok(())
    }
}
