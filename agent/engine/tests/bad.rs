//! Broken rule files and what is said about them. `UPDATE=1 cargo test -p staghound-engine --test bad` writes the answers.

use std::path::PathBuf;

use staghound_engine::ruleset::load;
use staghound_engine::source::Source;

#[test]
fn mistakes_are_told_as_written_down() {
    let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/bad");
    let update = std::env::var_os("UPDATE").is_some();
    let mut files: Vec<PathBuf> = std::fs::read_dir(&directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "yaml"));
    files.sort();
    assert!(files.len() >= 30, "only {} broken files", files.len());
    let mut wrong = Vec::new();
    for path in files {
        let name = path.file_name().unwrap().to_str().unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        let told = match load(&[Source { name, text: &text }]) {
            Ok(_) => panic!("{name} loads"),
            Err(errors) => format!("{errors}\n"),
        };
        let golden = path.with_extension("stderr");
        if update {
            std::fs::write(&golden, &told).unwrap();
        } else if std::fs::read_to_string(&golden).unwrap_or_default() != told {
            wrong.push(format!("{name} is told differently:\n{told}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
