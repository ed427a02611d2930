//! For every event kind: a real act gives exactly the event that it should, with the right fields.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests fail by panicking")]
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "whatever else it is, it is not what was expected"
)]

#[path = "events/calls.rs"]
mod calls;

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener},
    os::unix::{
        ffi::OsStrExt as _,
        fs::{MetadataExt as _, PermissionsExt as _, symlink},
        net::UnixListener,
        process::{CommandExt as _, ExitStatusExt as _},
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use staghound::event::Detail;
use staghound_ebpf::{Fork, Loss, Open, PathChange, Socket, flags};
use staghound_engine::event::EventKind;
use staghound_tests::{
    actor, actor_path,
    capture::{Capture, Run, Seen},
    place::Place,
};

const FMODE_READ: u32 = 1;
const FMODE_WRITE: u32 = 2;
const FMODE_CREATED: u32 = 0x10_0000;
const ENOENT: i64 = -2;
const ECONNREFUSED: i64 = -111;

fn open(seen: &Seen) -> &Open {
    match &seen.detail {
        Detail::Open(open, _) => open,
        other => panic!("no open but {other:?}"),
    }
}

fn change(seen: &Seen) -> &PathChange {
    match &seen.detail {
        Detail::Rename(change, ..) | Detail::Unlink(change, _) | Detail::Chmod(change, _) => change,
        other => panic!("no change of a path but {other:?}"),
    }
}

fn socket(seen: &Seen) -> (&Socket, &[u8]) {
    match &seen.detail {
        Detail::Socket(socket, name) => (socket, name),
        other => panic!("no socket but {other:?}"),
    }
}

fn forked(seen: &Seen) -> &Fork {
    match &seen.detail {
        Detail::Fork(fork) => fork,
        other => panic!("no fork but {other:?}"),
    }
}

fn status(seen: &Seen) -> u32 {
    match &seen.detail {
        Detail::Process(Some(status)) => *status,
        other => panic!("no exit but {other:?}"),
    }
}

/// A device number as the kernel keeps it.
fn kernel_device(device: u64) -> u32 {
    (libc::major(device) << 20) | libc::minor(device)
}

/// What holds for every event of a command that the test started: the process is its child and runs as root.
fn is_of(seen: &Seen, run: &Run) {
    assert_eq!(seen.pid, run.pid);
    assert_eq!(seen.tid, run.pid);
    assert_eq!(seen.ppid, std::process::id());
    assert_eq!(seen.process.ppid, std::process::id());
    let credentials = &seen.credentials;
    assert_eq!(
        [credentials.uid, credentials.euid, credentials.gid, credentials.egid],
        [0; 4]
    );
    assert_eq!(seen.comm, b"actor");
    assert_eq!(
        &*seen.process.image.executable,
        actor_path().canonicalize().unwrap().as_os_str().as_bytes()
    );
}

fn boot_ns() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is valid for writes.
    assert_eq!(unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &raw mut time) }, 0);
    u64::try_from(time.tv_sec * 1_000_000_000 + time.tv_nsec).unwrap()
}

#[test]
fn open_tells_how_the_file_was_opened() {
    let place = Place::new();
    let mut capture = Capture::of_children();
    // act, file mode, open flags that must be set, event type
    let cases: [(&[&str], u32, i32, &str); 10] = [
        (&["open", "FILE", "read"], FMODE_READ, libc::O_RDONLY, "open"),
        (&["open", "FILE", "write"], FMODE_WRITE, libc::O_WRONLY, "open"),
        (
            &["open", "FILE", "readwrite"],
            FMODE_READ | FMODE_WRITE,
            libc::O_RDWR,
            "open",
        ),
        (
            &["open", "FILE", "append"],
            FMODE_WRITE,
            libc::O_WRONLY | libc::O_APPEND,
            "open",
        ),
        (&["openat", "-", "FILE", "read"], FMODE_READ, libc::O_RDONLY, "openat"),
        (&["openat2", "FILE", "read"], FMODE_READ, libc::O_RDONLY, "openat2"),
        (
            &["open", "NEW1", "create"],
            FMODE_WRITE | FMODE_CREATED,
            libc::O_WRONLY,
            "open",
        ),
        (
            &["openat", "-", "NEW2", "create"],
            FMODE_WRITE | FMODE_CREATED,
            libc::O_WRONLY,
            "openat",
        ),
        (
            &["openat2", "NEW3", "create"],
            FMODE_WRITE | FMODE_CREATED,
            libc::O_WRONLY,
            "openat2",
        ),
        (&["creat", "NEW4"], FMODE_WRITE | FMODE_CREATED, libc::O_WRONLY, "creat"),
    ];
    place.file("FILE", 0o644);
    for (words, file_mode, open_flags, event_type) in cases {
        let name = words.iter().find(|word| word.starts_with(['F', 'N'])).unwrap();
        let path = place.of(name);
        let words: Vec<&str> = words
            .iter()
            .map(|word| if word == name { path.as_str() } else { word })
            .collect();
        let before = boot_ns();
        let run = capture.act(&words);
        let seen = run.only_below(EventKind::Open, &place.root());
        is_of(seen, &run);
        assert!((before..=boot_ns()).contains(&seen.time_ns), "{words:?}");
        assert_eq!(seen.path_text(), path);
        assert_eq!(seen.event_type, event_type);
        assert!(seen.result >= 3, "{words:?}: {}", seen.result);
        assert_eq!(seen.count, 1);
        assert_eq!(seen.truncated, [""; 0]);
        assert_eq!(seen.flags & flags::COMPAT, 0);
        let open = open(seen);
        assert_eq!(open.file_mode, file_mode, "{words:?}");
        let shown = libc::O_ACCMODE | libc::O_APPEND;
        assert_eq!(
            open.open_flags & shown.cast_unsigned(),
            open_flags.cast_unsigned(),
            "{words:?}"
        );
        let metadata = fs::metadata(&path).unwrap();
        assert_eq!(open.inode, metadata.ino());
        assert_eq!(open.device, kernel_device(metadata.dev()));
        assert_eq!(open.mode, metadata.mode());
    }
}

