//! The language by example: what rules match, how definitions merge, what is reported.
#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

use staghound_engine::compile::Scratch;
use staghound_engine::event::{Event, EventKind, KindSet};
use staghound_engine::field::{Field, FieldRef};
use staghound_engine::ruleset::{Inactivity, Loaded, Severity, load};
use staghound_engine::source::Source;

fn loaded(text: &str) -> Loaded {
    match load(&[Source { name: "t.yaml", text }]) {
        Ok(loaded) => loaded,
        Err(errors) => panic!("{errors}"),
    }
}

fn language() -> Loaded {
    loaded(include_str!("good/language.yaml"))
}

#[test]
fn every_example_turns_out_right() {
    let ruleset = language().ruleset;
    let failures = ruleset.check_all_examples();
    assert!(
        failures.is_empty(),
        "{}",
        failures.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
    );
    let examples: usize = ruleset
        .rules()
        .iter()
        .map(|rule| rule.examples.matching.len() + rule.examples.missing.len())
        .sum();
    assert_eq!(examples, 18);
}

#[test]
fn rules_carry_what_was_written() {
    let ruleset = language().ruleset;
    let rule = ruleset.rule("execution/interpreter").unwrap();
    assert_eq!(&*rule.name, "Interpreter under a server");
    assert_eq!(&*rule.description, "Text that folds.");
    assert_eq!((rule.severity, rule.line), (Severity::High, 21));
    assert_eq!(&*rule.attack[0].name, "Unix Shell");
    assert_eq!(rule.kinds, KindSet::of(&[EventKind::Exec]));
    let throttle = rule.throttle.as_ref().unwrap();
    assert_eq!((throttle.limit, throttle.every_ms), (3, 60_000));
    assert_eq!(&*throttle.by, &[FieldRef::plain(Field::ProcExepath)]);
    let secret = ruleset.rule("secret-read").unwrap();
    assert_eq!(
        (secret.severity, &*secret.attack[0].id),
        (Severity::Medium, "T1552.001")
    );
    assert_eq!(ruleset.rule("mode").unwrap().severity, Severity::Critical);
    assert_eq!(
        ruleset.kinds(),
        KindSet::of(&[EventKind::Exec, EventKind::Open, EventKind::Connect, EventKind::Chmod])
    );
    assert!(ruleset.digest().starts_with("sha256:") && ruleset.digest().len() == 71);
}

#[test]
fn outputs_are_filled_in() {
    let ruleset = language().ruleset;
    let text = |id: &str, example: usize| {
        let rule = ruleset.rule(id).unwrap();
        let mut text = String::new();
        rule.output
            .render(&rule.examples.matching[example].events()[0], &mut text);
        text
    };
    assert_eq!(
        text("execution/interpreter", 0),
        "interpreter sh (nginx) by cgi uid=<NA> <NA>"
    );
    assert_eq!(text("secret-read", 0), "% /etc/secrets/a read by cat.");
    assert_eq!(
        text("mode", 0),
        "S_ISUID|S_IRUSR|S_IWUSR|S_IXUSR|S_IRGRP|S_IXGRP|S_IROTH|S_IXOTH of /tmp/x"
    );
}

#[test]
fn what_does_not_run_is_told() {
    let loaded = language();
    let told: Vec<(&str, Inactivity, &str)> = loaded
        .inactive
        .iter()
        .map(|inactive| (&*inactive.rule, inactive.why, inactive.reason.as_str()))
        .collect();
    assert_eq!(
        told,
        [
            ("Disabled", Inactivity::Disabled, "disabled by `enabled: false`"),
            ("Later", Inactivity::Key, "key `response` needs a later version"),
            (
                "Elsewhere",
                Inactivity::Source,
                "source `k8s_audit` is not supplied by this version"
            ),
            (
                "Unsupplied",
                Inactivity::Field,
                "field `proc.vmrss` is not supplied by this version"
            ),
            (
                "Unrecorded",
                Inactivity::Event,
                "event type `nanosleep` is not recorded by this version"
            ),
        ]
    );
}

