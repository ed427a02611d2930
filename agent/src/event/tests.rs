//! Events of hand-made records, asked as rules ask them.

use staghound_ebpf::{Call, Ended, Ends as RecordEnds, Fork, Header, Ids, Kind, Resolved};
use staghound_engine::event::Event as _;
use zerocopy::IntoBytes as _;

use super::*;
use crate::sensor::decode::decode;

/// Above `PID_MAX_LIMIT`: `/proc` never has them.
const PID: u32 = 5_000_000;
const CHILD: u32 = PID + 1;
const SECOND: u64 = 1_000_000_000;

/// The variable part of a record while it is put together.
#[derive(Default)]
struct Data(Vec<u8>);

impl Data {
    fn add(&mut self, bytes: &[u8]) -> Span {
        let offset = u16::try_from(self.0.len()).unwrap();
        self.0.extend_from_slice(bytes);
        Span {
            offset,
            len: u16::try_from(bytes.len()).unwrap(),
        }
    }
}

fn header(kind: Kind, syscall: u32) -> Header {
    Header {
        time_ns: 100 * SECOND,
        start_ns: 1,
        kind: kind as u16,
        pid: PID,
        tid: PID,
        syscall,
        capabilities: 1 << 21,
        comm: *b"actor\0\0\0\0\0\0\0\0\0\0\0",
        ..Header::default()
    }
}

fn record(header: Header, body: &[u8], data: &Data) -> Vec<u8> {
    let header = Header {
        len: u32::try_from(size_of::<Header>() + body.len() + data.0.len()).unwrap(),
        ..header
    };
    [header.as_bytes(), body, &data.0].concat()
}

/// What tells events apart from one record to the next.
struct World {
    table: ProcessTable,
    recall: Recall,
    host: Host,
    names: Names,
}

impl World {
    /// One process with a child.
    fn new() -> Self {
        let mut world = Self {
            table: ProcessTable::default(),
            recall: Recall::default(),
            host: Host {
                name: "h".to_owned(),
                boot_to_wall_ns: 1_700_000_000_000_000_000,
                in_run: false,
                earlier_agent: None,
            },
            names: Names::of_host(),
        };
        let child = Fork {
            child_start_ns: 2,
            child_pid: CHILD,
            child_ppid: PID,
            ids: Ids {
                own_pid: CHILD,
                ..Ids::default()
            },
            ..Fork::default()
        };
        let bytes = record(header(Kind::Fork, 0), child.as_bytes(), &Data::default());
        world.told(&bytes, |_| ());
        world
    }

