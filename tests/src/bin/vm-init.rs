//! First process of the guest that `cargo xtask vm` boots: mounts what a host has, runs the live tests, powers off.
//!
//! The initramfs gives it `/tests/list` (one test program with its arguments per line; after `tool `, a program that is
//! no test, and passes by ending well) and `/tests/env` (`NAME=value` lines). Everything goes to the console; the last line is for a program to read:
//! `staghound-vm: end passed=12 failed=0 programs=3 failed_programs=0 seconds=41`.
//!
//! Invariant: whatever goes wrong, the guest prints why and powers off; it never waits for somebody.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

/// What a mount needs: file system, where, and options.
struct Mount {
    kind: &'static str,
    target: &'static str,
    options: &'static str,
}

/// In the order they have to be made.
const MOUNTS: [Mount; 12] = [
    Mount {
        kind: "proc",
        target: "/proc",
        options: "",
    },
    Mount {
        kind: "sysfs",
        target: "/sys",
        options: "",
    },
    Mount {
        kind: "devtmpfs",
        target: "/dev",
        options: "",
    },
    Mount {
        kind: "devpts",
        target: "/dev/pts",
        options: "mode=0620,ptmxmode=0666",
    },
    Mount {
        kind: "tmpfs",
        target: "/tmp",
        options: "mode=1777",
    },
    Mount {
        kind: "tmpfs",
        target: "/run",
        options: "mode=0755",
    },
    Mount {
        kind: "tmpfs",
        target: "/dev/shm",
        options: "mode=1777",
    },
    Mount {
        kind: "debugfs",
        target: "/sys/kernel/debug",
        options: "",
    },
    Mount {
        kind: "tracefs",
        target: "/sys/kernel/tracing",
        options: "",
    },
    Mount {
        kind: "securityfs",
        target: "/sys/kernel/security",
        options: "",
    },
    Mount {
        kind: "bpf",
        target: "/sys/fs/bpf",
        options: "",
    },
    Mount {
        kind: "cgroup2",
        target: "/sys/fs/cgroup",
        options: "",
    },
];

/// How long one test program may take when `/tests/env` does not say (`STAGHOUND_VM_PROGRAM_TIMEOUT_S`).
const PROGRAM_TIMEOUT_DEFAULT: Duration = Duration::from_secs(900);

/// What the test programs reported.
#[derive(Default)]
struct Totals {
    passed: u64,
    failed: u64,
    programs: u64,
    failed_programs: u64,
}

fn main() {
    if std::process::id() != 1 {
        say("error: this program is the first process of a test guest; start it with `cargo xtask vm`");
        std::process::exit(2);
    }
    let started = Instant::now();
    let mut totals = Totals::default();
    match guest(&mut totals) {
        Ok(()) => {
            let Totals {
                passed,
                failed,
                programs,
                failed_programs,
            } = totals;
            let seconds = started.elapsed().as_secs();
            say(&format!(
                "end passed={passed} failed={failed} programs={programs} failed_programs={failed_programs} seconds={seconds}"
            ));
        }
        // Without an end line the host takes the guest for broken, which it is.
        Err(error) => say(&format!("error: {error:#}")),
    }
    power_off();
}

/// Prints one line of our own on the console.
fn say(line: &str) {
    // A console that cannot be written to leaves nobody to tell; the host then misses the end line.
    drop(writeln!(io::stdout().lock(), "staghound-vm: {line}"));
}

/// Makes the guest look like a host and runs every test program of the list.
fn guest(totals: &mut Totals) -> Result<()> {
    for mount in &MOUNTS {
        mount_one(mount)?;
    }
    bring_loopback_up().context("cannot bring the loopback interface up")?;
    set_host_name("staghound-vm").context("cannot set the host name")?;
    let environment = environment()?;
    tell_about_kernel();

    let timeout = match environment.get("STAGHOUND_VM_PROGRAM_TIMEOUT_S") {
        Some(text) => Duration::from_secs(text.parse().context("STAGHOUND_VM_PROGRAM_TIMEOUT_S is not a number")?),
        None => PROGRAM_TIMEOUT_DEFAULT,
    };
    let list = fs::read_to_string("/tests/list").context("cannot read /tests/list")?;
    for line in list.lines().map(str::trim).filter(|line| !line.is_empty()) {
        totals.programs += 1;
        say(&format!("run {line}"));
        let begun = Instant::now();
        let outcome = run_program(line, &environment, timeout, totals);
        let seconds = begun.elapsed().as_secs();
        match outcome {
            Ok(()) => say(&format!("passed {line} in {seconds} s")),
            Err(error) => {
                totals.failed_programs += 1;
                say(&format!("failed {line} in {seconds} s: {error:#}"));
            }
        }
    }
    ensure!(totals.programs > 0, "/tests/list names no test program");
    Ok(())
}

