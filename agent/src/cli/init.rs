//! `p2pcdn init`: a first settings file.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use p2pcdn_core::object::is_authority;

/// Every setting with its default and a comment; the operator's own values take the place of the examples.
const EXAMPLE: &str = include_str!("../../agent.example.toml");

/// nginx's configuration for a site that asks the agent, in which the operator's own values take the place of the examples as well.
const NGINX: &str = include_str!("../../../nginx-config/stock-auth-request.conf");
/// What it is called, beside the settings.
const NGINX_FILE: &str = "nginx.conf";

/// What stands in front of the site.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Proxy {
    /// Envoy with the filter.
    Envoy,
    /// Stock nginx, which asks the agent.
    Nginx,
}

#[derive(Debug, Args)]
pub(super) struct InitArgs {
    /// The site's domain, as visitors type it.
    #[arg(long)]
    domain: String,
    /// The directory with the site's files; without it, objects are learned from the site itself.
    #[arg(long, value_name = "DIR")]
    directory: Option<PathBuf>,
    /// A peer's domain; may be repeated.
    #[arg(long, value_name = "DOMAIN")]
    peer: Vec<String>,
    /// What stands in front of the site. For nginx, an nginx.conf is written beside the settings.
    #[arg(long, value_enum, default_value = "envoy")]
    proxy: Proxy,
}

/// Why no file was written.
#[derive(Debug, thiserror::Error)]
pub(super) enum InitError {
    /// Not a domain.
    #[error("{0:?} is not a domain: a host name in lower case, with :PORT unless it is 443")]
    Domain(String),
    /// The path cannot stand in the file.
    #[error("{0:?} cannot be written into the settings: use a path of plain text without quotes")]
    Directory(PathBuf),
    /// The site would be its own peer.
    #[error("--peer {0} is this site itself: name the domains of other sites")]
    OwnPeer(String),
    /// The file is there already.
    #[error("{0} exists and is not overwritten: move it away, or name another place with --config")]
    Exists(String),
    /// The file could not be written.
    #[error("{path}: {source}")]
    File {
        /// Which file.
        path: String,
        /// What the system said.
        source: io::Error,
    },
}

/// Writes `file` and what belongs beside it; none of it may exist yet.
pub(super) fn write(file: &Path, args: &InitArgs) -> Result<(), InitError> {
    let text = settings(args)?;
    if args.proxy == Proxy::Nginx {
        let beside = file.with_file_name(NGINX_FILE);
        create(&beside, &nginx(args))?;
        println!("wrote {}; edit what is marked EDIT, and try it with nginx -t -c", beside.display());
    }
    create(file, &text)?;
    let name = file.display();
    println!("wrote {name}\nnext: p2pcdn --config {name} check-config, then p2pcdn --config {name} run");
    Ok(())
}

fn create(file: &Path, text: &str) -> Result<(), InitError> {
    let path = || file.display().to_string();
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::AlreadyExists => InitError::Exists(path()),
        _ => InitError::File { path: path(), source },
    };
    let mut out = OpenOptions::new().write(true).create_new(true).open(file).map_err(failed)?;
    out.write_all(text.as_bytes()).map_err(failed)
}

/// The names in nginx's configuration, and the directory if there is one; both have been checked.
fn nginx(args: &InitArgs) -> String {
    let host = args.domain.split(':').next().unwrap_or_default();
    let text = NGINX.replace("replica.example.org", &format!("replica.{host}")).replace("www.example.org", host);
    match args.directory.as_ref().and_then(|directory| directory.to_str()) {
        Some(directory) => text.replace("root /srv/www;", &format!("root \"{directory}\";")),
        None => text,
    }
}

