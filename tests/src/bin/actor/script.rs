//! A script of raw system calls, so that a test says which calls are made instead of the actor knowing each act.
//!
//! Calls are separated by `+`. A call is its name and its arguments. Before the name may stand:
//!
//! - `!` it only prepares the act and must succeed (else exit 99);
//! - `~` it may be missing in this kernel (else a call that is makes the actor exit 77, [`Lacks`]);
//! - `x32:` it is made through the x32 entry; `int80:` through the 32-bit entry, with the number of that ABI as name.
//!
//! `#463` is the call of that number. Arguments are numbers (`-1`, `0o644`, `0x10`) or
//!
//! | word | argument |
//! |---|---|
//! | `s=TEXT` | address of a C string |
//! | `x=HEX`, `x=HEX:N` | address of these bytes, filled up with zeros to N |
//! | `z=N` | address of N zero bytes |
//! | `v=A,B`, `i=A,B` | address of these arguments as words of 64 or 32 bits |
//! | `a=IP:PORT`, `u=PATH` | address of a socket address |
//! | `@K`, `*K`, `*K.I` | address of the K-th of these so far; what its I-th 32-bit word holds now |
//! | `$K` | result of the K-th call |
//! | `f=K` | address of `/proc/self/fd/` and that result |
//! | `d=PATH`, `w=PATH`, `p=PATH` | a descriptor of it, opened to read, to write, or with `O_PATH` |
//! | `pid`, `child`, `ring` | this process; a child that waits and is killed at the end; an io_uring |
//!
//! `uring OPERATION MEMBER=ARGUMENT…` is not a call but a request to the io_uring of the script; `uring-setup FLAGS` makes
//! that ring otherwise than with no flags. At the end the actor prints one line per call and request: name, result,
//! arguments (for a request: none).

use std::{
    ffi::{CString, OsStr, OsString},
    io::{self, Write as _},
    net::SocketAddr,
    os::unix::ffi::OsStrExt as _,
};

use anyhow::{Context as _, Result, bail, ensure};
use libc::c_long;

use crate::{Lacks, SocketAddress, address, call, fork, prepare, uring::Ring};

const ENOSYS: i64 = -(libc::ENOSYS as i64);

/// Numbers by name, from libc's own table and not from the agent's, which is tested.
macro_rules! numbers {
    ($($name:literal $number:ident)*) => { &[$(($name, libc::$number)),*] };
}