fn mount_one(mount: &Mount) -> Result<()> {
    fs::create_dir_all(mount.target).with_context(|| format!("cannot create {}", mount.target))?;
    let kind = c_string(mount.kind)?;
    let target = c_string(mount.target)?;
    let options = c_string(mount.options)?;
    // SAFETY: the four pointers are NUL-terminated strings that live until the call returns.
    let status = unsafe {
        libc::mount(
            kind.as_ptr(),
            target.as_ptr(),
            kind.as_ptr(),
            0,
            options.as_ptr().cast(),
        )
    };
    if status != 0 {
        let error = io::Error::last_os_error();
        bail!("cannot mount {} on {}: {error}", mount.kind, mount.target);
    }
    Ok(())
}

fn c_string(text: &str) -> Result<CString> {
    CString::new(text).with_context(|| format!("{text:?} contains a NUL byte"))
}

fn bring_loopback_up() -> Result<()> {
    // SAFETY: no pointers are involved.
    let socket = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    ensure!(socket >= 0, "socket: {}", io::Error::last_os_error());
    // SAFETY: an all-zero `ifreq` is valid: it is made of integers and a union of them.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_name[0] = i8::try_from(b'l').context("not ASCII")?;
    request.ifr_name[1] = i8::try_from(b'o').context("not ASCII")?;
    request.ifr_ifru.ifru_flags = i16::try_from(libc::IFF_UP | libc::IFF_RUNNING).context("flags do not fit")?;
    // SAFETY: `request` is a valid `ifreq` with a NUL-terminated name, which is what this request reads.
    let status = unsafe { libc::ioctl(socket, libc::SIOCSIFFLAGS, &raw mut request) };
    let error = io::Error::last_os_error();
    // SAFETY: `socket` is ours and is not used after this.
    unsafe { libc::close(socket) };
    ensure!(status == 0, "SIOCSIFFLAGS: {error}");
    Ok(())
}

fn set_host_name(name: &str) -> Result<()> {
    // SAFETY: the pointer and the length describe `name`.
    let status = unsafe { libc::sethostname(name.as_ptr().cast(), name.len()) };
    ensure!(status == 0, "{}", io::Error::last_os_error());
    Ok(())
}

