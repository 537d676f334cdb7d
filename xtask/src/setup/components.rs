//! Clippy and rustfmt, which a minimal Rust installation leaves out.

use super::{SetupError, report, rustup};
use crate::{layout::Layout, process};

/// Cargo's subcommand for each component.
const COMPONENTS: [(&str, &str); 2] = [("clippy", "clippy"), ("fmt", "rustfmt")];

/// Makes `cargo clippy` and `cargo fmt` work.
pub(super) fn find_or_install(layout: &Layout) -> Result<(), SetupError> {
    for (name, component) in COMPONENTS {
        let works = || process::succeeds(process::cargo(layout, name).arg("--version"));
        if works() {
            report(component, "found");
            continue;
        }
        report(component, "adding with rustup");
        if let Err(error) = rustup(["component", "add", component]) {
            report("", format_args!("not added: {}", error.reason()));
        }
        if !works() {
            return Err(SetupError::NoComponent { name, component });
        }
    }
    Ok(())
}
