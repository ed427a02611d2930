//! The agent guarding itself: what it gives up, what it notices being done to it, and rules that change while it runs.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests fail by panicking")]

use std::{
    fs,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    thread,
    time::Duration,
};

use serde_json::Value;
use staghound::sensor::lsm_runs_programs;
use staghound_proto::v1::{Alert, GapReason, ObservationGap, Severity};
use staghound_tests::{
    DECOY_DIRECTORY, DECOY_RULE, DECOY_RULES, actor,
    feed::{Feed, alert, observation_gap},
    process::{Agent, Collector, output, staghound},
    script::tell,
    until,
};
use tempfile::TempDir;

/// CAP_BPF, CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH.
const CAPABILITIES_LEFT: &str = "0000008000080004";

/// A state directory and a decoy beside it.
struct Place(TempDir);

impl Place {
    fn new() -> Self {
        let place = Self(TempDir::new().unwrap());
        fs::create_dir(place.path(DECOY_DIRECTORY)).unwrap();
        fs::write(place.decoy(), "decoy").unwrap();
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().canonicalize().unwrap().join(name)
    }

    fn decoy(&self) -> PathBuf {
        self.path(DECOY_DIRECTORY).join("id_1")
    }

    /// A configuration of its own.
    fn configured(&self, text: &str) -> PathBuf {
        let path = self.path("agent.yaml");
        fs::write(&path, text).unwrap();
        path
    }

    /// An agent that shows its alerts as JSON.
    fn agent(&self, config: &str) -> Agent {
        let config = self.configured(config);
        Agent::observe(
            &self.path("state"),
            ["--output", "json", "--config", config.to_str().unwrap()],
        )
    }

    /// Has the decoy read, and waits for the alert of a rule.
    fn read(&self, agent: &Agent, rule: &str) -> Arc<Value> {
        let mut reader = actor(["open".as_ref(), self.decoy().as_os_str(), "read".as_ref()])
            .spawn()
            .unwrap();
        let pid = reader.id();
        assert!(reader.wait().unwrap().success());
        until(&format!("alert of {rule}"), || {
            agent
                .shown()
                .into_iter()
                .find(|alert| alert["rule"]["id"] == rule && alert["process"]["pid"] == pid)
        })
    }
}

/// What the kernel says of each thread of a process, by key.
fn threads(pid: u32, keys: &[&str]) -> Vec<Vec<String>> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    tasks
        .filter_map(|task| fs::read_to_string(task.unwrap().path().join("status")).ok())
        .map(|status| {
            let value = |key: &&str| status.lines().find_map(|line| line.strip_prefix(*key));
            keys.iter()
                .map(|key| value(key).unwrap_or_default().trim().to_owned())
                .collect()
        })
        .collect()
}

const GIVEN_UP: [&str; 6] = ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:", "NoNewPrivs:"];

#[test]
fn every_thread_of_an_observing_agent_has_given_up_what_it_promises() {
    let place = Place::new();
    let mut agent = place.agent("sandbox: required\n");
    let none = "0".repeat(16);
    let left = [
        &none,
        CAPABILITIES_LEFT,
        CAPABILITIES_LEFT,
        CAPABILITIES_LEFT,
        &none,
        "1",
    ];
    let observed = threads(agent.running.pid(), &GIVEN_UP);
    assert!(observed.len() >= 3, "{observed:?}");
    for thread in observed {
        assert_eq!(thread, left);
    }
    for thread in threads(agent.running.pid(), &["Seccomp:"]) {
        assert_eq!(thread, ["2"]);
    }
    let told = agent.running.stderr();
    assert!(
        told.contains("sandbox: capabilities left: CAP_DAC_READ_SEARCH, CAP_SYS_PTRACE, CAP_BPF; no new privileges;"),
        "{told}"
    );
    // And it still sees, shows, answers and stops in order.
    place.read(&agent, DECOY_RULE);
    assert!(agent.running.terminate().success());
    assert!(
        !agent.running.stderr().contains("not permitted"),
        "{}",
        agent.running.stderr()
    );
}

