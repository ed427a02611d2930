//! The agent as people use it: what it shows, what it returns, and how it says no.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests fail by panicking")]

use std::{
    ffi::{OsStr, OsString},
    fs,
    os::unix::{
        ffi::{OsStrExt as _, OsStringExt as _},
        fs::PermissionsExt as _,
        process::CommandExt as _,
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
    time::SystemTime,
};

use serde_json::Value;
use staghound::sensor::lsm_runs_programs;
use staghound_proto::{json, v1};
use staghound_tests::{
    DECOY_DIRECTORY, DECOY_RULE, DECOY_RULES, actor, actor_path,
    process::{Agent, Output, Running, output, staghound},
    until,
};
use tempfile::TempDir;

const SHADOW_RULE: &str = "credential-access/shadow-read";
const MOVED_BY_KERNEL_RULE: &str = "credential-access/secrets-moved-by-kernel";

/// A directory with a place for decoys and the rules about them.
struct Place {
    directory: TempDir,
}

impl Place {
    fn new() -> Self {
        let directory = TempDir::new().unwrap();
        fs::create_dir(directory.path().join(DECOY_DIRECTORY)).unwrap();
        fs::create_dir(directory.path().join("own-rules")).unwrap();
        fs::write(directory.path().join("own-rules/decoy.yaml"), DECOY_RULES).unwrap();
        Self { directory }
    }

    fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.directory.path().canonicalize().unwrap().join(name)
    }

    fn decoy(&self, name: impl AsRef<Path>) -> PathBuf {
        let path = self.path(DECOY_DIRECTORY).join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, "decoy").unwrap();
        path
    }

    /// `staghound run` with the decoy rules; what reads a decoy fails the run.
    fn run<W: AsRef<OsStr>>(&self, command: impl IntoIterator<Item = W>) -> Command {
        let mut run = staghound(["run", "--fail-on", "medium", "--rules"]);
        run.arg(self.path("own-rules")).arg("--").args(command);
        run
    }
}

fn rule_id(alert: &Value) -> &str {
    alert["rule"]["id"].as_str().unwrap_or_default()
}

fn pids(alert: &Value) -> Vec<u64> {
    let own = alert["process"]["pid"].as_u64();
    let ancestors = alert["ancestors"].as_array().into_iter().flatten();
    own.into_iter()
        .chain(ancestors.filter_map(|ancestor| ancestor["pid"].as_u64()))
        .collect()
}

/// The alerts about a process and its descendants; a host has other processes, and some may do what rules forbid.
fn alerts_of(agent: &Agent, pid: u32) -> Vec<Arc<Value>> {
    agent
        .shown()
        .into_iter()
        .filter(|alert| pids(alert).contains(&u64::from(pid)))
        .collect()
}

/// Runs a command to its end; yields its pid.
fn act(command: &mut Command) -> u32 {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    assert!(child.wait().unwrap().success(), "{command:?}");
    child.id()
}

fn shell(script: &str) -> Command {
    let mut command = Command::new("/bin/sh");
    command.args(["-c", script]);
    command
}

fn host_name() -> String {
    fs::read_to_string("/proc/sys/kernel/hostname")
        .unwrap()
        .trim()
        .to_owned()
}

/// No byte that a terminal obeys but the line feed, and valid UTF-8.
fn is_harmless(bytes: &[u8]) -> &str {
    let text = std::str::from_utf8(bytes).expect("UTF-8");
    let hostile = text
        .chars()
        .find(|c| (c.is_control() && *c != '\n') || ('\u{202a}'..='\u{202e}').contains(c));
    assert_eq!(hostile, None, "{text:?}");
    text
}

fn seconds(time: &Value) -> f64 {
    // `2026-09-21T14:13:20.123456789Z`; the tests take minutes, so the time of the day will do, but for midnight.
    let text = time.as_str().unwrap();
    let clock = text.split_once('T').unwrap().1.trim_end_matches('Z');
    clock
        .split(':')
        .fold(0.0, |sum, part| sum * 60.0 + part.parse::<f64>().unwrap())
}

