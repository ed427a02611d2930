//! Who made whom: the process table against what real processes do to confuse it.
//!
//! What is acted out here runs in a forked copy of the test program, before that executes `/bin/true`: raw system calls
//! only, nothing that takes a lock or memory.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests fail by panicking")]
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "whatever else it is, it is not what was expected"
)]

use std::{
    collections::{HashMap, HashSet},
    ffi::CString,
    fs,
    io::{self, Read as _},
    os::{
        fd::{AsRawFd as _, RawFd},
        unix::{ffi::OsStrExt as _, fs::MetadataExt as _, process::CommandExt as _},
    },
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use staghound::{
    event::Detail,
    process::{Process, ProcessTable},
    sensor::{Sensor, SensorConfig, decode},
};
use staghound_ebpf::Loss;
use staghound_engine::event::EventKind;
use staghound_tests::{
    actor_path,
    capture::{Capture, Drained, Run, Seen},
    deadline, in_guest,
    place::Place,
    until,
};

/// What a process does; only calls that are safe after a fork of a program of many threads.
mod act {
    use std::ffi::CStr;

    /// Makes a process that does `what` and ends; yields its pid.
    pub(super) fn fork(what: impl FnOnce()) -> i32 {
        // SAFETY: the child makes system calls only, and ends without returning.
        match unsafe { libc::fork() } {
            0 => {
                what();
                exit(0)
            }
            -1 => exit(90),
            child => child,
        }
    }

    pub(super) fn exit(code: i32) -> ! {
        // SAFETY: it takes no pointer and does not return.
        unsafe { libc::_exit(code) }
    }

    /// Waits for a child of any kind; false when there is none.
    pub(super) fn wait(pid: i32) -> bool {
        // SAFETY: no status is asked for.
        unsafe { libc::waitpid(pid, std::ptr::null_mut(), libc::__WALL) > 0 }
    }

    pub(super) fn open(path: &CStr) {
        // SAFETY: `path` is a C string.
        let fd = unsafe { libc::open(path.as_ptr(), libc::O_RDONLY) };
        if fd < 0 {
            exit(91);
        }
        // SAFETY: the descriptor is this function's own.
        unsafe { libc::close(fd) };
    }

    pub(super) fn setsid() {
        // SAFETY: it takes no argument.
        unsafe { libc::setsid() };
    }

    pub(super) fn become_subreaper() {
        // SAFETY: this option takes no pointer.
        unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) };
    }

    pub(super) fn pid() -> i32 {
        // SAFETY: it takes no argument.
        unsafe { libc::getpid() }
    }

    pub(super) fn ppid() -> i32 {
        // SAFETY: it takes no argument.
        unsafe { libc::getppid() }
    }

    pub(super) fn chdir(path: &CStr) {
        // SAFETY: `path` is a C string.
        unsafe { libc::chdir(path.as_ptr()) };
    }

    /// `clone3` with these flags and, if it is not 0, this pid; the child does `what` and ends.
    pub(super) fn clone3(flags: i32, pid: i32, what: impl FnOnce()) -> i32 {
        let set_tid = [pid];
        // A sibling ends with the signal that this process ends with; none may be asked for.
        let signal = if flags & libc::CLONE_PARENT == 0 {
            libc::SIGCHLD
        } else {
            0
        };
        let arguments: [u64; 10] = [
            u64::from(flags.cast_unsigned()),
            0,
            0,
            0,
            u64::from(signal.cast_unsigned()),
            0,
            0,
            0,
            if pid == 0 { 0 } else { set_tid.as_ptr() as u64 },
            u64::from(pid != 0),
        ];
        // SAFETY: `arguments` is a `struct clone_args` of ten words, valid throughout the call, as is `set_tid`.
        let child = unsafe { libc::syscall(libc::SYS_clone3, arguments.as_ptr(), size_of_val(&arguments)) };
        match child {
            0 => {
                what();
                exit(0)
            }
            child => i32::try_from(child).unwrap_or(-1),
        }
    }

    pub(super) fn boot_ns() -> u64 {
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: `time` is valid for writes.
        unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &raw mut time) };
        time.tv_sec.unsigned_abs() * 1_000_000_000 + time.tv_nsec.unsigned_abs()
    }
}

