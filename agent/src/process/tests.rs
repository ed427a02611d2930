//! Histories told record by record.

use super::*;
use crate::sensor::decode::decode;
use proptest::prelude::*;
use staghound_ebpf::{Chdir, Ended, Exit, Kind, Open, Span};
use zerocopy::IntoBytes as _;

/// Above `PID_MAX_LIMIT`, so that `/proc` never has the processes of these tests.
const PIDS: u32 = 5_000_000;
const SECOND_NS: u64 = 1_000_000_000;

/// A process as the kernel names it: pid (above [`PIDS`]) and start.
type Id = (u32, u64);

/// A table, and the clock of its records.
#[derive(Default)]
struct Told {
    table: ProcessTable,
    now_ns: u64,
    /// What the next records have in common.
    header: Header,
    /// Parent of whoever forks, executes or ends.
    parent: u32,
}

impl Told {
    fn record(&mut self, (pid, start_ns): Id, kind: Kind, ppid: u32, body: &[u8], data: &[u8]) -> Arc<Process> {
        self.now_ns += 1;
        let mut header = Header {
            time_ns: self.now_ns,
            start_ns,
            kind: kind as u16,
            len: u32::try_from(size_of::<Header>() + body.len() + data.len()).unwrap(),
            pid: PIDS + pid,
            tid: if self.header.tid == 0 {
                PIDS + pid
            } else {
                self.header.tid
            },
            ppid: PIDS + ppid,
            login_uid: u32::MAX,
            ..self.header
        };
        header.comm[..5].copy_from_slice(b"heard");
        let bytes = [header.as_bytes(), body, data].concat();
        self.table.apply(&decode(&bytes).unwrap())
    }

    fn fork(&mut self, maker: Id, child: Id) -> Arc<Process> {
        self.fork_for(maker, child, maker.0)
    }

    /// As with `CLONE_PARENT`: the child's parent is not its maker.
    fn fork_for(&mut self, maker: Id, child: Id, ppid: u32) -> Arc<Process> {
        self.fork_as(
            maker,
            Fork {
                child_start_ns: child.1,
                child_pid: PIDS + child.0,
                child_ppid: PIDS + ppid,
                ..Fork::default()
            },
        )
    }

    fn fork_as(&mut self, maker: Id, body: Fork) -> Arc<Process> {
        self.record(maker, Kind::Fork, self.parent, body.as_bytes(), b"")
    }

    /// A child in the initial pid namespace, of the session and group of another.
    fn fork_into(&mut self, maker: Id, child: Id, (session, group): (u32, u32)) -> Arc<Process> {
        let [pid, ppid, session, group] = [child.0, maker.0, session, group].map(|pid| PIDS + pid);
        self.fork_as(
            maker,
            Fork {
                child_start_ns: child.1,
                child_pid: pid,
                child_ppid: ppid,
                mount_namespace: 1,
                pid_namespace: INITIAL_PID_NAMESPACE,
                ids: Ids {
                    session,
                    group,
                    own_pid: pid,
                    own_ppid: ppid,
                    own_session: session,
                    own_group: group,
                },
                ..Fork::default()
            },
        )
    }

    /// A system call that returned `result`.
    fn call(&mut self, id: Id, name: &str, args: [u64; 2], result: i64) -> Arc<Process> {
        let number = (0..1024).find(|number| syscalls::name(*number, false) == Some(name));
        self.header.syscall = number.unwrap();
        let body = Call {
            result,
            args: [args[0], args[1], 0, 0, 0, 0],
            ..Call::default()
        };
        let process = self.record(id, Kind::Call, 0, body.as_bytes(), b"");
        self.header.syscall = 0;
        process
    }

    /// Executes `/bin/NAME` in `/NAME`.
    fn exec(&mut self, id: Id, name: &str) -> Arc<Process> {
        let mut data = Vec::new();
        let mut add = |text: String| {
            let offset = u16::try_from(data.len()).unwrap();
            data.extend_from_slice(text.as_bytes());
            Span {
                offset,
                len: u16::try_from(text.len()).unwrap(),
            }
        };
        let body = Exec {
            executable: add(format!("{name}\0bin\0")),
            cwd: add(format!("{name}\0")),
            args: add(format!("{name}\0-v\0")),
            ids: self.table.get(PIDS + id.0).map_or_else(Ids::default, |known| known.ids),
            pid_namespace: INITIAL_PID_NAMESPACE,
            ..Exec::default()
        };
        self.record(id, Kind::Exec, self.parent, body.as_bytes(), &data)
    }

    fn chdir(&mut self, id: Id, name: &str) -> Arc<Process> {
        let len = u16::try_from(name.len() + 1).unwrap();
        let body = Chdir {
            path: Span { offset: 0, len },
            reserved: 0,
        };
        self.record(id, Kind::Chdir, 0, body.as_bytes(), format!("{name}\0").as_bytes())
    }

    fn open(&mut self, id: Id) -> Arc<Process> {
        self.open_under(id, 0)
    }

    fn open_under(&mut self, id: Id, ppid: u32) -> Arc<Process> {
        self.record(id, Kind::Open, ppid, Open::default().as_bytes(), b"")
    }