#[rustfmt::skip]
const NUMBERS: &[(&str, c_long)] = numbers![
    "accept" SYS_accept "accept4" SYS_accept4 "acct" SYS_acct "add_key" SYS_add_key "bind" SYS_bind "bpf" SYS_bpf
    "capset" SYS_capset "chdir" SYS_chdir "chmod" SYS_chmod "chown" SYS_chown "chroot" SYS_chroot "clock_settime" SYS_clock_settime
    "close" SYS_close "connect" SYS_connect "copy_file_range" SYS_copy_file_range "creat" SYS_creat
    "delete_module" SYS_delete_module "dup" SYS_dup "dup2" SYS_dup2 "dup3" SYS_dup3
    "execve" SYS_execve "execveat" SYS_execveat "fanotify_init" SYS_fanotify_init
    "fanotify_mark" SYS_fanotify_mark "fchdir" SYS_fchdir "fchmod" SYS_fchmod "fchmodat" SYS_fchmodat "fchmodat2" SYS_fchmodat2
    "fchown" SYS_fchown "fchownat" SYS_fchownat "fcntl" SYS_fcntl "finit_module" SYS_finit_module
    "fremovexattr" SYS_fremovexattr "fsconfig" SYS_fsconfig "fsetxattr" SYS_fsetxattr "fsmount" SYS_fsmount "fsopen" SYS_fsopen
    "ftruncate" SYS_ftruncate "futimesat" SYS_futimesat "getpid" SYS_getpid "getsockname" SYS_getsockname
    "init_module" SYS_init_module "io_uring_enter" SYS_io_uring_enter
    "io_uring_register" SYS_io_uring_register "io_uring_setup" SYS_io_uring_setup "ioctl" SYS_ioctl "ioperm" SYS_ioperm
    "iopl" SYS_iopl "kexec_file_load" SYS_kexec_file_load "kexec_load" SYS_kexec_load "keyctl" SYS_keyctl "kill" SYS_kill
    "lchown" SYS_lchown "link" SYS_link "linkat" SYS_linkat "listen" SYS_listen "lremovexattr" SYS_lremovexattr
    "lseek" SYS_lseek "lsetxattr" SYS_lsetxattr "memfd_create" SYS_memfd_create "memfd_secret" SYS_memfd_secret "mkdir" SYS_mkdir
    "mkdirat" SYS_mkdirat "mknod" SYS_mknod "mknodat" SYS_mknodat "mmap" SYS_mmap "mount" SYS_mount
    "mount_setattr" SYS_mount_setattr "move_mount" SYS_move_mount "mprotect" SYS_mprotect
    "name_to_handle_at" SYS_name_to_handle_at "nfsservctl" SYS_nfsservctl "open" SYS_open
    "open_by_handle_at" SYS_open_by_handle_at "open_tree" SYS_open_tree "openat" SYS_openat "openat2" SYS_openat2
    "perf_event_open" SYS_perf_event_open "personality" SYS_personality "pidfd_getfd" SYS_pidfd_getfd
    "pidfd_open" SYS_pidfd_open "pidfd_send_signal" SYS_pidfd_send_signal "pipe2" SYS_pipe2 "pivot_root" SYS_pivot_root
    "pkey_mprotect" SYS_pkey_mprotect "prctl" SYS_prctl "process_madvise" SYS_process_madvise
    "process_vm_readv" SYS_process_vm_readv "process_vm_writev" SYS_process_vm_writev "ptrace" SYS_ptrace
    "quotactl" SYS_quotactl "read" SYS_read "readv" SYS_readv "reboot" SYS_reboot "recvfrom" SYS_recvfrom "recvmmsg" SYS_recvmmsg
    "recvmsg" SYS_recvmsg "removexattr" SYS_removexattr "rename" SYS_rename "renameat" SYS_renameat "renameat2" SYS_renameat2
    "request_key" SYS_request_key "rmdir" SYS_rmdir "rt_sigqueueinfo" SYS_rt_sigqueueinfo
    "rt_tgsigqueueinfo" SYS_rt_tgsigqueueinfo "sendfile" SYS_sendfile "sendmmsg" SYS_sendmmsg "sendmsg" SYS_sendmsg
    "sendto" SYS_sendto "setdomainname" SYS_setdomainname "setfsgid" SYS_setfsgid "setfsuid" SYS_setfsuid "setgid" SYS_setgid
    "setgroups" SYS_setgroups "sethostname" SYS_sethostname "setns" SYS_setns "setpgid" SYS_setpgid "setregid" SYS_setregid
    "setresgid" SYS_setresgid "setresuid" SYS_setresuid "setreuid" SYS_setreuid "setsid" SYS_setsid
    "settimeofday" SYS_settimeofday "setuid" SYS_setuid "setxattr" SYS_setxattr "socket" SYS_socket
    "socketpair" SYS_socketpair "splice" SYS_splice "swapoff" SYS_swapoff "swapon" SYS_swapon "symlink" SYS_symlink
    "symlinkat" SYS_symlinkat "syslog" SYS_syslog "tgkill" SYS_tgkill "tkill" SYS_tkill "truncate" SYS_truncate
    "umount2" SYS_umount2 "unlink" SYS_unlink "unlinkat" SYS_unlinkat "unshare" SYS_unshare "userfaultfd" SYS_userfaultfd
    "utime" SYS_utime "utimensat" SYS_utimensat "utimes" SYS_utimes "write" SYS_write "writev" SYS_writev
];

/// Bit of a call's number that makes it one of the x32 ABI.
const X32_BIT: c_long = 0x4000_0000;

/// Runs a script and tells what it did.
pub(crate) fn run(words: &[OsString]) -> Result<()> {
    let mut script = Script {
        memory: Memory::new()?,
        buffers: Vec::new(),
        results: Vec::new(),
        child: None,
        ring: None,
        told: String::new(),
    };
    let outcome = words
        .split(|word| word == "+")
        .try_for_each(|words| script.step(words).with_context(|| format!("{words:?}")));
    if let Some(child) = script.child {
        // Also a traced child ends of SIGKILL.
        call(libc::SYS_kill, &[child, 9]);
        crate::wait(u32::try_from(child)?)?;
    }
    outcome?;
    io::stdout().write_all(script.told.as_bytes()).context("cannot print")
}

struct Script {
    memory: Memory,
    /// Addresses of what was put into the memory.
    buffers: Vec<usize>,
    results: Vec<i64>,
    child: Option<usize>,
    ring: Option<Ring>,
    told: String,
}

/// Which entry a call takes.
enum Entry {
    Native(c_long),
    Compat(u32),
}