/// A file whose opening tells who did it.
fn file(place: &Place, name: &str) -> CString {
    CString::new(place.file(name, 0o644)).unwrap()
}

fn opens<'a>(place: &Place, run: &'a Run) -> Vec<&'a Seen> {
    let below = place.path.as_os_str().as_bytes();
    run.of(EventKind::Open)
        .filter(|seen| seen.path.as_deref().is_some_and(|path| path.starts_with(below)))
        .collect()
}

/// `/bin/true`, of which a copy of this program has done `what` before.
fn after(what: impl Fn() + Send + Sync + 'static) -> Command {
    let mut command = Command::new("/bin/true");
    // SAFETY: `what` keeps to what is allowed between fork and exec.
    unsafe {
        command.pre_exec(move || {
            what();
            Ok(())
        })
    };
    command
}

fn ancestors(process: &Process) -> Vec<u32> {
    process.ancestors().map(|ancestor| ancestor.pid).collect()
}

fn forked(seen: &Seen) -> &staghound_ebpf::Fork {
    match &seen.detail {
        Detail::Fork(fork) => fork,
        other => panic!("no fork but {other:?}"),
    }
}

#[test]
fn a_subreaper_is_the_parent_but_not_the_maker() {
    let place = Place::new();
    let file = file(&place, "file");
    let run = Capture::of_children().run(&mut after(move || {
        act::become_subreaper();
        let subreaper = act::pid();
        act::fork(|| {
            act::fork(|| {
                while act::ppid() != subreaper {}
                act::setsid();
                act::open(&file);
            });
        });
        while act::wait(-1) {}
    }));
    assert!(run.status.success(), "{run:#?}");
    let opens = opens(&place, &run);
    assert_eq!(opens.len(), 1);
    let seen = opens[0];
    assert_eq!(seen.ppid, run.pid, "what the kernel says now");
    let made: Vec<(u32, u32)> = run
        .of(EventKind::Fork)
        .map(|seen| (seen.pid, forked(seen).child_pid))
        .collect();
    let maker = made.iter().find(|(_, child)| *child == seen.pid).unwrap().0;
    assert_eq!(seen.process.ppid, maker, "what the kernel said at first");
    assert_eq!(ancestors(&seen.process)[..3], [maker, run.pid, std::process::id()]);
}

#[test]
fn sessions_namespaces_credentials_and_descriptors_are_known() {
    const NOBODY: libc::uid_t = 65_534;
    let place = Place::new();
    let [inner, changed] = ["inner", "changed"].map(|name| file(&place, name));
    let mut command = after(move || {
        act::setsid();
        let made = act::clone3(libc::CLONE_NEWPID, 0, || act::open(&inner));
        act::wait(made);
        // SAFETY: it takes no pointer. The call itself: what libc has around it talks to other threads.
        unsafe { libc::syscall(libc::SYS_setresuid, -1, NOBODY, -1) };
        act::open(&changed);
        // SAFETY: as above.
        unsafe { libc::syscall(libc::SYS_setresuid, -1, 0, -1) };
    });
    let mut capture = Capture::of_children();
    let run = capture.run(command.stdin(Stdio::null()));
    assert!(run.status.success(), "{run:#?}");
    let opens = opens(&place, &run);
    assert_eq!(opens.len(), 2);

    let [inner, changed] = [&opens[0].process, &opens[1].process];
    assert_eq!(changed.ids.own_pid, run.pid);
    assert_eq!(
        capture.table().session_leader(inner).map(|leader| leader.pid),
        Some(run.pid)
    );
    assert_eq!(
        (inner.ids.own_pid, inner.ids.own_ppid, inner.ids.own_session),
        (1, 0, 0)
    );
    assert_eq!(inner.ids.session, run.pid);
    assert_ne!(inner.namespaces.pid, changed.namespaces.pid);
    assert_eq!(inner.namespaces.mount, changed.namespaces.mount);
    assert_eq!(
        (
            changed.credentials_before().euid,
            changed.credentials.euid,
            changed.credentials.uid
        ),
        (0, NOBODY, 0)
    );
    assert_eq!(changed.credentials.capabilities, 0);

    let exec = &run.only(EventKind::Exec).process;
    assert_eq!((exec.credentials.euid, exec.ids.session), (0, run.pid));
    let image = &exec.image;
    assert_eq!(
        (image.standard_type(0), image.standard_name(0)),
        (Some("char"), Some(&b"/dev/null"[..]))
    );
    assert_eq!(image.standard_type(1), Some("pipe"));
    assert!(image.standard_name(1).unwrap().starts_with(b"pipe:["));
    let metadata = fs::metadata("/bin/true").unwrap();
    assert_eq!((image.mode, image.owner, image.owner_group), (metadata.mode(), 0, 0));
    let nanoseconds = |seconds: i64, nanoseconds: i64| (seconds * 1_000_000_000 + nanoseconds).unsigned_abs();
    assert_eq!(image.changed_ns, nanoseconds(metadata.ctime(), metadata.ctime_nsec()));
    assert_eq!(image.modified_ns, nanoseconds(metadata.mtime(), metadata.mtime_nsec()));
    assert_eq!((image.is_secure(), image.is_writable), (Some(false), Some(true)));
}

