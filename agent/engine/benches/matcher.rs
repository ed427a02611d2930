//! What one event costs, by kind, with packs of different sizes.
//!
//! Rules are synthetic but shaped like real ones: most ask for an event type, a process name or a path, and exclude some.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a benchmark stops at its first mistake"
)]
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "a recorded event has few fields; the others are unset"
)]

use std::fmt::Write;
use std::hint::black_box;
use std::path::{Path, PathBuf};

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use staghound_engine::compile::Scratch;
use staghound_engine::event::{Event, EventKind, Value};
use staghound_engine::field::{Field, FieldArg, FieldRef};
use staghound_engine::memory::Memory;
use staghound_engine::ruleset::{Ruleset, load};
use staghound_engine::source::Source;

/// An event as the agent holds it: fields by match, nothing computed.
struct Recorded {
    kind: EventKind,
    event_type: &'static str,
    name: &'static str,
    exepath: &'static str,
    cmdline: &'static str,
    path: &'static str,
    write: bool,
    ancestors: &'static [&'static str],
}

impl Event for Recorded {
    fn kind(&self) -> EventKind {
        self.kind
    }

    fn value(&self, field: &FieldRef) -> Option<Value<'_>> {
        let is_open = self.kind == EventKind::Open;
        let text = match field.field {
            Field::EvtType => self.event_type,
            Field::ProcName => self.name,
            Field::ProcExepath => self.exepath,
            Field::ProcCmdline => self.cmdline,
            Field::ProcPname => self.ancestors.first()?,
            Field::FdName if is_open => self.path,
            Field::FdDirectory if is_open => self.path.rsplit_once('/')?.0,
            Field::FdFilename if is_open => self.path.rsplit_once('/')?.1,
            Field::EvtIsOpenRead if is_open => return Some(Value::Flag(!self.write)),
            Field::EvtIsOpenWrite if is_open => return Some(Value::Flag(self.write)),
            Field::UserUid => return Some(Value::Number(1000)),
            Field::ProcAname => match field.arg {
                FieldArg::Index(index) => self.ancestors.get(usize::try_from(index).ok()?.checked_sub(1)?)?,
                FieldArg::None | FieldArg::Key(_) => return None,
            },
            _ => return None,
        };
        Some(Value::from(text))
    }

    fn each(&self, field: &FieldRef, visit: &mut dyn FnMut(Value<'_>) -> bool) {
        if field.field == Field::ProcAname && field.arg == FieldArg::None {
            for ancestor in self.ancestors {
                if !visit(Value::from(*ancestor)) {
                    return;
                }
            }
        } else if let Some(value) = self.value(field) {
            visit(value);
        }
    }
}

const ANCESTORS: &[&str] = &["make", "sh", "bash", "sshd", "systemd"];

const EVENTS: &[(&str, Recorded)] = &[
    (
        "exec",
        Recorded {
            kind: EventKind::Exec,
            event_type: "execve",
            name: "cc1",
            exepath: "/usr/lib/gcc/x86_64-linux-gnu/12/cc1",
            cmdline: "cc1 -quiet -imultiarch x86_64-linux-gnu main.c -dumpbase main.c -mtune=generic -O2 -o /tmp/ccXq3B.s",
            path: "",
            write: false,
            ancestors: ANCESTORS,
        },
    ),
    (
        "open",
        Recorded {
            kind: EventKind::Open,
            event_type: "openat",
            name: "cc1",
            exepath: "/usr/lib/gcc/x86_64-linux-gnu/12/cc1",
            cmdline: "cc1 -quiet -imultiarch x86_64-linux-gnu main.c -dumpbase main.c -mtune=generic -O2 -o /tmp/ccXq3B.s",
            path: "/usr/include/x86_64-linux-gnu/bits/types/struct_timespec.h",
            write: false,
            ancestors: ANCESTORS,
        },
    ),
    (
        "fork",
        Recorded {
            kind: EventKind::Fork,
            event_type: "clone3",
            name: "make",
            exepath: "/usr/bin/make",
            cmdline: "make -j2",
            path: "",
            write: false,
            ancestors: ANCESTORS,
        },
    ),
];

