//! What holds for any input: nothing panics, printing and parsing agree, the compiled ruleset agrees with the plain reading.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::fmt::Write;

use proptest::prelude::*;
use staghound_engine::compile::Scratch;
use staghound_engine::demand::{Access, AccessSet, Opens};
use staghound_engine::event::{Event, EventKind, Steady, Value};
use staghound_engine::example::ExampleEvent;
use staghound_engine::field::{Field, FieldRef};
use staghound_engine::ruleset::load;
use staghound_engine::source::Source;
use staghound_engine::syntax;

const NAMES: &[&str] = &["sh", "bash", "b", "cat", "Cat", "sshd", "a b", ""];
const PATHS: &[&str] = &[
    "/etc/shadow",
    "/etc/passwd",
    "/etc",
    "/etcd/x",
    "/home/me/.ssh/id_rsa",
    "/",
    "/tmp/x.SO",
    "rel",
    "",
    "/home/me/.ssh/id_rsa.pub",
    "/.ssh/",
    "/etc/",
    ".SO",
    "id_rsa",
    "shadow",
    "/home/*/.ssh/*",
    "*.S[MNO]",
    "/etc/shado?",
];
const ADDRESSES: &[&str] = &["10.0.0.1", "10.1.2.3", "127.0.0.1", "fd00::1", "::ffff:10.0.0.1"];

fn quoted(text: &str) -> String {
    format!("\"{text}\"")
}

/// A check as text.
fn check() -> impl Strategy<Value = String> {
    let name = prop::sample::select(NAMES);
    let names = prop::collection::vec(prop::sample::select(NAMES), 0..4);
    let path = prop::sample::select(PATHS);
    let paths = prop::collection::vec(prop::sample::select(PATHS), 0..4);
    let list = |values: Vec<&str>| values.iter().map(|value| quoted(value)).collect::<Vec<_>>().join(", ");
    let name_field = prop::sample::select(vec![
        "proc.name",
        "proc.pname",
        "proc.aname",
        "proc.aname[2]",
        "tolower(proc.name)",
        "proc.cmdline",
        "evt.arg.mode",
        "proc.env[X]",
    ]);
    let path_field = prop::sample::select(vec![
        "fd.name",
        "fd.directory",
        "fd.filename",
        "tolower(fd.filename)",
        "proc.exepath",
        "proc.aexepath",
        "fs.path.name",
        "basename(fd.name)",
    ]);
    let text_operator = prop::sample::select(vec![
        "=",
        "!=",
        "startswith",
        "endswith",
        "contains",
        "icontains",
        "glob",
        "iglob",
        "contains",
        "startswith",
    ]);
    let number_operator = prop::sample::select(vec!["=", "!=", "<", "<=", ">", ">="]);
    let types: Vec<&str> = EventKind::ALL
        .iter()
        .flat_map(|kind| kind.event_types())
        .copied()
        .collect();
    prop_oneof![
        (name_field.clone(), text_operator.clone(), name.clone())
            .prop_map(|(f, o, v)| format!("{f} {o} {}", quoted(v))),
        (name_field.clone(), names.clone()).prop_map(move |(f, v)| format!("{f} in ({})", list(v))),
        (
            name_field.clone(),
            prop::sample::select(vec!["anyof", "allof", "oneof"]),
            text_operator.clone(),
            names.clone()
        )
            .prop_map(move |(f, q, o, v)| format!("{f} {o} {q} ({})", list(v))),
        (path_field.clone(), text_operator, path).prop_map(|(f, o, v)| format!("{f} {o} {}", quoted(v))),
        (
            path_field.clone(),
            prop::sample::select(vec!["in", "pmatch", "intersects"]),
            paths
        )
            .prop_map(move |(f, o, v)| format!("{f} {o} ({})", list(v))),
        (prop_oneof![name_field, path_field]).prop_map(|f| format!("{f} exists")),
        (
            prop::sample::select(vec!["proc.pid", "evt.rawres", "fd.num", "proc.apid", "len(proc.name)"]),
            number_operator.clone(),
            -2..6
        )
            .prop_map(|(f, o, v)| format!("{f} {o} {v}")),
        (prop::sample::select(vec!["fd.sport", "fd.port"]), number_operator, 0..6)
            .prop_map(|(f, o, v)| format!("{f} {o} {v}")),
        prop::collection::vec(prop::sample::select(types), 1..5)
            .prop_map(|v| format!("evt.type in ({})", v.join(", "))),
        (
            prop::sample::select(vec![
                "evt.is_open_read",
                "evt.is_open_write",
                "evt.is_open_create",
                "evt.is_open_exec",
                "evt.failed",
                "proc.is_exe_from_memfd"
            ]),
            any::<bool>()
        )
            .prop_map(|(f, v)| format!("{f} = {v}")),
        (
            prop::sample::select(vec!["fd.sip", "fd.ip", "fd.net"]),
            prop::sample::select(vec!["=", "!="]),
            prop::sample::select(vec!["10.0.0.0/8", "127.0.0.1", "fd00::/16", "10.0.0.1"])
        )
            .prop_map(|(f, o, v)| format!("{f} {o} \"{v}\"")),
        Just("proc.name = val(proc.pname)".to_owned()),
        Just("proc.aname contains tolower(proc.name)".to_owned()),
        Just("proc.cmdline regex \"[a-c]+.*\"".to_owned()),
        Just("proc.cmdline regex \".*(bash|sshd).?\"".to_owned()),
        Just("fd.name regex \"/(home|etc/pass).*\"".to_owned()),
        Just("proc.aexepath regex \".*/[.]ssh/.*\"".to_owned()),
    ]
}

