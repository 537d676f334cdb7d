//! Whether this machine has what the settings name; the same for `check-config` and `run`, which changes nothing.

use std::io::{self, ErrorKind};
use std::path::Path;

use rustix::fs::{Access, access};

use super::Settings;
use super::keys::{KeyError, SettingsErrors};
use crate::catalogue::files::ContentDirectory;
use crate::identity::check_extra_root;
use crate::store::{Place, has_bucket_keys};

impl Settings {
    /// These settings, if the agent can start with them as this user; else everything that is in the way.
    pub fn on_this_machine(self) -> Result<Self, SettingsErrors> {
        let mut errors = Vec::new();
        let mut wrong = |key: &str, problem: String| errors.push(KeyError { key: key.to_owned(), problem });
        if let Some(directory) = &self.site.directory
            && let Err(error) = ContentDirectory::at(directory)
        {
            let remedy = "create it, or name the directory with the site's files";
            wrong("site.directory", format!("{}: {error}; {remedy}", directory.display()));
        }
        for path in &self.extra_roots {
            if let Err(error) = check_extra_root(path) {
                wrong("trust.extra_roots", format!("{error}; name PEM files with certificates, or none"));
            }
        }
        if let Err(error) = usable(&self.state_directory) {
            wrong("state.directory", unusable(&self.state_directory, &error));
        }
        match &self.store.place {
            Place::State => {}
            Place::Directory(directory) => {
                if let Err(error) = usable(directory) {
                    wrong("store.url", unusable(directory, &error));
                }
            }
            Place::Bucket { .. } if has_bucket_keys() => {}
            Place::Bucket { .. } => {
                let remedy = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the agent's environment";
                wrong("store.url", format!("names a bucket without keys: {remedy}"));
            }
        }
        if errors.is_empty() { Ok(self) } else { Err(SettingsErrors(errors)) }
    }
}

fn unusable(directory: &Path, error: &io::Error) -> String {
    format!("{}: {error}; create it and make it writable for the user who runs p2pcdn", directory.display())
}

/// Whether this user can write in the directory, or create it.
fn usable(directory: &Path) -> io::Result<()> {
    let nearest = directory.ancestors().map(|path| if path == Path::new("") { Path::new(".") } else { path });
    for path in nearest {
        match std::fs::metadata(path) {
            Ok(found) if !found.is_dir() => return Err(ErrorKind::NotADirectory.into()),
            Ok(_) => return Ok(access(path, Access::WRITE_OK | Access::EXEC_OK)?),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Err(ErrorKind::NotFound.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is wrong on this machine, by the keys.
    fn keys(toml: &str) -> Vec<String> {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let at = |name: &str| directory.path().join(name);
        std::fs::create_dir(at("srv")).expect("a directory");
        std::fs::write(at("plain"), "no certificate").expect("a file");
        std::fs::write(at("agent.toml"), format!("site.domain = \"a.test\"\n{toml}")).expect("a file");
        let settings = Settings::load(&at("agent.toml"), &[]).expect("good settings");
        let errors = settings.on_this_machine().map_or_else(|errors| errors.0, |_| Vec::new());
        errors.into_iter().map(|error| error.key).collect()
    }

    #[test]
    fn what_the_machine_lacks_is_told_by_the_keys_all_at_once() {
        assert_eq!(keys("site.directory = \"srv\"\nstate.directory = \"new/state\""), [""; 0]);
        assert_eq!(keys("site.directory = \"none\"\nstate.directory = \"s\""), ["site.directory"]);
        assert_eq!(
            keys("site.directory = \"plain\"\nstate.directory = \"plain/s\""),
            ["site.directory", "state.directory"]
        );
        let roots = "state.directory = \"s\"\ntrust.extra_roots = [\"none.pem\", \"plain\"]";
        assert_eq!(keys(roots), ["trust.extra_roots"; 2]);
        let store = "state.directory = \"s\"\nstore.url = \"file:///dev/null/replicas\"";
        assert_eq!(keys(store), ["store.url"]);
    }
}