/// What the test programs see: a login shell's usual variables and those of `/tests/env`.
fn environment() -> Result<BTreeMap<String, String>> {
    let mut variables: BTreeMap<String, String> = [
        ("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"),
        ("HOME", "/root"),
        ("TMPDIR", "/tmp"),
        ("TERM", "dumb"),
        ("LANG", "C"),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .collect();
    let given = fs::read_to_string("/tests/env").context("cannot read /tests/env")?;
    for line in given.lines().filter(|line| !line.is_empty()) {
        let (name, value) = line
            .split_once('=')
            .with_context(|| format!("/tests/env: `{line}` is not NAME=value"))?;
        variables.insert(name.to_owned(), value.to_owned());
    }
    Ok(variables)
}

/// Prints what decides which tests can work here, so that a failure can be understood from the console alone.
fn tell_about_kernel() {
    let read =
        |path: &str| fs::read_to_string(path).map_or_else(|error| error.to_string(), |text| text.trim().to_owned());
    let btf = match fs::metadata("/sys/kernel/btf/vmlinux") {
        Ok(metadata) => format!("{} bytes", metadata.len()),
        Err(error) => error.to_string(),
    };
    say(&format!("kernel {}", read("/proc/sys/kernel/osrelease")));
    say(&format!("btf {btf}"));
    say(&format!("lsm {}", read("/sys/kernel/security/lsm")));
    say(&format!("uptime {}", read("/proc/uptime")));
}

/// Runs one test program to its end and adds what it reported; nothing it started survives it.
fn run_program(
    line: &str,
    environment: &BTreeMap<String, String>,
    timeout: Duration,
    totals: &mut Totals,
) -> Result<()> {
    let tool = line.strip_prefix("tool ");
    let mut words = tool.unwrap_or(line).split_whitespace();
    let program = words.next().context("empty line")?;
    let mut command = Command::new(program);
    command.args(words);
    if tool.is_none() {
        command.args(["--test-threads=1", "--color", "never"]);
    }
    let mut child = command
        .env_clear()
        .envs(environment)
        .current_dir("/tmp")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {program}"))?;
    let output = child.stdout.take().expect("stdout was asked to be a pipe");
    let reader = std::thread::spawn(move || relay(output));

    let ended = wait_for(child.id(), timeout);
    kill_everything_else();
    let (passed, failed) = reader.join().expect("the relay does not panic")?;
    totals.passed += passed;
    totals.failed += failed;
    let ended = ended?;
    if tool.is_some() && ended == 0 {
        totals.passed += 1;
    }
    match ended {
        0 if failed > 0 => bail!("{failed} tests failed, yet it exited with 0"),
        0 => Ok(()),
        status if libc::WIFEXITED(status) => bail!("exit code {}", libc::WEXITSTATUS(status)),
        status => bail!("signal {}", libc::WTERMSIG(status)),
    }
}

/// Copies the program's output to the console, with the time that each test took, and sums its `test result:` lines.
fn relay(output: impl io::Read) -> Result<(u64, u64)> {
    let (mut passed, mut failed) = (0, 0);
    let mut reader = BufReader::new(output);
    let mut line = Vec::new();
    let mut begun = Instant::now();
    while reader
        .read_until(b'\n', &mut line)
        .context("cannot read the output of the program")?
        > 0
    {
        if line.starts_with(b"test ") && line.ends_with(b" ok\n") {
            line.truncate(line.len() - 1);
            line.extend(format!(" in {:.1} s\n", begun.elapsed().as_secs_f64()).into_bytes());
            begun = Instant::now();
        }
        io::stdout()
            .lock()
            .write_all(&line)
            .context("cannot write to the console")?;
        if let Some((p, f)) = counts(&String::from_utf8_lossy(&line)) {
            passed += p;
            failed += f;
        }
        line.clear();
    }
    Ok((passed, failed))
}

/// Reads `test result: ok. 3 passed; 1 failed; 0 ignored; …`.
fn counts(line: &str) -> Option<(u64, u64)> {
    let (_, rest) = line.strip_prefix("test result: ")?.split_once(". ")?;
    let count = |unit: &str| {
        rest.split("; ")
            .find_map(|part| part.strip_suffix(unit)?.trim().parse().ok())
    };
    Some((count("passed")?, count("failed")?))
}

/// Waits for one process, and buries every orphan that the kernel hands to us meanwhile. Returns the wait status.
fn wait_for(pid: u32, timeout: Duration) -> Result<libc::c_int> {
    let pid = libc::pid_t::try_from(pid).context("pid does not fit")?;
    let deadline = Instant::now() + timeout;
    loop {
        let mut status = 0;
        // SAFETY: `status` is a valid place for the wait status.
        let waited = unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG) };
        if waited == pid {
            return Ok(status);
        }
        ensure!(waited >= 0, "waitpid: {}", io::Error::last_os_error());
        ensure!(
            Instant::now() < deadline,
            "still running after {} s, killed",
            timeout.as_secs()
        );
        if waited == 0 {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Kills every process but this one, tells which there were, and waits until they are gone.
fn kill_everything_else() {
    for left in left_running() {
        say(&format!("left running: {left}"));
    }
    // SAFETY: no pointers are involved. From the first process, -1 means every other process of the guest.
    unsafe { libc::kill(-1, libc::SIGKILL) };
    loop {
        // SAFETY: a null pointer means that the status is not wanted.
        let waited = unsafe { libc::waitpid(-1, std::ptr::null_mut(), 0) };
        if waited < 0 {
            return;
        }
    }
}

/// User-space processes that still run, as `pid name`.
fn left_running() -> Vec<String> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok()?.parse::<u32>().ok())
        .filter(|&pid| pid != 1)
        .filter_map(|pid| {
            let directory = Path::new("/proc").join(pid.to_string());
            // Kernel threads and zombies have no command line.
            let command_line = fs::read(directory.join("cmdline"))
                .ok()
                .filter(|bytes| !bytes.is_empty())?;
            let first = command_line.split(|&byte| byte == 0).next().unwrap_or_default();
            Some(format!("{pid} {}", String::from_utf8_lossy(first).escape_debug()))
        })
        .collect()
}

fn power_off() -> ! {
    // Both are best effort: a guest that cannot power off is ended by the host's deadline.
    // SAFETY: no arguments.
    unsafe { libc::sync() };
    // SAFETY: no pointers are involved.
    unsafe { libc::reboot(libc::RB_POWER_OFF) };
    std::process::exit(1);
}

#[cfg(test)]
mod tests {
    use super::counts;

    #[test]
    fn test_result_lines_are_counted() {
        assert_eq!(
            counts("test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out"),
            Some((3, 0))
        );
        assert_eq!(
            counts("test result: FAILED. 3 passed; 2 failed; 0 ignored\n"),
            Some((3, 2))
        );
        assert_eq!(counts("test result: something else"), None);
        assert_eq!(counts("test tests::result ... ok"), None);
    }
}
