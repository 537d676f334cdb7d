//! `p2pcdn backup` and `p2pcdn restore`.

use std::path::PathBuf;

use clap::Args;

use crate::clock::now_s;
use crate::identity::backup::{Backup, BackupError};
use crate::settings::Settings;

#[derive(Debug, Args)]
pub(super) struct BackupArgs {
    /// The backup; it holds the private key, and only its owner can read it.
    file: PathBuf,
    /// Replace what is there.
    #[arg(long)]
    force: bool,
}

pub(super) fn backup(settings: &Settings, args: &BackupArgs) -> Result<(), BackupError> {
    Backup::of(&settings.site.domain, &settings.state_directory)?.save(&args.file, args.force)?;
    println!("backed up {} to {}; keep it as secret as a key", settings.site.domain, args.file.display());
    Ok(())
}

pub(super) fn restore(settings: &Settings, args: &BackupArgs) -> Result<(), BackupError> {
    let state = &settings.state_directory;
    Backup::load(&args.file)?.restore(&settings.site.domain, state, args.force, now_s())?;
    println!(
        "restored {} in {}; its owner has to be the user who runs the agent",
        settings.site.domain,
        state.display()
    );
    Ok(())
}