#[test]
fn open_tells_the_path_that_the_kernel_resolved() {
    let place = Place::new();
    let mut capture = Capture::of_children();
    fs::create_dir_all(place.of("a/b")).unwrap();
    fs::create_dir(place.of("bound")).unwrap();
    let file = place.file("a/b/file", 0o600);
    symlink("a/b", place.of("link")).unwrap();
    symlink("../link/file", place.of("a/far")).unwrap();
    let hostile = "h\u{1b}[31m\n\t\u{7f}é";
    place.file(hostile, 0o600);
    let root = place.of("a");
    let cases: [(Vec<&str>, &str); 9] = [
        (vec!["open", &place.of("link/file"), "read"], "a/b/file"),
        (vec!["open", &place.of("a/far"), "read"], "a/b/file"),
        (vec!["in", &root, "open", "b/../b/./file", "read"], "a/b/file"),
        (vec!["in", &root, "openat", "-", "b/file", "read"], "a/b/file"),
        (vec!["openat", &place.of("link"), "file", "read"], "a/b/file"),
        (vec!["open", &format!("/proc/self/root{file}"), "read"], "a/b/file"),
        (
            vec!["open-bound", &place.of("a/b"), &place.of("bound"), "file"],
            "bound/file",
        ),
        (vec!["open", &place.of(hostile), "read"], hostile),
        (vec!["in-thread", "open", &file, "read"], "a/b/file"),
    ]
    .map(|(words, path)| (words.into_iter().map(|word| &*word.to_owned().leak()).collect(), path));
    for (words, expected) in cases {
        let run = capture.act(&words);
        let seen = run.only_where(EventKind::Open, |seen| {
            seen.path_text().starts_with(&place.root()) && open(seen).open_flags & 0o200_000 == 0
        });
        assert_eq!(seen.path_text(), place.of(expected), "{words:?}");
        assert_eq!(
            open(seen).inode,
            fs::metadata(place.of(expected.replace("bound", "a/b").as_str()))
                .unwrap()
                .ino()
        );
        assert_eq!(seen.pid, run.pid);
        assert_eq!(seen.tid == run.pid, words[0] != "in-thread");
        assert_eq!(seen.comm, b"actor");
    }
}

#[test]
fn open_tells_long_and_deep_paths() {
    let place = Place::new();
    let mut capture = Capture::of_children();
    // Components have at most 255 bytes, and a path that is passed 4095.
    let mut directory = place.path.clone();
    while directory.as_os_str().len() < 3500 {
        directory.push("x".repeat(250));
        fs::create_dir(&directory).unwrap();
    }
    for (directory, truncated) in [(directory.clone(), false), (directory.join("z".repeat(250)), true)] {
        fs::create_dir_all(&directory).unwrap();
        let long = directory.join("y".repeat(if truncated { 250 } else { 20 }));
        fs::write(&long, "").unwrap();
        let run = capture.act(["open".as_ref(), long.as_os_str(), "read".as_ref()]);
        let seen = run.only_where(EventKind::Open, |seen| seen.path_text().ends_with("yyyy"));
        if truncated {
            assert_eq!(seen.truncated, ["path"]);
            assert!(seen.path_text().len() > 3800);
            // An ellipsis stands for what is missing, so that nothing poses as a path from the root.
            let carried = seen.path.as_deref().unwrap().strip_prefix(b"/...").unwrap();
            assert!(long.as_os_str().as_bytes().ends_with(carried));
        } else {
            assert_eq!(seen.truncated, [""; 0]);
            assert_eq!(seen.path.as_deref(), Some(long.as_os_str().as_bytes()));
        }
    }

    let below: PathBuf = std::iter::repeat_n("d", 80).collect();
    let deep = place.path.join(below).join("leaf");
    fs::create_dir_all(deep.parent().unwrap()).unwrap();
    fs::write(&deep, "").unwrap();
    let run = capture.act(["open".as_ref(), deep.as_os_str(), "read".as_ref()]);
    let seen = run.only_where(EventKind::Open, |seen| seen.path_text().ends_with("/d/leaf"));
    assert_eq!(seen.truncated, ["path"]);
    let text = seen.path_text();
    let carried = text.strip_prefix("/...").unwrap();
    assert!(deep.to_string_lossy().ends_with(carried));
    assert_eq!(carried.split('/').count() - 1, 64);
    assert_eq!(run.losses.1.of(Loss::PathCut) - run.losses.0.of(Loss::PathCut), 1);
}

#[test]
fn open_without_access_and_of_a_removed_file_is_seen() {
    let place = Place::new();
    let mut capture = Capture::of_children();
    let file = place.file("file", 0o600);
    let run = capture.act(["open", &file, "path"]);
    let seen = run.only_below(EventKind::Open, &place.root());
    assert_eq!(open(seen).file_mode, 0);
    assert_ne!(open(seen).open_flags & libc::O_PATH.cast_unsigned(), 0);

    // Once by its name, and once more, when it has none, through the descriptor.
    let inode = fs::metadata(&file).unwrap().ino();
    let run = capture.act(["open-removed", &file]);
    let opens: Vec<&Seen> = run
        .of(EventKind::Open)
        .filter(|seen| open(seen).inode == inode)
        .collect();
    assert_eq!(opens.iter().map(|seen| seen.count).sum::<u64>(), opens.len() as u64);
    let suppressed = run.losses.1.of(Loss::Deduplicated) - run.losses.0.of(Loss::Deduplicated);
    assert_eq!(opens.len() as u64 + suppressed, 2);
    assert!(opens.iter().all(|seen| seen.path_text() == file), "{opens:#?}");
    assert_eq!(run.only(EventKind::Unlink).path_text(), file);
}