#[test]
fn observe_shows_what_the_issue_promises() {
    let state = TempDir::new().unwrap();
    let mut agent = Agent::observe(state.path(), ["--output", "json"]);
    let begun = SystemTime::now();
    // A second command keeps the shell from becoming `cat`.
    let pid = act(&mut shell("cat /etc/shadow; true"));
    until("alert of cat /etc/shadow", || {
        (!alerts_of(&agent, pid).is_empty()).then_some(())
    });
    // A later act of the same shell's kind: when its alert is there, no other of the first can be under way.
    let second = act(&mut shell("cat /etc/shadow; true"));
    until("alert of the second", || {
        (!alerts_of(&agent, second).is_empty()).then_some(())
    });
    let mut alerts = alerts_of(&agent, pid);
    // A guest's `cat` has the kernel move the bytes, which is another rule's business.
    alerts.retain(|alert| rule_id(alert) != MOVED_BY_KERNEL_RULE);
    assert_eq!(alerts.len(), 1, "{alerts:#?}");
    let alert = &alerts[0];

    assert_eq!(rule_id(alert), SHADOW_RULE);
    assert_ne!(alert["rule"]["remediation"].as_str(), None);
    assert!(alert["rule"]["rulesetDigest"].as_str().unwrap().starts_with("sha256:"));
    assert_eq!(alert["severity"], "SEVERITY_HIGH");
    assert_eq!(alert["techniques"][0]["id"], "T1003.008");
    assert_eq!(alert["techniques"][0]["tactics"][0], "credential-access");
    assert_eq!(alert["event"]["file"]["path"], "/etc/shadow");
    assert_eq!(alert["count"], "1");
    let process = &alert["process"];
    let cat = fs::canonicalize(
        ["/usr/bin/cat", "/bin/cat"]
            .into_iter()
            .find(|path| Path::new(path).exists())
            .unwrap(),
    );
    assert_eq!(process["executable"], cat.unwrap().to_str().unwrap());
    assert_eq!(process["name"], "cat");
    assert_eq!(process["args"], serde_json::json!(["cat", "/etc/shadow"]));
    assert_eq!(process["parentPid"], pid);
    assert_eq!(process["cwd"], std::env::current_dir().unwrap().to_str().unwrap());
    assert_eq!(process["credentials"]["user"], "root");
    assert_eq!(alert["host"]["name"], host_name());
    // It began after the test did, and before it was seen to read.
    let day = 86_400.0;
    let since_midnight = begun.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs_f64() % day;
    let (start, event) = (seconds(&process["startTime"]), seconds(&alert["eventTime"]));
    assert!((event - start).rem_euclid(day) < 300.0, "{start} {event}");
    assert!(
        (start - since_midnight + 1.0).rem_euclid(day) < 300.0,
        "{start} {since_midnight}"
    );

    let chain = pids(alert);
    assert_eq!(chain[1..3], [u64::from(pid), u64::from(std::process::id())]);
    assert_eq!(chain.last(), Some(&1), "{chain:?}");
    assert_eq!(
        alert["ancestors"][0]["args"],
        serde_json::json!(["/bin/sh", "-c", "cat /etc/shadow; true"])
    );
    // It is the message of the contract, whole: nothing in it that the contract does not know.
    let parsed: v1::Alert = json::from_str(&alert.to_string()).unwrap();
    assert_eq!(parsed.rule.unwrap().id, SHADOW_RULE);
    assert!(agent.running.terminate().success());
}

