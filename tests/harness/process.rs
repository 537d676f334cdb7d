//! A program that a site runs: started, signalled, stopped and started again, and never left behind.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process, kill_process_group, set_parent_process_death_signal};

use crate::{Error, poll};

/// How long a program may take to end after SIGTERM.
const GRACE: Duration = Duration::from_secs(10);
/// Lines of a log that are shown when something went wrong.
const TAIL_LINES: usize = 40;

/// A program with its arguments, running or not. It is killed when this value is dropped, and when the thread that started it ends.
pub struct Program {
    name: String,
    path: PathBuf,
    arguments: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
    directory: PathBuf,
    log: PathBuf,
    namespace: Option<String>,
    /// A program and its arguments that run this one.
    wrapper: Vec<OsString>,
    child: Option<Child>,
}

impl Program {
    /// A program that will run in `directory` and write what it says to `directory/NAME.log`.
    pub fn new(name: &str, path: &Path, arguments: Vec<OsString>, directory: &Path) -> Self {
        let log = directory.join(format!("{name}.log"));
        let environment = Vec::new();
        Self {
            name: name.into(),
            path: path.into(),
            arguments,
            environment,
            directory: directory.into(),
            log,
            namespace: None,
            wrapper: Vec::new(),
            child: None,
        }
    }

    /// Makes it run in a network namespace; holds from the next start.
    pub(crate) fn within(&mut self, namespace: &str) {
        self.namespace = Some(namespace.into());
    }

    /// Has it run by another program, to whose arguments it is added; holds from the next start. The other one has to become it (`exec`),
    /// for signals to reach it.
    pub fn wrap(&mut self, wrapper: Vec<OsString>) {
        self.wrapper = wrapper;
    }

    fn command(&self) -> Command {
        let namespace =
            self.namespace.iter().flat_map(|name| ["ip", "netns", "exec", name.as_str()].map(OsString::from));
        let mut words = namespace.chain(self.wrapper.iter().cloned()).chain([self.path.clone().into()]);
        let mut command = Command::new(words.next().unwrap_or_default());
        command.args(words);
        command.envs(self.environment.iter().cloned()).current_dir(&self.directory).stdin(Stdio::null());
        command
    }

    /// Runs the same program with other arguments to its end, and returns what it prints.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Ended`] if it does not succeed.
    pub(crate) fn printed(&self, arguments: &[&str]) -> Result<Vec<u8>, Error> {
        let output = self.command().args(arguments).output().map_err(Error::io("run", &self.path))?;
        if output.status.success() {
            return Ok(output.stdout);
        }
        let tail = String::from_utf8_lossy(&output.stderr).into_owned();
        Err(Error::Ended { name: self.name.clone(), status: output.status, tail })
    }

    /// Replaces its arguments; holds from the next start.
    pub fn arguments(&mut self, arguments: Vec<OsString>) {
        self.arguments = arguments;
    }

    /// Sets a variable of its environment; holds from the next start.
    pub fn set_env(&mut self, name: &str, value: impl Into<OsString>) {
        self.environment.push((name.into(), value.into()));
    }