#[test]
fn open_of_a_file_that_is_not_there_is_no_event() {
    let place = Place::new();
    let run = Capture::of_children().act(["open", &place.of("missing"), "read"]);
    assert_eq!(
        run.of(EventKind::Open)
            .filter(|seen| seen.path_text().starts_with(&place.root()))
            .count(),
        0
    );
}

#[test]
fn open_through_the_32_bit_entry_is_seen() {
    let place = Place::new();
    let file = place.file("file", 0o600);
    let run = Capture::of_children().act(["calls", "int80:5", &format!("s={file}"), "0"]);
    let seen = run.only_below(EventKind::Open, &place.root());
    is_of(seen, &run);
    assert_eq!(seen.path_text(), file);
    assert_ne!(seen.flags & flags::COMPAT, 0);
    assert_eq!(seen.event_type, "open");
    assert_eq!(open(seen).inode, fs::metadata(&file).unwrap().ino());
}

#[test]
fn equal_opens_are_counted_instead_of_reported() {
    let place = Place::new();
    let mut capture = Capture::of_children();
    let file = place.file("file", 0o600);

    let run = capture.act(["open-repeat", &file, "1000"]);
    let opens: Vec<&Seen> = run
        .of(EventKind::Open)
        .filter(|seen| seen.path_text() == file)
        .collect();
    let suppressed = run.losses.1.of(Loss::Deduplicated) - run.losses.0.of(Loss::Deduplicated);
    assert_eq!(opens.len() as u64 + suppressed, 1000);
    // One per second that it took.
    let nanoseconds = opens[opens.len() - 1].time_ns - opens[0].time_ns;
    assert!(opens.len() as u64 <= 1 + nanoseconds / 1_000_000_000, "{opens:#?}");

    let run = capture.act(["open-during", &file, "1500"]);
    let times: u64 = run.stdout.trim().parse().unwrap();
    let opens: Vec<&Seen> = run
        .of(EventKind::Open)
        .filter(|seen| seen.path_text() == file)
        .collect();
    let suppressed = run.losses.1.of(Loss::Deduplicated) - run.losses.0.of(Loss::Deduplicated);
    assert_eq!(opens.len() as u64 + suppressed, times);
    assert!(opens.len() >= 2, "{opens:#?}");
    assert_eq!(opens[0].count, 1);
    assert!(opens[1].count > 1, "{opens:#?}");
    assert!(opens.iter().map(|seen| seen.count).sum::<u64>() <= times);

    // Another way to open is another event.
    let run = capture.act(["open", &file, "readwrite"]);
    assert_eq!(run.only_below(EventKind::Open, &place.root()).count, 1);
}

#[test]
fn every_open_is_delivered_or_counted_lost() {
    let place = Place::new();
    let mut capture = Capture::of_children();
    let each = 3000;
    let run = capture.act(["open-many", &place.of(""), "2", &each.to_string()]);
    let delivered = run
        .of(EventKind::Open)
        .filter(|seen| seen.path_text().starts_with(&place.root()))
        .count() as u64;
    let removed = run
        .of(EventKind::Unlink)
        .filter(|seen| seen.path_text().starts_with(&place.root()))
        .count() as u64;
    let lost = run.losses.1.events_lost() - run.losses.0.events_lost();
    assert_eq!(delivered + removed + lost, 2 * 2 * each, "{delivered} {removed} {lost}");
    let pids: std::collections::HashSet<u32> = run
        .of(EventKind::Open)
        .filter(|seen| seen.path_text().starts_with(&place.root()))
        .map(|seen| seen.pid)
        .collect();
    assert_eq!(pids.len(), 2);
}

#[test]
fn exec_tells_arguments_environment_and_executable() {
    let mut capture = Capture::of_children();
    let long = "a".repeat(4096);
    let arguments: [&[u8]; 6] = [
        b"nothing",
        b"",
        long.as_bytes(),
        b"\x1b[31m\n",
        b"\xff\xfe",
        b" two words ",
    ];
    let mut command = actor(arguments.map(std::ffi::OsStr::from_bytes));
    command
        .arg0("other name")
        // cargo sets it for what it runs.
        .env_remove("LD_LIBRARY_PATH")
        .env("LD_PRELOAD", "/nonexistent.so")
        .env("NODE_OPTIONS", "--require /tmp/x.js")
        .env("SECRET", "hunter2")
        .env("LD_PRELOAD_NOT", "x")
        .stderr(Stdio::null());
    let run = capture.run(&mut command);
    assert_eq!(run.status.code(), Some(0));
    let seen = run.only(EventKind::Exec);
    is_of(seen, &run);
    assert_eq!(seen.event_type, "execve");
    let mut expected = vec![b"other name".to_vec()];
    expected.extend(arguments.map(<[u8]>::to_vec));
    assert_eq!(seen.arguments(), expected);
    assert_eq!(seen.truncated, [""; 0]);
    let mut env: Vec<String> = seen
        .process
        .image
        .env()
        .map(|variable| String::from_utf8_lossy(variable).into_owned())
        .filter(|variable| !variable.starts_with("CI="))
        .collect();
    env.sort();
    assert_eq!(env, ["LD_PRELOAD=/nonexistent.so", "NODE_OPTIONS=--require /tmp/x.js"]);
    let metadata = fs::metadata(actor_path()).unwrap();
    assert_eq!(seen.process.image.inode, metadata.ino());
    assert_eq!(seen.process.image.device, kernel_device(metadata.dev()));
    assert_eq!(&*seen.process.image.script, b"");
    assert!(!seen.process.image.is_memfd());
    let cwd = std::env::current_dir().unwrap();
    assert_eq!(&**seen.process.cwd, cwd.as_os_str().as_bytes());
}