#[test]
fn observe_shows_text_to_people() {
    let place = Place::new();
    let decoy = place.decoy("id_1");
    let state = TempDir::new().unwrap();
    let mut agent = Agent::observe(state.path(), ["--output", "text"]);
    act(&mut actor(["open".as_ref(), decoy.as_os_str(), "read".as_ref()]));
    let text = until("alert as text", || {
        let stdout = agent.running.stdout();
        let text = is_harmless(&stdout).to_owned();
        // The last line of an alert.
        (text.contains(decoy.to_str().unwrap()) && text.contains("    fix ")).then_some(text)
    });
    let headline = text.lines().find(|line| line.contains(DECOY_RULE)).unwrap();
    assert!(headline.contains("MEDIUM") && headline.contains("T1552.004"), "{text}");
    assert!(text.contains("    user     root (0)"), "{text}");
    assert!(text.contains(&format!("    host     {}", host_name())), "{text}");
    assert!(agent.running.terminate().success());
}

#[test]
fn observe_drains_when_told_to_stop() {
    let place = Place::new();
    let state = TempDir::new().unwrap();
    let mut agent = Agent::observe(state.path(), ["--output", "json"]);
    for index in 0..50 {
        place.decoy(index.to_string());
    }
    let pid = act(&mut actor([
        "open-all".as_ref(),
        place.path(DECOY_DIRECTORY).as_os_str(),
        "0".as_ref(),
        "50".as_ref(),
    ]));
    // At once: what was done before the signal must still come out.
    assert!(agent.running.terminate().success());
    let shown = alerts_of(&agent, pid);
    let stdout = agent.running.stdout();
    assert_eq!(stdout.last(), Some(&b'\n'), "a line was cut");
    assert_eq!(shown.len(), 50);
    let stderr = agent.running.stderr();
    assert!(stderr.contains("stopped:"), "{stderr}");
    assert!(stderr.contains(" 0 events lost"), "{stderr}");
}

#[test]
fn hostile_values_come_out_escaped_and_secrets_redacted() {
    let place = Place::new();
    let state = TempDir::new().unwrap();
    let mut agent = Agent::observe(state.path(), ["--output", "json"]);
    let hostile = b"h\x1b[31m\x1b]0;t\x07\n\r\t\xff\xfe\xe2\x80\xae\x7f\xc2\x9b";
    let decoy = place.decoy(OsStr::from_bytes(hostile));
    let mut long = place.path(DECOY_DIRECTORY);
    while long.as_os_str().len() < 3400 {
        long.push("x".repeat(250));
    }
    let long = place.decoy(long.join("\u{1b}[2J"));
    let words: Vec<OsString> = [
        b"open".to_vec(),
        decoy.as_os_str().as_bytes().to_vec(),
        b"read".to_vec(),
        hostile.to_vec(),
        [&b"\x1b[2J"[..], &[b'a'; 4092]].concat(),
        b"--password".to_vec(),
        b"hunter2".to_vec(),
        b"--token=hunter3".to_vec(),
        b"https://user:hunter4@example.com/".to_vec(),
        b"TOKEN=hunter5".to_vec(),
    ]
    .map(OsString::from_vec)
    .to_vec();
    let pid = act(&mut actor(&words));
    let second = act(&mut actor(["open".as_ref(), long.as_os_str(), "read".as_ref()]));
    let (first, second) = until("alerts of hostile paths", || {
        let (mut first, mut second) = (alerts_of(&agent, pid), alerts_of(&agent, second));
        Some((first.pop()?, second.pop()?))
    });
    let escaped = r"h\x1b[31m\x1b]0;t\x07\x0a\x0d\x09\xff\xfe";
    let path = first["event"]["file"]["path"].as_str().unwrap();
    assert!(
        path.starts_with(&format!("{}/{escaped}", place.path(DECOY_DIRECTORY).display())),
        "{path}"
    );
    let arguments: Vec<&str> = first["process"]["args"]
        .as_array()
        .unwrap()
        .iter()
        .map(|argument| argument.as_str().unwrap())
        .collect();
    assert!(arguments[4].starts_with(escaped), "{arguments:?}");
    assert_eq!(arguments[5], format!(r"\x1b[2J{}", "a".repeat(4092)));
    assert_eq!(
        arguments[6..],
        [
            "--password",
            "<redacted>",
            "--token=<redacted>",
            "https://user:<redacted>@example.com/",
            "TOKEN=<redacted>"
        ]
    );
    let path = second["event"]["file"]["path"].as_str().unwrap();
    assert!(path.len() > 3400 && path.ends_with(r"/\x1b[2J"), "{path}");
    assert!(agent.running.terminate().success());
    let stdout = agent.running.stdout();
    let text = std::str::from_utf8(&stdout).unwrap();
    let hostile_byte = text.chars().find(|c| c.is_control() && *c != '\n');
    assert_eq!(hostile_byte, None);
    assert!(!text.contains("hunter"), "a secret was shown");
    is_harmless(agent.running.stderr().as_bytes());

    // The same as text.
    let run = output(&mut place.run([actor_path().into_os_string()].into_iter().chain(words)));
    assert_eq!(run.code(), Some(100), "{run:?}");
    let text = is_harmless(run.stderr.as_bytes());
    assert!(text.contains(r"h\x1b[31m"), "{text}");
    assert!(!text.contains("hunter"), "{text}");
}

