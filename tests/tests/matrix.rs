//! No blind path: for each way to do the same thing, the same event. Each test prints its part of the matrix as a table of
//! way, event and outcome, and fails when a way is blind, or its event differs, on a kernel that has the way.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests fail by panicking")]

use std::{
    fs,
    net::{SocketAddr, TcpListener},
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink},
    path::Path,
    process::Command,
    sync::LazyLock,
};

use staghound::{event::Detail, sensor::Release};
use staghound_ebpf::flags;
use staghound_engine::event::EventKind;
use staghound_tests::{
    actor, actor_path,
    capture::{Capture, Run, Seen},
    elf32::{self, Argument},
    place::Place,
    script,
};

const FMODE_READ: u32 = 1;
const EACCES: i64 = -13;
const EINVAL: i64 = -22;
const ECONNREFUSED: i64 = -111;
const EINPROGRESS: i64 = -115;

/// Makes a mount namespace of the actor's own.
const PRIVATE: &str = "!unshare 0x20000 + !mount s=none s=/ 0 0x44000 0 + ";
/// Makes a network namespace of the actor's own, with a loopback interface that is up.
const LOOPBACK: &str = "!unshare 0x40000000 + !socket 2 2 0 + \
     !ioctl $1 0x8914 x=6c6f00000000000000000000000000004100:40 + ";

/// How a way is gone.
enum Act {
    /// A script of the actor. `{P}` is the place, `{A}` the actor, `{T}` address and port to connect to.
    Script(String),
    /// Words for the actor, in which the same stands for the same.
    Actor(&'static [&'static str]),
    /// A program with its arguments, likewise.
    Program(&'static [&'static str]),
    /// A 32-bit program of these calls.
    Elf32(Vec<elf32::Call>),
}

/// One way to do it.
struct Way {
    name: &'static str,
    act: Act,
    /// What differs from the other ways, if anything.
    variant: &'static str,
    /// Why the sensor cannot see it, if it cannot.
    limit: &'static str,
    /// The kernel that does this first; older ones return `EINVAL`.
    since: Release,
}

fn way(name: &'static str, script: &str) -> Way {
    Way {
        name,
        act: Act::Script(script.to_owned()),
        variant: "",
        limit: "",
        since: Release(0, 0),
    }
}

fn privately(name: &'static str, script: &str) -> Way {
    way(name, &format!("{PRIVATE}{script}"))
}

fn networked(name: &'static str, script: &str) -> Way {
    way(name, &format!("{LOOPBACK}{script}"))
}

