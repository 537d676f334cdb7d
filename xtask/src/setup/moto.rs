//! moto's server: a bucket of the S3 protocol for tests.

use std::path::PathBuf;
use std::process::Command;

use super::{SetupError, report};
use crate::{layout::Layout, process};

/// A crate with such a server would cost every build a minute; this is installed once.
const PINNED: &str = "5.2.5";
/// moto's own extra for its server brings what all other services need, at twice the size.
const SERVER: [&str; 2] = ["flask>=3,<4", "flask-cors>=6,<7"];

/// The absolute path of the server's program.
pub(super) fn find_or_install(layout: &Layout) -> Result<PathBuf, SetupError> {
    let environment = layout.tools().join(format!("moto-{PINNED}"));
    let program = environment.join("bin/moto_server");
    let works = || process::succeeds(Command::new(&program).arg("--help"));
    if works() {
        report("moto", format_args!("found {}", program.display()));
        return Ok(program);
    }
    report("moto", format_args!("installing {PINNED} from PyPI into {} (a minute)", environment.display()));
    let fail = |cause| SetupError::NoMoto { cause };
    process::read(Command::new("python3").args(["-m", "venv"]).arg(&environment)).map_err(fail)?;
    let mut pip = Command::new(environment.join("bin/pip"));
    pip.args(["install", "--quiet", "--no-input", "--disable-pip-version-check"]);
    process::read(pip.arg(format!("moto[s3]=={PINNED}")).args(SERVER)).map_err(fail)?;
    Ok(program)
}