#[test]
fn run_returns_what_the_command_does() {
    let place = Place::new();
    let plain = place.path("plain");
    fs::write(&plain, "no program").unwrap();
    fs::set_permissions(&plain, fs::Permissions::from_mode(0o644)).unwrap();
    for (command, code, told) in [
        (vec!["true"], 0, "PASS"),
        (vec!["sh", "-c", "exit 7"], 7, "PASS"),
        (vec!["sh", "-c", "kill -TERM $$"], 128 + 15, "PASS"),
        (vec!["/no/such"], 127, "cannot run /no/such"),
        (vec![plain.to_str().unwrap()], 126, "cannot run"),
    ] {
        let run = output(staghound(["run", "--"]).args(&command));
        assert_eq!(run.code(), Some(code), "{command:?}: {run:?}");
        assert!(run.stderr.contains(told), "{command:?}: {run:?}");
    }
    // The command's own streams are left alone.
    let run = output(&mut staghound(["run", "--", "sh", "-c", "echo out; echo err >&2"]));
    assert_eq!((run.code(), run.text().as_str()), (Some(0), "out\n"));
    assert!(run.stderr.starts_with("err\n"), "{run:?}");
}

#[test]
fn run_fails_a_command_that_reads_password_hashes() {
    let script = "cat /etc/shadow > /dev/null; true";
    let run = output(&mut staghound(["run", "--", "sh", "-c", script]));
    assert_eq!(run.code(), Some(100), "{run:?}");
    let list = output(&mut staghound(["rules", "show", SHADOW_RULE]));
    for part in [
        SHADOW_RULE,
        "T1003.008",
        "FAIL",
        "HIGH",
        "    fix      ",
        "cat /etc/shadow",
    ] {
        assert!(run.stderr.contains(part), "{part}: {run:?}");
    }
    let fix = run
        .stderr
        .lines()
        .find_map(|line| line.strip_prefix("    fix      "))
        .unwrap();
    let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(words(&list.text()).contains(&words(fix)), "{fix}: {list:?}");

    let run = output(&mut staghound([
        "run",
        "--fail-on",
        "critical",
        "--",
        "sh",
        "-c",
        script,
    ]));
    assert_eq!(run.code(), Some(0), "{run:?}");
    assert!(run.stderr.contains(SHADOW_RULE), "{run:?}");
}

