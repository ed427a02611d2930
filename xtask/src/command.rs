//! Runs other programs: shows what is run, and fails with its name and how it ended.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::workspace;

/// Prints a line for the person who runs the task.
pub(crate) fn tell(line: &str) {
    // Nobody is left to tell when standard error is closed; the exit code still says it.
    drop(writeln!(std::io::stderr().lock(), "{line}"));
}

/// Prints a line of the task's result.
#[expect(clippy::print_stdout, reason = "this is the command line")]
pub(crate) fn print(line: &str) {
    println!("{line}");
}

/// A command in the workspace's root.
pub(crate) fn program(name: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(name);
    command.current_dir(workspace::root());
    command
}

/// Cargo in the workspace's root, with the toolchain the workspace pins.
pub(crate) fn cargo(arguments: &[&str]) -> Command {
    let mut command = program("cargo");
    command.args(arguments);
    command
}

/// Runs it with our input and output, and fails if it does.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let line = show(command);
    tell(&format!("$ {line}"));
    let status = command.status().with_context(|| format!("cannot start `{line}`"))?;
    if !status.success() {
        bail!("`{line}` failed ({status})");
    }
    Ok(())
}

/// Runs it, hands each line of its standard output to `each`, and returns whether it succeeded.
pub(crate) fn run_lines(command: &mut Command, mut each: impl FnMut(&str)) -> Result<bool> {
    let line = show(command);
    tell(&format!("$ {line}"));
    let mut child = command
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start `{line}`"))?;
    let output = child.stdout.take().expect("standard output was asked to be a pipe");
    let mut reader = BufReader::new(output);
    let mut bytes = Vec::new();
    loop {
        bytes.clear();
        let read = reader
            .read_until(b'\n', &mut bytes)
            .with_context(|| format!("cannot read from `{line}`"))?;
        if read == 0 {
            break;
        }
        each(String::from_utf8_lossy(&bytes).trim_end_matches(['\n', '\r']));
    }
    let status = child.wait().with_context(|| format!("cannot wait for `{line}`"))?;
    Ok(status.success())
}

/// Runs it silently and returns its standard output, or fails with its standard error.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let line = show(command);
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot start `{line}`"))?;
    if !output.status.success() {
        let reason = String::from_utf8_lossy(&output.stderr);
        bail!("`{line}` failed ({}): {}", output.status, reason.trim());
    }
    String::from_utf8(output.stdout).with_context(|| format!("`{line}` printed something that is not UTF-8"))
}

/// Where `PATH` has this program.
pub(crate) fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|directory| directory.join(name))
        .find(|candidate| candidate.is_file())
}

/// Whether we run as root.
pub(crate) fn is_root() -> bool {
    // SAFETY: takes no arguments and cannot fail.
    unsafe { libc::geteuid() == 0 }
}

/// The command as one would type it.
fn show(command: &Command) -> String {
    let mut words = vec![command.get_program().to_string_lossy().into_owned()];
    words.extend(
        command
            .get_args()
            .map(|argument| argument.to_string_lossy().into_owned()),
    );
    words.join(" ")
}
