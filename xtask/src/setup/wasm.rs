//! A Rust target for WebAssembly: in the active toolchain, or else from Debian's own Rust.

use std::{path::Path, process::Command};

use super::{SetupError, apt, report, rustup};
use crate::process;

/// The target that rustup is asked for.
const PREFERRED: &str = "wasm32-wasip1";
/// Targets that serve, the preferred one first.
const TARGETS: [&str; 2] = [PREFERRED, DEBIAN_TARGET];

/// Debian ships no compiled standard library for any wasm target of rustc-web, so it is built from source, and for this
/// target that needs no C library.
const DEBIAN_TARGET: &str = "wasm32-unknown-unknown";
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";
const DEBIAN_CARGO: &str = "/usr/bin/cargo";
/// The Debian packages, each with a file that it brings.
const DEBIAN_FILES: [(&str, &str); 5] = [
    ("rustc-web", DEBIAN_RUSTC),
    ("cargo-web", DEBIAN_CARGO),
    ("rust-web-src", "/usr/lib/rustlib/src/rust/library/Cargo.toml"),
    ("rust-web-llvm", "/usr/bin/rust-lld"),
    ("lld-22", "/usr/bin/lld-22"),
];

/// How to compile for WebAssembly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WasmRoute {
    /// The active toolchain has this target.
    Toolchain { target: &'static str },
    /// Debian's rustc-web compiles the standard library as well.
    DebianBuildStd,
}

impl WasmRoute {
    /// The target triple, which is also the name of Cargo's output directory.
    pub(crate) fn target(self) -> &'static str {
        match self {
            Self::Toolchain { target } => target,
            Self::DebianBuildStd => DEBIAN_TARGET,
        }
    }

    /// Points a `cargo build` command to the compiler and target of this route.
    pub(crate) fn apply(self, cargo: Command) -> Command {
        let mut command = match self {
            Self::Toolchain { .. } => cargo,
            Self::DebianBuildStd => with_debian_rust(&cargo),
        };
        process::remove_env(&mut command, sets_flags);
        command.args(["--target", self.target()]);
        command
    }
}

/// The same command, run by Debian's Cargo and rustc, whatever toolchain runs this task.
fn with_debian_rust(cargo: &Command) -> Command {
    let mut command = Command::new(DEBIAN_CARGO);
    command.args(cargo.get_args()).arg("-Zbuild-std=std,panic_abort");
    if let Some(directory) = cargo.get_current_dir() {
        command.current_dir(directory);
    }
    for (name, value) in cargo.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    process::remove_env(&mut command, selects_toolchain);
    // -Z options are otherwise refused by a stable compiler.
    command.env("RUSTC", DEBIAN_RUSTC).env("RUSTC_BOOTSTRAP", "1");
    command
}

/// Flags are meant for native code.
fn sets_flags(name: &str) -> bool {
    matches!(name, "RUSTFLAGS" | "CARGO_ENCODED_RUSTFLAGS" | "CARGO_BUILD_RUSTFLAGS" | "CARGO_BUILD_TARGET")
}

/// Would lead Debian's Cargo back to the toolchain that runs this task, or to its libraries.
fn selects_toolchain(name: &str) -> bool {
    name.starts_with("RUSTUP_") || name.starts_with("CARGO_BUILD_RUSTC") || {
        matches!(name, "RUSTC" | "RUSTDOC" | "RUSTC_WRAPPER" | "RUSTC_WORKSPACE_WRAPPER" | "LD_LIBRARY_PATH")
    }
}

/// A way to compile for WebAssembly, installed if need be.
pub(super) fn find_or_install() -> Result<WasmRoute, SetupError> {
    if let Some(target) = installed_target() {
        report("wasm target", format_args!("found {target} in the active toolchain"));
        return Ok(WasmRoute::Toolchain { target });
    }
    let debian_lacks = debian_lacks();
    if debian_lacks.is_empty() {
        report("wasm target", "found rustc-web (Debian), which compiles std as well");
        return Ok(WasmRoute::DebianBuildStd);
    }
    report("wasm target", format_args!("adding {PREFERRED} with rustup"));
    match rustup(["target", "add", PREFERRED]) {
        Ok(_) if installed_target() == Some(PREFERRED) => Ok(WasmRoute::Toolchain { target: PREFERRED }),
        Ok(_) => install_debian_rust(debian_lacks),
        Err(error) => {
            report("", format_args!("not added: {}", error.reason()));
            install_debian_rust(debian_lacks)
        }
    }
}