impl Script {
    fn step(&mut self, words: &[OsString]) -> Result<()> {
        let (name, arguments) = words.split_first().context("an empty call")?;
        let name = name.to_str().context("a name is not UTF-8")?;
        let (must, name) = name.strip_prefix('!').map_or((false, name), |rest| (true, rest));
        let (may_lack, name) = name.strip_prefix('~').map_or((false, name), |rest| (true, rest));
        let (result, told) = match name {
            "uring-setup" => {
                let flags = self.argument(arguments.first().context("the flags are missing")?)?;
                self.ring = Some(Ring::new(u32::try_from(flags)?)?);
                (0, String::new())
            }
            "uring" => (self.request(arguments)?, String::new()),
            _ => {
                let entry = entry(name)?;
                ensure!(arguments.len() <= 6, "more than six arguments");
                let mut values = [0; 6];
                for (value, word) in values.iter_mut().zip(arguments) {
                    *value = self.argument(word)?;
                }
                let result = match entry {
                    Entry::Native(number) => call(number, &values),
                    Entry::Compat(number) => crate::call32(number, values),
                };
                (result, values.map(|value| format!(" {value}")).concat())
            }
        };
        if result == ENOSYS && !may_lack {
            return Err(Lacks(format!("the call {name}")).into());
        }
        if must {
            prepare(name, result)?;
        }
        self.results.push(result);
        self.told.push_str(&format!("{name} {result}{told}\n"));
        Ok(())
    }

    fn request(&mut self, words: &[OsString]) -> Result<i64> {
        let (operation, members) = words.split_first().context("no operation")?;
        let mut values = Vec::new();
        for word in members {
            let bytes = word.as_bytes();
            let equals = bytes
                .iter()
                .position(|byte| *byte == b'=')
                .context("a member has no value")?;
            let name = std::str::from_utf8(&bytes[..equals]).context("a member's name is not UTF-8")?;
            values.push((name, self.argument(OsStr::from_bytes(&bytes[equals + 1..]))?));
        }
        self.ring()?.request(operation.to_str().context("not UTF-8")?, &values)
    }

    fn ring(&mut self) -> Result<&mut Ring> {
        if self.ring.is_none() {
            self.ring = Some(Ring::new(0)?);
        }
        self.ring.as_mut().context("just made")
    }

    fn keep(&mut self, bytes: &[u8]) -> Result<usize> {
        let at = self.memory.put(bytes)?;
        self.buffers.push(at);
        Ok(at)
    }

    fn buffer(&self, text: &str) -> Result<usize> {
        self.buffers
            .get(text.parse::<usize>().context("no number of a buffer")?)
            .copied()
            .context("no such buffer yet")
    }

    fn argument(&mut self, word: &OsStr) -> Result<usize> {
        self.argument_or_none(word)
            .with_context(|| format!("the argument {word:?}"))
    }

    fn argument_or_none(&mut self, word: &OsStr) -> Result<usize> {
        let bytes = word.as_bytes();
        if let [kind, b'=', rest @ ..] = bytes {
            return self.made(*kind, OsStr::from_bytes(rest));
        }
        let text = word.to_str().context("not UTF-8")?;
        match (text, text.split_at_checked(1)) {
            ("pid", _) => Ok(usize::try_from(std::process::id())?),
            ("child", _) => self.child(),
            ("ring", _) => Ok(self.ring()?.descriptor()),
            (_, Some(("$", index))) => {
                let result = self.results.get(index.parse::<usize>()?).context("no such call yet")?;
                Ok(usize::try_from(result.cast_unsigned())?)
            }
            (_, Some(("@", index))) => self.buffer(index),
            (_, Some(("*", place))) => {
                let (buffer, word) = place.split_once('.').unwrap_or((place, "0"));
                let at = self.buffer(buffer)? + 4 * word.parse::<usize>()?;
                Ok(self.memory.word(at)? as usize)
            }
            _ => plain_number(text),
        }
    }

