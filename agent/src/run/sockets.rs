//! Where the agent listens.

use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};

use tokio::net::{TcpListener, UdpSocket, UnixListener};

use super::RunError;
use crate::settings::{LocalAddress, Settings};

/// The agent's sockets, open before anything else happens.
pub(super) struct Sockets {
    pub(super) local: Local,
    pub(super) replica: TcpListener,
    pub(super) peer: TcpListener,
    pub(super) origin: Option<TcpListener>,
    pub(super) nginx_log: Option<UdpSocket>,
}

/// Where the local API listens.
pub(super) enum Local {
    Tcp(TcpListener),
    Unix(UnixListener, PathBuf),
}

impl Sockets {
    pub(super) async fn open(settings: &Settings) -> Result<Self, RunError> {
        let listen = &settings.listen;
        let local = match &listen.local {
            LocalAddress::Tcp(address) => Local::Tcp(bind("listen.local", *address).await?),
            LocalAddress::Unix(path) => Local::Unix(bind_unix(path)?, path.clone()),
        };
        let origin = match settings.site.directory {
            Some(_) => Some(bind("listen.origin", listen.origin).await?),
            None => None,
        };
        let replica = bind("listen.replica", listen.replica).await?;
        let nginx_log = match settings.nginx.map {
            Some(_) => Some(bind_datagrams("nginx.log", settings.nginx.log).await?),
            None => None,
        };
        Ok(Self { local, replica, peer: bind("listen.peer", listen.peer).await?, origin, nginx_log })
    }
}

async fn bind(key: &'static str, address: SocketAddr) -> Result<TcpListener, RunError> {
    let listen = |source| RunError::Listen { key, address: address.to_string(), source };
    TcpListener::bind(address).await.map_err(listen)
}

async fn bind_datagrams(key: &'static str, address: SocketAddr) -> Result<UdpSocket, RunError> {
    let listen = |source| RunError::Listen { key, address: address.to_string(), source };
    UdpSocket::bind(address).await.map_err(listen)
}

fn bind_unix(path: &Path) -> Result<UnixListener, RunError> {
    let listen = |source| RunError::Listen { key: "listen.local", address: path.display().to_string(), source };
    // The node key's lock has shown that no other agent runs on this state, so a socket left there is a dead one.
    if std::fs::symlink_metadata(path).is_ok_and(|metadata| metadata.file_type().is_socket()) {
        std::fs::remove_file(path).map_err(listen)?;
    }
    let listener = UnixListener::bind(path).map_err(listen)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660)).map_err(listen)?;
    Ok(listener)
}