fn settings(args: &InitArgs) -> Result<String, InitError> {
    for domain in args.peer.iter().chain([&args.domain]) {
        if !is_authority(domain) {
            return Err(InitError::Domain(domain.clone()));
        }
    }
    if args.peer.contains(&args.domain) {
        return Err(InitError::OwnPeer(args.domain.clone()));
    }
    let directory = match &args.directory {
        None => "#: directory = \"/srv/www\"".to_owned(),
        Some(path) => match path.to_str() {
            Some(text) if !text.contains(['"', '\\', '\n']) => format!("directory = \"{text}\""),
            _ => return Err(InitError::Directory(path.clone())),
        },
    };
    let peers: Vec<String> = args.peer.iter().map(|domain| format!("\"{domain}\"")).collect();
    // What an operator of nginx will change first; one of Envoy has it in Envoy's configuration.
    let target = "target.requests_per_s = 0";
    let comment = if args.proxy == Proxy::Nginx { "" } else { "#: " };
    Ok(EXAMPLE
        .replace(&format!("#: {target}"), &format!("{comment}{target}"))
        .replace("domain = \"example.org\"", &format!("domain = \"{}\"", args.domain))
        .replace("directory = \"/srv/www\"", &directory)
        .replace("invited = []", &format!("invited = [{}]", peers.join(", "))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Settings;

    fn args(domain: &str, directory: Option<&str>, peers: &[&str]) -> InitArgs {
        InitArgs {
            domain: domain.into(),
            directory: directory.map(Into::into),
            peer: peers.iter().map(|p| (*p).to_owned()).collect(),
            proxy: Proxy::Envoy,
        }
    }

    #[test]
    fn an_operator_of_nginx_gets_its_configuration_too() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("agent.toml");
        let args = InitArgs { proxy: Proxy::Nginx, ..args("www.a.test:8443", Some("/srv/a"), &[]) };
        write(&file, &args).unwrap();
        Settings::load(&file, &[]).unwrap();
        let nginx = std::fs::read_to_string(directory.path().join(NGINX_FILE)).unwrap();
        for line in ["server_name www.a.test;", "server_name replica.www.a.test;", "root \"/srv/a\";"] {
            assert!(nginx.contains(line), "{line}");
        }
        assert!(!nginx.contains("example.org"));
        std::fs::remove_file(&file).unwrap();
        assert!(matches!(write(&file, &args), Err(InitError::Exists(_))), "nothing is overwritten");
    }

    #[test]
    fn what_init_writes_is_understood() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("agent.toml");
        write(&file, &args("a.test:8443", Some("/srv/a"), &["b.test", "c.test"])).unwrap();
        let settings = Settings::load(&file, &[]).unwrap();
        assert_eq!(settings.site.domain, "a.test:8443");
        assert_eq!(settings.site.directory.as_deref(), Some(Path::new("/srv/a")));
        assert_eq!(settings.invited, ["b.test", "c.test"]);
        let again = write(&file, &args("a.test", None, &[]));
        assert!(matches!(again, Err(InitError::Exists(_))), "nothing is overwritten");
    }

    #[test]
    fn every_line_of_the_example_is_a_setting_with_its_default() {
        let directory = tempfile::tempdir().unwrap();
        let (bare, full) = (directory.path().join("bare.toml"), directory.path().join("full.toml"));
        std::fs::write(&bare, "site.domain = \"example.org\"\nsite.directory = \"/srv/www\"").unwrap();
        let uncommented: Vec<&str> = EXAMPLE.lines().map(|line| line.strip_prefix("#: ").unwrap_or(line)).collect();
        std::fs::write(&full, uncommented.join("\n")).unwrap();
        let bare = format!("{:?}", Settings::load(&bare, &[]).unwrap());
        assert_eq!(format!("{:?}", Settings::load(&full, &[]).unwrap()), bare);
    }

    #[test]
    fn names_that_would_break_the_file_are_refused() {
        assert!(matches!(settings(&args("A b", None, &[])), Err(InitError::Domain(_))));
        assert!(matches!(settings(&args("a.test", None, &["\"x"])), Err(InitError::Domain(_))));
        assert!(matches!(settings(&args("a.test", Some("a\"b"), &[])), Err(InitError::Directory(_))));
        assert!(matches!(settings(&args("a.test", None, &["b.test", "a.test"])), Err(InitError::OwnPeer(_))));
    }
}