/// Programs look for files in vain all the time; of that only rules hear that ask for it.
#[test]
fn a_rule_about_failed_opens_hears_of_files_that_are_not_there() {
    let place = Place::new();
    let rule = |condition: &str| {
        let rule = format!(
            "- rule: Probed\n  id: test/probed\n  desc: d\n  severity: high\n  attack: [T1083]\n  output: \"%evt.res %fd.name\"\n  condition: {condition}\n"
        );
        fs::write(place.path("own-rules/decoy.yaml"), rule).unwrap();
    };
    let probed = place.path("not-there");
    let probe = || {
        output(&mut place.run([
            actor_path().as_os_str(),
            "open".as_ref(),
            probed.as_os_str(),
            "read".as_ref(),
        ]))
    };
    let about = format!("evt.type in (open, openat) and fd.name = {}", probed.display());

    rule(&format!("{about} and evt.failed = true"));
    let run = probe();
    assert_eq!(run.code(), Some(100), "{run:?}");
    assert!(run.stderr.contains(&format!("ENOENT {}", probed.display())), "{run:?}");

    // This one is about files that are opened, too.
    rule(&about);
    let run = probe();
    assert_eq!(run.code(), Some(0), "{run:?}");
}

#[test]
fn run_watches_descendants_and_nobody_else() {
    let place = Place::new();
    let (inside, outside) = (place.decoy("inside"), place.decoy("outside"));
    let [started, go_on, done] = ["started", "go-on", "done"].map(|name| place.path(name));
    // A daemon whose makers are gone reads; an outsider reads meanwhile.
    let daemon = format!("cat {}; : > {}", inside.display(), done.display());
    let script = format!(
        ": > {}; until [ -e {} ]; do :; done; {} daemon exec /bin/sh sh -c '{daemon}'; until [ -e {} ]; do :; done",
        started.display(),
        go_on.display(),
        actor_path().display(),
        done.display()
    );
    let mut run = Running::start(&mut place.run(["sh", "-c", &script]));
    until("start of the command", || started.exists().then_some(()));
    act(Command::new("cat").arg(&outside));
    fs::write(&go_on, "").unwrap();
    let status = run.wait();
    let stderr = run.stderr();
    assert_eq!(status.code(), Some(100), "{stderr}");
    assert!(stderr.contains(inside.to_str().unwrap()), "{stderr}");
    assert!(!stderr.contains(outside.to_str().unwrap()), "{stderr}");
    assert!(stderr.contains(DECOY_RULE), "{stderr}");
    assert!(stderr.contains(" 1 findings"), "{stderr}");
}

#[test]
fn run_passes_a_signal_on_and_judges_still() {
    let place = Place::new();
    let started = place.path("started");
    let script = format!("trap 'exit 9' TERM; : > {}; while :; do :; done", started.display());
    let mut run = Running::start(&mut place.run(["sh", "-c", &script]));
    until("start of the command", || started.exists().then_some(()));
    let status = run.terminate();
    let stderr = run.stderr();
    assert_eq!(status.code(), Some(9), "{stderr}");
    assert!(stderr.contains("PASS"), "{stderr}");
}

/// A flood that no ring holds, while nobody reads it: paths of 3.7 KB fill eight mebibytes with some two thousand.
#[test]
fn a_run_that_lost_events_is_inconclusive() {
    let place = Place::new();
    let mut directory = place.path("flood");
    while directory.as_os_str().len() < 3400 {
        directory.push("x".repeat(250));
    }
    fs::create_dir_all(&directory).unwrap();
    let [started, flooded] = ["started", "flooded"].map(|name| place.path(name));
    let script = format!(
        ": > {}; read line; {} open-many {} 2 4000; : > {}",
        started.display(),
        actor_path().display(),
        directory.display(),
        flooded.display()
    );
    let mut run = Running::start_piped(&mut place.run(["sh", "-c", &script]));
    until("start of the command", || started.exists().then_some(()));
    run.signal(libc::SIGSTOP);
    run.write(b"\n");
    until("end of the flood", || flooded.exists().then_some(()));
    run.signal(libc::SIGCONT);
    let status = run.wait();
    let stderr = run.stderr();
    assert_eq!(status.code(), Some(102), "{stderr}");
    assert!(stderr.contains("INCONCLUSIVE"), "{stderr}");
    assert!(stderr.contains("file_ring_full"), "{stderr}");
    let lost: u64 = stderr
        .lines()
        .find_map(|line| {
            line.split_once("not everything was seen: ")?
                .1
                .split_once(" events were lost")
        })
        .unwrap()
        .0
        .parse()
        .unwrap();
    let records: u64 = stderr
        .lines()
        .last()
        .unwrap()
        .split_once(" records, ")
        .unwrap()
        .0
        .rsplit('(')
        .next()
        .unwrap()
        .parse()
        .unwrap();
    // Opens and removals, each of them delivered or counted, and what the processes themselves are good for. What the
    // kernel resolves for a removal comes as a record of its own, where it runs programs on LSM hooks.
    let expected = if lsm_runs_programs().is_ok() { 24_000 } else { 16_000 };
    assert!(
        (expected..expected + 200).contains(&(records + lost)),
        "{records} {lost} {expected}: {stderr}"
    );
}

