//! Harness of the live-kernel tests.
//!
//! Every wait is for a condition, with a deadline; every process that a test starts is killed when the test lets go of
//! it, also when the test panics.
#![allow(
    clippy::missing_panics_doc,
    clippy::panic,
    reason = "a harness of tests fails by panicking"
)]

pub mod capture;
pub mod elf32;
pub mod feed;
pub mod place;
pub mod process;
pub mod script;

use std::{
    env,
    ffi::OsStr,
    path::PathBuf,
    process::Command,
    thread,
    time::{Duration, Instant},
};

/// Whether the tests run in a guest of `cargo xtask vm`.
#[must_use]
pub fn in_guest() -> bool {
    env::var_os("STAGHOUND_VM").is_some()
}

/// How long a condition may take to come true. An emulated processor is up to fifty times slower.
#[must_use]
pub fn deadline() -> Duration {
    Duration::from_secs(if in_guest() { 300 } else { 60 })
}

/// Waits until `condition` yields something.
pub fn until<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(begun.elapsed() < deadline(), "no {what} within {:?}", deadline());
        // Only between two looks at the condition.
        thread::sleep(Duration::from_millis(10));
    }
}

fn binary(variable: &str) -> PathBuf {
    let path = env::var_os(variable).unwrap_or_else(|| {
        panic!("{variable} does not name the program to test; run the live tests with `cargo xtask e2e`")
    });
    let path = PathBuf::from(path);
    assert!(
        path.is_file(),
        "{variable} names {}, which is not there; run the live tests with `cargo xtask e2e`",
        path.display()
    );
    path
}

/// The agent.
#[must_use]
pub fn agent_path() -> PathBuf {
    binary("STAGHOUND_BIN")
}

/// The collector.
#[must_use]
pub fn collector_path() -> PathBuf {
    binary("STAGHOUND_COLLECTOR_BIN")
}

/// The actor.
#[must_use]
pub fn actor_path() -> PathBuf {
    binary("STAGHOUND_ACTOR_BIN")
}

/// The actor with what it shall do.
pub fn actor<W: AsRef<OsStr>>(words: impl IntoIterator<Item = W>) -> Command {
    let mut command = Command::new(actor_path());
    command.args(words);
    command
}

/// A rule of our own: reading a file below a directory named `staghound-decoy`. No program of the host does that.
pub const DECOY_RULES: &str = include_str!("../rules/decoy.yaml");
/// The id of that rule.
pub const DECOY_RULE: &str = "test/decoy-read";
/// The directory's name.
pub const DECOY_DIRECTORY: &str = "staghound-decoy";
