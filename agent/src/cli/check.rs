//! `p2pcdn check-config`.

use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::json;

use super::CliError;
use super::show::Format;
use crate::settings::{KeyError, Settings, SettingsErrors};

#[derive(Debug, Args)]
pub(super) struct CheckArgs {
    #[command(flatten)]
    format: Format,
    /// Whether this nginx configuration fits the settings; nginx -t checks it by itself.
    #[arg(long, value_name = "FILE")]
    nginx: Option<PathBuf>,
}

/// Says whether the settings are good, and if not, everything that is wrong with them.
pub(super) fn check(file: &Path, result: Result<Settings, SettingsErrors>, args: &CheckArgs) -> Result<(), CliError> {
    let CheckArgs { format, nginx } = args;
    let result = result.and_then(Settings::on_this_machine).and_then(|settings| match nginx {
        Some(nginx) => fits(nginx, settings),
        None => Ok(settings),
    });
    if format.json {
        let errors = result.as_ref().err().map(|errors| errors.0.as_slice()).unwrap_or_default();
        let errors: Vec<_> = errors.iter().map(|e| json!({ "key": e.key, "problem": e.problem })).collect();
        println!("{}", serde_json::to_string_pretty(&json!({ "ok": result.is_ok(), "errors": errors }))?);
    }
    let settings = result?;
    if !format.json {
        println!("{}: good settings for {}", file.display(), settings.site.domain);
    }
    Ok(())
}

/// The settings, if nginx's configuration has the names and addresses in them.
fn fits(nginx: &Path, settings: Settings) -> Result<Settings, SettingsErrors> {
    let name = nginx.display().to_string();
    let text = match std::fs::read_to_string(nginx) {
        Ok(text) => text,
        Err(error) => return Err(SettingsErrors(vec![KeyError { key: name, problem: error.to_string() }])),
    };
    let missing = missing(&text, &settings).into_iter();
    let error = |(key, value)| KeyError { key, problem: format!("{value} is not in {name}, or only in a comment") };
    let mut errors: Vec<_> = missing.map(error).collect();
    errors.extend(rewritten(&text).map(|line| KeyError { key: format!("{name}:{line}"), problem: REWRITTEN.into() }));
    if errors.is_empty() { Ok(settings) } else { Err(SettingsErrors(errors)) }
}

/// What is wrong with a rewrite of return URLs, as files of earlier releases have it.
const REWRITTEN: &str = "a rewrite of return URLs opens `internal` locations and the agent's local API to everybody: take over \
     `listen 127.0.0.1:8444`, the maps of $p2pcdn_returned and the location with proxy_pass from the file that ships";

/// The lines that rewrite return URLs, by their numbers from 1.
fn rewritten(nginx: &str) -> impl Iterator<Item = usize> {
    let rewrites = |line: &str| {
        let line = line.split(" #").next().unwrap_or_default().trim_start();
        line.starts_with("rewrite ") && line.contains("p2pcdn/v1/back")
    };
    nginx.lines().zip(1..).filter(move |(line, _)| rewrites(line)).map(|(_, number)| number)
}

/// Keys whose values nginx's configuration should have and has not.
fn missing(nginx: &str, settings: &Settings) -> Vec<(String, String)> {
    let lines: Vec<&str> = nginx.lines().map(|line| line.split('#').next().unwrap_or_default()).collect();
    let has = |value: &str| lines.iter().any(|line| has_whole(line, value));
    let host = |authority: &str| authority.split(':').next().unwrap_or_default().to_owned();
    let listen = &settings.listen;
    let mut wanted = vec![
        ("site.domain", host(&settings.site.domain)),
        ("public.replica_name", host(&settings.public.replica_name)),
        ("listen.replica", listen.replica.to_string()),
        ("listen.peer", listen.peer.to_string()),
    ];
    match &settings.nginx.map {
        Some(map) => {
            wanted.extend([("nginx.map", map.display().to_string()), ("nginx.log", settings.nginx.log.to_string())])
        }
        None => wanted.extend([("listen.local", listen.local.to_string()), ("decide", "auth_request".into())]),
    }
    wanted.into_iter().filter(|(_, value)| !has(value)).map(|(key, value)| (key.to_owned(), value)).collect()
}

/// Whether the value stands there, and not as a part of a longer one.
fn has_whole(line: &str, value: &str) -> bool {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '.' || c == '-';
    line.match_indices(value).any(|(at, _)| {
        let (before, after) = (&line[..at], &line[at + value.len()..]);
        !before.ends_with(is_part) && !after.starts_with(is_part)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_that_rewrites_return_urls_is_complained_of_and_none_that_ships_does() {
        let rewrite = r"            rewrite ^/\.well-known/p2pcdn/v1/back(/.*)$ $1 last;";
        let own = format!("# {rewrite}\nrewrite ^/old$ /new last;\n{rewrite} # As it was.\n");
        assert_eq!(rewritten(&own).collect::<Vec<_>>(), [3]);
        let shipped = [
            include_str!("../../../nginx-config/stock-auth-request.conf"),
            include_str!("../../../nginx-config/stock-map.conf"),
            include_str!("../../../nginx-config/wasmx.conf"),
        ];
        for text in shipped {
            assert_eq!(rewritten(text).next(), None);
            // Neither does what comes back meet the decision anew, nor does it get further than its own listener.
            for part in ["listen 127.0.0.1:8444 proxy_protocol;", "proxy_pass http://127.0.0.1:8444$p2pcdn_returned;"] {
                assert!(text.contains(part), "{part}");
            }
        }
        let known_apart = [
            "X-Original-URI $p2pcdn_came_back$request_uri;",
            "$p2pcdn_came_back$request_uri\" $p2pcdn_location",
            "Host $host:8444;",
        ];
        assert!(shipped.iter().zip(known_apart).all(|(text, part)| text.contains(part)));
    }

    #[test]
    fn an_nginx_configuration_that_does_not_fit_is_told_by_the_keys() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("agent.toml");
        let missing = |settings: &str, nginx: &str| {
            std::fs::write(&file, settings).unwrap();
            let missing = missing(nginx, &Settings::load(&file, &[]).unwrap());
            missing.into_iter().map(|(key, _)| key).collect::<Vec<_>>()
        };
        let names = "[site]\ndomain = \"www.example.org\"\n[public]\nreplica_name = \"replica.example.org\"\n";
        let asks = include_str!("../../../nginx-config/stock-auth-request.conf");
        let maps = include_str!("../../../nginx-config/stock-map.conf");
        let map = "[nginx]\nmap = \"/var/lib/p2pcdn/nginx-map.conf\"\n";
        assert_eq!(missing(names, asks), [""; 0]);
        assert_eq!(missing(&format!("{names}{map}"), maps), [""; 0]);
        assert_eq!(missing(names, maps), ["listen.local", "decide"]);
        let other = format!("{names}[listen]\nlocal = \"127.0.0.1:9\"\npeer = \"127.0.0.1:8\"\n");
        assert_eq!(missing(&other, asks), ["listen.peer", "listen.local"]);
        assert_eq!(missing("site.domain = \"other.example\"", asks), ["site.domain", "public.replica_name"]);
    }
}
