//! Gives up what the agent does not need any more once its programs are attached: capabilities, new privileges, and most
//! system calls.
//!
//! For `observe` only: the command of `run` is to have what it was started with.

mod capabilities;
mod filter;

use std::{fmt, fs, io};

use crate::sandbox::capabilities::Capabilities;

/// Whether to give up privileges after the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Sandbox {
    /// Yes; what cannot be given up is a warning.
    #[default]
    On,
    /// No.
    Off,
    /// Yes; what cannot be given up stops the start.
    Required,
}

/// What was given up, and what was not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entered {
    /// Capabilities that are left.
    capabilities: Capabilities,
    /// Capabilities that stay in the bounding set for want of the right to take them out.
    bounding: Capabilities,
    /// System calls that are left.
    calls: usize,
    /// What could not be given up, and why.
    pub failures: Vec<String>,
}

impl fmt::Display for Entered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "capabilities left: {}", self.capabilities)?;
        if !self.bounding.is_empty() {
            write!(f, " (bounding set also: {})", self.bounding)?;
        }
        write!(f, "; no new privileges; {} system calls allowed", self.calls)
    }
}

/// Gives up what it can. Threads that run already keep their capabilities, which the kernel lets nobody else take: they
/// are named among the failures.
#[must_use]
pub fn enter() -> Entered {
    let mut failures = Vec::new();
    let mut attempt = |what: &str, result: io::Result<()>| {
        if let Err(error) = result {
            failures.push(format!("{what}: {error}"));
        }
    };
    let kept = match Capabilities::permitted() {
        Ok(permitted) => permitted.needed_after_start(),
        Err(error) => {
            attempt("capabilities cannot be read", Err(error));
            Capabilities::NONE
        }
    };
    // In this order: leaving the bounding set takes a capability that is dropped then.
    let bounding = capabilities::leave_bounding_set(kept);
    attempt("capabilities cannot be dropped", capabilities::keep_only(kept));
    attempt("new privileges cannot be given up", set(libc::PR_SET_NO_NEW_PRIVS, 1));
    // Nobody of the same user may trace us or read our memory, and no core dump tells what the spool holds.
    attempt("the process cannot be made undumpable", set(libc::PR_SET_DUMPABLE, 0));
    attempt("system calls cannot be filtered", filter::apply());
    match threads() {
        Ok(threads) => failures.extend(threads.iter().filter_map(|thread| thread.complaint(kept))),
        Err(error) => failures.push(format!("threads cannot be looked at: {error}")),
    }
    Entered {
        capabilities: kept,
        bounding,
        calls: filter::calls(),
        failures,
    }
}

