//! Everything a developer runs: `cargo xtask help` lists it.
//!
//! Each command installs what it needs first (see `setup`), so that a fresh clone on a fresh machine needs no reading.

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

mod workspace;

mod command;

mod service;

mod setup;

mod binaries;

mod up;

mod stage;

mod lint;

mod reference;

mod test;

mod verifier;

mod vm;

mod bench;

mod soak;

/// Everything a developer runs
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", max_term_width = 110)]
struct Arguments {
    #[command(subcommand)]
    command: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Build, start collector and agent on loopback, show alerts as they come; Ctrl-C ends all
    Up(up::Options),
    /// Build `staghound` and `staghound-collector`
    Build {
        /// Optimised, into target/release
        #[arg(long)]
        release: bool,
    },
    /// The fast half of `test`: format, clippy, unit, golden and property tests, documents current
    Check,
    /// Format, clippy, buf lint, and cargo-deny for bans, licences and sources
    Lint,
    /// Live tests on this machine's kernel; needs root
    E2e {
        /// Only tests whose name contains this
        filter: Option<String>,
    },
    /// The live tests in QEMU guests with Debian's kernels
    Vm(vm::Options),
    /// What CI runs: lint, unit, golden and property tests, live tests, one VM
    Test {
        /// Also the long rounds: many more property cases, every VM kernel
        #[arg(long)]
        full: bool,
    },
    /// Paired workloads without and with the agent, interleaved; prints ratios
    Bench(bench::Options),
    /// Agent and collector under mixed load for long: fails when memory grows or an alert is missing without a reason
    Soak(soak::Options),
    /// Write what is generated from the code: agent/rules/REFERENCE.md
    Codegen {
        /// Write nothing; fail if something is out of date
        #[arg(long)]
        check: bool,
    },
    /// Install what the other commands need, and tell what was there
    Setup,
}

fn main() -> ExitCode {
    match run(Arguments::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            command::tell(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run(task: Task) -> Result<()> {
    match task {
        Task::Up(options) => up::up(&options),
        Task::Build { release } => binaries::build_products(binaries::Profile::of(release)).map(|_| ()),
        Task::Check => test::check(),
        Task::Lint => test::lint(),
        Task::E2e { filter } => test::e2e(filter.as_deref()),
        Task::Vm(options) => test::vm(&options),
        Task::Test { full } => test::test(full),
        Task::Bench(options) => bench::bench(&options),
        Task::Soak(options) => soak::soak(&options),
        Task::Codegen { check } => reference::generate(check),
        Task::Setup => setup::everything(),
    }
}
