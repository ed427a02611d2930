//! Processes that outlive the command: found at its end, with what they have open.

use std::{
    collections::BTreeMap,
    fs, io,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    path::Path,
    sync::Arc,
};

use staghound_engine::ruleset::Severity;
use staghound_proto::v1;

use crate::{
    alert::{self, Origin},
    event::printable,
    process::{Process, seed},
};

/// Sockets that are named for each.
const SOCKETS_MAX: usize = 50;
/// Bytes that are read of each table of sockets.
const TABLE_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// The id that policies know the finding by.
pub(super) const RULE: &str = "gate/survivor";

/// A process that goes on.
pub(super) struct Survivor {
    pub(super) pid: u32,
    /// What is known of it.
    pub(super) process: Option<Arc<Process>>,
    /// What it has open, as `tcp 127.0.0.1:8080 listening`.
    pub(super) sockets: Vec<String>,
    /// It left the session that the command was started in.
    detached: bool,
}

impl Survivor {
    pub(super) fn of((pid, process): (u32, Option<Arc<Process>>)) -> Self {
        // SAFETY: getsid(2) has no preconditions.
        let own = unsafe { libc::getsid(0) };
        let theirs = i32::try_from(pid).map_or(-1, |pid| {
            // SAFETY: as above; a process that is gone has no session.
            unsafe { libc::getsid(pid) }
        });
        Self {
            pid,
            process,
            sockets: sockets(Path::new("/proc"), pid).unwrap_or_default(),
            detached: theirs != own,
        }
    }

    /// Kills it, if it is still the process that was found; yields whether it is gone then.
    pub(super) fn kill(&self) -> bool {
        let known = self.process.as_ref().map(|process| process.start_ns);
        let Ok(pid) = i32::try_from(self.pid) else { return false };
        // SAFETY: pidfd_open(2) has no preconditions.
        let opened = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
        let Ok(descriptor) = i32::try_from(opened) else {
            return false;
        };
        if descriptor < 0 {
            return true;
        }
        // SAFETY: the kernel has just given us this descriptor, and nobody else has it.
        let descriptor = unsafe { OwnedFd::from_raw_fd(descriptor) };
        // The descriptor holds one process: if that is another one than we found, ours is gone.
        if !seed::runs(self.pid, known) {
            return true;
        }
        // SAFETY: pidfd_send_signal(2) with a descriptor that is open and no information.
        let sent = unsafe {
            libc::syscall(
                libc::SYS_pidfd_send_signal,
                descriptor.as_raw_fd(),
                libc::SIGKILL,
                std::ptr::null::<libc::siginfo_t>(),
                0,
            )
        };
        sent == 0 || io::Error::last_os_error().raw_os_error() == Some(libc::ESRCH)
    }

    /// What a report says of it.
    pub(super) fn to_message(&self) -> v1::RunProcess {
        let process = self.process.as_ref().map(|process| alert::of_process(process).0);
        v1::RunProcess {
            process: Some(process.unwrap_or_else(|| v1::Process {
                pid: self.pid,
                ..v1::Process::default()
            })),
            parent_exec_id: self
                .process
                .as_ref()
                .and_then(|process| Some(process.parent.as_ref()?.identity()))
                .unwrap_or_default(),
            survived: true,
            sockets: self.sockets.clone(),
            ..v1::RunProcess::default()
        }
    }

    /// The finding that it is.
    pub(super) fn alert(&self, origin: &Origin) -> (v1::Alert, Severity) {
        let (process, ancestors) = match &self.process {
            Some(process) => alert::of_process(process),
            None => (
                v1::Process {
                    pid: self.pid,
                    ..v1::Process::default()
                },
                Vec::new(),
            ),
        };
        let how = if self.detached {
            "in a session of its own"
        } else {
            "in the background"
        };
        let name = self
            .process
            .as_ref()
            .map_or_else(String::new, |process| printable(&process.image.name));
        let open = match self.sockets.as_slice() {
            [] => String::new(),
            sockets => format!("; it has {}", sockets.join(", ")),
        };
        let alert = v1::Alert {
            fingerprint: alert::digest(&[RULE.as_bytes(), process.executable.as_bytes()]),
            event_time: Some(std::time::SystemTime::now().into()),
            rule: Some(v1::RuleRef {
                id: RULE.to_owned(),
                name: "Process outlived the command".to_owned(),
                description:
                    "Something that the command started goes on after its end. Build daemons do so as a rule; \
                              so does what an installer leaves behind to come back by."
                        .to_owned(),
                remediation:
                    "End it or wait for it in the command; for a daemon that is meant to stay, waive this rule \
                              for its executable."
                        .to_owned(),
                ..v1::RuleRef::default()
            }),
            severity: alert::severity(Severity::Low).into(),
            message: format!("{name} ({}) goes on {how}{open}", process.executable),
            process: Some(process),
            ancestors,
            host: Some(origin.host.clone()),
            run_id: origin.run_id.clone(),
            count: 1,
            ..v1::Alert::default()
        };
        (alert, Severity::Low)
    }
}

