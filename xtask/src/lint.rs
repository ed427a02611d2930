//! What is wrong without running anything.

use anyhow::Result;

use crate::command::{cargo, program, run};
use crate::setup;

pub(crate) fn format() -> Result<()> {
    run(&mut cargo(&["fmt", "--all", "--", "--check"]))
}

pub(crate) fn clippy() -> Result<()> {
    setup::build_tools()?;
    run(&mut cargo(&[
        "clippy",
        "--workspace",
        "--all-targets",
        "--",
        "--deny",
        "warnings",
    ]))
}

/// The wire contract against buf's STANDARD rules.
pub(crate) fn contract() -> Result<()> {
    run(program(setup::buf()?).args(["lint", "proto"]))
}

/// Bans, licences and sources of everything we link. Advisories need a database that is not in this repository.
pub(crate) fn dependencies() -> Result<()> {
    setup::cargo_deny()?;
    run(&mut cargo(&[
        "deny",
        "--all-features",
        "--locked",
        "check",
        "bans",
        "licenses",
        "sources",
    ]))
}
