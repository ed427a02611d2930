//! The reference for rule writers, generated from the agent itself.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::binaries::{Profile, build_products};
use crate::command::{output, tell};
use crate::workspace;

const FILE: &str = "agent/rules/REFERENCE.md";

/// The agent's own words for its fields and its rules, in the order of the file.
const PARTS: [[&str; 3]; 2] = [["rules", "fields", "--markdown"], ["rules", "list", "--markdown"]];

/// Writes the reference, or only says whether it is out of date.
pub(crate) fn generate(check: bool) -> Result<()> {
    let agent = build_products(Profile::Debug)?.agent;
    let mut parts = Vec::with_capacity(PARTS.len());
    for arguments in &PARTS {
        let part = output(Command::new(&agent).args(arguments).current_dir(workspace::root()))?;
        parts.push(part.trim().to_owned());
    }
    let wanted = format!(
        "<!-- Written by `cargo xtask codegen`; change the code it comes from. -->\n\n{}\n",
        parts.join("\n\n")
    );

    let path = workspace::root().join(FILE);
    let found = fs::read_to_string(&path).unwrap_or_default();
    if found == wanted {
        tell(&format!("{FILE} is up to date"));
        return Ok(());
    }
    if check {
        let line = found
            .lines()
            .zip(wanted.lines())
            .take_while(|(found, wanted)| found == wanted)
            .count()
            + 1;
        bail!("{FILE} is out of date from line {line} on; run `cargo xtask codegen`");
    }
    fs::write(&path, wanted).with_context(|| format!("cannot write {}", path.display()))?;
    tell(&format!("wrote {FILE}"));
    Ok(())
}