/// A pack of `count` rules of six shapes.
fn pack(count: usize) -> Ruleset {
    let mut text = "- list: shells\n  items: [sh, bash, dash, zsh, ash]\n\
         - macro: started\n  condition: (evt.type in (execve, execveat))\n\
         - macro: read\n  condition: (evt.type in (open, openat, openat2) and evt.is_open_read = true)\n\
         - macro: written\n  condition: (evt.type in (open, openat, openat2) and evt.is_open_write = true)\n"
        .to_owned();
    for index in 0..count {
        let condition = match index % 6 {
            0 => format!(
                "started and proc.name in (tool{index}, other{index}) and not proc.pname in (parent{index}, shells)"
            ),
            1 => format!(
                "started and proc.name in (shells) and proc.cmdline contains \"--flag{index} \" and not proc.aname in (keeper{index})"
            ),
            2 => {
                format!("read and fd.name startswith /srv/secrets{index}/ and not proc.exepath = /usr/bin/tool{index}")
            }
            3 => format!(
                "written and (fd.directory in (/etc/conf{index}.d, /usr/lib/conf{index}.d) or fd.filename = conf{index})"
            ),
            4 => format!(
                "started and proc.exepath startswith /opt/agent{index}/ and proc.cmdline contains \"{index}.example.org\""
            ),
            _ => format!("read and fd.name endswith .key{index} and not proc.name in (ssh, gpg, tool{index})"),
        };
        write!(
            text,
            "- rule: rule {index}\n  desc: d\n  condition: '{condition}'\n  output: '%proc.name'\n  priority: ERROR\n"
        )
        .unwrap();
    }
    match load(&[Source {
        name: "bench.yaml",
        text: &text,
    }]) {
        Ok(loaded) => {
            assert_eq!(loaded.ruleset.rules().len(), count, "every rule is active");
            loaded.ruleset
        }
        Err(errors) => panic!("{errors}"),
    }
}

/// Rule files of a tree, in order.
fn collect(directory: &Path, into: &mut Vec<PathBuf>) {
    let mut entries: Vec<PathBuf> = std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    entries.sort();
    for entry in entries {
        if entry.is_dir() {
            collect(&entry, into);
        } else if entry
            .extension()
            .is_some_and(|extension| extension == "yaml" || extension == "yml")
        {
            into.push(entry);
        }
    }
}

/// The packs we ship, in the order they are loaded in; with other people's rules, if they are there.
fn shipped(corpora: Option<&Path>) -> Ruleset {
    let mut files = Vec::new();
    collect(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../rules")), &mut files);
    if let Some(corpora) = corpora {
        collect(corpora, &mut files);
    }
    let texts: Vec<String> = files
        .iter()
        .map(|path| std::fs::read_to_string(path).unwrap())
        .collect();
    let sources: Vec<Source<'_>> = texts
        .iter()
        .map(|text| Source {
            name: "shipped.yaml",
            text,
        })
        .collect();
    match load(&sources) {
        Ok(loaded) => loaded.ruleset,
        Err(errors) => panic!("{errors}"),
    }
}

fn matcher(criterion: &mut Criterion) {
    let mut packs = vec![
        ("shipped rules".to_owned(), shipped(None)),
        ("100 rules".to_owned(), pack(100)),
        ("1000 rules".to_owned(), pack(1000)),
        ("10000 rules".to_owned(), pack(10_000)),
    ];
    if let Some(corpora) = std::env::var_os("STAGHOUND_CORPORA") {
        let ruleset = shipped(Some(Path::new(&corpora)));
        packs.push((
            format!("shipped, Falco and Sigma: {} rules", ruleset.rules().len()),
            ruleset,
        ));
    }
    for (name, ruleset) in packs {
        let mut group = criterion.benchmark_group(name);
        for (name, event) in EVENTS {
            let mut scratch = Scratch::new();
            group.bench_with_input(BenchmarkId::from_parameter(name), event, |bencher, event| {
                bencher.iter(|| {
                    let mut found = 0_usize;
                    ruleset.matches(black_box(event), &mut scratch, &mut |_| found += 1);
                    found
                });
            });
        }
        group.finish();
    }
}

/// The same with what rules over several events need.
fn following(criterion: &mut Criterion) {
    let ruleset = shipped(None);
    let mut group = criterion.benchmark_group("shipped rules, followed");
    for (name, event) in EVENTS {
        let mut scratch = Scratch::new();
        let mut memory = Memory::<()>::default();
        group.bench_with_input(BenchmarkId::from_parameter(name), event, |bencher, event| {
            bencher.iter(|| {
                let mut found = 0_usize;
                ruleset.follow(black_box(event), &mut scratch, &mut memory, &mut || (), &mut |_| {
                    found += 1;
                });
                found
            });
        });
    }
    group.finish();
}

fn loading(criterion: &mut Criterion) {
    criterion.bench_function("load 1000 rules", |bencher| bencher.iter(|| pack(1000)));
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(30).measurement_time(std::time::Duration::from_secs(2));
    targets = matcher, following, loading
}
criterion_main!(benches);