    /// Starts it; its log continues where an earlier run ended.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn start(&mut self) -> Result<(), Error> {
        self.kill();
        let log = File::options().create(true).append(true).open(&self.log).map_err(Error::io("open", &self.log))?;
        let errors = log.try_clone().map_err(Error::io("open", &self.log))?;
        let mut command = self.command();
        // A group of its own: Ctrl-C is for whoever drives the site, who then stops it in order.
        command.args(&self.arguments).stdout(log).stderr(errors).process_group(0);
        // SAFETY: between fork and exec only one system call is made, and nothing is allocated.
        unsafe { command.pre_exec(|| Ok(set_parent_process_death_signal(Some(Signal::KILL))?)) };
        self.child = Some(command.spawn().map_err(Error::io("run", &self.path))?);
        Ok(())
    }

    /// Whether it runs.
    ///
    /// # Errors
    /// [`Error::Ended`] if it was started and ended by itself.
    pub fn check(&mut self) -> Result<bool, Error> {
        let Some(child) = &mut self.child else { return Ok(false) };
        match child.try_wait().map_err(Error::io("wait for", &self.path))? {
            None => Ok(true),
            Some(status) => {
                self.child = None;
                Err(Error::Ended { name: self.name.clone(), status, tail: self.tail() })
            }
        }
    }

    /// Its process id while it runs.
    pub fn id(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Sends a signal, for example `Signal::STOP`; nothing happens if it does not run.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn signal(&self, signal: Signal) -> Result<(), Error> {
        let Some(child) = &self.child else { return Ok(()) };
        kill_process(Pid::from_child(child), signal).map_err(|e| Error::io("signal", &self.path)(e.into()))
    }

    /// Stops it by `Signal::STOP`, and waits until none of its threads runs any more.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Deadline`] if it goes on.
    pub async fn freeze(&self) -> Result<(), Error> {
        self.signal(Signal::STOP)?;
        let Some(id) = self.id() else { return Ok(()) };
        let name = format!("stop of {}", self.name);
        poll(GRACE, name, async || if is_frozen(id)? { Ok(()) } else { Err(io::Error::other("it runs")) }).await
    }

    /// Kills it and what it has started, as a power failure would.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // Both fail only if it has ended already.
            let _ = kill_process_group(Pid::from_child(&child), Signal::KILL);
            let _ = child.wait();
        }
    }

    /// Asks it to end and waits until it has; one that does not within ten seconds is killed.
    ///
    /// # Errors
    /// [`Error::Deadline`] if it had to be killed.
    pub async fn stop(&mut self) -> Result<Option<ExitStatus>, Error> {
        self.signal(Signal::TERM)?;
        let Some(child) = &mut self.child else { return Ok(None) };
        let ended = poll(GRACE, format!("end of {} after SIGTERM", self.name), async || match child.try_wait() {
            Ok(Some(status)) => Ok(status),
            Ok(None) => Err(String::from("it still runs")),
            Err(error) => Err(error.to_string()),
        });
        let ended = ended.await;
        self.kill();
        ended.map(Some)
    }

    /// Waits until it has ended by itself; one that has not within `deadline` is killed.
    ///
    /// # Errors
    /// [`Error::Deadline`] if it had to be killed.
    pub async fn end(&mut self, deadline: Duration) -> Result<ExitStatus, Error> {
        let ended = poll(deadline, format!("end of {}", self.name), async || match self.check() {
            Err(Error::Ended { status, .. }) => Ok(status),
            Err(error) => Err(error.to_string()),
            Ok(_) => Err(String::from("it still runs")),
        });
        let ended = ended.await;
        self.kill();
        ended
    }

    /// The last lines that it wrote.
    pub fn tail(&self) -> String {
        let text = fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
    }

    /// Where it writes.
    pub fn log(&self) -> &Path {
        &self.log
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            eprintln!("--- the end of {}\n{}", self.log.display(), self.tail());
        }
    }
}

/// Whether every thread of the process has been stopped by a signal.
fn is_frozen(id: u32) -> io::Result<bool> {
    for thread in fs::read_dir(format!("/proc/{id}/task"))? {
        let stat = fs::read_to_string(thread?.path().join("stat"))?;
        // The state follows the name in parentheses, which may contain anything.
        if !stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T')) {
            return Ok(false);
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, directory: &Path) -> Program {
        Program::new("shell", Path::new("/bin/sh"), vec!["-c".into(), script.into()], directory)
    }

    #[tokio::test]
    async fn a_program_that_ends_says_how_and_one_that_does_not_is_killed() {
        let directory = tempfile::tempdir().unwrap();
        let mut short = shell("exit 3", directory.path());
        short.start().unwrap();
        assert_eq!(short.end(Duration::from_secs(10)).await.unwrap().code(), Some(3));
        let mut long = shell("exec sleep 100", directory.path());
        long.start().unwrap();
        assert!(matches!(long.end(Duration::from_millis(50)).await, Err(Error::Deadline { .. })));
        assert_eq!(long.id(), None);
    }

    #[tokio::test]
    async fn a_program_is_stopped_in_order_and_its_log_is_kept() {
        let directory = tempfile::tempdir().unwrap();
        let mut program =
            shell("trap 'echo bye; exit 3' TERM; echo up; while :; do sleep 0.01; done", directory.path());
        assert!(!program.check().unwrap());
        program.start().unwrap();
        poll(GRACE, "output", async || if program.tail().contains("up") { Ok(()) } else { Err("none") }).await.unwrap();
        assert!(program.check().unwrap());
        assert_eq!(program.stop().await.unwrap().and_then(|s| s.code()), Some(3));
        assert_eq!(program.tail(), "up\nbye");
        assert!(!program.check().unwrap());
    }

    #[tokio::test]
    async fn a_program_that_ends_by_itself_is_reported_with_its_last_words() {
        let directory = tempfile::tempdir().unwrap();
        let mut program = shell("echo no such setting; exit 7", directory.path());
        program.start().unwrap();
        let ended = poll(GRACE, "end", async || program.check().err().ok_or("it still runs")).await.unwrap();
        let Error::Ended { status, tail, .. } = ended else { panic!("{ended}") };
        assert_eq!((status.code(), tail.as_str()), (Some(7), "no such setting"));
    }

    #[tokio::test]
    async fn a_dropped_program_is_gone_even_if_it_was_frozen() {
        let directory = tempfile::tempdir().unwrap();
        let mut program = shell("exec sleep 1000", directory.path());
        program.start().unwrap();
        let id = program.child.as_ref().unwrap().id();
        program.freeze().await.unwrap();
        assert!(is_frozen(id).unwrap());
        drop(program);
        assert!(!Path::new(&format!("/proc/{id}")).exists());
    }
}