fn program(name: &'static str, words: &'static [&'static str]) -> Way {
    Way {
        name,
        act: Act::Program(words),
        variant: "",
        limit: "",
        since: Release(0, 0),
    }
}

fn acting(name: &'static str, words: &'static [&'static str]) -> Way {
    Way {
        name,
        act: Act::Actor(words),
        variant: "",
        limit: "",
        since: Release(0, 0),
    }
}

fn elf32(name: &'static str, calls: Vec<elf32::Call>) -> Way {
    Way {
        name,
        act: Act::Elf32(calls),
        variant: "",
        limit: "",
        since: Release(0, 0),
    }
}

impl Way {
    fn but(mut self, variant: &'static str) -> Self {
        self.variant = variant;
        self
    }

    /// Not every kernel that knows the call does this with it.
    fn since(mut self, since: Release) -> Self {
        self.since = since;
        self
    }

    /// A limit that is known and documented: the day that it falls, the test says so.
    fn unseen(mut self, limit: &'static str) -> Self {
        self.limit = limit;
        self
    }
}

/// A place with the files `f` and `g`, the directory `d`, the links `l` to `f` and `k` to `d`, and an executable script.
fn furnished() -> Place {
    let place = Place::new();
    place.file("f", 0o644);
    place.file("g", 0o644);
    fs::create_dir(place.of("d")).unwrap();
    symlink("f", place.of("l")).unwrap();
    symlink("d", place.of("k")).unwrap();
    fs::write(
        place.file("script", 0o755),
        format!("#!{} nothing\n", actor_path().display()),
    )
    .unwrap();
    place
}

/// `text` with the place, the actor and the target put in.
fn filled(place: &Place, text: &str, target: &str) -> String {
    text.replace("{P}", &place.path.display().to_string())
        .replace("{A}", &actor_path().canonicalize().unwrap().display().to_string())
        .replace("{T}", target)
}

/// What a way came to.
struct Gone {
    place: Place,
    run: Run,
}

/// Goes a way; yields nothing when the kernel lacks it.
fn go(capture: &mut Capture, way: &Way, target: &str) -> Option<Gone> {
    let place = furnished();
    let mut command = match &way.act {
        Act::Script(script) => actor(script::words(&filled(&place, script, target), "")),
        Act::Actor(words) => actor(words.iter().map(|word| filled(&place, word, target))),
        Act::Program(words) => {
            let program = filled(&place, words[0], target);
            if !Path::new(&program).exists() {
                return None;
            }
            let mut command = Command::new(program);
            command.args(words[1..].iter().map(|word| filled(&place, word, target)));
            command
        }
        Act::Elf32(calls) => {
            let calls: Vec<elf32::Call> = calls.iter().map(|call| in_place(call, &place, target)).collect();
            let path = place.path.join("elf32");
            fs::write(&path, elf32::program(&calls)).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
            if !runs_32_bit_programs() {
                return None;
            }
            Command::new(path)
        }
    };
    let run = capture.run(&mut command);
    if script::lacks(&run) {
        return None;
    }
    let gone = Gone { place, run };
    let is_too_old = Release::of_running_kernel() < way.since && returned(way, &gone) == Some(EINVAL);
    (!is_too_old).then_some(gone)
}

/// Whether the kernel executes 32-bit programs at all: one that does nothing tells.
fn runs_32_bit_programs() -> bool {
    static RUNS: LazyLock<bool> = LazyLock::new(|| {
        let place = Place::new();
        let path = place.path.join("nothing32");
        fs::write(&path, elf32::program(&[])).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        match Command::new(&path).status() {
            Ok(status) => {
                assert!(status.success(), "{status}");
                true
            }
            Err(error) => {
                assert_eq!(error.raw_os_error(), Some(libc::ENOEXEC), "{error}");
                false
            }
        }
    });
    *RUNS
}

/// A call with its texts filled in.
fn in_place(elf32::Call(number, arguments): &elf32::Call, place: &Place, target: &str) -> elf32::Call {
    fn filled_argument(argument: &Argument, place: &Place, target: &str) -> Argument {
        match argument {
            Argument::Bytes(bytes) => match std::str::from_utf8(bytes) {
                Ok("{T}") => Argument::Bytes(socket_address(target)),
                Ok(text) => Argument::Bytes(filled(place, text, target).into_bytes()),
                Err(_) => argument.clone(),
            },
            Argument::Words(words) => {
                Argument::Words(words.iter().map(|word| filled_argument(word, place, target)).collect())
            }
            Argument::Number(_) | Argument::Result(_) => argument.clone(),
        }
    }
    elf32::Call(
        *number,
        arguments
            .iter()
            .map(|argument| filled_argument(argument, place, target))
            .collect(),
    )
}

/// `struct sockaddr_in`.
fn socket_address(target: &str) -> Vec<u8> {
    let SocketAddr::V4(target) = target.parse().unwrap() else {
        panic!("{target} is not of IPv4");
    };
    let mut bytes = vec![2, 0];
    bytes.extend_from_slice(&target.port().to_be_bytes());
    bytes.extend_from_slice(&target.ip().octets());
    bytes.resize(16, 0);
    bytes
}

/// Differences between what an event tells and what it should, in words.
#[derive(Default)]
struct Differences(Vec<String>);

impl Differences {
    fn unless<T: PartialEq + std::fmt::Debug>(&mut self, what: &str, told: &T, expected: &T) {
        if told != expected {
            self.0.push(format!("{what} {told:?} instead of {expected:?}"));
        }
    }
}

/// Goes all ways and prints what came of each. `judge` says which event it was, and what is wrong with it.
fn matrix(title: &str, target: &str, ways: &[Way], judge: impl Fn(&Way, &Gone) -> Result<String, String>) {
    let mut capture = Capture::of_children();
    let mut rows = vec![vec!["way".to_owned(), "event".to_owned(), "outcome".to_owned()]];
    let (mut wrong, mut lacking, mut limits) = (0, 0, 0);
    for way in ways {
        let (event, outcome) = match go(&mut capture, way, target) {
            None => {
                lacking += 1;
                ("-".to_owned(), "kernel lacks it".to_owned())
            }
            Some(gone) if !way.limit.is_empty() => {
                limits += 1;
                let judged = judge(way, &gone);
                assert!(
                    judged.is_err(),
                    "{}: is seen now, so it is no limit any more: {judged:?}",
                    way.name
                );
                ("-".to_owned(), format!("NOT SEEN: {}", way.limit))
            }
            Some(gone) => match judge(way, &gone) {
                Ok(event) => (event, "seen".to_owned()),
                Err(why) => {
                    wrong += 1;
                    let why = match returned(way, &gone) {
                        Some(result) => format!("{why} (it returned {result})"),
                        None => why,
                    };
                    ("-".to_owned(), why)
                }
            },
        };
        rows.push(vec![way.name.to_owned(), event, outcome]);
    }
    let seen = ways.len() - wrong - lacking - limits;
    let table = script::table(&rows);
    script::tell(&format!(
        "matrix: {title}: {seen} seen, {wrong} blind or different, {limits} known limits, {lacking} not in this kernel\n\
         {table}\n"
    ));
    assert_eq!(wrong, 0, "{table}");
    assert_ne!(seen, 0, "the kernel has none of the ways: {table}");
}

/// What the tables say of an event.
fn described(seen: &Seen) -> String {
    let entry = if seen.flags & flags::IO_URING != 0 {
        " by io_uring"
    } else if seen.flags & flags::COMPAT != 0 {
        " by the 32-bit entry"
    } else {
        ""
    };
    format!("{:?} {}{entry}", seen.kind, seen.event_type)
}

/// The one event that is meant, of the process that acted; or that there is none.
fn the_one(gone: &Gone, kind: EventKind, meant: impl Fn(&Seen) -> bool) -> Result<&Seen, String> {
    let found: Vec<&Seen> = gone.run.of(kind).filter(|seen| meant(seen)).collect();
    match found.as_slice() {
        [one] => Ok(one),
        [] => Err("blind".to_owned()),
        several => Err(format!(
            "{} events instead of one: {:?}",
            several.len(),
            several
                .iter()
                .map(|seen| (described(seen), seen.result, seen.path_text()))
                .collect::<Vec<_>>()
        )),
    }
}

/// What the last call of the way returned, where the actor printed it.
fn returned(way: &Way, gone: &Gone) -> Option<i64> {
    match way.act {
        Act::Script(_) => script::made(&gone.run).last().map(|made| made.result),
        Act::Actor(_) | Act::Program(_) | Act::Elf32(_) => None,
    }
}

/// The result of an event is the kernel's; through io_uring it may be unknown, and then says so.
fn result_differs(differences: &mut Differences, way: &Way, gone: &Gone, seen: &Seen) {
    if seen.flags & flags::RESULT_UNKNOWN != 0 {
        differences.unless("io_uring flag", &(seen.flags & flags::IO_URING != 0), &true);
        differences.unless("unknown result", &seen.result, &0);
    } else if let Some(returned) = returned(way, gone) {
        differences.unless("result", &seen.result, &returned);
    }
}

fn judged(differences: &Differences, seen: &Seen) -> Result<String, String> {
    if differences.0.is_empty() {
        Ok(described(seen))
    } else {
        Err(differences.0.join("; "))
    }
}

fn bytes(text: &str) -> Argument {
    Argument::Bytes([text.as_bytes(), &[0]].concat())
}

#[test]
fn ways_to_open_a_file() {
    let open32 = |number, arguments| elf32::Call(number, arguments);
    let ways = [
        way("open", "open s={P}/f 0"),
        way("openat, absolute", "openat -100 s={P}/f 0"),
        way("openat, below a descriptor", "openat d={P}/d s=../f 0"),
        way("openat2", "openat2 -100 s={P}/f v=0,0,0 24"),
        way("open to read and write", "open s={P}/f 2"),
        way(
            "name_to_handle_at and open_by_handle_at",
            "!name_to_handle_at -100 s={P}/f x=80000000:136 z=4 0 + open_by_handle_at d={P} @1 0",
        ),
        way("int 0x80: open", "int80:5 s={P}/f 0"),
        way("int 0x80: openat", "int80:295 -100 s={P}/f 0"),
        way("int 0x80: openat2", "int80:437 -100 s={P}/f v=0,0,0 24"),
        way(
            "int 0x80: open_by_handle_at",
            "!name_to_handle_at -100 s={P}/f x=80000000:136 z=4 0 + int80:342 d={P} @1 0",
        ),
        elf32(
            "32-bit program: open",
            vec![open32(5, vec![bytes("{P}/f"), Argument::Number(0)])],
        ),
        elf32(
            "32-bit program: openat",
            vec![open32(
                295,
                vec![Argument::Number(u32::MAX - 99), bytes("{P}/f"), Argument::Number(0)],
            )],
        ),
        way("x32: open", "x32:open s={P}/f 0"),
        way("x32: openat", "x32:openat -100 s={P}/f 0"),
        way("x32: openat2", "x32:openat2 -100 s={P}/f v=0,0,0 24"),
        way("io_uring: openat", "uring openat fd=-100 addr=s={P}/f"),
        way(
            "io_uring: openat2",
            "uring openat2 fd=-100 addr=s={P}/f len=24 off=v=0,0,0",
        ),
        way(
            "io_uring: openat by a worker",
            "uring openat flags=16 fd=-100 addr=s={P}/f",
        ),
        way(
            "io_uring: openat with a polling thread",
            "uring-setup 2 + uring openat fd=-100 addr=s={P}/f",
        ),
        way(
            "io_uring: openat into its own table",
            "!io_uring_register ring 2 i=-1,-1 2 + uring openat fd=-100 addr=s={P}/f file_index=1",
        ),
        way("io_uring: below a descriptor", "uring openat fd=d={P}/d addr=s=../f"),
        way("/proc/self/root", "open s=/proc/self/root{P}/f 0"),
        way("/proc/self/cwd", "!chdir s={P} + open s=/proc/self/cwd/f 0"),
        way("O_PATH, then /proc/self/fd", "!open s={P}/f 0x200000 + open f=0 0"),
        way(
            "/proc/self/fd of a directory",
            "!openat -100 s={P} 0x200000 + !chdir f=0 + open s=f 0",
        ),
        way("symbolic link", "open s={P}/l 0"),
        way("symbolic link on the way", "open s={P}/k/../f 0"),
        way("dots and slashes", "open s={P}//./d/..//f 0"),
        privately(
            "bind mount of the file",
            "!mount s={P}/f s={P}/g 0 0x1000 0 + open s={P}/g 0",
        )
        .but("{P}/g"),
        privately(
            "bind mount of its directory",
            "!mount s={P} s={P}/d 0 0x1000 0 + open s={P}/d/f 0",
        )
        .but("{P}/d/f"),
        way("hard link", "!link s={P}/f s={P}/h + open s={P}/h 0").but("{P}/h"),
        way("relative to the working directory", "!chdir s={P}/d + open s=../f 0"),
        way(
            "relative to a descriptor's directory",
            "!fchdir d={P}/d + open s=../f 0",
        ),
        way("in a chroot", "!chroot s={P} + open s=/f 0"),
        way(
            "out of a chroot by a descriptor",
            "!open s=/ 0x200000 + !chroot s={P}/d + openat $0 s=.{P}/f 0",
        ),
        acting("from a thread", &["in-thread", "calls", "open", "s={P}/f", "0"]),
        acting("from a daemon", &["daemon", "calls", "open", "s={P}/f", "0"]),
        privately("in a user and mount namespace", "!unshare 0x10000000 + open s={P}/f 0"),
    ];
    matrix("opening a file", "", &ways, |way, gone| {
        let metadata = fs::metadata(gone.place.of("f")).unwrap();
        let opened = |seen: &Seen| {
            let Detail::Open(open, _) = &seen.detail else {
                return None;
            };
            (open.file_mode & FMODE_READ != 0).then_some((open.inode, open.device))
        };
        let by_inode = the_one(gone, EventKind::Open, |seen| {
            opened(seen).is_some_and(|(inode, _)| inode == metadata.ino())
        });
        // Where there is no LSM, what io_uring opens is known by its path alone.
        let (seen, by_path) = match by_inode {
            Ok(seen) => (seen, false),
            Err(_) if way.name.starts_with("io_uring") => (
                the_one(gone, EventKind::Open, |seen| {
                    seen.flags & flags::IO_URING != 0 && opened(seen).is_some_and(|(inode, _)| inode == 0)
                })?,
                true,
            ),
            Err(why) => return Err(why),
        };
        let mut differences = Differences::default();
        let path = if way.variant.is_empty() { "{P}/f" } else { way.variant };
        differences.unless("path", &seen.path_text(), &filled(&gone.place, path, ""));
        if !by_path {
            let device = (libc::major(metadata.dev()) << 20) | libc::minor(metadata.dev());
            differences.unless("device", &opened(seen).map(|(_, device)| device), &Some(device));
        }
        differences.unless("pid", &(seen.pid == gone.run.pid), &(way.name != "from a daemon"));
        result_differs(&mut differences, way, gone, seen);
        judged(&differences, seen)
    });
}

#[test]
fn ways_to_create_a_file() {
    let ways = [
        way("open", "open s={P}/n 0o101 0o600"),
        way("creat", "creat s={P}/n 0o600"),
        way("openat", "openat d={P} s=n 0o101 0o600"),
        way("openat2", "openat2 -100 s={P}/n v=0o101,0o600,0 24"),
        way("int 0x80: open", "int80:5 s={P}/n 0o101 0o600"),
        way("int 0x80: creat", "int80:8 s={P}/n 0o600"),
        elf32(
            "32-bit program: creat",
            vec![elf32::Call(8, vec![bytes("{P}/n"), Argument::Number(0o600)])],
        ),
        way("x32: creat", "x32:creat s={P}/n 0o600"),
        way(
            "io_uring: openat",
            "uring openat fd=-100 addr=s={P}/n op_flags=0o101 len=0o600",
        ),
    ];
    matrix("creating a file", "", &ways, |way, gone| {
        let path = gone.place.of("n");
        let seen = the_one(gone, EventKind::Open, |seen| seen.path_text() == path)?;
        let mut differences = Differences::default();
        if let Detail::Open(open, _) = &seen.detail
            && open.inode != 0
        {
            differences.unless("inode", &open.inode, &fs::metadata(&path).unwrap().ino());
        }
        differences.unless(
            "creating",
            &seen.field("evt.is_open_create").to_owned(),
            &"true".to_owned(),
        );
        differences.unless(
            "writing",
            &seen.field("evt.is_open_write").to_owned(),
            &"true".to_owned(),
        );
        differences.unless("pid", &seen.pid, &gone.run.pid);
        result_differs(&mut differences, way, gone, seen);
        judged(&differences, seen)
    });
}

#[test]
fn ways_to_be_refused_a_file() {
    let refused = |name, script: &str| {
        way(
            name,
            &format!("!chmod s={{P}}/f 0 + !setresuid 1234 1234 1234 + {script}"),
        )
    };
    let ways = [
        refused("open", "open s={P}/f 0"),
        refused("openat", "openat -100 s={P}/f 0"),
        refused("openat2", "openat2 -100 s={P}/f v=0,0,0 24"),
        refused("creat", "creat s={P}/f 0o600"),
        refused("int 0x80: open", "int80:5 s={P}/f 0"),
        refused("int 0x80: openat", "int80:295 -100 s={P}/f 0"),
        elf32(
            "32-bit program",
            vec![
                elf32::Call(15, vec![bytes("{P}/f"), Argument::Number(0)]),
                elf32::Call(
                    208,
                    vec![Argument::Number(1234), Argument::Number(1234), Argument::Number(1234)],
                ),
                elf32::Call(5, vec![bytes("{P}/f"), Argument::Number(0)]),
            ],
        ),
        refused("x32: open", "x32:open s={P}/f 0"),
        way(
            "relative",
            "!chmod s={P}/f 0 + !chdir s={P}/d + !setresuid 1234 1234 1234 + open s=../f 0",
        ),
        way(
            "below a descriptor",
            "!chmod s={P}/f 0 + !openat -100 s={P}/d 0x200000 + !setresuid 1234 1234 1234 + openat $1 s=../f 0",
        ),
    ];
    matrix("being refused a file", "", &ways, |_, gone| {
        let path = gone.place.of("f");
        let seen = the_one(gone, EventKind::Open, |seen| seen.path_text() == path)?;
        let mut differences = Differences::default();
        differences.unless("result", &seen.result, &EACCES);
        differences.unless("pid", &seen.pid, &gone.run.pid);
        differences.unless("user", &seen.credentials.euid, &1234);
        judged(&differences, seen)
    });
}

#[test]
fn ways_to_copy_a_file_without_reading_it() {
    let ways = [
        way("sendfile", "sendfile w={P}/g d={P}/f 0 1"),
        way("splice", "!pipe2 z=8 0 + splice d={P}/f 0 *0.1 0 1 0"),
        way("copy_file_range", "copy_file_range d={P}/f 0 w={P}/g 0 1 0"),
        way("int 0x80: sendfile", "int80:187 w={P}/g d={P}/f 0 1"),
        way("int 0x80: sendfile64", "int80:239 w={P}/g d={P}/f 0 1"),
        way("x32: sendfile", "x32:sendfile w={P}/g d={P}/f 0 1"),
    ];
    matrix("copying a file in the kernel", "", &ways, |way, gone| {
        let path = gone.place.of("f");
        let seen = the_one(gone, EventKind::Copy, |seen| seen.path_text() == path)?;
        let mut differences = Differences::default();
        let inode = fs::metadata(&path).unwrap().ino().to_string();
        differences.unless("inode", &seen.field("fd.ino").to_owned(), &inode);
        differences.unless("pid", &seen.pid, &gone.run.pid);
        result_differs(&mut differences, way, gone, seen);
        judged(&differences, seen)
    });
    let ways = [
        way("read", "!open s={P}/f 0 + uring read fd=$0 addr=z=16 len=16").but("{P}/f"),
        way("readv", "!open s={P}/f 0 + uring readv fd=$0 addr=v=z=16,16 len=1").but("{P}/f"),
        way("write", "!open s={P}/f 2 + uring write fd=$0 addr=s=x len=1").but("{P}/f"),
        way(
            "read by a worker",
            "!open s={P}/f 0 + uring read flags=16 fd=$0 addr=z=16 len=16",
        )
        .but("{P}/f"),
        way(
            "read of a registered file",
            "!open s={P}/f 0 + !io_uring_register ring 2 i=$0,-1 2 + uring read flags=1 fd=0 addr=z=16 len=16",
        ),
        way(
            "splice",
            "!open s={P}/f 0 + !pipe2 z=8 0 + uring splice fd=*1.1 splice_fd_in=$0 len=1 off=-1",
        ),
    ];
    matrix("reading and writing by io_uring", "", &ways, |way, gone| {
        let seen = the_one(gone, EventKind::IoUring, |seen| {
            seen.event_type == "io_uring_enter" && seen.flags & flags::IO_URING != 0
        })?;
        let mut differences = Differences::default();
        if !way.variant.is_empty() {
            differences.unless("path", &seen.path_text(), &filled(&gone.place, way.variant, ""));
        }
        differences.unless("pid", &seen.pid, &gone.run.pid);
        judged(&differences, seen)
    });
}

#[test]
fn ways_to_change_a_directory() {
    let same = |name, script| way(name, script);
    let all: [(&str, EventKind, &[&str], Vec<Way>); 5] = [
        (
            "making a directory",
            EventKind::Mkdir,
            &["{P}/n"],
            vec![
                same("mkdir", "mkdir s={P}/n 0o700"),
                same("mkdirat", "mkdirat d={P} s=n 0o700"),
                same("relative", "!chdir s={P}/d + mkdir s=../n 0o700"),
                same("in a chroot", "!chroot s={P} + mkdir s=/n 0o700"),
                same("int 0x80: mkdir", "int80:39 s={P}/n 0o700"),
                same("x32: mkdir", "x32:mkdir s={P}/n 0o700"),
                same("io_uring", "uring mkdirat fd=-100 addr=s={P}/n len=0o700"),
                same(
                    "io_uring, by a worker",
                    "uring mkdirat flags=16 fd=-100 addr=s={P}/n len=0o700",
                ),
                elf32(
                    "32-bit program",
                    vec![elf32::Call(39, vec![bytes("{P}/n"), Argument::Number(0o700)])],
                ),
            ],
        ),
        (
            "renaming",
            EventKind::Rename,
            &["{P}/f", "{P}/n"],
            vec![
                same("rename", "rename s={P}/f s={P}/n"),
                same("renameat", "renameat d={P} s=f d={P} s=n"),
                same("renameat2", "renameat2 -100 s={P}/f -100 s={P}/n 0"),
                same("relative", "!chdir s={P}/d + rename s=../f s=../n"),
                same("in a chroot", "!chroot s={P} + rename s=/f s=/n"),
                same("int 0x80: rename", "int80:38 s={P}/f s={P}/n"),
                same("int 0x80: renameat2", "int80:353 -100 s={P}/f -100 s={P}/n 0"),
                same("x32: rename", "x32:rename s={P}/f s={P}/n"),
                same("io_uring", "uring renameat fd=-100 addr=s={P}/f len=-100 addr2=s={P}/n"),
                elf32(
                    "32-bit program",
                    vec![elf32::Call(38, vec![bytes("{P}/f"), bytes("{P}/n")])],
                ),
            ],
        ),
        (
            "removing",
            EventKind::Unlink,
            &["{P}/f"],
            vec![
                same("unlink", "unlink s={P}/f"),
                same("unlinkat", "unlinkat d={P} s=f 0"),
                same("relative", "!chdir s={P}/d + unlink s=../f"),
                same("in a chroot", "!chroot s={P} + unlink s=/f"),
                same("int 0x80: unlink", "int80:10 s={P}/f"),
                same("x32: unlink", "x32:unlink s={P}/f"),
                same("io_uring", "uring unlinkat fd=-100 addr=s={P}/f"),
                elf32("32-bit program", vec![elf32::Call(10, vec![bytes("{P}/f")])]),
            ],
        ),
        (
            "linking",
            EventKind::Link,
            &["{P}/f", "{P}/n"],
            vec![
                same("link", "link s={P}/f s={P}/n"),
                same("linkat", "linkat d={P} s=f d={P} s=n 0"),
                same("int 0x80: link", "int80:9 s={P}/f s={P}/n"),
                same("x32: link", "x32:link s={P}/f s={P}/n"),
                same("io_uring", "uring linkat fd=-100 addr=s={P}/f len=-100 addr2=s={P}/n"),
                elf32(
                    "32-bit program",
                    vec![elf32::Call(9, vec![bytes("{P}/f"), bytes("{P}/n")])],
                ),
            ],
        ),
        (
            "linking symbolically",
            EventKind::Symlink,
            &["{P}/n"],
            vec![
                same("symlink", "symlink s=target s={P}/n"),
                same("symlinkat", "symlinkat s=target d={P} s=n"),
                same("int 0x80: symlink", "int80:83 s=target s={P}/n"),
                same("x32: symlink", "x32:symlink s=target s={P}/n"),
                same("io_uring", "uring symlinkat fd=-100 addr=s=target addr2=s={P}/n"),
                elf32(
                    "32-bit program",
                    vec![elf32::Call(83, vec![bytes("target"), bytes("{P}/n")])],
                ),
            ],
        ),
    ];
    for (title, kind, paths, ways) in all {
        matrix(title, "", &ways, |way, gone| {
            let seen = the_one(gone, kind, |_| true)?;
            let mut differences = Differences::default();
            differences.unless("path", &seen.path_text(), &filled(&gone.place, paths[0], ""));
            if let Some(second) = paths.get(1) {
                let told = seen.field("fs.path.target").to_owned();
                differences.unless("new path", &told, &filled(&gone.place, second, ""));
            }
            if kind == EventKind::Symlink {
                differences.unless("target", &seen.field("evt.arg.target").to_owned(), &"target".to_owned());
            }
            differences.unless("pid", &seen.pid, &gone.run.pid);
            result_differs(&mut differences, way, gone, seen);
            judged(&differences, seen)
        });
    }
}

#[test]
fn ways_to_execute_a_program() {
    let ways = [
        way("execve", "execve s={A} v=s=x,s=nothing,0 v=0"),
        way("execve, relative", "!chdir s=/ + execve s=.{A} v=s=x,s=nothing,0 v=0"),
        way(
            "execve of /proc/self/exe",
            "execve s=/proc/self/exe v=s=x,s=nothing,0 v=0",
        ),
        way(
            "execve of /proc/self/fd",
            "!open s={A} 0x200000 + execve f=0 v=s=x,s=nothing,0 v=0",
        ),
        way(
            "execve of a symbolic link",
            "!symlink s={A} s={P}/n + execve s={P}/n v=s=x,s=nothing,0 v=0",
        ),
        way("execveat", "execveat -100 s={A} v=s=x,s=nothing,0 v=0 0"),
        way(
            "execveat with AT_EMPTY_PATH",
            "execveat p={A} s= v=s=x,s=nothing,0 v=0 0x1000",
        ),
        way("int 0x80: execve", "int80:11 s={A} i=s=x,s=nothing,0 i=0"),
        way("int 0x80: execveat", "int80:358 p={A} s= i=s=x,s=nothing,0 i=0 0x1000"),
        way("x32: execve", "x32:#520 s={A} i=s=x,s=nothing,0 i=0"),
        way("x32: execveat", "x32:#545 p={A} s= i=s=x,s=nothing,0 i=0 0x1000"),
        elf32(
            "32-bit program: execve",
            vec![elf32::Call(
                11,
                vec![
                    bytes("{A}"),
                    Argument::Words(vec![bytes("x"), bytes("nothing"), Argument::Number(0)]),
                    Argument::Words(vec![Argument::Number(0)]),
                ],
            )],
        ),
        acting("fork", &["spawn", "fork", "{A}", "x", "nothing"]),
        acting("vfork", &["spawn", "vfork", "{A}", "x", "nothing"]),
        acting("clone3", &["spawn", "clone3", "{A}", "x", "nothing"]),
        acting("from a thread", &["in-thread", "exec", "{A}", "x", "nothing"]),
        acting(
            "in a chroot",
            &[
                "calls",
                "!chroot",
                "s=/",
                "+",
                "execve",
                "s={A}",
                "v=s=x,s=nothing,0",
                "v=0",
            ],
        ),
        acting("memfd", &["exec-memfd", "payload", "x", "nothing"]).but("/memfd:payload"),
        acting("removed file", &["exec-removed", "{P}/n", "x", "nothing"]).but("{P}/n"),
        program("script", &["{P}/script"]).but("script"),
        way("script by execveat", "execveat p={P}/script s= v=s=x,0 v=0 0x1000").but("script"),
        way(
            "interpreter given a script",
            "execve s={A} v=s=x,s=nothing,s={P}/script,0 v=0",
        )
        .but("given"),
        program("loader", &["/lib64/ld-linux-x86-64.so.2", "{A}", "nothing"]).but("loader"),
    ];
    matrix("executing a program", "", &ways, |way, gone| {
        // A script is started by this test, everything else by the actor, which was executed before.
        let last = gone.run.of(EventKind::Exec).last().ok_or("blind")?;
        let execs = gone.run.of(EventKind::Exec).count();
        let image = &last.process.image;
        let mut differences = Differences::default();
        let direct = matches!(way.act, Act::Program(_));
        if execs != if direct { 1 } else { 2 } {
            return Err("blind".to_owned());
        }
        let actor = actor_path().canonicalize().unwrap();
        let executable = String::from_utf8_lossy(&image.executable).into_owned();
        let arguments: Vec<String> = last
            .arguments()
            .iter()
            .map(|argument| String::from_utf8_lossy(argument).into_owned())
            .collect();
        let script = gone.place.of("script");
        let expected = match way.variant {
            "" => actor.display().to_string(),
            "script" | "given" => actor.display().to_string(),
            "loader" => fs::canonicalize("/lib64/ld-linux-x86-64.so.2")
                .unwrap()
                .display()
                .to_string(),
            other => filled(&gone.place, other, ""),
        };
        if way.name == "removed file" {
            differences.unless("removed", &image.nlink, &Some(0));
            differences.unless("executable", &executable.starts_with(&expected), &true);
        } else {
            differences.unless("executable", &executable, &expected);
        }
        match way.variant {
            "script" => {
                differences.unless(
                    "last argument",
                    &arguments.last().is_some_and(|last| {
                        // By a descriptor the kernel names it /dev/fd/N.
                        *last == script || last.starts_with("/dev/fd/")
                    }),
                    &true,
                );
            }
            "given" => differences.unless("script", &arguments.last(), &Some(&script)),
            "loader" => differences.unless("program", &arguments.get(1), &Some(&actor.display().to_string())),
            _ => differences.unless("arguments", &arguments, &vec!["x".to_owned(), "nothing".to_owned()]),
        }
        if ["", "script", "given"].contains(&way.variant) {
            differences.unless("inode", &image.inode, &fs::metadata(&actor).unwrap().ino());
        }
        differences.unless("memfd", &image.is_memfd(), &(way.name == "memfd"));
        // Of execveat by a path alone nothing is left by the time of the event.
        let by_descriptor = match &way.act {
            Act::Script(script) => script.contains("0x1000"),
            Act::Actor(words) => words[0] == "exec-memfd" || words[0] == "exec-removed",
            Act::Program(_) | Act::Elf32(_) => false,
        };
        let event_type = if by_descriptor { "execveat" } else { "execve" };
        differences.unless("event type", &last.event_type, &event_type);
        let spawned = matches!(way.act, Act::Actor(["spawn", ..]));
        differences.unless("own process", &(last.pid != gone.run.pid), &spawned);
        judged(&differences, last)
    });
}

#[test]
fn ways_to_connect() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let target = listener.local_addr().unwrap().to_string();
    let socket32 = |number| {
        elf32::Call(
            number,
            vec![
                Argument::Number(1),
                Argument::Words(vec![Argument::Number(2), Argument::Number(1), Argument::Number(0)]),
            ],
        )
    };
    let ways = [
        way("connect", "!socket 2 1 0 + connect $0 a={T} 16"),
        way("connect without waiting", "!socket 2 0x801 0 + connect $0 a={T} 16"),
        way("in a chroot", "!chroot s={P} + !socket 2 1 0 + connect $1 a={T} 16"),
        way(
            "sendto with MSG_FASTOPEN",
            "!socket 2 1 0 + sendto $0 s=x 1 0x20000000 a={T} 16",
        ),
        way(
            "sendmsg with MSG_FASTOPEN",
            "!socket 2 1 0 + getpid x=78 v=@0,1 a={T} + sendmsg $0 v=@2,16,@1,1,0,0,0 0x20000000",
        ),
        way("int 0x80: connect", "!int80:359 2 1 0 + int80:362 $0 a={T} 16"),
        way(
            "int 0x80: socketcall",
            "!int80:102 1 i=2,1,0 + int80:102 3 i=$0,a={T},16",
        ),
        elf32(
            "32-bit program: connect",
            vec![
                elf32::Call(359, vec![Argument::Number(2), Argument::Number(1), Argument::Number(0)]),
                elf32::Call(
                    362,
                    vec![
                        Argument::Result(0),
                        Argument::Bytes(b"{T}".to_vec()),
                        Argument::Number(16),
                    ],
                ),
            ],
        ),
        elf32(
            "32-bit program: socketcall",
            vec![
                socket32(102),
                elf32::Call(
                    102,
                    vec![
                        Argument::Number(3),
                        Argument::Words(vec![
                            Argument::Result(0),
                            Argument::Bytes(b"{T}".to_vec()),
                            Argument::Number(16),
                        ]),
                    ],
                ),
            ],
        ),
        way("x32: connect", "!socket 2 1 0 + x32:connect $0 a={T} 16"),
        way(
            "io_uring: connect",
            "!socket 2 1 0 + uring connect fd=$0 addr=a={T} off=16",
        ),
        way(
            "io_uring: connect by a worker",
            "!socket 2 1 0 + uring connect flags=16 fd=$0 addr=a={T} off=16",
        ),
        way(
            "io_uring: socket and connect",
            "uring socket fd=2 off=1 + uring connect fd=$0 addr=a={T} off=16",
        ),
        way(
            "io_uring: connect with a polling thread",
            "uring-setup 2 + !socket 2 1 0 + uring connect fd=$1 addr=a={T} off=16",
        ),
        way(
            "io_uring: connect of a registered socket",
            "!socket 2 1 0 + !io_uring_register ring 2 i=$0 1 + uring connect flags=1 fd=0 addr=a={T} off=16",
        ),
        way(
            "to an address mapped into IPv6",
            "!socket 10 1 0 + connect $0 a=[::ffff:127.0.0.1]:{PORT} 28",
        ),
    ];
    let port = target.rsplit_once(':').unwrap().1.to_owned();
    let ways = ways.map(|mut way| {
        if let Act::Script(script) = &mut way.act {
            *script = script.replace("{PORT}", &port);
        }
        way
    });
    let remote: SocketAddr = target.parse().unwrap();
    matrix("connecting by TCP", &target, &ways, |way, gone| {
        let seen = the_one(gone, EventKind::Connect, |_| true)?;
        let mut differences = Differences::default();
        let ends = seen.ends.ok_or("no addresses")?;
        differences.unless("remote", &ends.remote, &Some(remote));
        differences.unless("local", &ends.local.map(|local| local.ip()), &Some(remote.ip()));
        differences.unless("server", &ends.is_server, &false);
        differences.unless("pid", &seen.pid, &gone.run.pid);
        if way.name.contains("connect") {
            result_differs(&mut differences, way, gone, seen);
        }
        judged(&differences, seen)
    });
    drop(listener);
    let ways = [
        way("connect", "!socket 2 1 0 + connect $0 a={T} 16"),
        way("int 0x80: connect", "!int80:359 2 1 0 + int80:362 $0 a={T} 16"),
        way(
            "int 0x80: socketcall",
            "!int80:102 1 i=2,1,0 + int80:102 3 i=$0,a={T},16",
        ),
        way("x32: connect", "!socket 2 1 0 + x32:connect $0 a={T} 16"),
        way(
            "io_uring: connect",
            "!socket 2 1 0 + uring connect fd=$0 addr=a={T} off=16",
        ),
        way("connect without waiting", "!socket 2 0x801 0 + connect $0 a={T} 16"),
    ];
    matrix("failing to connect by TCP", &target, &ways, |_, gone| {
        // Where the call did not wait, what came of it is told when it is known.
        let seen = the_one(gone, EventKind::Connect, |seen| {
            seen.result != EINPROGRESS && seen.flags & flags::RESULT_UNKNOWN == 0
        })?;
        let mut differences = Differences::default();
        differences.unless("remote", &seen.ends.and_then(|ends| ends.remote), &Some(remote));
        differences.unless("result", &seen.result, &ECONNREFUSED);
        differences.unless("pid", &seen.pid, &gone.run.pid);
        judged(&differences, seen)
    });
}

/// A question for the address of `some.host.example`, as hexadecimal digits.
fn question() -> String {
    let mut message = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in ["Some", "host", "example"] {
        message.push(u8::try_from(label.len()).unwrap());
        message.extend_from_slice(label.as_bytes());
    }
    message.extend_from_slice(&[0, 0, 1, 0, 1]);
    hex(&message)
}

/// The answer to it: a canonical name and an address, the names by pointers.
fn answer() -> String {
    let mut message = question();
    // A response, one question, two answers.
    message.replace_range(4..16, "818000010002");
    message.replace_range(16..24, "00000000");
    // CNAME `www` + pointer to `host.example`; then that name's address 192.0.2.77.
    message.push_str("c00c000500010000003c0006");
    message.push_str("03777777c011");
    message.push_str("c02f000100010000003c0004c000024d");
    message
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn ways_to_ask_for_a_name() {
    let question = question();
    let len = question.len() / 2;
    let to = "a=127.0.0.1:53";
    // Over TCP the length comes first; the server is the actor itself.
    let stream = format!("{len:04x}{question}");
    let stream_len = len + 2;
    let server =
        "!socket 2 1 0 + !bind $3 a=127.0.0.1:53 16 + !listen $3 1 + !socket 2 1 0 + !connect $6 a=127.0.0.1:53 16 + ";
    let udp = |script: &str| format!("!socket 2 2 0 + getpid x={question} v=@1,{len} {to} + {script}");
    let connected =
        |script: &str| format!("!socket 2 2 0 + !connect $3 {to} 16 + getpid x={question} v=@2,{len} + {script}");
    let tcp = |script: &str| format!("{server}getpid x={stream} v=@3,{stream_len} + {script}");
    // Buffers: 0 the interface; then the question, the vector, the address.
    let ways = [
        networked("UDP: sendto", &udp(&format!("sendto $3 @1 {len} 0 @3 16"))),
        networked("UDP: sendmsg", &udp("sendmsg $3 v=@3,16,@2,1,0,0,0 0")),
        networked("UDP: sendmmsg", &udp("sendmmsg $3 v=@3,16,@2,1,0,0,0,0 1 0")),
        networked("UDP, connected: send", &connected(&format!("sendto $3 @2 {len} 0 0 0"))),
        networked("UDP, connected: sendmsg", &connected("sendmsg $3 v=0,0,@3,1,0,0,0 0")),
        networked("UDP, connected: write", &connected(&format!("write $3 @2 {len}"))),
        networked("UDP, connected: writev", &connected("writev $3 @3 1")),
        networked("int 0x80: sendto", &udp(&format!("int80:369 $3 @1 {len} 0 @3 16"))),
        networked(
            "int 0x80: socketcall",
            &udp(&format!("int80:102 11 i=$3,@1,{len},0,@3,16")),
        ),
        networked(
            "int 0x80: socketcall, sendmsg",
            &format!("!socket 2 2 0 + getpid x={question} i=@1,{len} {to} i=@3,16,@2,1,0,0,0 + int80:102 16 i=$3,@4,0"),
        ),
        networked(
            "int 0x80, connected: socketcall, send",
            &connected(&format!("int80:102 9 i=$3,@2,{len},0")),
        ),
        networked(
            "int 0x80, connected: write",
            &connected(&format!("int80:4 $3 @2 {len}")),
        ),
        networked("x32: sendto", &udp(&format!("x32:sendto $3 @1 {len} 0 @3 16"))),
        networked("TCP: write", &tcp(&format!("write $6 @3 {stream_len}"))),
        networked("TCP: writev", &tcp("writev $6 @4 1")),
        networked("TCP: send", &tcp(&format!("sendto $6 @3 {stream_len} 0 0 0"))),
        networked("TCP: sendmsg", &tcp("sendmsg $6 v=0,0,@4,1,0,0,0 0")),
        networked(
            "io_uring: send to an address",
            &udp(&format!("uring send fd=$3 addr=@1 len={len} addr2=@3 addr_len=16")),
        )
        .since(Release(6, 2)),
        networked("io_uring: sendmsg", &udp("uring sendmsg fd=$3 addr=v=@3,16,@2,1,0,0,0")),
        networked(
            "io_uring, connected: send",
            &connected(&format!("uring send fd=$3 addr=@2 len={len}")),
        ),
        networked(
            "io_uring, connected: send by a worker",
            &connected(&format!("uring send flags=16 fd=$3 addr=@2 len={len}")),
        ),
        networked(
            "io_uring, connected: write",
            &connected(&format!("uring write fd=$3 addr=@2 len={len}")),
        ),
        networked(
            "io_uring, TCP: send",
            &tcp(&format!("uring send fd=$6 addr=@3 len={stream_len}")),
        ),
        networked(
            "io_uring: send of a registered socket",
            &connected(&format!(
                "!io_uring_register ring 2 i=$3 1 + uring send flags=1 fd=0 addr=@2 len={len}"
            )),
        )
        .unseen("the ring's own table is not read; that something was sent is told as io_uring_enter"),
    ];
    matrix("asking for a name", "", &ways, |way, gone| {
        let seen = the_one(gone, EventKind::Send, |_| true)?;
        let mut differences = Differences::default();
        differences.unless(
            "name",
            &seen.field("dns.qname").to_owned(),
            &"some.host.example".to_owned(),
        );
        let remote = seen.ends.and_then(|ends| ends.remote);
        differences.unless("remote", &remote, &Some("127.0.0.1:53".parse().unwrap()));
        differences.unless("pid", &seen.pid, &gone.run.pid);
        result_differs(&mut differences, way, gone, seen);
        judged(&differences, seen)
    });
}

#[test]
fn ways_to_be_told_an_address() {
    let answer = answer();
    let len = answer.len() / 2;
    let stream = format!("{len:04x}{answer}");
    let stream_len = len + 2;
    // A server on port 53 and a client on port 5353 that know each other; the server has answered.
    let udp = |script: &str| {
        format!(
            "!socket 2 2 0 + !bind $3 a=127.0.0.1:53 16 + !socket 2 2 0 + !bind $5 a=127.0.0.1:5353 16 + \
             !sendto $3 x={answer} {len} 0 a=127.0.0.1:5353 16 + getpid z=512 v=@5,512 z=16 + {script}"
        )
    };
    let connected = |script: &str| {
        format!(
            "!socket 2 2 0 + !bind $3 a=127.0.0.1:53 16 + !socket 2 2 0 + !bind $5 a=127.0.0.1:5353 16 + \
             !connect $5 a=127.0.0.1:53 16 + !sendto $3 x={answer} {len} 0 a=127.0.0.1:5353 16 + \
             getpid z=512 v=@6,512 z=512 + {script}"
        )
    };
    // Here the client has asked.
    let question = question();
    let question_len = question.len() / 2;
    let asked = |script: &str| {
        format!(
            "!socket 2 2 0 + !bind $3 a=127.0.0.1:53 16 + !socket 2 2 0 + !bind $5 a=127.0.0.1:5353 16 + \
             !sendto $5 x={question} {question_len} 0 a=127.0.0.1:53 16 + \
             !sendto $3 x={answer} {len} 0 a=127.0.0.1:5353 16 + getpid z=512 v=@7,512 + {script}"
        )
    };
    let tcp = |script: &str| {
        format!(
            "!socket 2 1 0 + !bind $3 a=127.0.0.1:53 16 + !listen $3 1 + !socket 2 1 0 + \
             !connect $6 a=127.0.0.1:53 16 + !accept $3 0 0 + !write $8 x={stream} {stream_len} + \
             getpid z=512 v=@4,512 + {script}"
        )
    };
    let ways = [
        networked("UDP: recvfrom", &udp("recvfrom $5 @5 512 0 @7 i=16")),
        networked("UDP: recvfrom without address", &asked("recvfrom $5 @7 512 0 0 0")),
        networked("UDP: recvmsg without address", &asked("recvmsg $5 v=0,0,@8,1,0,0,0 0")),
        networked(
            "UDP: recvmmsg without address",
            &asked("recvmmsg $5 v=0,0,@8,1,0,0,0,0 1 0 0"),
        ),
        networked("UDP: read without a peer", &asked("read $5 @7 512")),
        networked(
            "UDP: recvfrom without address and question",
            &udp("recvfrom $5 @5 512 0 0 0"),
        )
        .unseen("the kernel keeps no address of an unconnected socket's peer, and the socket asked nobody"),
        networked("UDP: recvmsg", &udp("recvmsg $5 v=@7,16,@6,1,0,0,0 0")),
        networked("UDP: recvmmsg", &udp("recvmmsg $5 v=@7,16,@6,1,0,0,0,0 1 0 0")),
        networked(
            "UDP, connected: recvmmsg",
            &connected("recvmmsg $5 v=0,0,@7,1,0,0,0,0 1 0 0"),
        ),
        networked("UDP, connected: readv", &connected("readv $5 @7 1")),
        networked(
            "UDP, connected: readv into two buffers",
            &connected("readv $5 v=@6,5,@8,500 2"),
        ),
        networked("UDP, connected: read", &connected("read $5 @6 512")),
        networked("UDP, connected: recv", &connected("recvfrom $5 @6 512 0 0 0")),
        networked("int 0x80: recvfrom", &udp("int80:371 $5 @5 512 0 @7 i=16")),
        networked("int 0x80: socketcall", &udp("int80:102 12 i=$5,@5,512,0,@7,i=16")),
        networked("int 0x80: socketcall, recv", &asked("int80:102 10 i=$5,@7,512,0")),
        networked(
            "int 0x80: recvmmsg",
            &asked("getpid i=@7,512 + int80:337 $5 i=0,0,@9,1,0,0,0,0 1 0 0"),
        ),
        networked("x32: recvfrom", &asked("x32:#517 $5 @7 512 0 0 0")),
        networked("TCP: read", &tcp("read $6 @4 512")),
        networked("TCP: recv", &tcp("recvfrom $6 @4 512 0 0 0")),
        networked("TCP: recvmsg", &tcp("recvmsg $6 v=0,0,@5,1,0,0,0 0")),
        networked("TCP: readv", &tcp("readv $6 @5 1")),
        networked("io_uring: recv", &connected("uring recv fd=$5 addr=@6 len=512"))
            .unseen("a request to receive tells nothing when it is made, and its end is no call"),
    ];
    matrix("being told an address", "", &ways, |way, gone| {
        let seen = the_one(gone, EventKind::Receive, |_| true)?;
        let mut differences = Differences::default();
        differences.unless(
            "name",
            &seen.field("dns.qname").to_owned(),
            &"some.host.example".to_owned(),
        );
        let remote = seen.ends.and_then(|ends| ends.remote);
        differences.unless("remote", &remote, &Some("127.0.0.1:53".parse().unwrap()));
        differences.unless(
            "answer",
            &seen.field("dns.answer").to_owned(),
            &"www.host.example,192.0.2.77".to_owned(),
        );
        differences.unless("pid", &seen.pid, &gone.run.pid);
        result_differs(&mut differences, way, gone, seen);
        judged(&differences, seen)
    });
}

/// The first bytes that a TLS client sends to ask for `some.host.example`, as hexadecimal digits.
fn client_hello() -> String {
    let name = b"some.host.example";
    let length = |len: usize| u16::try_from(len).unwrap().to_be_bytes().to_vec();
    let server_name = [length(name.len() + 3), vec![0], length(name.len()), name.to_vec()].concat();
    let extension = [vec![0, 0], length(server_name.len()), server_name].concat();
    let extensions = [length(extension.len()), extension].concat();
    let body = [
        vec![3, 3],
        vec![7; 32],
        vec![0],
        vec![0, 2, 0x13, 1],
        vec![1, 0],
        extensions,
    ]
    .concat();
    let handshake = [vec![1, 0], length(body.len()), body].concat();
    hex(&[vec![0x16, 3, 1], length(handshake.len()), handshake].concat())
}

#[test]
fn ways_to_ask_for_a_tls_server() {
    let hello = client_hello();
    let len = hello.len() / 2;
    let tls = |script: &str| {
        format!(
            "!socket 2 1 0 + !bind $3 a=127.0.0.1:443 16 + !listen $3 1 + !socket 2 1 0 + \
             !connect $6 a=127.0.0.1:443 16 + getpid x={hello} v=@3,{len} + {script}"
        )
    };
    let ways = [
        networked("write", &tls(&format!("write $6 @3 {len}"))),
        networked("writev", &tls("writev $6 @4 1")),
        networked("send", &tls(&format!("sendto $6 @3 {len} 0 0 0"))),
        networked("sendmsg", &tls("sendmsg $6 v=0,0,@4,1,0,0,0 0")),
        networked("int 0x80: write", &tls(&format!("int80:4 $6 @3 {len}"))),
    ];
    matrix("asking for a TLS server", "", &ways, |way, gone| {
        let seen = the_one(gone, EventKind::Send, |_| true)?;
        let mut differences = Differences::default();
        differences.unless(
            "name",
            &seen.field("tls.sni").to_owned(),
            &"some.host.example".to_owned(),
        );
        differences.unless("pid", &seen.pid, &gone.run.pid);
        result_differs(&mut differences, way, gone, seen);
        judged(&differences, seen)
    });
}
