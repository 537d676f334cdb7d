//! What the operator has decided: from a TOML file, the environment and flags to checked values.

mod decide;
mod host;
mod keys;
mod nginx;
mod values;

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use figment::Figment;
use figment::providers::{Env, Format, Toml};
use p2pcdn_core::object::Class;

use crate::nginx_map::NginxSettings;
use crate::replicate::host::deny::Denial;
use crate::replicate::origin::rank::Policy;
use crate::reputation::book::Mode;
use crate::reputation::formulas::Formulas;
use crate::store::Place;
pub use decide::DecideSettings;
pub use host::OriginLimits;
use host::{debt_ratio, denial, origin_limits};
use keys::Keys;
pub use keys::{KeyError, SettingsErrors};
use values::{
    NOWHERE, address, admin_address, authority, bytes, class, contact, csp, duration, endpoint, half, leaf_class,
    local_address, log_format, membership, object_bytes, page, path_prefix, ranking, rate, replicas, sample,
    time_scale, trust_mode, uplink,
};

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
            let value: figment::value::Value = value.parse().unwrap_or_else(|never| match never {});
            figment = figment.merge(figment::providers::Serialized::default(key.trim(), value));
        }
        let base = file.parent().unwrap_or(Path::new(""));
        read(Keys::new(&figment)?, base)
    }
}