fn condition() -> impl Strategy<Value = String> {
    check().prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 2..4).prop_map(|parts| format!("({})", parts.join(" and "))),
            prop::collection::vec(inner.clone(), 2..4).prop_map(|parts| format!("({})", parts.join(" or "))),
            inner.prop_map(|part| format!("not ({part})")),
        ]
    })
}

/// An event with some fields set, as its kind allows.
fn event() -> impl Strategy<Value = ExampleEvent> {
    let types: Vec<&str> = EventKind::ALL
        .iter()
        .flat_map(|kind| kind.event_types())
        .copied()
        .collect();
    let name = || prop::option::of(prop::sample::select(NAMES));
    let path = || prop::option::of(prop::sample::select(PATHS));
    (
        // Half of them of the kinds with the most fields.
        prop_oneof![
            prop::sample::select(types),
            prop::sample::select(vec!["openat", "openat", "open", "execve", "connect", "chmod"]),
        ],
        (
            name(),
            prop::collection::vec(prop::sample::select(NAMES), 0..4),
            name(),
            name(),
        ),
        (path(), path(), prop::collection::vec(prop::sample::select(PATHS), 0..3)),
        (
            prop::option::of(0_i64..6),
            prop::option::of(0_i64..6),
            (
                any::<bool>(),
                prop::option::of(any::<bool>()),
                any::<bool>(),
                any::<bool>(),
                prop::option::of(-2_i64..3),
            ),
            prop::option::of(prop::sample::select(ADDRESSES)),
        ),
        any::<bool>(),
    )
        .prop_map(
            |(
                event_type,
                (name, ancestors, cmdline, env),
                (file, exe, executables),
                (pid, port, (read, write, create, executable, result), address),
                derived,
            )| {
                let mut event = ExampleEvent::new(event_type).unwrap();
                let kinds = |field: &FieldRef, event: &ExampleEvent| field.kinds().contains(event.kind());
                let set = |event: &mut ExampleEvent, field: FieldRef, value: Option<Value<'_>>| {
                    if let Some(value) = value.filter(|_| kinds(&field, event)) {
                        event.set(&field, value);
                    }
                };
                set(&mut event, FieldRef::plain(Field::ProcName), name.map(Value::from));
                set(
                    &mut event,
                    FieldRef::plain(Field::ProcCmdline),
                    cmdline.map(Value::from),
                );
                set(&mut event, FieldRef::key(Field::ProcEnv, "X"), env.map(Value::from));
                set(&mut event, FieldRef::plain(Field::FdName), file.map(Value::from));
                set(&mut event, FieldRef::plain(Field::FsPathName), file.map(Value::from));
                set(&mut event, FieldRef::plain(Field::ProcExepath), exe.map(Value::from));
                set(&mut event, FieldRef::plain(Field::ProcPid), pid.map(Value::Number));
                set(&mut event, FieldRef::key(Field::EvtArg, "mode"), pid.map(Value::Number));
                set(&mut event, FieldRef::plain(Field::FdSport), port.map(Value::Number));
                for (field, is) in [
                    (Field::EvtIsOpenRead, Some(read)),
                    (Field::EvtIsOpenWrite, write),
                    (Field::EvtIsOpenCreate, Some(create)),
                    (Field::EvtIsOpenExec, Some(create && executable)),
                    (Field::EvtFailed, result.map(|result| result < 0)),
                ] {
                    set(&mut event, FieldRef::plain(field), is.map(Value::Flag));
                }
                for field in [Field::EvtRawres, Field::FdNum] {
                    set(&mut event, FieldRef::plain(field), result.map(Value::Number));
                }
                set(
                    &mut event,
                    FieldRef::plain(Field::FdSip),
                    address.map(|address| Value::Address(address.parse().unwrap())),
                );
                let values: Vec<Value<'_>> = ancestors.iter().map(|ancestor| Value::from(*ancestor)).collect();
                event.set_each(&FieldRef::plain(Field::ProcAname), &values);
                let values: Vec<Value<'_>> = executables.iter().map(|executable| Value::from(*executable)).collect();
                event.set_each(&FieldRef::plain(Field::ProcAexepath), &values);
                if derived {
                    event.derive();
                }
                event
            },
        )
}