    /// Asks the event of a record, if it is one.
    fn told<T>(&mut self, bytes: &[u8], then: impl FnOnce(&Event<'_>) -> T) -> Option<T> {
        let record = decode(bytes).unwrap();
        let process = self.recall.actor(&record, &mut self.table)?;
        let event = Event::of(
            &record,
            process,
            1,
            &mut self.recall,
            &self.table,
            &self.host,
            &self.names,
        )?;
        Some(then(&event))
    }

    /// The values of fields, as text; `-` where there is none.
    fn asked(&mut self, bytes: &[u8], fields: &[&str]) -> Vec<String> {
        self.told(bytes, |event| fields.iter().map(|field| answer(event, field)).collect())
            .unwrap_or_default()
    }
}

fn answer(event: &Event<'_>, field: &str) -> String {
    let field = FieldRef::parse(field).unwrap_or_else(|error| panic!("{field}: {error:?}"));
    let mut values = Vec::new();
    event.each(&field, &mut |value| {
        values.push(match value {
            Value::Text(text) => printable(text),
            Value::Number(number) => number.to_string(),
            Value::Flag(flag) => flag.to_string(),
            Value::Address(address) => address.to_string(),
        });
        true
    });
    if values.is_empty() {
        return "-".to_owned();
    }
    values.join(",")
}

/// Asks a call of these arguments and this result, with nothing else.
fn plain(syscall: u32, record_flags: u16, args: [u64; 6], result: i64, expected: &[(&str, &str)]) {
    let call = Call {
        args,
        result,
        ..Call::default()
    };
    check(syscall, record_flags, call, &Data::default(), expected);
}

fn check(syscall: u32, record_flags: u16, call: Call, data: &Data, expected: &[(&str, &str)]) {
    let header = Header {
        flags: record_flags,
        ..header(Kind::Call, syscall)
    };
    let bytes = record(header, call.as_bytes(), data);
    let fields: Vec<&str> = expected.iter().map(|(field, _)| *field).collect();
    let found = World::new().asked(&bytes, &fields);
    assert_eq!(found.len(), expected.len(), "call {syscall} is no event");
    for ((field, expected), found) in expected.iter().zip(found) {
        assert_eq!(found, *expected, "{field} of call {syscall}");
    }
}

#[test]
fn arguments_have_names() {
    let minus_one = u64::from(u32::MAX);
    plain(
        308,
        0,
        [4, 0x2_0000, 0, 0, 0, 0],
        0,
        &[
            ("evt.type", "setns"),
            ("evt.arg.flags", "CLONE_NEWNS"),
            ("evt.rawarg.flags", "131072"),
            ("evt.arg.nstype", "CLONE_NEWNS"),
            ("evt.arg.fd", "4"),
            ("evt.arg.res", "0"),
            ("evt.arg.nothing", "-"),
            ("evt.args", "res=0 fd=4 nstype=CLONE_NEWNS"),
        ],
    );
    plain(
        272,
        0,
        [0x1002_0000, 0, 0, 0, 0, 0],
        -1,
        &[
            ("evt.arg.flags", "CLONE_NEWNS|CLONE_NEWUSER"),
            ("evt.res", "EPERM"),
            ("evt.failed", "true"),
        ],
    );
    plain(
        101,
        0,
        [16, u64::from(CHILD), 0xdead, 0, 0, 0],
        0,
        &[
            ("evt.arg.request", "PTRACE_ATTACH"),
            ("evt.rawarg.request", "16"),
            ("evt.arg.pid", "5000001"),
            (
                "evt.args",
                "res=0 request=PTRACE_ATTACH pid=5000001 addr=0xdead data=0x0",
            ),
            ("evt.io_uring", "false"),
        ],
    );
    // Bits that the kernel does not look at cannot hide what is asked.
    plain(
        62,
        0,
        [1 << 40 | u64::from(CHILD), 1 << 33 | 9, 0, 0, 0, 0],
        0,
        &[("evt.arg.sig", "SIGKILL"), ("evt.arg.pid", "5000001")],
    );
    plain(
        62,
        0,
        [minus_one, 64, 0, 0, 0, 0],
        0,
        &[("evt.arg.pid", "-1"), ("evt.arg.sig", "64")],
    );
    plain(
        37,
        flags::COMPAT,
        [minus_one, 9, 0, 0, 0, 0],
        0,
        &[("evt.type", "kill"), ("evt.arg.pid", "-1")],
    );
    plain(105, 0, [0; 6], 0, &[("evt.arg.uid", "root"), ("evt.rawarg.uid", "0")]);
    plain(
        117,
        0,
        [minus_one, 0, 4_000_000_001, 0, 0, 0],
        0,
        &[
            ("evt.arg.ruid", "-1"),
            ("evt.arg.euid", "root"),
            ("evt.arg.suid", "4000000001"),
        ],
    );
    // Ids of old 32-bit calls have 16 bits.
    plain(
        164,
        flags::COMPAT,
        [0xffff, 0, 0xffff, 0, 0, 0],
        0,
        &[("evt.type", "setresuid"), ("evt.arg.ruid", "-1")],
    );
    plain(
        208,
        flags::COMPAT,
        [0xffff, 0, 0, 0, 0, 0],
        0,
        &[("evt.type", "setresuid"), ("evt.rawarg.ruid", "65535")],
    );
    plain(
        126,
        0,
        [0; 6],
        0,
        &[
            ("evt.arg.cap_effective", "CAP_SYS_ADMIN"),
            ("evt.arg.cap_permitted", "-"),
        ],
    );
    plain(
        41,
        0,
        [17, 3 | 0o200_0000, 768, 0, 0, 0],
        5,
        &[
            ("evt.type", "socket"),
            ("evt.arg.domain", "AF_PACKET"),
            ("evt.arg.type", "SOCK_RAW|SOCK_CLOEXEC"),
            ("evt.arg.proto", "768"),
            ("evt.arg.fd", "5"),
        ],
    );
    plain(
        321,
        0,
        [5, 0, 120, 0, 0, 0],
        9,
        &[("evt.arg.cmd", "BPF_PROG_LOAD"), ("evt.rawarg.cmd", "5")],
    );
    plain(321, 0, [4711, 0, 0, 0, 0, 0], -22, &[("evt.arg.cmd", "4711")]);
    plain(
        9,
        0,
        [0, 4096, 7, 0x22, minus_one, 0],
        0x7f00_0000_0000,
        &[
            ("evt.arg.prot", "PROT_READ|PROT_WRITE|PROT_EXEC"),
            ("evt.arg.flags", "MAP_PRIVATE|MAP_ANONYMOUS"),
            ("evt.arg.fd", "-1"),
            ("evt.failed", "false"),
        ],
    );
    plain(
        193,
        flags::COMPAT,
        [0, 1, 2, 0, 0, 0],
        0,
        &[("evt.type", "truncate"), ("evt.arg.length", "8589934593")],
    );
    plain(
        426,
        flags::IO_URING | flags::RESULT_UNKNOWN,
        [22, 4, 0, 0, 0, 0],
        0,
        &[
            ("evt.type", "io_uring_enter"),
            ("evt.io_uring", "true"),
            ("evt.arg.opcode", "IORING_OP_READ"),
            ("evt.rawarg.opcode", "22"),
            ("fd.num", "4"),
            ("evt.io_dir", "r"),
            ("evt.is_io_read", "true"),
        ],
    );
    plain(166, 0, [0, 2, 0, 0, 0, 0], 0, &[("evt.arg.flags", "MNT_DETACH")]);
    plain(
        165,
        0,
        [0, 0, 0, 0xc0ed_1000, 0, 0],
        0,
        &[("evt.arg.flags", "MS_BIND"), ("evt.rawarg.flags", "4096")],
    );
}

#[test]
fn paths_of_calls() {
    let mut data = Data::default();
    let call = Call {
        base: data.add(b"tmp\0"),
        name: data.add(b"d/../e\0"),
        args: [0, 0, 0o755, 0, 0, 0],
        ..Call::default()
    };
    check(
        258,
        0,
        call,
        &data,
        &[
            ("evt.type", "mkdirat"),
            ("fs.path.name", "/tmp/e"),
            ("fs.path.nameraw", "d/../e"),
            ("evt.arg.path", "/tmp/e"),
            ("evt.abspath", "/tmp/e"),
            ("fs.path.source", "-"),
            ("evt.rawarg.mode", "493"),
            ("evt.args", "res=0 dirfd=0 path=/tmp/e mode=0o755"),
        ],
    );
    let mut data = Data::default();
    let call = Call {
        name: data.add(b"/etc/shadow\0"),
        new_base: data.add(b"tmp\0"),
        new_name: data.add(b"x\0"),
        ..Call::default()
    };
    check(
        86,
        0,
        call,
        &data,
        &[
            ("evt.type", "link"),
            ("evt.arg.oldpath", "/etc/shadow"),
            ("evt.arg.newpath", "/tmp/x"),
            ("fs.path.source", "/etc/shadow"),
            ("fs.path.target", "/tmp/x"),
            ("fs.path.sourceraw", "/etc/shadow"),
            ("fs.path.targetraw", "x"),
            ("evt.abspath[src]", "/etc/shadow"),
            ("evt.abspath[dst]", "/tmp/x"),
        ],
    );
    for (target, source) in [("/etc/shadow", "/etc/shadow"), ("../etc/shadow", "/tmp/../etc/shadow")] {
        let mut data = Data::default();
        let call = Call {
            base: data.add(b"tmp\0"),
            name: data.add(b"l\0"),
            text: data.add(format!("{target}\0").as_bytes()),
            ..Call::default()
        };
        check(
            88,
            0,
            call,
            &data,
            &[
                ("evt.type", "symlink"),
                ("evt.arg.target", target),
                ("evt.arg.linkpath", "/tmp/l"),
                ("fs.path.source", source),
                ("fs.path.target", "/tmp/l"),
                ("fs.path.sourceraw", target),
            ],
        );
    }
    let mut data = Data::default();
    let call = Call {
        name: data.add(b"/mnt\0"),
        text: data.add(b"/dev/sda1\0"),
        more: data.add(b"ext4\0"),
        args: [0, 0, 0, 1 << 12, 0, 0],
        ..Call::default()
    };
    check(
        165,
        0,
        call,
        &data,
        &[
            ("evt.arg.dev", "/dev/sda1"),
            ("evt.arg.special", "/dev/sda1"),
            ("evt.arg.dir", "/mnt"),
            ("evt.arg.fstype", "ext4"),
            ("fs.path.source", "/dev/sda1"),
            ("fs.path.target", "/mnt"),
            ("evt.args", "res=0 dev=/dev/sda1 dir=/mnt type=ext4 flags=MS_BIND"),
        ],
    );
}

#[test]
fn descriptors_of_calls() {
    let mut data = Data::default();
    let call = Call {
        result: 4096,
        args: [1, 3, 0, 4096, 0, 0],
        inode: 77,
        device: 8 << 20 | 1,
        mode: 0o100_640,
        layer: open_layer::UPPER,
        object: data.add(b"shadow\0etc\0"),
        new_object: data.add(b"out\0tmp\0"),
        suppressed: 2,
        ..Call::default()
    };
    check(
        40,
        0,
        call,
        &data,
        &[
            ("evt.type", "sendfile"),
            ("fd.name", "/etc/shadow"),
            ("fd.directory", "/etc"),
            ("fd.filename", "shadow"),
            ("fd.num", "3"),
            ("fd.type", "file"),
            ("fd.ino", "77"),
            ("fd.dev.major", "8"),
            ("fd.is_upper_layer", "true"),
            ("fd.is_lower_layer", "false"),
            ("evt.arg.out", "/tmp/out"),
            ("evt.arg.out_fd", "1"),
            ("evt.io_dir", "r"),
        ],
    );
    let mut data = Data::default();
    let call = Call {
        mode: 0o040_755,
        args: [3, 1000, 1000, 0, 0, 0],
        object: data.add(b""),
        ..Call::default()
    };
    check(
        93,
        0,
        call,
        &data,
        &[
            ("evt.type", "fchown"),
            ("fd.name", "/"),
            ("fs.path.name", "/"),
            ("fd.type", "directory"),
        ],
    );
}

#[test]
fn times_of_files_are_read() {
    let times = |words: &[i64]| words.iter().flat_map(|word| word.to_ne_bytes()).collect::<Vec<u8>>();
    let short = |words: &[i32]| words.iter().flat_map(|word| word.to_ne_bytes()).collect::<Vec<u8>>();
    let now = "1700000100000000000";
    for (syscall, record_flags, args, bytes, mtime, age) in [
        (
            280,
            0,
            [0, 1, 9, 0, 0, 0],
            times(&[5, 6, 7, 8]),
            "7000000008",
            "1700000092999999992",
        ),
        (280, 0, [0, 1, 9, 0, 0, 0], times(&[5, 6, 7, UTIME_OMIT]), "-", "-"),
        (280, 0, [0, 1, 9, 0, 0, 0], times(&[5, 6, 7, UTIME_NOW]), now, "0"),
        (280, 0, [0, 1, 0, 0, 0, 0], Vec::new(), now, "0"),
        (280, 0, [0, 1, 9, 0, 0, 0], times(&[5, 6, 7]), "-", "-"),
        (
            235,
            0,
            [1, 9, 0, 0, 0, 0],
            times(&[5, 6, 7, 8]),
            "7000008000",
            "1700000092999992000",
        ),
        (
            132,
            0,
            [1, 9, 0, 0, 0, 0],
            times(&[5, 7]),
            "7000000000",
            "1700000093000000000",
        ),
        (
            320,
            flags::COMPAT,
            [0, 1, 9, 0, 0, 0],
            short(&[5, 6, 7, 8]),
            "7000000008",
            "1700000092999999992",
        ),
    ] {
        let mut data = Data::default();
        let call = Call {
            args,
            name: data.add(b"/f\0"),
            more: data.add(&bytes),
            ..Call::default()
        };
        check(
            syscall,
            record_flags,
            call,
            &data,
            &[("evt.arg.mtime", mtime), ("evt.rawarg.age", age)],
        );
    }
}

const UTIME_NOW: i64 = 0x3fff_ffff;
const UTIME_OMIT: i64 = 0x3fff_fffe;

#[test]
fn processes_that_are_aimed_at() {
    let own = u64::from(std::process::id());
    // The call, its arguments, the process behind its descriptor, and what is told.
    let cases: [(u32, [u64; 6], u32, [&str; 4]); 14] = [
        (
            62,
            [u64::from(CHILD), 9, 0, 0, 0, 0],
            0,
            ["5000001", "actor", "descendant", "false"],
        ),
        (
            62,
            [u64::from(PID), 9, 0, 0, 0, 0],
            0,
            ["5000000", "actor", "self", "false"],
        ),
        (62, [own, 19, 0, 0, 0, 0], 0, [&own.to_string(), "-", "other", "true"]),
        (200, [own, 19, 0, 0, 0, 0], 0, ["-", "-", "other", "true"]),
        // Everybody; a group whose leader is known; one whose leader is not; the own one.
        (62, [u64::MAX, 9, 0, 0, 0, 0], 0, ["-", "-", "all", "true"]),
        (
            62,
            [u64::from(CHILD).wrapping_neg(), 9, 0, 0, 0, 0],
            0,
            ["5000001", "actor", "descendant", "false"],
        ),
        (
            62,
            [4_900_000_u64.wrapping_neg(), 9, 0, 0, 0, 0],
            0,
            ["-", "-", "group", "false"],
        ),
        (62, [0, 9, 0, 0, 0, 0], 0, ["-", "-", "group", "false"]),
        (62, [4_900_000, 9, 0, 0, 0, 0], 0, ["4900000", "-", "other", "false"]),
        (
            101,
            [16, u64::from(CHILD), 0, 0, 0, 0],
            0,
            ["5000001", "actor", "descendant", "false"],
        ),
        (101, [0, u64::from(CHILD), 0, 0, 0, 0], 0, ["-", "-", "-", "-"]),
        (424, [3, 9, 0, 0, 0, 0], 0, ["-", "-", "-", "-"]),
        (
            424,
            [3, 9, 0, 0, 0, 0],
            CHILD,
            ["5000001", "actor", "descendant", "false"],
        ),
        (308, [3, 0, 0, 0, 0, 0], 4_900_000, ["4900000", "-", "other", "false"]),
    ];
    for (syscall, args, target, expected) in cases {
        let fields = ["target.pid", "target.name", "target.relation", "target.is_agent"];
        let pairs: Vec<(&str, &str)> = fields.into_iter().zip(expected).collect();
        let mut world = World::new();
        // The numbers of this process are those of the host.
        let fork = Fork {
            child_start_ns: 1,
            child_pid: PID,
            child_ppid: 1,
            ids: Ids {
                own_pid: PID,
                ..Ids::default()
            },
            ..Fork::default()
        };
        let maker = Header {
            pid: PID - 1,
            tid: PID - 1,
            ..header(Kind::Fork, 0)
        };
        world.table = ProcessTable::default();
        world.told(&record(maker, fork.as_bytes(), &Data::default()), |_| ());
        let child = Fork {
            child_start_ns: 2,
            child_pid: CHILD,
            child_ppid: PID,
            ..fork
        };
        world.told(
            &record(header(Kind::Fork, 0), child.as_bytes(), &Data::default()),
            |_| (),
        );
        let call = Call {
            args,
            target,
            ..Call::default()
        };
        let bytes = record(header(Kind::Call, syscall), call.as_bytes(), &Data::default());
        let found = world.asked(&bytes, &fields);
        for ((field, expected), found) in pairs.into_iter().zip(found) {
            assert_eq!(found, expected, "{field} of {syscall} {args:?}");
        }
    }
}

#[test]
fn refused_opens_have_the_path_that_was_passed() {
    let mut data = Data::default();
    let open = Open {
        result: -13,
        path: data.add(b"etc\0"),
        name: data.add(b"./shadow\0"),
        ..Open::default()
    };
    let bytes = record(header(Kind::Open, 257), open.as_bytes(), &data);
    let fields = [
        "evt.type",
        "fd.name",
        "fd.nameraw",
        "evt.res",
        "fd.type",
        "fs.path.name",
        "evt.is_open_read",
    ];
    assert_eq!(
        World::new().asked(&bytes, &fields),
        [
            "openat",
            "/etc/shadow",
            "./shadow",
            "EACCES",
            "-",
            "/etc/shadow",
            "false"
        ]
    );
}

/// `unlink("PASSED")`, after the kernel resolved `RESOLVED` for it.
fn unlinked(resolved: &[u8], passed: &[u8], between: Option<Kind>) -> String {
    let mut world = World::new();
    let mut data = Data::default();
    let body = Resolved {
        path: data.add(resolved),
        new_path: Span::default(),
    };
    assert!(
        world
            .told(&record(header(Kind::Resolved, 0), body.as_bytes(), &data), |_| ())
            .is_none()
    );
    if let Some(kind) = between {
        let call = Call::default();
        world.told(&record(header(kind, 112), call.as_bytes(), &Data::default()), |_| ());
    }
    let mut data = Data::default();
    let body = PathChange {
        name: data.add(passed),
        ..PathChange::default()
    };
    let bytes = record(header(Kind::Unlink, 87), body.as_bytes(), &data);
    world.asked(&bytes, &["fs.path.name"]).remove(0)
}

#[test]
fn resolved_paths_go_before_passed_ones() {
    assert_eq!(unlinked(b"x\0real\0", b"/link/x\0", None), "/real/x");
    assert_eq!(unlinked(b"x\0real\0", b"/link/x/\0", None), "/real/x");
    assert_eq!(unlinked(b"x\0real\0", b"/link/y\0", None), "/link/y", "of another call");
    assert_eq!(
        unlinked(b"x\0real\0", b"/link/x\0", Some(Kind::Call)),
        "/link/x",
        "used up"
    );
}

fn socket(kind: Kind, syscall: u32, socket: Socket, data: &[u8]) -> Vec<u8> {
    let mut all = Data::default();
    let body = Socket {
        data: all.add(data),
        ..socket
    };
    record(header(kind, syscall), body.as_bytes(), &all)
}

fn address(first: [u8; 4]) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..4].copy_from_slice(&first);
    bytes
}