#[test]
fn whoever_makes_a_sibling_is_its_ancestor() {
    let place = Place::new();
    let file = file(&place, "file");
    let run = Capture::of_children().run(&mut after(move || {
        if act::clone3(libc::CLONE_PARENT, 0, || act::open(&file)) < 0 {
            act::exit(92);
        }
    }));
    assert!(run.status.success(), "{run:#?}");
    let opens = opens(&place, &run);
    let seen = opens[0];
    act::wait(seen.pid.cast_signed());
    assert_ne!(seen.pid, run.pid);
    assert_eq!((seen.ppid, seen.process.ppid), (std::process::id(), std::process::id()));
    assert_eq!(ancestors(&seen.process)[..2], [run.pid, std::process::id()]);
}

#[test]
fn a_pid_that_is_used_again_is_another_process() {
    let place = Place::new();
    let files = ["a", "b", "c", "d", "e"].map(|name| file(&place, name));
    let away = CString::new(place.path.as_os_str().as_bytes()).unwrap();
    let times = files.len();
    let mut capture = Capture::of_children();
    let repaired = capture.table().counts().repaired;
    let run = capture.run(&mut after(move || {
        let mut pid = 0;
        for file in &files {
            let child = act::clone3(0, pid, || {
                act::open(file);
                act::chdir(&away);
            });
            if child < 0 {
                act::exit(92);
            }
            pid = child;
            act::wait(child);
        }
    }));
    assert!(run.status.success(), "{run:#?}");
    let opens = opens(&place, &run);
    let pids: HashSet<u32> = opens.iter().map(|seen| seen.pid).collect();
    let starts: HashSet<u64> = opens.iter().map(|seen| seen.process.start_ns).collect();
    assert_eq!((opens.len(), pids.len(), starts.len()), (times, 1, times));
    for seen in opens {
        assert_eq!(ancestors(&seen.process)[..2], [run.pid, std::process::id()]);
        // What the former process of that pid did is not its own.
        assert_eq!(
            &**seen.process.cwd,
            std::env::current_dir().unwrap().as_os_str().as_bytes()
        );
    }
    assert_eq!(capture.table().counts().repaired, repaired, "every one was seen made");
}

#[test]
fn an_exec_by_a_thread_keeps_the_process() {
    let mut capture = Capture::of_children();
    let actor = actor_path();
    let repaired = capture.table().counts().repaired;
    let run = capture.act([
        "in-thread".as_ref(),
        "exec".as_ref(),
        actor.as_os_str(),
        "argv0".as_ref(),
        "nothing".as_ref(),
    ]);
    let execs: Vec<&Seen> = run.of(EventKind::Exec).collect();
    assert_eq!(execs.len(), 2);
    let [first, second] = [execs[0], execs[1]];
    assert_eq!((second.pid, second.tid), (run.pid, run.pid));
    assert_eq!(second.process.start_ns, first.process.start_ns);
    assert_eq!(second.process.exec_count, first.process.exec_count + 1);
    assert_eq!(second.arguments(), [b"argv0".to_vec(), b"nothing".to_vec()]);
    assert_eq!(ancestors(&second.process)[0], std::process::id());
    assert_eq!(run.of(EventKind::Exit).count(), 1);
    let exit = run.only(EventKind::Exit);
    assert_eq!(exit.process.image.arguments().next(), Some(&b"argv0"[..]));
    assert_eq!(capture.table().counts().repaired, repaired);
}