/// An event of a process that can be told from others.
struct OfProcess<'a>(&'a ExampleEvent, u64);

impl Event for OfProcess<'_> {
    fn kind(&self) -> EventKind {
        self.0.kind()
    }

    fn steady(&self) -> Option<Steady> {
        // Some share a place.
        let process = self.1 % 2 * 256 + self.1 / 2;
        Some(Steady { process, name: [0; 16] })
    }

    fn value(&self, field: &FieldRef) -> Option<Value<'_>> {
        self.0.value(field)
    }

    fn each(&self, field: &FieldRef, visit: &mut dyn FnMut(Value<'_>) -> bool) {
        self.0.each(field, visit);
    }
}

/// A check of the path of an open, of few letters, so that much of it nearly matches.
fn path_check() -> impl Strategy<Value = String> {
    (
        prop::sample::select(vec![
            "fd.name",
            "fd.name",
            "fs.path.name",
            "fd.directory",
            "fd.filename",
            "basename(fd.name)",
        ]),
        prop::sample::select(vec!["=", "startswith", "endswith", "contains", "glob", "in", "pmatch"]),
        "/?((a|ab|[.]x|b[.]x|[*]|[?]|[*]a|a[*])/){0,2}(a|b|ab|[.]x|[*]|[?])?",
    )
        .prop_map(|(field, operator, value)| match operator {
            "in" | "pmatch" => format!("{field} {operator} ({})", quoted(&value)),
            _ => format!("{field} {operator} {}", quoted(&value)),
        })
}

fn path_condition() -> impl Strategy<Value = String> {
    path_check().prop_recursive(2, 6, 2, |inner| {
        prop_oneof![
            (inner.clone(), inner.clone()).prop_map(|(left, right)| format!("({left} and {right})")),
            (inner.clone(), inner.clone()).prop_map(|(left, right)| format!("({left} or {right})")),
            inner.prop_map(|part| format!("not ({part})")),
        ]
    })
}