#[test]
fn dns_and_tls_are_read() {
    let query = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x01A\x07example\x00\x00\x01\x00\x01";
    let mut response = query.to_vec();
    response[2] |= 0x80;
    response[7] = 1;
    response.extend(b"\xc0\x0c\x00\x01\x00\x01\x00\x00\x00\x3c\x00\x04\xc0\x00\x02\x01");
    let udp = Socket {
        remote: address([192, 0, 2, 53]),
        remote_port: 53,
        family: AF_INET,
        protocol: IPPROTO_UDP,
        result: 26,
        ..Socket::default()
    };
    let tcp = Socket {
        protocol: IPPROTO_TCP,
        ..udp
    };
    let tls = Socket {
        remote_port: 443,
        ..tcp
    };
    let mut hello = b"\x16\x03\x01\x00\x50\x01\x00\x00\x4c\x03\x03".to_vec();
    hello.extend([7; 32]);
    hello.extend(b"\x00\x00\x02\x13\x01\x01\x00\x00\x10\x00\x00\x00\x0c\x00\x0a\x00\x00\x07EXAMPLE");
    let len = [0, u8::try_from(query.len()).unwrap()];
    let fields = [
        "evt.type",
        "dns.qname",
        "dns.answer",
        "tls.sni",
        "evt.io_dir",
        "evt.buflen",
    ];
    let long = [&len[..], query].concat();
    for (bytes, expected) in [
        (
            socket(Kind::Send, 44, udp, query),
            ["sendto", "a.example", "-", "-", "w", "26"],
        ),
        (
            socket(Kind::Send, 1, tcp, &long),
            ["write", "a.example", "-", "-", "w", "26"],
        ),
        (
            socket(Kind::Send, 44, udp, &response),
            ["sendto", "-", "-", "-", "w", "26"],
        ),
        (
            socket(Kind::Receive, 45, udp, &response),
            ["recvfrom", "a.example", "192.0.2.1", "-", "r", "26"],
        ),
        (
            socket(Kind::Receive, 0, udp, &response),
            ["read", "a.example", "192.0.2.1", "-", "r", "26"],
        ),
        (
            socket(Kind::Receive, 45, udp, b"\x01"),
            ["recvfrom", "-", "-", "-", "r", "26"],
        ),
        (
            socket(Kind::Send, 1, tls, &hello),
            ["write", "-", "-", "example", "w", "26"],
        ),
        (
            socket(Kind::Send, 1, tls, &hello[..60]),
            ["write", "-", "-", "-", "w", "26"],
        ),
        (
            socket(Kind::Connect, 102, tls, b""),
            ["connect", "-", "-", "-", "-", "-"],
        ),
    ] {
        assert_eq!(World::new().asked(&bytes, &fields), expected);
    }
}