    fn exit(&mut self, id: Id) -> Arc<Process> {
        self.record(id, Kind::Exit, self.parent, Exit::default().as_bytes(), b"")
    }

    fn get(&self, pid: u32) -> Option<&Arc<Process>> {
        self.table.get(PIDS + pid)
    }
}

fn id(process: &Process) -> Id {
    (process.pid - PIDS, process.start_ns)
}

fn ancestors(process: &Process) -> Vec<Id> {
    process.ancestors().map(id).collect()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

#[test]
fn a_process_stays_itself_from_fork_to_exit() {
    let mut told = Told::default();
    told.exec((1, 10), "init");
    told.fork((1, 10), (2, 20));
    let steps: [(Arc<Process>, &str, &str); 6] = [
        (told.open((2, 20)), "/bin/init", "/init"),
        (told.chdir((2, 20), "tmp"), "/bin/init", "/tmp"),
        (told.exec((2, 20), "sh"), "/bin/sh", "/sh"),
        (told.chdir((2, 20), "src"), "/bin/sh", "/src"),
        (told.exec((2, 20), "make"), "/bin/make", "/make"),
        (told.exit((2, 20)), "/bin/make", "/make"),
    ];
    for (process, executable, cwd) in steps {
        assert_eq!(id(&process), (2, 20), "{executable}");
        assert_eq!(process.ppid, PIDS + 1, "{executable}");
        assert_eq!(ancestors(&process), [(1, 10)], "{executable}");
        assert_eq!(text(&process.image.executable), executable);
        assert_eq!(text(&process.cwd), cwd);
    }
    assert_eq!(told.table.counts().repaired, 1, "only the first one was not seen made");
}

#[test]
fn an_event_keeps_what_was_true_when_it_happened() {
    let mut told = Told::default();
    told.exec((1, 10), "sh");
    let before = told.open((1, 10));
    told.fork((1, 10), (2, 20));
    told.exec((1, 10), "sleep");
    assert_eq!(text(&before.image.cmdline), "heard -v");
    assert_eq!(text(&before.image.executable), "/bin/sh");
    let child = told.open((2, 20));
    assert_eq!(text(&child.parent.as_ref().unwrap().image.executable), "/bin/sh");
    assert_eq!(text(&told.get(1).unwrap().image.executable), "/bin/sleep");
}

#[test]
fn ancestry_outlives_a_double_fork() {
    let mut told = Told::default();
    told.exec((1, 10), "sshd");
    told.fork((1, 10), (2, 20));
    told.exec((2, 20), "sh");
    told.fork((2, 20), (3, 30));
    told.fork((3, 30), (4, 40));
    told.exit((3, 30));
    told.now_ns += 10 * SECOND_NS;
    // The kernel has made init its parent by now; who made it is another question.
    let daemon = told.exec((4, 40), "daemon");
    assert!(told.get(3).is_none());
    assert_eq!(ancestors(&daemon), [(3, 30), (2, 20), (1, 10)]);
    let images: Vec<&str> = daemon
        .ancestors()
        .map(|process| text(&process.image.executable))
        .collect();
    assert_eq!(images, ["/bin/sh", "/bin/sh", "/bin/sshd"]);
}

#[test]
fn the_maker_is_the_parent_whatever_the_kernel_was_asked_for() {
    let mut told = Told::default();
    told.fork((1, 10), (2, 20));
    told.fork_for((2, 20), (3, 30), 1);
    let child = told.open((3, 30));
    assert_eq!(child.ppid, PIDS + 1);
    assert_eq!(ancestors(&child), [(2, 20), (1, 10)]);
}

#[test]
fn a_pid_that_is_used_again_inherits_nothing() {
    let mut told = Told::default();
    told.fork((1, 10), (2, 20));
    told.exec((2, 20), "old");
    told.exit((2, 20));
    // Heard of without having been seen made.
    let unseen = told.open((2, 50));
    assert_eq!(id(&unseen), (2, 50));
    assert_eq!((text(&unseen.image.executable), text(&unseen.cwd)), ("", ""));
    assert_eq!(ancestors(&unseen), []);
    // Seen made, by somebody else.
    told.fork((7, 15), (2, 60));
    let seen = told.open((2, 60));
    assert_eq!(id(&seen), (2, 60));
    assert_eq!(ancestors(&seen), [(7, 15)]);
    // The end of the old one does not end the new one.
    told.now_ns += 10 * SECOND_NS;
    assert_eq!(id(&told.open((2, 60))), (2, 60));
    assert_eq!(ancestors(told.get(2).unwrap()), [(7, 15)]);
}

#[test]
fn a_younger_process_that_has_the_parents_pid_is_not_the_parent() {
    let mut told = Told::default();
    told.fork((1, 10), (5, 100));
    let child = told.open_under((6, 50), 5);
    assert_eq!(child.ppid, PIDS + 5);
    assert_eq!(ancestors(&child), []);
    let child = told.open_under((7, 150), 5);
    assert_eq!(ancestors(&child), [(5, 100), (1, 10)]);
}

#[test]
fn an_unknown_process_is_repaired_once_and_counted() {
    let mut told = Told::default();
    told.exec((1, 10), "init");
    let repaired = told.open_under((9, 90), 1);
    assert_eq!(id(&repaired), (9, 90));
    assert_eq!(text(&repaired.image.name), "heard");
    assert_eq!(ancestors(&repaired), [(1, 10)]);
    assert_eq!(told.table.counts().repaired, 2);
    told.open_under((9, 90), 1);
    told.exit((9, 90));
    assert_eq!(told.table.counts().repaired, 2);
    assert_eq!(told.table.len(), 2);
}

#[test]
fn a_seeded_process_is_known_by_its_tick() {
    for (start_ns, same) in [
        (3 * TICK_NS, true),
        (3 * TICK_NS + 1, true),
        (4 * TICK_NS - 1, true),
        (4 * TICK_NS, false),
        (3 * TICK_NS - 1, false),
    ] {
        let mut told = Told::default();
        let made = told.exec((1, 3 * TICK_NS), "seeded");
        told.table.insert(Process {
            start_is_exact: false,
            ..Process::clone(&made)
        });
        let before = told.table.counts();
        let heard = told.open((1, start_ns));
        assert_eq!(heard.start_ns, start_ns);
        assert_eq!(text(&heard.image.executable) == "/bin/seeded", same, "{start_ns}");
        let counts = told.table.counts();
        // One that started earlier is known to have ended: the seed is newer than the record.
        let late = start_ns < 3 * TICK_NS;
        assert_eq!(
            counts.repaired - before.repaired,
            u64::from(!same && !late),
            "{start_ns}"
        );
        assert_eq!(counts.late - before.late, u64::from(late), "{start_ns}");
        if !late {
            // From now on its start is exact.
            let other = told.open((1, start_ns + 1));
            assert_eq!(text(&other.image.executable), "", "{start_ns}");
        }
    }
}

#[test]
fn the_fork_of_a_process_that_is_known_changes_nothing() {
    let mut told = Told::default();
    told.fork((1, 10), (2, 20));
    told.exec((2, 20), "sh");
    told.fork((1, 10), (2, 20));
    assert_eq!(text(&told.open((2, 20)).image.executable), "/bin/sh");
}

#[test]
fn an_ended_process_is_known_for_a_while_and_then_forgotten() {
    let mut told = Told::default();
    told.fork((1, 10), (2, 20));
    told.exec((2, 20), "sh");
    told.exit((2, 20));
    let ended_ns = told.now_ns;
    for (after_ns, known) in [
        (1, true),
        (SECOND_NS, true),
        (EXITED_NS - 1, true),
        (EXITED_NS, false),
        (2 * EXITED_NS, false),
    ] {
        told.now_ns = ended_ns + after_ns - 1; // the record itself is one later
        told.open((1, 10));
        assert_eq!(told.get(2).is_some(), known, "{after_ns}");
        if known {
            told.now_ns = ended_ns + after_ns - 1;
            assert_eq!(text(&told.open((2, 20)).image.executable), "/bin/sh", "{after_ns}");
        }
    }
    assert!(told.table.exited.is_empty());
}

#[test]
fn ancestors_stay_bounded_however_often_a_process_forks_and_ends() {
    let mut told = Told::default();
    let made = 10_000;
    for number in 1..=made {
        let (maker, child) = ((number - 1, u64::from(number)), (number, u64::from(number) + 1));
        told.fork(maker, child);
        told.exit(maker);
        told.now_ns += SECOND_NS / 10;
        let ancestors = ancestors(told.get(number).unwrap());
        assert!(ancestors.len() <= usize::from(DEPTH_MAX) + 1, "{}", ancestors.len());
        let nearest: Vec<Id> = (0..number)
            .rev()
            .take(NEAREST_KEPT)
            .map(|pid| (pid, u64::from(pid) + 1))
            .collect();
        assert_eq!(ancestors[..nearest.len()], nearest, "{number}");
        let furthest: Vec<Id> = (0..number)
            .take(FURTHEST_KEPT)
            .map(|pid| (pid, u64::from(pid) + 1))
            .rev()
            .collect();
        assert_eq!(ancestors[ancestors.len() - furthest.len()..], furthest, "{number}");
    }
    assert!(told.table.counts().trimmed > 0);
    assert!(told.table.len() < 100, "{}", told.table.len());
}

#[test]
fn a_process_of_many_ancestors_has_children_of_the_right_depth() {
    let mut told = Told::default();
    for number in 1..=u32::from(DEPTH_MAX) {
        told.fork((number - 1, u64::from(number)), (number, u64::from(number) + 1));
    }
    let deepest = (u32::from(DEPTH_MAX), u64::from(DEPTH_MAX) + 1);
    let full = usize::from(DEPTH_MAX);
    let cut = NEAREST_KEPT + FURTHEST_KEPT;
    assert_eq!(ancestors(told.get(deepest.0).unwrap()).len(), full);
    assert_eq!(told.table.counts().trimmed, 0);
    // Each child loses the middle; the process itself keeps all.
    for (child, trimmed) in [((1000, 1000), 1), ((1001, 1001), 2)] {
        told.fork(deepest, child);
        assert_eq!(ancestors(told.get(child.0).unwrap()).len(), cut);
        assert_eq!(told.table.counts().trimmed, trimmed);
    }
    assert_eq!(ancestors(&told.open(deepest)).len(), full);
}

#[test]
fn a_lineage_is_what_one_session_or_service_does() {
    let mut told = Told::default();
    let process = |told: &mut Told, pid: u32, ppid: u32, cgroup: u64, parent: Option<&Arc<Process>>| {
        let mut made = (*told.fork((1, 1), (1000 + pid, u64::from(pid)))).clone();
        (made.pid, made.ppid, made.cgroup_id) = (pid, ppid, cgroup);
        made.parent = parent.cloned();
        Arc::new(made)
    };
    let init = process(&mut told, 1, 0, 1, None);
    let login = process(&mut told, 50, 1, 2, Some(&init));
    let session = process(&mut told, 60, 50, 3, Some(&login));
    let shell = process(&mut told, 61, 60, 3, Some(&session));
    let one = process(&mut told, 62, 61, 3, Some(&shell));
    let other = process(&mut told, 60, 50, 4, Some(&login));
    // A session is what a login server started, which is of another control group.
    assert_eq!(one.lineage().identity_number(), session.identity_number());
    assert_eq!(session.lineage().identity_number(), session.identity_number());
    assert_ne!(other.lineage().pid, login.pid);
    assert_eq!(login.lineage().pid, login.pid);
    // The children of a service are of its control group.
    let worker = process(&mut told, 70, 50, 2, Some(&login));
    let child = process(&mut told, 71, 70, 2, Some(&worker));
    assert_eq!(child.lineage().pid, login.pid);
}

#[test]
fn sessions_and_groups_are_followed() {
    let mut told = Told::default();
    told.exec((1, 10), "init");
    told.fork_into((1, 10), (2, 20), (1, 1));
    told.exec((2, 20), "bash");
    let shell = told.call((2, 20), "setsid", [0, 0], i64::from(PIDS) + 2);
    assert_eq!((shell.ids.session, shell.ids.group), (PIDS + 2, PIDS + 2));
    assert_eq!((shell.ids.own_session, shell.ids.own_group), (PIDS + 2, PIDS + 2));
    told.fork_into((2, 20), (3, 30), (2, 2));
    told.fork_into((2, 20), (4, 40), (2, 2));
    // The shell makes a group of its first child, and puts the second into it.
    let [first, second] = [3, 4].map(|pid| u64::from(PIDS) + pid);
    told.call((2, 20), "setpgid", [first, 0], 0);
    told.call((2, 20), "setpgid", [second, first], 0);
    // What fails changes nothing.
    told.call((2, 20), "setpgid", [second, second], -1);
    for pid in [3, 4] {
        let child = Arc::clone(told.get(pid).unwrap());
        assert_eq!((child.ids.session, child.ids.group), (PIDS + 2, PIDS + 3), "{pid}");
        assert_eq!(id(told.table.session_leader(&child).unwrap()), (2, 20));
        assert_eq!(id(told.table.group_leader(&child).unwrap()), (3, 30));
    }
    // The leader ends; the session stays, and an ancestor tells who led it, whoever gets the pid.
    told.exit((2, 20));
    told.now_ns += 10 * SECOND_NS;
    told.fork_into((1, 10), (2, 99), (1, 1));
    let child = Arc::clone(told.get(4).unwrap());
    let leader = told.table.session_leader(&child).unwrap();
    assert_eq!((id(leader), text(&leader.image.executable)), ((2, 20), "/bin/bash"));
    let stranger = told.open((50, 50));
    assert!(told.table.session_leader(&stranger).is_none());
}

#[test]
fn processes_are_named_as_their_namespace_numbers_them() {
    let mut told = Told::default();
    told.fork_into((1, 10), (2, 20), (1, 1));
    let inside = |child: Id, own_pid: u32| Fork {
        child_start_ns: child.1,
        child_pid: PIDS + child.0,
        child_ppid: PIDS + 2,
        pid_namespace: 77,
        ids: Ids {
            own_pid,
            own_session: 1,
            own_group: 1,
            session: PIDS + 3,
            group: PIDS + 3,
            own_ppid: 0,
        },
        ..Fork::default()
    };
    told.fork_as((2, 20), inside((3, 30), 1));
    told.fork_as((3, 30), inside((4, 40), 2));
    let (host, caller) = (Arc::clone(told.get(2).unwrap()), Arc::clone(told.get(3).unwrap()));
    assert_eq!(
        told.table.named_by(&caller, 2).map(|process| id(process)),
        Some((4, 40))
    );
    assert_eq!(
        told.table.named_by(&caller, 1).map(|process| id(process)),
        Some((3, 30))
    );
    assert_eq!(told.table.named_by(&caller, PIDS + 4).map(|process| id(process)), None);
    assert_eq!(
        told.table.named_by(&host, PIDS + 4).map(|process| id(process)),
        Some((4, 40))
    );
    assert_eq!(told.table.named_by(&host, 2).map(|process| id(process)), None);
    // From inside: the child leads a group of its own.
    told.call((3, 30), "setpgid", [2, 0], 0);
    let child = told.get(4).unwrap();
    assert_eq!((child.ids.group, child.ids.own_group), (PIDS + 4, 2));
    // The number goes to another process, which the end of the former does not take it from.
    told.exit((4, 40));
    told.fork_as((3, 30), inside((5, 50), 2));
    told.now_ns += 10 * SECOND_NS;
    told.open((3, 30));
    assert!(told.get(4).is_none());
    assert_eq!(
        told.table.named_by(&caller, 2).map(|process| id(process)),
        Some((5, 50))
    );
    told.exit((5, 50));
    told.now_ns += 10 * SECOND_NS;
    told.open((3, 30));
    assert!(told.table.named_by(&caller, 2).is_none());
    assert_eq!(told.table.own_pids.len(), 1);
}

#[test]
fn credentials_are_told_before_and_after() {
    let mut told = Told::default();
    told.fork((1, 10), (2, 20));
    let uids = |process: &Process| (process.credentials_before().euid, process.credentials.euid);
    assert_eq!(uids(&told.open((2, 20))), (0, 0));
    told.header.euid = 1000;
    assert_eq!(uids(&told.call((2, 20), "setuid", [1000, 0], 0)), (0, 1000));
    // A call that changes nothing says so.
    assert_eq!(uids(&told.call((2, 20), "setuid", [0, 0], -1)), (1000, 1000));
    told.header.euid = 0;
    let raised = told.exec((2, 20), "sudo");
    assert_eq!(uids(&raised), (1000, 0));
    assert_eq!(uids(&told.exec((2, 20), "sh")), (0, 0));
    // A change whose record was lost shows with the next record.
    told.header.euid = 7;
    assert_eq!(uids(&told.open((2, 20))), (0, 7));
    assert_eq!(told.get(2).unwrap().credentials.euid, 7);
    // A thread changes only itself.
    told.header.euid = 8;
    told.header.tid = PIDS + 100;
    let thread = told.call((2, 20), "setuid", [8, 0], 0);
    assert_eq!(thread.credentials_before().euid, 7);
    assert_eq!(told.get(2).unwrap().credentials.euid, 7);
    // A child has no history.
    told.header.tid = 0;
    told.header.euid = 7;
    told.fork((2, 20), (3, 30));
    assert_eq!(told.get(3).unwrap().before, None);
}

#[test]
fn an_exec_that_was_not_told_is_found_out() {
    let mut told = Told::default();
    told.header.exec_count = 1;
    told.exec((1, 10), "sh");
    told.fork((1, 10), (2, 20));
    let repaired = told.table.counts().repaired;
    // A record from before the exec, read after it.
    told.header.exec_count = 0;
    assert_eq!(text(&told.open((1, 10)).image.executable), "/bin/sh");
    assert_eq!(told.table.counts().repaired, repaired);
    told.header.exec_count = 2;
    let process = told.open((1, 10));
    assert_eq!(
        (text(&process.image.name), text(&process.image.executable)),
        ("heard", "")
    );
    assert_eq!(told.table.counts().repaired, repaired + 1);
    told.open((1, 10));
    assert_eq!(told.table.counts().repaired, repaired + 1, "once");
    told.header.exec_count = 5;
    assert_eq!(text(&told.exec((2, 20), "make").image.executable), "/bin/make");
    assert_eq!(told.table.counts().repaired, repaired + 1, "an exec tells all");
}

#[test]
fn what_comes_late_changes_nothing() {
    let mut told = Told::default();
    told.fork((1, 10), (2, 20));
    told.exec((2, 20), "old");
    told.exit((2, 20));
    told.fork((1, 10), (2, 60));
    told.exec((2, 60), "new");
    let repaired = told.table.counts().repaired;
    let former = told.open((2, 20));
    assert_eq!((id(&former), text(&former.image.executable)), ((2, 20), "/bin/old"));
    let unheard = told.open((2, 40));
    assert_eq!((id(&unheard), text(&unheard.image.executable)), ((2, 40), ""));
    assert_eq!(text(&told.get(2).unwrap().image.executable), "/bin/new");
    told.exit((2, 40));
    told.now_ns += 10 * SECOND_NS;
    assert_eq!(text(&told.open((2, 60)).image.executable), "/bin/new");
    assert_eq!((told.table.counts().repaired, told.table.counts().late), (repaired, 3));
}

#[test]
fn the_end_of_a_connection_is_about_nobody() {
    let mut told = Told::default();
    told.fork((1, 10), (2, 20));
    let (len, repaired) = (told.table.len(), told.table.counts().repaired);
    let body = Ended::default();
    told.header.euid = 5;
    for someone in [(0, 0), (9, 90), (2, 20)] {
        let process = told.record(someone, Kind::Ended, 0, body.as_bytes(), b"");
        assert_eq!(id(&process), someone);
    }
    assert_eq!((told.table.len(), told.table.counts().repaired), (len, repaired));
    assert_eq!(told.get(2).unwrap().credentials.euid, 0);
}

#[test]
fn a_seeded_process_learns_who_made_it() {
    let mut told = Told::default();
    told.exec((1, 10), "init");
    told.fork((1, 10), (2, 5 * TICK_NS));
    // Read from `/proc` after its maker had ended, before the record of its making was.
    let init = Arc::clone(told.get(1).unwrap());
    told.table.insert(Process {
        pid: PIDS + 3,
        ppid: PIDS + 1,
        start_ns: 7 * TICK_NS,
        start_is_exact: false,
        depth: 1,
        parent: Some(Arc::clone(&init)),
        ..Process::clone(&init)
    });
    assert_eq!(ancestors(told.get(3).unwrap()), [(1, 10)]);
    told.fork((2, 5 * TICK_NS), (3, 7 * TICK_NS + 1));
    assert_eq!(ancestors(told.get(3).unwrap()), [(2, 5 * TICK_NS), (1, 10)]);
    assert_eq!(told.get(3).unwrap().start_ns, 7 * TICK_NS + 1);
    assert_eq!(told.table.len(), 3);
}

#[test]
fn ends_that_were_not_told_are_found_out() {
    let mut told = Told::default();
    for number in 2..1000 {
        told.fork((1, 10), (number, u64::from(number)));
    }
    let this = seed::process(std::process::id(), &told.table.ledger).unwrap();
    told.table.insert(this);
    let repaired = told.table.counts().repaired;
    // Nothing was lost: nobody is looked for.
    told.table.check_some();
    assert!(told.table.exited.is_empty());

    told.table.events_were_lost();
    told.table.check_some();
    assert!(told.table.exited.len() <= CHECKED_AT_ONCE);
    for _ in 0..1000_usize.div_ceil(CHECKED_AT_ONCE) {
        told.table.check_some();
    }
    assert_eq!(told.table.exited.len(), 999, "all but this process");
    // For some the end was only on its way.
    for number in 2..100 {
        told.exit((number, u64::from(number)));
    }
    told.now_ns += EXITED_NS - 100;
    told.table.now_ns = told.now_ns;
    told.table.forget_exited();
    told.now_ns += SECOND_NS;
    told.table.now_ns = told.now_ns;
    told.table.forget_exited();
    assert_eq!(told.table.len(), 1);
    assert!(told.table.get(std::process::id()).is_some());
    assert_eq!(told.table.counts().repaired - repaired, 999 - 98);
}

/// Arguments of 8 KiB, each another's.
fn exec_of_much(told: &mut Told, id: Id) -> Arc<Process> {
    let mut data = id.1.to_string().into_bytes();
    data.resize(8192, b'x');
    let add = |len: u16| Span { offset: 0, len };
    let body = Exec {
        executable: add(4000),
        cwd: add(4000),
        args: add(8191),
        ..Exec::default()
    };
    told.record(id, Kind::Exec, 0, body.as_bytes(), &data)
}

#[test]
fn memory_is_bounded_whatever_processes_are_given() {
    let mut told = Told::default();
    let mut most = 0;
    for number in 1..40_000 {
        let id = (number, u64::from(number));
        told.fork((0, 1), id);
        let process = exec_of_much(&mut told, id);
        // The event itself has everything.
        assert_eq!(
            process.image.arguments().map(<[u8]>::len).sum::<usize>(),
            8191,
            "{number}"
        );
        most = most.max(told.table.bytes());
    }
    assert!(most < ledger::FULL_BYTES + (16 << 20), "{most}");
    assert!(most > ledger::TIGHT_BYTES, "{most}");
    let counts = told.table.counts();
    assert!(counts.slimmed > 0, "{counts:?}");
    // Ended ones go first, and then there is room again.
    for number in 1..40_000 {
        told.exit((number, u64::from(number)));
    }
    told.fork((0, 1), (50_000, 50_000));
    assert!(told.table.counts().hurried > 0);
    assert!(!told.table.ledger.is_tight());
    told.now_ns += 10 * SECOND_NS;
    told.open((0, 1));
    assert_eq!(told.table.len(), 2);
    let two = told.table.bytes();
    assert!(
        two < 4 * (size_of::<Process>() + size_of::<Image>() + 16 * 1024),
        "{two}"
    );
}

#[test]
fn a_hundred_thousand_processes_take_a_known_amount_of_memory() {
    let mut told = Told::default();
    told.exec((0, 1), "sh");
    let begun = told.table.bytes();
    for number in 1..=100_000 {
        told.fork((0, 1), (number, u64::from(number) + 1));
    }
    let each = (told.table.bytes() - begun) / 100_000;
    assert_eq!(told.table.len(), 100_001);
    assert!(each <= 320, "{each} bytes for a process that only was forked");
    for number in 1..=100_000 {
        told.exec((number, u64::from(number) + 1), "make");
    }
    let each = (told.table.bytes() - begun) / 100_000;
    assert!(each <= 1024, "{each} bytes for a process with an image of its own");
    assert_eq!(
        told.table.counts().evicted + told.table.counts().slimmed + told.table.counts().hurried,
        0
    );
    for number in 1..=100_000 {
        told.exit((number, u64::from(number) + 1));
    }
    told.now_ns += 10 * SECOND_NS;
    told.open((0, 1));
    assert_eq!((told.table.len(), told.table.counts().repaired), (1, 1));
    assert!(told.table.bytes() <= begun, "{} {begun}", told.table.bytes());
}

#[test]
fn when_the_table_is_full_the_newest_are_not_taken_in() {
    let mut told = Told::default();
    told.open((0, 1));
    let most = u32::try_from(PROCESSES_MAX).unwrap();
    for number in 1..most + 10 {
        told.fork((0, 1), (number, u64::from(number) + 1));
    }
    assert_eq!(told.table.len(), PROCESSES_MAX);
    assert_eq!(told.table.counts().evicted, 10);
    assert!(told.table.bytes() < ledger::FULL_BYTES);
    // One that ended makes room at once.
    told.exit((1, 2));
    told.fork((0, 1), (most + 20, u64::from(most) + 21));
    assert!(told.get(1).is_none());
    assert!(told.get(most + 20).is_some());
    assert_eq!((told.table.counts().evicted, told.table.counts().hurried), (10, 1));
}

/// A process as it is, whatever the table was told.
#[derive(Clone, Debug)]
struct Real {
    start_ns: u64,
    maker: Id,
    executable: String,
    exec_count: u32,
    /// Whether the table was told what it runs.
    is_told: bool,
    /// Whether the table was told who made it.
    is_made: bool,
}

/// What happens in the model, to a process that lives.
#[derive(Clone, Copy, Debug)]
enum Act {
    Fork,
    Exec,
    Open,
    Exit,
    Pause { ms: u64 },
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        4 => Just(Act::Fork),
        2 => Just(Act::Exec),
        3 => Just(Act::Open),
        3 => Just(Act::Exit),
        1 => (0_u64..3000).prop_map(|ms| Act::Pause { ms }),
    ]
}

