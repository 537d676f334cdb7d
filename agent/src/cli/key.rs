//! `p2pcdn key`.

use clap::Subcommand;

use crate::clock::now_s;
use crate::identity::rotate::{self, RotateError, Rotated, rotate};
use crate::identity::rotation::MAX_ROTATIONS;
use crate::settings::Settings;

#[derive(Debug, Subcommand)]
pub(super) enum KeyCommand {
    /// Give this site another node key, for which the old one vouches, so that peers follow by themselves.
    ///
    /// The agent has to be stopped; it shows the change at its domain once it runs again. Do this when somebody may have read the old key;
    /// whoever has it cannot make peers follow elsewhere, since they believe only what the domain itself shows.
    Rotate,
}

pub(super) fn run(settings: &Settings, command: &KeyCommand) -> Result<(), RotateError> {
    let KeyCommand::Rotate = command;
    let Rotated { old, new } = rotate(&settings.site.domain, &settings.state_directory, now_s())?;
    println!("{} has node key {new} from now on, in place of {old}", settings.site.domain);
    println!("start the agent: peers follow as soon as they hear from it; make a new backup, too: p2pcdn backup FILE");
    if rotate::load(&settings.state_directory, &new)?.rotations.len() >= MAX_ROTATIONS {
        eprintln!(
            "p2pcdn: peers follow the last {MAX_ROTATIONS} changes of the key, and this site has made as many or more: a peer that has \
             not heard from it since before these has to be told by its operator, with p2pcdn peer accept {}",
            settings.site.domain
        );
    }
    Ok(())
}
