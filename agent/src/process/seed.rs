//! Reads running processes from `/proc`. What cannot be read stays empty: a process may end at any moment, and some
//! may be out of reach.

use std::{
    ffi::OsStr,
    fs::{self, File},
    io::Read as _,
    os::unix::{ffi::OsStrExt as _, fs::MetadataExt as _},
    path::Path,
    sync::Arc,
};

use staghound_ebpf::{ARGS_BYTES_MAX, Ids, flags};

use crate::process::{
    Credentials, Directory, INITIAL_PID_NAMESPACE, Namespaces, Process, TICK_NS, Version, held,
    image::{self, Image},
    ledger::Ledger,
};

/// More than any other file of `/proc/PID` that is read here holds.
const FILE_BYTES_MAX: usize = 16 * 1024;
/// What the kernel appends to the path of a file that has no name any more.
const DELETED: &[u8] = b" (deleted)";

/// When a process is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum When {
    /// Before the agent observes.
    Start,
    /// While records wait. Nothing is asked then of the file system that the executable is on, which may not answer.
    Repair,
}

/// Every process that runs now.
pub(super) fn running(ledger: &Arc<Ledger>) -> Vec<Process> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .filter_map(Result::ok)
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter_map(|pid| read(pid, When::Start, ledger))
        .collect()
}

/// One process that was not known, if it still runs.
pub(super) fn process(pid: u32, ledger: &Arc<Ledger>) -> Option<Process> {
    read(pid, When::Repair, ledger)
}

fn read(pid: u32, when: When, ledger: &Arc<Ledger>) -> Option<Process> {
    let file = |name: &str, max: usize| beginning(Path::new(&format!("/proc/{pid}/{name}")), max);
    let link = |name: &str| fs::read_link(format!("/proc/{pid}/{name}")).unwrap_or_default();
    let stat = Stat::parse(&file("stat", FILE_BYTES_MAX)?)?;
    let arguments = file("cmdline", ARGS_BYTES_MAX + 1).unwrap_or_default();
    let executable = link("exe");
    let executable = Executable::of(executable.as_os_str().as_bytes(), |path| {
        when == When::Start && fs::symlink_metadata(OsStr::from_bytes(path)).is_ok()
    });
    let mut image = Image::new(
        &stat.name,
        executable.path,
        &arguments[..arguments.len().min(ARGS_BYTES_MAX)],
    );
    if arguments.len() > ARGS_BYTES_MAX {
        image.flags |= flags::ARGS_CUT;
    }
    if executable.is_memfd {
        image.flags |= flags::DETACHED;
    }
    let status = file("status", FILE_BYTES_MAX).unwrap_or_default();
    let status = String::from_utf8_lossy(&status);
    let mut credentials = credentials(&status);
    credentials.login_uid = login_uid(&file("loginuid", FILE_BYTES_MAX).unwrap_or_default());
    if when == When::Start {
        if let Ok(metadata) = fs::metadata(format!("/proc/{pid}/exe")) {
            image.inode = metadata.ino();
            image.device = kernel_device(metadata.dev());
            image.nlink = u32::try_from(metadata.nlink()).ok();
            image.mode = metadata.mode();
            (image.owner, image.owner_group) = (metadata.uid(), metadata.gid());
            image.changed_ns = nanoseconds(metadata.ctime(), metadata.ctime_nsec());
            image.modified_ns = nanoseconds(metadata.mtime(), metadata.mtime_nsec());
            image.is_writable = Some(image::is_writable(
                image.mode,
                (image.owner, image.owner_group),
                &credentials,
            ));
        }
        image.set_standard([0, 1, 2].map(|number| standard(pid, number)));
    }
    Some(Process {
        pid,
        ppid: stat.ppid,
        start_ns: stat.start_ticks.saturating_mul(TICK_NS),
        exec_count: 0,
        parent: None,
        image: image.held(ledger),
        cwd: Directory::new(link("cwd").as_os_str().as_bytes(), ledger),
        credentials,
        before: None,
        ids: ids(&stat, &status),
        namespaces: namespaces(pid),
        cgroup_id: 0,
        tty: stat.tty,
        depth: 0,
        start_is_exact: false,
        version: Version::default(),
        _held: held(ledger),
    })
}

/// A device number as the kernel keeps it.
fn kernel_device(device: u64) -> u32 {
    (libc::major(device) << 20) | libc::minor(device)
}

fn nanoseconds(seconds: i64, nanoseconds: i64) -> u64 {
    let all = seconds.saturating_mul(1_000_000_000).saturating_add(nanoseconds);
    u64::try_from(all).unwrap_or(0)
}

