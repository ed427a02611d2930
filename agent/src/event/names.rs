//! Names of what the kernel gives numbers: users, groups, capabilities, file types.

use std::{fs, path::Path};

use hashbrown::HashMap;

use crate::process::image;

/// Users and groups of the host, as its files name them. Directory services are not asked: that may block.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    users: HashMap<u32, String>,
    groups: HashMap<u32, String>,
}

impl Names {
    /// Those of `/etc/passwd` and `/etc/group`; none where they cannot be read.
    #[must_use]
    pub fn of_host() -> Self {
        Self {
            users: read(Path::new("/etc/passwd")),
            groups: read(Path::new("/etc/group")),
        }
    }

    /// Name of a user.
    #[must_use]
    pub fn user(&self, uid: u32) -> Option<&str> {
        self.users.get(&uid).map(String::as_str)
    }

    /// Name of a group.
    #[must_use]
    pub fn group(&self, gid: u32) -> Option<&str> {
        self.groups.get(&gid).map(String::as_str)
    }
}

/// Both files hold `name:password:id:…` in each line.
fn read(path: &Path) -> HashMap<u32, String> {
    let text = fs::read(path).unwrap_or_default();
    String::from_utf8_lossy(&text)
        .lines()
        .filter_map(|line| {
            let mut parts = line.split(':');
            let name = parts.next()?;
            Some((parts.nth(1)?.parse().ok()?, name.to_owned()))
        })
        .collect()
}

/// Capabilities by number (include/uapi/linux/capability.h).
const CAPABILITIES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// Names of a set of capabilities, joined by blanks.
pub(super) fn capabilities(bits: u64) -> String {
    let names = CAPABILITIES
        .iter()
        .enumerate()
        .filter(|(number, _)| bits & (1 << number) != 0);
    names
        .map(|(_, name)| format!("CAP_{name}"))
        .collect::<Vec<_>>()
        .join(" ")
}

/// File type by `st_mode`, as in `fd.type` and `fd.typechar`.
pub(super) fn file_type(mode: u32) -> (&'static str, &'static str) {
    let name = image::file_type(mode).unwrap_or("file");
    (name, &name[..1])
}

/// Whether a process of this name is a shell that people log in with.
pub(super) fn is_shell(name: &[u8]) -> bool {
    [
        &b"sh"[..],
        b"bash",
        b"dash",
        b"zsh",
        b"ash",
        b"ksh",
        b"fish",
        b"tcsh",
        b"csh",
    ]
    .contains(&name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_have_names() {
        assert_eq!(capabilities(0), "");
        assert_eq!(capabilities(1 << 21 | 1), "CAP_CHOWN CAP_SYS_ADMIN");
        assert_eq!(capabilities(u64::MAX).split(' ').count(), 41);
    }

    #[test]
    fn the_host_knows_root() {
        assert_eq!(Names::of_host().user(0), Some("root"));
    }
}