#[test]
fn ends_of_connections_are_those_of_who_opened_them() {
    let connection = Socket {
        local: address([10, 0, 0, 7]),
        remote: address([192, 0, 2, 80]),
        local_port: 40_122,
        remote_port: 443,
        family: AF_INET,
        protocol: IPPROTO_TCP,
        result: -115,
        descriptor: 5,
        identity: 0xffff_8000_1234_5678,
        ..Socket::default()
    };
    let ended = Ended {
        socket: connection.identity,
        received: 2000,
        sent: 300,
        ends: RecordEnds {
            local: connection.local,
            remote: connection.remote,
            // The port is free again by then.
            local_port: 0,
            remote_port: connection.remote_port,
            family: AF_INET,
            protocol: IPPROTO_TCP,
        },
        error: 0,
        unanswered: 0,
    };
    // An interrupt tells of the end, in whatever process it came upon.
    let end = Header {
        time_ns: 103 * SECOND,
        pid: 0,
        tid: 0,
        start_ns: 0,
        comm: *b"swapper\0\0\0\0\0\0\0\0\0",
        ..header(Kind::Ended, 0)
    };
    let end = record(end, ended.as_bytes(), &Data::default());
    let fields = [
        "evt.type",
        "proc.pid",
        "proc.name",
        "fd.name",
        "fd.bytes_in",
        "fd.bytes_out",
        "evt.duration",
        "fd.is_server",
        "fd.num",
        "fd.l4proto",
    ];
    for (kind, syscall, name, is_server) in [
        (Kind::Connect, 42, "10.0.0.7:40122->192.0.2.80:443", "false"),
        (Kind::Accept, 288, "192.0.2.80:443->10.0.0.7:40122", "true"),
    ] {
        let mut world = World::new();
        let result = if kind == Kind::Connect { -115 } else { 5 };
        world.told(&socket(kind, syscall, Socket { result, ..connection }, b""), |_| ());
        assert_eq!(
            world.asked(&end, &fields),
            [
                "close",
                "5000000",
                "actor",
                name,
                "2000",
                "300",
                "3000000000",
                is_server,
                "5",
                "tcp",
            ]
        );
        assert!(world.asked(&end, &fields).is_empty(), "it has ended once");
        let before = world.table.len();
        assert!(world.asked(&end, &fields).is_empty());
        assert_eq!(world.table.len(), before, "whoever ran then is not made up");
    }
    // One that nobody answered was never a connection.
    for (error, expected) in [(111, "ECONNREFUSED"), (110, "ETIMEDOUT"), (0, "ECANCELED")] {
        let mut world = World::new();
        world.told(&socket(Kind::Connect, 42, connection, b""), |_| ());
        let unanswered = Ended {
            error,
            unanswered: 1,
            ..ended
        };
        let header = Header {
            pid: 0,
            tid: 0,
            ..header(Kind::Ended, 0)
        };
        let unanswered = record(header, unanswered.as_bytes(), &Data::default());
        let fields = ["evt.type", "evt.res", "proc.pid", "fd.name", "fd.num"];
        let name = "10.0.0.7:40122->192.0.2.80:443";
        assert_eq!(
            world.asked(&unanswered, &fields),
            ["connect", expected, "5000000", name, "5"]
        );
        assert!(world.asked(&unanswered, &fields).is_empty(), "it is forgotten");
    }
    // A connection that was refused ended before it began.
    let mut world = World::new();
    world.told(
        &socket(
            Kind::Connect,
            42,
            Socket {
                result: -111,
                ..connection
            },
            b"",
        ),
        |_| (),
    );
    assert!(world.asked(&end, &fields).is_empty());
}