#[test]
fn exec_tells_when_arguments_were_cut() {
    let mut capture = Capture::of_children();
    let words: Vec<String> = std::iter::once("nothing".to_owned())
        .chain((0..100).map(|index| format!("{index:0>200}")))
        .collect();
    let run = capture.act(&words);
    let seen = run.only(EventKind::Exec);
    assert_eq!(seen.truncated, ["args"]);
    let arguments = seen.arguments();
    assert_eq!(arguments[1], b"nothing");
    assert_eq!(arguments[2], words[1].as_bytes());
    let bytes: usize = arguments.iter().map(|argument| argument.len() + 1).sum();
    assert!((8000..=8192).contains(&bytes), "{bytes}");
}

#[test]
fn exec_tells_script_and_interpreter() {
    let place = Place::new();
    let mut capture = Capture::of_children();
    let script = place.file("script", 0o755);
    fs::write(&script, format!("#!{} nothing\n", actor_path().display())).unwrap();
    let run = capture.run(Command::new(&script).arg("more"));
    assert_eq!(run.status.code(), Some(0));
    let seen = run.only(EventKind::Exec);
    let image = &seen.process.image;
    assert_eq!(&*image.script, script.as_bytes());
    assert_eq!(
        &*image.executable,
        actor_path().canonicalize().unwrap().as_os_str().as_bytes()
    );
    let expected: Vec<&[u8]> = vec![
        actor_path().into_os_string().into_encoded_bytes().leak(),
        b"nothing",
        script.as_bytes(),
        b"more",
    ];
    assert_eq!(seen.arguments(), expected);
    assert_eq!(seen.comm, b"script");
}

#[test]
fn exec_of_memory_and_of_removed_files_is_told() {
    let place = Place::new();
    let mut capture = Capture::of_children();
    let run = capture.act(["exec-memfd", "pay load", "argv0", "nothing"]);
    let seen = run.of(EventKind::Exec).last().unwrap();
    assert_eq!(run.of(EventKind::Exec).count(), 2);
    assert!(seen.process.image.is_memfd());
    assert_eq!(&*seen.process.image.executable, b"/memfd:pay load");
    assert_eq!(seen.arguments(), [b"argv0".to_vec(), b"nothing".to_vec()]);

    let copy = place.of("copy");
    let run = capture.act(["exec-removed", &copy, "argv0", "nothing"]);
    let seen = run.of(EventKind::Exec).last().unwrap();
    assert_eq!(seen.process.image.nlink, Some(0));
    assert_eq!(seen.path, None);
    assert!(!seen.process.image.is_memfd());
    assert!(
        String::from_utf8_lossy(&seen.process.image.executable).starts_with(&copy),
        "{:?}",
        String::from_utf8_lossy(&seen.process.image.executable)
    );
}

#[test]
fn exec_from_a_thread_keeps_the_process() {
    let mut capture = Capture::of_children();
    let path = actor_path();
    let run = capture.act([
        "in-thread".as_ref(),
        "exec".as_ref(),
        path.as_os_str(),
        "x".as_ref(),
        "nothing".as_ref(),
    ]);
    let execs: Vec<&Seen> = run.of(EventKind::Exec).collect();
    assert_eq!(execs.len(), 2);
    assert_eq!((execs[1].pid, execs[1].tid), (run.pid, run.pid));
    assert_eq!(execs[1].process.start_ns, execs[0].process.start_ns);
    assert_eq!(execs[1].process.exec_count, execs[0].process.exec_count.wrapping_add(1));
    assert_eq!(execs[1].arguments(), [b"x".to_vec(), b"nothing".to_vec()]);
    // The thread was no process, and neither its end nor its beginning is one's.
    assert_eq!(run.of(EventKind::Fork).count(), 0);
    assert_eq!(run.only(EventKind::Exit).pid, run.pid);
}

#[test]
fn fork_tells_parent_and_child() {
    let mut capture = Capture::of_children();
    let run = capture.act(["fork", "3"]);
    let seen = run.only(EventKind::Fork);
    is_of(seen, &run);
    let fork = forked(seen);
    assert_eq!(fork.child_ppid, run.pid);
    let exit = run.only_where(EventKind::Exit, |seen| seen.pid == fork.child_pid);
    assert_eq!(status(exit), 3 << 8);
    assert_eq!(exit.ppid, run.pid);
    assert_eq!(exit.process.start_ns, fork.child_start_ns);
    let ancestors: Vec<u32> = exit.process.ancestors().map(|ancestor| ancestor.pid).take(2).collect();
    assert_eq!(ancestors, [run.pid, std::process::id()]);
    assert_eq!(exit.process.image.executable, seen.process.image.executable);
    let exit = run.only_where(EventKind::Exit, |seen| seen.pid == run.pid);
    assert_eq!(status(exit), 0);
    is_of(exit, &run);
}

#[test]
fn a_daemon_keeps_its_ancestry() {
    let place = Place::new();
    let file = place.file("file", 0o600);
    let run = Capture::of_children().act(["daemon", "open", &file, "read"]);
    let seen = run.only_below(EventKind::Open, &place.root());
    assert_ne!(seen.pid, run.pid);
    let ancestors: Vec<u32> = seen.process.ancestors().map(|ancestor| ancestor.pid).take(3).collect();
    assert_eq!(ancestors.len(), 3);
    assert_eq!(ancestors[1..], [run.pid, std::process::id()]);
    assert_eq!(run.of(EventKind::Fork).count(), 2);
    assert_eq!(run.of(EventKind::Exit).count(), 3);
}