/// A ruleset of one rule per condition, and which of them match an example event.
fn matching(conditions: &[&str], example: &str) -> Vec<bool> {
    let mut text = String::new();
    for (index, condition) in conditions.iter().enumerate() {
        text.push_str(&format!(
            "- rule: r{index}\n  desc: d\n  condition: >\n    {condition}\n  output: o\n  priority: ERROR\n  examples: {{match: [{example}]}}\n"
        ));
    }
    let loaded = loaded(&text);
    assert_eq!(loaded.ruleset.rules().len(), conditions.len(), "{:?}", loaded.inactive);
    let event = &loaded.ruleset.rules()[0].examples.matching[0].events()[0];
    let mut found = vec![false; conditions.len()];
    loaded.ruleset.matches(event, &mut Scratch::new(), &mut |rule| {
        found[rule.name[1..].parse::<usize>().unwrap()] = true;
    });
    found
}

#[test]
fn conditions_match() {
    let event = "{evt.type: execve, proc.name: sh, proc.cmdline: sh -c id, proc.pid: 7, proc.aname: [sshd, systemd], proc.exepath: /bin/sh, evt.arg.res: 0}";
    let cases = [
        ("proc.name = sh", true),
        ("proc.name == 'sh'", true),
        ("proc.name != sh", false),
        ("proc.name != bash", true),
        ("proc.cwd != /x", false),
        ("not proc.cwd = /x", true),
        ("proc.cwd exists", false),
        ("proc.name exists", true),
        ("proc.name in (bash, sh)", true),
        ("proc.name intersects (bash, sh)", true),
        ("proc.aname = systemd", true),
        ("proc.aname in (systemd, init)", true),
        ("proc.aname != sshd", true),
        ("proc.aname startswith ssh", true),
        (
            "proc.aname[0] = sh and proc.aname[1] = sshd and proc.aname[2] = systemd",
            true,
        ),
        ("proc.aname[3] exists", false),
        ("proc.pname = sshd", true),
        ("proc.cmdline contains \" -c \"", true),
        ("proc.cmdline icontains \" -C ID\"", true),
        ("proc.cmdline contains allof (sh, id)", true),
        ("proc.cmdline contains oneof (sh, id)", false),
        ("proc.cmdline contains anyof (zzz, id)", true),
        ("proc.name != allof (bash, zsh)", true),
        ("proc.args = \"-c id\"", true),
        ("proc.arg[1] = id", true),
        ("proc.cmdnargs = 2", true),
        ("proc.cmdline endswith id", true),
        ("proc.cmdline glob \"sh -?*\"", true),
        ("proc.cmdline iglob \"SH*\"", true),
        ("proc.cmdline regex \"sh -[a-z] .*\"", true),
        ("proc.cmdline regex \"sh\"", false),
        ("proc.exepath pmatch (/bin, /usr/bin)", true),
        ("proc.exepath pmatch (/b)", false),
        ("proc.pid > 6 and proc.pid <= 7 and proc.pid != 8", true),
        ("proc.pid < 7", false),
        ("tolower(proc.name) = sh and toupper(proc.name) = SH", true),
        ("basename(proc.exepath) = val(proc.name)", true),
        ("len(proc.name) = 2", true),
        ("proc.name = val(proc.pname)", false),
        ("proc.cmdline startswith val(proc.name)", true),
        ("evt.dir = < and evt.category = process", true),
        ("proc.name = sh and not (proc.pname = x or proc.pname = y)", true),
        ("proc.is_exe_from_memfd = false", true),
    ];
    let found = matching(&cases.map(|(condition, _)| condition), event);
    for ((condition, expected), found) in cases.iter().zip(found) {
        assert_eq!(found, *expected, "{condition}");
    }
}

#[test]
fn sockets_have_two_ends() {
    let event = "{evt.type: connect, fd.sip: 192.0.2.1, fd.sport: 443, fd.cip: 10.0.0.9, fd.cport: 40000}";
    let cases = [
        ("fd.ip = 192.0.2.1", true),
        ("fd.ip = 10.0.0.9", true),
        ("fd.ip != 10.0.0.9", false),
        ("fd.ip != 10.0.0.8", true),
        ("fd.port in (443)", true),
        ("fd.net = 10.0.0.0/8", true),
        ("fd.snet = 10.0.0.0/8", false),
        ("fd.rip = 192.0.2.1 and fd.lport = 40000", true),
        ("fd.name = \"10.0.0.9:40000->192.0.2.1:443\"", true),
        ("fd.typechar = 4 and fd.l4proto = tcp", true),
    ];
    let found = matching(&cases.map(|(condition, _)| condition), event);
    for ((condition, expected), found) in cases.iter().zip(found) {
        assert_eq!(found, *expected, "{condition}");
    }
}