/// Namespaces of a process that runs; 0 for those that cannot be read.
pub(super) fn namespaces(pid: u32) -> Namespaces {
    let number = |name: &str| {
        let link = fs::read_link(format!("/proc/{pid}/ns/{name}")).ok()?;
        link.to_str()?.split_once(":[")?.1.strip_suffix(']')?.parse().ok()
    };
    let number = |name| number(name).unwrap_or(0);
    Namespaces {
        mount: number("mnt"),
        pid: number("pid"),
        network: number("net"),
        user: number("user"),
    }
}

/// Whether `/proc` shows the processes of the whole host, by the numbers that the programs know them by.
pub(super) fn sees_all() -> bool {
    namespaces(std::process::id()).pid == INITIAL_PID_NAMESPACE
}

/// Type and name of a standard descriptor. Only what is a file is asked for its type, since its name does not tell.
fn standard(pid: u32, number: u32) -> (Option<&'static str>, Box<[u8]>) {
    let path = format!("/proc/{pid}/fd/{number}");
    let Ok(link) = fs::read_link(&path) else {
        return (None, Box::default());
    };
    let name = link.as_os_str().as_bytes();
    let kind = if name.starts_with(b"pipe:[") {
        Some("pipe")
    } else if name.starts_with(b"socket:[") {
        Some("socket")
    } else if name.starts_with(b"/dev/") {
        Some("char")
    } else if name.starts_with(b"/") {
        fs::metadata(&path)
            .ok()
            .and_then(|metadata| image::file_type(metadata.mode()))
    } else {
        None
    };
    (kind, name.into())
}

/// At most `max` bytes from the beginning of a file; none if it cannot be read.
fn beginning(path: &Path, max: usize) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let limit = u64::try_from(max).expect("the limits here are small");
    File::open(path).ok()?.take(limit).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

/// Whether a process of this start still runs: it has not ended, not even as a zombie, and nobody else has its pid.
pub(crate) fn runs(pid: u32, start_ns: Option<u64>) -> bool {
    beginning(Path::new(&format!("/proc/{pid}/stat")), FILE_BYTES_MAX)
        .and_then(|stat| Stat::parse(&stat))
        .is_some_and(|stat| !stat.has_ended && start_ns.is_none_or(|start| start / TICK_NS == stat.start_ticks))
}

/// What the link `/proc/PID/exe` tells.
#[derive(Debug, PartialEq, Eq)]
struct Executable<'a> {
    path: &'a [u8],
    is_memfd: bool,
}

impl<'a> Executable<'a> {
    /// A file may have a name that ends as those of deleted files do: it is there then.
    fn of(link: &'a [u8], exists: impl FnOnce(&[u8]) -> bool) -> Self {
        match link.strip_suffix(DELETED) {
            Some(path) if path.starts_with(b"/memfd:") => Self { path, is_memfd: true },
            Some(path) if !exists(link) => Self { path, is_memfd: false },
            Some(_) | None => Self {
                path: link,
                is_memfd: false,
            },
        }
    }
}

/// The kernel writes the largest number when nobody logged in.
fn login_uid(text: &[u8]) -> Option<u32> {
    let uid = std::str::from_utf8(text).ok()?.trim().parse().ok()?;
    (uid != u32::MAX).then_some(uid)
}

/// What is needed of `/proc/PID/stat`.
#[derive(Debug, PartialEq, Eq)]
struct Stat {
    name: Vec<u8>,
    ppid: u32,
    group: u32,
    session: u32,
    tty: u32,
    start_ticks: u64,
    has_ended: bool,
}

impl Stat {
    /// The name stands in parentheses and may hold any byte, closing parentheses too: the last one ends it.
    fn parse(text: &[u8]) -> Option<Self> {
        let open = memchr::memchr(b'(', text)?;
        let close = memchr::memrchr(b')', text)?;
        let name = text.get(open + 1..close)?.to_vec();
        let rest = std::str::from_utf8(text.get(close + 1..)?).ok()?;
        // Field 3 comes first here; parent, group, session and terminal are fields 4 to 7, the start 22 (proc_pid_stat(5)).
        let mut fields = rest.split_ascii_whitespace();
        let state = fields.next()?;
        let ppid = fields.next()?.parse().ok()?;
        let group = fields.next()?.parse().ok()?;
        let session = fields.next()?.parse().ok()?;
        let tty = fields.next()?.parse().ok()?;
        let start_ticks = fields.nth(14)?.parse().ok()?;
        Some(Self {
            name,
            ppid,
            group,
            session,
            tty,
            start_ticks,
            has_ended: matches!(state, "Z" | "X" | "x"),
        })
    }
}

/// What follows a name in `/proc/PID/status`.
fn field<'a>(status: &'a str, name: &str) -> &'a str {
    status
        .lines()
        .find_map(|line| line.strip_prefix(name))
        .unwrap_or_default()
}

