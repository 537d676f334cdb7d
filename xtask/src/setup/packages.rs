//! Programs that tests and benchmarks run: real browsers, download tools, proxies and a load generator.

use std::{
    env, fs, io,
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    process::Command,
};

use super::{SetupError, apt, report};
use crate::process;

/// Programs, each with the Debian package that brings it.
const PROGRAMS: [(&str, &str); 12] = [
    ("chromium", "chromium"),
    ("chromedriver", "chromium-driver"),
    ("wrk", "wrk"),
    ("aria2c", "aria2"),
    ("curl", "curl"),
    ("wget", "wget"),
    ("git", "git"),
    ("ip", "iproute2"),
    ("nginx", "nginx"),
    ("dpkg-deb", "dpkg"),
    ("faketime", "faketime"),
    ("python3", "python3"),
];
/// Debian's own Python, which sees Debian's modules whatever Python comes first on the PATH.
const PYTHON: &str = "/usr/bin/python3";
const PYTHON_MODULE: (&str, &str) = ("requests", "python3-requests");
/// A module of Debian's nginx, which splits peers off by ALPN.
const NGINX_MODULE: (&str, &str) = ("/usr/lib/nginx/modules/ngx_stream_module.so", "libnginx-mod-stream");
/// Where programs of Debian lie that are not on everybody's PATH.
const SYSTEM_PROGRAMS: &str = "/usr/sbin";

/// Finds the programs, or installs their packages where that is possible.
pub(super) fn find_or_install() -> Result<(), SetupError> {
    let missing = missing();
    if missing.is_empty() {
        report("programs", format_args!("found {}", PROGRAMS.map(|(program, _)| program).join(", ")));
        return Ok(());
    }
    let (programs, packages): (Vec<_>, Vec<_>) = missing.into_iter().unzip();
    report("programs", format_args!("missing: {}", programs.join(", ")));
    if !apt::is_here() {
        return Err(SetupError::NoPrograms { programs });
    }
    without_services(|| apt::install(&packages, "up to a minute"))?;
    match self::missing() {
        still if still.is_empty() => report("", "installed"),
        still => return Err(SetupError::UnsuitablePackages { packages: still.into_iter().map(|(_, p)| p).collect() }),
    }
    if packages.contains(&"nginx") && Path::new("/run/systemd/system").exists() {
        process::read(Command::new("systemctl").args(["disable", "nginx"]))?;
    }
    Ok(())
}

fn missing() -> Vec<(&'static str, &'static str)> {
    let lacks_module = !process::succeeds(Command::new(PYTHON).args(["-c", "import requests"]));
    let programs = PROGRAMS.into_iter().filter(|(program, _)| find(program).is_none());
    // An nginx from elsewhere has it built in.
    let is_debians = find("nginx").is_none_or(|nginx| nginx == Path::new(SYSTEM_PROGRAMS).join("nginx"));
    let lacks_split = apt::is_here() && is_debians && !Path::new(NGINX_MODULE.0).exists();
    programs.chain(lacks_module.then_some(PYTHON_MODULE)).chain(lacks_split.then_some(NGINX_MODULE)).collect()
}

/// Where a program is.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let directories = env::split_paths(&path).chain([PathBuf::from(SYSTEM_PROGRAMS)]);
    directories.map(|directory| directory.join(program)).find(|file| is_executable(file))
}

fn is_executable(file: &Path) -> bool {
    file.metadata().is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
}

/// Debian starts what it installs, and nginx would take port 80, unless this file's exit status forbids it (invoke-rc.d(8)).
const POLICY: &str = "/usr/sbin/policy-rc.d";

/// Our own, by which one is known that an interrupted installation has left.
const NO_SERVICES: &[u8] = b"#!/bin/sh\n# While cargo xtask setup installs packages.\nexit 101\n";

/// Installs with no service being started. An existing policy is the operator's and is left as it is.
fn without_services(install: impl FnOnce() -> Result<(), SetupError>) -> Result<(), SetupError> {
    let path = Path::new(POLICY);
    let fail = |source| SetupError::File { path: path.into(), source };
    if fs::read(path).is_ok_and(|policy| policy == NO_SERVICES) {
        fs::remove_file(path).map_err(fail)?;
    }
    let opened = fs::File::options().write(true).create_new(true).mode(0o755).open(path);
    let mut file = match opened {
        // Not root, which `install` finds out as well and says what to do; or there is a policy.
        Err(error) if matches!(error.kind(), io::ErrorKind::AlreadyExists | io::ErrorKind::PermissionDenied) => {
            return install();
        }
        opened => opened.map_err(fail)?,
    };
    let installed = io::Write::write_all(&mut file, NO_SERVICES).map_err(fail).and_then(|()| {
        // Closed first: a file that is open for writing cannot be executed.
        drop(file);
        install()
    });
    fs::remove_file(path).map_err(fail)?;
    installed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_found_where_shells_find_them_and_nowhere_else() {
        assert!(find("sh").is_some_and(|path| path.is_absolute()));
        assert_eq!(find("no-such-program"), None);
        assert!(!is_executable(Path::new("/etc/passwd")), "a file is not yet a program");
        assert!(!is_executable(Path::new("/usr")));
    }
}
