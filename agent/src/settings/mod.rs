//! What the operator has decided: from a TOML file, the environment and flags to checked values.

mod decide;
mod host;
mod keys;
mod machine;
mod nginx;
mod read;
#[cfg(test)]
mod tests;
mod values;

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use figment::providers::{Env, Format, Serialized, Toml};
use figment::value::{Dict, Map, Value};
use figment::{Figment, Metadata, Profile, Provider};
use p2pcdn_core::object::Class;

use crate::nginx_map::NginxSettings;
use crate::replicate::host::deny::Denial;
use crate::replicate::origin::rank::Policy;
use crate::reputation::book::Mode;
use crate::reputation::formulas::Formulas;
use crate::store::Place;
pub use decide::DecideSettings;
pub use host::OriginLimits;
use keys::Keys;
pub use keys::{KeyError, SettingsErrors};

/// Checked settings; see `agent.example.toml` for each key with its default.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The site itself.
    pub site: Site,
    /// What is known of its Content-Security-Policy.
    pub policy: PolicySettings,
    /// The agent's own sockets.
    pub listen: Listen,
    /// How the world reaches this site.
    pub public: Public,
    /// Where keys, metadata and replicas are kept.
    pub state_directory: PathBuf,
    /// Where the bytes of replicas are kept.
    pub store: Store,
    /// How peers are judged.
    pub trust: Trust,
    /// PEM files of further roots of the TLS chain.
    pub extra_roots: Vec<PathBuf>,
    /// Whether peers may have private addresses, as in a lab.
    pub allow_private: bool,
    /// Domains of peers that this site invites.
    pub invited: Vec<String>,
    /// Whether others may become peers without an invitation.
    pub open_membership: bool,
    /// What this site carries for others.
    pub host: Host,
    /// What this site asks others to carry.
    pub share: Share,
    /// What visitors' browsers look at.
    pub evidence: EvidenceSettings,
    /// The proxy's own counters.
    pub proxy: Option<ProxyStats>,
    /// How the agent decides for proxies without the filter.
    pub decide: DecideSettings,
    /// The map file for stock nginx.
    pub nginx: NginxSettings,
    /// One JSON object a line instead of text.
    pub log_json: bool,
    /// Factor on the periods and backoffs of introductions and offers; tests make time pass faster with less than 1.
    pub time_scale: f64,
}

/// The site whose content is shared.
#[derive(Debug, Clone)]
pub struct Site {
    /// Its authority: host in lower case, port unless 443.
    pub domain: String,
    /// The directory that the embedded origin serves.
    pub directory: Option<PathBuf>,
    /// Whether objects are learned by asking the site's own public listener for what visitors ask for; never with a directory.
    /// With neither, the site only hosts.
    pub learn: bool,
    /// Freshness lifetime that the embedded origin declares.
    pub max_age: Duration,
}

/// Where the site's Content-Security-Policy is known from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicySettings {
    /// How it is come by.
    pub csp: Csp,
    /// Pages to read, as paths; at most 64.
    pub pages: Vec<String>,
}

/// How the policy is come by.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Csp {
    /// By reading pages; as long as none could be read, no browser is redirected.
    #[default]
    Read,
    /// There is none, says the operator.
    None,
    /// This one, says the operator.
    Declared(String),
}

/// The agent's sockets.
#[derive(Debug, Clone)]
pub struct Listen {
    /// For the filter or nginx, the command line and metrics; never routed from outside.
    pub local: LocalAddress,
    /// HTTP behind the proxy: replicas and the peer document.
    pub replica: SocketAddr,
    /// Connections of peers, behind the proxy's ALPN split, with the PROXY protocol in front.
    pub peer: SocketAddr,
    /// The embedded origin, behind the proxy.
    pub origin: SocketAddr,
}

/// Where the local API listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LocalAddress {
    /// A loopback address.
    Tcp(SocketAddr),
    /// A Unix socket.
    Unix(PathBuf),
}

impl fmt::Display for LocalAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "{address}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// How the world reaches this site.
#[derive(Debug, Clone)]
pub struct Public {
    /// Authority under which this site serves replicas.
    pub replica_name: String,
    /// Authority whose port answers ALPN `p2pcdn/1`.
    pub endpoint: String,
    /// Where a person can be reached.
    pub contact: String,
}