/// A program that puts its connection, or that of its parent, onto its standard input.
#[test]
fn a_duplicated_connection_is_known() {
    let connection = Socket {
        local: address([10, 0, 0, 7]),
        remote: address([203, 0, 113, 9]),
        local_port: 40_122,
        remote_port: 4444,
        family: AF_INET,
        protocol: IPPROTO_TCP,
        descriptor: 3,
        identity: 7,
        ..Socket::default()
    };
    let fields = [
        "evt.type",
        "fd.num",
        "fd.type",
        "fd.sockfamily",
        "fd.rip",
        "fd.rport",
        "fd.name",
    ];
    let name = "10.0.0.7:40122->203.0.113.9:4444";
    for (who, descriptor, protocol, expected) in [
        (
            PID,
            3,
            &b"TCP\0"[..],
            ["dup2", "0", "ipv4", "ip", "203.0.113.9", "4444", name],
        ),
        (
            CHILD,
            3,
            b"TCP\0",
            ["dup2", "0", "ipv4", "ip", "203.0.113.9", "4444", name],
        ),
        (CHILD + 9, 3, b"TCP\0", ["dup2", "0", "ipv4", "ip", "-", "-", "-"]),
        (PID, 4, b"TCPv6\0", ["dup2", "0", "ipv6", "ip", "-", "-", "-"]),
        (PID, 3, b"UNIX-STREAM\0", ["dup2", "0", "unix", "unix", "-", "-", "-"]),
        (PID, 3, b"AF_VSOCK\0", ["dup2", "0", "-", "-", "-", "-", "-"]),
    ] {
        let mut world = World::new();
        world.told(&socket(Kind::Connect, 42, connection, b""), |_| ());
        let mut data = Data::default();
        let call = Call {
            args: [1 << 32 | descriptor, 0, 0, 0, 0, 0],
            mode: 0o140_777,
            object: data.add(protocol),
            ..Call::default()
        };
        let header = Header {
            pid: who,
            tid: who,
            start_ns: u64::from(who - PID) + 1,
            ..header(Kind::Call, 33)
        };
        assert_eq!(
            world.asked(&record(header, call.as_bytes(), &data), &fields),
            expected,
            "{who} {descriptor}"
        );
    }
}

