//! Which stages make up a check, a lint and a test.

use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::binaries::Profile;
use crate::command::{cargo, is_root, output, print, program, run_lines, tell};
use crate::stage::{Stages, Tests};
use crate::verifier::{Record, Verified};
use crate::vm::Summary;
use crate::{binaries, lint, reference, setup, vm};

/// Cases per property in the long rounds; proptest's default is 256.
const PROPERTY_CASES_FULL: &str = "20000";

/// The fast half.
pub(crate) fn check() -> Result<()> {
    let mut stages = Stages::default();
    stages.run("format", |_| lint::format());
    stages.run("clippy", |_| lint::clippy());
    stages.run("unit, golden, property", |tests| unit(tests, false));
    stages.run("documents current", |_| reference::generate(true));
    stages.finish()
}

/// What is wrong without running anything.
pub(crate) fn lint() -> Result<()> {
    let mut stages = Stages::default();
    lint_stages(&mut stages);
    stages.finish()
}

/// The live tests on this kernel.
pub(crate) fn e2e(filter: Option<&str>) -> Result<()> {
    let mut stages = Stages::default();
    stages.run("live", |tests| live(tests, filter));
    stages.run("verifier", |_| verifier(false));
    stages.finish()
}

/// The live tests in guests.
pub(crate) fn vm(options: &vm::Options) -> Result<()> {
    let mut stages = Stages::default();
    if options.record() {
        stages.run("verifier", |_| verifier(true));
    }
    vm_stages(&mut stages, options);
    stages.finish()
}

/// What CI runs.
pub(crate) fn test(full: bool) -> Result<()> {
    let mut stages = Stages::default();
    stages.run("setup", |_| setup::everything());
    lint_stages(&mut stages);
    stages.run("documents current", |_| reference::generate(true));
    stages.run("unit, golden, property", |tests| unit(tests, full));
    stages.run("live", |tests| live(tests, None));
    stages.run("verifier", |_| verifier(false));
    vm_stages(&mut stages, &vm::Options::of_test(full));
    stages.finish()
}

fn lint_stages(stages: &mut Stages) {
    stages.run("format", |_| lint::format());
    stages.run("clippy", |_| lint::clippy());
    stages.run("contract (buf lint)", |_| lint::contract());
    stages.run("dependencies (cargo-deny)", |_| lint::dependencies());
}

fn vm_stages(stages: &mut Stages, options: &vm::Options) {
    let mut summary = Summary::default();
    let mut initramfs = None;
    stages.run("vm programs", |_| {
        initramfs = Some(vm::prepare(options)?);
        Ok(())
    });
    // Without programs there is nothing to boot for; the stage above has failed, and says why.
    let Some(initramfs) = initramfs else { return };
    for guest in options.guests() {
        stages.run(format!("vm {guest}"), |tests| {
            vm::run(guest, &initramfs, options, tests, &mut summary)
        });
    }
    summary.print();
}

/// Whether a program of the agent has grown towards the verifier's limit on this machine's kernel. Kernels differ from
/// machine to machine; only those that were recorded are compared.
fn verifier(record: bool) -> Result<()> {
    ensure!(is_root(), "the programs are loaded into this kernel; run as root");
    let (floor, _) = binaries::build_floor(Profile::Debug)?;
    let text = output(program(floor).arg("verifier"))?;
    let mut verified = Verified::default();
    text.lines().for_each(|line| verified.add_line(line));
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").context("cannot read the kernel's release")?;
    let release = release.trim();
    let series: Vec<&str> = release.split('.').take(2).collect();
    let known = Record::of(&format!("native-{}", series.join(".")));
    if record {
        return known.write(release, &verified);
    }
    if !known.exists() {
        tell(&format!(
            "no record for kernel {release}; the largest program takes {}",
            verified.most()
        ));
        return Ok(());
    }
    known.compare(&verified)
}

/// Everything that needs no privileges. Golden and property tests are ordinary tests beside the code.
fn unit(tests: &mut Tests, full: bool) -> Result<()> {
    setup::build_tools()?;
    let mut command = cargo(&["test", "--workspace", "--exclude", "staghound-tests", "--no-fail-fast"]);
    if full {
        command.env("PROPTEST_CASES", PROPERTY_CASES_FULL);
    }
    run_tests(&mut command, tests)
}

fn live(tests: &mut Tests, filter: Option<&str>) -> Result<()> {
    ensure!(
        is_root(),
        "the live tests load programs into this kernel; run them as root"
    );
    setup::tools(&setup::SCENARIO_TOOLS)?;
    let report_tools = setup::report_tools()?;
    let programs = binaries::build_live_programs()?;
    let mut command = cargo(&["test", "--package", "staghound-tests", "--no-fail-fast", "--"]);
    command
        .arg("--test-threads=1")
        .args(filter)
        .env("STAGHOUND_REPORT_TOOLS", report_tools)
        .envs(programs.environment());
    run_tests(&mut command, tests)
}

/// Runs cargo's tests, shows what they print and counts what they report.
fn run_tests(command: &mut Command, tests: &mut Tests) -> Result<()> {
    let succeeded = run_lines(command, |line| {
        print(line);
        tests.add_line(line);
    })?;
    match (tests.failed, succeeded) {
        (0, true) => ensure!(tests.passed > 0, "no test ran"),
        (0, false) => bail!("cargo test failed without a failing test; its messages are above"),
        (failed, _) => bail!("{failed} tests failed"),
    }
    Ok(())
}
