//! Rules over several events: what they mean, compared with a plain reading, and that what they remember is bounded.
#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]
#![expect(clippy::wildcard_enum_match_arm, reason = "events of few fields")]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use proptest::prelude::*;
use staghound_engine::compile::Scratch;
use staghound_engine::event::{Event, EventKind, Subject, Value};
use staghound_engine::field::{Field, FieldRef};
use staghound_engine::memory::{Evidence, Limits, Memory};
use staghound_engine::ruleset::{Found, Inactivity, Loaded, Ruleset, load};
use staghound_engine::source::Source;
use staghound_engine::throttle::Throttles;

const SECOND: u64 = 1_000_000_000;

fn loaded(text: &str) -> Loaded {
    match load(&[Source { name: "t.yaml", text }]) {
        Ok(loaded) => loaded,
        Err(errors) => panic!("{errors}\n{text}"),
    }
}

fn mistakes(text: &str) -> String {
    load(&[Source { name: "t.yaml", text }]).unwrap_err().to_string()
}

/// An exec of a program by a process, with its ancestors.
#[derive(Clone, Debug)]
struct Happened {
    time_ns: u64,
    name: &'static str,
    directory: String,
    pid: i64,
    uid: i64,
    ancestors: Vec<i64>,
    weight: u64,
}

impl Event for Happened {
    fn kind(&self) -> EventKind {
        EventKind::Exec
    }

    fn time_ns(&self) -> u64 {
        self.time_ns
    }

    fn weight(&self) -> u64 {
        self.weight
    }

    fn value(&self, field: &FieldRef) -> Option<Value<'_>> {
        match field.field {
            Field::EvtType => Some(Value::from("execve")),
            Field::ProcName => Some(Value::from(self.name)),
            Field::ProcCwd => Some(Value::Text(self.directory.as_bytes())),
            Field::ProcPid => Some(Value::Number(self.pid)),
            Field::UserUid => Some(Value::Number(self.uid)),
            _ => None,
        }
    }

    fn ancestry(&self, visit: &mut dyn FnMut(u128) -> bool) {
        for ancestor in &self.ancestors {
            if !visit(u128::from(ancestor.cast_unsigned())) {
                return;
            }
        }
    }
}

/// The number of an event is all that is kept of it.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Number(usize);

impl Evidence for Number {
    fn bytes(&self) -> usize {
        100
    }
}

fn event(time_s: u64, name: &'static str) -> Happened {
    Happened {
        time_ns: time_s * SECOND,
        name,
        directory: "/".to_owned(),
        pid: 1000,
        uid: 0,
        ancestors: Vec::new(),
        weight: 1,
    }
}

/// What is found of a stream: for each match the number of the event, the rule and the events before.
fn follow(ruleset: &Ruleset, events: &[Happened], memory: &mut Memory<Number>) -> Vec<(usize, String, Vec<usize>)> {
    let mut scratch = Scratch::new();
    let mut matches = Vec::new();
    for (number, event) in events.iter().enumerate() {
        ruleset.follow(event, &mut scratch, memory, &mut || Number(number), &mut |found| {
            let (Found::Now(rule, earlier) | Found::Late(rule, earlier)) = found;
            let earlier = earlier.iter().map(|Number(number)| *number).collect();
            matches.push((number, rule.id.to_string(), earlier));
        });
    }
    matches
}

fn found(text: &str, events: &[Happened]) -> Vec<(usize, String, Vec<usize>)> {
    let loaded = loaded(text);
    assert!(loaded.inactive.is_empty(), "{:?}", loaded.inactive);
    follow(&loaded.ruleset, events, &mut Memory::default())
}

fn rule(id: &str, rest: &str) -> String {
    format!("- rule: {id}\n  id: {id}\n  desc: d\n  output: o\n  severity: high\n{rest}")
}