#[test]
fn the_sandbox_can_be_switched_off_and_says_so() {
    let place = Place::new();
    let agent = place.agent("sandbox: off\n");
    for thread in threads(agent.running.pid(), &["Seccomp:", "NoNewPrivs:"]) {
        assert_eq!(thread, ["0", "0"]);
    }
    assert!(agent.running.stderr().contains("sandbox: off; the agent keeps"));
}

#[test]
fn a_command_of_run_keeps_its_privileges() {
    let status = output(&mut staghound(["run", "--", "cat", "/proc/self/status"])).text();
    let own = fs::read_to_string("/proc/self/status").unwrap();
    for key in GIVEN_UP {
        let line = |status: &str| status.lines().find(|line| line.starts_with(key)).map(str::to_owned);
        assert_eq!(line(&status), line(&own), "{status}");
    }
}

/// Counts lines of the log that hold a text.
fn told(agent: &Agent, text: &str) -> usize {
    agent
        .running
        .stderr()
        .lines()
        .filter(|line| line.contains(text))
        .count()
}

#[test]
fn rules_are_reloaded_on_hangup_and_stay_when_they_have_mistakes() {
    let place = Place::new();
    let mut agent = place.agent("");
    let rules: &Path = &place.path("state/rules/decoy.yaml");
    let before = place.read(&agent, DECOY_RULE);

    fs::write(rules, DECOY_RULES.replace(DECOY_RULE, "test/decoy-again")).unwrap();
    agent.running.signal(libc::SIGHUP);
    until("reload", || (told(&agent, "rules reloaded: ") == 1).then_some(()));
    let after = place.read(&agent, "test/decoy-again");
    let digest = |alert: &Value| alert["rule"]["rulesetDigest"].as_str().unwrap().to_owned();
    assert_ne!(digest(&before), digest(&after));
    let old_rule_alerts = || {
        let shown = agent.shown();
        shown.iter().filter(|alert| alert["rule"]["id"] == DECOY_RULE).count()
    };
    assert_eq!(old_rule_alerts(), 1, "the old rule is gone");

    fs::write(rules, DECOY_RULES.replace("fd.name contains", "fd.nam contains")).unwrap();
    agent.running.signal(libc::SIGHUP);
    until("refusal of rules with mistakes", || {
        (told(&agent, "rules not reloaded, the old ones stay: ") == 1).then_some(())
    });
    assert!(agent.running.stderr().contains("unknown field `fd.nam`"));
    let kept = place.read(&agent, "test/decoy-again");
    assert_eq!(digest(&kept), digest(&after));
    assert!(agent.running.terminate().success());
}

/// An agent that delivers to a collector, and a subscriber there: gaps go no other way.
struct Delivering {
    feed: Feed,
    agent: Agent,
    _collector: Collector,
}

impl Delivering {
    fn start(place: &Place) -> Self {
        let collector = Collector::serve(&place.path("data"), "127.0.0.1:0".parse().unwrap());
        let agent = Agent::observe(&place.path("state"), ["--collector", &collector.url()]);
        let mut delivering = Self {
            feed: Feed::subscribe(collector.address),
            agent,
            _collector: collector,
        };
        // It is ready once everything is attached, and its loop begins a moment later.
        let status = actor(["open".as_ref(), place.decoy().as_os_str(), "read".as_ref()]).status();
        assert!(status.unwrap().success());
        delivering.alert(DECOY_RULE, |_| true);
        delivering
    }

    fn alert(&mut self, rule: &str, is: impl Fn(&Alert) -> bool) -> Alert {
        let is = |alert: &Alert| alert.rule.as_ref().is_some_and(|of| of.id == rule) && is(alert);
        self.feed.until(&format!("alert of {rule}"), |entries| {
            entries.iter().filter_map(alert).any(&is)
        });
        self.feed.alerts().find(|alert| is(alert)).unwrap().clone()
    }

