//! `p2pcdn leave`: stops carrying anything for others, in order.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use clap::Args;

use super::CliError;
use super::client::Agent;
use super::deny::unsaved;
use super::show::{Format, print_json, size};
use crate::local_api::LEAVE_PATH;
use crate::local_api::hosting::LeaveRequest;
use crate::replicate::host::terms::{Departure, DepartureState};

#[derive(Debug, Args)]
pub(super) struct LeaveArgs {
    /// Come back: take replicas in again.
    #[arg(long, conflicts_with = "no_wait")]
    cancel: bool,
    /// Do not wait until everything is given up; `p2pcdn leave` shows later how far it is.
    #[arg(long)]
    no_wait: bool,
    #[command(flatten)]
    format: Format,
}

const POLL: Duration = Duration::from_millis(250);

pub(super) async fn leave(agent: &Agent<'_>, args: LeaveArgs) -> Result<(), CliError> {
    let request = LeaveRequest { leave: !args.cancel };
    let mut departure: Departure = agent.post(LEAVE_PATH, &request).await?;
    // Progress is for people; what programs read is one value at the end.
    let shows_progress = !args.format.json && std::io::stderr().is_terminal();
    while departure.state == DepartureState::Leaving && !args.no_wait {
        if shows_progress {
            eprint!("\r\x1b[K{}", describe(&departure));
            std::io::stderr().flush()?;
        }
        tokio::time::sleep(POLL).await;
        departure = agent.get(LEAVE_PATH).await?;
    }
    if shows_progress {
        eprint!("\r\x1b[K");
    }
    if args.format.json {
        return print_json(&departure);
    }
    println!("{}", describe(&departure));
    Ok(())
}

/// How far this host is in leaving, in one line.
pub(super) fn describe(departure: &Departure) -> String {
    let mut untold = match departure.untold {
        0 => String::new(),
        n => format!("; {n} withdrawals are told as soon as their origins answer"),
    };
    untold.push_str(unsaved(departure.unsaved));
    match departure.state {
        DepartureState::Staying => format!("replicas are taken in for others{}", unsaved(departure.unsaved)),
        DepartureState::Leaving => {
            let (replicas, bytes) = (departure.replicas, size(departure.bytes));
            format!("leaving: {replicas} replicas, {bytes} still here{untold}")
        }
        DepartureState::Left => {
            format!("left: nothing is carried for others any more (p2pcdn leave --cancel brings that back){untold}")
        }
    }
}
