//! Runs QEMU, shows the guest's console and reads its end line.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::Stdio;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::command::{print, program, tell};
use crate::service::Service;
use crate::verifier::Verified;

const MEMORY_MIB: &str = "1536";

/// An oops would go unnoticed if it did not panic. Debian's kernels have the x32 system calls, but switch them off.
pub(super) const ARGUMENTS: &str = "console=ttyS0 panic=-1 oops=panic quiet loglevel=4 syscall.x32=y";

/// Longest line that is kept in one piece; a guest gone wild must not fill our memory.
const LINE_BYTES_MAX: u64 = 64 << 10;

/// What tests print when the kernel cannot do what they are about.
const LACKS: &str = "kernel lacks";

/// Lines between the console and us.
const LINES_MAX: usize = 1024;

/// What the guest's first process reported at its end.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct End {
    pub(super) passed: u64,
    pub(super) failed: u64,
    pub(super) programs: u64,
    pub(super) failed_programs: u64,
    /// How often a test said that this kernel lacks what it is about.
    pub(super) lacks: u64,
    /// The kernel's release.
    pub(super) version: String,
    pub(super) verified: Verified,
}

/// Boots, waits for the guest to power off, and returns what it reported.
pub(super) fn boot(kernel: &Path, initramfs: &Path, arguments: &str, timeout: Duration) -> Result<End> {
    // Emulated, although some machines could virtualise: it is the same everywhere, also inside other virtual machines.
    // Two threads, because an agent that starts compiles its rules while the kernel verifies its programs. Without `erms`,
    // because kernels that see it copy and clear memory byte by byte (`rep movsb`), which an emulator does one at a time:
    // the verifier alone took 7.7 s instead of 4.2.
    let mut command = program("qemu-system-x86_64");
    command
        .args([
            "-accel",
            "tcg,thread=multi",
            "-cpu",
            "max,-erms",
            "-smp",
            "2",
            "-m",
            MEMORY_MIB,
        ])
        .args(["-nodefaults", "-nographic", "-serial", "stdio", "-no-reboot"])
        .arg("-kernel")
        .arg(kernel)
        .arg("-initrd")
        .arg(initramfs)
        .args(["-append", arguments])
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    tell(&format!(
        "booting {} for at most {} minutes",
        kernel.display(),
        timeout.as_secs() / 60
    ));
    let deadline = Instant::now() + timeout;
    let mut guest = Service::start("qemu", &mut command)?;
    let console = guest.take_stdout().context("the guest has no console")?;
    let (sender, lines) = sync_channel(LINES_MAX);
    let reader = std::thread::spawn(move || relay(console, &sender));

    let outcome = watch(&lines, deadline);
    let ended = guest.ended()?;
    // Ends QEMU, and with it the console, if the guest is still up.
    drop(guest);
    drop(lines);
    reader
        .join()
        .expect("the relay does not panic")
        .context("cannot read the guest's console")?;
    match outcome {
        Ok(Some(end)) => Ok(end),
        Ok(None) => bail!(
            "the guest ended without an end line ({}); its console above tells why",
            ended.map_or_else(|| "powered off".to_owned(), |status| status.to_string())
        ),
        Err(error) => Err(error),
    }
}

/// Shows the console until it closes; returns the end line's content.
fn watch(lines: &Receiver<String>, deadline: Instant) -> Result<Option<End>> {
    let mut end: Option<End> = None;
    let (mut lacks, mut version, mut verified) = (0, String::new(), Verified::default());
    loop {
        match lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(line) => {
                print(&line);
                if line.contains("Kernel panic - not syncing") {
                    bail!("the guest's kernel panicked: {line}");
                }
                lacks += u64::from(line.contains(LACKS));
                verified.add_line(&line);
                if let Some((_, release)) = line.split_once("staghound-vm: kernel ") {
                    release.trim().clone_into(&mut version);
                }
                end = end.or_else(|| end_line(&line));
            }
            Err(RecvTimeoutError::Timeout) => bail!("the guest was not done in time and was killed"),
            Err(RecvTimeoutError::Disconnected) => {
                return Ok(end.map(|end| End {
                    lacks,
                    version,
                    verified,
                    ..end
                }));
            }
        }
    }
}

/// Sends each line on, made safe for our own terminal: programs in the guest print hostile names on purpose.
fn relay(console: impl Read, lines: &SyncSender<String>) -> Result<()> {
    let mut console = BufReader::new(console);
    let mut bytes = Vec::new();
    loop {
        bytes.clear();
        let read = console
            .by_ref()
            .take(LINE_BYTES_MAX)
            .read_until(b'\n', &mut bytes)
            .context("read")?;
        if read == 0 || lines.send(printable(&String::from_utf8_lossy(&bytes))).is_err() {
            return Ok(());
        }
    }
}

fn printable(line: &str) -> String {
    let line = line.trim_end_matches(['\n', '\r']);
    let mut text = String::with_capacity(line.len());
    for character in line.chars() {
        match character {
            '\t' => text.push(character),
            // Firmware and kernel move the cursor; nothing to see in it.
            control if control.is_control() => text.extend(control.escape_default()),
            other => text.push(other),
        }
    }
    text
}

/// Reads `staghound-vm: end passed=12 failed=0 programs=3 failed_programs=0 seconds=41`.
fn end_line(line: &str) -> Option<End> {
    let (_, fields) = line.split_once("staghound-vm: end ")?;
    let field = |name: &str| {
        fields
            .split_whitespace()
            .find_map(|field| field.strip_prefix(name)?.strip_prefix('=')?.parse().ok())
    };
    Some(End {
        passed: field("passed")?,
        failed: field("failed")?,
        programs: field("programs")?,
        failed_programs: field("failed_programs")?,
        ..End::default()
    })
}

#[cfg(test)]
mod tests {
    use super::{End, end_line, printable};

    #[test]
    fn the_end_line_is_read() {
        let line = "staghound-vm: end passed=12 failed=1 programs=3 failed_programs=2 seconds=41";
        assert_eq!(
            end_line(line),
            Some(End {
                passed: 12,
                failed: 1,
                programs: 3,
                failed_programs: 2,
                ..End::default()
            })
        );
    }

    #[test]
    fn half_an_end_line_is_none() {
        for line in [
            "staghound-vm: end passed=12 failed=1",
            "staghound-vm: end passed=x failed=0",
            "staghound-vm: end",
            "",
        ] {
            assert_eq!(end_line(line), None, "{line}");
        }
    }

    #[test]
    fn control_characters_are_escaped() {
        assert_eq!(printable("a\u{1b}[2Jb\tc\r\n"), "a\\u{1b}[2Jb\tc");
    }
}