/// The numbers of a process in its own pid namespace come last in their lines. That of its parent is not told.
fn ids(stat: &Stat, status: &str) -> Ids {
    let own = |name: &str| {
        let last = field(status, name).split_ascii_whitespace().last();
        last.and_then(|text| text.parse().ok()).unwrap_or(0)
    };
    Ids {
        session: stat.session,
        group: stat.group,
        own_pid: own("NStgid:"),
        own_ppid: 0,
        own_session: own("NSsid:"),
        own_group: own("NSpgid:"),
    }
}

fn credentials(status: &str) -> Credentials {
    let number = |name: &str, index: usize| {
        field(status, name)
            .split_ascii_whitespace()
            .nth(index)
            .and_then(|text| text.parse().ok())
            .unwrap_or(0)
    };
    let set = |name: &str| u64::from_str_radix(field(status, name).trim(), 16).unwrap_or(0);
    Credentials {
        uid: number("Uid:", 0),
        euid: number("Uid:", 1),
        gid: number("Gid:", 0),
        egid: number("Gid:", 1),
        login_uid: None,
        capabilities: set("CapEff:"),
        permitted: set("CapPrm:"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_names_may_hold_anything() {
        let line = b"42 (a) (b) S 7 42 43 34816 -1 4194304 1 2 3 4 5 6 7 8 20 0 1 0 12345 1000 10";
        let stat = Stat::parse(line).unwrap();
        assert_eq!(
            stat,
            Stat {
                name: b"a) (b".to_vec(),
                ppid: 7,
                group: 42,
                session: 43,
                tty: 34816,
                start_ticks: 12345,
                has_ended: false,
            }
        );
        for broken in [&b""[..], b"42", b"42 (x", b"42 (x) S", b"42 )x( S 1"] {
            assert_eq!(Stat::parse(broken), None);
        }
    }

    #[test]
    fn executables_without_a_name_are_known() {
        for (link, exists, path, is_memfd) in [
            (&b"/bin/sh"[..], true, &b"/bin/sh"[..], false),
            (b"/bin/sh (deleted)", false, b"/bin/sh", false),
            (b"/bin/sh (deleted)", true, b"/bin/sh (deleted)", false),
            (b"/memfd:x (deleted)", false, b"/memfd:x", true),
            (b"/memfd:x", true, b"/memfd:x", false),
            (b"", false, b"", false),
        ] {
            assert_eq!(Executable::of(link, |_| exists), Executable { path, is_memfd });
        }
    }

    #[test]
    fn who_logged_in_is_known() {
        for (text, expected) in [
            (&b"1000"[..], Some(1000)),
            (b"0\n", Some(0)),
            (b"4294967295", None),
            (b"", None),
            (b"x", None),
        ] {
            assert_eq!(login_uid(text), expected);
        }
    }

    #[test]
    fn long_arguments_are_cut_and_told() {
        let mut child = std::process::Command::new("sleep")
            .args(std::iter::once("60".to_owned()).chain((0..64).map(|_| "0".repeat(1024))))
            .spawn()
            .unwrap();
        let pid = child.id();
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        let mut read = process(pid, &Arc::default()).unwrap();
        // The child is ours before its new image has its arguments.
        while read.image.arguments().count() == 0 && std::time::Instant::now() < deadline {
            read = process(pid, &Arc::default()).unwrap();
        }
        let ran = runs(pid, Some(read.start_ns)) && !runs(pid, Some(read.start_ns + TICK_NS));
        child.kill().unwrap();
        // Not waited for yet: a zombie does nothing any more.
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while runs(pid, None) && std::time::Instant::now() < deadline {
            std::thread::yield_now();
        }
        let runs_still = runs(pid, None);
        child.wait().unwrap();
        assert!(ran && !runs_still);
        assert!(read.image.flags & flags::ARGS_CUT != 0);
        assert!(read.image.arguments().map(<[u8]>::len).sum::<usize>() <= ARGS_BYTES_MAX);
    }

    #[test]
    fn this_process_is_seen_as_it_is() {
        let this = process(std::process::id(), &Arc::default()).unwrap();
        assert_eq!(
            this.image.executable.as_ref(),
            std::env::current_exe().unwrap().as_os_str().as_bytes()
        );
        assert_eq!(&**this.cwd, std::env::current_dir().unwrap().as_os_str().as_bytes());
        assert_eq!(this.image.arguments().count(), std::env::args_os().count());
        // SAFETY: it takes no pointer and cannot fail for this process.
        let session = unsafe { libc::getsid(0) };
        // SAFETY: likewise.
        let group = unsafe { libc::getpgid(0) };
        assert_eq!(this.ids.own_pid, std::process::id());
        assert_eq!(this.ids.own_session, session.cast_unsigned());
        assert_eq!(this.ids.own_group, group.cast_unsigned());
        assert!(
            [
                this.namespaces.mount,
                this.namespaces.pid,
                this.namespaces.network,
                this.namespaces.user
            ]
            .iter()
            .all(|number| *number != 0)
        );
        assert!(running(&Arc::default()).iter().any(|process| process.pid == this.pid));
    }
}
