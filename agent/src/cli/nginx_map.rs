//! `p2pcdn nginx-map`: the map file for stock nginx, now.

use clap::Args;

use super::CliError;
use super::client::Agent;
use crate::local_api::NGINX_MAP_PATH;
use crate::nginx_map::{Written, empty, replace};
use crate::settings::Settings;

#[derive(Debug, Args)]
pub(super) struct NginxMapArgs {
    /// Write a file by which nothing is redirected, without asking the agent: for an nginx that starts first.
    #[arg(long)]
    pub(super) empty: bool,
}

/// Writes that file in place of whatever is there.
pub(super) fn write_empty(settings: &Settings) -> Result<(), CliError> {
    let file = settings.nginx.map.as_ref().ok_or(CliError::NoMap)?;
    replace(file, empty(&settings.site.domain).as_bytes())?;
    println!("wrote {}: nothing is redirected by it", file.display());
    Ok(())
}

pub(super) async fn write(agent: &Agent<'_>) -> Result<(), CliError> {
    let Written { file, entries, fraction_ppm } = agent.post(NGINX_MAP_PATH, &()).await?;
    let percent = f64::from(fraction_ppm) / 10_000.0;
    println!("wrote {file}, and nginx has taken it: {entries} lines, {percent:.1} % of such requests are redirected");
    Ok(())
}