#[test]
fn a_sequence_needs_its_steps_in_order_and_in_time() {
    let text = rule(
        "s",
        "  sequence: {steps: [\"proc.name = a\", \"proc.name = b\", {condition: \"proc.name = c\"}], within: 10s, by: process}\n",
    );
    let names =
        |names: &[&'static str]| -> Vec<Happened> { (1..).zip(names).map(|(time, name)| event(time, name)).collect() };
    let ids = |events: &[Happened]| -> Vec<(usize, Vec<usize>)> {
        found(&text, events)
            .into_iter()
            .map(|(at, _, earlier)| (at, earlier))
            .collect()
    };
    assert_eq!(ids(&names(&["a", "b", "c"])), [(2, vec![0, 1])]);
    assert_eq!(ids(&names(&["b", "a", "c"])), []);
    // The latest begin counts, and a match uses its events up.
    assert_eq!(ids(&names(&["a", "b", "a", "b", "c", "c"])), [(4, vec![2, 3])]);
    let late = [event(1, "a"), event(2, "b"), event(12, "c")];
    assert_eq!(ids(&late), []);
    let other = [
        event(1, "a"),
        Happened {
            pid: 7,
            ..event(2, "b")
        },
        event(3, "c"),
    ];
    assert_eq!(ids(&other), []);
}

#[test]
fn unordered_steps_come_in_any_order() {
    let text = rule(
        "s",
        "  sequence: {steps: [\"proc.name = a\", \"proc.name in (a, b)\"], within: 10s, by: user, ordered: false}\n",
    );
    assert_eq!(
        found(&text, &[event(1, "b"), event(2, "a")]),
        [(1, "s".to_owned(), vec![])]
    );
    let text = rule(
        "s",
        "  sequence: {steps: [\"proc.name = a\", \"proc.name = b\"], within: 10s, by: user, ordered: false}\n",
    );
    assert_eq!(
        found(&text, &[event(1, "b"), event(2, "a")]),
        [(1, "s".to_owned(), vec![0])]
    );
    assert_eq!(found(&text, &[event(1, "b"), event(12, "a")]), []);
}

#[test]
fn lineage_joins_what_one_session_does_and_descent_what_comes_of_one_process() {
    let steps = "steps: [\"proc.name = a\", \"proc.name = b\"], within: 10s";
    let by = |by: &str| rule("s", &format!("  sequence: {{{steps}, by: \"{by}\"}}\n"));
    let of = |pid: i64, ancestors: &[i64], name: &'static str| Happened {
        pid,
        ancestors: ancestors.to_vec(),
        ..event(1, name)
    };
    let siblings = [of(5, &[4, 3, 2], "a"), of(6, &[3, 2], "b")];
    let child = [of(5, &[4, 3, 2], "a"), of(6, &[5, 4, 3, 2], "b")];
    let strangers = [of(5, &[4, 3, 2], "a"), of(6, &[7], "b")];
    for (join, siblings_match, child_matches) in [
        ("lineage", true, true),
        ("lineage[1]", false, true),
        ("lineage[2]", true, true),
        ("descent", false, true),
        ("process", false, false),
    ] {
        assert_eq!(!found(&by(join), &siblings).is_empty(), siblings_match, "{join}");
        assert_eq!(!found(&by(join), &child).is_empty(), child_matches, "{join}");
        assert_eq!(found(&by(join), &strangers), [], "{join}");
    }
}

