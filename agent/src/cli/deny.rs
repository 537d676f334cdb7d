//! `p2pcdn deny`: what this host does not carry.

use clap::{Args, Subcommand};

use super::CliError;
use super::client::Agent;
use super::show::{Format, print, print_json, table};
use crate::identity::plain;
use crate::local_api::hosting::{Denied, DenyRequest};
use crate::local_api::{DENY_ADD_PATH, DENY_PATH, DENY_REMOVE_PATH};
use crate::replicate::host::deny::{Denial, DenyEntry};

#[derive(Debug, Subcommand)]
pub(super) enum DenyCommand {
    /// Carry nothing of these domains, and of names below them.
    Domain {
        /// As in example.org; with :PORT for that port only.
        #[arg(required = true, value_parser = domain)]
        domains: Vec<Denial>,
        #[command(flatten)]
        format: Format,
    },
    /// Carry nothing whose path begins like this.
    Path {
        /// As in example.org/path/, or /path/ for every origin.
        #[arg(required = true, value_name = "[DOMAIN]/PATH", value_parser = path)]
        paths: Vec<Denial>,
        #[command(flatten)]
        format: Format,
    },
    /// Carry none of these bytes, whoever offers them: for takedowns.
    Digest {
        /// SHA-256 of the object in 64 hexadecimal digits; it stands in the URL of each replica.
        #[arg(required = true, value_name = "SHA256", value_parser = digest)]
        digests: Vec<Denial>,
        #[command(flatten)]
        format: Format,
    },
    /// Show everything that is denied.
    List(Format),
    /// Allow again what was denied; origins offer it again in their own time.
    Remove(RemoveArgs),
}

#[derive(Debug, Args)]
pub(super) struct RemoveArgs {
    /// As `p2pcdn deny list` shows them.
    #[arg(required = true, value_name = "ENTRY")]
    denials: Vec<Denial>,
    #[command(flatten)]
    format: Format,
}

pub(super) async fn run(agent: &Agent<'_>, command: DenyCommand) -> Result<(), CliError> {
    match command {
        DenyCommand::Domain { domains: denials, format }
        | DenyCommand::Path { paths: denials, format }
        | DenyCommand::Digest { digests: denials, format } => {
            let denied: Denied = agent.post(DENY_ADD_PATH, &DenyRequest { denials }).await?;
            if format.json {
                return print_json(&denied);
            }
            let replicas = match denied.replicas {
                0 => "nothing of that was held".to_owned(),
                1 => "1 replica is no longer served; its origin is told, then its bytes go".to_owned(),
                n => format!("{n} replicas are no longer served; their origins are told, then their bytes go"),
            };
            println!("{} added; {replicas}{}", entries(denied.changed), unsaved(denied.unsaved));
        }
        DenyCommand::Remove(RemoveArgs { denials, format }) => {
            let removed: Denied = agent.post(DENY_REMOVE_PATH, &DenyRequest { denials }).await?;
            if format.json {
                return print_json(&removed);
            }
            println!("{} removed{}", entries(removed.changed), unsaved(removed.unsaved));
        }
        DenyCommand::List(format) => {
            let list: Vec<DenyEntry> = agent.get(DENY_PATH).await?;
            if format.json {
                return print_json(&list);
            }
            let mut table = table();
            table.set_header(["denied", "kind", "since"]);
            for DenyEntry { denial, since_s } in list {
                let kind = match denial {
                    Denial::Domain(_) => "domain",
                    Denial::Path { .. } => "path",
                    Denial::Digest(_) => "digest",
                };
                table.add_row([plain(&denial), kind.to_owned(), since(since_s)]);
            }
            print(&table)?;
        }
    }
    Ok(())
}

fn since(since_s: Option<u64>) -> String {
    let time = |since_s| std::time::SystemTime::UNIX_EPOCH.checked_add(std::time::Duration::from_secs(since_s));
    match since_s {
        None => "host.deny in the settings".to_owned(),
        Some(since_s) => time(since_s).map(|at| humantime::format_rfc3339_seconds(at).to_string()).unwrap_or_default(),
    }
}

/// What is said of what is not on disk yet.
pub(super) fn unsaved(is_unsaved: bool) -> &'static str {
    if is_unsaved {
        "; NOT YET ON DISK: state.directory takes no writes. Free space there: a restart before that would forget it"
    } else {
        ""
    }
}

fn entries(number: usize) -> String {
    format!("{number} {}", if number == 1 { "entry" } else { "entries" })
}

fn domain(text: &str) -> Result<Denial, String> {
    match text.parse() {
        Ok(denial @ Denial::Domain(_)) => Ok(denial),
        _ => Err("must be a host name in lower case, with :PORT for one port only, as in example.org".into()),
    }
}

fn path(text: &str) -> Result<Denial, String> {
    match text.parse() {
        Ok(denial @ Denial::Path { .. }) => Ok(denial),
        _ => Err("must be DOMAIN/PATH or /PATH, as in example.org/path/".into()),
    }
}

fn digest(text: &str) -> Result<Denial, String> {
    match text.to_ascii_lowercase().parse() {
        Ok(denial @ Denial::Digest(_)) => Ok(denial),
        _ => Err("must be the 64 hexadecimal digits of a SHA-256".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_takes_its_own_entries_only() {
        let hex = "0A".repeat(32);
        assert!(domain("example.org").is_ok() && path("example.org/x").is_ok() && path("/x").is_ok());
        assert!(digest(&hex).is_ok(), "as other tools write it");
        assert!(domain("example.org/x").is_err() && domain(&hex).is_err() && path("example.org").is_err());
        assert!(digest("example.org").is_err() && path("https://example.org/x").is_err());
        assert_eq!(since(Some(0)), "1970-01-01T00:00:00Z");
    }
}
