//! What one event costs, by kind, with packs of different sizes; and what recorded events cost, one by one.
//!
//! `events.jsonl` holds events of builds with cargo, npm, pip and dpkg-buildpackage, of git and of services, as the agent
//! told them, a few of each directory and command. Synthetic rules but shaped like real ones: most ask for an event type, a process name or a path, and exclude some.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a benchmark stops at its first mistake and says what it measured"
)]
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "a recorded event has few fields; the others are unset"
)]

#[path = "../tests/rule_files/mod.rs"]
mod rule_files;

use std::cell::LazyCell;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::hint::black_box;
use std::net::IpAddr;
use std::path::Path;
use std::time::Instant;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use staghound_engine::compile::Scratch;
use staghound_engine::event::{Event, EventKind, Steady, Value};
use staghound_engine::field::{Field, FieldArg, FieldRef, FieldType};
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

/// An event as the agent told it.
struct Traced {
    kind: EventKind,
    /// None of the first event of a process, of which nothing is known yet.
    steady: Option<Steady>,
    /// Sorted by field.
    fields: Vec<(Field, FieldArg, Told)>,
    /// From the parent on.
    ancestors: Vec<String>,
}

enum Told {
    Text(String),
    Number(i64),
    Flag(bool),
    Address(IpAddr),
}

impl Event for Traced {
    fn kind(&self) -> EventKind {
        self.kind
    }

    fn steady(&self) -> Option<Steady> {
        self.steady
    }

    fn value(&self, field: &FieldRef) -> Option<Value<'_>> {
        let first = self.fields.partition_point(|(known, ..)| *known < field.field);
        let (.., told) = self.fields[first..]
            .iter()
            .take_while(|(known, ..)| *known == field.field)
            .find(|(_, arg, _)| *arg == field.arg)?;
        Some(match told {
            Told::Text(text) => Value::from(&**text),
            Told::Number(number) => Value::Number(*number),
            Told::Flag(flag) => Value::Flag(*flag),
            Told::Address(address) => Value::Address(*address),
        })
    }

    fn each(&self, field: &FieldRef, visit: &mut dyn FnMut(Value<'_>) -> bool) {
        if field.field == Field::ProcAname && field.arg == FieldArg::None {
            self.ancestors.iter().all(|ancestor| visit(Value::from(&**ancestor)));
        } else if let Some(value) = self.value(field) {
            visit(value);
        }
    }
}

impl Traced {
    /// Each as the first of its process, and, but for execs, as one of many.
    fn all() -> Vec<Self> {
        let first = include_str!("events.jsonl").lines().map(Self::read);
        let later = include_str!("events.jsonl")
            .lines()
            .map(Self::read)
            .filter(|event| event.kind != EventKind::Exec)
            .zip(0..)
            .map(|(event, process)| Self {
                steady: Some(Steady { process, name: [0; 16] }),
                ..event
            });
        first.chain(later).collect()
    }

    fn read(line: &str) -> Self {
        let told: BTreeMap<String, String> = serde_json::from_str(line).unwrap();
        let kind = EventKind::of_event_type(told["evt.type"].as_bytes()).unwrap();
        let ancestors = (1..).map_while(|index| told.get(&format!("proc.aname[{index}]")).cloned());
        let ancestors = ancestors.collect();
        let mut fields: Vec<(Field, FieldArg, Told)> = told
            .into_iter()
            .map(|(name, text)| {
                let field = FieldRef::parse(&name).unwrap();
                let value = match field.field.ty() {
                    FieldType::Text | FieldType::Path | FieldType::Any => Told::Text(text),
                    FieldType::Number | FieldType::Port => Told::Number(text.parse().unwrap()),
                    FieldType::Flag => Told::Flag(text == "true"),
                    FieldType::Address | FieldType::Network => Told::Address(text.parse().unwrap()),
                };
                (field.field, field.arg, value)
            })
            .collect();
        fields.sort_by_key(|(field, ..)| *field);
        Self {
            kind,
            steady: None,
            fields,
            ancestors,
        }
    }
}