fn install_debian_rust(packages: Vec<&'static str>) -> Result<WasmRoute, SetupError> {
    if !apt::is_here() {
        return Err(SetupError::NoWasmTarget { target: PREFERRED });
    }
    apt::install(&packages, "a minute or two")?;
    let packages = debian_lacks();
    if !packages.is_empty() {
        return Err(SetupError::UnsuitablePackages { packages });
    }
    report("", "installed; it compiles std as well");
    Ok(WasmRoute::DebianBuildStd)
}

/// The first target whose standard library the active toolchain has.
fn installed_target() -> Option<&'static str> {
    TARGETS.into_iter().find(|target| {
        let libraries = process::read(Command::new("rustc").args(["--print", "target-libdir", "--target", target]));
        libraries.is_ok_and(|path| Path::new(path.trim()).is_dir())
    })
}

fn debian_lacks() -> Vec<&'static str> {
    let new_enough = process::read(Command::new(DEBIAN_RUSTC).arg("--version"))
        .is_ok_and(|output| is_at_least(&output, env!("CARGO_PKG_RUST_VERSION")));
    lacking(|file| Path::new(file).exists() && (file != DEBIAN_RUSTC || new_enough))
}

/// The packages whose file is not `usable`.
fn lacking(usable: impl Fn(&str) -> bool) -> Vec<&'static str> {
    DEBIAN_FILES.into_iter().filter(|(_, file)| !usable(file)).map(|(package, _)| package).collect()
}

/// Whether this output of `rustc --version` names the wanted version (`major.minor`) or a later one.
fn is_at_least(output: &str, wanted: &str) -> bool {
    let numbers = |version: &str| -> Option<(u32, u32)> {
        let mut parts = version.split(['.', '-']).map(str::parse);
        Some((parts.next()?.ok()?, parts.next()?.ok()?))
    };
    let found = output.strip_prefix("rustc ").and_then(|rest| numbers(rest.split_whitespace().next()?));
    found.is_some() && found >= numbers(wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rustc_versions_compare_by_number() {
        let debian = "rustc 1.96.0 (ac68faa20 2026-05-25) (built from a source tarball)\n";
        assert!(is_at_least(debian, "1.96"));
        assert!(is_at_least(debian, "1.95"));
        assert!(is_at_least("rustc 1.100.0-nightly (0123 2027-01-01)", "1.95"));
        assert!(!is_at_least("rustc 1.63.0", "1.95"));
        assert!(!is_at_least("rustc 1", "1.95"));
        assert!(!is_at_least("command not found", "1.95"));
    }

    #[test]
    fn packages_are_named_by_the_files_that_are_missing() {
        assert!(lacking(|_| true).is_empty());
        assert_eq!(lacking(|file| file.starts_with("/usr/bin/")), ["rust-web-src"]);
        assert_eq!(lacking(|_| false).len(), DEBIAN_FILES.len());
    }

    #[test]
    fn debian_rust_takes_over_the_command_but_not_the_toolchain() {
        let mut cargo = Command::new("cargo");
        cargo.arg("build").current_dir("/tmp").env("CARGO_TARGET_DIR", "/tmp/t");
        let command = WasmRoute::DebianBuildStd.apply(cargo);
        assert_eq!(
            process::line(&command),
            "/usr/bin/cargo build -Zbuild-std=std,panic_abort --target wasm32-unknown-unknown"
        );
        let env: Vec<_> = command.get_envs().filter(|(_, value)| value.is_some()).map(|(name, _)| name).collect();
        assert_eq!(env, ["CARGO_TARGET_DIR", "RUSTC", "RUSTC_BOOTSTRAP"]);
        assert_eq!(command.get_current_dir(), Some(Path::new("/tmp")));
        assert!(selects_toolchain("RUSTUP_TOOLCHAIN") && sets_flags("RUSTFLAGS"));
        assert!(!selects_toolchain("CARGO_HOME") && !selects_toolchain("HOME"));
    }
}
