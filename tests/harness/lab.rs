//! What the sites of one test share.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::ca::Ca;
use crate::client::Client;
use crate::network::Place;
use crate::{Error, Nginx, Site};

/// The programs under test.
#[derive(Debug, Clone)]
pub struct Dist {
    /// Envoy's binary.
    pub envoy: PathBuf,
    /// The agent's binary.
    pub agent: PathBuf,
    /// The filter.
    pub wasm: PathBuf,
    /// The Envoy configuration that ships.
    pub site_yaml: PathBuf,
    /// Where the nginx configurations that ship are.
    pub nginx_config: PathBuf,
}

impl Dist {
    /// Envoy from $ENVOY, else where `cargo xtask setup` puts it; agent and filter from $P2PCDN_DIST, else from target/dist.
    ///
    /// # Errors
    /// [`Error::NotBuilt`] names the first one that is missing.
    pub fn find() -> Result<Self, Error> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate lies in the workspace");
        let target = root.join(env::var_os("CARGO_TARGET_DIR").unwrap_or("target".into()));
        let from_env = |name, default| env::var_os(name).map_or(default, PathBuf::from);
        let envoy = from_env("ENVOY", target.join("tools/envoy-1.40.0"));
        Self::at(&envoy, &from_env("P2PCDN_DIST", target.join("dist")))
    }

    /// This Envoy, and agent and filter from this directory.
    ///
    /// # Errors
    /// [`Error::NotBuilt`] names the first one that is missing.
    pub fn at(envoy: &Path, dist: &Path) -> Result<Self, Error> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate lies in the workspace");
        let existing = |path: PathBuf| if path.is_file() { Ok(path) } else { Err(Error::NotBuilt(path)) };
        Ok(Self {
            envoy: existing(envoy.into())?,
            agent: existing(dist.join("p2pcdn"))?,
            wasm: existing(dist.join("p2pcdn_filter.wasm"))?,
            site_yaml: existing(root.join("envoy-config/site.yaml"))?,
            nginx_config: root.join("nginx-config"),
        })
    }
}

/// A directory, a CA, the programs and a client for some sites on loopback.
pub struct Lab {
    /// The programs.
    pub dist: Dist,
    /// The CA that every site's certificate comes from and that every agent trusts.
    pub ca: Ca,
    /// A client that trusts this CA.
    pub client: Client,
    directory: TempDir,
}

impl Lab {
    /// A lab in a new directory, which is removed with it unless the thread panics.
    ///
    /// # Errors
    /// [`Error::NotBuilt`], [`Error::Io`] or [`Error::Certificate`].
    pub fn new() -> Result<Self, Error> {
        Self::with(Dist::find()?)
    }

    /// A lab with these programs.
    ///
    /// # Errors
    /// [`Error::Io`] or [`Error::Certificate`].
    pub fn with(dist: Dist) -> Result<Self, Error> {
        let parent = env::temp_dir();
        let directory = tempfile::Builder::new().prefix("p2pcdn-").tempdir_in(&parent);
        let directory = directory.map_err(Error::io("create a directory in", &parent))?;
        let ca = Ca::new()?;
        let pem = directory.path().join("ca.pem");
        fs::write(&pem, ca.pem()).map_err(Error::io("write", &pem))?;
        let client = Client::new(ca.roots());
        Ok(Self { dist, ca, client, directory })
    }

    /// A site that is not started yet; `name` is one DNS label, unique in the lab.
    ///
    /// # Errors
    /// [`Error::Io`] or [`Error::Certificate`].
    pub fn site(&self, name: &str) -> Result<Site, Error> {
        Site::new(self, name, None)
    }

    /// Like [`Lab::site`], with stock nginx in place of Envoy.
    ///
    /// # Errors
    /// [`Error::Io`] or [`Error::Certificate`]; [`Error::NotBuilt`] if nginx is not installed.
    pub fn nginx_site(&self, name: &str, nginx: Nginx) -> Result<Site, Error> {
        let mut site = Site::new(self, name, None)?;
        site.use_nginx(self, nginx)?;
        Ok(site)
    }

    /// Like [`Lab::site`], at a place of its own, whose addresses stand for its names.
    ///
    /// # Errors
    /// [`Error::Io`] or [`Error::Certificate`].
    pub fn site_at(&self, name: &str, place: &Place) -> Result<Site, Error> {
        Site::new(self, name, Some(place))
    }

    /// Where everything lies; `ca.pem` in it is the root certificate.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Leaves the directory in place when the lab ends.
    pub fn keep(&mut self) {
        self.directory.disable_cleanup(true);
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.keep();
            eprintln!("--- logs and state are kept in {}", self.directory().display());
        }
    }
}
