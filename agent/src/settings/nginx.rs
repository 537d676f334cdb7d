//! The map file for stock nginx.

use std::path::Path;
use std::time::Duration;

use super::keys::Keys;
use super::values::{NOWHERE, duration, local_datagrams};
use crate::nginx_map::{NginxSettings, Reload};

/// How a file with a process number is told from a command.
const SIGNAL: &str = "HUP ";

pub(super) fn read(keys: &mut Keys<'_>, base: &Path) -> NginxSettings {
    let map = keys.or("nginx.map", String::new());
    let period = keys.checked("nginx.period", Some("10s"), period);
    NginxSettings {
        map: (!map.is_empty()).then(|| base.join(map)),
        reload: keys.checked("nginx.reload", Some("nginx -s reload"), reload),
        period,
        log: keys.checked("nginx.log", Some("127.0.0.1:7084"), local_datagrams).unwrap_or(NOWHERE),
    }
}

fn period(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        period if (Duration::from_secs(1)..=Duration::from_secs(30)).contains(&period) => Ok(period),
        _ => Err("must be from 1s to 30s: a reload has its cost, and what is redirected changes".into()),
    }
}

fn reload(text: &str) -> Result<Reload, String> {
    match text.strip_prefix(SIGNAL) {
        _ if text.is_empty() => Ok(Reload::Nobody),
        Some(file) if file.starts_with('/') => Ok(Reload::Signal(file.into())),
        Some(_) => {
            Err("must be a command, or the file with nginx's process number, as in \"HUP /run/nginx.pid\"".into())
        }
        None => Ok(Reload::Command(text.split_whitespace().map(str::to_owned).collect())),
    }
}
