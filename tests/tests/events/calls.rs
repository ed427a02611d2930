//! System calls that have no record of a kind of their own: what the kernel was given and did is what the event tells.

use std::{
    fmt::Write as _,
    fs,
    os::unix::fs::{MetadataExt as _, symlink},
};

use staghound_engine::event::EventKind;
use staghound_tests::{
    actor,
    capture::{Called, Capture, Run, Seen},
    script,
};

use super::{Place, kernel_device};

/// A descriptor that has no path, or one that only this host knows.
const ANY: &str = "*";

/// A call, made by a script, and what its event must tell. In all texts `{P}` stands for a directory of the test's own that
/// holds the files `f` and `g`, the directory `d` and the symbolic link `l` to `f`.
struct Case {
    /// The last call of the script, as the agent names it; its event carries the name that rules know.
    name: &'static str,
    script: &'static str,
    path: &'static str,
    new_path: &'static str,
    object: &'static str,
    new_object: &'static str,
    text: &'static str,
    more: Option<Vec<u8>>,
    fields: Vec<(&'static str, &'static str)>,
}

fn case(name: &'static str, script: &'static str) -> Case {
    Case {
        name,
        script,
        path: "",
        new_path: "",
        object: "",
        new_object: "",
        text: "",
        more: None,
        fields: Vec::new(),
    }
}

impl Case {
    fn path(mut self, path: &'static str) -> Self {
        self.path = path;
        self
    }

    fn new_path(mut self, path: &'static str) -> Self {
        self.new_path = path;
        self
    }

    fn object(mut self, path: &'static str) -> Self {
        self.object = path;
        self
    }

    fn new_object(mut self, path: &'static str) -> Self {
        self.new_object = path;
        self
    }

    fn text(mut self, text: &'static str) -> Self {
        self.text = text;
        self
    }

    fn more(mut self, more: impl Into<Vec<u8>>) -> Self {
        self.more = Some(more.into());
        self
    }

    fn field(mut self, name: &'static str, value: &'static str) -> Self {
        self.fields.push((name, value));
        self
    }

    /// What is wrong with what was seen of it, in words; nothing when all is right.
    fn mistakes(&self, place: &Place, run: &Run) -> String {
        let mut mistakes = String::new();
        let made = script::made(run);
        let made = made.last().expect("a script makes a call");
        let calls: Vec<&Called> = run
            .calls
            .iter()
            .filter(|called| called.name == self.name && called.call.args == made.arguments)
            .collect();
        let called = match calls.as_slice() {
            [called] => *called,
            [] => {
                return format!("no record with {made:?}, but {:?}", {
                    let others: Vec<_> = run.calls.iter().map(|called| (called.name, called.call.args)).collect();
                    others
                });
            }
            several => return format!("{} records", several.len()),
        };
        let mut differs = |what: &str, told: &str, expected: &str| {
            let expected = expected.replace("{P}", &place.path.display().to_string());
            if told != expected {
                write!(mistakes, "{what} is `{told}`, not `{expected}`; ").expect("a string takes it");
            }
        };
        differs("result", &called.call.result.to_string(), &made.result.to_string());
        differs("pid", &called.pid.to_string(), &run.pid.to_string());
        differs("path", &called.path, self.path);
        differs("new path", &called.new_path, self.new_path);
        if self.object == ANY {
            if called.object.is_empty() {
                differs("object", "nothing", "something");
            }
        } else {
            differs("object", &called.object, self.object);
        }
        if !self.new_object.is_empty() {
            differs("new object", &called.new_object, self.new_object);
        }
        differs("text", &String::from_utf8_lossy(&called.text), self.text);
        if let Some(more) = &self.more {
            let until = if more.ends_with(&[0]) {
                more.len()
            } else {
                called.more.len()
            };
            let told = called.more.get(..until).unwrap_or(&called.more);
            let told = if more.ends_with(&[0]) { told } else { until_nul(told) };
            differs("more", &format!("{told:?}"), &format!("{more:?}"));
        }
        if let Ok(metadata) = fs::metadata(self.object.replace("{P}", &place.path.display().to_string())) {
            differs("inode", &called.call.inode.to_string(), &metadata.ino().to_string());
            let device = kernel_device(metadata.dev());
            differs("device", &called.call.device.to_string(), &device.to_string());
            differs("mode", &called.call.mode.to_string(), &metadata.mode().to_string());
        }

        // What the agent makes of it.
        let kind = EventKind::of_event_type(unsuffixed(self.name).as_bytes()).expect("a name that rules know");
        let events: Vec<&Seen> = run
            .of(kind)
            .filter(|seen| seen.event_type == unsuffixed(self.name) && seen.time_ns == called.time_ns)
            .collect();
        let [seen] = events.as_slice() else {
            differs("events", &events.len().to_string(), "1");
            return mistakes;
        };
        differs(
            "result of the event",
            &seen.result.to_string(),
            &made.result.to_string(),
        );
        if self.object != ANY {
            let about = if self.path.is_empty() { self.object } else { self.path };
            differs("path of the event", &seen.path_text(), about);
        }
        for (name, value) in &self.fields {
            differs(name, seen.field(name), value);
        }
        mistakes
    }
}

