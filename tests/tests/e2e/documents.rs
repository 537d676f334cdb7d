//! The documents name files and folders that are there.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

const DOCUMENTS: [&str; 5] =
    ["README.md", "ARCHITECTURE.md", "docs/gossip.md", "envoy-config/README.md", "nginx-config/README.md"];
/// Made by a build, so not there in a fresh clone.
const BUILT: [&str; 1] = ["target"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// What stands between single backticks, and where links lead.
fn mentioned(text: &str) -> Vec<String> {
    let prose: String = text.split("```").step_by(2).collect();
    let quoted = prose.split('`').skip(1).step_by(2).map(str::to_owned);
    let linked = prose.split("](").skip(1).filter_map(|rest| rest.split(')').next()).map(str::to_owned);
    let linked = linked.filter(|link| !link.contains("://") && !link.starts_with('#'));
    quoted.chain(linked.map(|link| link.split('#').next().unwrap_or_default().to_owned())).collect()
}

/// Whether it can only be meant as a path in the repository: it begins with one of its folders, or is the name of a document.
fn is_path(text: &str, folders: &BTreeSet<String>) -> bool {
    let plain = text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-/".contains(&b));
    let first = text.split('/').next().unwrap_or_default();
    let in_folder = text.contains('/') && (folders.contains(first) || matches!(first, "." | ".."));
    plain && !BUILT.contains(&first) && (in_folder || text.ends_with(".md"))
}

#[test]
fn every_path_that_a_document_mentions_exists() {
    let root = root();
    let entries = std::fs::read_dir(&root).unwrap().flatten().filter(|entry| entry.path().is_dir());
    let folders: BTreeSet<String> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    let (mut found, mut missing) = (0, Vec::new());
    for document in DOCUMENTS {
        let text = std::fs::read_to_string(root.join(document)).unwrap_or_else(|e| panic!("{document}: {e}"));
        let beside = root.join(document).parent().unwrap().to_owned();
        for path in mentioned(&text).into_iter().filter(|path| is_path(path, &folders)) {
            found += 1;
            if !root.join(&path).exists() && !beside.join(&path).exists() {
                missing.push(format!("{document}: {path}"));
            }
        }
    }
    assert_eq!(missing, Vec::<String>::new());
    assert!(found > 10, "only {found} paths found in all documents");
}
