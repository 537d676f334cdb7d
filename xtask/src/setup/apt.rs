//! Debian's packages, for whoever lacks them.

use std::{path::Path, process::Command};

use super::{SetupError, report};
use crate::process;

/// Whether this is a system that apt-get installs on.
pub(super) fn is_here() -> bool {
    Path::new("/usr/bin/apt-get").exists()
}

/// Installs the packages as root; for anybody else, the error names the command.
pub(super) fn install(packages: &[&'static str], patience: &str) -> Result<(), SetupError> {
    let mut update = apt_get(&["update"]);
    // Removing anything is not ours to decide: Debian's plain rustc, for one, conflicts with rustc-web.
    let mut install = apt_get(&["install", "--yes", "--no-remove", "--no-install-recommends"]);
    install.args(packages);
    if process::read(Command::new("id").arg("-u"))?.trim() != "0" {
        let command = format!("{} && {}", process::line(&update), process::line(&install));
        return Err(SetupError::MissingPackages { packages: packages.to_vec(), command });
    }
    report("", format_args!("installing {} ({patience})", packages.join(" ")));
    // A third-party source that does not answer fails the update, but not what Debian itself offers.
    if let Err(error) = process::read(&mut update) {
        report("", format_args!("apt-get update: {}", error.reason()));
    }
    process::read(&mut install)?;
    Ok(())
}

fn apt_get(arguments: &[&str]) -> Command {
    let mut command = Command::new("apt-get");
    command.args(arguments).env("DEBIAN_FRONTEND", "noninteractive");
    command
}
