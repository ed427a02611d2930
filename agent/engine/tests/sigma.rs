//! The language of Sigma by example: what rules match, what is reported, what correlations and filters do.
#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

use proptest::prelude::*;
use staghound_engine::compile::Scratch;
use staghound_engine::event::{EventKind, KindSet, Value};
use staghound_engine::example::ExampleEvent;
use staghound_engine::field::{Field, FieldRef};
use staghound_engine::memory::Memory;
use staghound_engine::ruleset::{Found, Inactivity, Loaded, Severity, load};
use staghound_engine::source::Source;

fn loaded(text: &str) -> Loaded {
    match load(&[Source { name: "t.yml", text }]) {
        Ok(loaded) => loaded,
        Err(errors) => panic!("{errors}\n{text}"),
    }
}

fn mistakes(text: &str) -> String {
    load(&[Source { name: "t.yml", text }]).unwrap_err().to_string()
}

/// A rule of a category; the detection without its first indentation.
fn rule(category: &str, detection: &str) -> String {
    let detection = detection.replace('\n', "\n    ");
    format!(
        "title: Some rule\nid: 0e95725d-7320-415d-80f7-004da920fc11\nlogsource:\n    product: linux\n    category: {category}\ndetection:\n    {detection}\nlevel: high\n"
    )
}

fn process(selection: &str) -> String {
    rule(
        "process_creation",
        &format!("selection:\n    {selection}\ncondition: selection"),
    )
}

