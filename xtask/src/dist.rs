//! Builds what a site installs, and puts it into target/dist.

mod callbacks;

use std::{fs, io, path::Path, process as std_process};

use crate::{
    TaskError,
    layout::Layout,
    process,
    setup::{self, WasmRoute},
};

pub(crate) use callbacks::CallbackError;

const AGENT: &str = "p2pcdn";
const FILTER: &str = "p2pcdn_filter.wasm";
const FILTER_WITH_FAULTS: &str = "p2pcdn_filter_fault.wasm";

/// `cargo xtask build`: the agent and the filter.
pub(crate) fn build(layout: &Layout) -> Result<(), TaskError> {
    let wasm = setup::for_wasm()?;
    build_shipped(layout, wasm)
}

/// The agent and the filter as sites get them.
pub(crate) fn build_shipped(layout: &Layout, wasm: WasmRoute) -> Result<(), TaskError> {
    process::show(process::cargo(layout, "build").args(["--release", "--locked", "--package", "p2pcdn-agent"]))?;
    publish(layout, &layout.target().join("release").join(AGENT), AGENT)?;
    build_filter(layout, wasm, &[], FILTER)
}

/// The filter that tests can make crash: it must never reach a site.
pub(crate) fn build_filter_with_faults(layout: &Layout, wasm: WasmRoute) -> Result<(), TaskError> {
    build_filter(layout, wasm, &["--features", "fault-injection"], FILTER_WITH_FAULTS)
}

fn build_filter(layout: &Layout, wasm: WasmRoute, features: &[&str], name: &str) -> Result<(), TaskError> {
    // Apart from native builds: Debian's rustc would otherwise invalidate what the active toolchain built.
    let target = layout.target().join("wasm");
    let mut cargo = process::cargo(layout, "build");
    cargo.args(["--profile", "wasm", "--locked", "--package", "p2pcdn-filter"]).args(features);
    cargo.env("CARGO_TARGET_DIR", &target);
    process::show(&mut wasm.apply(cargo))?;
    let built = target.join(wasm.target()).join("wasm").join(FILTER);
    let module = callbacks::drop_unused(&built, &layout.shipped_config())?;
    let target = layout.dist().join(name);
    let write = |draft: &Path| fs::write(draft, &module).map(|()| module.len() as u64);
    replace(&target, write).map_err(|source| TaskError::Write { path: target.clone(), source })
}

/// Copies a built file into target/dist under the name.
fn publish(layout: &Layout, built: &Path, name: &str) -> Result<(), TaskError> {
    let target = layout.dist().join(name);
    replace(&target, |draft| fs::copy(built, draft)).map_err(|source| TaskError::Write { path: target, source })
}

/// Puts what `write` writes into the file's place, in one step for whoever reads it.
fn replace(target: &Path, write: impl FnOnce(&Path) -> io::Result<u64>) -> io::Result<()> {
    let draft = target.with_extension(format!("draft-{}", std_process::id()));
    fs::create_dir_all(target.parent().unwrap_or(Path::new(".")))?;
    let bytes = write(&draft)?;
    fs::rename(&draft, target)?;
    println!("{} ({} KiB)", target.display(), bytes.div_ceil(1024));
    Ok(())
}
