//! Rule packs: the embedded ones and those of directories, read and compiled.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use staghound_engine::{
    diagnostic::Diagnostics,
    ruleset::{self, Loaded},
    source::Source,
};

/// Most rule files in one directory tree; more are a wrong directory.
const FILES_MAX: usize = 10_000;
/// How deep directories are searched.
const DEPTH_MAX: u32 = 16;

macro_rules! embedded {
    ($($name:literal)*) => {
        /// The packs that come with the agent, in the order of loading.
        const EMBEDDED: &[(&str, &str)] = &[
            $( (concat!("agent/rules/", $name), include_str!(concat!("../rules/", $name))), )*
        ];
    };
}

embedded! {
    "_macros.yaml"
    "collection.yaml"
    "command-and-control.yaml"
    "credential-access.yaml"
    "defense-impairment.yaml"
    "discovery.yaml"
    "execution.yaml"
    "exfiltration.yaml"
    "impact.yaml"
    "initial-access.yaml"
    "lateral-movement.yaml"
    "persistence.yaml"
    "privilege-escalation.yaml"
    "stealth.yaml"
}

/// Why there are no rules.
#[derive(Debug, thiserror::Error)]
pub enum PacksError {
    /// A file or directory cannot be read.
    #[error("cannot read rules from {}: {source}; name a directory of YAML files", .path.display())]
    Read {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Too many files.
    #[error("{} holds more than {FILES_MAX} rule files; name a directory of rule packs", .0.display())]
    TooMany(PathBuf),
    /// A directory holds no rule file.
    #[error("{} holds no rule file; their names end in .yaml or .yml", .0.display())]
    None(PathBuf),
    /// The files have mistakes.
    #[error("{0}\nthe rules were not loaded; mend them, or check them with `staghound rules check`")]
    Mistakes(Diagnostics),
}

/// Text of a rule file, with the name that errors show.
#[derive(Clone, Debug)]
pub struct Pack {
    name: String,
    text: String,
}

/// The packs that come with the agent.
pub fn embedded() -> Vec<Pack> {
    EMBEDDED
        .iter()
        .map(|(name, text)| Pack {
            name: (*name).to_owned(),
            text: (*text).to_owned(),
        })
        .collect()
}

/// Rule files named, and those in directories named, in the order of their paths. Those whose names begin with `_` come
/// first in each directory: they hold what the others use.
///
/// # Errors
/// A path cannot be read, or leads to no rule file.
pub fn in_paths(paths: &[PathBuf]) -> Result<Vec<Pack>, PacksError> {
    let mut packs = Vec::new();
    for path in paths {
        let before = packs.len();
        collect(path, 0, &mut packs)?;
        if packs.len() == before {
            return Err(PacksError::None(path.clone()));
        }
    }
    Ok(packs)
}

fn collect(path: &Path, depth: u32, packs: &mut Vec<Pack>) -> Result<(), PacksError> {
    let error = |source| PacksError::Read {
        path: path.to_owned(),
        source,
    };
    let metadata = fs::metadata(path).map_err(error)?;
    if metadata.is_file() {
        if metadata.len() > ruleset::FILE_BYTES_MAX as u64 {
            return Err(error(io::Error::other(format!(
                "longer than {} bytes",
                ruleset::FILE_BYTES_MAX
            ))));
        }
        let text =
            String::from_utf8(fs::read(path).map_err(error)?).map_err(|_| error(io::Error::other("not UTF-8")))?;
        packs.push(Pack {
            name: path.display().to_string(),
            text,
        });
        if packs.len() > FILES_MAX {
            return Err(PacksError::TooMany(path.to_owned()));
        }
        return Ok(());
    }
    let mut entries: Vec<PathBuf> = fs::read_dir(path)
        .map_err(error)?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()
        .map_err(error)?;
    entries.sort();
    // `_` sorts behind capitals and before small letters, which nobody would guess.
    entries.sort_by_key(|entry| {
        !entry
            .file_name()
            .is_some_and(|name| name.as_encoded_bytes().starts_with(b"_"))
    });
    for entry in entries {
        let hidden = entry
            .file_name()
            .is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        let is_yaml = entry
            .extension()
            .is_some_and(|extension| extension == "yaml" || extension == "yml");
        if !hidden && (is_yaml || (depth < DEPTH_MAX && entry.is_dir())) {
            collect(&entry, depth + 1, packs)?;
        }
    }
    Ok(())
}

/// Compiles packs, in the order given.
///
/// # Errors
/// They have mistakes; all of them are told.
pub fn load(packs: &[Pack]) -> Result<Loaded, PacksError> {
    let sources: Vec<Source<'_>> = packs
        .iter()
        .map(|pack| Source {
            name: &pack.name,
            text: &pack.text,
        })
        .collect();
    ruleset::load(&sources).map_err(PacksError::Mistakes)
}

/// The embedded packs and those of `paths` on top.
///
/// # Errors
/// As [`in_paths`] and [`load`].
pub fn load_with_embedded(paths: &[PathBuf]) -> Result<Loaded, PacksError> {
    let mut packs = embedded();
    packs.extend(in_paths(paths)?);
    load(&packs)
}

#[cfg(test)]
mod tests {
    use super::*;
    use staghound_engine::attack::{self, Lookup};
    use std::collections::BTreeSet;