#[test]
fn exit_tells_code_and_signal() {
    let mut capture = Capture::of_children();
    for code in [0_u32, 1, 7, 255] {
        let run = capture.run(&mut actor(["exit", &code.to_string()]));
        assert_eq!(run.status.code(), i32::try_from(code).ok());
        let seen = run.only(EventKind::Exit);
        is_of(seen, &run);
        assert_eq!(seen.event_type, "procexit");
        assert_eq!(status(seen), code << 8);
    }
    for signal in [libc::SIGKILL, libc::SIGTERM, libc::SIGABRT] {
        let run = capture.run(&mut actor(["kill-self", &signal.to_string()]));
        assert_eq!(run.status.signal(), Some(signal));
        // 0x80 tells of a core, which depends on the limits of this machine.
        assert_eq!(status(run.only(EventKind::Exit)) & !0x80, signal.cast_unsigned());
    }
}

#[test]
fn a_process_is_identified_by_its_start() {
    let mut capture = Capture::of_children();
    let mut ticks = 0_u64;
    let run = capture.run_with(actor(["gated", "nothing"]).stdin(Stdio::piped()), |child| {
        let stat = fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap();
        let after_name = stat.rsplit_once(')').unwrap().1;
        ticks = after_name.split_whitespace().nth(19).unwrap().parse().unwrap();
        drop(child.stdin.take());
    });
    let (exec, exit) = (run.only(EventKind::Exec), run.only(EventKind::Exit));
    assert_eq!(exec.process.start_ns, exit.process.start_ns);
    assert_eq!(exec.process.start_ns / 10_000_000, ticks);
    assert_eq!(exec.process.exec_count, exit.process.exec_count);
}

#[test]
fn real_and_effective_users_are_told() {
    let place = Place::new();
    fs::set_permissions(&place.path, fs::Permissions::from_mode(0o755)).unwrap();
    let file = place.file("file", 0o644);
    let run = Capture::of_children().act(["as", "1234", "65534", "open", &file, "read"]);
    let seen = run.only_below(EventKind::Open, &place.root());
    assert_eq!((seen.credentials.uid, seen.credentials.euid), (1234, 65534));
    assert_eq!((seen.credentials.gid, seen.credentials.egid), (0, 0));
    assert_eq!(seen.credentials.capabilities, 0);
    let exec = run.only(EventKind::Exec);
    assert_eq!((exec.credentials.uid, exec.credentials.euid), (0, 0));
    assert_ne!(exec.credentials.capabilities, 0);
}

#[test]
fn renames_tell_both_paths() {
    let place = Place::new();
    let mut capture = Capture::of_children();
    fs::create_dir(place.of("d")).unwrap();
    fs::create_dir(place.of("e")).unwrap();
    let (root, d, e) = (place.of(""), place.of("d"), place.of("e"));
    place.file("a", 0o600);
    place.file("swap", 0o600);
    let cases: [(&[&str], &str, &str, &str, u32); 5] = [
        (&["rename", &place.of("a"), &place.of("d/b")], "rename", "a", "d/b", 0).leak(),
        (&["in", &root, "rename", "d/b", "./e/../c"], "rename", "d/b", "c", 0).leak(),
        (&["renameat", &root, "c", &d, "x"], "renameat", "c", "d/x", 0).leak(),
        (&["renameat2", &d, "x", &e, "y", "1"], "renameat2", "d/x", "e/y", 1).leak(),
        (
            &["renameat2", &e, "y", &root, "swap", "2"],
            "renameat2",
            "e/y",
            "swap",
            2,
        )
            .leak(),
    ];
    for (words, event_type, from, to, argument) in cases {
        let run = capture.act(words);
        let seen = run.only(EventKind::Rename);
        is_of(seen, &run);
        assert_eq!((seen.event_type, seen.result), (event_type, 0), "{words:?}");
        assert_eq!(seen.path_text(), place.of(from), "{words:?}");
        let Detail::Rename(change, _, new) = &seen.detail else {
            panic!("{seen:?}");
        };
        assert_eq!(String::from_utf8_lossy(new), place.of(to), "{words:?}");
        assert_eq!(change.argument, argument);
        assert!(Path::new(&place.of(to)).exists());
    }
    let run = capture.act(["rename", &place.of("missing"), &place.of("z")]);
    assert_eq!(run.only(EventKind::Rename).result, ENOENT);
}

/// Lets borrowed words live as long as the table they stand in.
trait Leak {
    type Leaked;
    fn leak(self) -> Self::Leaked;
}

impl<const N: usize, A, B, C, D> Leak for (&[&str; N], A, B, C, D) {
    type Leaked = (&'static [&'static str], A, B, C, D);

    fn leak(self) -> Self::Leaked {
        let words: Vec<&'static str> = self.0.iter().map(|word| &*(*word).to_owned().leak()).collect();
        (words.leak(), self.1, self.2, self.3, self.4)
    }
}

#[test]
fn removals_tell_the_path() {
    let place = Place::new();
    let mut capture = Capture::of_children();
    for name in ["a", "b", "c"] {
        place.file(name, 0o600);
    }
    for name in ["d", "e"] {
        fs::create_dir(place.of(name)).unwrap();
    }
    symlink("a", place.of("link")).unwrap();
    let root = place.of("");
    let directory_flag = libc::AT_REMOVEDIR.to_string();
    let cases: [(Vec<String>, &str, &str); 6] = [
        (
            ["unlink", &place.of("link")].map(str::to_owned).to_vec(),
            "unlink",
            "link",
        ),
        (["unlink", &place.of("a")].map(str::to_owned).to_vec(), "unlink", "a"),
        (
            ["in", &root, "unlink", "d/../b"].map(str::to_owned).to_vec(),
            "unlink",
            "b",
        ),
        (
            ["unlinkat", &root, "c", "0"].map(str::to_owned).to_vec(),
            "unlinkat",
            "c",
        ),
        (
            ["unlinkat", &root, "d", &directory_flag].map(str::to_owned).to_vec(),
            "unlinkat",
            "d",
        ),
        (["rmdir", &place.of("e")].map(str::to_owned).to_vec(), "rmdir", "e"),
    ];
    for (words, event_type, name) in cases {
        let run = capture.act(&words);
        let seen = run.only(EventKind::Unlink);
        is_of(seen, &run);
        assert_eq!((seen.event_type, seen.result), (event_type, 0), "{words:?}");
        assert_eq!(seen.path_text(), place.of(name), "{words:?}");
        assert!(fs::symlink_metadata(place.of(name)).is_err());
    }
    let run = capture.act(["unlink", &place.of("a")]);
    assert_eq!(run.only(EventKind::Unlink).result, ENOENT);
}