#[test]
fn a_program_left_out_is_told() {
    let run = output(&mut staghound([
        "run",
        "--sensor-without",
        "file_open",
        "--",
        "cat",
        "/etc/passwd",
    ]));
    // Whoever leaves a program out has chosen to see less: the summary says so, and nothing counts as lost.
    assert_eq!(run.code(), Some(0), "{run:?}");
    assert!(run.stderr.contains("file_open was left out as asked"), "{run:?}");
    assert!(run.stderr.contains("0 events lost"), "{run:?}");
}

/// One clear error: the code, one line with what is wrong and what to do, and nothing on standard output.
fn fails(command: &mut Command, code: i32, told: &[&str]) -> Output {
    let run = output(command);
    assert_eq!(run.code(), Some(code), "{command:?}: {run:?}");
    assert_eq!(run.text(), "", "{command:?}");
    let errors: Vec<&str> = run
        .stderr
        .lines()
        .filter(|line| line.starts_with("staghound: "))
        .collect();
    assert_eq!(errors.len(), 1, "{command:?}: {}", run.stderr);
    for part in told {
        assert!(run.stderr.contains(part), "{part}: {command:?}: {}", run.stderr);
    }
    assert!(!run.stderr.contains("panicked"), "{}", run.stderr);
    run
}

#[test]
fn mistakes_give_one_clear_error() {
    let place = Place::new();
    let config = place.path("config.yaml");
    fs::write(&config, "log:\n  levle: info\n").unwrap();
    let rules = place.path("bad.yaml");
    fs::write(
        &rules,
        "- rule: Bad\n  id: test/bad\n  desc: x\n  condition: proc.nam = cat and evt.typ = open\n  output: x\n  severity: high\n",
    )
    .unwrap();
    let (config, rules) = (config.to_str().unwrap(), rules.to_str().unwrap());
    let observe = |arguments: &[&str]| {
        let mut command = staghound(["observe", "--http-listen", "none"]);
        command.args(arguments);
        command
    };
    let place_of_mistake = format!("{config}:2:");
    fails(
        &mut observe(&["--config", config]),
        1,
        &[&place_of_mistake, "levle", "level"],
    );
    fails(
        &mut observe(&["--config", "/no/such"]),
        1,
        &["/no/such", "No such file"],
    );
    // All mistakes at once, each with its place.
    let place_of_mistake = format!("{rules}:4:");
    fails(
        &mut observe(&["--rules", rules]),
        1,
        &[&place_of_mistake, "proc.nam", "did you mean `proc.name`", "evt.typ"],
    );
    fails(
        &mut observe(&["--sensor-without", "nosuch"]),
        1,
        &["nosuch", "file_open", "sys_exit"],
    );
    fails(&mut observe(&["--rules", "/no/such"]), 1, &["/no/such"]);
    fails(
        &mut staghound(["run", "--rules", rules, "--", "true"]),
        103,
        &["proc.nam"],
    );
    fails(
        &mut staghound(["run", "--sensor-without", "nosuch", "--", "true"]),
        103,
        &["nosuch", "file_open"],
    );
    fails(
        &mut staghound(["rules", "check", rules]),
        1,
        &["proc.nam", "did you mean"],
    );
}

