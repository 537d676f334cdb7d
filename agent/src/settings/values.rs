//! How single values are understood; an error says what would be right.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use p2pcdn_core::lookup::{MAX_PATH_BYTES, canonical_path};
use p2pcdn_core::object::{Class, MAX_OBJECT_BYTES, is_authority};
use p2pcdn_core::replica_table::MAX_SET_HOLDERS;

use super::{Csp, LocalAddress};
use crate::policy::Policies;
use crate::replicate::origin::rank::Policy;
use crate::reputation::book::Mode;

pub(super) fn authority(text: &str) -> Result<String, String> {
    if is_authority(text) {
        Ok(text.to_owned())
    } else {
        Err("must be a host name in lower case, with :PORT unless it is 443, as in \"example.org\"".into())
    }
}

/// Stands for an address that was rejected; settings with an error are never used.
pub(super) const NOWHERE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
pub(super) const ALL_CLASSES: &[&str] = &["image", "media", "font", "archive", "style", "script"];
pub(super) const LEAF_CLASSES: &[&str] = &["image", "media", "font", "archive"];

pub(super) fn address(text: &str) -> Result<Option<SocketAddr>, String> {
    text.parse().map(Some).map_err(|_| "must be ADDRESS:PORT, as in \"127.0.0.1:7081\"".into())
}

pub(super) fn local_address(text: &str) -> Result<Option<LocalAddress>, String> {
    if let Some(path) = text.strip_prefix("unix:") {
        return Ok(Some(LocalAddress::Unix(path.into())));
    }
    match text.parse::<SocketAddr>() {
        Ok(address) if address.ip().is_loopback() => Ok(Some(LocalAddress::Tcp(address))),
        _ => Err("must be a loopback ADDRESS:PORT or unix:/PATH: whoever reaches it controls the agent".into()),
    }
}

pub(super) fn local_datagrams(text: &str) -> Result<Option<SocketAddr>, String> {
    match address(text)? {
        Some(local) if local.ip().is_loopback() => Ok(Some(local)),
        _ => Err("must be a loopback ADDRESS:PORT: what is sent there counts as this site's load".into()),
    }
}

pub(super) fn admin_address(text: &str) -> Result<Option<SocketAddr>, String> {
    match text.trim_start_matches("http://").trim_end_matches('/') {
        "" => Ok(None),
        text => match address(text)? {
            Some(admin) if !admin.ip().is_loopback() => {
                Err("must be on loopback: whoever reaches it owns the proxy".into())
            }
            admin => Ok(admin),
        },
    }
}

pub(super) fn contact(text: &str) -> Result<String, String> {
    if text.len() <= 256 { Ok(text.to_owned()) } else { Err("must have at most 256 bytes".into()) }
}

pub(super) fn endpoint(text: &str) -> Result<String, String> {
    let host = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    match host {
        _ if text.is_empty() => Ok(String::new()),
        Some(host) if is_authority(host.trim_end_matches('/')) => Ok(text.trim_end_matches('/').to_owned()),
        _ => Err("must be the URL of the server alone, as in \"https://s3.example.org\"".into()),
    }
}

pub(super) fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|_| "must be a duration, as in \"5m\" or \"1h 30m\"".into())
}

pub(super) fn trust_mode(text: &str) -> Result<Mode, String> {
    match text {
        "on" => Ok(Mode::On),
        "observe" => Ok(Mode::Observe),
        _ => Err("must be \"on\" or \"observe\"".into()),
    }
}

pub(super) fn bytes(text: &str) -> Result<u64, String> {
    text.parse::<bytesize::ByteSize>()
        .map(|size| size.0)
        .map_err(|_| "must be a size, as in \"10GB\" or \"8KiB\"".into())
}

pub(super) fn object_bytes(text: &str) -> Result<u64, String> {
    match bytes(text)? {
        size if size <= MAX_OBJECT_BYTES => Ok(size),
        _ => Err("must be at most 16GiB".into()),
    }
}

pub(super) fn rate(text: &str) -> Result<u64, String> {
    match bytes(text)? {
        0..1024 => Err("must be at least 1KiB (per second)".into()),
        rate => Ok(rate.min(u64::from(u32::MAX))),
    }
}

/// Of a rate, as a default for what one of several may take.
pub(super) fn half(bytes_per_s: u64) -> String {
    (bytes_per_s / 2).max(1024).to_string()
}

pub(super) fn uplink(text: &str) -> Result<Option<u64>, String> {
    if text.is_empty() { Ok(None) } else { rate(text).map(Some) }
}

pub(super) fn class(text: &str) -> Result<Class, String> {
    let found = Class::ALL.into_iter().find(|class| class.name() == text);
    found.ok_or_else(|| format!("\"{text}\" is not one of {}", ALL_CLASSES.join(", ")))
}

pub(super) fn leaf_class(text: &str) -> Result<Class, String> {
    match class(text)? {
        class if class.is_leaf() => Ok(class),
        _ => Err(format!("\"{text}\" is shared below share.code_paths only")),
    }
}

pub(super) fn path_prefix(text: &str) -> Result<String, String> {
    let prefix = canonical_path(text.as_bytes()).map_err(|error| format!("\"{text}\": {error}"))?;
    Ok(prefix.to_owned())
}

pub(super) fn replicas(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(copies) if (1..=MAX_SET_HOLDERS).contains(&copies) => Ok(copies),
        _ => {
            Err(format!("must be a number from 1 to {MAX_SET_HOLDERS}, which is as many as redirects are spread over"))
        }
    }
}

pub(super) fn ranking(text: &str) -> Result<Policy, String> {
    match text {
        "lru" => Ok(Policy::Lru),
        "gdsf" => Ok(Policy::Gdsf),
        _ => Err("must be \"lru\" or \"gdsf\"".into()),
    }
}

pub(super) fn sample(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(share) if share > 0.0 && share <= 1.0 => Ok(share),
        _ => Err("must be a share above 0 and at most 1, as in 0.01".into()),
    }
}

pub(super) fn membership(text: &str) -> Result<bool, String> {
    match text {
        "invited" => Ok(false),
        "open" => Ok(true),
        _ => Err("must be \"invited\" or \"open\"".into()),
    }
}

pub(super) fn csp(text: &str) -> Result<Csp, String> {
    match text {
        "read" => Ok(Csp::Read),
        "none" => Ok(Csp::None),
        policy if !Policies::declared(policy).is_empty() => Ok(Csp::Declared(policy.to_owned())),
        _ => Err("must be \"read\", \"none\" or a policy that says where from, as in \"img-src 'self' https:\"".into()),
    }
}

pub(super) fn page(text: &str) -> Result<String, String> {
    let is_plain = text.len() <= MAX_PATH_BYTES && text.bytes().all(|b| (0x21..=0x7e).contains(&b) && b != b'#');
    if is_plain && text.starts_with('/') && !text.starts_with("//") {
        Ok(text.to_owned())
    } else {
        Err(format!("\"{text}\" must be the path of a page, as in \"/\" or \"/shop/\""))
    }
}

pub(super) fn log_format(text: &str) -> Result<bool, String> {
    match text {
        "text" => Ok(false),
        "json" => Ok(true),
        _ => Err("must be \"text\" or \"json\"".into()),
    }
}

pub(super) fn time_scale(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(scale) if (0.001..=1000.0).contains(&scale) => Ok(scale),
        _ => Err("must be a number from 0.001 to 1000".into()),
    }
}
