//! Every key, with its default, and what has to hold between several of them.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use super::host::{debt_ratio, denial, origin_limits};
use super::keys::{Keys, SettingsErrors};
use super::values::{
    ALL_CLASSES, LEAF_CLASSES, NOWHERE, address, admin_address, authority, bytes, class, contact, csp, duration,
    endpoint, half, leaf_class, local_address, log_format, membership, object_bytes, page, path_prefix, ranking, rate,
    replicas, sample, time_scale, trust_mode, uplink,
};
use super::{
    DecideSettings, EvidenceSettings, Host, Listen, LocalAddress, PolicySettings, ProxyStats, Public, Settings, Share,
    Site, Store, Trust, nginx,
};
use crate::replicate::host::deny::MAX_DENIALS;
use crate::reputation::formulas::Formulas;
use crate::store::Place;

pub(super) fn read(mut keys: Keys<'_>, base: &Path) -> Result<Settings, SettingsErrors> {
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
    for (key, problem) in collisions(&settings) {
        keys.reject(key, &problem);
    }
    if settings.host.deny.len() > MAX_DENIALS {
        let remedy = "deny whole domains, which cover all their paths";
        keys.reject("host.deny", &format!("has more than {MAX_DENIALS} entries: {remedy}"));
    }
    keys.finish(settings)
}

/// Sockets that could not be open beside each other: the later one's key, and what is wrong.
fn collisions(settings: &Settings) -> Vec<(&'static str, String)> {
    let listen = &settings.listen;
    let local = match listen.local {
        LocalAddress::Tcp(address) => Some(address),
        LocalAddress::Unix(_) => None,
    };
    let origin = settings.site.directory.is_some().then_some(listen.origin);
    let all = [
        ("listen.local", local),
        ("listen.replica", Some(listen.replica)),
        ("listen.peer", Some(listen.peer)),
        ("listen.origin", origin),
    ];
    let all: Vec<_> = all.into_iter().filter_map(|(key, address)| Some((key, address?))).collect();
    let later = |(at, &(key, address)): (usize, &(&'static str, SocketAddr))| {
        let (other, _) = all.iter().take(at).find(|(_, other)| collide(*other, address))?;
        Some((key, format!("{address} is {other}'s as well: each socket needs an address of its own")))
    };
    all.iter().enumerate().filter_map(later).collect()
}

fn collide(one: SocketAddr, other: SocketAddr) -> bool {
    let shares_ip = one.ip() == other.ip() || one.ip().is_unspecified() || other.ip().is_unspecified();
    one.port() != 0 && one.port() == other.port() && shares_ip
}

/// Most pages in `site.pages`: each is read every few minutes.
const MAX_PAGES: usize = 64;
/// `host.lease_total` by default, in leases of one origin.
const LEASES_IN_TOTAL: u64 = 5;
