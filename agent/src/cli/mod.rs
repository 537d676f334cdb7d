//! The command line: `p2pcdn <command>`.

mod backup;
mod check;
mod client;
mod deny;
mod doctor;
mod init;
mod key;
mod leave;
mod nginx_map;
mod peer;
mod purge;
mod show;
mod simulate;
mod trust;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::identity::TlsSetupError;
use crate::identity::backup::BackupError;
use crate::identity::rotate::RotateError;
use crate::nginx_map::BringError;
use crate::run::RunError;
use crate::settings::{Settings, SettingsErrors};
use crate::simulate::plots::PlotError;
use crate::simulate::scenario::ScenarioError;
use crate::{shutdown, telemetry};
use client::ClientError;
use init::InitError;

/// Sites carry each other's static content under load.
///
/// Start with `p2pcdn init`, which writes a commented agent.toml; then `p2pcdn check-config`, `p2pcdn run`, and on both sides
/// `p2pcdn peer add DOMAIN`. `p2pcdn status` shows how it goes.
#[derive(Debug, Parser)]
#[command(name = "p2pcdn", version, max_term_width = 100)]
struct Cli {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Args)]
struct Common {
    /// The agent's settings.
    #[arg(long, short, global = true, value_name = "FILE", env = "P2PCDN_CONFIG", default_value = "agent.toml")]
    config: PathBuf,
    /// Override one setting, as in --set host.quota=50GB; may be repeated. P2PCDN_HOST__QUOTA=50GB does the same.
    #[arg(long, global = true, value_name = "KEY=VALUE")]
    set: Vec<String>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Write a commented agent.toml for a site.
    ///
    /// The file names every setting with its default. Nothing is overwritten.
    Init(init::InitArgs),
    /// Run the agent.
    ///
    /// Stops on SIGTERM or SIGINT after finishing what is under way; a second signal ends it at once.
    Run,
    /// Say who this site's peers are.
    ///
    /// Two sites are peers once each has added the other's domain. The domain's own TLS certificate proves the first contact; from
    /// then on the peer is known by its key.
    #[command(subcommand)]
    Peer(peer::PeerCommand),
    /// Show what is thought of each peer: where it stands, its weight, what audits found.
    Peers(show::Format),
    /// Explain the present weight of a peer from its evidence, line by line.
    Why(PeerArgs),
    /// Hold nothing against a peer any more: strikes, isolation, a conviction, a ban.
    Forgive(PeerArgs),
    /// Redirect nobody to a peer, and carry nothing for it, until it is forgiven.
    Ban(PeerArgs),
    /// Show load, redirects and peers.
    Status(show::Format),
    /// Show this site's objects and who holds them.
    Objects(show::Format),
    /// Show what other sites say about others, and how much their word counts.
    Gossip(show::Format),
    /// Take objects out of the table of every worker at once, after a change that must not wait.
    ///
    /// They are found out anew: files are read again, learned objects are fetched again once they are asked for. Nothing takes a
    /// copy back from somebody who has made one.
    Purge(purge::PurgeArgs),
    /// Do not carry what comes from a domain, lies below a path or has a digest, from this moment on.
    ///
    /// What is held of it is not served any more at once; its origin is told, then the bytes go. Later offers are declined. host.deny in
    /// the settings does the same.
    #[command(subcommand)]
    Deny(deny::DenyCommand),
    /// Stop carrying anything for others, without a failed request.
    ///
    /// New offers are declined, origins are told to redirect nobody here any more, and once nobody comes the bytes go. Waits for that;
    /// when interrupted, or after a restart, the agent goes on by itself. This site's own objects stay with its peers.
    Leave(leave::LeaveArgs),
    /// Stop all redirects in every worker within a few ticks, until `resume`.
    Pause,
    /// Resume redirects after `pause`.
    Resume,
    /// Look at a page as a browser would, and say what redirects would break and how to mend it.
    ///
    /// Reads the page's policies and what it loads, and asks the running agent for the peers that hold replicas, each of which is
    /// tried. The exit status is 5 if something would go wrong.
    Doctor(doctor::DoctorArgs),
    /// Copy what makes this site itself to its peers into a file: node key, peers and what is known of them,
    /// denials, and how far its sequences have got.
    ///
    /// The agent has to be stopped. Replicas and objects are not in it, they come back by themselves.
    Backup(backup::BackupArgs),
    /// Change the key by which peers know this site.
    #[command(subcommand)]
    Key(key::KeyCommand),
    /// Make this the site of a backup, in a state directory that is fresh or, with --force, replaced.
    Restore(backup::BackupArgs),
    /// Write the map file by which stock nginx redirects (nginx.map), and have nginx take it, now.
    ///
    /// The agent does so by itself whenever something has changed. If nginx does not take the file, the one before is put back, and the
    /// error names file and line.
    NginxMap(nginx_map::NginxMapArgs),
    /// See in virtual time what the rules of trust are worth.
    ///
    /// Runs the agent's own code in a made-up world of sites and hosts, some of which are dishonest in ways that a scenario describes. Needs no
    /// settings and no agent, and is the same for the same seeds. The exit status is 5 if a target is missed.
    Simulate(simulate::SimulateArgs),
    /// Check the settings and say everything that is wrong with them.
    CheckConfig(check::CheckArgs),
}

