//! What one record costs: decoding alone, and the whole line from bytes to rules with the embedded packs.
//!
//! Records are those of a build: a compiler is started, reads a header, and a connection is made. None matches a rule,
//! which is how it is with almost every record: making an alert is not measured here.

use std::hint::black_box;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use staghound::{
    event::{Event, Host, Names, Recall},
    packs,
    process::ProcessTable,
    sensor::decode::decode,
};
use staghound_ebpf::{Call, Exec, Fork, Header, Kind, Open, Socket, Span};
use staghound_engine::compile::Scratch;
use zerocopy::{FromBytes as _, IntoBytes as _};

const SECOND_NS: u64 = 1_000_000_000;
/// Above `PID_MAX_LIMIT`: `/proc` never has them, so that the table does not depend on the host.
const SHELL: u32 = 5_000_000;
const COMPILER: u32 = 5_000_001;

/// The variable part of a record while it is put together.
#[derive(Default)]
struct Data(Vec<u8>);

impl Data {
    fn add(&mut self, bytes: &[u8]) -> Span {
        let offset = u16::try_from(self.0.len()).expect("the data of these records is short");
        self.0.extend_from_slice(bytes);
        let len = u16::try_from(bytes.len()).expect("the data of these records is short");
        Span { offset, len }
    }
}

fn record(kind: Kind, pid: u32, comm: &[u8], syscall: u32, body: &[u8], data: &Data) -> Vec<u8> {
    let len = size_of::<Header>() + body.len() + data.0.len();
    let mut header = Header {
        time_ns: 100 * SECOND_NS,
        start_ns: u64::from(pid),
        cgroup_id: 4711,
        kind: kind as u16,
        len: u32::try_from(len).expect("these records are short"),
        pid,
        tid: pid,
        ppid: pid - 1,
        exec_count: 2,
        uid: 1000,
        euid: 1000,
        gid: 1000,
        egid: 1000,
        login_uid: u32::MAX,
        syscall,
        ..Header::default()
    };
    header.comm[..comm.len()].copy_from_slice(comm);
    [header.as_bytes(), body, &data.0].concat()
}

fn exec() -> Vec<u8> {
    let mut data = Data::default();
    let body = Exec {
        inode: 1_234_567,
        device: 0x80_0001,
        nlink: 1,
        mode: 0o100_755,
        args_bytes: 200,
        executable: data.add(b"cc1\x0012\0x86_64-linux-gnu\0gcc\0libexec\0usr\0"),
        cwd: data.add(b"build\0demo\0src\0builder\0home\0"),
        filename: data.add(b"/usr/libexec/gcc/x86_64-linux-gnu/12/cc1\0"),
        interpreter: data.add(b"/usr/libexec/gcc/x86_64-linux-gnu/12/cc1\0"),
        env: data.add(b"HOME=/home/builder\0CI=true\0"),
        args: data.add(
            b"/usr/libexec/gcc/x86_64-linux-gnu/12/cc1\0-quiet\0-I\0../include\0-imultiarch\0x86_64-linux-gnu\0main.c\0\
              -dumpbase\0main.c\0-mtune=generic\0-march=x86-64\0-O2\0-Wall\0-o\0/tmp/ccQ1x2y3.s\0",
        ),
        ..Exec::default()
    };
    record(Kind::Exec, COMPILER, b"cc1", 59, body.as_bytes(), &data)
}

fn fork() -> Vec<u8> {
    let body = Fork {
        child_start_ns: u64::from(COMPILER) + 1,
        child_pid: COMPILER + 1,
        child_ppid: COMPILER,
        ..Fork::default()
    };
    record(Kind::Fork, COMPILER, b"cc1", 56, body.as_bytes(), &Data::default())
}

fn open() -> Vec<u8> {
    let mut data = Data::default();
    let body = Open {
        inode: 7_654_321,
        device: 0x80_0001,
        mode: 0o100_644,
        open_flags: 0o100_000,
        file_mode: 1,
        result: 4,
        path: data.add(b"types.h\0bits\0x86_64-linux-gnu\0include\0usr\0"),
        ..Open::default()
    };
    record(Kind::Open, COMPILER, b"cc1", 257, body.as_bytes(), &data)
}

