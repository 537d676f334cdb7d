//! `cargo xtask test`: every check, cheapest-to-understand failure first.

use std::{
    fs,
    process::Command,
    time::{Duration, Instant},
};

use crate::{
    TaskError, dist,
    layout::Layout,
    process,
    setup::{self, WasmRoute},
};

#[derive(clap::Args)]
pub(crate) struct TestArgs {
    /// Passed to `cargo test`, for example the part of a test's name: `cargo xtask test -- redirects`.
    ///
    /// Arguments of the test programs follow a second `--`: `cargo xtask test -- redirects -- --nocapture`.
    #[arg(last = true, value_name = "CARGO TEST ARGUMENTS")]
    cargo_test: Vec<String>,
}

pub(crate) fn run(layout: &Layout, args: &TestArgs) -> Result<(), TaskError> {
    let start = Instant::now();
    let tools = stage("setup", || setup::everything(layout))?;
    stage("build", || {
        dist::build_shipped(layout, tools.wasm)?;
        dist::build_filter_with_faults(layout, tools.wasm)
    })?;
    stage("format", || show(process::cargo(layout, "fmt").args(["--all", "--check"])))?;
    stage("clippy", || clippy(layout, tools.wasm))?;
    stage("fuzz targets", || fuzz_targets(layout))?;
    stage("docs", || {
        let mut doc = process::cargo(layout, "doc");
        show(doc.args(["--workspace", "--no-deps", "--locked"]).env("RUSTDOCFLAGS", "--deny warnings"))
    })?;
    stage("dependencies", || dependencies(layout))?;
    stage("tests", || {
        let mut test = process::cargo(layout, "test");
        test.args(["--workspace", "--locked", "--no-fail-fast"]).args(&args.cargo_test);
        show(test.env("ENVOY", &tools.envoy).env("P2PCDN_DIST", layout.dist()).env("MOTO_SERVER", &tools.moto))
    })?;
    println!("== all stages passed in {}", Seconds(start.elapsed()));
    Ok(())
}

/// Runs one stage between two headlines, the second of which says how long it took.
fn stage<T>(name: &str, run: impl FnOnce() -> Result<T, TaskError>) -> Result<T, TaskError> {
    println!("\n== {name}");
    let start = Instant::now();
    let outcome = run();
    let verdict = if outcome.is_ok() { "passed" } else { "FAILED" };
    println!("== {name} {verdict} in {}", Seconds(start.elapsed()));
    outcome
}

fn show(command: &mut Command) -> Result<(), TaskError> {
    Ok(process::show(command)?)
}

fn clippy(layout: &Layout, wasm: WasmRoute) -> Result<(), TaskError> {
    let deny_warnings = ["--locked", "--", "--deny", "warnings"];
    show(process::cargo(layout, "clippy").args(["--workspace", "--all-targets"]).args(deny_warnings))?;
    // The filter's host calls exist only on wasm. Debian's rustc-web comes without clippy.
    if let WasmRoute::Toolchain { target } = wasm {
        let filter = ["--package", "p2pcdn-filter", "--target", target];
        return show(process::cargo(layout, "clippy").args(filter).args(deny_warnings));
    }
    println!("NOT CHECKED: the filter's wasm-only code, for want of {} in the active toolchain", wasm.target());
    Ok(())
}

/// Only that they compile; `cargo xtask soak` runs them. Without the fuzzer itself, stable Rust will do, and no C++ compiler is needed.
fn fuzz_targets(layout: &Layout) -> Result<(), TaskError> {
    let fuzz = layout.root().join("fuzz");
    let lock = fuzz.join("Cargo.lock");
    // The versions of the workspace, most of which are checked already.
    fs::copy(layout.root().join("Cargo.lock"), &lock).map_err(|source| TaskError::Write { path: lock, source })?;
    let mut check = process::cargo(layout, "check");
    show(check.arg("--manifest-path").arg(fuzz.join("Cargo.toml")).arg("--no-default-features"))
}

/// Licences, banned crates and sources, as deny.toml has them.
fn dependencies(layout: &Layout) -> Result<(), TaskError> {
    if process::succeeds(process::cargo(layout, "deny").arg("--version")) {
        return show(process::cargo(layout, "deny").args(["check", "bans", "licenses", "sources"]));
    }
    println!("NOT CHECKED: cargo-deny is not installed (cargo install --locked cargo-deny; some ten minutes)");
    Ok(())
}

/// A duration as people say it.
struct Seconds(Duration);

impl std::fmt::Display for Seconds {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let seconds = self.0.as_secs();
        match seconds {
            0..10 => write!(out, "{:.1} s", self.0.as_secs_f64()),
            10..60 => write!(out, "{seconds} s"),
            _ => write!(out, "{} min {:02} s", seconds / 60, seconds % 60),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_as_precise_as_they_need_to_be() {
        let shown = |millis| Seconds(Duration::from_millis(millis)).to_string();
        assert_eq!(shown(430), "0.4 s");
        assert_eq!(shown(10_900), "10 s");
        assert_eq!(shown(723_000), "12 min 03 s");
    }

    #[test]
    fn a_failing_stage_hands_on_its_own_exit_code() {
        let error = stage("sample", || show(Command::new("sh").args(["-c", "exit 3"]))).unwrap_err();
        assert_eq!(error.exit_code(), std::process::ExitCode::from(3));
    }
}