#[test]
fn thresholds_count_events_values_and_rules() {
    let count = rule(
        "t",
        "  condition: proc.name = a\n  threshold: {count: 3, within: 10s, by: process}\n",
    );
    let times: Vec<Happened> = [1, 2, 20, 21, 22, 23].map(|time| event(time, "a")).to_vec();
    assert_eq!(found(&count, &times), [(4, "t".to_owned(), vec![2, 3])]);
    let heavy = [
        event(1, "a"),
        Happened {
            weight: 2,
            ..event(2, "a")
        },
    ];
    assert_eq!(found(&count, &heavy), [(1, "t".to_owned(), vec![0])]);

    let distinct = rule(
        "t",
        "  condition: proc.name = a\n  threshold: {count: 2, distinct: proc.cwd, within: 10s, by: host}\n",
    );
    let at = |time, directory: &str| Happened {
        directory: directory.to_owned(),
        ..event(time, "a")
    };
    let same = [at(1, "/x"), at(2, "/x"), at(3, "/y")];
    assert_eq!(found(&distinct, &same), [(2, "t".to_owned(), vec![0])]);
    assert_eq!(found(&distinct, &[at(1, "/x"), at(12, "/y")]), []);

    let plain = |id: &str, severity: &str, name: &str| {
        format!(
            "- rule: {id}\n  id: {id}\n  desc: d\n  output: o\n  severity: {severity}\n  tags: [x]\n  condition: proc.name = {name}\n"
        )
    };
    let over = |what: &str| {
        format!(
            "{}{}{}{}",
            rule(
                "t",
                &format!("  threshold: {{{what}, distinct: rule, count: 2, within: 1m, by: lineage}}\n")
            ),
            plain("r/a", "low", "a"),
            plain("r/b", "low", "b"),
            plain("r/c", "high", "c"),
        )
    };
    let all = [event(1, "a"), event(2, "a"), event(3, "c"), event(4, "b")];
    let fired = |text: &str| -> Vec<usize> {
        found(text, &all)
            .into_iter()
            .filter(|(_, id, _)| id == "t")
            .map(|(at, ..)| at)
            .collect()
    };
    assert_eq!(fired(&over("severity: low")), [3]);
    assert_eq!(fired(&over("tags: [x]")), [2]);
    assert_eq!(fired(&over("rules: [r/a, r/c]")), [2]);
    // The rules that are counted still tell on their own.
    assert_eq!(found(&over("severity: low"), &all).len(), 5);
}

#[test]
fn rules_count_matches_of_rules_over_several_events() {
    let text = rule(
        "outer",
        "  sequence: {steps: [{rule: inner}, \"proc.name = c\"], within: 1m, by: process}\n",
    ) + &rule(
        "inner",
        "  sequence: {steps: [\"proc.name = a\", \"proc.name = b\"], within: 1m, by: process}\n",
    );
    let events = [event(1, "a"), event(2, "b"), event(3, "c")];
    assert_eq!(
        found(&text, &events),
        [(1, "inner".to_owned(), vec![0]), (2, "outer".to_owned(), vec![1])]
    );
}

#[test]
fn what_counts_a_rule_that_does_not_run_does_not_run() {
    let text = rule("b", "  threshold: {rules: [a], count: 2, within: 1m, by: host}\n")
        + &rule(
            "c",
            "  sequence: {steps: [{rule: b}, \"proc.name = x\"], within: 1m, by: host}\n",
        )
        + &rule("a", "  condition: proc.name = a\n  enabled: false\n");
    let loaded = loaded(&text);
    let told: Vec<(&str, Inactivity)> = loaded
        .inactive
        .iter()
        .map(|inactive| (&*inactive.rule, inactive.why))
        .collect();
    assert_eq!(
        told,
        [
            ("a", Inactivity::Disabled),
            ("b", Inactivity::Rule),
            ("c", Inactivity::Rule)
        ]
    );
    assert!(loaded.ruleset.rules().is_empty());

    let circle = rule("a", "  threshold: {rules: [b], count: 2, within: 1m, by: host}\n")
        + &rule("b", "  threshold: {rules: [a], count: 2, within: 1m, by: host}\n");
    assert!(mistakes(&circle).contains("count its own"), "{}", mistakes(&circle));
    let nobody = rule("a", "  threshold: {rules: [bb], count: 2, within: 1m, by: host}\n")
        + &rule("bbb", "  condition: proc.name = a\n");
    assert!(
        mistakes(&nobody).contains("there is no rule `bb`; did you mean `bbb`?"),
        "{}",
        mistakes(&nobody)
    );
}

#[test]
fn what_a_rule_over_several_events_counts_is_demanded_and_explained() {
    let text = rule(
        "s",
        "  sequence: {steps: [\"evt.type = setns\", {rule: r}], within: 1m, by: process}\n",
    ) + &rule("r", "  condition: evt.type = connect and fd.sport = 22\n");
    let ruleset = loaded(&text).ruleset;
    let demand = ruleset.demand();
    assert!(demand.wants("setns") && demand.wants("connect") && !demand.wants("execve"));
    let sequence = ruleset.rule("s").unwrap();
    assert!(sequence.is_correlated());
    assert!(sequence.kinds.contains(EventKind::Connect) && sequence.kinds.contains(EventKind::Namespace));
    assert_eq!(
        &*sequence.condition,
        "evt.type = setns\nthen rule r\nwithin 1 min by process"
    );
}