    #[test]
    fn every_file_of_the_pack_is_embedded() {
        let on_disk = in_paths(&[PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/rules"))]).unwrap();
        assert_eq!(on_disk.len(), EMBEDDED.len());
        for (disk, (name, text)) in on_disk.iter().zip(EMBEDDED) {
            assert!(disk.name.ends_with(name), "{} is not {name}", disk.name);
            assert_eq!(disk.text, *text);
        }
    }

    #[test]
    fn the_pack_is_whole() {
        let loaded = load_with_embedded(&[]).unwrap();
        assert_eq!(loaded.warnings, [], "the pack has no warnings");
        let inactive: Vec<String> = loaded.inactive.iter().map(ToString::to_string).collect();
        assert_eq!(inactive, [""; 0], "every rule of the pack runs");
        let all = loaded.ruleset.demand().all_opens();
        assert!(all.is_empty(), "every open to {all} has to leave the kernel");
        let mut tactics = BTreeSet::new();
        for rule in loaded.ruleset.rules() {
            assert!(!rule.attack.is_empty(), "{} has a technique", rule.id);
            assert!(!rule.remediation.is_empty(), "{} says what to do", rule.id);
            assert!(!rule.description.is_empty(), "{} says what it is about", rule.id);
            assert!(
                !rule.examples.matching.is_empty() && !rule.examples.missing.is_empty(),
                "{} has examples",
                rule.id
            );
            for technique in &rule.attack {
                assert!(
                    matches!(attack::lookup(&technique.id), Lookup::Known(_)),
                    "{}: {}",
                    rule.id,
                    technique.id
                );
                tactics.extend(technique.tactics.iter().cloned());
            }
        }
        assert!(
            loaded.ruleset.rules().len() >= 30 && tactics.len() >= 9,
            "{} rules, {tactics:?}",
            loaded.ruleset.rules().len()
        );
        let failures: Vec<String> = loaded
            .ruleset
            .check_all_examples()
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(failures, [""; 0], "every example does what it says");
    }

    #[test]
    fn paths_that_lead_nowhere_are_errors() {
        let empty = tempfile::tempdir().unwrap();
        let error = in_paths(&[empty.path().to_owned()]).unwrap_err().to_string();
        assert!(error.contains("holds no rule file"), "{error}");
        let error = in_paths(&[empty.path().join("nowhere")]).unwrap_err().to_string();
        assert!(error.contains("cannot read rules from"), "{error}");
    }
}
