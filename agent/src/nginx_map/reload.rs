//! Brings a file to nginx: all of it or, if nginx does not take it, the one before.

use std::fs::{self, File};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// How nginx is told that there is another file.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Reload {
    /// Not at all: somebody else sees to it.
    #[default]
    Nobody,
    /// A command and its arguments, whose exit status says whether nginx has taken it.
    Command(Vec<String>),
    /// A signal (HUP) to the process whose number is in this file; what comes of it stands in nginx's error log.
    Signal(PathBuf),
}

/// Why the file before is still in use.
#[derive(Debug, thiserror::Error)]
pub enum BringError {
    /// The file could not be written; the operator's to mend.
    #[error("{path}: {source}; make its directory writable for the agent")]
    Write {
        /// Which file.
        path: String,
        /// What the system said.
        source: io::Error,
    },
    /// The command or the process number could not be used.
    #[error("nginx.reload {what}: {source}")]
    Start {
        /// The command, or the file with the number.
        what: String,
        /// What the system said.
        source: io::Error,
    },
    /// nginx has refused the configuration; what it said names file and line.
    #[error("nginx did not take {path}, the file before is back: {said}")]
    Refused {
        /// Which file.
        path: String,
        /// What the command said, at most a few hundred bytes.
        said: String,
    },
}

/// How long the command may take.
const PATIENCE: Duration = Duration::from_secs(20);
/// Most of what the command says that is kept.
const MAX_SAID_BYTES: usize = 2048;

/// Puts `text` in place of `file` in one step and has nginx take it; blocks.
pub(super) fn bring(file: &Path, text: &str, reload: &Reload) -> Result<(), BringError> {
    let before = fs::read(file).ok();
    replace(file, text.as_bytes())?;
    tell(file, reload).inspect_err(|_| {
        // That nothing was there before is no reason to leave what nginx does not take.
        let restored = before.map_or_else(|| fs::remove_file(file).is_ok(), |before| replace(file, &before).is_ok());
        if !restored {
            tracing::error!(file = %file.display(), "the file before could not be put back");
        }
    })
}

/// Writes a file in one step for whoever reads it; half a file is never seen, nor left by a crash, whoever else writes it at the same time.
pub fn replace(file: &Path, bytes: &[u8]) -> Result<(), BringError> {
    let write = || {
        // The agent's own, or another process's.
        let turn = File::create(file.with_extension("lock"))?;
        turn.lock()?;
        let draft = file.with_extension("new");
        let mut out = File::create(&draft)?;
        out.write_all(bytes)?;
        out.sync_all()?;
        fs::rename(&draft, file)
    };
    write().map_err(|source| BringError::Write { path: file.display().to_string(), source })
}

fn tell(file: &Path, reload: &Reload) -> Result<(), BringError> {
    match reload {
        Reload::Nobody => Ok(()),
        Reload::Command(words) => run(file, words),
        Reload::Signal(number) => {
            let start = |source| BringError::Start { what: number.display().to_string(), source };
            let id = fs::read_to_string(number).map_err(start)?.trim().parse().ok().and_then(Pid::from_raw);
            let id = id.ok_or_else(|| start(io::ErrorKind::InvalidData.into()))?;
            kill_process(id, Signal::HUP).map_err(|error| start(error.into()))
        }
    }
}

fn run(file: &Path, words: &[String]) -> Result<(), BringError> {
    let start = |source| BringError::Start { what: words.join(" "), source };
    let Some((program, arguments)) = words.split_first() else { return Ok(()) };
    // A pipe could fill up, and whatever the command leaves running could hold it open.
    let mut said = tempfile().map_err(start)?;
    let errors = said.try_clone().map_err(start)?;
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(errors);
    let mut child = command.spawn().map_err(start)?;
    let begun = Instant::now();
    let status = loop {
        match child.try_wait().map_err(start)? {
            Some(status) => break status,
            None if begun.elapsed() > PATIENCE => {
                // It has ended by itself if this fails.
                let _ = child.kill();
                break child.wait().map_err(start)?;
            }
            None => std::thread::sleep(Duration::from_millis(10)),
        }
    };
    if status.success() {
        return Ok(());
    }
    let mut text = Vec::new();
    said.rewind().and_then(|()| said.take(MAX_SAID_BYTES as u64).read_to_end(&mut text)).map_err(start)?;
    let said = String::from_utf8_lossy(&text).trim().replace('\n', "; ");
    let said = if said.is_empty() { format!("{} ended with {status}", words.join(" ")) } else { said };
    Err(BringError::Refused { path: file.display().to_string(), said })
}

/// A file that nobody else can open.
fn tempfile() -> io::Result<File> {
    let name =
        std::env::temp_dir().join(format!("p2pcdn-{}-{:x}", std::process::id(), getrandom::u64().unwrap_or_default()));
    let file = File::options().read(true).write(true).create_new(true).open(&name)?;
    fs::remove_file(name)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Reload {
        Reload::Command(text.split_whitespace().map(str::to_owned).collect())
    }

    #[test]
    fn a_file_is_replaced_in_one_step_and_nothing_else_is_left() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("map.conf");
        bring(&file, "one", &words("true")).unwrap();
        bring(&file, "two", &Reload::Nobody).unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "two");
        assert!(!file.with_extension("new").exists());
    }

    #[test]
    fn writers_of_one_file_at_the_same_time_do_not_get_in_each_others_way() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("map.conf");
        let texts = ["a".repeat(100_000), "b".repeat(50_000)];
        std::thread::scope(|scope| {
            for text in &texts {
                scope.spawn(|| (0..50).for_each(|_| replace(&file, text.as_bytes()).unwrap()));
            }
        });
        assert!(texts.contains(&fs::read_to_string(&file).unwrap()), "a mixture");
        assert!(!file.with_extension("new").exists());
    }

    #[test]
    fn what_nginx_does_not_take_is_taken_back_and_said() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("map.conf");
        let script = directory.path().join("refuse.sh");
        fs::write(&script, "echo 'nginx: [emerg] unexpected \"}\" in map.conf:7' >&2; exit 1").unwrap();
        let refuse = words(&format!("sh {}", script.display()));
        let error = bring(&file, "bad", &refuse).unwrap_err();
        assert!(error.to_string().contains("in map.conf:7"), "{error}");
        assert!(!file.exists(), "there was none before");
        bring(&file, "good", &words("true")).unwrap();
        assert!(matches!(bring(&file, "bad", &refuse), Err(BringError::Refused { .. })));
        assert!(matches!(bring(&file, "bad", &words("/no/such/program")), Err(BringError::Start { .. })));
        assert!(matches!(bring(&file, "bad", &Reload::Signal("/no/such.pid".into())), Err(BringError::Start { .. })));
        assert_eq!(fs::read_to_string(&file).unwrap(), "good");
    }

    #[test]
    fn a_file_that_cannot_be_written_is_named() {
        let error = bring(Path::new("/no/such/directory/map.conf"), "x", &words("true")).unwrap_err();
        assert!(error.to_string().starts_with("/no/such/directory/map.conf: "), "{error}");
    }
}
