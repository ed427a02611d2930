//! Rule files on disk: our own and, where they are, other people's.

use std::path::{Path, PathBuf};

use staghound_engine::source::Source;

/// The packs that ship.
pub(crate) const SHIPPED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../rules");

/// Other people's rules, if they are there.
pub(crate) fn corpora() -> Option<PathBuf> {
    let directory = match std::env::var_os("STAGHOUND_CORPORA") {
        Some(path) => path.into(),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/corpora"),
    };
    directory.is_dir().then_some(directory)
}

/// Every rule file below a directory, with its path, in the order in which a pack is loaded.
pub(crate) fn read(directory: &Path) -> Vec<(String, String)> {
    let mut entries: Vec<PathBuf> = std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    entries.sort();
    let mut files = Vec::new();
    for entry in entries {
        if entry.is_dir() {
            files.extend(read(&entry));
        } else if entry
            .extension()
            .is_some_and(|extension| extension == "yaml" || extension == "yml")
        {
            let text = std::fs::read_to_string(&entry).unwrap();
            files.push((entry.display().to_string(), text));
        }
    }
    files
}

/// The files as the engine takes them.
pub(crate) fn sources(files: &[(String, String)]) -> Vec<Source<'_>> {
    files.iter().map(|(name, text)| Source { name, text }).collect()
}
