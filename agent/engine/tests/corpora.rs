//! Other people's rules load unchanged: every one is active or listed with what keeps it from running.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::path::PathBuf;

use staghound_engine::ruleset::load;
use staghound_engine::source::Source;

fn corpora() -> PathBuf {
    match std::env::var_os("STAGHOUND_CORPORA") {
        Some(path) => path.into(),
        None => PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared/corpora"),
    }
}

#[test]
fn falco_files_load() {
    let directory = corpora().join("falco");
    if !directory.is_dir() {
        println!("not run: no corpora in {}", corpora().display());
        return;
    }
    for (name, rules) in [("falco_rules.yaml", 25), ("falco-incubating_rules.yaml", 31)] {
        let text = std::fs::read_to_string(directory.join(name)).unwrap();
        let loaded = match load(&[Source { name, text: &text }]) {
            Ok(loaded) => loaded,
            Err(errors) => panic!("{name} does not load:\n{errors}"),
        };
        println!(
            "{name}: {} active, {} inactive",
            loaded.ruleset.rules().len(),
            loaded.inactive.len()
        );
        for inactive in &loaded.inactive {
            println!("  {inactive}");
        }
        for warning in &loaded.warnings {
            println!("  {warning}");
        }
        assert_eq!(
            loaded.ruleset.rules().len() + loaded.inactive.len(),
            rules,
            "no rule is dropped silently"
        );
        assert!(loaded.ruleset.rules().len() * 2 > rules, "most rules are active");
    }
}

/// Files of a tree, in order.
fn files(directory: &std::path::Path, into: &mut Vec<PathBuf>) {
    let mut entries: Vec<PathBuf> = std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    entries.sort();
    for entry in entries {
        if entry.is_dir() {
            files(&entry, into);
        } else if entry.extension().is_some_and(|extension| extension == "yml") {
            into.push(entry);
        }
    }
}

#[test]
fn sigma_files_load() {
    let directory = corpora().join("sigma");
    if !directory.is_dir() {
        println!("not run: no corpora in {}", corpora().display());
        return;
    }
    let mut paths = Vec::new();
    files(&directory, &mut paths);
    let texts: Vec<(String, String)> = paths
        .iter()
        .map(|path| (path.display().to_string(), std::fs::read_to_string(path).unwrap()))
        .collect();
    let sources: Vec<Source<'_>> = texts.iter().map(|(name, text)| Source { name, text }).collect();
    let loaded = match load(&sources) {
        Ok(loaded) => loaded,
        Err(errors) => panic!("the corpus does not load:\n{errors}"),
    };
    let applicable = |name: &str| {
        ["process_creation", "file_event", "network_connection"]
            .iter()
            .any(|part| name.contains(part))
    };
    for inactive in loaded.inactive.iter().filter(|inactive| applicable(&inactive.file)) {
        println!("  {inactive}");
    }
    for warning in &loaded.warnings {
        println!("  {warning}");
    }
    println!(
        "{} active, {} inactive",
        loaded.ruleset.rules().len(),
        loaded.inactive.len()
    );
    assert_eq!(
        loaded.ruleset.rules().len() + loaded.inactive.len(),
        paths.len(),
        "no rule is dropped silently"
    );
    for inactive in &loaded.inactive {
        assert!(
            applicable(&inactive.file) || inactive.reason.starts_with("not applicable"),
            "{inactive}"
        );
    }
    let count = paths
        .iter()
        .filter(|path| applicable(&path.display().to_string()))
        .count();
    assert!(
        loaded.ruleset.rules().len() * 100 >= count * 95,
        "nearly all that apply are active"
    );
}
