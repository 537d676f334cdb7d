//! A thousand clients that take a large replica at 1 KiB/s.

use std::{fs, io, time::Duration};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
    time::{interval, sleep},
};

use super::servers::{SIZES, Server, Servers};
use crate::bench::BenchError;

const READERS: u32 = 1000;
/// Every reader takes so much at a time...
const SIP_BYTES: usize = 256;
/// ...this often: 1 KiB/s.
const SIP: Duration = Duration::from_millis(250);
/// Over which the greatest memory is looked for.
const WATCHED: Duration = Duration::from_secs(8);
const LOOK: Duration = Duration::from_millis(250);

/// What one reader costs.
pub(super) struct Cost {
    pub(super) resident_bytes: f64,
    pub(super) kernel_bytes: f64,
}

/// Lets a thousand clients read slowly from the agent's replica socket.
pub(super) async fn measure(servers: &Servers) -> Result<Cost, BenchError> {
    let path = servers.paths(&SIZES[2]).next().unwrap_or_default();
    let head = format!("GET {path} HTTP/1.1\r\nHost: {}\r\n\r\n", servers.host(Server::Agent));
    let (before, kernel_before) = (servers.agent_bytes()?, kernel_bytes()?);
    raise_descriptor_limit()?;
    let mut readers = JoinSet::new();
    for _ in 0..READERS {
        let mut stream = TcpStream::connect(servers.address(Server::Agent)).await.map_err(BenchError::io("connect"))?;
        stream.write_all(head.as_bytes()).await.map_err(BenchError::io("ask for a replica"))?;
        readers.spawn(async move { read_slowly(stream).await });
    }
    let (mut most, mut kernel_most) = (0, 0);
    for _ in 0..WATCHED.as_millis() / LOOK.as_millis() {
        sleep(LOOK).await;
        most = most.max(servers.agent_bytes()?);
        kernel_most = kernel_most.max(kernel_bytes()?);
    }
    if let Some(ended) = readers.try_join_next() {
        let error = ended.map_err(io::Error::other).and_then(|read| read);
        return Err(BenchError::io("read slowly")(error.err().unwrap_or(io::ErrorKind::UnexpectedEof.into())));
    }
    readers.shutdown().await;
    let each = |before: u64, most: u64| most.saturating_sub(before) as f64 / f64::from(READERS);
    Ok(Cost { resident_bytes: each(before, most), kernel_bytes: each(kernel_before, kernel_most) })
}

/// Ends only if the server ends the answer, or gives another one.
async fn read_slowly(mut stream: TcpStream) -> io::Result<()> {
    let mut sips = interval(SIP);
    let mut bytes = [0; SIP_BYTES];
    let mut status = *b"HTTP/1.1 200";
    stream.read_exact(&mut status).await?;
    if status != *b"HTTP/1.1 200" {
        return Err(io::Error::other(String::from_utf8_lossy(&status).into_owned()));
    }
    loop {
        sips.tick().await;
        if stream.read(&mut bytes).await? == 0 {
            return Ok(());
        }
    }
}

/// A thousand sockets are more than the usual soft limit allows.
fn raise_descriptor_limit() -> Result<(), BenchError> {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, ..limit };
    setrlimit(Resource::Nofile, raised).map_err(|error| BenchError::io("raise the limit on open files")(error.into()))
}

/// What all TCP sockets of this machine have in their buffers.
fn kernel_bytes() -> Result<u64, BenchError> {
    let fail = BenchError::io("read /proc/net/sockstat");
    let text = fs::read_to_string("/proc/net/sockstat").map_err(fail)?;
    let tcp = text.lines().find_map(|line| line.strip_prefix("TCP: ")).unwrap_or_default();
    let pages = tcp.split_whitespace().skip_while(|word| *word != "mem").nth(1).and_then(|pages| pages.parse().ok());
    Ok(pages.unwrap_or(0_u64) * rustix::param::page_size() as u64)
}