#[test]
fn examples_of_several_events_are_run() {
    let examples = |first: &str, name: &str| {
        rule(
            "s",
            &format!(
                "  sequence: {{steps: [\"proc.name = a\", \"proc.name = b\"], within: 10s, by: process}}\n  examples:\n    match:\n      - [{{evt.type: execve, proc.name: {first}, times: 3}}, {{evt.type: execve, proc.name: {name}, after: 9s}}]\n    miss:\n      - [{{evt.type: execve, proc.name: a}}, {{evt.type: execve, proc.name: b, after: 11s}}]\n      - {{evt.type: execve, proc.name: b}}\n"
            ),
        )
    };
    assert!(loaded(&examples("a", "b")).ruleset.check_all_examples().is_empty());
    assert_eq!(loaded(&examples("b", "a")).ruleset.check_all_examples().len(), 1);
}

#[test]
fn repeated_events_of_examples_are_numbered() {
    let example = |path: &str| {
        format!(
            "  condition: evt.type = openat\n  threshold: {{count: 3, distinct: [fd.name, fd.filename], within: 10s, by: process}}\n  examples: {{match: [[{{evt.type: openat, fd.name: \"{path}\", times: 3}}]]}}\n"
        )
    };
    assert!(
        loaded(&rule("t", &example("/a/{n}")))
            .ruleset
            .check_all_examples()
            .is_empty()
    );
    assert_eq!(
        loaded(&rule("t", &example("/a/n"))).ruleset.check_all_examples().len(),
        1
    );
}

#[test]
fn memory_is_bounded_and_what_it_forgets_is_counted() {
    let text = rule(
        "s",
        "  sequence: {steps: [\"proc.name = a\", \"proc.name = b\"], within: 1h, by: proc.cwd}\n",
    ) + &rule(
        "t",
        "  condition: proc.name in (a, b)\n  threshold: {count: 1000, within: 1h, by: proc.cwd}\n",
    ) + &rule(
        "d",
        "  condition: proc.name = a\n  threshold: {count: 500, distinct: proc.cwd, within: 1h, by: host}\n",
    );
    let ruleset = loaded(&text).ruleset;
    let limits = Limits {
        entries: 50,
        bytes: 20_000,
    };
    let mut memory = Memory::new(limits);
    let mut scratch = Scratch::new();
    let mut most = 0;
    for number in 0..5000 {
        let event = Happened {
            directory: format!("/{number}"),
            ..event(1 + number / 100, "a")
        };
        ruleset.follow(&event, &mut scratch, &mut memory, &mut || Number(0), &mut |_| {});
        most = most.max(memory.bytes());
        assert!(memory.entries() <= 2 * limits.entries + 1);
    }
    assert!(most <= limits.bytes, "{most}");
    assert!(memory.counts().forgotten > 9000, "{:?}", memory.counts());
    // What is still remembered is the newest.
    let last = Happened {
        directory: "/4999".to_owned(),
        ..event(60, "b")
    };
    let mut matched = Vec::new();
    ruleset.follow(&last, &mut scratch, &mut memory, &mut || Number(0), &mut |found| {
        let (Found::Now(rule, _) | Found::Late(rule, _)) = found;
        matched.push(rule.id.to_string());
    });
    assert_eq!(matched, ["s"]);
}

#[test]
fn what_is_over_is_dropped_and_not_counted_as_forgotten() {
    let text = rule(
        "s",
        "  sequence: {steps: [\"proc.name = a\", \"proc.name = b\"], within: 10s, by: proc.cwd}\n",
    );
    let ruleset = loaded(&text).ruleset;
    let mut memory = Memory::default();
    let events: Vec<Happened> = (0..1000)
        .map(|number| Happened {
            directory: format!("/{number}"),
            ..event(number, "a")
        })
        .collect();
    follow(&ruleset, &events, &mut memory);
    assert!(memory.entries() <= 11, "{}", memory.entries());
    assert_eq!(memory.counts().forgotten, 0);
}