fn set(option: libc::c_int, value: libc::c_ulong) -> io::Result<()> {
    let zero: libc::c_ulong = 0;
    // SAFETY: the options used here take numbers and touch no memory of ours.
    match unsafe { libc::prctl(option, value, zero, zero, zero) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// What the kernel says of one thread of ours.
struct Thread {
    name: String,
    capabilities: Capabilities,
    no_new_privileges: bool,
    filtered: bool,
}

impl Thread {
    fn of(status: &str) -> Self {
        let value = |key: &str| {
            status
                .lines()
                .find_map(|line| line.strip_prefix(key))
                .map_or("", str::trim)
        };
        Self {
            name: value("Name:").to_owned(),
            capabilities: ["CapInh:", "CapPrm:", "CapEff:", "CapAmb:"]
                .into_iter()
                .map(|key| Capabilities::from_hex(value(key)))
                .fold(Capabilities::NONE, Capabilities::with),
            no_new_privileges: value("NoNewPrivs:") == "1",
            filtered: value("Seccomp:") == "2",
        }
    }

    /// What it has that it should not have.
    fn complaint(&self, kept: Capabilities) -> Option<String> {
        let more = self.capabilities.without(kept);
        let mut has = Vec::new();
        if !more.is_empty() {
            has.push(format!("has {more}"));
        }
        if !self.no_new_privileges {
            has.push("may gain privileges".to_owned());
        }
        if !self.filtered {
            has.push("may make any system call".to_owned());
        }
        (!has.is_empty()).then(|| format!("the thread `{}` still {}", self.name.escape_debug(), has.join(", ")))
    }
}

/// All threads of this process, as the kernel sees them: what was asked for is not believed until it shows.
fn threads() -> io::Result<Vec<Thread>> {
    fs::read_dir("/proc/self/task")?
        .map(|entry| Ok(Thread::of(&fs::read_to_string(entry?.path().join("status"))?)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        io::Write as _,
        net::{ToSocketAddrs as _, UdpSocket},
        process::Command,
        thread,
    };

    const INSIDE: &str = "STAGHOUND_TEST_SANDBOX";

    /// Runs a test of this module again, in a process of its own.
    fn again(test: &str) -> std::process::Output {
        Command::new(std::env::current_exe().unwrap())
            .args(["--exact", test, "--nocapture"])
            .env(INSIDE, "1")
            .output()
            .unwrap()
    }

    fn refused(what: &str, status: libc::c_long) {
        let error = io::Error::last_os_error();
        assert_eq!(
            (status, error.raw_os_error()),
            (-1, Some(libc::EPERM)),
            "{what}: {error}"
        );
    }

    #[test]
    fn what_is_given_up_is_gone_and_what_is_needed_works() {
        if std::env::var_os(INSIDE).is_none() {
            let output = again("sandbox::tests::what_is_given_up_is_gone_and_what_is_needed_works");
            assert!(output.status.success(), "{output:?}");
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        let before = Capabilities::permitted().unwrap();
        let entered = enter();
        // The first thread is the test harness's, and began before.
        let [failure] = &entered.failures[..] else {
            panic!("{entered:?}")
        };
        assert!(failure.starts_with("the thread `staghound"), "{failure}");
        assert!(!failure.contains("may "), "its calls are filtered: {failure}");
        assert_eq!(
            Capabilities::permitted().unwrap(),
            before.without(before.without(entered.capabilities))
        );
        assert!(!entered.to_string().contains("CAP_SYS_ADMIN"), "{entered}");

        // What an attacker inside would reach for.
        let zero = 0_usize;
        let path = c"/bin/true".as_ptr();
        for (what, number) in [
            ("ptrace", libc::SYS_ptrace),
            ("mount", libc::SYS_mount),
            ("unshare", libc::SYS_unshare),
            ("setns", libc::SYS_setns),
            ("setuid", libc::SYS_setuid),
            ("kill", libc::SYS_kill),
            ("process_vm_readv", libc::SYS_process_vm_readv),
            ("init_module", libc::SYS_init_module),
            ("perf_event_open", libc::SYS_perf_event_open),
            ("io_uring_setup", libc::SYS_io_uring_setup),
            ("memfd_create", libc::SYS_memfd_create),
            ("keyctl", libc::SYS_keyctl),
            ("pidfd_getfd", libc::SYS_pidfd_getfd),
            ("bpf(BPF_MAP_CREATE)", libc::SYS_bpf),
        ] {
            // SAFETY: arguments are zero, so that none of these calls touches memory of ours.
            refused(what, unsafe { libc::syscall(number, zero, zero, zero, zero, zero) });
        }
        let load: libc::c_long = 5;
        // SAFETY: as above; BPF_PROG_LOAD with no attributes.
        refused("bpf(BPF_PROG_LOAD)", unsafe {
            libc::syscall(libc::SYS_bpf, load, zero, zero)
        });
        let nobody = std::ptr::null::<*const libc::c_char>();
        // SAFETY: `path` ends in a NUL, and both lists may be null on Linux.
        refused("execve", unsafe {
            libc::syscall(libc::SYS_execve, path, nobody, nobody)
        });
        assert!(Command::new("/bin/true").spawn().is_err(), "a new program");
        // SAFETY: of a fork that succeeded nothing would be touched but the exit below.
        let forked = unsafe { libc::syscall(libc::SYS_clone, libc::SIGCHLD, zero, zero, zero, zero) };
        refused("clone of a process", forked);
        let anywhere = std::ptr::null_mut();
        let (both, anonymous) = (
            libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
        );
        // SAFETY: a new mapping anywhere replaces none.
        let mapped = unsafe { libc::mmap(anywhere, 4096, both, anonymous, -1, 0) };
        assert_eq!(mapped, libc::MAP_FAILED, "memory that is writable and executable");
        let (packet, raw) = (libc::AF_PACKET, libc::SOCK_RAW);
        // SAFETY: socket(2) touches no memory.
        let packet = unsafe { libc::socket(packet, raw, 0) };
        refused("a packet socket", packet.into());

        // What the agent goes on doing: threads, names, sockets, files, clocks.
        let worker = thread::Builder::new().name("worker".to_owned()).spawn(|| {
            thread::sleep(std::time::Duration::from_millis(1));
            threads().map(|threads| threads.len())
        });
        assert_eq!(worker.unwrap().join().unwrap().unwrap(), 3);
        assert!(("localhost", 1).to_socket_addrs().unwrap().next().is_some());
        // A name that only a server could know; none may answer here, but the asking must not be refused.
        if let Err(error) = ("staghound.invalid", 1).to_socket_addrs() {
            assert!(!error.to_string().contains("not permitted"), "{error}");
        }
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.send_to(b"x", socket.local_addr().unwrap()).unwrap();
        let file = directory.path().join("segment");
        let mut segment = fs::File::create(&file).unwrap();
        segment.write_all(b"x").unwrap();
        segment.set_len(4096).unwrap();
        segment.sync_data().unwrap();
        segment.set_modified(std::time::SystemTime::now()).unwrap();
        assert!(segment.try_lock().is_ok());
        fs::rename(&file, directory.path().join("other")).unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        // The test that started this one has more capabilities, which keeps those with none from looking into it.
        let parent = format!("/proc/{}/environ", std::os::unix::process::parent_id());
        let reading =
            async { tokio::task::spawn_blocking(|| fs::read(parent).map(|environment| environment.len())).await };
        let read = runtime.block_on(reading).unwrap();
        assert!(
            read.is_ok() || !entered.to_string().contains("CAP_SYS_PTRACE"),
            "{read:?}"
        );
        directory.close().unwrap();
    }

    #[test]
    fn a_thread_that_keeps_its_capabilities_is_named() {
        if std::env::var_os(INSIDE).is_none() {
            let output = again("sandbox::tests::a_thread_that_keeps_its_capabilities_is_named");
            assert!(output.status.success(), "{output:?}");
            return;
        }
        let (stop, stopped) = std::sync::mpsc::channel::<()>();
        let (begin, begun) = std::sync::mpsc::channel();
        let early = thread::Builder::new()
            .name("early\u{7}".to_owned())
            .spawn(move || {
                begin.send(()).unwrap();
                stopped.recv()
            })
            .unwrap();
        begun.recv().unwrap();
        let entered = enter();
        let named = entered
            .failures
            .iter()
            .find(|failure| failure.starts_with("the thread `early\\u{7}` still has CAP_CHOWN"));
        // Its system calls are filtered all the same.
        assert!(named.is_some_and(|failure| !failure.contains("may ")), "{entered:?}");
        drop(stop);
        assert!(early.join().unwrap().is_err());
    }

    #[test]
    fn what_is_left_is_told() {
        let entered = Entered {
            capabilities: Capabilities::from_hex("0000008000000000"),
            bounding: Capabilities::NONE,
            calls: 3,
            failures: Vec::new(),
        };
        assert_eq!(
            entered.to_string(),
            "capabilities left: CAP_BPF; no new privileges; 3 system calls allowed"
        );
        let free = Thread::of("Name:\tx\nCapPrm:\t0000000000000001\nNoNewPrivs:\t0\nSeccomp:\t0\n");
        assert_eq!(
            free.complaint(Capabilities::NONE).unwrap(),
            "the thread `x` still has CAP_CHOWN, may gain privileges, may make any system call"
        );
    }
}