/// What the table says of a process that has just been heard of.
fn is_true(process: &Process, real: &Real) -> Result<(), TestCaseError> {
    prop_assert_eq!(process.start_ns, real.start_ns);
    // What is not known is said to be unknown; it is never what somebody else runs, or what was run before.
    let expected = if real.is_told { real.executable.as_str() } else { "" };
    prop_assert_eq!(text(&process.image.executable), expected);
    match process.ancestors().next() {
        Some(parent) if real.is_made => prop_assert_eq!(id(parent), real.maker),
        Some(parent) => prop_assert_eq!(parent.pid - PIDS, real.maker.0),
        None => prop_assert!(!real.is_made),
    }
    Ok(())
}

proptest! {
    /// Pids are used again as soon as they are free; of the records any may be lost, or none.
    #[test]
    fn what_the_table_says_is_true_whatever_is_lost(
        acts in prop::collection::vec((act(), any::<prop::sample::Index>(), any::<prop::sample::Index>(), 0_u8..10), 1..300),
        lost_of_ten in prop_oneof![Just(0_u8), 0_u8..8],
    ) {
        const PIDS_IN_USE: u32 = 12;
        let mut told = Told::default();
        told.exec((0, 1), "init");
        let mut start_ns = 1;
        let init = Real {
            start_ns,
            maker: (0, 0),
            executable: "/bin/init".to_owned(),
            exec_count: 0,
            is_told: true,
            is_made: false,
        };
        let mut living = std::collections::BTreeMap::from([(0, init)]);
        let mut lost = 0_u32;
        for (number, (act, who, free, chance)) in acts.into_iter().enumerate() {
            let is_lost = chance < lost_of_ten;
            let pids: Vec<u32> = living.keys().copied().collect();
            let pid = *who.get(&pids);
            let mut real = living[&pid].clone();
            let actor = (pid, real.start_ns);
            told.header.exec_count = real.exec_count;
            let ppid = real.maker.0;
            told.parent = ppid;
            match act {
                Act::Pause { ms } => told.now_ns += ms * 1_000_000,
                Act::Fork => {
                    let free_pids: Vec<u32> = (0..PIDS_IN_USE).filter(|pid| !living.contains_key(pid)).collect();
                    if free_pids.is_empty() {
                        continue;
                    }
                    let child_pid = *free.get(&free_pids);
                    start_ns += 1;
                    let child = Real {
                        start_ns,
                        maker: actor,
                        is_told: real.is_told && !is_lost,
                        is_made: !is_lost,
                        ..real.clone()
                    };
                    if is_lost {
                        lost += 1;
                    } else {
                        told.fork(actor, (child_pid, start_ns));
                        let made = told.get(child_pid).unwrap();
                        is_true(made, &child)?;
                    }
                    living.insert(child_pid, child);
                }
                Act::Exec => {
                    real.exec_count += 1;
                    real.executable = format!("/bin/x{number}");
                    real.is_told = !is_lost;
                    told.header.exec_count = real.exec_count;
                    if is_lost {
                        lost += 1;
                    } else {
                        let process = told.exec(actor, &format!("x{number}"));
                        if pid != 0 {
                            is_true(&process, &real)?;
                        }
                    }
                    living.insert(pid, real);
                }
                Act::Open if is_lost => {}
                Act::Open => {
                    let process = told.open_under(actor, ppid);
                    if pid != 0 {
                        is_true(&process, &real)?;
                    }
                }
                Act::Exit if pid == 0 => {}
                Act::Exit => {
                    if is_lost {
                        lost += 1;
                    } else {
                        told.exit(actor);
                    }
                    living.remove(&pid);
                }
            }
        }
        if lost == 0 {
            prop_assert_eq!(told.table.counts().repaired, 1, "only the first one was not seen made");
        } else {
            told.table.events_were_lost();
        }
        told.table.check(|pid, start_ns| living.get(&(pid - PIDS)).is_some_and(|real| Some(real.start_ns) == start_ns));
        told.now_ns += 10 * SECOND_NS;
        told.header.exec_count = living[&0].exec_count;
        told.open((0, 1));
        for pid in 0..PIDS_IN_USE {
            match (told.get(pid), living.get(&pid)) {
                (Some(known), Some(real)) => prop_assert_eq!(known.start_ns, real.start_ns),
                (Some(known), None) => prop_assert!(false, "{:?} lives on", id(known)),
                (None, real) => prop_assert!(lost > 0 || real.is_none(), "{real:?} is not known"),
            }
        }
        // Who ended is not kept alive by anything but descendants.
        prop_assert_eq!(told.table.exited.len(), 0);
    }
}