#[test]
fn a_reload_keeps_what_unchanged_rules_remember() {
    let sequence = |id: &str, within: &str| {
        rule(
            id,
            &format!("  sequence: {{steps: [\"proc.name = a\", \"proc.name = b\"], within: {within}, by: process}}\n"),
        )
    };
    let old = loaded(&(sequence("x", "10s") + &sequence("y", "10s"))).ruleset;
    let new = loaded(&(sequence("z", "10s") + &sequence("y", "10s") + &sequence("x", "20s"))).ruleset;
    let mut memory = Memory::default();
    follow(&old, &[event(1, "a")], &mut memory);
    new.take_over(&mut memory, &old);
    assert_eq!((memory.entries(), memory.counts().forgotten), (1, 1));
    assert_eq!(
        follow(&new, &[event(2, "b")], &mut memory),
        [(0, "y".to_owned(), vec![0])]
    );
}

/// A random rule over several events, as text and as parts for the plain reading.
#[derive(Clone, Debug)]
struct Written {
    /// Which names each step takes.
    steps: Vec<BTreeSet<&'static str>>,
    pattern: Pattern,
    within_s: u64,
    by: &'static str,
}

#[derive(Clone, Debug, PartialEq)]
enum Pattern {
    Ordered,
    Unordered,
    Count(u64),
    Distinct(usize),
}

const NAMES: [&str; 4] = ["a", "b", "c", "d"];

fn written() -> impl Strategy<Value = Written> {
    let step = || prop::collection::btree_set(prop::sample::select(&NAMES[..]), 1..3);
    let by = || {
        prop::sample::select(vec![
            "process",
            "lineage",
            "lineage[1]",
            "lineage[2]",
            "user",
            "host",
            "proc.cwd",
        ])
    };
    prop_oneof![
        (
            prop::collection::vec(step(), 2..4),
            any::<bool>(),
            1_u64..12,
            by(),
            any::<bool>()
        )
            .prop_map(|(steps, ordered, within_s, by, descent)| Written {
                steps,
                pattern: if ordered { Pattern::Ordered } else { Pattern::Unordered },
                within_s,
                by: if ordered && descent { "descent" } else { by },
            }),
        (step(), 1_u64..6, 1_u64..12, by()).prop_map(|(step, count, within_s, by)| Written {
            steps: vec![step],
            pattern: Pattern::Count(count),
            within_s,
            by,
        }),
        (step(), 1_usize..4, 1_u64..12, by()).prop_map(|(step, count, within_s, by)| Written {
            steps: vec![step],
            pattern: Pattern::Distinct(count),
            within_s,
            by,
        }),
    ]
}

impl Written {
    fn text(&self, id: &str) -> String {
        let conditions: Vec<String> = self
            .steps
            .iter()
            .map(|names| {
                format!(
                    "proc.name in ({})",
                    names.iter().copied().collect::<Vec<_>>().join(", ")
                )
            })
            .collect();
        let (within, by) = (self.within_s, self.by);
        let ordered = self.pattern == Pattern::Ordered;
        let rest = match self.pattern {
            Pattern::Ordered | Pattern::Unordered => format!(
                "  sequence: {{steps: [\"{}\"], within: {within}s, by: \"{by}\", ordered: {ordered}}}\n",
                conditions.join("\", \"")
            ),
            Pattern::Count(count) => format!(
                "  condition: {}\n  threshold: {{count: {count}, within: {within}s, by: \"{by}\"}}\n",
                conditions[0]
            ),
            Pattern::Distinct(count) => format!(
                "  condition: {}\n  threshold: {{count: {count}, distinct: user.uid, within: {within}s, by: \"{by}\"}}\n",
                conditions[0]
            ),
        };
        rule(id, &rest)
    }