#[test]
fn changes_of_modes_tell_path_and_mode() {
    let place = Place::new();
    let mut capture = Capture::of_children();
    let file = place.file("file", 0o600);
    let root = place.of("");
    let cases: [(Vec<String>, &str, u32); 4] = [
        (["chmod", &file, "4755"].map(str::to_owned).to_vec(), "chmod", 0o4755),
        (
            ["in", &root, "chmod", "./file", "640"].map(str::to_owned).to_vec(),
            "chmod",
            0o640,
        ),
        (["fchmod", &file, "2700"].map(str::to_owned).to_vec(), "fchmod", 0o2700),
        (
            ["fchmodat", &root, "file", "777"].map(str::to_owned).to_vec(),
            "fchmodat",
            0o777,
        ),
    ];
    for (words, event_type, mode) in cases {
        let run = capture.act(&words);
        let seen = run.only(EventKind::Chmod);
        is_of(seen, &run);
        assert_eq!((seen.event_type, seen.result), (event_type, 0), "{words:?}");
        assert_eq!(seen.path_text(), file, "{words:?}");
        assert_eq!(change(seen).argument, mode);
        assert_eq!(fs::metadata(&file).unwrap().mode() & 0o7777, mode);
    }
    let run = capture.act(["chmod", &place.of("missing"), "777"]);
    assert_eq!(run.only(EventKind::Chmod).result, ENOENT);
}

#[test]
fn a_change_of_directory_is_no_event_but_known() {
    let place = Place::new();
    let file = place.file("file", 0o600);
    let run = Capture::of_children().act(["in", &place.of(""), "open", "file", "read"]);
    let seen = run.only_below(EventKind::Open, &place.root());
    assert_eq!(seen.path_text(), file);
    assert_eq!(&**seen.process.cwd, place.path.as_os_str().as_bytes());
    assert_eq!(
        &**run.only(EventKind::Exec).process.cwd,
        std::env::current_dir().unwrap().as_os_str().as_bytes()
    );
}

#[test]
fn connects_tell_both_ends() {
    let mut capture = Capture::of_children();
    let listeners = [
        TcpListener::bind((Ipv4Addr::LOCALHOST, 0)),
        TcpListener::bind((Ipv6Addr::LOCALHOST, 0)),
    ]
    .map(Result::unwrap);
    let [v4, v6] = listeners
        .each_ref()
        .map(|listener| listener.local_addr().unwrap().port());
    for (to, port, remote, family) in [
        ("127.0.0.1", v4, "127.0.0.1", libc::AF_INET),
        ("::1", v6, "::1", libc::AF_INET6),
        ("::ffff:127.0.0.1", v4, "127.0.0.1", libc::AF_INET6),
    ] {
        let run = capture.act(["connect", to, &port.to_string()]);
        let seen = run.only(EventKind::Connect);
        is_of(seen, &run);
        assert_eq!((seen.event_type, seen.result), ("connect", 0), "{to}");
        let (socket, _) = socket(seen);
        assert_eq!(i32::from(socket.family), family, "{to}");
        assert_eq!(i32::from(socket.protocol), libc::IPPROTO_TCP);
        let ends = seen.ends.unwrap();
        assert_eq!(
            ends.remote,
            Some(SocketAddr::new(remote.parse().unwrap(), port)),
            "{to}"
        );
        let local = ends.local.unwrap();
        assert_eq!(local.ip(), ends.remote.unwrap().ip(), "{to}");
        assert_ne!(local.port(), 0);
        assert!(!ends.is_server);
        assert_eq!((ends.client, ends.server), (ends.local, ends.remote));
        assert_eq!(seen.flags & flags::ADDRESS_PASSED, 0);
    }
    drop(listeners);
    for (to, port) in [("127.0.0.1", v4), ("::1", v6)] {
        let run = capture.act(["connect", to, &port.to_string()]);
        let seen = run.only(EventKind::Connect);
        assert_eq!(seen.result, ECONNREFUSED, "{to}");
        let remote = SocketAddr::new(to.parse().unwrap(), port);
        assert_eq!(seen.ends.unwrap().remote, Some(remote));
        assert_ne!(seen.flags & flags::ADDRESS_PASSED, 0);
    }
}

#[test]
fn connects_to_unix_sockets_tell_the_name() {
    let place = Place::new();
    let mut capture = Capture::of_children();
    let path = place.of("socket");
    let _listener = UnixListener::bind(&path).unwrap();
    let run = capture.act(["connect-unix", &path]);
    let seen = run.only(EventKind::Connect);
    assert_eq!((seen.path_text(), seen.result), (path, 0));
    let run = capture.act(["connect-unix", "@abstract"]);
    let seen = run.only(EventKind::Connect);
    assert_eq!((seen.path_text().as_str(), seen.result), ("@abstract", ECONNREFUSED));
}