    fn gap(&mut self, reason: GapReason, is: impl Fn(&ObservationGap) -> bool) -> ObservationGap {
        let is = |gap: &&ObservationGap| gap.reason() == reason && is(gap);
        self.feed.until(&format!("gap {}", reason.as_str_name()), |entries| {
            entries.iter().filter_map(observation_gap).any(|gap| is(&gap))
        });
        let gap = self.feed.received.iter().filter_map(observation_gap).find(is);
        gap.unwrap().clone()
    }
}

/// `bpf(2)` with a request of three words and two pointers at most, as the commands used here have them.
fn bpf(command: libc::c_long, request: &mut [u64; 4]) -> libc::c_long {
    // SAFETY: what the requests of this file lead to outlives the call.
    let status = unsafe { libc::syscall(libc::SYS_bpf, command, request.as_mut_ptr(), size_of::<[u64; 4]>()) };
    assert!(status >= 0, "bpf({command}): {}", std::io::Error::last_os_error());
    status
}

/// A descriptor of the agent's map of this name, got as an attacker would: by its id.
fn map_of(agent: u32, name: &str) -> OwnedFd {
    const MAP_GET_FD_BY_ID: libc::c_long = 14;
    const OBJ_GET_INFO_BY_FD: libc::c_long = 15;
    let descriptors = fs::read_dir(format!("/proc/{agent}/fdinfo")).unwrap();
    let ids = descriptors.filter_map(|entry| {
        let info = fs::read_to_string(entry.unwrap().path()).ok()?;
        let id = info.lines().find_map(|line| line.strip_prefix("map_id:"))?;
        id.trim().parse::<u64>().ok()
    });
    for id in ids.collect::<std::collections::BTreeSet<u64>>() {
        let map = i32::try_from(bpf(MAP_GET_FD_BY_ID, &mut [id, 0, 0, 0])).unwrap();
        // SAFETY: the kernel has just made this descriptor for us.
        let map = unsafe { OwnedFd::from_raw_fd(map) };
        let mut info = [0_u8; 80];
        let descriptor = u64::try_from(map.as_raw_fd()).unwrap();
        bpf(
            OBJ_GET_INFO_BY_FD,
            &mut [descriptor | ((info.len() as u64) << 32), info.as_mut_ptr() as u64, 0, 0],
        );
        if info[24..40].split(|byte| *byte == 0).next() == Some(name.as_bytes()) {
            return map;
        }
    }
    panic!("the agent has no map {name}");
}

#[test]
fn a_map_that_was_changed_is_told_and_put_right() {
    const MAP_UPDATE_ELEM: libc::c_long = 2;
    let place = Place::new();
    let mut delivering = Delivering::start(&place);
    let map = map_of(delivering.agent.running.pid(), "SYSCALLS");
    // No call at all is looked at from here on, if nobody notices.
    let none = 0_u32;
    for number in 0_u32..512 {
        let descriptor = u64::try_from(map.as_raw_fd()).unwrap();
        let (key, value) = (&raw const number as u64, &raw const none as u64);
        bpf(MAP_UPDATE_ELEM, &mut [descriptor, key, value, 0]);
    }
    let alert = delivering.alert("defense-impairment/agent-tampering", |_| true);
    assert!(alert.message.starts_with("map SYSCALLS: "), "{}", alert.message);
    assert!(alert.message.ends_with("; repaired"), "{}", alert.message);
    assert_eq!(alert.severity(), Severity::Critical);
    delivering.gap(GapReason::HookMissing, |gap| gap.hook == "map SYSCALLS");
    let own = std::process::id();
    delivering.alert("defense-impairment/bpf-reached-by-id", |alert| {
        alert.process.as_ref().is_some_and(|process| process.pid == own)
    });
    // It sees again.
    let mut reader = actor(["open".as_ref(), place.decoy().as_os_str(), "read".as_ref()])
        .spawn()
        .unwrap();
    let pid = reader.id();
    assert!(reader.wait().unwrap().success());
    delivering.alert(DECOY_RULE, |alert| {
        alert.process.as_ref().is_some_and(|process| process.pid == pid)
    });
}

