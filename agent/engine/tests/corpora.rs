//! Other people's rules load unchanged: every one is active or listed with what keeps it from running.
#![expect(clippy::unwrap_used, reason = "tests")]

mod rule_files;

use std::path::Path;

use rule_files::{SHIPPED, corpora, read, sources};
use staghound_engine::ruleset::load;

#[test]
fn falco_files_load() {
    let Some(corpora) = corpora() else {
        println!("not run: no corpora");
        return;
    };
    let files = read(&corpora.join("falco"));
    assert_eq!(files.len(), 2);
    for (file, rules) in files.iter().zip([31, 25]) {
        let name = &file.0;
        let loaded = match load(&sources(std::slice::from_ref(file))) {
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

#[test]
fn sigma_files_load() {
    let Some(corpora) = corpora() else {
        println!("not run: no corpora");
        return;
    };
    let files = read(&corpora.join("sigma"));
    let loaded = match load(&sources(&files)) {
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
        files.len(),
        "no rule is dropped silently"
    );
    for inactive in &loaded.inactive {
        assert!(
            applicable(&inactive.file) || inactive.reason.starts_with("not applicable"),
            "{inactive}"
        );
    }
    let count = files.iter().filter(|(name, _)| applicable(name)).count();
    assert!(
        loaded.ruleset.rules().len() * 100 >= count * 95,
        "nearly all that apply are active"
    );
}

#[test]
fn all_load_beside_the_shipped_rules() {
    let mut files = read(Path::new(SHIPPED));
    let shipped = load(&sources(&files)).unwrap();
    assert_eq!(shipped.inactive.len(), 0, "{:?}", shipped.inactive);
    let Some(corpora) = corpora() else {
        println!("not run: no corpora");
        return;
    };
    files.extend(read(&corpora));
    let all = load(&sources(&files)).unwrap();
    assert!(all.ruleset.rules().len() > shipped.ruleset.rules().len() + 180);
}
