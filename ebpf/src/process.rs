//! Life of processes: exec, fork, exit.

use crate::{
    SCOPE, SETTINGS, agent, constant,
    emit::{self, Buffer, Record, count, cut, place},
    in_scope,
    kernel::{File, Inode, Task, follow, load},
    offset, path, socket, wanted,
};
use aya_ebpf::{
    helpers::generated::bpf_probe_read_user_str,
    macros::map,
    maps::{HashMap, PerCpuArray},
    programs::{BtfTracePointContext, LsmContext},
};
use core::ptr::{read_volatile, write_volatile};
use staghound_ebpf::{
    ABSENT, ARGS_BYTES_MAX, ENV_BYTES_MAX, ENV_NAMES_ALIKE_MAX, ENV_NAMES_MAX, ENV_SCANNED_MAX, ENV_VALUE_BYTES_MAX,
    Ends, EnvName, Exec, Exit, Fork, Header, Kind, Loss, NAME_BYTES_MAX, Ring, Stdio, exec_flags, flags, open_layer,
};

/// One environment variable being looked at, aligned so that its name can be compared by words.
#[repr(C, align(8))]
pub(crate) struct Variable {
    text: [u64; ENV_VALUE_BYTES_MAX / 8],
    /// 1 when the text goes on a variable that was too long for one read: no name begins here. Kept here for the
    /// verifier's sake, like the length of a record.
    continued: u64,
}

/// Allow-listed names by their first four bytes; the agent fills it before anything is attached.
#[map]
static ENV_NAMES: HashMap<u32, [EnvName; ENV_NAMES_ALIKE_MAX]> = HashMap::with_max_entries(ENV_NAMES_MAX as u32, 0);

#[map]
static VARIABLE: PerCpuArray<Variable> = PerCpuArray::with_max_entries(1, 0);

/// `sched_process_exec(task, old_pid, bprm)`: the new image is in place, its arguments lie on the new stack.
#[inline(always)]
pub(crate) fn exec(ctx: &BtfTracePointContext) -> Result<(), Loss> {
    let task = Task::argument(ctx, 0);
    if !in_scope(task.pid()) {
        return Ok(());
    }
    let bprm: *const u8 = ctx.arg(2);
    let record = Record::<Exec>::new(place::EXEC)?;
    record.describe(Kind::Exec);

    let body = record.body();
    // SAFETY: `bprm` is the tracepoint's `struct linux_binprm *`.
    let file = File::at(unsafe { load(bprm, offset!(bprm_file)) });
    let inode = file.inode()?;
    let namespaces = task.namespaces();
    let memory = task.memory();
    let arg_start: u64 = follow(memory, offset!(mm_arg_start));
    let arg_end: u64 = follow(memory, offset!(mm_arg_end));
    let args_bytes = arg_end.wrapping_sub(arg_start);
    let fixed = Exec {
        inode: inode.number()?,
        changed_ns: inode.changed_ns()?,
        modified_ns: inode.modified_ns()?,
        device: inode.device()?,
        nlink: inode.links()?,
        mode: u32::from(inode.mode()?),
        owner: inode.owner()?,
        owner_group: inode.group()?,
        exec_flags: exec_flags(task, inode)? | by_descriptor(bprm),
        mount_namespace: namespaces.mount,
        pid_namespace: namespaces.pid,
        network_namespace: namespaces.network,
        user_namespace: namespaces.user,
        args_bytes: if args_bytes > u64::from(u32::MAX) {
            u32::MAX
        } else {
            args_bytes as u32
        },
        tty: task.tty(),
        ids: task.ids()?,
        ..Exec::default()
    };
    // SAFETY: the body lies in scratch memory.
    unsafe { body.write(fixed) };
    for descriptor in 0..3 {
        if let Ok(file) = task.file(descriptor) {
            // SAFETY: as above, and the index is below three.
            let stdio = unsafe { &mut (*body).stdio[descriptor as usize] };
            describe_stdio(file, stdio)?;
        }
    }

    // SAFETY: as above; and for the members below.
    path::append(&record, file.mount()?, file.dentry()?, unsafe {
        &raw mut (*body).executable
    })?;
    let (mount, dentry) = task.cwd();
    // SAFETY: as above.
    path::append(&record, mount, dentry, unsafe { &raw mut (*body).cwd })?;
    record.begin();
    // SAFETY: `bprm` as above.
    record.kernel_string(unsafe { load(bprm, offset!(bprm_filename)) }, 1024);
    // SAFETY: as above.
    record.end(unsafe { &raw mut (*body).filename });
    record.begin();
    // SAFETY: `bprm` as above.
    record.kernel_string(unsafe { load(bprm, offset!(bprm_interpreter)) }, 1024);
    // SAFETY: as above.
    record.end(unsafe { &raw mut (*body).interpreter });
    record.begin();
    append_env(&record, task);
    // SAFETY: as above.
    record.end(unsafe { &raw mut (*body).env });

    record.begin();
    if args_bytes > ARGS_BYTES_MAX as u64 {
        cut(&record, flags::ARGS_CUT);
    }
    if args_bytes > 0 && !record.user_bytes::<{ ARGS_BYTES_MAX as u32 }>(arg_start, args_bytes) {
        record.flag(flags::FAULT);
    }
    // SAFETY: as above.
    record.end(unsafe { &raw mut (*body).args });
    record.submit(Ring::Process)
}