fn read(mut keys: Keys<'_>, base: &Path) -> Result<Settings, SettingsErrors> {
    let domain = keys.checked("site.domain", None, authority);
    let replica_name = keys.checked("public.replica_name", Some(&format!("replica.{domain}")), authority);
    if !domain.is_empty() && domain == replica_name {
        keys.reject(
            "public.replica_name",
            "must differ from site.domain: replicas need a name of their own, without cookies",
        );
    }
    let invited = keys.each("peers.invited", &[], authority);
    let pages = keys.each("site.pages", &["/"], page);
    if !(1..=MAX_PAGES).contains(&pages.len()) {
        keys.reject("site.pages", "must list 1 to 64 pages: one for each policy that the site has");
    }
    if invited.contains(&domain) {
        keys.reject("peers.invited", "must not list this site itself");
    }
    let admin = keys.checked("proxy.admin", Some(""), admin_address);
    let stat_prefix = keys.or("proxy.stat_prefix", "site".to_owned());
    let directory = keys.optional("site.directory").map(|path: PathBuf| base.join(path));
    let learn = keys.or("site.learn", true) && directory.is_none();
    let pull_bytes_per_s = keys.checked("host.pull_bandwidth", Some("20MB"), rate);
    let uplink_bytes_per_s = keys.checked("public.uplink", Some(""), uplink);
    if uplink_bytes_per_s.is_some() && admin.is_none() {
        keys.reject("public.uplink", "needs proxy.admin, where what this site's own visitors take is read");
    }
    let upload_default = uplink_bytes_per_s.map_or("20MB".to_owned(), |bytes| bytes.to_string());
    let upload_bytes_per_s = keys.checked("share.upload_bandwidth", Some(&upload_default), rate);
    let lease_bytes_per_s = keys.checked("host.lease", Some("10MB"), bytes);
    let lease_total = LEASES_IN_TOTAL.saturating_mul(lease_bytes_per_s).to_string();
    let place = keys.checked("store.url", Some(""), Place::parse);
    let [endpoint, region] =
        [keys.checked("store.endpoint", Some(""), endpoint), keys.or("store.region", String::new())];
    for (key, value) in [("store.endpoint", &endpoint), ("store.region", &region)] {
        if !value.is_empty() && !matches!(place, Place::Bucket { .. }) {
            keys.reject(key, "is for a bucket: set store.url, as in \"s3://BUCKET\"");
        }
    }
    let time_scale = keys.checked("lab.time_scale", Some("1"), time_scale);
    let formulas: Formulas = keys.table("trust.formulas").unwrap_or_default();
    if let Err((key, remedy)) = formulas.check() {
        keys.reject(&format!("trust.formulas.{key}"), remedy);
    }
    let formulas = formulas.scaled(time_scale);
    let settings = Settings {
        site: Site {
            directory,
            learn,
            max_age: keys.checked("site.max_age", Some("5m"), duration),
            domain: domain.clone(),
        },
        policy: PolicySettings { csp: keys.checked("site.csp", Some("read"), csp), pages },
        listen: Listen {
            local: keys
                .checked("listen.local", Some("127.0.0.1:7080"), local_address)
                .unwrap_or(LocalAddress::Tcp(NOWHERE)),
            replica: keys.checked("listen.replica", Some("127.0.0.1:7081"), address).unwrap_or(NOWHERE),
            peer: keys.checked("listen.peer", Some("127.0.0.1:7082"), address).unwrap_or(NOWHERE),
            origin: keys.checked("listen.origin", Some("127.0.0.1:7083"), address).unwrap_or(NOWHERE),
        },
        public: Public {
            replica_name,
            endpoint: keys.checked("public.endpoint", Some(&domain), authority),
            contact: keys.checked("public.contact", Some(""), contact),
        },
        state_directory: base.join(keys.or("state.directory", PathBuf::from("/var/lib/p2pcdn"))),
        store: Store {
            place,
            endpoint,
            region,
            unfinished_bytes: keys.checked("store.unfinished", Some("1GB"), bytes),
        },
        trust: Trust { mode: keys.checked("trust.mode", Some("on"), trust_mode), formulas },
        extra_roots: keys.or("trust.extra_roots", Vec::<PathBuf>::new()).into_iter().map(|p| base.join(p)).collect(),
        allow_private: keys.or("egress.allow_private", false),
        open_membership: keys.checked("peers.membership", Some("invited"), membership),
        invited,
        host: Host {
            quota_bytes: keys.checked("host.quota", Some("10GB"), bytes),
            quota_per_origin_bytes: keys.checked("host.quota_per_origin", Some("5GB"), bytes),
            min_object_bytes: keys.checked("host.min_object", Some("0"), object_bytes),
            max_object_bytes: keys.checked("host.max_object", Some("1GB"), object_bytes),
            lease_bytes_per_s,
            lease_total_bytes_per_s: keys.checked("host.lease_total", Some(&lease_total), bytes),
            uplink_bytes_per_s,
            origins: keys.tables("host.origin", ["quota", "lease"], origin_limits).into_iter().collect(),
            debt_ratio: keys.checked("host.debt_ratio", Some("0"), debt_ratio),
            debt_allowance_bytes: keys.checked("host.debt_allowance", Some("10GB"), bytes),
            deny: keys.each("host.deny", &[], denial),
            pull_bytes_per_s,
            pull_per_origin_bytes_per_s: keys.checked("host.pull_per_origin", Some(&half(pull_bytes_per_s)), rate),
            classes: keys.each("host.classes", ALL_CLASSES, class),
            downloads: keys.or("host.downloads", false),
        },
        share: Share {
            classes: keys.each("share.classes", LEAF_CLASSES, leaf_class),
            min_object_bytes: keys.checked("share.min_object", Some("8KiB"), object_bytes),
            max_objects: keys.or("share.max_objects", 1 << 20),
            max_object_bytes: keys.checked("share.max_object", Some("1GB"), object_bytes),
            upload_bytes_per_s,
            upload_per_peer_bytes_per_s: keys.checked("share.upload_per_peer", Some(&half(upload_bytes_per_s)), rate),
            uplink_bytes_per_s,
            exclude: keys.each("share.exclude", &[], path_prefix),
            unchecked: keys.or("share.unchecked", false),
            heuristic: keys.or("share.heuristic", false),
            code_paths: keys.each("share.code_paths", &[], path_prefix),
            cache_bytes: keys.checked("share.cache", Some("5GB"), bytes),
            learn_bytes_per_s: keys.checked("share.learn_bandwidth", Some("5MB"), rate),
            replicas: keys.checked("share.replicas", Some("2"), replicas),
            keep: keys.checked("share.keep", Some("10m"), duration),
            policy: keys.checked("share.policy", Some("gdsf"), ranking),
        },
        evidence: EvidenceSettings {
            enabled: keys.or("evidence.enabled", false),
            sample: keys.checked("evidence.sample", Some("0.01"), sample),
            max_object_bytes: keys.checked("evidence.max_object", Some("1MiB"), object_bytes),
        },
        decide: DecideSettings::read(&mut keys),
        nginx: nginx::read(&mut keys, base),
        proxy: admin.map(|admin| ProxyStats { admin, stat_prefix }),
        log_json: keys.checked("log.format", Some("text"), log_format),
        time_scale,
    };
    keys.finish(settings)
}

/// Most pages in `site.pages`: each is read every few minutes.
const MAX_PAGES: usize = 64;
/// `host.lease_total` by default, in leases of one origin.
const LEASES_IN_TOTAL: u64 = 5;
const ALL_CLASSES: &[&str] = &["image", "media", "font", "archive", "style", "script"];
const LEAF_CLASSES: &[&str] = &["image", "media", "font", "archive"];

#[cfg(test)]
mod tests;
