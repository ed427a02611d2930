use staghound_proto::v1::{Event, File, Process, RuleRef, Socket, Technique, event::Object};

use super::*;

fn policy(text: &str) -> Policy {
    Policy::parse(Path::new("policy.yaml"), text).unwrap()
}

fn mistake(text: &str) -> String {
    Policy::parse(Path::new("p.yaml"), text).unwrap_err().to_string()
}

fn process(args: &[&str]) -> Process {
    Process {
        args: args.iter().map(|&arg| arg.to_owned()).collect(),
        executable: format!("/usr/bin/{}", args[0]),
        cwd: "/src".to_owned(),
        ..Process::default()
    }
}

/// `cat` reads a file, below `make`.
fn alert() -> Alert {
    Alert {
        rule: Some(RuleRef {
            id: "credential-access/shadow-read".to_owned(),
            ..RuleRef::default()
        }),
        techniques: vec![Technique {
            id: "T1003.008".to_owned(),
            tactics: vec!["credential-access".to_owned()],
            ..Technique::default()
        }],
        event: Some(Event {
            object: Some(Object::File(File {
                path: "/etc/shadow".to_owned(),
                ..File::default()
            })),
            ..Event::default()
        }),
        process: Some(process(&["cat", "/etc/shadow"])),
        ancestors: vec![process(&["make", "check"])],
        ..Alert::default()
    }
}

fn today() -> Day {
    Day::parse("2026-06-15").unwrap()
}

fn decision(policy: &Policy, alert: &Alert, severity: Severity) -> Decision {
    policy.judge(alert, severity, today()).decision
}

#[test]
fn days_are_days() {
    assert_eq!(Day::parse("1970-01-02").unwrap(), Day::of_unix_seconds(86_400));
    assert!(Day::parse("2026-12-31").unwrap() < Day::parse("2027-01-01").unwrap());
    for bad in [
        "",
        "2026-02-30",
        "2026-13-01",
        "26-01-01",
        "2026-1-1",
        "2026-01-01T00:00:00Z",
        "２026-01-01",
    ] {
        assert!(Day::parse(bad).is_err(), "{bad}");
    }
}

#[test]
fn the_default_fails_at_high_and_is_stricter_with_others_code() {
    let policy = Policy::default_policy();
    assert_eq!(decision(&policy, &alert(), Severity::High), Decision::Failed);
    assert_eq!(decision(&policy, &alert(), Severity::Medium), Decision::Warned);
    assert_eq!(
        decision(&policy, &alert(), Severity::Informational),
        Decision::Tolerated
    );
    let below_npm = Alert {
        ancestors: vec![process(&["sh"]), process(&["npm", "ci"])],
        ..alert()
    };
    let judged = policy.judge(&below_npm, Severity::Medium, today());
    assert_eq!((judged.decision, judged.scope), (Decision::Failed, "third-party"));
    assert!(judged.reason.contains("tactic credential-access"), "{}", judged.reason);
    assert_eq!(policy.material().path, "");
}

#[test]
fn the_narrowest_statement_decides() {
    let text = |tolerance: &str| format!("version: 1\nscopes: []\ntolerance:\n  fail_on: high\n{tolerance}");
    for (tolerance, expected) in [
        ("", Decision::Warned),
        ("  tactics: {credential-access: medium}\n", Decision::Failed),
        (
            "  tactics: {credential-access: medium}\n  techniques: {T1003: high}\n",
            Decision::Warned,
        ),
        ("  techniques: {T1003: high, T1003.008: medium}\n", Decision::Failed),
        (
            "  techniques: {T1003.008: medium}\n  rules: {credential-access/shadow-read: never}\n",
            Decision::Warned,
        ),
    ] {
        let policy = policy(&text(tolerance));
        assert_eq!(decision(&policy, &alert(), Severity::Medium), expected, "{tolerance}");
    }
}

#[test]
fn one_level_of_the_command_line_holds_everywhere() {
    let below_npm = Alert {
        ancestors: vec![process(&["npm", "ci"])],
        ..alert()
    };
    for (level, severity, expected) in [
        (Severity::Critical, Severity::High, Decision::Warned),
        (Severity::Low, Severity::Low, Decision::Failed),
    ] {
        let policy = Policy::failing_on(level);
        for alert in [&alert(), &below_npm] {
            assert_eq!(decision(&policy, alert, severity), expected);
        }
        assert_eq!(policy.judge(&below_npm, severity, today()).scope, "third-party");
    }
}

#[test]
fn a_scope_holds_for_the_lineage_it_describes() {
    let policy = policy(
        "version: 1\nscopes:\n  - name: tests\n    any: [{ancestor: 'make check*'}]\n    tolerance: {fail_on: never}\n",
    );
    let judged = policy.judge(&alert(), Severity::Critical, today());
    assert_eq!((judged.decision, judged.scope), (Decision::Warned, "tests"));
    let elsewhere = Alert {
        ancestors: vec![process(&["make", "all"])],
        ..alert()
    };
    assert_eq!(decision(&policy, &elsewhere, Severity::Critical), Decision::Failed);
    assert_eq!(policy.scopes().collect::<Vec<_>>(), ["tests", OWN_CODE]);
}