    /// What the event belongs to, for one step.
    fn keys(&self, event: &Happened, step: usize) -> Vec<String> {
        let up = |generations: usize| -> Vec<String> {
            std::iter::once(event.pid)
                .chain(event.ancestors.iter().copied().take(generations))
                .map(|pid| pid.to_string())
                .collect()
        };
        match self.by {
            "process" => up(0),
            "lineage" => vec![event.ancestors.last().unwrap_or(&event.pid).to_string()],
            "lineage[1]" => up(1),
            "lineage[2]" => up(2),
            "descent" if step == 0 => up(0),
            "descent" => up(64),
            "user" => vec![event.uid.to_string()],
            "proc.cwd" => vec![event.directory.clone()],
            _ => vec![String::new()],
        }
    }

    /// Which events match, by looking back over all of them each time.
    fn plain(&self, events: &[Happened]) -> Vec<usize> {
        let mut histories: BTreeMap<String, Vec<(usize, BTreeSet<usize>)>> = BTreeMap::new();
        let mut matched = Vec::new();
        for (number, event) in events.iter().enumerate() {
            let mut by_key: BTreeMap<String, BTreeSet<usize>> = BTreeMap::new();
            for (step, names) in self.steps.iter().enumerate() {
                if names.contains(event.name) {
                    for key in self.keys(event, step) {
                        by_key.entry(key).or_default().insert(step);
                    }
                }
            }
            let mut is_match = false;
            for (key, steps) in by_key {
                let history = histories.entry(key).or_default();
                history.push((number, steps));
                let since = event.time_ns.saturating_sub(self.within_s * SECOND);
                let recent: Vec<_> = history.iter().filter(|(at, _)| events[*at].time_ns >= since).collect();
                let holds = match self.pattern {
                    // The last step is this event's; those before are looked for from the back.
                    Pattern::Ordered => {
                        let last = self.steps.len() - 1;
                        recent.last().unwrap().1.contains(&last) && chain(&recent[..recent.len() - 1], last)
                    }
                    Pattern::Unordered => {
                        (0..self.steps.len()).all(|step| recent.iter().any(|(_, steps)| steps.contains(&step)))
                    }
                    Pattern::Count(count) => recent.iter().map(|(at, _)| events[*at].weight).sum::<u64>() >= count,
                    Pattern::Distinct(count) => {
                        recent
                            .iter()
                            .map(|(at, _)| events[*at].uid)
                            .collect::<BTreeSet<_>>()
                            .len()
                            >= count
                    }
                };
                if holds {
                    history.clear();
                    is_match = true;
                }
            }
            if is_match {
                matched.push(number);
            }
        }
        matched
    }
}

/// More than there are keys.
const ROOM: usize = 10;

/// Whether steps before `step` are served in order by different events.
fn chain(events: &[&(usize, BTreeSet<usize>)], step: usize) -> bool {
    if step == 0 {
        return true;
    }
    (0..events.len()).any(|at| events[at].1.contains(&(step - 1)) && chain(&events[..at], step - 1))
}

