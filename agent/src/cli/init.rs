//! `p2pcdn init`: a first settings file.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::Args;
use p2pcdn_core::object::is_authority;

/// Every setting with its default and a comment; the operator's own values take the place of the examples.
const EXAMPLE: &str = include_str!("../../agent.example.toml");

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
    /// The file could not be written.
    #[error("{path}: {source}")]
    File {
        /// Which file.
        path: String,
        /// What the system said.
        source: io::Error,
    },
}

/// Writes `file`, which must not exist yet.
pub(super) fn write(file: &Path, args: &InitArgs) -> Result<(), InitError> {
    let text = settings(args)?;
    let failed = |source| InitError::File { path: file.display().to_string(), source };
    let mut out = OpenOptions::new().write(true).create_new(true).open(file).map_err(failed)?;
    out.write_all(text.as_bytes()).map_err(failed)?;
    let name = file.display();
    println!("wrote {name}\nnext: p2pcdn --config {name} check-config, then p2pcdn --config {name} run");
    Ok(())
}

fn settings(args: &InitArgs) -> Result<String, InitError> {
    for domain in args.peer.iter().chain([&args.domain]) {
        if !is_authority(domain) {
            return Err(InitError::Domain(domain.clone()));
        }
    }
    let directory = match &args.directory {
        None => "#: directory = \"/srv/www\"".to_owned(),
        Some(path) => match path.to_str() {
            Some(text) if !text.contains(['"', '\\', '\n']) => format!("directory = \"{text}\""),
            _ => return Err(InitError::Directory(path.clone())),
        },
    };
    let peers: Vec<String> = args.peer.iter().map(|domain| format!("\"{domain}\"")).collect();
    Ok(EXAMPLE
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
        }
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
        assert!(matches!(again, Err(InitError::File { .. })), "nothing is overwritten");
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
    }
}