#[test]
fn listen_and_accept_tell_both_ends() {
    let mut capture = Capture::of_children();
    for (ip, variant) in [("127.0.0.1", "accept"), ("127.0.0.1", "accept4"), ("::1", "accept4")] {
        let run = capture.act(["accept", ip, variant]);
        let ports: Vec<u16> = run
            .stdout
            .split_whitespace()
            .map(|word| word.parse().unwrap())
            .collect();
        let end = |port| Some(SocketAddr::new(ip.parse().unwrap(), port));
        let (server, client) = (end(ports[0]), end(ports[1]));

        let listen = run.only(EventKind::Listen);
        is_of(listen, &run);
        assert_eq!((listen.event_type, listen.result), ("listen", 0));
        let ends = listen.ends.unwrap();
        assert_eq!((ends.local, ends.remote, ends.is_server), (server, None, true));

        let connect = run.only(EventKind::Connect).ends.unwrap();
        assert_eq!((connect.client, connect.server), (client, server));

        let accept = run.only(EventKind::Accept);
        is_of(accept, &run);
        assert_eq!(accept.event_type, variant);
        assert!(accept.result > 0);
        assert_eq!(i64::from(socket(accept).0.descriptor), accept.result);
        let ends = accept.ends.unwrap();
        assert_eq!((ends.client, ends.server), (client, server));
        assert_eq!((ends.local, ends.remote, ends.is_server), (server, client, true));
    }
}

#[test]
fn dns_queries_tell_the_name() {
    let mut capture = Capture::of_children();
    for ip in ["127.0.0.53", "::1"] {
        for (variant, names) in [
            ("sendto", vec!["some.host.example"]),
            ("sendmsg", vec!["some.host.example"]),
            ("sendmmsg", vec!["some.host.example", "second.some.host.example"]),
            ("connected", vec!["some.host.example"]),
        ] {
            let run = capture.act(["dns", ip, "53", "Some.Host.Example", variant]);
            let sent: Vec<&Seen> = run.of(EventKind::Send).collect();
            let told: Vec<String> = sent
                .iter()
                .map(|seen| String::from_utf8_lossy(socket(seen).1).into_owned())
                .collect();
            assert_eq!(told, names, "{ip} {variant}");
            let remote = SocketAddr::new(ip.parse().unwrap(), 53);
            for seen in sent {
                is_of(seen, &run);
                assert_eq!(seen.ends.unwrap().remote, Some(remote), "{ip} {variant}");
                assert_eq!(i32::from(socket(seen).0.protocol), libc::IPPROTO_UDP);
                assert!(seen.result > 0);
                assert_eq!(seen.event_type, if variant == "connected" { "sendto" } else { variant });
            }
            assert_eq!(run.of(EventKind::Connect).count(), usize::from(variant == "connected"));
        }
    }
}

#[test]
fn datagrams_to_other_ports_tell_where_they_go() {
    let mut capture = Capture::of_children();
    for (variant, messages) in [("sendto", 1), ("sendmsg", 1), ("sendmmsg", 2), ("connected", 1)] {
        let run = capture.act(["dns", "127.0.0.53", "5353", "some.host.example", variant]);
        let sent: Vec<&Seen> = run.of(EventKind::Send).collect();
        // Datagrams of one socket to one peer are equal: within a second they are counted.
        let suppressed = run.losses.1.of(Loss::Deduplicated) - run.losses.0.of(Loss::Deduplicated);
        assert_eq!(sent.len(), 1, "{variant}: {sent:#?}");
        assert!(suppressed + 1 >= messages, "{variant}: {suppressed}");
        for seen in sent {
            is_of(seen, &run);
            assert_eq!(seen.ends.unwrap().remote, Some("127.0.0.53:5353".parse().unwrap()));
            // Whatever it looks like, only what goes to port 53 is a question.
            assert_eq!(seen.field("dns.qname"), "", "{variant}");
        }
    }
}

