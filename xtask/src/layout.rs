//! Where things lie in the working tree.

use std::{
    env,
    path::{Path, PathBuf},
};

/// The directories that tasks work in, all absolute.
pub(crate) struct Layout {
    root: PathBuf,
    target: PathBuf,
}

impl Layout {
    /// The tree this program was compiled from, and Cargo's target directory for it.
    pub(crate) fn find() -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(1).unwrap_or(Path::new(".")).to_path_buf();
        let target = root.join(env::var_os("CARGO_TARGET_DIR").unwrap_or("target".into()));
        Self { root, target }
    }

    /// The root of the workspace.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Cargo's target directory: $CARGO_TARGET_DIR, or `target` in the root.
    pub(crate) fn target(&self) -> &Path {
        &self.target
    }

    /// Programs that setup downloads.
    pub(crate) fn tools(&self) -> PathBuf {
        self.target.join("tools")
    }

    /// What a site installs: the agent's binary and the filter's wasm.
    pub(crate) fn dist(&self) -> PathBuf {
        self.target.join("dist")
    }

    /// The Envoy configuration that ships.
    pub(crate) fn shipped_config(&self) -> PathBuf {
        self.root.join("envoy-config/site.yaml")
    }
}
