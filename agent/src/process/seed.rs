//! Reads running processes from `/proc`. What cannot be read stays empty: a process may end at any moment, and some
//! may be out of reach.

use std::{
    fs,
    os::unix::{ffi::OsStrExt as _, fs::MetadataExt as _},
    sync::Arc,
};

use crate::process::{Credentials, Image, Process, TICK_NS};

/// Every process that runs now.
pub(super) fn running() -> Vec<Process> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .filter_map(Result::ok)
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter_map(process)
        .collect()
}

/// One process, if it still runs.
pub(super) fn process(pid: u32) -> Option<Process> {
    let stat = fs::read(format!("/proc/{pid}/stat")).ok()?;
    let stat = Stat::parse(&stat)?;
    let read = |name: &str| fs::read(format!("/proc/{pid}/{name}")).unwrap_or_default();
    let link = |name: &str| fs::read_link(format!("/proc/{pid}/{name}")).unwrap_or_default();
    let executable = link("exe");
    let executable = executable.as_os_str().as_bytes();
    let mut image = Image::new(
        &stat.name,
        executable.strip_suffix(b" (deleted)").unwrap_or(executable),
        &read("cmdline"),
    );
    if let Ok(metadata) = fs::metadata(format!("/proc/{pid}/exe")) {
        image.inode = metadata.ino();
        image.nlink = u32::try_from(metadata.nlink()).ok();
    }
    Some(Process {
        pid,
        ppid: stat.ppid,
        start_ns: stat.start_ticks.saturating_mul(TICK_NS),
        exec_count: 0,
        parent: None,
        image: Arc::new(image),
        cwd: link("cwd").as_os_str().as_bytes().into(),
        credentials: credentials(&read("status")),
        cgroup_id: 0,
        tty: stat.tty,
        depth: 0,
        start_is_exact: false,
    })
}

/// What is needed of `/proc/PID/stat`.
#[derive(Debug, PartialEq, Eq)]
struct Stat {
    name: Vec<u8>,
    ppid: u32,
    tty: u32,
    start_ticks: u64,
}

impl Stat {
    /// The name stands in parentheses and may hold any byte, closing parentheses too: the last one ends it.
    fn parse(text: &[u8]) -> Option<Self> {
        let open = memchr::memchr(b'(', text)?;
        let close = memchr::memrchr(b')', text)?;
        let name = text.get(open + 1..close)?.to_vec();
        let rest = std::str::from_utf8(text.get(close + 1..)?).ok()?;
        // Field 3 comes first here; the parent is field 4, the terminal 7, the start 22 (proc_pid_stat(5)).
        let mut fields = rest.split_ascii_whitespace().skip(1);
        let ppid = fields.next()?.parse().ok()?;
        let tty = fields.nth(2)?.parse().ok()?;
        let start_ticks = fields.nth(14)?.parse().ok()?;
        Some(Self {
            name,
            ppid,
            tty,
            start_ticks,
        })
    }
}

fn credentials(status: &[u8]) -> Credentials {
    let status = String::from_utf8_lossy(status);
    let field = |name: &str| {
        status
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .unwrap_or_default()
    };
    let number = |name: &str, index: usize| {
        field(name)
            .split_ascii_whitespace()
            .nth(index)
            .and_then(|text| text.parse().ok())
            .unwrap_or(0)
    };
    Credentials {
        uid: number("Uid:", 0),
        euid: number("Uid:", 1),
        gid: number("Gid:", 0),
        egid: number("Gid:", 1),
        login_uid: None,
        capabilities: u64::from_str_radix(field("CapEff:").trim(), 16).unwrap_or(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_names_may_hold_anything() {
        let line = b"42 (a) (b) S 7 42 42 34816 -1 4194304 1 2 3 4 5 6 7 8 20 0 1 0 12345 1000 10";
        let stat = Stat::parse(line).unwrap();
        assert_eq!(
            stat,
            Stat {
                name: b"a) (b".to_vec(),
                ppid: 7,
                tty: 34816,
                start_ticks: 12345
            }
        );
        for broken in [&b""[..], b"42", b"42 (x", b"42 (x) S", b"42 )x( S 1"] {
            assert_eq!(Stat::parse(broken), None);
        }
    }

    #[test]
    fn this_process_is_seen_as_it_is() {
        let this = process(std::process::id()).unwrap();
        assert_eq!(
            this.image.executable.as_ref(),
            std::env::current_exe().unwrap().as_os_str().as_bytes()
        );
        assert_eq!(
            this.cwd.as_ref(),
            std::env::current_dir().unwrap().as_os_str().as_bytes()
        );
        assert_eq!(this.image.arguments().count(), std::env::args_os().count());
        assert!(running().iter().any(|process| process.pid == this.pid));
    }
}