#[test]
fn kinds_follow_from_conditions() {
    use EventKind::{Chmod, Connect, Exec, Open};
    for (condition, kinds) in [
        ("evt.type = execve", KindSet::of(&[Exec])),
        ("evt.type in (open, connect)", KindSet::of(&[Open, Connect])),
        ("not evt.type in (execve, execveat)", KindSet::of(&[Exec]).complement()),
        ("evt.type != execve", KindSet::ALL),
        ("evt.is_open_read = true", KindSet::of(&[Open])),
        ("evt.arg.mode = 1", KindSet::ALL),
        (
            "evt.arg.mode = 1 and evt.type in (chmod, open)",
            KindSet::of(&[Open, Chmod]),
        ),
        ("fs.path.source = /x", Field::FsPathTarget.kinds()),
        ("proc.name = x", KindSet::ALL),
        (
            "proc.name = x and (evt.type = execve or evt.is_open_write = true)",
            KindSet::of(&[Exec, Open]),
        ),
    ] {
        let text = format!("- rule: r\n  desc: d\n  condition: {condition}\n  output: o\n  priority: ERROR\n");
        assert_eq!(loaded(&text).ruleset.kinds(), kinds, "{condition}");
    }
}

#[test]
fn doubts_are_warnings() {
    for (text, warning) in [
        (
            "  attack: [T1562.004]\n",
            "t.yaml:6:12: technique T1562.004 was renumbered in ATT&CK v19; write `T1686` (Disable or Modify System Firewall)",
        ),
        (
            "  attack: [T9999]\n",
            "t.yaml:6:12: technique `T9999` is not in ATT&CK v19.1",
        ),
        (
            "  remediaton: x\n",
            "t.yaml:6:3: unknown key `remediaton` of a rule is ignored; did you mean `remediation`?",
        ),
        (
            "- macro: m\n  condition: proc.name = x\n",
            "t.yaml:6:10: macro `m` is not used",
        ),
    ] {
        let text = format!("- rule: r\n  desc: d\n  condition: proc.name = sh\n  output: o\n  priority: ERROR\n{text}");
        let warnings: Vec<String> = loaded(&text).warnings.iter().map(ToString::to_string).collect();
        assert_eq!(warnings, [warning]);
    }
    let text = "- rule: r\n  desc: d\n  condition: evt.type in (open, nanosleep)\n  output: '%proc.vmrss'\n  priority: ERROR\n";
    let warnings: Vec<String> = loaded(text).warnings.iter().map(ToString::to_string).collect();
    assert_eq!(
        warnings,
        [
            "t.yaml:1:9: rule `r` also names `nanosleep`, which this version does not record",
            "t.yaml:4:13: field `proc.vmrss` is not supplied by this version: the output shows <NA>",
        ]
    );
}

#[test]
fn macros_that_double_cost_nothing_and_chains_are_bounded() {
    let chain = |length: usize| {
        let mut text = "- macro: m0\n  condition: proc.name = sh or proc.name = bash\n".to_owned();
        for level in 1..length {
            let below = level - 1;
            text.push_str(&format!(
                "- macro: m{level}\n  condition: not (m{below} and proc.pname != p{level}) or not (m{below})\n"
            ));
        }
        text.push_str(&format!(
            "- rule: r\n  desc: d\n  condition: m{}\n  output: o\n  priority: ERROR\n",
            length - 1
        ));
        text
    };
    let ruleset = loaded(&chain(100)).ruleset;
    let event = staghound_engine::example::ExampleEvent::new("execve").unwrap();
    ruleset.matches(&event, &mut Scratch::new(), &mut |_| {});
    let text = chain(2000);
    let errors = load(&[Source {
        name: "t.yaml",
        text: &text,
    }])
    .unwrap_err();
    assert!(errors.0[0].message.contains("levels deep"), "{errors}");
}

#[test]
fn scratch_serves_any_ruleset() {
    let small = loaded("- rule: a\n  desc: d\n  condition: proc.name = sh\n  output: o\n  priority: ERROR\n").ruleset;
    let large = language().ruleset;
    let mut scratch = Scratch::new();
    let event = &large.rules()[0].examples.matching[0].events()[0];
    assert_eq!(event.kind(), EventKind::Exec);
    for _ in 0..3 {
        let mut found = 0;
        small.matches(event, &mut scratch, &mut |_| found += 1);
        large.matches(event, &mut scratch, &mut |_| found += 1);
        assert_eq!(found, 2);
    }
}