/// What one record tells; who it is about is chosen among those that the history has made by then.
#[derive(Clone, Copy, Debug)]
enum Step {
    Fork { child_pid: u32 },
    Exec,
    Chdir,
    Open,
    Exit,
    Pause { ms: u64 },
    Unseen { pid: u32 },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0_u32..12).prop_map(|child_pid| Step::Fork { child_pid }),
        1 => Just(Step::Exec),
        1 => Just(Step::Chdir),
        2 => Just(Step::Open),
        2 => Just(Step::Exit),
        1 => (0_u64..3000).prop_map(|ms| Step::Pause { ms }),
        1 => (0_u32..12).prop_map(|pid| Step::Unseen { pid }),
    ]
}

/// Chains end, are no longer than allowed, know their length, and hold nobody twice.
fn check(process: &Process) -> Result<(), TestCaseError> {
    let line: Vec<Id> = std::iter::once(process)
        .chain(process.ancestors().take(1000))
        .map(id)
        .collect();
    prop_assert!(line.len() <= usize::from(DEPTH_MAX) + 1, "{line:?}");
    prop_assert_eq!(line.len() - 1, usize::from(process.depth));
    for (index, ancestor) in line.iter().enumerate() {
        prop_assert!(!line[index + 1..].contains(ancestor), "{ancestor:?} twice in {line:?}");
    }
    Ok(())
}