#[derive(Debug, Args)]
struct PeerArgs {
    /// The peer's domain.
    domain: String,
    /// Print JSON instead of tables.
    #[arg(long)]
    json: bool,
}

/// Why a command failed; each has its exit status.
#[derive(Debug, thiserror::Error)]
enum CliError {
    #[error("{0}")]
    Settings(#[from] SettingsErrors),
    #[error(transparent)]
    Run(#[from] RunError),
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error(transparent)]
    Init(#[from] InitError),
    #[error("{0} of what was looked at would go wrong in browsers")]
    Problems(usize),
    #[error("targets missed: {0}")]
    Targets(usize),
    #[error(transparent)]
    Scenario(#[from] ScenarioError),
    #[error(transparent)]
    Plot(#[from] PlotError),
    #[error(transparent)]
    Tls(#[from] TlsSetupError),
    #[error("no map file is named: set nginx.map")]
    NoMap,
    #[error(transparent)]
    Map(#[from] BringError),
    #[error(transparent)]
    Backup(#[from] BackupError),
    #[error(transparent)]
    Rotate(#[from] RotateError),
    #[error("starting: {0}")]
    Start(std::io::Error),
    #[error("writing the answer: {0}")]
    Output(#[from] std::io::Error),
    #[error("writing the answer: {0}")]
    Json(#[from] serde_json::Error),
}

impl CliError {
    /// 1 for what may go better next time, 2 for settings and arguments, 3 if the agent does not run, 4 if it refuses, 5 for what
    /// `doctor` found, and for targets that `simulate` misses.
    fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::Settings(_) | Self::Init(_) | Self::Scenario(_) | Self::NoMap => 2,
            Self::Client(ClientError::Unreachable { .. } | ClientError::NoAgent { .. }) => 3,
            Self::Client(ClientError::Refused(_)) => 4,
            Self::Problems(_) | Self::Targets(_) => 5,
            Self::Backup(_)
            | Self::Rotate(_)
            | Self::Map(_)
            | Self::Tls(_)
            | Self::Run(_)
            | Self::Plot(_)
            | Self::Client(_)
            | Self::Start(_)
            | Self::Output(_)
            | Self::Json(_) => 1,
        })
    }
}

/// Parses the arguments and runs the command.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    match dispatch(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("p2pcdn: {error}");
            error.exit_code()
        }
    }
}

fn dispatch(cli: Cli) -> Result<(), CliError> {
    let load = || Settings::load(&cli.common.config, &cli.common.set);
    match cli.command {
        Command::Init(args) => Ok(init::write(&cli.common.config, &args)?),
        Command::CheckConfig(args) => check::check(&cli.common.config, load(), &args),
        Command::Backup(args) => Ok(backup::backup(&load()?, &args)?),
        Command::Restore(args) => Ok(backup::restore(&load()?, &args)?),
        Command::Key(command) => Ok(key::run(&load()?, &command)?),
        Command::Simulate(args) => simulate::simulate(&args),
        Command::Run => run(load()?.on_this_machine()?),
        Command::NginxMap(args) if args.empty => nginx_map::write_empty(&load()?),
        Command::NginxMap(_) => ask(&load()?, async |agent| nginx_map::write(agent).await),
        Command::Doctor(args) => {
            let settings = load()?;
            runtime()?.block_on(doctor::doctor(&settings, args))
        }
        Command::Peer(command) => ask(&load()?, async |agent| peer::run(agent, command).await),
        Command::Peers(format) => ask(&load()?, async |agent| trust::peers(agent, format).await),
        Command::Why(args) => ask(&load()?, async |agent| trust::why(agent, args).await),
        Command::Forgive(args) => ask(&load()?, async |agent| trust::forgive(agent, args).await),
        Command::Ban(args) => ask(&load()?, async |agent| trust::ban(agent, args).await),
        Command::Status(format) => ask(&load()?, async |agent| show::status(agent, format).await),
        Command::Objects(format) => ask(&load()?, async |agent| show::objects(agent, format).await),
        Command::Gossip(format) => ask(&load()?, async |agent| show::gossip(agent, format).await),
        Command::Purge(args) => ask(&load()?, async |agent| purge::purge(agent, args).await),
        Command::Deny(command) => ask(&load()?, async |agent| deny::run(agent, command).await),
        Command::Leave(args) => ask(&load()?, async |agent| leave::leave(agent, args).await),
        Command::Pause => ask(&load()?, async |agent| show::pause(agent).await),
        Command::Resume => ask(&load()?, async |agent| show::resume(agent).await),
    }
}

fn run(settings: Settings) -> Result<(), CliError> {
    telemetry::start_logging(settings.log_json);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(CliError::Start)?;
    runtime.block_on(async {
        let cancel = shutdown::on_signal().map_err(CliError::Start)?;
        Ok(crate::run::run(settings, cancel).await?)
    })
}

fn ask(
    settings: &Settings,
    question: impl AsyncFnOnce(&client::Agent<'_>) -> Result<(), CliError>,
) -> Result<(), CliError> {
    runtime()?.block_on(question(&client::Agent::of(settings)))
}

fn runtime() -> Result<tokio::runtime::Runtime, CliError> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(CliError::Start)
}