fn stream() -> impl Strategy<Value = Vec<Happened>> {
    let one = (
        0_u64..4,
        prop::sample::select(&NAMES[..]),
        0_usize..6,
        0_i64..3,
        1_u64..3,
        prop::sample::select(vec!["/x", "/y"]),
    );
    // A small tree of processes: each with its ancestors, nearest first.
    const TREE: [(i64, &[i64]); 6] = [
        (1, &[]),
        (2, &[1]),
        (3, &[2, 1]),
        (4, &[2, 1]),
        (5, &[4, 2, 1]),
        (9, &[8]),
    ];
    prop::collection::vec(one, 1..60).prop_map(|steps| {
        let mut time = 1;
        steps
            .into_iter()
            .map(|(after, name, process, uid, weight, directory)| {
                time += after;
                let (pid, ancestors) = TREE[process];
                Happened {
                    time_ns: time * SECOND,
                    name,
                    directory: directory.to_owned(),
                    pid,
                    uid,
                    ancestors: ancestors.to_vec(),
                    weight,
                }
            })
            .collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_remembered_agrees_with_looking_back(
        rules in prop::collection::vec(written(), 1..5),
        events in stream(),
    ) {
        let mut text = String::new();
        for (number, rule) in rules.iter().enumerate() {
            write!(text, "{}", rule.text(&format!("r{number}"))).unwrap();
        }
        let matches = found(&text, &events);
        for (number, rule) in rules.iter().enumerate() {
            let id = format!("r{number}");
            let own: Vec<&(usize, String, Vec<usize>)> = matches.iter().filter(|(_, rule, _)| *rule == id).collect();
            let at: Vec<usize> = own.iter().map(|(at, ..)| *at).collect();
            prop_assert_eq!(&at, &rule.plain(&events), "{}\n{:#?}", rule.text(&id), events);
            for (at, _, earlier) in own {
                // What is shown of earlier events is in order, in time, and serves the steps.
                prop_assert!(earlier.is_sorted() && earlier.iter().all(|before| before < at));
                let since = events[*at].time_ns.saturating_sub(rule.within_s * SECOND);
                prop_assert!(earlier.iter().all(|before| events[*before].time_ns >= since));
                if rule.pattern == Pattern::Ordered {
                    prop_assert_eq!(earlier.len() + 1, rule.steps.len());
                    for (names, before) in rule.steps.iter().zip(earlier) {
                        prop_assert!(names.contains(events[*before].name));
                    }
                }
            }
        }
    }

    #[test]
    fn nothing_that_is_held_back_vanishes(
        events in stream(),
        limit in 1_u32..4,
        every in 1_u64..20,
        room in prop::sample::select(vec![1, 2, ROOM]),
        pauses in prop::collection::vec(any::<bool>(), 60),
    ) {
        let text = rule("t", &format!("  condition: proc.name in (a, b, c)\n  throttle: {{limit: {limit}, every: {every}s, by: [proc.cwd, user.uid]}}\n"))
            + &rule("free", "  condition: proc.name = a\n");
        let ruleset = loaded(&text).ruleset;
        let mut scratch = Scratch::new();
        let mut throttles = Throttles::new(room);
        let (mut offered, mut told) = (0, 0);
        let mut passed: BTreeMap<(String, i64), Vec<u64>> = BTreeMap::new();
        for (event, pause) in events.iter().zip(pauses) {
            let mut tell = |(free, time, key): (bool, u64, (String, i64)), held: u64| {
                told += 1 + held;
                if !free && held == 0 && time == event.time_ns {
                    passed.entry(key).or_default().push(time);
                }
            };
            if pause {
                throttles.pass_time(event.time_ns, &mut tell);
            }
            ruleset.matches(event, &mut scratch, &mut |rule| {
                offered += 1;
                let key = (event.directory.clone(), event.uid);
                throttles.offer(rule, event, || (rule.throttle.is_none(), event.time_ns, key), &mut tell);
            });
        }
        throttles.finish(&mut |_, held| told += 1 + held);
        prop_assert_eq!(offered, told);
        if room == ROOM {
            // With room for all, no more than the limit pass at once in any period, which begins with one that passes.
            for times in passed.values() {
                let mut at = 0;
                while at < times.len() {
                    let in_period = times[at..].iter().filter(|time| **time - times[at] < every * SECOND).count();
                    prop_assert!(in_period <= limit as usize, "{:?}", times);
                    at += in_period;
                }
            }
        }
    }
}

#[test]
fn a_throttle_lets_few_through_and_tells_the_rest_when_its_period_ends() {
    let text = rule("t", "  condition: proc.name = a\n  throttle: {limit: 2, every: 10s}\n");
    let ruleset = loaded(&text).ruleset;
    let rule = &ruleset.rules()[0];
    let mut throttles = Throttles::default();
    let mut told = Vec::new();
    for time in [0, 1, 2, 3, 4, 11, 12] {
        throttles.offer(rule, &event(time, "a"), || time, &mut |time, held| {
            told.push((time, held));
        });
    }
    assert_eq!(told, [(0, 0), (1, 0), (2, 2), (11, 0), (12, 0)]);
    throttles.finish(&mut |time, held| {
        told.push((time, held));
    });
    assert_eq!(told.len(), 5, "nothing was held back since");
}

#[test]
fn subjects_are_told_apart() {
    let a = event(0, "a");
    assert_eq!(a.identity(Subject::Process), Some(1000));
    assert_eq!(a.identity(Subject::Lineage), Some(1000));
    assert_eq!(a.identity(Subject::User), Some(0));
    assert_eq!(a.identity(Subject::Container), None);
}