/// An event with these texts and numbers.
fn event(event_type: &str, fields: &[(Field, Value<'_>)]) -> ExampleEvent {
    let mut event = ExampleEvent::new(event_type).unwrap();
    for (field, value) in fields {
        event.set(&FieldRef::plain(*field), *value);
    }
    event.derive();
    event
}

fn exec(exepath: &str, exeline: &str) -> ExampleEvent {
    event(
        "execve",
        &[
            (Field::ProcExepath, exepath.into()),
            (Field::ProcExeline, exeline.into()),
            (Field::UserName, "root".into()),
            (Field::UserUid, Value::Number(0)),
            (Field::ProcCwd, "/srv".into()),
        ],
    )
}

fn matches(text: &str, event: &ExampleEvent) -> bool {
    let loaded = loaded(text);
    assert!(loaded.inactive.is_empty(), "{:?}\n{text}", loaded.inactive);
    let mut found = false;
    loaded
        .ruleset
        .matches(event, &mut Scratch::new(), &mut |_| found = true);
    let rule = &loaded.ruleset.rules()[0];
    assert_eq!(
        found,
        loaded.ruleset.interpret(rule, event),
        "both readings agree\n{text}"
    );
    found
}

fn inactive(text: &str) -> String {
    let loaded = loaded(text);
    assert!(loaded.ruleset.rules().is_empty(), "{text}");
    loaded.inactive[0].reason.clone()
}

#[test]
fn values_and_modifiers() {
    let event = exec("/usr/bin/Nmap", "nmap -sS [x] 10.0.0.1 aGVsbG8gd29ybGQ= \\* end");
    for (selection, expected) in [
        // Without regard to case, as a whole.
        ("Image: /USR/bin/nmap", true),
        ("Image: /usr/bin/nma", false),
        ("Image|cased: /usr/bin/nmap", false),
        ("Image|cased: /usr/bin/Nmap", true),
        ("Image|endswith: /nmap", true),
        ("Image|endswith|cased: /nmap", false),
        ("Image|startswith: /Usr/", true),
        ("Image|contains: BIN", true),
        ("Image|contains|cased: BIN", false),
        ("Image: '*/nm?p'", true),
        ("Image: '*/nma??'", false),
        ("Image: '/usr/*'", true),
        ("Image: '*'", true),
        ("CommandLine|contains: '[X]'", true),
        ("CommandLine: 'nmap * [x] *'", true),
        ("CommandLine|contains: '\\\\\\*'", true),
        ("CommandLine|contains: 'x\\*'", false),
        ("CommandLine|contains: ['none', '-sS']", true),
        ("CommandLine|contains|all: ['none', '-sS']", false),
        ("CommandLine|contains|all: ['10.0.0.1', '-ss']", true),
        ("CommandLine|neq: x", true),
        ("CommandLine|contains|neq: '-sS'", false),
        ("CommandLine|re: '-sS\\s'", true),
        ("CommandLine|re: '-ss\\s'", false),
        ("CommandLine|re|i: '-ss\\s'", true),
        ("CommandLine|re: '^nmap.*end$'", true),
        ("CommandLine|re: '^map'", false),
        ("CommandLine|base64offset|contains: 'hello'", true),
        ("CommandLine|base64|contains: 'hello world'", true),
        ("CommandLine|base64|contains: 'jello world'", false),
        ("CommandLine|windash|contains: '/sS'", true),
        ("CommandLine|contains: '/sS'", false),
        ("CommandLine|wide|contains: 'nmap'", false),
        ("ParentImage: null", true),
        ("Image: null", false),
        ("Image|exists: true", true),
        ("Image|exists: false", false),
        ("ParentImage|exists: false", true),
        ("LogonId: 0", true),
        ("LogonId|gte: 1", false),
        ("LogonId|lt: 1", true),
        ("LogonId: '?'", true),
        ("CommandLine|fieldref|startswith: User", false),
        ("CommandLine|fieldref: CommandLine", true),
        ("Image|fieldref|neq: CommandLine", true),
        ("CommandLine|expand: '\\%x\\%'", false),
        // All fields of a mapping, any of a list.
        ("Image|endswith: /nmap\n    User: other", false),
        ("- Image|endswith: /nmap\n    - User: other", true),
        ("- 'none'\n    - '10.0.0.1'", true),
        ("- 'none'\n    - 'nothing'", false),
        ("'|all': ['10.0.0.1', '-sS']", true),
        ("'|all': ['10.0.0.1', 'none']", false),
        ("'|re': 'nm?ap -[s]S'", true),
        // Our own names are understood too.
        ("proc.cwd|startswith: /srv", true),
    ] {
        assert_eq!(matches(&process(selection), &event), expected, "{selection}");
    }
}

#[test]
fn times_have_parts() {
    // 2026-01-01 00:00:00 UTC, in nanoseconds.
    let event = event("execve", &[(Field::EvtTime, Value::Number(1_767_225_600_000_000_000))]);
    for (selection, expected) in [
        ("UtcTime|hour: 0", true),
        ("UtcTime|hour: [22, 23]", false),
        ("UtcTime|hour|lt: 6", true),
        ("UtcTime|year: 2026", true),
        ("UtcTime|month|neq: 1", false),
        ("UtcTime|week: 1", true),
        ("UtcTime|day|gt: 1", false),
        ("UtcTime|minute: 0", true),
    ] {
        assert_eq!(matches(&process(selection), &event), expected, "{selection}");
    }
}

#[test]
fn conditions_join_searches() {
    let event = exec("/bin/sh", "sh -c x");
    for (condition, expected) in [
        ("selection_a", true),
        ("selection_a and selection_b", false),
        ("selection_a or selection_b", true),
        ("1 of selection_*", true),
        ("all of selection_*", false),
        ("2 of them", true),
        ("3 of them", false),
        ("1 of them", true),
        ("selection_a and not 1 of filter_*", false),
        ("selection_a and not (filter_x and selection_b)", true),
        ("[selection_b, selection_a]", true),
    ] {
        let detection = format!(
            "selection_a:\n    Image|endswith: /sh\nselection_b:\n    Image|endswith: /bash\nfilter_x:\n    User: root\n_hidden:\n    User: root\ncondition: {condition}"
        );
        assert_eq!(
            matches(&rule("process_creation", &detection), &event),
            expected,
            "{condition}"
        );
    }
}

#[test]
fn categories_are_about_their_events() {
    let file = |selection: &str| {
        rule(
            "file_event",
            &format!("selection:\n    {selection}\ncondition: selection"),
        )
    };
    let open = |path: &str, write: bool, result: i64| {
        event(
            "openat",
            &[
                (Field::FdName, path.into()),
                (Field::EvtIsOpenWrite, Value::Flag(write)),
                (Field::EvtRawres, Value::Number(result)),
            ],
        )
    };
    let cron = file("TargetFilename|startswith: /etc/cron.d/");
    assert!(matches(&cron, &open("/etc/cron.d/x", true, 3)));
    assert!(!matches(&cron, &open("/etc/cron.d/x", false, 3)));
    assert!(!matches(&cron, &open("/etc/cron.d/x", true, -13)));
    assert!(!matches(&cron, &open("/etc/x", true, 3)));
    let renamed = event(
        "rename",
        &[
            (Field::FsPathSource, "/tmp/x".into()),
            (Field::FsPathTarget, "/etc/cron.d/x".into()),
            (Field::EvtRawres, Value::Number(0)),
        ],
    );
    assert!(matches(&cron, &renamed));
    assert!(!matches(&cron, &exec("/etc/cron.d/x", "x")));

    let network = |selection: &str| {
        rule(
            "network_connection",
            &format!("selection:\n    {selection}\ncondition: selection"),
        )
    };
    let connect = |address: &str, result: i64| {
        event(
            "connect",
            &[
                (Field::FdSip, Value::Address(address.parse().unwrap())),
                (Field::FdSport, Value::Number(443)),
                (Field::EvtRawres, Value::Number(result)),
            ],
        )
    };
    for (selection, expected) in [
        ("DestinationIp: 10.1.2.3", true),
        ("DestinationIp|cidr: 10.0.0.0/8", true),
        ("DestinationIp|cidr: [192.168.0.0/16, 'fd00::/8']", false),
        ("DestinationIp: '10.*'", true),
        ("DestinationPort: 443", true),
        ("DestinationPort: [80, '443']", true),
        ("DestinationPort|gt: 443", false),
        ("Initiated: 'true'", true),
        ("Initiated: 'false'", false),
        ("Protocol: TCP", true),
        ("DestinationIsIpv6: false", true),
    ] {
        assert_eq!(
            matches(&network(selection), &connect("10.1.2.3", 0)),
            expected,
            "{selection}"
        );
    }
    // One that is being made counts, one that failed does not.
    assert!(matches(&network("DestinationPort: 443"), &connect("10.1.2.3", -115)));
    assert!(!matches(&network("DestinationPort: 443"), &connect("10.1.2.3", -111)));
    // Names of servers are told by what is sent.
    let named = network("DestinationHostname|endswith: .example.org\n    Initiated: 'true'");
    let send = |field, name: &str| event("sendto", &[(field, name.into()), (Field::FdSport, Value::Number(53))]);
    assert!(matches(&named, &send(Field::DnsQname, "a.example.org")));
    assert!(matches(&named, &send(Field::TlsSni, "a.EXAMPLE.org")));
    assert!(!matches(&named, &send(Field::TlsSni, "example.com")));
    assert!(!matches(
        &network("Initiated: 'true'"),
        &send(Field::TlsSni, "example.com")
    ));
}

#[test]
fn rules_carry_what_was_written() {
    let text = "title: A title with 100%\nid: 0e95725d-7320-415d-80f7-004da920fc11\nstatus: test\ndescription: |\n    What it is.\nreferences:\n    - https://example.org\ntags:\n    - attack.execution\n    - attack.t1059.004\n    - cve.2021-1\nlogsource:\n    category: process_creation\ndetection:\n    selection:\n        Image|endswith: /sh\n    condition: selection\nfalsepositives:\n    - Administrators\n    - Unknown\nlevel: critical\n";
    let ruleset = loaded(text).ruleset;
    let rule = ruleset.rule("0e95725d-7320-415d-80f7-004da920fc11").unwrap();
    assert_eq!(&*rule.name, "A title with 100%");
    assert_eq!(&*rule.description, "What it is. Known look-alikes: Administrators.");
    assert_eq!((rule.severity, rule.line), (Severity::Critical, 1));
    assert_eq!(&*rule.attack[0].id, "T1059.004");
    assert_eq!(rule.tags.len(), 3);
    assert_eq!(&*rule.references[0], "https://example.org");
    assert_eq!(rule.kinds, KindSet::of(&[EventKind::Exec]));
    assert_eq!(
        &*rule.condition,
        "    selection:\n        Image|endswith: /sh\n    condition: selection"
    );
    let mut output = String::new();
    rule.output.render(&exec("/bin/sh", "sh -c 'x'"), &mut output);
    assert_eq!(output, "A title with 100%: sh -c 'x' (by root, parent <NA>)");
    // Both languages in one load, and in one file.
    let both =
        format!("- rule: ours\n  desc: d\n  condition: proc.name = sh\n  output: o\n  severity: low\n---\n{text}");
    assert_eq!(loaded(&both).ruleset.rules().len(), 2);
}

#[test]
fn what_does_not_run_is_told() {
    let other = rule("process_creation", "selection:\n    Image: x\ncondition: selection")
        .replace("product: linux", "product: windows");
    assert_eq!(
        inactive(&other),
        "not applicable: log source product `windows`, category `process_creation` is not what a sensor in the kernel sees"
    );
    assert_eq!(loaded(&other).inactive[0].why, Inactivity::Source);
    for (selection, expected) in [
        (
            "Imag: x",
            "field `Imag` of Sigma has no counterpart in our events; did you mean `Image`?",
        ),
        (
            "IntegrityLevel: x",
            "field `IntegrityLevel` of Sigma has no counterpart in our events",
        ),
        (
            "User|expand: '%Administrators%'",
            "placeholder `%Administrators%` stands for values that are not known here; write them in its place",
        ),
        (
            "CommandLine|re: 'a(?!b)'",
            "its regular expression looks around or back, which takes more than linear time",
        ),
        (
            "User|cidr: 10.0.0.0/8",
            "`User` is no address, so `cidr` does not apply to it",
        ),
        ("User|gt: 5", "`User` is text, which has no order"),
        ("User|hour: 5", "`User` is no time, so it has no part of a date"),
        (
            "UtcTime: x",
            "times such as `UtcTime` can only be asked for their parts, as in `UtcTime|hour`",
        ),
        (
            "Image|fieldref: Nothing",
            "field `Nothing` of Sigma has no counterpart in our events",
        ),
    ] {
        assert_eq!(inactive(&process(selection)), expected, "{selection}");
    }
    let counted = rule(
        "process_creation",
        "selection:\n    Image: x\ncondition: selection | count() > 5",
    );
    assert!(inactive(&counted).contains("use a correlation"));
    let deprecated = process("Image: x").replace("level:", "status: deprecated\nlevel:");
    assert_eq!(inactive(&deprecated), "its status is `deprecated`");
}

#[test]
fn mistakes_are_told_with_their_place() {
    for (text, expected) in [
        (
            process("Image|contain: x"),
            "t.yml:8:9: unknown modifier `contain`; did you mean `contains`?",
        ),
        (
            process("Image|cidr: x"),
            "t.yml:8:21: `x` is not a network; write a network such as 10.0.0.0/8",
        ),
        (
            process("Image|re: '('"),
            "t.yml:8:19: not a regular expression: unclosed group",
        ),
        (
            process("Image|base64: 'a*'"),
            "t.yml:8:23: a value with wildcards cannot be encoded",
        ),
        (
            process("Image|contains|re: x"),
            "t.yml:8:9: these modifiers cannot be combined",
        ),
        (process("Image|i: x"), "t.yml:8:9: modifier `i` comes after `re`"),
        (
            process("Image: {a: b}"),
            "t.yml:8:16: values of `Image` are single values; found a mapping",
        ),
        (process("Image|exists: maybe"), "t.yml:8:23: `exists` is true or false"),
        (process("Image|gt: many"), "t.yml:8:19: `many` is not a number"),
        (
            rule("process_creation", "selection:\n    Image: x\ncondition: selectoin"),
            "t.yml:9:16: unknown search identifier `selectoin`; did you mean `selection`?",
        ),
        (
            rule(
                "process_creation",
                "selection:\n    Image: x\ncondition: all of filter_*",
            ),
            "t.yml:9:16: no search identifier is named like `filter_*`",
        ),
        (
            rule("process_creation", "selection:\n    Image: x\ncondition: (selection"),
            "t.yml:9:16: this parenthesis is not closed",
        ),
        (
            rule("process_creation", "selection:\n    Image: x"),
            "t.yml:1:1: `detection` has no `condition`",
        ),
        (
            process("Image: x").replace("level: high", "level: hihg"),
            "t.yml:10:8: unknown severity `hihg`; did you mean `high`?",
        ),
        (
            process("Image: x").replace("title: Some rule\n", ""),
            "t.yml:1:1: a rule of Sigma needs a `title`",
        ),
    ] {
        let told = mistakes(&text);
        assert_eq!(told.lines().next(), Some(expected), "{text}");
    }
}

#[test]
fn filters_are_taken_off_the_rules_they_name() {
    let filter = |rules: &str| {
        format!(
            "{}---\ntitle: Not root\nlogsource:\n    product: linux\n    category: process_creation\nfilter:\n    rules: {rules}\n    selection:\n        User: root\n    condition: selection\n",
            process("Image|endswith: /sh")
        )
    };
    let event = exec("/bin/sh", "sh");
    assert!(!matches(&filter("any"), &event));
    assert!(!matches(&filter("[0e95725d-7320-415d-80f7-004da920fc11]"), &event));
    assert!(!matches(&filter("[Some rule]"), &event));
    assert!(matches(&filter("[another]"), &event));
    let unknown = filter("any").replace("User: root", "Nothing: root");
    assert!(inactive(&unknown).starts_with("filter `Not root` cannot be applied: field `Nothing`"));
}

/// Two rules, for `a` and `b`, and a correlation of them.
fn correlated(correlation: &str) -> String {
    let one = |name: &str| {
        format!(
            "title: Rule {name}\nname: rule_{name}\nlogsource:\n    category: process_creation\ndetection:\n    selection:\n        Image|endswith: /{name}\n    condition: selection\n---\n"
        )
    };
    let correlation = correlation.replace('\n', "\n    ");
    format!(
        "{}{}title: Both\nid: both\ncorrelation:\n    {correlation}\nlevel: high\n",
        one("a"),
        one("b")
    )
}

/// What is found when programs are started: each with a time in seconds and a user.
fn found(text: &str, starts: &[(u64, &str, &str)]) -> Vec<(usize, String)> {
    let loaded = loaded(text);
    assert!(loaded.inactive.is_empty(), "{:?}", loaded.inactive);
    let mut scratch = Scratch::new();
    let mut memory = Memory::<()>::default();
    let mut all = Vec::new();
    for (number, (time, program, user)) in starts.iter().enumerate() {
        let mut event = event(
            "execve",
            &[
                (Field::ProcExepath, format!("/bin/{program}").as_str().into()),
                (Field::UserName, (*user).into()),
                (Field::ProcPid, Value::Number(i64::try_from(number).unwrap() * 10)),
            ],
        );
        event.set_time_ns(time * 1_000_000_000);
        loaded
            .ruleset
            .follow(&event, &mut scratch, &mut memory, &mut || (), &mut |found| {
                let (Found::Now(rule, _) | Found::Late(rule, _)) = found;
                all.push((number, rule.id.to_string()));
            });
    }
    loaded.ruleset.pass_time(u64::MAX, &mut memory, &mut |found| {
        let (Found::Now(rule, _) | Found::Late(rule, _)) = found;
        all.push((starts.len(), rule.id.to_string()));
    });
    all
}

#[test]
fn correlations() {
    let at = |correlation: &str, starts: &[(u64, &str, &str)]| -> Vec<usize> {
        found(&correlated(correlation), starts)
            .into_iter()
            .filter(|(_, id)| id == "both")
            .map(|(at, _)| at)
            .collect()
    };
    let starts = [
        (1, "a", "x"),
        (2, "a", "x"),
        (3, "b", "x"),
        (4, "a", "y"),
        (5, "a", "x"),
    ];
    let end = starts.len();
    let by = "group-by: [User]\ntimespan: 1m\n";
    let of_a = "rules: [rule_a]\n";
    let of_both = "rules: [rule_a, rule_b]\n";
    for (correlation, expected) in [
        (format!("type: event_count\n{of_a}{by}condition: {{gte: 2}}"), vec![1]),
        (format!("type: event_count\n{of_a}{by}condition: {{gt: 2}}"), vec![4]),
        (
            format!("type: event_count\n{of_both}{by}condition: {{gte: 3}}"),
            vec![2],
        ),
        // Judged when the time has passed.
        (format!("type: event_count\n{of_a}{by}condition: {{eq: 3}}"), vec![end]),
        (format!("type: event_count\n{of_a}{by}condition: {{lt: 3}}"), vec![end]),
        (
            format!("type: event_count\n{of_a}{by}condition: {{lte: 3}}"),
            vec![end, end],
        ),
        (
            format!("type: event_count\n{of_a}{by}condition: {{gt: 1, lte: 5}}"),
            vec![end],
        ),
        (
            format!("type: event_count\n{of_a}timespan: 1m\ncondition: {{gte: 4}}"),
            vec![4],
        ),
        (
            format!("type: value_count\n{of_a}timespan: 1m\ncondition: {{field: User, gte: 2}}"),
            vec![3],
        ),
        (
            format!("type: value_count\n{of_a}timespan: 1m\ncondition: {{field: User, eq: 2}}"),
            vec![end],
        ),
        (format!("type: temporal\n{of_both}{by}"), vec![2]),
        (
            format!("type: temporal\n{of_both}{by}condition: {{gte: 1}}"),
            vec![0, 1, 2, 3, 4],
        ),
        (format!("type: temporal_ordered\n{of_both}{by}"), vec![2]),
        (
            format!("type: temporal_ordered\nrules: [rule_b, rule_a]\n{by}"),
            vec![4],
        ),
        // The pids are 0, 10, 30 and 40.
        (
            format!("type: value_sum\n{of_a}timespan: 1m\ncondition: {{field: ProcessId, eq: 80}}"),
            vec![end],
        ),
        (
            format!("type: value_avg\n{of_a}timespan: 1m\ncondition: {{field: ProcessId, lt: 20}}"),
            vec![],
        ),
        (
            format!("type: value_avg\n{of_a}timespan: 1m\ncondition: {{field: ProcessId, lte: 20}}"),
            vec![end],
        ),
        (
            format!("type: value_median\n{of_a}timespan: 1m\ncondition: {{field: ProcessId, eq: 10}}"),
            vec![end],
        ),
        (
            format!(
                "type: value_percentile\n{of_a}timespan: 1m\ncondition: {{field: ProcessId, percentile: 75, eq: 30}}"
            ),
            vec![end],
        ),
        // Another field for each rule.
        (
            format!(
                "type: temporal\n{of_both}group-by: [who]\ntimespan: 1m\naliases:\n    who:\n        rule_a: User\n        rule_b: ComputerName"
            ),
            vec![],
        ),
    ] {
        assert_eq!(at(&correlation, &starts), expected, "{correlation}");
    }
    // What a correlation counts is silent, unless it says otherwise.
    let generating = correlated(&format!("type: temporal\n{of_both}{by}generate: true"));
    assert_eq!(found(&generating, &starts).len(), 6);
    let chained = correlated(&format!("type: temporal\nrules: [many, rule_b]\n{by}"))
        + "---\ntitle: Many\nname: many\ncorrelation:\n    type: event_count\n    rules: [rule_a]\n    group-by: [User]\n    timespan: 1m\n    condition: {gte: 2}\n";
    assert_eq!(found(&chained, &starts), [(2, "both".to_owned())]);
}

#[test]
fn broken_correlations_are_told() {
    for (correlation, expected) in [
        (
            "type: event_count\nrules: [rule_a]\ntimespan: 1m",
            "`event_count` needs a `condition`",
        ),
        (
            "type: event_cuont\nrules: [rule_a]\ntimespan: 1m\ncondition: {gte: 2}",
            "did you mean `event_count`?",
        ),
        (
            "type: event_count\nrules: [rule_c]\ntimespan: 1m\ncondition: {gte: 2}",
            "there is no rule `rule_c`; did you mean",
        ),
        (
            "type: event_count\nrules: [rule_a]\ntimespan: long\ncondition: {gte: 2}",
            "`timespan` is not a duration",
        ),
        (
            "type: event_count\nrules: [rule_a]\ncondition: {gte: 2}",
            "`correlation` has no `timespan`",
        ),
        ("type: event_count\ntimespan: 1m\ncondition: {gte: 2}", "has no `rules`"),
        (
            "type: value_count\nrules: [rule_a]\ntimespan: 1m\ncondition: {gte: 2}",
            "`value_count` needs a `field`",
        ),
        (
            "type: event_count\nrules: [rule_a]\ntimespan: 1m\ncondition: {gte: few}",
            "`gte` needs a number",
        ),
        (
            "type: event_count\nrules: [rule_a]\ntimespan: 1m\ncondition: {more: 2}",
            "unknown key `more` of a condition",
        ),
        (
            "type: temporal_ordered\nrules: [rule_a]\ntimespan: 1m",
            "needs two rules at least",
        ),
        (
            "type: value_percentile\nrules: [rule_a]\ntimespan: 1m\ncondition: {field: User, gte: 2}",
            "needs a `percentile`",
        ),
        (
            "type: temporal\nrules: [rule_a, rule_b]\ntimespan: 1m\ngroup-by: [x]\naliases: {x: {rule_a: User}}",
            "alias `x` names no field of rule `rule_b`",
        ),
    ] {
        let told = mistakes(&correlated(correlation));
        assert!(told.contains(expected), "{correlation}\n{told}");
    }
    let unmapped = loaded(&correlated(
        "type: value_sum\nrules: [rule_a]\ntimespan: 1m\ncondition: {field: Size, gte: 2}",
    ));
    assert!(
        unmapped.inactive[0].reason.contains("field `Size` of Sigma"),
        "{:?}",
        unmapped.inactive
    );
}

/// Wildcards by their meaning, one character after the other.
fn plain_reading(pattern: &[char], text: &[char]) -> bool {
    match pattern {
        [] => text.is_empty(),
        ['*', rest @ ..] => (0..=text.len()).any(|at| plain_reading(rest, &text[at..])),
        ['?', rest @ ..] => !text.is_empty() && plain_reading(rest, &text[1..]),
        ['\\', next @ ('*' | '?' | '\\'), rest @ ..] => text.first() == Some(next) && plain_reading(rest, &text[1..]),
        [first, rest @ ..] => {
            text.first().is_some_and(|found| found.eq_ignore_ascii_case(first)) && plain_reading(rest, &text[1..])
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn wildcards_mean_what_the_plain_reading_says(
        pattern in "[aAb*?\\\\\\[.]{0,6}",
        texts in prop::collection::vec("[aAbB*?\\\\\\[.]{0,6}", 1..12),
    ) {
        let text = process(&format!("CommandLine: '{pattern}'"));
        let loaded = loaded(&text);
        let characters: Vec<char> = pattern.chars().collect();
        for line in texts {
            let event = exec("/bin/x", &line);
            let mut found = false;
            loaded.ruleset.matches(&event, &mut Scratch::new(), &mut |_| found = true);
            let line: Vec<char> = line.chars().collect();
            prop_assert_eq!(found, plain_reading(&characters, &line), "{} {:?}", pattern, line);
        }
    }

    #[test]
    fn any_document_gives_rules_or_errors(
        selection in "[A-Za-z|:'*?\\[\\]{} ,\n-]{0,60}",
        condition in "[a-z0-9()* _|]{0,30}",
    ) {
        let text = format!("title: t\nlogsource: {{category: process_creation}}\ndetection:\n  selection:\n    {selection}\n  condition: {condition}\n");
        match load(&[Source { name: "t.yml", text: &text }]) {
            Ok(loaded) => prop_assert!(loaded.ruleset.rules().len() + loaded.inactive.len() <= 1),
            Err(errors) => prop_assert!(!errors.0.is_empty()),
        }
    }
}