/// Runs a line of shell: a process that has nothing to do with the agent but the test that started both.
fn shell(line: &str) -> u32 {
    let mut child = Command::new("/bin/sh").args(["-c", line]).spawn().unwrap();
    assert!(child.wait().unwrap().success(), "{line}");
    child.id()
}

/// Longer than what the agent takes for a pause of its own.
const STALL: Duration = Duration::from_secs(4);

fn lasts(gap: &ObservationGap) -> f64 {
    let (from, to) = (gap.from.unwrap(), gap.to.unwrap());
    let seconds = i32::try_from(to.seconds - from.seconds).unwrap();
    f64::from(seconds) + f64::from(to.nanos - from.nanos) / 1e9
}

#[test]
fn being_stopped_is_told_with_who_did_it_and_how_long_it_lasted() {
    let place = Place::new();
    let mut delivering = Delivering::start(&place);
    let pid = delivering.agent.running.pid();
    let stopper = shell(&format!("kill -STOP {pid}; true"));
    until("stop of the agent", || {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        status.contains("\nState:\tT").then_some(())
    });
    thread::sleep(STALL); // the pause is what is tested
    delivering.agent.running.signal(libc::SIGCONT);
    let alert = delivering.alert("defense-impairment/staghound-signalled", |alert| {
        alert.process.as_ref().is_some_and(|process| process.pid == stopper)
    });
    assert!(alert.message.contains("SIGSTOP"), "{}", alert.message);
    let gap = delivering.gap(GapReason::AgentStalled, |_| true);
    assert!(lasts(&gap) > 2.0, "{gap:?}");
    // Whoever started it may stop it; only the gap tells of that.
    delivering.agent.running.signal(libc::SIGSTOP);
    thread::sleep(STALL);
    delivering.agent.running.signal(libc::SIGCONT);
    let first = gap;
    delivering.gap(GapReason::AgentStalled, |gap| gap.from != first.from);
    let own = std::process::id();
    let by_us = |alert: &&Alert| {
        alert
            .rule
            .as_ref()
            .is_some_and(|rule| rule.id.ends_with("staghound-signalled"))
            && alert.process.as_ref().is_some_and(|process| process.pid == own)
    };
    assert_eq!(delivering.feed.alerts().find(by_us), None);
}

/// A mount of the control groups of our own, since hosts have them in different places; gone with the test.
struct Groups(PathBuf);

impl Groups {
    fn mount(place: &Place) -> Self {
        let path = place.path("groups");
        fs::create_dir(&path).unwrap();
        shell(&format!("mount -t cgroup2 none {}", path.display()));
        Self(path)
    }
}