    /// What `kind=rest` stands for.
    fn made(&mut self, kind: u8, rest: &OsStr) -> Result<usize> {
        let text = || rest.to_str().context("not UTF-8");
        match kind {
            b's' => {
                let string = CString::new(rest.as_bytes()).context("a NUL")?;
                self.keep(string.as_bytes_with_nul())
            }
            b'x' => {
                let (hex, len) = text()?.split_once(':').unwrap_or((text()?, "0"));
                let mut bytes = bytes_of_hex(hex)?;
                bytes.resize(bytes.len().max(len.parse()?), 0);
                self.keep(&bytes)
            }
            b'f' => {
                let descriptor = self.argument(OsStr::new(&format!("${}", text()?)))?;
                self.keep(format!("/proc/self/fd/{descriptor}\0").as_bytes())
            }
            b'z' => self.keep(&vec![0; text()?.parse()?]),
            b'v' | b'i' => {
                let mut bytes = Vec::new();
                for word in text()?.split(',') {
                    let value = self.argument(OsStr::new(word))?;
                    bytes.extend_from_slice(&value.to_ne_bytes()[..if kind == b'v' { 8 } else { 4 }]);
                }
                self.keep(&bytes)
            }
            b'a' => {
                let to: SocketAddr = text()?.parse()?;
                self.keep(&SocketAddress::new(to.ip(), to.port()).0)
            }
            b'u' => {
                let mut bytes = u16::try_from(libc::AF_UNIX)?.to_ne_bytes().to_vec();
                bytes.extend_from_slice(rest.as_bytes());
                bytes.resize(110, 0);
                self.keep(&bytes)
            }
            b'd' | b'w' | b'p' => {
                let flags = match kind {
                    b'd' => libc::O_RDONLY,
                    b'w' => libc::O_RDWR,
                    _ => libc::O_PATH,
                };
                let path = CString::new(rest.as_bytes()).context("a NUL")?;
                prepare("open", call(libc::SYS_open, &[address(&path), usize::try_from(flags)?]))
            }
            _ => bail!("no such kind of argument"),
        }
    }

    fn child(&mut self) -> Result<usize> {
        if let Some(child) = self.child {
            return Ok(child);
        }
        let child = fork()?;
        if child == 0 {
            // Until it is killed, also when the actor dies.
            call(libc::SYS_prctl, &[1, 9]);
            loop {
                call(libc::SYS_pause, &[]);
            }
        }
        Ok(*self.child.insert(child as usize))
    }
}

fn entry(name: &str) -> Result<Entry> {
    if let Some(number) = name.strip_prefix("int80:") {
        return Ok(Entry::Compat(number.parse().context("no number")?));
    }
    let (bit, name) = name.strip_prefix("x32:").map_or((0, name), |rest| (X32_BIT, rest));
    let number = match name.strip_prefix('#') {
        Some(number) => number.parse().context("no number")?,
        None => NUMBERS
            .iter()
            .find(|(known, _)| *known == name)
            .map(|(_, number)| *number)
            .with_context(|| format!("no call `{name}`"))?,
    };
    Ok(Entry::Native(number | bit))
}

fn plain_number(text: &str) -> Result<usize> {
    let (negative, digits) = text.strip_prefix('-').map_or((false, text), |rest| (true, rest));
    let value = if let Some(digits) = digits.strip_prefix("0x") {
        usize::from_str_radix(digits, 16)
    } else if let Some(digits) = digits.strip_prefix("0o") {
        usize::from_str_radix(digits, 8)
    } else {
        digits.parse()
    };
    let value = value.context("neither a number nor anything else")?;
    Ok(if negative { value.wrapping_neg() } else { value })
}

fn bytes_of_hex(hex: &str) -> Result<Vec<u8>> {
    ensure!(
        hex.len().is_multiple_of(2) && hex.is_ascii(),
        "hexadecimal digits come in pairs"
    );
    (0..hex.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).context("no hexadecimal digit"))
        .collect()
}

/// Memory below 2 GiB, so that calls of every ABI can be given its addresses.
struct Memory {
    start: *mut u8,
    used: usize,
}

impl Memory {
    const BYTES: usize = 1 << 20;

    fn new() -> Result<Self> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_32BIT;
        // SAFETY: a new mapping touches nothing that exists.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), Self::BYTES, protection, flags, -1, 0) };
        ensure!(start != libc::MAP_FAILED, "cannot map memory below 2 GiB");
        Ok(Self {
            start: start.cast(),
            used: 0,
        })
    }

    fn put(&mut self, bytes: &[u8]) -> Result<usize> {
        let at = self.used;
        let end = at + bytes.len();
        ensure!(end <= Self::BYTES, "the script needs too much memory");
        self.used = end.next_multiple_of(16);
        // SAFETY: `at` lies within the mapping.
        let to = unsafe { self.start.add(at) };
        // SAFETY: the mapping has room for the bytes there, and nothing else refers to it.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) };
        Ok(to as usize)
    }

    fn word(&self, at: usize) -> Result<u32> {
        let offset = at.checked_sub(self.start as usize).context("outside of the memory")?;
        ensure!(offset + 4 <= Self::BYTES, "outside of the memory");
        // SAFETY: the offset lies within the mapping.
        let from = unsafe { self.start.add(offset) };
        // SAFETY: four bytes are readable there; the kernel, which may write them, has returned.
        Ok(unsafe { from.cast::<u32>().read_unaligned() })
    }
}