fn until_nul(bytes: &[u8]) -> &[u8] {
    bytes.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// Rules know the names without the suffixes of the 32-bit ABI.
fn unsuffixed(name: &str) -> &str {
    match name {
        "mmap2" => "mmap",
        "utimensat_time64" => "utimensat",
        "clock_settime64" => "clock_settime",
        "sendfile64" => "sendfile",
        "truncate64" => "truncate",
        "ftruncate64" => "ftruncate",
        "fcntl64" => "fcntl",
        name => name.strip_suffix("32").unwrap_or(name),
    }
}

/// Bytes of words of 64 bits.
fn words(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

/// Runs all cases, prints what came of each, and fails when one is wrong.
fn all_right(title: &str, cases: &[Case]) {
    let mut capture = Capture::of_children();
    let mut rows = Vec::new();
    let (mut lacking, mut wrong) = (0, 0);
    for case in cases {
        let place = Place::new();
        place.file("f", 0o644);
        place.file("g", 0o644);
        fs::create_dir(place.of("d")).unwrap();
        symlink("f", place.of("l")).unwrap();
        let run = capture.run(&mut actor(script::words(
            case.script,
            &place.path.display().to_string(),
        )));
        let outcome = if script::lacks(&run) {
            lacking += 1;
            "kernel lacks it".to_owned()
        } else {
            let mistakes = case.mistakes(&place, &run);
            if mistakes.is_empty() {
                "as it was done".to_owned()
            } else {
                wrong += 1;
                mistakes
            }
        };
        rows.push(vec![case.name.to_owned(), outcome]);
    }
    let table = script::table(&rows);
    let total = cases.len();
    script::tell(&format!(
        "{title}: {total} calls, {wrong} wrong, {lacking} not in this kernel\n{table}\n"
    ));
    assert_eq!(wrong, 0, "{table}");
    assert!(lacking < total, "the kernel lacks all of it: {table}");
}

#[test]
fn calls_about_files_are_told() {
    all_right(
        "files",
        &[
            case("mkdir", "mkdir s={P}/n 0o755").path("{P}/n"),
            case("mkdirat", "mkdirat d={P} s=n 0o700").path("{P}/n"),
            case("mkdir", "mkdir s={P}/d 0o755").path("{P}/d"),
            case("mknod", "mknod s={P}/n 0o10644 0").path("{P}/n"),
            case("mknodat", "mknodat -100 s={P}/n 0o20600 0x103").path("{P}/n"),
            case("link", "link s={P}/f s={P}/n").path("{P}/f").new_path("{P}/n"),
            case("linkat", "linkat d={P} s=f d={P}/d s=../n 0")
                .path("{P}/f")
                .new_path("{P}/n"),
            case("symlink", "symlink s=../target s={P}/n")
                .path("{P}/n")
                .text("../target"),
            case("symlinkat", "symlinkat s=/etc/shadow d={P} s=n")
                .path("{P}/n")
                .text("/etc/shadow"),
            case("chown", "chown s={P}/f 1234 5678")
                .path("{P}/f")
                .field("evt.arg.uid", "1234"),
            case("lchown", "lchown s={P}/l 1234 5678").path("{P}/l"),
            case("fchown", "fchown d={P}/f 1234 5678").object("{P}/f"),
            case("fchownat", "fchownat d={P} s=f 1234 5678 0").path("{P}/f"),
            case("fchownat", "fchownat d={P}/f s= 1234 5678 0x1000").path("{P}/f"),
            case("setxattr", "setxattr s={P}/f s=user.x x=61 1 0")
                .path("{P}/f")
                .text("user.x"),
            case(
                "setxattr",
                "setxattr s={P}/f s=security.capability x=0100000200040000000000000000000000000000 20 0",
            )
            .path("{P}/f")
            .text("security.capability")
            .field("evt.arg.name", "security.capability"),
            case("lsetxattr", "lsetxattr s={P}/l s=trusted.x x=61 1 0")
                .path("{P}/l")
                .text("trusted.x"),
            case("fsetxattr", "fsetxattr d={P}/f s=user.x x=61 1 0")
                .object("{P}/f")
                .text("user.x"),
            case("setxattrat", "#463 -100 s={P}/f 0 s=user.x v=x=61,1 16")
                .path("{P}/f")
                .text("user.x"),
            case("removexattr", "removexattr s={P}/f s=user.x")
                .path("{P}/f")
                .text("user.x"),
            case("lremovexattr", "lremovexattr s={P}/l s=user.x")
                .path("{P}/l")
                .text("user.x"),
            case("fremovexattr", "fremovexattr d={P}/f s=user.x")
                .object("{P}/f")
                .text("user.x"),
            case("removexattrat", "#466 -100 s={P}/f 0 s=user.x")
                .path("{P}/f")
                .text("user.x"),
            case("truncate", "truncate s={P}/f 1").path("{P}/f"),
            case("ftruncate", "ftruncate w={P}/f 0").object("{P}/f"),
            case("utime", "utime s={P}/f v=1000000000,1000000001")
                .path("{P}/f")
                .more(words(&[1_000_000_000, 1_000_000_001])),
            case("utimes", "utimes s={P}/f v=1000000000,0,1000000001,0")
                .path("{P}/f")
                .more(words(&[1_000_000_000, 0, 1_000_000_001, 0])),
            case("futimesat", "futimesat d={P} s=f v=1000000000,0,1000000001,0")
                .path("{P}/f")
                .more(words(&[1_000_000_000, 0, 1_000_000_001, 0])),
            case("utimensat", "utimensat -100 s={P}/f v=1000000000,0,1000000001,0 0")
                .path("{P}/f")
                .more(words(&[1_000_000_000, 0, 1_000_000_001, 0])),
            case("utimensat", "utimensat d={P}/f 0 0 0").path("{P}/f"),
            case("sendfile", "sendfile w={P}/g d={P}/f 0 1")
                .object("{P}/f")
                .new_object("{P}/g"),
            case("splice", "!pipe2 z=8 0 + splice d={P}/f 0 *0.1 0 1 0").object("{P}/f"),
            case("copy_file_range", "copy_file_range d={P}/f 0 w={P}/g 0 1 0")
                .object("{P}/f")
                .new_object("{P}/g"),
            case(
                "name_to_handle_at",
                "name_to_handle_at -100 s={P}/f x=80000000:136 z=4 0",
            )
            .path("{P}/f"),
            case("ioctl", "ioctl d={P}/f 0x40086602 v=0x10")
                .object("{P}/f")
                .field("evt.arg.attributes", "FS_IMMUTABLE_FL"),
            case("ioctl", "ioctl d={P}/f 0x40086602 v=0x20")
                .object("{P}/f")
                .field("evt.arg.attributes", "FS_APPEND_FL"),
            case("ioctl", "ioctl d={P}/f 0x40086602 v=0").object("{P}/f"),
            case("ioctl", "ioctl d={P}/f 0x401c5820 x=08000000:28")
                .object("{P}/f")
                .field("evt.arg.attributes", "FS_IMMUTABLE_FL"),
            case("fanotify_init", "fanotify_init 0 0"),
            case(
                "fanotify_mark",
                "!fanotify_init 0 0 + fanotify_mark $0 1 0x20 -100 s={P}/f",
            )
            .path("{P}/f"),
            case("mkdir", "!chdir s={P}/d + mkdir s=../d/./n 0o755").path("{P}/d/n"),
            case("mkdir", "!chroot s={P} + mkdir s=/d/n 0o755").path("{P}/d/n"),
        ],
    );
}

#[test]
fn calls_about_mounts_are_told() {
    all_right(
        "mounts",
        &[
            case(
                "mount",
                "!unshare 0x20000 + !mount s=none s=/ 0 0x44000 0 + mount s=swamp s={P}/d s=tmpfs 0 0",
            )
            .path("{P}/d")
            .text("swamp")
            .more("tmpfs"),
            case(
                "mount",
                "!unshare 0x20000 + !mount s=none s=/ 0 0x44000 0 + mount s={P}/f s={P}/g 0 0x1000 0",
            )
            .path("{P}/g")
            .text("{P}/f"),
            case(
                "umount2",
                "!unshare 0x20000 + !mount s=none s=/ 0 0x44000 0 + !mount s=x s={P}/d s=tmpfs 0 0 + umount2 s={P}/d 2",
            )
            .path("{P}/d"),
            case("open_tree", "open_tree -100 s={P}/d 0").path("{P}/d"),
            case("fsopen", "fsopen s=tmpfs 0").text("tmpfs"),
            case("fsconfig", "!fsopen s=tmpfs 0 + fsconfig $0 1 s=size s=64k 0")
                .text("size")
                .more("64k"),
            case("fsmount", "!fsopen s=tmpfs 0 + !fsconfig $0 6 0 0 0 + fsmount $0 0 0"),
            case(
                "move_mount",
                "!unshare 0x20000 + !mount s=none s=/ 0 0x44000 0 + !fsopen s=tmpfs 0 + \
              !fsconfig $2 6 0 0 0 + !fsmount $2 0 0 + move_mount $4 s= -100 s={P}/d 4",
            )
            .path("{P}/d")
            .new_path("{P}/d"),
            case(
                "mount_setattr",
                "!unshare 0x20000 + !mount s=none s=/ 0 0x44000 0 + \
              !mount s=x s={P}/d s=tmpfs 0 0 + mount_setattr -100 s={P}/d 0 v=1,0,0,0 32",
            )
            .path("{P}/d"),
            case(
                "pivot_root",
                // In a chroot, because nobody can exchange the root of a guest's initramfs.
                "!unshare 0x20000 + !mount s=none s=/ 0 0x44000 0 + !mount s=x s={P}/d s=tmpfs 0 0 + \
                 !mkdir s={P}/d/n 0o700 + !mount s=x s={P}/d/n s=tmpfs 0 0 + !mkdir s={P}/d/n/old 0o700 + \
                 !chroot s={P}/d + !chdir s=/n + pivot_root s=. s=old",
            )
            .path("{P}/d")
            .new_path("{P}/d/old"),
            case("chroot", "chroot s={P}/d").path("{P}/d"),
            case("swapon", "swapon s={P}/f 0").path("{P}/f"),
            case("swapoff", "swapoff s={P}/f").path("{P}/f"),
            case("acct", "acct s={P}/missing").path("{P}/missing"),
            case("quotactl", "quotactl 0x800002 s={P}/f 0 0").text("{P}/f"),
        ],
    );
}

#[test]
fn calls_about_privileges_are_told() {
    all_right(
        "privileges",
        &[
            case("setuid", "setuid 1234")
                .field("evt.arg.uid", "1234")
                .field("proc.prev.uid", "0")
                .field("proc.prev.euid", "0")
                .field("user.euid", "1234"),
            case("setresuid", "!setresuid -1 1234 0 + setresuid -1 0 0")
                .field("proc.prev.uid", "0")
                .field("proc.prev.euid", "1234")
                .field("user.euid", "0"),
            case("setgid", "setgid 1234"),
            case("setreuid", "setreuid -1 1234"),
            case("setregid", "setregid -1 1234"),
            case("setresuid", "setresuid 1 2 3"),
            case("setresgid", "setresgid 1 2 3"),
            case("setfsuid", "setfsuid 1234"),
            case("setfsgid", "setfsgid 1234"),
            case("setgroups", "setgroups 0 0"),
            case("capset", "capset x=22050820:8 x=ffffffff:24").more([&[0xff_u8; 4][..], &[0; 20]].concat()),
            case("setns", "!open s=/proc/self/ns/uts 0 + setns $0 0").object(ANY),
            case("unshare", "unshare 0x4020000").field("evt.arg.flags", "CLONE_NEWNS|CLONE_NEWUTS"),
            case("setsid", "setsid"),
            case("setpgid", "setpgid 0 0"),
            case("prctl", "prctl 15 s=hidden")
                .more("hidden")
                .field("evt.arg.option", "PR_SET_NAME"),
            case("prctl", "prctl 4 0"),
            case("personality", "personality 0x40000"),
            case("keyctl", "keyctl 0 -2 1"),
            case("add_key", "add_key s=user s=staghound:test x=61 1 -2")
                .text("user")
                .more("staghound:test"),
            case("request_key", "request_key s=user s=staghound:none 0 -2")
                .text("user")
                .more("staghound:none"),
        ],
    );
}

#[test]
fn calls_about_processes_are_told() {
    all_right(
        "processes",
        &[
            case("ptrace", "ptrace 16 child 0 0")
                .field("evt.arg.request", "PTRACE_ATTACH")
                .field("target.relation", "descendant"),
            case("ptrace", "ptrace 0x4206 child 0 0").field("evt.arg.request", "PTRACE_SEIZE"),
            case("process_vm_readv", "process_vm_readv child v=z=8,8 1 v=@0,8 1 0")
                .field("target.relation", "descendant"),
            case("process_vm_writev", "process_vm_writev child v=z=8,8 1 v=@0,8 1 0")
                .field("target.relation", "descendant"),
            case("pidfd_open", "pidfd_open child 0").field("target.relation", "descendant"),
            case("pidfd_getfd", "!pidfd_open child 0 + pidfd_getfd $0 0 0")
                .object(ANY)
                .field("target.relation", "descendant")
                .field("target.name", "actor"),
            case("pidfd_send_signal", "!pidfd_open child 0 + pidfd_send_signal $0 28 0 0")
                .object(ANY)
                .field("target.relation", "descendant"),
            case("pidfd_send_signal", "!pidfd_open pid 0 + pidfd_send_signal $0 28 0 0")
                .object(ANY)
                .field("target.relation", "self"),
            case("pidfd_send_signal", "pidfd_send_signal d=/proc/self 28 0 0")
                .object(ANY)
                .field("target.relation", "self"),
            case("setns", "!pidfd_open child 0 + setns $0 0x4000000")
                .object(ANY)
                .field("target.relation", "descendant"),
            case(
                "process_madvise",
                "!pidfd_open child 0 + process_madvise $0 v=0,0 1 20 0",
            )
            .object(ANY)
            .field("target.relation", "descendant"),
            case("kill", "kill child 28")
                .field("evt.arg.sig", "SIGWINCH")
                .field("target.relation", "descendant"),
            case("kill", "kill -1000000 9").field("target.relation", "group"),
            case("kill", "!setsid + kill 0 28").field("target.relation", "self"),
            case("tkill", "tkill child 28").field("target.relation", "descendant"),
            case("tgkill", "tgkill child child 28").field("target.relation", "descendant"),
            case(
                "rt_sigqueueinfo",
                "rt_sigqueueinfo child 28 x=1c00000000000000ffffffff:128",
            ),
            case(
                "rt_tgsigqueueinfo",
                "rt_tgsigqueueinfo child child 28 x=1c00000000000000ffffffff:128",
            ),
            case("mmap", "mmap 0 4096 7 0x22 -1 0").field("evt.arg.prot", "PROT_READ|PROT_WRITE|PROT_EXEC"),
            case("mmap", "mmap 0 1 7 0x2 d={P}/f 0").object("{P}/f"),
            case("mprotect", "!mmap 0 4096 3 0x22 -1 0 + mprotect $0 4096 5")
                .field("evt.arg.prot", "PROT_READ|PROT_EXEC"),
            case("pkey_mprotect", "!mmap 0 4096 3 0x22 -1 0 + pkey_mprotect $0 4096 7 -1"),
            case("memfd_create", "memfd_create s=payload 1")
                .text("payload")
                .field("evt.arg.name", "payload"),
            case("memfd_secret", "memfd_secret 0"),
            case("userfaultfd", "userfaultfd 1"),
        ],
    );
}

#[test]
fn calls_about_the_kernel_are_told() {
    let insns = "x=b7000000000000009500000000000000";
    let load: &'static str = format!("bpf 5 v=0x200000001,{insns},s=GPL,0,0,0 48").leak();
    all_right(
        "kernel",
        &[
            case("init_module", "init_module x=00 1 s=opts").text("opts"),
            case("finit_module", "finit_module d={P}/f s=opts 0")
                .object("{P}/f")
                .text("opts"),
            case("delete_module", "delete_module s=staghound_nothing 0x800").text("staghound_nothing"),
            case("kexec_load", "kexec_load 0 0 0 0x80000000"),
            case("kexec_file_load", "kexec_file_load d={P}/f d={P}/g 0 0 0x80000000")
                .object("{P}/f")
                .new_object("{P}/g"),
            case("bpf", load).field("evt.arg.cmd", "BPF_PROG_LOAD"),
            case("bpf", "bpf 7 v=s=/sys/fs/bpf/nothing,0 16"),
            case("perf_event_open", "perf_event_open x=0100000080000000:128 0 -1 -1 0"),
            case("io_uring_setup", "io_uring_setup 1 z=120"),
            case("io_uring_register", "io_uring_register ring 8 z=2064 256"),
            case("reboot", "reboot 0 0 0 0"),
            case("sethostname", "!unshare 0x4000000 + sethostname s=elk 3").more("elk"),
            case("setdomainname", "!unshare 0x4000000 + setdomainname s=moor 4").more("moor"),
            case("settimeofday", "settimeofday v=0,2000000 0"),
            case("clock_settime", "clock_settime 1 v=0,0"),
            case("iopl", "iopl 0"),
            case("ioperm", "ioperm 0x80 1 0"),
            case("syslog", "syslog 10 0 0"),
            case("nfsservctl", "~nfsservctl 0 0 0"),
            case("socket", "socket 17 3 0x300").field("evt.arg.domain", "AF_PACKET"),
            case("socket", "socket 2 3 1"),
            case("dup2", "!socket 2 1 0 + dup2 $0 0").object(ANY),
            case("dup3", "!socket 2 1 0 + dup3 $0 2 0").object(ANY),
            case("dup", "!socket 2 1 0 + !close 0 + dup $0").object(ANY),
            case("fcntl", "!socket 2 1 0 + !close 0 + fcntl $0 0 0").object(ANY),
            case(
                "ioctl",
                "!open s=/dev/ptmx 2 + !ioctl $0 0x40045431 i=0 + !ioctl $0 0x5441 2 + ioctl $2 0x5412 s=x",
            )
            .object(ANY),
        ],
    );
}

#[test]
fn calls_through_the_32_bit_entry_are_told() {
    all_right(
        "32-bit entry",
        &[
            case("mkdir", "int80:39 s={P}/n 0o755").path("{P}/n"),
            case("mkdirat", "int80:296 d={P} s=n 0o755").path("{P}/n"),
            case("symlink", "int80:83 s=/etc/shadow s={P}/n")
                .path("{P}/n")
                .text("/etc/shadow"),
            case("chown", "int80:182 s={P}/f 1234 5678").path("{P}/f"),
            case("chown32", "int80:212 s={P}/f 1234 5678")
                .path("{P}/f")
                .field("evt.arg.uid", "1234"),
            case("lchown32", "int80:198 s={P}/l 1234 5678").path("{P}/l"),
            case("fchown32", "int80:207 d={P}/f 1234 5678").object("{P}/f"),
            case("truncate64", "int80:193 s={P}/f 1 0").path("{P}/f"),
            case("ftruncate64", "int80:194 w={P}/f 1 0").object("{P}/f"),
            case("utime", "int80:30 s={P}/f i=1000000000,1000000001").path("{P}/f"),
            case("utimensat", "int80:320 -100 s={P}/f i=1000000000,0,1000000001,0 0").path("{P}/f"),
            case(
                "utimensat_time64",
                "int80:412 -100 s={P}/f v=1000000000,0,1000000001,0 0",
            )
            .path("{P}/f"),
            case("sendfile", "int80:187 w={P}/g d={P}/f 0 1")
                .object("{P}/f")
                .new_object("{P}/g"),
            case("sendfile64", "int80:239 w={P}/g d={P}/f 0 1")
                .object("{P}/f")
                .new_object("{P}/g"),
            case(
                "fanotify_mark",
                "!fanotify_init 0 0 + int80:339 $0 1 0x20 0 -100 s={P}/f",
            )
            .path("{P}/f"),
            case(
                "umount",
                "!unshare 0x20000 + !mount s=none s=/ 0 0x44000 0 + !mount s=x s={P}/d s=tmpfs 0 0 + int80:22 s={P}/d",
            )
            .path("{P}/d"),
            case("setuid", "int80:23 1234"),
            case("setuid32", "int80:213 1234").field("evt.arg.uid", "1234"),
            case("setgid32", "int80:214 1234"),
            case("setreuid32", "int80:203 -1 1234"),
            case("setregid32", "int80:204 -1 1234"),
            case("setresuid32", "int80:208 1 2 3"),
            case("setresgid32", "int80:210 1 2 3"),
            case("setfsuid32", "int80:215 1234"),
            case("setfsgid32", "int80:216 1234"),
            case("setgroups32", "int80:206 0 0"),
            case("ptrace", "int80:26 16 child 0 0").field("evt.arg.request", "PTRACE_ATTACH"),
            case("kill", "int80:37 child 28").field("evt.arg.sig", "SIGWINCH"),
            case("mmap2", "int80:192 0 4096 7 0x22 -1 0"),
            case("mprotect", "!mmap 0 4096 3 0x62 -1 0 + int80:125 $0 4096 5"),
            case("memfd_create", "int80:356 s=payload 1").text("payload"),
            case("init_module", "int80:128 x=00 1 s=opts").text("opts"),
            case("delete_module", "int80:129 s=staghound_nothing 0x800").text("staghound_nothing"),
            case("unshare", "int80:310 0x4000000").field("evt.arg.flags", "CLONE_NEWUTS"),
            case("socket", "int80:359 17 3 0x300").field("evt.arg.domain", "AF_PACKET"),
            case("fcntl64", "!socket 2 1 0 + !close 0 + int80:221 $0 0 0").object(ANY),
            case("clock_settime64", "int80:404 1 v=0,0"),
            case("stime", "!setuid 1234 + int80:25 i=0"),
            case("io_uring_setup", "int80:425 1 z=120"),
        ],
    );
}
