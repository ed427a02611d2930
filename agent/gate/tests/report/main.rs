//! Every format of a run: as golden files, with hostile strings, and bounded.
//!
//! `UPDATE=1 cargo test -p staghound-gate --test report` writes the golden files. Foreign tools look at them in
//! `tests/tests/report.rs`.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests fail by panicking")]

mod fixture;

use std::{fs, path::Path};

use staghound_gate::{
    attest::{self, envelope, key::PrivateKey},
    report::{self, Format},
};
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

#[test]
fn an_attestation_says_what_it_is_about() {
    let key = PrivateKey::generate(&[7; 32]).unwrap();
    for (run, names, verdict) in [
        (
            fixture::incident(),
            &["dist/app.js", "node_modules/@esbuild/linux-x64/bin/esbuild"][..],
            "fail",
        ),
        (fixture::quiet(), &["report.json"], "pass"),
        (fixture::hostile(), &["report.json"], "fail"),
    ] {
        let bundle = envelope::bundle(&attest::statement(&run), &key);
        let attested = envelope::verify(&bundle, &key.public()).unwrap();
        let subjects: Vec<&str> = attested.subjects.iter().map(|subject| subject.name.as_str()).collect();
        assert_eq!((subjects.as_slice(), attested.verdict.as_str()), (names, verdict));
        assert_eq!(attested.run_id, run.run_id);
        assert!(attested.covers(&attested.report));
    }
    // A run as large as can be is attested in bounded room, and what is left out is counted.
    let statement = attest::statement(&fixture::huge());
    assert!(statement.len() < 2 * REPORT_BYTES_MAX, "{}", statement.len());
    assert!(statement.contains("\"notListed\""));
}

#[test]
fn statements_and_bundles_are_golden_too() {
    let key = PrivateKey::generate(&[7; 32]).unwrap();
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let statement: serde_json::Value = serde_json::from_str(&attest::statement(&fixture::incident())).unwrap();
    for (name, text) in [
        ("incident/statement.json", format!("{statement:#}\n")),
        (
            "quiet/bundle.json",
            envelope::bundle(&attest::statement(&fixture::quiet()), &key),
        ),
        ("key.pub", key.public().to_pem()),
    ] {
        let path = directory.join(name);
        if std::env::var_os("UPDATE").is_some() {
            fs::write(&path, &text).unwrap();
        }
        assert_eq!(text, fs::read_to_string(&path).unwrap(), "{name}: UPDATE=1 writes it");
    }
}
