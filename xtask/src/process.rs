//! Running other programs.

use std::{
    env, fmt, io,
    process::{Command, ExitCode, ExitStatus, Output, Stdio},
};

use crate::layout::Layout;

/// Lines of a failed program's output that are worth repeating.
const TAIL_LINES: usize = 8;
/// Characters of a complaint that is reported in passing.
const COMPLAINT_CHARS: usize = 100;

/// Why a program was of no use.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CommandError {
    #[error("cannot start `{command}`: {source}")]
    Start { command: String, source: io::Error },
    /// `tail` is the end of its output, empty where that was shown as it came.
    #[error("`{command}` failed ({status}){tail}")]
    Failed { command: String, status: ExitStatus, tail: Tail },
}

impl CommandError {
    /// The program's own exit code; 1 where it never started or a signal ended it.
    pub(crate) fn exit_code(&self) -> ExitCode {
        match self {
            Self::Start { .. } => ExitCode::FAILURE,
            Self::Failed { status, .. } => {
                status.code().and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::FAILURE, ExitCode::from)
            }
        }
    }

    /// The program's complaint in one line, or why it never started.
    pub(crate) fn reason(&self) -> String {
        match self {
            Self::Start { source, .. } => source.to_string(),
            Self::Failed { status, tail, .. } => tail.complaint().unwrap_or_else(|| status.to_string()),
        }
    }
}

/// The last lines of what a program wrote.
#[derive(Debug, Default)]
pub(crate) struct Tail(Vec<String>);

impl Tail {
    fn of(text: &str) -> Self {
        let mut lines: Vec<String> =
            text.lines().rev().filter(|line| !line.trim().is_empty()).take(TAIL_LINES).map(str::to_owned).collect();
        lines.reverse();
        Self(lines)
    }

    /// The first line that calls itself an error, else the last one; shortened to fit a line of the screen.
    fn complaint(&self) -> Option<String> {
        let error = self.0.iter().find(|line| line.starts_with("error: ") || line.starts_with("E: "));
        error.or(self.0.last()).map(|line| match line.char_indices().nth(COMPLAINT_CHARS) {
            Some((end, _)) => format!("{}...", &line[..end]),
            None => line.clone(),
        })
    }
}

impl fmt::Display for Tail {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|line| write!(out, "\n    {line}"))
    }
}

/// The Cargo that runs this task, in the root of the workspace and with its target directory.
pub(crate) fn cargo(layout: &Layout, subcommand: &str) -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or("cargo".into()));
    command.current_dir(layout.root()).env("CARGO_TARGET_DIR", layout.target()).arg(subcommand);
    remove_env(&mut command, describes_xtask);
    command
}

/// Removes from the command's environment the inherited variables whose names `unwanted` picks.
pub(crate) fn remove_env(command: &mut Command, unwanted: fn(&str) -> bool) {
    for (name, _) in env::vars_os() {
        if name.to_str().is_some_and(unwanted) {
            command.env_remove(name);
        }
    }
}

/// Whether `cargo run` set this variable to describe xtask. Build scripts watch some of them, and would run again
/// whenever `cargo xtask` and plain `cargo` take turns.
fn describes_xtask(name: &str) -> bool {
    name.starts_with("CARGO_PKG_") || matches!(name, "CARGO" | "CARGO_MANIFEST_DIR" | "CARGO_MANIFEST_PATH")
}

/// Runs the command with its output shown as it comes.
pub(crate) fn show(command: &mut Command) -> Result<(), CommandError> {
    let status = command.stdin(Stdio::null()).status().map_err(|source| start_error(command, source))?;
    if status.success() { Ok(()) } else { Err(failed(command, status, Tail::default())) }
}

/// Runs the command silently and returns its standard output.
pub(crate) fn read(command: &mut Command) -> Result<String, CommandError> {
    let Output { status, stdout, stderr } =
        command.stdin(Stdio::null()).output().map_err(|source| start_error(command, source))?;
    let stdout = String::from_utf8_lossy(&stdout);
    if status.success() {
        return Ok(stdout.into_owned());
    }
    let tail = Tail::of(&(stdout + String::from_utf8_lossy(&stderr)));
    Err(failed(command, status, tail))
}

/// Whether the command runs and succeeds; its output is discarded.
pub(crate) fn succeeds(command: &mut Command) -> bool {
    read(command).is_ok()
}

fn start_error(command: &Command, source: io::Error) -> CommandError {
    CommandError::Start { command: line(command), source }
}

fn failed(command: &Command, status: ExitStatus, tail: Tail) -> CommandError {
    CommandError::Failed { command: line(command), status, tail }
}

/// The command as one would type it.
pub(crate) fn line(command: &Command) -> String {
    let words: Vec<_> =
        [command.get_program()].into_iter().chain(command.get_args()).map(|word| word.to_string_lossy()).collect();
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tail_keeps_the_last_lines_that_say_something() {
        let text: String = (1..=20).map(|n| format!("line {n}\n\n")).collect();
        let tail = Tail::of(&text).to_string();
        assert!(tail.starts_with("\n    line 13\n"), "{tail}");
        assert!(tail.ends_with("\n    line 20"), "{tail}");
    }

    #[test]
    fn a_complaint_is_the_error_itself_and_not_what_follows() {
        let rustup = "info: downloading\nerror: could not download\n\nCaused by:\n    refused\n";
        assert_eq!(Tail::of(rustup).complaint().unwrap(), "error: could not download");
        assert_eq!(Tail::of("one\ntwo\n").complaint().unwrap(), "two");
        assert_eq!(Tail::of("").complaint(), None);
        let long = "é".repeat(COMPLAINT_CHARS + 1);
        assert_eq!(Tail::of(&long).complaint().unwrap().chars().count(), COMPLAINT_CHARS + "...".len());
    }

    #[test]
    fn a_failure_carries_exit_code_command_and_output() {
        let error = read(Command::new("sh").args(["-c", "echo lost >&2; exit 7"])).unwrap_err();
        assert_eq!(error.exit_code(), ExitCode::from(7));
        assert_eq!(error.to_string(), "`sh -c echo lost >&2; exit 7` failed (exit status: 7)\n    lost");
    }

    #[test]
    fn what_cargo_says_about_xtask_is_not_passed_on() {
        assert!(describes_xtask("CARGO_MANIFEST_DIR"));
        assert!(describes_xtask("CARGO_PKG_VERSION"));
        assert!(!describes_xtask("CARGO_HOME"));
        assert!(!describes_xtask("CARGO_NET_OFFLINE"));
    }
}