/// What this site carries for others.
#[derive(Debug, Clone)]
pub struct Host {
    /// Bytes of replicas in total.
    pub quota_bytes: u64,
    /// Bytes of replicas for one origin.
    pub quota_per_origin_bytes: u64,
    /// Fewest bytes of one replica.
    pub min_object_bytes: u64,
    /// Most bytes of one replica.
    pub max_object_bytes: u64,
    /// Bytes per second that each origin may send here.
    pub lease_bytes_per_s: u64,
    /// Bytes per second that all origins together may send here.
    pub lease_total_bytes_per_s: u64,
    /// Bytes per second that this site can send at all; what its own visitors leave of it is what leases are made of.
    pub uplink_bytes_per_s: Option<u64>,
    /// Limits that hold for one origin instead of those for each.
    pub origins: BTreeMap<String, OriginLimits>,
    /// How many times as much as an origin has carried for this site is carried for it; without a limit if none.
    pub debt_ratio: Option<f64>,
    /// Bytes that are carried for any origin whatever it has given.
    pub debt_allowance_bytes: u64,
    /// What is not carried.
    pub deny: Vec<Denial>,
    /// Bytes per second that pulls may take.
    pub pull_bytes_per_s: u64,
    /// Of these, for the objects of one origin.
    pub pull_per_origin_bytes_per_s: u64,
    /// Classes that are taken in.
    pub classes: Vec<Class>,
    /// Whether archives are served to visitors who click on them, as attachments.
    pub downloads: bool,
}

/// Where the bytes of replicas are kept.
#[derive(Debug, Clone)]
pub struct Store {
    /// The place.
    pub place: Place,
    /// URL of the server of a bucket; empty for what the environment says, or AWS.
    pub endpoint: String,
    /// Region of a bucket; empty for what the environment says, or `us-east-1`.
    pub region: String,
    /// Bytes of unfinished objects that are kept for another attempt.
    pub unfinished_bytes: u64,
}

/// How peers are judged.
#[derive(Debug, Clone)]
pub struct Trust {
    /// Whether judgements have consequences.
    pub mode: Mode,
    /// The constants, with every period scaled already.
    pub formulas: Formulas,
}

/// What this site asks others to carry.
#[derive(Debug, Clone)]
pub struct Share {
    /// Classes that are offered.
    pub classes: Vec<Class>,
    /// Smallest object that is offered, in bytes; a redirect costs about half a KiB and a round trip.
    pub min_object_bytes: u64,
    /// Most objects in the catalogue; further ones stay local.
    pub max_objects: usize,
    /// Largest object that is offered, in bytes.
    pub max_object_bytes: u64,
    /// Bytes per second that pulls by others may take.
    pub upload_bytes_per_s: u64,
    /// Of these, for one peer.
    pub upload_per_peer_bytes_per_s: u64,
    /// Bytes per second that the site's uplink carries, where the operator has said so: pulls then give way to visitors.
    pub uplink_bytes_per_s: Option<u64>,
    /// Prefixes of paths below which nothing is offered.
    pub exclude: Vec<String>,
    /// Whether files of a directory are offered without looking whether strangers can have them.
    pub unchecked: bool,
    /// Whether what declares no freshness counts as fresh for a tenth of the time that it has not been changed for.
    pub heuristic: bool,
    /// Prefixes of paths below which styles and scripts are offered.
    pub code_paths: Vec<String>,
    /// Bytes of learned objects that are kept.
    pub cache_bytes: u64,
    /// Bytes per second that learning objects may take.
    pub learn_bytes_per_s: u64,
    /// Copies that every object should have, asked for or not; fewer if there are fewer hosts.
    pub replicas: usize,
    /// How long further copies stay once nobody needs them; half of them go each time.
    pub keep: Duration,
    /// By what objects are ranked: which is offered first, and which goes from a host without room for all.
    pub policy: Policy,
}

/// What visitors' browsers look at, where the operator has put the script into the pages.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EvidenceSettings {
    /// Whether the script is served, and reports are taken.
    pub enabled: bool,
    /// Share of a page's own resources that are looked at, above 0 and at most 1.
    pub sample: f64,
    /// Largest object that is looked at, in bytes.
    pub max_object_bytes: u64,
}

/// Where the proxy's counters are read.
#[derive(Debug, Clone)]
pub struct ProxyStats {
    /// Address of the admin interface, on loopback.
    pub admin: SocketAddr,
    /// `stat_prefix` of the site's HTTP connection manager.
    pub stat_prefix: String,
}

impl Settings {
    /// Reads and checks everything; reports every error at once.
    ///
    /// `overrides` are `key=value` pairs from flags. Relative paths are relative to the file's directory.
    pub fn load(file: &Path, overrides: &[String]) -> Result<Self, SettingsErrors> {
        if !file.exists() {
            return Err(SettingsErrors::no_file(file));
        }
        let mut figment = Figment::new()
            .merge(Toml::file_exact(file))
            .merge(Env::prefixed("P2PCDN_").filter(|key| key.as_str().contains("__")).split("__"));
        for pair in overrides {
            let (key, value) = pair.split_once('=').ok_or_else(|| SettingsErrors::flag(pair))?;
            let value: Value = value.parse().unwrap_or_else(|never| match never {});
            figment = figment.merge(Flag(Serialized::default(key.trim(), value)));
        }
        let base = file.parent().unwrap_or(Path::new(""));
        read::read(Keys::new(&figment)?, base)
    }
}

/// What one `--set` says, by that name in errors.
struct Flag(Serialized<Value>);

impl Provider for Flag {
    fn metadata(&self) -> Metadata {
        Metadata::named("--set")
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        self.0.data()
    }
}