/// Says what was measured.
#[expect(clippy::print_stderr, reason = "this is for whoever runs the tests")]
fn tell(what: &str) {
    eprintln!("{what}");
}

/// Anonymous memory of this process, in bytes.
fn anonymous_bytes() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().trim().parse::<u64>().unwrap() * 1024
}

#[test]
fn a_fork_bomb_leaves_nothing_behind() {
    /// Each process makes the next one and ends: there is never a moment to look at them, and no end of ancestors.
    fn chain(left: u32) {
        for _ in 0..left {
            // SAFETY: both go on with system calls only.
            match unsafe { libc::fork() } {
                0 => {}
                -1 => act::exit(90),
                _ => act::exit(0),
            }
        }
    }
    // An emulated processor takes a millisecond and more for each.
    let (chains, length) = if in_guest() { (20, 150) } else { (50, 400) };
    let mut capture = Capture::of_children();
    capture.drain(&mut Vec::new());
    let losses = capture.losses();
    let (len, counts, bytes) = (capture.table().len(), capture.table().counts(), capture.table().bytes());
    let anonymous = anonymous_bytes();
    let begun = Instant::now();
    let mut bomb = after(move || {
        act::become_subreaper();
        for _ in 0..chains {
            act::fork(|| chain(length - 1));
        }
        while act::wait(-1) {}
    });
    // That returns with the exec, when all is over.
    let spawning = std::thread::spawn(move || bomb.spawn().unwrap());
    let all = (chains * length) as usize + 1;

    let mut makers = HashMap::new();
    let mut ended = HashSet::new();
    let (mut most_anonymous, mut most_entries) = (anonymous, len);
    let mut drained = Drained {
        without_fields: true,
        ..Drained::default()
    };
    while ended.len() < all {
        // Some seven seconds on a processor that has nothing else to do.
        assert!(
            begun.elapsed() < 4 * deadline(),
            "{} forks, {} ends",
            makers.len(),
            ended.len()
        );
        let lost = capture.losses().events_lost() - losses.events_lost();
        assert_eq!(
            lost,
            0,
            "after {} forks and {} ends: {:?}",
            makers.len(),
            ended.len(),
            capture.losses()
        );
        capture.wait(Duration::from_millis(5));
        capture.drain_all(&mut drained);
        for seen in drained.events.drain(..) {
            assert!(ancestors(&seen.process).len() <= 98);
            if seen.kind == EventKind::Fork {
                let made = makers.insert(forked(&seen).child_pid, seen.pid);
                assert_eq!(made, None, "a pid is used again too soon for this test");
            } else if seen.kind == EventKind::Exit {
                ended.insert((seen.pid, seen.process.start_ns));
                if let Some(maker) = makers.get(&seen.pid) {
                    assert_eq!(ancestors(&seen.process)[0], *maker, "{}", seen.pid);
                }
            }
        }
        most_anonymous = most_anonymous.max(anonymous_bytes());
        most_entries = most_entries.max(capture.table().len());
    }
    let seconds = begun.elapsed().as_secs_f64();
    assert!(spawning.join().unwrap().wait().unwrap().success());
    assert_eq!((makers.len(), ended.len()), (all, all));
    let after_bomb = capture.table().counts();
    assert_eq!(
        (after_bomb.repaired, after_bomb.evicted),
        (counts.repaired, counts.evicted)
    );
    assert!(
        after_bomb.trimmed > counts.trimmed,
        "chains of {length} are longer than what is kept"
    );
    // Ended processes are forgotten two seconds later, with the next record.
    until("a table without them", || {
        assert!(Command::new("/bin/true").status().unwrap().success());
        capture.drain(&mut Vec::new());
        let is_known = |(pid, start_ns): &(u32, u64)| {
            let known = capture.table().get(*pid);
            known.is_some_and(|known| known.start_ns == *start_ns)
        };
        (!ended.iter().any(is_known)).then_some(())
    });
    // What has just ended is still there.
    let left = capture.table().bytes();
    assert!(
        left <= 2 * bytes + (1 << 20),
        "{left} bytes in the table instead of {bytes}"
    );
    let grown = most_anonymous as f64 / anonymous as f64;
    assert!(
        grown < 4.0 || most_anonymous - anonymous < 64 << 20,
        "{grown} times the memory"
    );
    tell(&format!(
        "fork bomb: {} processes in {seconds:.1} s, at most {most_entries} entries, memory {:.1} to {:.1} MiB, {} chains trimmed",
        makers.len(),
        anonymous as f64 / f64::from(1 << 20),
        most_anonymous as f64 / f64::from(1 << 20),
        after_bomb.trimmed - counts.trimmed,
    ));
}