/// Tells what the events cost one by one: each several times, the quickest counts.
fn spread(name: &str, ruleset: &Ruleset, events: &[&Traced]) {
    let mut scratch = Scratch::new();
    let mut costs: Vec<u128> = events
        .iter()
        .map(|event| {
            let mut time = || {
                const TIMES: u32 = 200;
                let start = Instant::now();
                for _ in 0..TIMES {
                    ruleset.matches(black_box(*event), &mut scratch, &mut |rule| {
                        black_box(rule);
                    });
                }
                (start.elapsed() / TIMES).as_nanos()
            };
            (0..9).map(|_| time()).min().unwrap()
        })
        .collect();
    costs.sort_unstable();
    let at = |part: usize| costs[(costs.len() - 1) * part / 100];
    println!(
        "{name}: {} events, median {} ns, 90 % {} ns, 99 % {} ns, most {} ns",
        costs.len(),
        at(50),
        at(90),
        at(99),
        at(100)
    );
}

fn traced(criterion: &mut Criterion) {
    let events = Traced::all();
    let mut packs: Vec<(&str, Load)> = vec![("recorded, shipped", Box::new(|| shipped(None)))];
    if let Some(corpora) = rule_files::corpora() {
        packs.push((
            "recorded, shipped, Falco and Sigma",
            Box::new(move || shipped(Some(&corpora))),
        ));
    }
    for (name, ruleset) in packs {
        let kinds = [
            ("execve", EventKind::Exec, false),
            ("open", EventKind::Open, false),
            ("open again", EventKind::Open, true),
        ];
        let of = |kind: EventKind, again: bool| -> Vec<&Traced> {
            let asked = |event: &&Traced| event.kind == kind && event.steady.is_some() == again;
            events.iter().filter(asked).collect()
        };
        let ruleset = LazyCell::new(|| {
            let ruleset = ruleset();
            for (what, kind, again) in kinds {
                spread(&format!("{name}, {what}"), &ruleset, &of(kind, again));
            }
            ruleset
        });
        for (what, kind, again) in kinds {
            let of_kind = of(kind, again);
            let mut scratch = Scratch::new();
            let mut group = criterion.benchmark_group(name);
            group.throughput(Throughput::Elements(of_kind.len().try_into().unwrap()));
            group.bench_function(what, |bencher| {
                let ruleset = &*ruleset;
                bencher.iter(|| {
                    let mut found = 0_usize;
                    for event in black_box(&of_kind) {
                        ruleset.matches(*event, &mut scratch, &mut |_| found += 1);
                    }
                    found
                });
            });
            group.finish();
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

/// Loads a pack when a benchmark of it is asked for.
type Load = Box<dyn FnOnce() -> Ruleset>;

/// The packs we ship, with other people's rules if asked for.
fn shipped(corpora: Option<&Path>) -> Ruleset {
    let mut files = rule_files::read(Path::new(rule_files::SHIPPED));
    files.extend(corpora.into_iter().flat_map(rule_files::read));
    match load(&rule_files::sources(&files)) {
        Ok(loaded) => loaded.ruleset,
        Err(errors) => panic!("{errors}"),
    }
}

fn matcher(criterion: &mut Criterion) {
    let mut packs: Vec<(String, Load)> = vec![
        ("shipped rules".to_owned(), Box::new(|| shipped(None))),
        ("100 rules".to_owned(), Box::new(|| pack(100))),
        ("1000 rules".to_owned(), Box::new(|| pack(1000))),
        ("10000 rules".to_owned(), Box::new(|| pack(10_000))),
    ];
    match rule_files::corpora() {
        Some(corpora) => packs.push((
            "shipped, Falco and Sigma".to_owned(),
            Box::new(move || shipped(Some(&corpora))),
        )),
        None => println!("not run: no corpora"),
    }
    for (name, ruleset) in packs {
        let ruleset = LazyCell::new(ruleset);
        let mut group = criterion.benchmark_group(name);
        for (name, event) in EVENTS {
            let mut scratch = Scratch::new();
            group.bench_with_input(BenchmarkId::from_parameter(name), event, |bencher, event| {
                let ruleset = &*ruleset;
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
    let ruleset = LazyCell::new(|| shipped(None));
    let mut group = criterion.benchmark_group("shipped rules, followed");
    for (name, event) in EVENTS {
        let mut scratch = Scratch::new();
        let mut memory = Memory::<()>::default();
        group.bench_with_input(BenchmarkId::from_parameter(name), event, |bencher, event| {
            let ruleset = &*ruleset;
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
    let files = rule_files::read(Path::new(rule_files::SHIPPED));
    let sources = rule_files::sources(&files);
    criterion.bench_function("load shipped rules", |bencher| {
        bencher.iter(|| load(black_box(&sources)));
    });
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(30).measurement_time(std::time::Duration::from_secs(2));
    targets = matcher, traced, following, loading
}
criterion_main!(benches);