impl Drop for Groups {
    fn drop(&mut self) {
        // Whoever is in the group goes back to where all are.
        let group = self.group();
        for pid in fs::read_to_string(group.join("cgroup.procs"))
            .unwrap_or_default()
            .lines()
        {
            let _moved = fs::write(self.0.join("cgroup.procs"), pid);
        }
        let _removed = fs::remove_dir(&group);
        let _unmounted = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

impl Groups {
    fn group(&self) -> PathBuf {
        self.0.join(format!("staghound-test-{}", std::process::id()))
    }
}

#[test]
fn being_frozen_is_told() {
    let place = Place::new();
    let mut delivering = Delivering::start(&place);
    let groups = Groups::mount(&place);
    let group = groups.group();
    fs::create_dir(&group).unwrap();
    fs::write(group.join("cgroup.procs"), delivering.agent.running.pid().to_string()).unwrap();
    let freezer = shell(&format!("echo 1 > {}/cgroup.freeze; true", group.display()));
    until("freezing of the agent", || {
        let events = fs::read_to_string(group.join("cgroup.events")).unwrap();
        events.contains("frozen 1").then_some(())
    });
    thread::sleep(STALL); // the pause is what is tested
    fs::write(group.join("cgroup.freeze"), "0").unwrap();
    delivering.alert("defense-impairment/staghound-frozen", |alert| {
        alert.process.as_ref().is_some_and(|process| process.pid == freezer)
    });
    let gap = delivering.gap(GapReason::AgentStalled, |_| true);
    assert!(lasts(&gap) > 2.0, "{gap:?}");
}

#[test]
fn an_open_of_its_memory_is_told() {
    let place = Place::new();
    let mut delivering = Delivering::start(&place);
    let reader = shell(&format!(": < /proc/{}/mem; true", delivering.agent.running.pid()));
    let alert = delivering.alert("defense-impairment/staghound-traced", |alert| {
        alert.process.as_ref().is_some_and(|process| process.pid == reader)
    });
    assert_eq!(alert.severity(), Severity::Critical);
}

/// An agent that refuses to be killed, and so must be asked to end, also when the test fails.
struct Refusing(Agent);

impl Drop for Refusing {
    fn drop(&mut self) {
        if self.0.running.ended().is_none() {
            self.0.running.terminate();
        }
    }
}

/// What a script of the actor came to: the result of its last call.
fn last_result(script: &str) -> i64 {
    let mut command = actor(staghound_tests::script::words(script, ""));
    let output = output(&mut command);
    assert_eq!(output.code(), Some(0), "{script}: {output:?}");
    let text = output.text();
    let last = text.lines().last().unwrap();
    last.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn what_would_stop_or_take_over_the_agent_is_refused_and_nothing_else() {
    const EPERM: i64 = -1;
    const EACCES: i64 = -13;
    const ATTACH: u32 = 16;
    const SEIZE: u32 = 0x4206;
    let place = Place::new();
    let mut agent = Refusing(place.agent("guard: refuse\n"));
    let pid = agent.0.running.pid();
    let told = agent.0.running.stderr();
    if let Err(reason) = lsm_runs_programs() {
        tell(&format!(
            "refusing what is aimed at the agent: kernel lacks it: {reason}\n"
        ));
        for program in ["lsm_guard_kill", "lsm_guard_ptrace"] {
            assert!(
                told.contains(&format!("{program} on ")) && told.contains(&reason),
                "{told}"
            );
        }
        return;
    }
    assert!(!told.contains("lsm_guard"), "{told}");

    for (signal, refused) in [
        (libc::SIGKILL, true),
        (libc::SIGSTOP, true),
        (0, false),
        (libc::SIGHUP, false),
    ] {
        let result = last_result(&format!("kill {pid} {signal}"));
        assert_eq!(result, if refused { EPERM } else { 0 }, "signal {signal}");
    }
    for request in [ATTACH, SEIZE] {
        assert_eq!(last_result(&format!("ptrace {request} {pid} 0 0")), EPERM, "{request}");
    }
    assert!([EACCES, EPERM].contains(&last_result(&format!("open s=/proc/{pid}/mem 2"))));
    let read = last_result(&format!("getpid z=8 v=@0,8 + process_vm_readv {pid} @1 1 @1 1 0"));
    assert_eq!(read, EPERM);
    let descriptor = last_result(&format!("!pidfd_open {pid} 0 + pidfd_getfd $0 0 0"));
    assert_eq!(descriptor, EPERM);

    // Others are no business of it; and it goes on seeing, answering and ending.
    let mut other = Command::new("/bin/sleep").arg("1000").spawn().unwrap();
    assert_eq!(last_result(&format!("ptrace {SEIZE} {} 0 0", other.id())), 0);
    assert!(last_result(&format!("open s=/proc/{}/mem 2", other.id())) >= 0);
    assert_eq!(last_result(&format!("kill {} {}", other.id(), libc::SIGSTOP)), 0);
    assert_eq!(last_result(&format!("kill {} {}", other.id(), libc::SIGKILL)), 0);
    assert!(!other.wait().unwrap().success());
    place.read(&agent.0, DECOY_RULE);
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    assert!(
        status.contains("\nState:\tS") || status.contains("\nState:\tR"),
        "{status}"
    );
    assert!(agent.0.running.terminate().success());
}