/// Bits of [`Exec::exec_flags`].
#[inline(always)]
fn exec_flags(task: Task, inode: Inode) -> Result<u32, Loss> {
    let layer = inode.layer()?;
    let mut bits = if layer & open_layer::UPPER != 0 {
        exec_flags::UPPER_LAYER
    } else if layer & open_layer::LOWER != 0 {
        exec_flags::LOWER_LAYER
    } else {
        0
    };
    // What the kernel gave with the image: other effective ids, or capabilities that no ambient set explains.
    let cred = task.cred();
    let uid: u32 = follow(cred, offset!(cred_uid));
    let gid: u32 = follow(cred, offset!(cred_gid));
    let raised: u64 = follow::<u64>(cred, offset!(cred_capabilities)) & !follow::<u64>(cred, offset!(cred_ambient));
    if uid != follow(cred, offset!(cred_euid)) || gid != follow(cred, offset!(cred_egid)) || (uid != 0 && raised != 0) {
        bits |= exec_flags::SECURE;
    }
    Ok(bits)
}

/// Whether it came by a descriptor: only then the kernel made up a path for it. By the time of the tracepoint the number of
/// the call is that of `execve`, whichever it was.
#[inline(always)]
fn by_descriptor(bprm: *const u8) -> u32 {
    let at = offset!(bprm_descriptor_path);
    // SAFETY: `bprm` is the tracepoint's `struct linux_binprm *`.
    if at == ABSENT as usize || unsafe { load::<u64>(bprm, at) } == 0 {
        0
    } else {
        exec_flags::BY_DESCRIPTOR
    }
}

#[inline(always)]
fn describe_stdio(file: File, stdio: &mut Stdio) -> Result<(), Loss> {
    let inode = file.inode()?;
    stdio.mode = inode.mode()?;
    stdio.device = inode.is_device()?;
    stdio.inode = inode.number()? as u32;
    if let Some(sock) = socket::of_file(file)? {
        let mut ends = Ends::default();
        socket::ends(sock, &mut ends)?;
        stdio.family = ends.family;
        stdio.remote_port = ends.remote_port;
        stdio.remote = ends.remote;
    }
    Ok(())
}

/// Appends the allow-listed variables. Each is read alone, so that the others never leave the kernel.
#[inline(always)]
fn append_env(record: &Record<Exec>, task: Task) {
    let memory = task.memory();
    let mut at: u64 = follow(memory, offset!(mm_env_start));
    let end: u64 = follow(memory, offset!(mm_env_end));
    for _ in 0..ENV_SCANNED_MAX {
        if at >= end {
            return;
        }
        match append_variable(record.fixed(), at) {
            variable::FAULT => {
                record.flag(flags::FAULT);
                return;
            }
            variable::NO_ROOM => break,
            read => at += read,
        }
    }
    cut(record, flags::ENV_CUT);
}

/// What [`append_variable`] yields, if not how many bytes the variable has.
mod variable {
    pub(super) const FAULT: u64 = 0;
    pub(super) const NO_ROOM: u64 = u64::MAX;
}

/// Reads one variable and appends it if it is listed. A global function, which the verifier looks at once and not in each
/// turn of the loop.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn append_variable(fixed: u32, at: u64) -> u64 {
    let (Some(variable), Some(buffer)) = (VARIABLE.get_ptr_mut(0), Buffer::at(place::EXEC, fixed)) else {
        return variable::NO_ROOM;
    };
    // SAFETY: `variable` has that many bytes; the helper checks the source.
    let read = unsafe { bpf_probe_read_user_str(variable.cast(), ENV_VALUE_BYTES_MAX as u32, at as *const _) };
    if read <= 0 {
        return variable::FAULT;
    }
    // SAFETY: a valid per-CPU value.
    let continued = unsafe { read_volatile(&raw const (*variable).continued) };
    if continued == 0 && is_listed(variable) {
        if buffer.part_len() >= (ENV_BYTES_MAX - ENV_VALUE_BYTES_MAX) as u32 {
            return variable::NO_ROOM;
        }
        buffer.user_string(at, ENV_VALUE_BYTES_MAX as u32);
    }
    let full = read as usize == ENV_VALUE_BYTES_MAX;
    if full {
        buffer.flag(flags::ENV_CUT);
    }
    // SAFETY: a valid per-CPU value.
    unsafe { write_volatile(&raw mut (*variable).continued, u64::from(full)) };
    read as u64
}