/// What sockets a process has open, named as the kernel's tables in its network namespace name them.
fn sockets(proc: &Path, pid: u32) -> io::Result<Vec<String>> {
    let directory = proc.join(pid.to_string());
    let mut inodes = Vec::new();
    for entry in fs::read_dir(directory.join("fd"))?.flatten() {
        let Ok(target) = fs::read_link(entry.path()) else {
            continue;
        };
        let target = target.to_string_lossy();
        let inode = target.strip_prefix("socket:[").and_then(|rest| rest.strip_suffix(']'));
        inodes.extend(inode.and_then(|inode| inode.parse::<u64>().ok()));
    }
    if inodes.is_empty() {
        return Ok(Vec::new());
    }
    let mut known = BTreeMap::new();
    for (protocol, file) in [("tcp", "tcp"), ("tcp", "tcp6"), ("udp", "udp"), ("udp", "udp6")] {
        for line in lines(&directory.join("net").join(file)).iter().skip(1) {
            known.extend(internet(protocol, line));
        }
    }
    for line in lines(&directory.join("net/unix")).iter().skip(1) {
        known.extend(unix(line));
    }
    inodes.sort_unstable();
    inodes.dedup();
    let mut named: Vec<String> = inodes.iter().filter_map(|inode| known.get(inode).cloned()).collect();
    named.sort();
    named.dedup();
    named.truncate(SOCKETS_MAX);
    Ok(named)
}

fn lines(path: &Path) -> Vec<String> {
    use io::Read as _;
    let mut text = Vec::new();
    let read = fs::File::open(path).and_then(|file| file.take(TABLE_BYTES_MAX).read_to_end(&mut text));
    if read.is_err() {
        return Vec::new();
    }
    String::from_utf8_lossy(&text).lines().map(str::to_owned).collect()
}

/// A line of `/proc/net/{tcp,udp}*`: inode, and the socket in words.
fn internet(protocol: &str, line: &str) -> Option<(u64, String)> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let (local, remote) = (address(fields.get(1)?)?, address(fields.get(2)?)?);
    let inode = fields.get(9)?.parse().ok()?;
    let state = *fields.get(3)?;
    let text = match (protocol, state) {
        ("tcp", "0A") => format!("tcp {local} listening"),
        ("udp", "07") => format!("udp {local}"),
        _ => format!("{protocol} {local} to {remote}"),
    };
    Some((inode, text))
}

/// `0100007F:1F90` is 127.0.0.1:8080: each group of four bytes as the processor keeps a number.
fn address(text: &str) -> Option<std::net::SocketAddr> {
    let (address, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let mut bytes = Vec::with_capacity(16);
    if !address.is_ascii() {
        return None;
    }
    for word in address.as_bytes().chunks(8) {
        let word = u32::from_str_radix(std::str::from_utf8(word).ok()?, 16).ok()?;
        bytes.extend(word.to_ne_bytes());
    }
    let address: std::net::IpAddr = match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok()?.into(),
        16 => <[u8; 16]>::try_from(bytes).ok()?.into(),
        _ => return None,
    };
    Some((address.to_canonical(), port).into())
}

/// A line of `/proc/net/unix`: `Num RefCount Protocol Flags Type St Inode Path`.
fn unix(line: &str) -> Option<(u64, String)> {
    let mut fields = line.split_whitespace();
    let inode = fields.nth(6)?.parse().ok()?;
    let path = fields.next()?;
    Some((inode, format!("unix {path}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_are_named_as_the_kernel_keeps_them() {
        let line =
            "  0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  0  0 4711 1 0 100 0 0 10 0";
        assert_eq!(
            internet("tcp", line),
            Some((4711, "tcp 127.0.0.1:8080 listening".to_owned()))
        );
        let six =
            "  1: 00000000000000000000000001000000:0016 0000000000000000FFFF00000100007F:C001 01 0:0 0:0 0 0 0 12 1";
        assert_eq!(
            internet("tcp", six),
            Some((12, "tcp [::1]:22 to 127.0.0.1:49153".to_owned()))
        );
        let unix_line = "ffff: 00000002 00000000 00010000 0001 01 99 /run/x.sock";
        assert_eq!(unix(unix_line), Some((99, "unix /run/x.sock".to_owned())));
        for bad in ["", "x", "0: zz:1 0:0", "0: 0100007F:1F90"] {
            assert_eq!(internet("tcp", bad), None, "{bad}");
            assert_eq!(unix(bad), None, "{bad}");
        }
    }

    #[test]
    fn what_this_process_listens_on_is_found() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let expected = format!("tcp {} listening", listener.local_addr().unwrap());
        let found = sockets(Path::new("/proc"), std::process::id()).unwrap();
        assert!(found.contains(&expected), "{found:?} lacks {expected}");
    }
}