#[test]
fn forks_and_exits_tell_more() {
    let fork = Fork {
        child_start_ns: 3,
        child_pid: CHILD + 1,
        child_ppid: PID,
        new_namespaces: 0x1002_0000,
        ..Fork::default()
    };
    let bytes = record(header(Kind::Fork, 0), fork.as_bytes(), &Data::default());
    assert_eq!(
        World::new().asked(&bytes, &["fork.new_namespaces", "evt.type", "evt.rawarg.flags"]),
        ["CLONE_NEWNS|CLONE_NEWUSER", "clone", "268566528"]
    );
    let exit = staghound_ebpf::Exit {
        status: 0x8b,
        reserved: 0,
    };
    let bytes = record(header(Kind::Exit, 0), exit.as_bytes(), &Data::default());
    assert_eq!(
        World::new().asked(
            &bytes,
            &["evt.arg.status", "evt.arg.sig", "evt.arg.core", "evt.arg.ret"]
        ),
        ["139", "11", "1", "0"]
    );
    assert_eq!(
        World::new().asked(
            &bytes,
            &["evt.datetime.s", "evt.rawtime.s", "evt.rawtime.ns", "evt.time.s"]
        ),
        ["2023-11-14 22:15:00", "1700000100", "0", "22:15:00"]
    );
}

