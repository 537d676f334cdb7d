//! `cargo xtask soak`: what takes too long for every change, above all fuzzing.

use std::{fs, path::Path, process::Command};

use crate::{TaskError, layout::Layout, process};

#[derive(clap::Args)]
pub(crate) struct SoakArgs {
    /// Seconds for each fuzz target.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..=86_400))]
    seconds: u32,

    /// How often the replica store is killed at a random moment.
    #[arg(long, default_value_t = 200)]
    kills: u32,

    /// Only fuzz, and only these targets; the default is all there is to soak.
    targets: Vec<String>,
}

const CARGO_FUZZ: &str = "0.13.2";
/// Inputs found on the way lie below target/; this many bytes of one are enough for every format here.
const MAX_INPUT_BYTES: u32 = 4096;

pub(crate) fn run(layout: &Layout, args: &SoakArgs) -> Result<(), TaskError> {
    if args.targets.is_empty() && args.kills > 0 {
        println!("\n== replica store: {} kills", args.kills);
        let mut test = process::cargo(layout, "test");
        test.args(["--locked", "--package", "p2pcdn-agent", "--test", "store", "--", "killed_at_random"]);
        process::show(test.env("P2PCDN_STORE_KILLS", args.kills.to_string()))?;
    }
    let tools = layout.tools().join("cargo");
    let program = tools.join("bin/cargo-fuzz");
    if !process::succeeds(Command::new(&program).arg("fuzz").arg("--version")) {
        println!("installing cargo-fuzz {CARGO_FUZZ} into {} (a minute or two)", tools.display());
        let mut install = process::cargo(layout, "install");
        process::show(install.args(["--locked", "--version", CARGO_FUZZ, "--root"]).arg(&tools).arg("cargo-fuzz"))?;
    }
    let all = targets(&layout.root().join("fuzz/fuzz_targets"))?;
    if let Some(unknown) = args.targets.iter().find(|target| !all.contains(target)) {
        return Err(TaskError::NoFuzzTarget { unknown: unknown.clone(), known: all.join(", ") });
    }
    for target in all.iter().filter(|target| args.targets.is_empty() || args.targets.contains(target)) {
        println!("\n== {target}: {} s", args.seconds);
        let corpus = layout.target().join("fuzz/corpus").join(target);
        fs::create_dir_all(&corpus).map_err(|source| TaskError::Write { path: corpus.clone(), source })?;
        let fuzz = |command: &str| {
            // Safe Rust has nothing that the address sanitizer would find, and without it inputs run several times as fast.
            let mut fuzz = Command::new(&program);
            fuzz.args(["fuzz", command, "--sanitizer", "none", "--fuzz-dir"]).arg(layout.root().join("fuzz"));
            fuzz.arg("--target-dir").arg(layout.target().join("fuzz/build")).arg(target).arg(&corpus);
            fuzz.arg("--").arg(format!("-max_len={MAX_INPUT_BYTES}"));
            // cargo-fuzz takes the toolchain from here; nightly alone has the instrumentation.
            fuzz.env("RUSTUP_TOOLCHAIN", "nightly").current_dir(layout.root());
            fuzz
        };
        process::show(fuzz("run").arg(format!("-max_total_time={}", args.seconds)))?;
        // Of what was found, the least that reaches as much is kept.
        process::show(&mut fuzz("cmin"))?;
    }
    Ok(())
}

/// The fuzz targets by name.
fn targets(directory: &Path) -> Result<Vec<String>, TaskError> {
    let fail = |source| TaskError::Write { path: directory.into(), source };
    let mut names = Vec::new();
    for entry in fs::read_dir(directory).map_err(fail)? {
        let path = entry.map_err(fail)?.path();
        names.extend(path.file_stem().and_then(|name| name.to_str()).map(String::from));
    }
    names.sort();
    Ok(names)
}
