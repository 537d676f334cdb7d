//! Leaves in the filter's module only those callbacks that the shipped configuration lets the proxy call.
//!
//! The SDK exports every callback of the ABI, and a proxy calls at each stage of a request whatever is exported. Envoy's capability list
//! forbids it the same calls; without such a list, calling them cost a redirect 6 % of CPU time (with it, trimming gains nothing more).
//! So the module is as cheap under a proxy that has no capability list, and a tenth smaller. The exports go, and with them the code
//! that only they reach.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use walrus::{Module, passes};

/// What the names of callbacks begin with; other exports (memory, allocator, ABI version, start) are no callbacks and stay.
const CALLBACK: &str = "proxy_on_";
/// The proxy's way to allocate, which is called whatever the list says, and is no callback but for its name.
const ALLOCATOR: &str = "proxy_on_memory_allocate";

/// Why the module could not be trimmed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CallbackError {
    #[error("cannot read {}: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{} is no WebAssembly module: {reason}", path.display())]
    Module { path: PathBuf, reason: String },
    #[error("{} exports no {callback}, which {} allows", path.display(), config.display())]
    Missing { path: PathBuf, config: PathBuf, callback: String },
}

/// The module at `built` without the callbacks that are not on the capability list of `config`.
pub(super) fn drop_unused(built: &Path, config: &Path) -> Result<Vec<u8>, CallbackError> {
    let read = |path: &Path| fs::read(path).map_err(|source| CallbackError::Read { path: path.into(), source });
    let allowed = String::from_utf8_lossy(&read(config)?).into_owned();
    let allowed = callbacks(&allowed);
    let mut module = Module::from_buffer(&read(built)?)
        .map_err(|error| CallbackError::Module { path: built.into(), reason: format!("{error:#}") })?;
    let lacks = |name: &&&str| module.exports.iter().all(|export| export.name != **name);
    if let Some(callback) = allowed.iter().find(lacks) {
        let (path, config, callback) = (built.into(), config.into(), (*callback).to_owned());
        return Err(CallbackError::Missing { path, config, callback });
    }
    let is_unused = |name: &str| is_callback(name) && !allowed.contains(&name);
    let unused: Vec<_> = module.exports.iter().filter(|export| is_unused(&export.name)).map(|e| e.id()).collect();
    unused.into_iter().for_each(|export| module.exports.delete(export));
    passes::gc::run(&mut module);
    Ok(module.emit_wasm())
}

/// The callbacks on the capability list, each of which stands there on a line of its own: `name: {}`.
fn callbacks(config: &str) -> Vec<&str> {
    let names = config.lines().filter_map(|line| line.trim().strip_suffix(": {}"));
    names.filter(|name| is_callback(name)).collect()
}

fn is_callback(export: &str) -> bool {
    export.starts_with(CALLBACK) && export != ALLOCATOR
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use p2pcdn_tests::Dist;

    use super::*;

    fn exports(module: &[u8]) -> BTreeSet<String> {
        Module::from_buffer(module).unwrap().exports.iter().map(|export| export.name.clone()).collect()
    }

    #[test]
    fn the_built_filter_has_the_callbacks_that_the_configuration_allows_and_no_others() {
        let dist = Dist::find().unwrap();
        let exports = exports(&fs::read(dist.wasm).unwrap());
        let config = fs::read_to_string(dist.site_yaml).unwrap();
        let built: Vec<_> = exports.iter().map(String::as_str).filter(|name| is_callback(name)).collect();
        let mut allowed = callbacks(&config);
        allowed.sort_unstable();
        assert_eq!(built, allowed);
        assert!(!exports.contains("proxy_on_done") && !exports.contains("proxy_on_log"));
        for needed in ["memory", ALLOCATOR, "_initialize", "proxy_abi_version_0_2_1"] {
            assert!(exports.contains(needed), "no {needed} in {exports:?}");
        }
    }

    #[test]
    fn a_callback_that_is_allowed_but_not_there_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let (module, config) = (directory.path().join("empty.wasm"), directory.path().join("site.yaml"));
        fs::write(&module, Module::default().emit_wasm()).unwrap();
        fs::write(&config, "allowed_capabilities:\n  proxy_on_tick: {}\n  proxy_log: {}\n").unwrap();
        let error = drop_unused(&module, &config).unwrap_err();
        assert!(matches!(error, CallbackError::Missing { callback, .. } if callback == "proxy_on_tick"));
        fs::write(&config, "").unwrap();
        assert!(exports(&drop_unused(&module, &config).unwrap()).is_empty());
        fs::write(&module, "no wasm").unwrap();
        assert!(matches!(drop_unused(&module, &config), Err(CallbackError::Module { .. })));
    }
}