#[test]
fn hostile_records_are_answered() {
    let mut fields: Vec<FieldRef> = Field::ALL
        .iter()
        .filter(|field| !matches!(field.arg_kind(), staghound_engine::field::ArgKind::RequiredIndex))
        .map(|field| FieldRef::plain(*field))
        .collect();
    for key in [
        "flags",
        "mode",
        "uid",
        "pid",
        "prot",
        "request",
        "age",
        "cap_effective",
        "path",
        "in",
        "type",
        "cmd",
    ] {
        fields.push(FieldRef::key(Field::EvtArg, key));
        fields.push(FieldRef::key(Field::EvtRawarg, key));
    }
    let wild = Span {
        offset: 3,
        len: u16::MAX,
    };
    for number in 0..512_u32 {
        for record_flags in [0, flags::COMPAT, flags::IO_URING] {
            let mut data = Data::default();
            let bytes = data.add(&[0xff; 64]);
            let call = Call {
                result: i64::MIN,
                args: [u64::MAX; 6],
                inode: u64::MAX,
                device: u32::MAX,
                mode: u32::MAX,
                layer: u32::MAX,
                suppressed: u32::MAX,
                target: u32::MAX,
                reserved: u32::MAX,
                object: wild,
                new_object: bytes,
                base: wild,
                name: bytes,
                new_base: bytes,
                new_name: wild,
                text: bytes,
                more: bytes,
            };
            let header = Header {
                flags: record_flags,
                time_ns: u64::MAX,
                ..header(Kind::Call, number)
            };
            let bytes = record(header, call.as_bytes(), &data);
            World::new().told(&bytes, |event| {
                for field in &fields {
                    event.each(field, &mut |_| true);
                }
                assert!(event.behaviour().is_some_and(|text| text.len() < 4096));
            });
        }
    }
}
