//! Every format of a run: as golden files, with hostile strings, and bounded.
//!
//! `UPDATE=1 cargo test -p staghound-gate --test report` writes the golden files. Foreign tools look at them in
//! `tests/tests/report.rs`.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests fail by panicking")]

mod fixture;

use std::{fs, path::Path};

use staghound_gate::report::{self, Format};
use staghound_proto::v1::Run;

/// Bytes that no report may exceed, whatever the run holds; the JSON alone is as large as the run.
const REPORT_BYTES_MAX: usize = 8 * 1024 * 1024;

fn golden(name: &str, run: &Run) {
    for format in Format::ALL {
        let path = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/golden")
            .join(name)
            .join(format.file_name());
        let rendered = report::render(run, format);
        if std::env::var_os("UPDATE").is_some() {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, &rendered).unwrap();
        }
        let expected = fs::read_to_string(&path).unwrap_or_default();
        if rendered != expected {
            let (line, (ours, theirs)) = rendered
                .lines()
                .zip(expected.lines())
                .enumerate()
                .find(|(_, (ours, theirs))| ours != theirs)
                .unwrap_or_default();
            panic!(
                "{} differs from line {}:\n{ours}\n{theirs}\nUPDATE=1 writes it",
                path.display(),
                line + 1
            );
        }
    }
}

#[test]
fn an_incident_in_every_format() {
    golden("incident", &fixture::incident());
}

#[test]
fn a_quiet_run_in_every_format() {
    golden("quiet", &fixture::quiet());
}

#[test]
fn a_hostile_run_in_every_format() {
    golden("hostile", &fixture::hostile());
}

#[test]
fn nothing_hostile_is_left_in_any_format() {
    let run = fixture::hostile();
    for format in Format::ALL {
        let rendered = report::render(&run, format);
        // JSON is data, and escapes controls by itself; what turns text it keeps.
        let is_data = format == Format::Json;
        for c in rendered.chars() {
            assert!(
                c == '\n' || !c.is_control() || is_data && !c.is_ascii(),
                "{format}: {c:?}"
            );
            assert!(
                is_data || !"\u{202e}\u{2066}\u{200b}\u{feff}\u{2028}".contains(c),
                "{format}: {c:?}"
            );
        }
    }
}

#[test]
fn every_format_is_bounded_and_says_what_it_left_out() {
    let run = fixture::huge();
    for format in Format::ALL {
        let rendered = report::render(&run, format);
        if format == Format::Json {
            assert_eq!(report::read(&rendered).unwrap().findings.len(), run.findings.len());
            continue;
        }
        assert!(rendered.len() < REPORT_BYTES_MAX, "{format}: {}", rendered.len());
        assert!(rendered.contains("more"), "{format}");
    }
}

#[test]
fn an_empty_message_is_rendered_too() {
    for format in Format::ALL {
        assert!(!report::render(&Run::default(), format).is_empty());
    }
}

#[test]
fn a_run_is_read_back_from_its_json() {
    for run in [fixture::incident(), fixture::quiet()] {
        assert_eq!(report::read(&report::render(&run, Format::Json)).unwrap(), run);
    }
    for (text, expected) in [
        ("", "is not the JSON of a run"),
        ("{}", "has no run_id"),
        (r#"{"runId":"x","\u001b[2J":1}"#, "is not the JSON of a run"),
    ] {
        let error = report::read(text).unwrap_err().to_string();
        assert!(error.starts_with(expected), "{error}");
        assert!(!error.chars().any(char::is_control), "{error:?}");
    }
}

#[test]
fn the_summary_ends_with_the_verdict() {
    for (run, expected) in [
        (
            fixture::incident(),
            "staghound: FAIL: 4 findings are above what scope third-party tolerates; 1 process outlived the command \
             (48211 records, 7 findings, 0 events lost; the command exited with 0)",
        ),
        (
            fixture::quiet(),
            "staghound: PASS: nothing above tolerance was seen, and nothing was lost \
             (9001 records, 0 findings, 0 events lost; the command exited with 0)",
        ),
    ] {
        assert_eq!(report::render(&run, Format::Console).lines().last().unwrap(), expected);
    }
    let coloured = report::console::render(&fixture::hostile(), true);
    assert!(coloured.contains("\u{1b}[1;31mFAIL"));
}
