//! What other people's tools say of our reports and attestations.
//!
//! They look at the golden files of `staghound-gate`, whose own tests hold that these are what is rendered.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests fail by panicking")]

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

const RUNS: [&str; 3] = ["incident", "quiet", "hostile"];
const PREDICATE: &str = "https://in-toto.io/attestation/runtime-trace/v0.1";

/// What `cargo xtask setup` put below the target directory.
fn tool(name: &str) -> PathBuf {
    let tools = std::env::var_os("STAGHOUND_REPORT_TOOLS").expect("run by `cargo xtask e2e`, which fetches the tools");
    let path = Path::new(&tools).join(name);
    assert!(path.exists(), "{} is missing; run `cargo xtask setup`", path.display());
    path
}

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../agent/gate/tests/golden")
        .join(name)
        .canonicalize()
        .unwrap()
}

fn run(command: &mut Command) -> (Output, String) {
    let output = command.output().unwrap();
    let told = [&output.stdout[..], &output.stderr[..]].concat();
    (output, String::from_utf8_lossy(&told).into_owned())
}

/// Microsoft's validator: the schema of SARIF 2.1.0, its own rules, and those of GitHub's code scanning.
#[test]
fn sarif_is_valid_and_fit_for_code_scanning() {
    let directory = tempfile::TempDir::new().unwrap();
    for name in RUNS {
        let log = directory.path().join("validated.sarif");
        let (output, told) = run(Command::new(tool("sarif-multitool/Sarif.Multitool"))
            .arg("validate")
            .arg(golden(name).join("report.sarif"))
            .args(["--rule-kind", "Sarif;Gh", "--log", "ForceOverwrite", "--output"])
            .arg(&log)
            // Its library for languages is not everywhere.
            .env("DOTNET_SYSTEM_GLOBALIZATION_INVARIANT", "1")
            .env("DOTNET_BUNDLE_EXTRACT_BASE_DIR", directory.path()));
        assert!(
            output.status.success() && told.contains("Analysis completed successfully"),
            "{name}: {told}"
        );
        assert!(!told.contains(": error "), "{name}: {told}");
    }
}

/// The schema of the plug-in with which Jenkins reads JUnit, as pytest checks its own reports with it.
#[test]
fn junit_is_what_jenkins_reads() {
    for name in RUNS {
        let (output, told) = run(Command::new("xmllint")
            .args(["--noout", "--nonet", "--schema"])
            .arg(tool("junit-10.xsd"))
            .arg(golden(name).join("junit.xml")));
        assert!(output.status.success(), "{name}: {told}");
    }
}

/// Chromium runs nothing of a hostile page, and has nothing to complain about.
#[test]
fn the_page_is_quiet_in_a_browser() {
    for name in RUNS {
        let directory = tempfile::TempDir::new().unwrap();
        let (output, told) = run(Command::new("chromium")
            .args([
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--enable-logging=stderr",
                "--virtual-time-budget=5000",
                "--dump-dom",
            ])
            .arg(format!("--user-data-dir={}", directory.path().display()))
            .arg(format!("file://{}", golden(name).join("report.html").display())));
        assert!(output.status.success(), "{name}: {told}");
        assert!(!told.contains("CONSOLE"), "{name}: {told}");
        let page = String::from_utf8(output.stdout).unwrap();
        // Our script ran; no image and no second script came out of what the run named.
        assert_eq!(page.matches("<script>").count(), 1, "{name}");
        assert!(!page.contains("<img"), "{name}");
        let has_findings = name != "quiet";
        assert_eq!(page.contains("7 of 7 shown"), has_findings, "{name}");
    }
}

/// cosign, offline.
#[test]
fn cosign_verifies_what_was_signed_and_nothing_else() {
    let directory = tempfile::TempDir::new().unwrap();
    let bundle = golden("quiet").join("bundle.json");
    let verify = |bundle: &Path, predicate: &str, artifact: PathBuf| {
        run(Command::new(tool("cosign"))
            .arg("verify-blob-attestation")
            .arg("--key")
            .arg(golden("key.pub"))
            .arg("--bundle")
            .arg(bundle)
            .args(["--type", predicate, "--insecure-ignore-tlog=true"])
            .arg(artifact)
            .env("HOME", directory.path())
            // Nobody answers there: what it needs, it has.
            .env("HTTPS_PROXY", "http://127.0.0.1:9"))
    };
    let report = || golden("quiet").join("report.json");
    let (output, told) = verify(&bundle, PREDICATE, report());
    assert!(output.status.success() && told.contains("Verified OK"), "{told}");

    let signed = fs::read_to_string(&bundle).unwrap();
    let (before, payload) = signed.split_once("\"payload\":\"").unwrap();
    let flipped = if payload.starts_with('A') { "B" } else { "A" };
    let tampered = directory.path().join("tampered.json");
    fs::write(&tampered, format!("{before}\"payload\":\"{flipped}{}", &payload[1..])).unwrap();
    for (what, (output, told)) in [
        ("a changed payload", verify(&tampered, PREDICATE, report())),
        (
            "another artifact",
            verify(&bundle, PREDICATE, golden("incident").join("report.json")),
        ),
        ("another predicate", verify(&bundle, "slsaprovenance1", report())),
    ] {
        assert!(!output.status.success(), "{what}: {told}");
    }
}
