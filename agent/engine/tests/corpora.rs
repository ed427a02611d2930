//! Other people's rules load unchanged: every one is active or listed with what keeps it from running.

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
