//! Stock nginx as a site's proxy.

use std::collections::BTreeMap;
use std::env;
use std::path::{Path, PathBuf};

use crate::Error;

/// By which of the shipped configurations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Nginx {
    /// The agent is asked about each request.
    AuthRequest,
    /// The agent writes a map file.
    Map,
}

impl Nginx {
    /// Name of the configuration.
    pub(crate) fn file(self) -> &'static str {
        match self {
            Self::AuthRequest => "stock-auth-request.conf",
            Self::Map => "stock-map.conf",
        }
    }
}

/// What differs from the configuration that ships, for one site.
pub(crate) struct Values<'a> {
    pub(crate) directory: &'a Path,
    pub(crate) names: [&'a str; 2],
    /// Address and port that visitors connect to.
    pub(crate) public: String,
    /// Address and port behind the split by ALPN.
    pub(crate) behind: String,
    /// Address and port where it hears itself of requests that came back.
    pub(crate) returns: String,
    /// Of the agent: local, replica, peer.
    pub(crate) agent: [String; 3],
    /// Where the agent takes the log.
    pub(crate) log: String,
}

/// The file that the agent writes.
pub(crate) const MAP: &str = "nginx-map.conf";

pub(crate) fn edits(nginx: Nginx, values: Values<'_>) -> BTreeMap<&'static str, String> {
    let Values { directory, names: [site, replica], public, behind, returns, agent: [local, replicas, peer], log } =
        values;
    let within = |file: &str| directory.join(file).display().to_string();
    let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
    let temporary: Vec<_> = temporary.iter().map(|kind| format!("{kind}_temp_path {};", within(kind))).collect();
    let own = match nginx {
        Nginx::AuthRequest => vec![("127.0.0.1:7080", local)],
        Nginx::Map => vec![("/var/lib/p2pcdn/nginx-map.conf", within(MAP)), ("127.0.0.1:7084", log)],
    };
    let common = [
        ("user www-data;", "user root;".into()),
        ("worker_processes auto;", "worker_processes 2; daemon off;".into()),
        ("pid /run/nginx.pid;", format!("pid {};", within("nginx.pid"))),
        ("error_log /var/log/nginx/error.log;", "error_log stderr;".into()),
        ("access_log /var/log/nginx/access.log;", format!("access_log off; {}", temporary.join(" "))),
        ("listen [::]:443 ipv6only=off;", format!("listen {public};")),
        ("127.0.0.1:8443", behind),
        ("127.0.0.1:8444", returns),
        ("127.0.0.1:7081", replicas),
        ("127.0.0.1:7082", peer),
        ("www.example.org", site.into()),
        ("replica.example.org", replica.into()),
        ("/etc/p2pcdn/tls/cert.pem", within("cert.pem")),
        ("/etc/p2pcdn/tls/key.pem", within("key.pem")),
        ("root /srv/www;", format!("root {};", within("srv"))),
    ];
    common.into_iter().chain(own).collect()
}

/// Where nginx is; Debian has it where not everybody's PATH leads.
pub(crate) fn program() -> Result<PathBuf, Error> {
    let path = env::var_os("PATH").unwrap_or_default();
    let directories = env::split_paths(&path).chain([PathBuf::from("/usr/sbin")]);
    let found = directories.map(|directory| directory.join("nginx")).find(|file| file.is_file());
    found.ok_or_else(|| Error::NotBuilt("/usr/sbin/nginx".into()))
}