/// One process of the storm, as it tells of itself.
struct Member {
    pid: u32,
    maker: u32,
    made_ns: u64,
    /// Its maker ends at once.
    is_orphan: bool,
}

impl Member {
    const BYTES: usize = 24;

    /// `made` is by whom and when.
    fn tell(to: RawFd, made: (i32, u64), is_orphan: bool) {
        let mut bytes = [0; Self::BYTES];
        bytes[..4].copy_from_slice(&act::pid().to_ne_bytes());
        bytes[4..8].copy_from_slice(&made.0.to_ne_bytes());
        bytes[8..16].copy_from_slice(&made.1.to_ne_bytes());
        bytes[16] = u8::from(is_orphan);
        // SAFETY: `bytes` is valid for its length. So few bytes are written to a pipe whole or not at all.
        unsafe { libc::write(to, bytes.as_ptr().cast(), bytes.len()) };
    }

    fn of(bytes: &[u8]) -> Self {
        Self {
            pid: u32::from_ne_bytes(*bytes[0..].first_chunk().unwrap()),
            maker: u32::from_ne_bytes(*bytes[4..].first_chunk().unwrap()),
            made_ns: u64::from_ne_bytes(*bytes[8..].first_chunk().unwrap()),
            is_orphan: bytes[16] != 0,
        }
    }
}

/// Waits until the other end of a pipe is closed.
fn wait_for_end(pipe: RawFd) {
    let mut byte = [0];
    // SAFETY: `byte` has room for the one byte.
    while unsafe { libc::read(pipe, byte.as_mut_ptr().cast(), 1) } > 0 {}
}

/// Whether the other end of a pipe is closed.
fn is_closed(pipe: RawFd) -> bool {
    let mut polled = libc::pollfd {
        fd: pipe,
        events: 0,
        revents: 0,
    };
    // SAFETY: `polled` is the one entry it is said to be.
    unsafe { libc::poll(&raw mut polled, 1, 0) == 1 }
}