proptest! {
    /// Pids are few and used again, records come late and for processes that ended, and parents are told at random.
    #[test]
    fn nobody_is_their_own_ancestor(
        steps in prop::collection::vec((step(), any::<prop::sample::Index>(), 0_u32..12), 1..300),
    ) {
        let mut told = Told::default();
        let mut start_ns = 1;
        let mut made: Vec<Id> = vec![(0, 1)];
        for (step, about, ppid) in steps {
            let actor = *about.get(&made);
            let process = match step {
                Step::Fork { child_pid } => {
                    start_ns += 1;
                    made.push((child_pid, start_ns));
                    told.fork_for(actor, (child_pid, start_ns), ppid)
                }
                Step::Exec => told.exec(actor, "sh"),
                Step::Chdir => told.chdir(actor, "tmp"),
                Step::Open => told.open_under(actor, ppid),
                Step::Exit => told.exit(actor),
                Step::Pause { ms } => {
                    told.now_ns += ms * 1_000_000;
                    continue;
                }
                Step::Unseen { pid } => {
                    start_ns += 1;
                    made.push((pid, start_ns));
                    told.open_under((pid, start_ns), ppid)
                }
            };
            match step {
                Step::Unseen { .. } => prop_assert_eq!(process.start_ns, start_ns),
                Step::Fork { .. } | Step::Exec | Step::Chdir | Step::Open | Step::Exit | Step::Pause { .. } => {
                    prop_assert_eq!(id(&process), actor);
                }
            }
            check(&process)?;
            for pid in 0..12 {
                if let Some(process) = told.get(pid) {
                    check(process)?;
                }
            }
            prop_assert!(told.table.len() <= 12);
        }
    }

    /// Records that no kernel writes: any numbers, any times, any spans.
    #[test]
    fn any_records_are_taken_in_without_panic(
        records in prop::collection::vec(
            (1_u16..17, 0_u32..6, 0_u64..6, 0_u32..6, any::<u64>(), prop::collection::vec(any::<u8>(), 0..160)),
            1..60,
        ),
    ) {
        let mut table = ProcessTable::default();
        for (kind, pid, start_ns, ppid, time_ns, rest) in records {
            let mut rest = rest;
            if kind == Kind::Fork as u16 && rest.len() >= size_of::<Fork>() {
                // Else no child would ever have the pid of a process that is known.
                let child_pid = PIDS + u32::from(rest[8] % 6);
                rest[8..12].copy_from_slice(&child_pid.to_ne_bytes());
                rest[1..8].fill(0);
            }
            let header = Header {
                time_ns,
                start_ns,
                kind,
                len: u32::try_from(size_of::<Header>() + rest.len()).unwrap(),
                pid: PIDS + pid,
                ppid: PIDS + ppid,
                ..Header::default()
            };
            let bytes = [header.as_bytes(), &rest].concat();
            if let Ok(record) = decode(&bytes) {
                let process = table.apply(&record);
                prop_assert_eq!((process.pid, process.start_ns), (header.pid, header.start_ns));
                prop_assert!(process.ancestors().take(1000).count() <= usize::from(DEPTH_MAX));
            }
        }
    }
}