fn connect() -> Vec<u8> {
    let address = |first: [u8; 4]| {
        let mut bytes = [0; 16];
        bytes[..4].copy_from_slice(&first);
        bytes
    };
    let body = Socket {
        local: address([10, 0, 0, 7]),
        remote: address([192, 0, 2, 80]),
        local_port: 40_122,
        remote_port: 443,
        family: 2,
        protocol: 6,
        result: -115,
        descriptor: 5,
        ..Socket::default()
    };
    record(Kind::Connect, COMPILER, b"cc1", 42, body.as_bytes(), &Data::default())
}

fn call() -> Vec<u8> {
    let mut data = Data::default();
    let body = Call {
        args: [0x7ffe_0000_0000, 0o755, 0, 0, 0, 0],
        base: data.add(b"build\0demo\0src\0builder\0home\0"),
        name: data.add(b"objects/parser\0"),
        ..Call::default()
    };
    record(Kind::Call, COMPILER, b"cc1", 83, body.as_bytes(), &data)
}

/// Every kind of record that is measured, by its name.
fn records() -> [(&'static str, Vec<u8>); 5] {
    [
        ("exec", exec()),
        ("fork", fork()),
        ("open", open()),
        ("connect", connect()),
        ("call", call()),
    ]
}

fn decoding(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("decode");
    for (name, bytes) in records() {
        group.bench_function(name, |bencher| {
            bencher.iter(|| decode(black_box(&bytes)).expect("the record is whole").header.pid);
        });
    }
    group.finish();
}

/// A shell of several ancestors that started a compiler: what a rule asks about ancestors has some to walk.
fn table() -> ProcessTable {
    let mut table = ProcessTable::default();
    let mut apply = |bytes: &[u8]| {
        table.apply(&decode(bytes).expect("the record is whole"));
    };
    for pid in SHELL - 8..COMPILER {
        let child = Fork {
            child_start_ns: u64::from(pid) + 1,
            child_pid: pid + 1,
            child_ppid: pid,
            ..Fork::default()
        };
        apply(&record(Kind::Fork, pid, b"sh", 56, child.as_bytes(), &Data::default()));
    }
    apply(&exec());
    table
}

fn line(criterion: &mut Criterion) {
    let packs = packs::load(&packs::embedded()).expect("the embedded packs are checked by tests");
    let host = Host {
        name: "bench".to_owned(),
        boot_to_wall_ns: 0,
        in_run: false,
        earlier_agent: None,
    };
    let names = Names::of_host();
    let mut group = criterion.benchmark_group("line");
    for (name, bytes) in records() {
        let mut table = table();
        let mut scratch = Scratch::new();
        let mut recall = Recall::default();
        let mut number = 0;
        group.bench_function(name, |bencher| {
            bencher.iter_batched_ref(
                || {
                    number += 1;
                    (another(&bytes, number), number)
                },
                |(bytes, number)| {
                    let record = decode(bytes).expect("the record is whole");
                    let process = recall.actor(&record, &mut table).expect("none ends a connection");
                    let event = Event::of(&record, process, *number, &mut recall, &table, &host, &names)
                        .expect("each of these kinds is an event");
                    let mut found = 0_usize;
                    packs
                        .ruleset
                        .matches(black_box(&event), &mut scratch, &mut |_| found += 1);
                    assert_eq!(found, 0, "another record is needed here");
                },
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

/// The same record again; but a fork makes another process each time, or there would be nothing to take in.
fn another(bytes: &[u8], number: u64) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let (header, rest) = bytes.split_at_mut(size_of::<Header>());
    let header = Header::read_from_bytes(header).expect("the record is whole");
    if Kind::from_number(header.kind) == Some(Kind::Fork) {
        let (mut fork, _) = Fork::read_from_prefix(rest).expect("the record is whole");
        fork.child_start_ns += number;
        rest[..size_of::<Fork>()].copy_from_slice(fork.as_bytes());
    }
    bytes
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(30).measurement_time(std::time::Duration::from_secs(2));
    targets = decoding, line
}
criterion_main!(benches);