#[test]
fn processes_outside_of_the_scope_are_not_reported() {
    let place = Place::new();
    let (inside, outside) = (place.file("inside", 0o600), place.file("outside", 0o600));
    let mut capture = Capture::start();
    let mut outsider = actor(["gated", "open", &outside, "read"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let mut insider = actor(["gated", "daemon", "open", &inside, "read"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    capture.watch(insider.id());
    // The outsider acts first and ends before the insider begins: what it did would have been seen by then.
    drop(outsider.stdin.take());
    assert!(outsider.wait().unwrap().success());
    drop(insider.stdin.take());
    assert!(insider.wait().unwrap().success());
    let mut seen = Vec::new();
    staghound_tests::until("end of the daemon", || {
        capture.drain(&mut seen);
        (seen.iter().filter(|seen| seen.kind == EventKind::Exit).count() == 3).then_some(())
    });
    assert!(seen.iter().all(|seen| seen.pid != outsider.id()), "{seen:#?}");
    let opened: Vec<String> = seen
        .iter()
        .map(Seen::path_text)
        .filter(|path| path.starts_with(&place.root()))
        .collect();
    assert_eq!(opened, [inside]);
}

#[test]
fn a_pipe_end_keeps_the_harness_honest() {
    // The gate is what orders the test above: an actor that does not wait would make it pass for no reason.
    let mut child = actor(["gated", "exit", "5"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    assert!(child.try_wait().unwrap().is_none());
    child.stdin.as_mut().unwrap().write_all(b"x").unwrap();
    let mut printed = String::new();
    child.stdout.take().unwrap().read_to_string(&mut printed).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(5));
    assert_eq!(printed, "");
}

/// Answers one client: takes so many bytes, waits, sends so many, and closes before the client or after it.
fn serve(listener: TcpListener, (taken, sent): (usize, usize), is_first: bool) -> std::thread::JoinHandle<()> {
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.read_exact(&mut vec![0; taken]).unwrap();
        std::thread::sleep(CONNECTION_LIVES);
        stream.write_all(&vec![1; sent]).unwrap();
        if is_first {
            stream.shutdown(std::net::Shutdown::Write).unwrap();
        }
        assert_eq!(stream.read(&mut [0]).unwrap(), 0, "the client says nothing more");
    })
}

/// How long the connections of these tests last at least.
const CONNECTION_LIVES: std::time::Duration = std::time::Duration::from_millis(60);

/// The end of a connection tells exactly what went over it and how long it lived, whoever closed it, and though an
/// interrupt closes it in whatever process it comes upon.
#[test]
fn the_end_of_a_connection_tells_bytes_and_duration() {
    let mut capture = Capture::of_children();
    for (is_server_first, (sent, received)) in [
        (false, (1000, 333)),
        (true, (1000, 333)),
        (true, (200_000, 0)),
        (false, (1, 150_000)),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let remote = listener.local_addr().unwrap();
        let server = serve(listener, (sent, received), is_server_first);
        // What is received is waited for in full; then, where the server closes first, its end.
        let script = format!(
            "!socket 2 1 0 + !connect $0 a={remote} 16 + write $0 z={sent} {sent} + recvfrom $0 z={received} {received} 0x100 0 0 + {} close $0",
            if is_server_first {
                "recvfrom $0 z=1 1 0 0 0 +"
            } else {
                ""
            }
        );
        let begun = std::time::Instant::now();
        let run = capture.act(staghound_tests::script::words(&script, ""));
        server.join().unwrap();
        let mut events = run.events.clone();
        let ended = |events: &[Seen]| {
            let mut ends = events
                .iter()
                .filter(|seen| seen.kind == EventKind::SocketEnd && seen.pid == run.pid);
            let end = ends.next().cloned();
            assert!(ends.next().is_none(), "it ends once");
            end
        };
        while ended(&events).is_none() {
            assert!(
                begun.elapsed() < staghound_tests::deadline(),
                "the end was not told: {events:#?}"
            );
            capture.wait(std::time::Duration::from_millis(50));
            capture.drain(&mut events);
        }
        let lived = begun.elapsed();
        let end = ended(&events).unwrap();
        let said = format!("{sent} and {received} bytes, server first: {is_server_first}");
        assert_eq!(end.event_type, "close", "{said}");
        assert_eq!(end.field("fd.bytes_out"), sent.to_string(), "{said}");
        assert_eq!(end.field("fd.bytes_in"), received.to_string(), "{said}");
        assert_eq!(end.ends.unwrap().remote, Some(remote), "{said}");
        assert_eq!(end.comm, b"actor");
        let duration: u128 = end.field("evt.duration").parse().unwrap();
        assert!(
            (CONNECTION_LIVES.as_nanos()..lived.as_nanos()).contains(&duration),
            "{duration} {said}"
        );
    }
}

#[test]
fn exec_tells_what_the_standard_descriptors_are() {
    let place = Place::new();
    let mut capture = Capture::of_children();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let stream = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (pair, _other) = std::os::unix::net::UnixStream::pair().unwrap();
    let file = fs::File::create(place.of("errors")).unwrap();
    let descriptors: [(std::os::fd::OwnedFd, &str); 2] = [(stream.into(), "ipv4"), (pair.into(), "unix")];
    for (descriptor, expected) in descriptors {
        let mut command = actor(["nothing"]);
        command.stdin(Stdio::from(descriptor)).stderr(file.try_clone().unwrap());
        let run = capture.run(&mut command);
        let seen = run.only(EventKind::Exec);
        assert_eq!(seen.field("proc.stdin.type"), expected);
        assert_eq!(seen.field("proc.stdout.type"), "pipe", "the harness reads it");
        assert_eq!(seen.field("proc.stderr.type"), "file");
    }
    let mut command = actor(["nothing"]);
    command.stdin(Stdio::piped());
    let run = capture.run(&mut command);
    assert_eq!(run.only(EventKind::Exec).field("proc.stdin.type"), "pipe");
}

#[test]
fn fork_tells_the_namespaces_that_are_made() {
    let mut capture = Capture::of_children();
    // clone(2) with a signal to tell of its end; maker and child go on alike.
    for (flags, expected) in [
        ("0x11", ""),
        ("0x4000011", "CLONE_NEWUTS"),
        ("0x28020011", "CLONE_NEWNS|CLONE_NEWIPC|CLONE_NEWPID"),
        ("0x50000011", "CLONE_NEWUSER|CLONE_NEWNET"),
    ] {
        let run = capture.act(["calls", "#56", flags]);
        let fork = run.only(EventKind::Fork);
        assert_eq!(fork.pid, run.pid);
        let mut told: Vec<&str> = fork.field("fork.new_namespaces").split('|').collect();
        let mut expected: Vec<&str> = expected.split('|').collect();
        told.sort_unstable();
        expected.sort_unstable();
        assert_eq!(told, expected, "{flags}");
    }
}

#[test]
fn sessions_and_groups_follow_the_calls() {
    let mut capture = Capture::of_children();
    for (call, is_session) in [("setsid", true), ("setpgid 0 0", false)] {
        let words = std::iter::once("calls").chain(call.split(' '));
        let run = capture.act(words);
        let seen = run.only(EventKind::Session);
        assert_eq!(seen.event_type, call.split(' ').next().unwrap());
        assert_eq!(seen.result, if is_session { i64::from(run.pid) } else { 0 });
        let group = seen.field("proc.pgid").to_owned();
        assert_eq!(group, run.pid.to_string(), "{call}");
        assert_eq!(seen.process.ids.session == run.pid, is_session, "{call}");
        let before = run.only(EventKind::Exec);
        assert_ne!(before.field("proc.pgid"), group, "{call}: it led no group before");
        // What comes after is of the new group.
        let exit = run.only(EventKind::Exit);
        assert_eq!(exit.field("proc.pgid"), group, "{call}");
    }
}