/// Rules with these conditions, as a file.
fn rules(conditions: &[String]) -> String {
    let mut text = String::new();
    for (index, condition) in conditions.iter().enumerate() {
        let condition = condition.replace('\'', "''");
        write!(
            text,
            "- rule: rule {index}\n  desc: d\n  condition: '{condition}'\n  output: '%proc.name'\n  priority: ERROR\n"
        )
        .unwrap();
    }
    text
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_compiled_ruleset_agrees_with_the_plain_reading(
        conditions in prop::collection::vec(condition(), 1..12),
        events in prop::collection::vec(event(), 1..20),
    ) {
        let text = rules(&conditions);
        let loaded = match load(&[Source { name: "random.yaml", text: &text }]) {
            Ok(loaded) => loaded,
            Err(errors) => panic!("{errors}\n{text}"),
        };
        let ruleset = loaded.ruleset;
        prop_assert_eq!(ruleset.rules().len() + loaded.inactive.len(), conditions.len());
        let mut scratch = Scratch::new();
        for event in &events {
            let mut found = Vec::new();
            ruleset.matches(event, &mut scratch, &mut |rule| found.push(&*rule.name));
            let expected: Vec<&str> =
                ruleset.rules().iter().filter(|rule| ruleset.interpret(rule, event)).map(|rule| &*rule.name).collect();
            prop_assert_eq!(&found, &expected, "{:?}\n{}", event, text);
            for rule in ruleset.rules() {
                let mut output = String::new();
                rule.output.render(event, &mut output);
                prop_assert!(!ruleset.explain(rule, event).is_empty());
            }
        }
    }

    #[test]
    fn what_is_known_of_a_process_changes_no_answer(
        conditions in prop::collection::vec(condition(), 1..12),
        processes in prop::collection::vec(event(), 1..6),
        paths in prop::collection::vec((prop::sample::select(PATHS), -2_i64..3), 1..8),
    ) {
        let text = rules(&conditions);
        let ruleset = match load(&[Source { name: "random.yaml", text: &text }]) {
            Ok(loaded) => loaded.ruleset,
            Err(errors) => panic!("{errors}\n{text}"),
        };
        let mut scratch = Scratch::new();
        for (path, number) in paths {
            for (process, event) in (0..).zip(&processes) {
                // The same process does something else.
                let mut event = event.clone();
                let path = Value::from(path);
                let number = Value::Number(number);
                for (field, value) in [
                    (FieldRef::plain(Field::FdName), path),
                    (FieldRef::plain(Field::FsPathName), path),
                    (FieldRef::key(Field::ProcEnv, "X"), path),
                    (FieldRef::plain(Field::ProcPid), number),
                    (FieldRef::key(Field::EvtArg, "mode"), number),
                ] {
                    if field.kinds().contains(event.kind()) {
                        event.set(&field, value);
                    }
                }
                let mut found = Vec::new();
                ruleset.matches(&OfProcess(&event, process), &mut scratch, &mut |rule| found.push(&*rule.name));
                let expected: Vec<&str> =
                    ruleset.rules().iter().filter(|rule| ruleset.interpret(rule, &event)).map(|rule| &*rule.name).collect();
                prop_assert_eq!(&found, &expected, "{:?}\n{}", event, text);
            }
        }
    }

    #[test]
    fn what_a_rule_matches_is_demanded(
        conditions in prop::collection::vec(condition(), 1..6),
        events in prop::collection::vec(event(), 1..40),
    ) {
        let text = rules(&conditions);
        let ruleset = match load(&[Source { name: "random.yaml", text: &text }]) {
            Ok(loaded) => loaded.ruleset,
            Err(errors) => panic!("{errors}\n{text}"),
        };
        let demand = ruleset.demand();
        let plain = |field: Field| FieldRef::plain(field);
        for event in &events {
            let matching: Vec<_> = ruleset.rules().iter().filter(|rule| ruleset.interpret(rule, event)).collect();
            if matching.is_empty() {
                continue;
            }
            let Some(Value::Text(event_type)) = event.value(&plain(Field::EvtType)) else {
                panic!("an event without a type");
            };
            let event_type = std::str::from_utf8(event_type).unwrap();
            prop_assert!(demand.wants(event_type), "{:?}\n{}", event, text);
            let reasons: Vec<_> = demand.reasons(event_type).collect();
            let is = |field| event.value(&plain(field)) == Some(Value::Flag(true));
            let access = Access {
                read: is(Field::EvtIsOpenRead),
                write: is(Field::EvtIsOpenWrite),
                create: is(Field::EvtIsOpenCreate),
                failed: matches!(event.value(&plain(Field::EvtRawres)), Some(Value::Number(result)) if result < 0),
            };
            let fd_name = plain(Field::FdName);
            let path = match event.value(&fd_name) {
                Some(Value::Text(path)) => path,
                _ => b"",
            };
            // Opens by a handle are never left out.
            let may_be_left_out = event.kind() == EventKind::Open && event_type != "open_by_handle_at";
            if may_be_left_out {
                prop_assert!(demand.opens(access).admits(path), "{:?}\n{}", event, text);
            }
            for rule in matching {
                let reason = reasons.iter().find(|reason| *reason.rule == *rule.id);
                let Some(reason) = reason else {
                    panic!("no reason for {}\n{text}", rule.id);
                };
                if may_be_left_out {
                    let admits = |(accesses, opens): &(AccessSet, Opens)| accesses.contains(access) && opens.admits(path);
                    prop_assert!(reason.opens.iter().any(admits), "{:?}\n{}", event, text);
                }
            }
        }
    }

    #[test]
    fn what_a_rule_matches_of_paths_is_demanded(
        conditions in prop::collection::vec(path_condition(), 12),
        paths in prop::collection::vec("(/(a|b|ab|aa|[.]x|b[.]x|ab[.]x)){0,3}", 20),
    ) {
        let text = rules(&conditions);
        let ruleset = match load(&[Source { name: "random.yaml", text: &text }]) {
            Ok(loaded) => loaded.ruleset,
            Err(errors) => panic!("{errors}\n{text}"),
        };
        let demand = ruleset.demand();
        let reasons: Vec<_> = demand.reasons("openat").collect();
        for path in &paths {
            let mut event = ExampleEvent::new("openat").unwrap();
            event.set(&FieldRef::plain(Field::FdName), Value::from(path.as_str()));
            event.set(&FieldRef::plain(Field::FsPathName), Value::from(path.as_str()));
            event.derive();
            for rule in ruleset.rules().iter().filter(|rule| ruleset.interpret(rule, &event)) {
                let reason = reasons.iter().find(|reason| *reason.rule == *rule.id);
                let admits = |(accesses, opens): &(AccessSet, Opens)| {
                    accesses.contains(Access::default()) && opens.admits(path.as_bytes())
                };
                prop_assert!(reason.is_some_and(|reason| reason.opens.iter().any(admits)), "{path}: {}", rule.condition);
            }
        }
    }

    #[test]
    fn what_is_printed_parses_to_the_same(condition in condition()) {
        let first = syntax::parse(&condition).unwrap();
        let printed = first.to_string();
        let second = syntax::parse(&printed).unwrap();
        prop_assert_eq!(second.to_string(), printed);
    }

    #[test]
    fn no_text_makes_the_parser_panic(text in "\\PC*|[ a-z.()\\[\\]'\"=<>!,\\\\x0-9]*") {
        if let Ok(syntax) = syntax::parse(&text) {
            let printed = syntax.to_string();
            prop_assert_eq!(syntax::parse(&printed).map(|again| again.to_string()), Ok(printed));
        }
    }

    #[test]
    fn no_field_name_makes_the_registry_panic(text in "\\PC{0,40}|[a-z.\\[\\]0-9]{0,40}") {
        let _outcome = FieldRef::parse(&text);
    }

    #[test]
    fn no_text_makes_the_loader_panic(text in "(\\PC|\n){0,200}|([-a-z: \\[\\]{},'\"|>&*#\n]){0,200}") {
        let _outcome = load(&[Source { name: "random.yaml", text: &text }]);
    }

    #[test]
    fn no_damage_to_a_rule_file_makes_the_loader_panic(at in 0_usize..2000, length in 0_usize..40, instead in "\\PC{0,6}|[-:\n '\"\\[{]{0,6}") {
        let text = include_str!("good/language.yaml");
        let start = (0..=at.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap();
        let end = (start..=(start + length).min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap();
        let damaged = format!("{}{instead}{}", &text[..start], &text[end..]);
        let _outcome = load(&[Source { name: "damaged.yaml", text: &damaged }]);
    }
}