const WAIVED: &str = "version: 1
waivers:
  - id: W1
    owner: sec@example.org
    reason: the fixture is a shadow file
    expires: 2026-06-15
    rule: credential-access/shadow-read
    where: {ancestor: make check, path: /etc/shadow}
";

#[test]
fn a_waiver_covers_what_it_describes_until_its_day_is_over() {
    let policy = policy(WAIVED);
    let judged = policy.judge(&alert(), Severity::High, today());
    assert_eq!(judged.decision, Decision::Waived);
    assert_eq!(judged.waiver.unwrap().id, "W1");
    let tomorrow = Day::parse("2026-06-16").unwrap();
    let judged = policy.judge(&alert(), Severity::High, tomorrow);
    assert_eq!(judged.decision, Decision::Failed);
    assert_eq!(judged.expired.unwrap().id, "W1");
    assert!(
        judged.reason.contains("waiver `W1` of sec@example.org is over"),
        "{}",
        judged.reason
    );
}

#[test]
fn a_waiver_hides_no_other_finding() {
    let policy = policy(WAIVED);
    let mut other_rule = alert();
    other_rule.rule.as_mut().unwrap().id = "impact/x".to_owned();
    let mut other_path = alert();
    other_path.event = Some(Event {
        object: Some(Object::File(File {
            path: "/etc/shadow-".to_owned(),
            ..File::default()
        })),
        ..Event::default()
    });
    let mut renamed = alert();
    renamed.event = Some(Event {
        object: Some(Object::File(File {
            path: "/etc/shadow".to_owned(),
            new_path: "/tmp/loot".to_owned(),
            ..File::default()
        })),
        ..Event::default()
    });
    let other_lineage = Alert {
        ancestors: vec![process(&["sh"])],
        ..alert()
    };
    let no_file = Alert { event: None, ..alert() };
    for other in [other_rule, other_path, renamed, other_lineage, no_file] {
        assert_eq!(decision(&policy, &other, Severity::High), Decision::Failed, "{other:?}");
    }
}

#[test]
fn an_endpoint_is_an_address_or_a_name() {
    let policy = policy(&WAIVED.replace("path: /etc/shadow", "endpoint: '*.example.org'"));
    let mut alert = alert();
    let socket = |dns_name: &str| {
        Some(Event {
            object: Some(Object::Socket(Socket {
                dns_name: dns_name.to_owned(),
                remote_address: "192.0.2.1".to_owned(),
                remote_port: 443,
                ..Socket::default()
            })),
            ..Event::default()
        })
    };
    alert.event = socket("api.example.org");
    assert_eq!(decision(&policy, &alert, Severity::High), Decision::Waived);
    alert.event = socket("api.example.net");
    assert_eq!(decision(&policy, &alert, Severity::High), Decision::Failed);
}

#[test]
fn mistakes_say_where_and_what_to_do() {
    let waiver = |from: &str, to: &str| mistake(&WAIVED.replace(from, to));
    for (told, expected) in [
        (mistake(""), "p.yaml:1:1: the policy is empty"),
        (mistake("version: 2"), "policies of version 2 are not known"),
        (
            mistake("version: 1\nfoo: 1"),
            "unknown key `foo`; valid here: version, name, mode",
        ),
        (mistake("version: 1\nmode: loud"), "p.yaml:2:7: "),
        (
            mistake("version: 1\ntolerance: {fail_on: bad}"),
            "unknown level `bad`; use informational",
        ),
        (
            mistake("version: 1\ntolerance: {techniques: {T9999: low}}"),
            "has no technique `T9999`",
        ),
        (
            mistake("version: 1\ntolerance: {tactics: {evil: low}}"),
            "unknown tactic `evil`; valid here:",
        ),
        (
            mistake("version: 1\nscopes: [{name: a}]"),
            "scope `a` says nothing about what is in it",
        ),
        (
            mistake("version: 1\nscopes: [{name: own-code, lineage: third-party}]"),
            "two scopes are called `own-code`",
        ),
        (
            mistake("version: 1\nscopes: [{name: a, any: [{path: '*'}]}]"),
            "the condition holds for everything",
        ),
        (
            waiver("{ancestor: make check, path: /etc/shadow}", "{}"),
            "the condition holds for everything",
        ),
        (
            waiver("2026-06-15", "soon"),
            "waiver `W1`: `soon` is no day; write it as 2027-01-31",
        ),
        (waiver("sec@example.org", "' '"), "waiver `W1`: `owner` is empty"),
        (waiver("    owner: sec@example.org\n", ""), "missing field `owner`"),
        (mistake("version: 1\non_failure: {kill: softly}"), "softly"),
    ] {
        assert!(told.contains(expected), "{told}\n  lacks {expected}");
    }
}

#[test]
fn rules_that_nobody_has_are_named() {
    let policy = policy(&format!("{WAIVED}scopes: []\n"));
    assert_eq!(
        policy.unknown_rules(|_| false).collect::<Vec<_>>(),
        ["credential-access/shadow-read"]
    );
    assert_eq!(policy.unknown_rules(|_| true).count(), 0);
    // The default policy speaks of what a run finds by itself.
    assert_eq!(
        Policy::default_policy().unknown_rules(|_| false).collect::<Vec<_>>(),
        ["gate/survivor"]
    );
}