/// Whether a name is allow-listed: by its first four bytes, then by those names that begin so.
#[inline(always)]
fn is_listed(variable: *const Variable) -> bool {
    // SAFETY: a valid map value, larger than that.
    let words = unsafe { read_volatile(variable.cast::<[u64; 3]>()) };
    let Some(names) = ENV_NAMES.get_ptr(words[0] as u32) else {
        return false;
    };
    // Compared without branches, so that the verifier has one state to go on with.
    let mut all_differ = u64::MAX;
    for index in 0..ENV_NAMES_ALIKE_MAX {
        // SAFETY: a valid map value, and the index is below its length.
        let name = unsafe { read_volatile((*names).as_ptr().add(index)) };
        let difference = ((words[0] & name.mask[0]) ^ name.value[0])
            | ((words[1] & name.mask[1]) ^ name.value[1])
            | ((words[2] & name.mask[2]) ^ name.value[2]);
        // The top bit is set exactly when they differ.
        all_differ &= difference | difference.wrapping_neg();
    }
    all_differ >> 63 == 0
}

#[repr(C)]
struct ForkRecord {
    header: Header,
    body: Fork,
}

/// `sched_process_fork(parent, child)`: the child exists and has not run yet.
#[inline(always)]
pub(crate) fn fork(ctx: &BtfTracePointContext) -> Result<(), Loss> {
    let parent = Task::argument(ctx, 0);
    let child = Task::argument(ctx, 1);
    let child_pid = child.pid();
    if child_pid == parent.pid() || !in_scope(parent.pid()) {
        return Ok(());
    }
    if constant(&SETTINGS.scoped) != 0 && SCOPE.insert(child_pid, 1, 0).is_err() {
        count(Loss::ScopeFull);
    }
    let namespaces = child.namespaces();
    let mut record = ForkRecord {
        header: Header::default(),
        body: Fork {
            child_start_ns: child.start_ns(),
            child_pid,
            child_ppid: child.parent_pid(),
            mount_namespace: namespaces.mount,
            pid_namespace: namespaces.pid,
            new_namespaces: parent.namespaces_not_shared(child)?,
            reserved: 0,
            ids: child.ids()?,
        },
    };
    // SAFETY: the header is ours.
    unsafe { parent.describe(Kind::Fork as u32, &raw mut record.header) };
    // SAFETY: the record begins with a header, and both parts are free of padding by construction.
    unsafe { emit::submit(Ring::Process, &mut record) }
}

#[repr(C)]
struct ExitRecord {
    header: Header,
    body: Exit,
}

/// `sched_process_exit(task)`: reported when the last thread of the group goes.
#[inline(always)]
pub(crate) fn exit(ctx: &BtfTracePointContext) -> Result<(), Loss> {
    let task = Task::argument(ctx, 0);
    let signal = task.signal();
    let live: i32 = follow(signal, offset!(signal_live));
    let pid = task.pid();
    // The count was taken down before the tracepoint (kernel/exit.c, do_exit, 5.10 to 7.x).
    if live != 0 || !wanted(pid) {
        return Ok(());
    }
    if constant(&SETTINGS.scoped) != 0 {
        // Absent only if the map was full when it was made, which was counted then.
        let _absent = SCOPE.remove(pid);
    }
    let group: u32 = follow(signal, offset!(signal_group_exit_code));
    let own = task.exit_code();
    let mut record = ExitRecord {
        header: Header::default(),
        body: Exit {
            status: if group != 0 { group } else { own },
            reserved: 0,
        },
    };
    // SAFETY: the header is ours.
    unsafe { task.describe(Kind::Exit as u32, &raw mut record.header) };
    // SAFETY: as for `ForkRecord`.
    unsafe { emit::submit(Ring::Process, &mut record) }
}

/// `EPERM`, as a hook refuses.
const REFUSED: i32 = -1;

/// Whether somebody other than the agent, its own threads and the first process acts on the agent.
#[inline(always)]
fn is_attack_on_agent(target: Task) -> bool {
    let agent = agent(0);
    let actor = Task::current().pid();
    agent != 0 && target.pid() == agent && actor != agent && actor != 1
}

/// `task_kill(target, info, signal, cred)`: refuses the signals that no process can handle. What the kernel itself sends
/// (`info` is `SEND_SIG_PRIV`, 1) passes.
#[inline(always)]
pub(crate) fn refuse_signal(ctx: &LsmContext) -> i32 {
    const SIGKILL: i32 = 9;
    const SIGSTOP: i32 = 19;
    let signal: i32 = ctx.arg(2);
    let target = Task::of_hook(ctx, 0);
    let deadly = signal == SIGKILL || signal == SIGSTOP;
    if deadly && ctx.arg::<u64>(1) != 1 && is_attack_on_agent(target) {
        REFUSED
    } else {
        0
    }
}

/// `ptrace_access_check(child, mode)`.
#[inline(always)]
pub(crate) fn refuse_trace(ctx: &LsmContext) -> i32 {
    /// `PTRACE_MODE_ATTACH`.
    const ATTACH: u32 = 2;
    if ctx.arg::<u32>(1) & ATTACH != 0 && is_attack_on_agent(Task::of_hook(ctx, 0)) {
        REFUSED
    } else {
        0
    }
}

const _: () = assert!(NAME_BYTES_MAX <= 8 * 1024);
