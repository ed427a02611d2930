//! Sets of capabilities, and giving them up.

use std::{fmt, io};

/// Names by number (include/uapi/linux/capability.h).
const NAMES: [&str; 41] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

const DAC_READ_SEARCH: u32 = 2;
const SYS_PTRACE: u32 = 19;
const SYS_ADMIN: u32 = 21;
const BPF: u32 = 39;

/// A set of capabilities.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Capabilities(u64);

impl Capabilities {
    pub(super) const NONE: Self = Self(0);

    const fn one(number: u32) -> Self {
        Self(1 << number)
    }

    /// Those that this thread may use.
    pub(super) fn permitted() -> io::Result<Self> {
        let mut data = [Data::default(); 2];
        call(libc::SYS_capget, data.as_mut_ptr())?;
        let [low, high] = data.map(|data| u64::from(data.permitted));
        Ok(Self(low | (high << 32)))
    }

    /// As `/proc/PID/status` prints them; what is no number is the empty set.
    pub(super) fn from_hex(text: &str) -> Self {
        Self(u64::from_str_radix(text, 16).unwrap_or(0))
    }

    /// Of these, the ones that an agent needs whose programs are attached.
    ///
    /// `CAP_BPF` for what it does with maps and links, wherever unprivileged bpf(2) is switched off. `CAP_SYS_PTRACE` and
    /// `CAP_DAC_READ_SEARCH` for `/proc` of processes that were missed, and rules that only their owner may read. Not
    /// `CAP_PERFMON`: it is for loading programs, and none is loaded any more; attaching one again does without.
    pub(super) fn needed_after_start(self) -> Self {
        let bpf = [BPF, SYS_ADMIN]
            .map(Self::one)
            .into_iter()
            .find(|one| self.0 & one.0 != 0);
        let needed = Self::one(SYS_PTRACE)
            .with(Self::one(DAC_READ_SEARCH))
            .with(bpf.unwrap_or(Self::NONE));
        Self(self.0 & needed.0)
    }

    pub(super) fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub(super) fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    pub(super) fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }
}

impl fmt::Display for Capabilities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("none");
        }
        let mut separator = "";
        for number in (0..u64::BITS).filter(|number| self.0 & (1 << number) != 0) {
            f.write_str(separator)?;
            match usize::try_from(number).ok().and_then(|index| NAMES.get(index)) {
                Some(name) => f.write_str(name)?,
                None => write!(f, "capability {number}")?,
            }
            separator = ", ";
        }
        Ok(())
    }
}

/// Takes all others out of the bounding set, so that no program started by this thread could have them; yields those that
/// stay since the right to take them out is missing. (They are of no use then: nothing may be started.)
pub(super) fn leave_bounding_set(kept: Capabilities) -> Capabilities {
    let zero: libc::c_ulong = 0;
    let prctl = |option: libc::c_int, number: u32| {
        // SAFETY: both options take a number and touch no memory of ours.
        unsafe { libc::prctl(option, libc::c_ulong::from(number), zero, zero, zero) }
    };
    (0..u64::BITS)
        // A number that the kernel does not know is not in the set.
        .filter(|number| prctl(libc::PR_CAPBSET_READ, *number) == 1)
        .filter(|number| kept.0 & (1 << number) == 0)
        .filter(|number| prctl(libc::PR_CAPBSET_DROP, *number) != 0)
        .fold(Capabilities::NONE, |stay, number| stay.with(Capabilities::one(number)))
}

/// Drops all others from all sets of this thread; started programs inherit none.
pub(super) fn keep_only(kept: Capabilities) -> io::Result<()> {
    let zero: libc::c_ulong = 0;
    let clear = libc::c_ulong::try_from(libc::PR_CAP_AMBIENT_CLEAR_ALL).map_err(io::Error::other)?;
    // SAFETY: the option takes numbers and touches no memory of ours.
    let cleared = unsafe { libc::prctl(libc::PR_CAP_AMBIENT, clear, zero, zero, zero) };
    if cleared != 0 {
        return Err(io::Error::last_os_error());
    }
    let half = |shift: u32| u32::try_from((kept.0 >> shift) & u64::from(u32::MAX)).map_err(io::Error::other);
    let data = |kept: u32| Data {
        effective: kept,
        permitted: kept,
        inheritable: 0,
    };
    let mut data = [data(half(0)?), data(half(32)?)];
    call(libc::SYS_capset, data.as_mut_ptr())
}

/// `struct __user_cap_header_struct`.
#[repr(C)]
struct Header {
    version: u32,
    pid: libc::pid_t,
}

/// `struct __user_cap_data_struct`; two of them make 64 bits.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Data {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

const CAPABILITY_VERSION_3: u32 = 0x2008_0522;

/// capget(2) or capset(2) of this thread; `data` leads to two entries.
fn call(number: libc::c_long, data: *mut Data) -> io::Result<()> {
    let mut header = Header {
        version: CAPABILITY_VERSION_3,
        pid: 0,
    };
    // SAFETY: the kernel reads the header and reads or writes the two entries that its version says `data` leads to.
    match unsafe { libc::syscall(number, &raw mut header, data) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_needed_after_the_start() {
        let needed = |hex: &str| Capabilities::from_hex(hex).needed_after_start().to_string();
        // Root with everything, a service with four, an old container engine's root, nobody.
        assert_eq!(
            needed("000001ffffffffff"),
            "CAP_DAC_READ_SEARCH, CAP_SYS_PTRACE, CAP_BPF"
        );
        assert_eq!(
            needed("000000c000080004"),
            "CAP_DAC_READ_SEARCH, CAP_SYS_PTRACE, CAP_BPF"
        );
        assert_eq!(needed("0000000000200000"), "CAP_SYS_ADMIN");
        assert_eq!(needed("0000000000000000"), "none");
        assert_eq!(Capabilities(1 << 63).to_string(), "capability 63");
    }
}