#[test]
fn missing_privileges_give_one_clear_error() {
    // The agent's own directory may be out of an ordinary user's reach.
    let place = Place::new();
    fs::set_permissions(place.directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let copy = place.path("staghound");
    fs::copy(staghound_tests::agent_path(), &copy).unwrap();
    let nobody = |arguments: &[&str]| {
        let mut command = Command::new(&copy);
        command
            .args(arguments)
            .current_dir("/")
            .env_remove("STAGHOUND_CONFIG")
            .uid(65534)
            .gid(65534);
        command
    };
    fails(
        &mut nobody(&["observe", "--http-listen", "none"]),
        1,
        &["CAP_BPF", "run as root", "preflight"],
    );
    fails(&mut nobody(&["run", "--", "true"]), 103, &["CAP_BPF", "run as root"]);
    let preflight = output(&mut nobody(&["preflight"]));
    assert_eq!(preflight.code(), Some(1), "{preflight:?}");
    assert!(preflight.text().contains("FAIL"), "{preflight:?}");
    // What needs no privileges works without.
    assert_eq!(output(&mut nobody(&["rules", "list"])).code(), Some(0));
}

#[test]
fn two_agents_do_not_share_a_spool() {
    let state = TempDir::new().unwrap();
    let collector = ["--collector", "http://127.0.0.1:9"];
    let mut agent = Agent::observe(state.path(), collector);
    let mut second = staghound(["observe", "--http-listen", "none", "--state-directory"]);
    fails(
        second.arg(state.path()).args(collector),
        1,
        &[state.path().to_str().unwrap()],
    );
    assert!(agent.running.ended().is_none());
    assert!(agent.running.terminate().success());
}

#[test]
fn preflight_names_every_program() {
    let preflight = output(&mut staghound(["preflight"]));
    let text = preflight.text();
    assert_eq!(preflight.code(), Some(0), "{preflight:?}");
    for program in [
        "process_fork",
        "process_exec",
        "process_exit",
        "process_chdir",
        "file_open",
        "file_rename",
        "file_unlink",
        "file_chmod",
        "socket_state",
        "socket_send",
        "sys_exit",
    ] {
        let line = text.lines().find(|line| line.contains(&format!("program {program} ")));
        let line = line.unwrap_or_else(|| panic!("no line for {program}: {text}"));
        assert!(line.starts_with("ok ") && line.contains("attached to "), "{line}");
    }
    assert!(text.contains("CAP_BPF") && text.contains("BTF"), "{text}");
}

#[test]
fn rules_are_checked_listed_and_shown() {
    let place = Place::new();
    let own = place.path("own-rules");
    let own = own.to_str().unwrap();
    let check = output(&mut staghound(["rules", "check", own]));
    assert_eq!(check.code(), Some(0), "{check:?}");
    assert!(check.text().contains("rules active"), "{check:?}");
    let list = output(&mut staghound(["rules", "list", own]));
    let text = list.text();
    for id in [SHADOW_RULE, DECOY_RULE] {
        assert_eq!(
            text.lines()
                .filter(|line| line.split_whitespace().next() == Some(id))
                .count(),
            1,
            "{id}: {text}"
        );
    }
    assert!(text.lines().count() >= 30, "{text}");
    let show = output(&mut staghound(["rules", "show", DECOY_RULE, own])).text();
    for part in [DECOY_RULE, "T1552.004", "medium", "fd.name contains"] {
        assert!(show.contains(part), "{part}: {show}");
    }
    let fields = output(&mut staghound(["rules", "fields"])).text();
    for field in ["proc.name", "fd.name", "evt.type", "user.uid", "fd.sip"] {
        assert!(fields.lines().any(|line| line.starts_with(field)), "{field}: {fields}");
    }
    let unknown = output(&mut staghound(["rules", "show", "no/such"]));
    assert_eq!(unknown.code(), Some(1), "{unknown:?}");
    assert!(unknown.stderr.contains("no/such"), "{unknown:?}");
}
