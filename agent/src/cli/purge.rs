//! `p2pcdn purge`: what the table says is no longer believed.

use clap::Args;

use super::CliError;
use super::client::{Agent, ClientError};
use crate::catalogue::{Purge, Purged};
use crate::identity::plain;
use crate::local_api::PURGE_PATH;

/// Unknown paths that are named; a command line may hold thousands.
const MAX_NAMED: usize = 10;

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(super) struct PurgeArgs {
    /// Paths of objects, with their query if they have one, as `p2pcdn objects` shows them.
    #[arg(value_name = "PATH", value_parser = path)]
    paths: Vec<String>,
    /// Every object whose path begins like this.
    #[arg(long, value_name = "PREFIX", value_parser = path)]
    prefix: Option<String>,
    /// Every object.
    #[arg(long)]
    all: bool,
}

pub(super) async fn purge(agent: &Agent<'_>, args: PurgeArgs) -> Result<(), CliError> {
    let purge = match (args.prefix, args.all) {
        (Some(prefix), _) => Purge::Prefix(prefix),
        (None, true) => Purge::All,
        (None, false) => Purge::Paths(args.paths),
    };
    let Purged { objects, unknown } = agent.post(PURGE_PATH, &purge).await?;
    println!("purged {}; no worker redirects them after its next exchange with the agent", count(objects));
    if unknown.is_empty() {
        return Ok(());
    }
    let named: Vec<String> = unknown.iter().take(MAX_NAMED).map(plain).collect();
    let more =
        if unknown.len() > MAX_NAMED { format!(" and {} more", unknown.len() - MAX_NAMED) } else { String::new() };
    let text = format!("no such object: {}{more}; p2pcdn objects lists those there are", named.join(", "));
    Err(ClientError::Refused(text).into())
}

fn count(objects: usize) -> String {
    format!("{objects} {}", if objects == 1 { "object" } else { "objects" })
}

fn path(text: &str) -> Result<String, String> {
    if text.starts_with('/') { Ok(text.to_owned()) } else { Err("a path begins with a slash".into()) }
}
