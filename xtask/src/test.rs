//! Which stages make up a check, a lint and a test.

use std::process::Command;

use anyhow::{Result, bail, ensure};

use crate::command::{cargo, is_root, print, run_lines};
use crate::stage::{Stages, Tests};
use crate::vm::Kernel;
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
    stages.finish()
}

/// The live tests in guests.
pub(crate) fn vm(options: &vm::Options) -> Result<()> {
    let mut stages = Stages::default();
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
    let kernels: Vec<Kernel> = options.kernels();
    for kernel in kernels {
        stages.run(format!("vm {kernel}"), |tests| vm::run(kernel, options, tests));
    }
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
    let programs = binaries::build_live_programs()?;
    let mut command = cargo(&["test", "--package", "staghound-tests", "--no-fail-fast", "--"]);
    command
        .arg("--test-threads=1")
        .args(filter)
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