/// A process makes others, half of which make another and end, all the others stay; all the while a sensor is started
/// and the table is seeded. Then every one that lives is known, once, and by its maker.
#[test]
fn a_storm_of_forks_during_the_seed_leaves_no_gap_and_no_double() {
    // Each leaves three processes. It only ends a storm that nobody stops.
    const ROUNDS_MAX: u32 = 4000;
    // A guest takes long to start a sensor and has little memory to keep processes in.
    let pause_us = if in_guest() { 20_000 } else { 700 };
    let _alone = Capture::of_children();
    let place = Place::new();
    let log = place.path.join("log");
    // A file that is appended to holds all that is told; a pipe would have to be read meanwhile.
    let log_file = fs::OpenOptions::new().append(true).create(true).open(&log).unwrap();
    let log_descriptor = log_file.as_raw_fd();
    let (kept, keep) = io::pipe().unwrap();
    let keep_descriptor = keep.as_raw_fd();
    // How long the sensor takes to start is not known: the storm lasts until this is closed, and tells how long it was.
    let (stopped, stop) = io::pipe().unwrap();
    let (stopped_descriptor, stop_descriptor) = (stopped.as_raw_fd(), stop.as_raw_fd());
    let (mut length, length_to) = io::pipe().unwrap();
    let length_descriptor = length_to.as_raw_fd();
    let mut storm = after(move || {
        for descriptor in [keep_descriptor, stop_descriptor] {
            // SAFETY: the copy of it in the forked process, which nobody there knows of.
            unsafe { libc::close(descriptor) };
        }
        act::become_subreaper();
        let mut rounds = 0_u32;
        while rounds < ROUNDS_MAX && !is_closed(stopped_descriptor) {
            rounds += 1;
            let made = (act::pid(), act::boot_ns());
            act::fork(|| {
                Member::tell(log_descriptor, made, false);
                let made = (act::pid(), act::boot_ns());
                act::fork(|| {
                    Member::tell(log_descriptor, made, false);
                    wait_for_end(0);
                });
                wait_for_end(0);
            });
            act::fork(|| {
                let made = (act::pid(), act::boot_ns());
                act::fork(|| {
                    Member::tell(log_descriptor, made, true);
                    wait_for_end(0);
                });
            });
            // SAFETY: it takes no pointer that is used.
            unsafe { libc::usleep(pause_us) };
        }
        let rounds = rounds.to_ne_bytes();
        // SAFETY: `rounds` is valid for its length.
        unsafe { libc::write(length_descriptor, rounds.as_ptr().cast(), rounds.len()) };
        while act::wait(-1) {}
    });
    storm.stdin(Stdio::from(kept));
    // That returns with the exec, when all is over.
    let spawning = std::thread::spawn(move || storm.spawn().unwrap());

    let members = || fs::metadata(&log).unwrap().len() / Member::BYTES as u64;
    until("beginning of the storm", || (members() > 300).then_some(()));
    let mut sensor = Sensor::start(&SensorConfig::default()).unwrap();
    let attached_ns = act::boot_ns();
    let before = members();
    let mut table = ProcessTable::seeded();
    let after_seed = members();
    let mut drain = |table: &mut ProcessTable| {
        sensor.drain(usize::MAX, |bytes| {
            table.apply(&decode::decode(bytes).unwrap());
        });
        sensor.wait(Duration::from_millis(1));
    };
    until("more of the storm after the seed", || {
        drain(&mut table);
        (members() > after_seed + 300).then_some(())
    });
    drop(stop);
    let mut rounds = [0; 4];
    length.read_exact(&mut rounds).unwrap();
    until("end of the storm", || {
        drain(&mut table);
        (members() == u64::from(u32::from_ne_bytes(rounds)) * 3).then_some(())
    });
    drain(&mut table);
    drain(&mut table);
    let mut told = Vec::new();
    fs::File::open(&log).unwrap().read_to_end(&mut told).unwrap();
    let told: Vec<Member> = told.chunks_exact(Member::BYTES).map(Member::of).collect();
    assert!(
        before < after_seed && after_seed < told.len() as u64,
        "the storm did not last: {before} {after_seed} {}",
        told.len()
    );
    assert_eq!(
        told.iter().map(|member| member.pid).collect::<HashSet<_>>().len(),
        told.len()
    );
    let mut wrong = Vec::new();
    let mut orphans = 0;
    for member in &told {
        let known = table.get(member.pid);
        let maker = known.and_then(|known| known.parent.as_ref()).map(|parent| parent.pid);
        // Nobody can tell who made an orphan that is older than the sensor.
        let can_know = !member.is_orphan || member.made_ns > attached_ns;
        orphans += u32::from(member.is_orphan && can_know);
        if known.is_none() || (can_know && maker != Some(member.maker)) {
            wrong.push((member.pid, member.maker, maker, member.made_ns > attached_ns));
        }
    }
    let losses = sensor.losses().unwrap();
    drop(keep);
    assert_eq!(losses.of(Loss::ProcessRingFull), 0);
    assert!(wrong.is_empty(), "pid, maker, known maker, seen made: {wrong:?}");
    assert!(orphans > 100, "{orphans}");
    let mut storm = spawning.join().unwrap();
    assert!(storm.wait().unwrap().success());
    tell(&format!(
        "storm: {} processes, {} of them made during the seed, {orphans} orphans seen made; repaired {}",
        told.len(),
        after_seed - before,
        table.counts().repaired,
    ));
}
