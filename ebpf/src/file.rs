//! Files: open, rename, unlink, chmod, chdir; all at the end of their system call. And which equal events are counted.

use crate::{
    SYSCALLS, demand,
    emit::{Record, count, place},
    kernel::{Call, Entry, File, Look, Task, lately_ns},
    path::{self, CWD, Name, append_passed},
};
use aya_ebpf::{
    macros::map,
    maps::{Array, PerCpuArray},
};
use core::ptr::{read_volatile, write_volatile};
use staghound_ebpf::{
    Action, Chdir, DEDUPE_NS, Kind, Loss, Open, PathChange, Ring, SyscallTable, file_mode, open_demand,
};

/// Places in the table of recent events; a power of two.
const RECENT_OPENS: u32 = 1024;

/// An event that was reported lately. Direct-mapped and per CPU: a collision costs one report too many, never one too few.
#[repr(C)]
#[derive(Clone, Copy)]
struct RecentEvent {
    object: u64,
    place: u64,
    /// Thread group, its start and exec count: an event of another image, or of a later owner of the pid, is another.
    who: u64,
    how: u64,
    /// Renames until then: after one, any path may lead elsewhere.
    renames: u64,
    reported_ns: u64,
    suppressed: u64,
}

#[map]
static RECENT: PerCpuArray<RecentEvent> = PerCpuArray::with_max_entries(RECENT_OPENS, 0);

/// Element 0 counts renames that succeeded. Two at once may count as one; that it changed is what matters.
#[map]
static RENAMES: Array<u64> = Array::with_max_entries(1, 0);

/// `open`, `openat`, `openat2`, `creat`, `open_by_handle_at`: the descriptor leads to what was really opened.
#[inline(always)]
pub(crate) fn open(call: &Call) -> Result<(), Loss> {
    if call.result < 0 {
        return refused_open(call);
    }
    let file = call.task.file(call.result as u32)?;
    let record = Record::<Open>::new(place::SYSCALL)?;
    // What is opened by a handle was found by no path: rules about it name none, and it is rare.
    let by_handle = || form(call) & SyscallTable::HANDLE != 0;
    let Some((mount, dentry)) = describe_wanted(&record, call.task, file, by_handle)? else {
        return Ok(());
    };
    call.describe(Kind::Open, &record);
    let body = record.body();
    // SAFETY: as above.
    unsafe { (*body).result = call.result as i32 };
    // SAFETY: as above.
    path::append(&record, mount, dentry, unsafe { &raw mut (*body).path })?;
    record.submit(Ring::File)
}

/// Fills the body of an open from the file, and yields its place: mount and dentry. None when nobody wants it, or an equal one
/// was reported lately.
#[inline(always)]
pub(crate) fn describe_open(record: &Record<Open>, task: Task, file: File) -> Result<Option<(u64, u64)>, Loss> {
    describe_wanted(record, task, file, || false)
}

#[inline(always)]
fn describe_wanted(
    record: &Record<Open>,
    task: Task,
    file: File,
    is_always: impl Fn() -> bool,
) -> Result<Option<(u64, u64)>, Loss> {
    // SAFETY: so much is there.
    let Look {
        mode,
        flags,
        mount,
        dentry,
        inode,
    } = unsafe { file.look(record.aside()) }?;
    // Numbered as the engine does: read, write, created. A file opened as a mere place is as good as read.
    let access = mode & 3 | u32::from(mode & file_mode::CREATED != 0) << 2;
    let access = if access == 0 { file_mode::READ } else { access };
    // Most opens end here: nothing before this may cost much.
    let demand = demand::of(access);
    if demand == open_demand::NONE && !is_always() {
        count(Loss::Unwanted);
        return Ok(None);
    }
    // SAFETY: as above.
    let entry = unsafe { Entry::of(dentry, record.aside()) }?;
    if demand == open_demand::NAMES && !demand::is_named(mount, dentry, &entry, access, renames())? && !is_always() {
        count(Loss::Unwanted);
        return Ok(None);
    }
    let mut suppressed = 0;
    if mode & file_mode::CREATED == 0 {
        let key = Key {
            object: dentry,
            place: mount,
            how: u64::from(entry.hash) << 32 | u64::from(flags),
        };
        match recent(task, &key) {
            Recent::Reported => return Ok(None),
            Recent::Due(equal) => suppressed = equal,
        }
    }
    let fixed = Open {
        inode: inode.number()?,
        device: inode.device()?,
        mode: u32::from(inode.mode()?),
        open_flags: flags,
        file_mode: mode & (file_mode::CREATED | file_mode::READ | file_mode::WRITE),
        suppressed,
        layer: inode.layer()?,
        ..Open::default()
    };
    // SAFETY: the body lies in scratch memory.
    unsafe { record.body().write(fixed) };
    Ok(Some((mount, dentry)))
}

/// An open that was not allowed, or failed otherwise where a rule asks for that. No file tells what it led to; so the path is what was passed.
#[inline(always)]
fn refused_open(call: &Call) -> Result<(), Loss> {
    if was_nonsense(call) {
        return Ok(());
    }
    let form = form(call);
    let (directory, name) = if form & SyscallTable::HANDLE != 0 {
        return Ok(());
    } else if form & SyscallTable::AT != 0 {
        (call.first() as i32, call.second())
    } else {
        (CWD, call.first())
    };
    let record = Record::<Open>::new(place::SYSCALL)?;
    call.describe(Kind::Open, &record);
    let body = record.body();
    // SAFETY: as above.
    unsafe {
        body.write(Open {
            result: call.result as i32,
            ..Open::default()
        });
    }
    // SAFETY: as above.
    let members = unsafe { (&raw mut (*body).path, &raw mut (*body).name) };
    append_passed(&record, directory, Name::User(name), members)?;
    record.submit(Ring::File)
}

/// What makes two events of one process image equal.
pub(crate) struct Key {
    /// What it is about, such as the address of a dentry.
    pub(crate) object: u64,
    /// What else it is about, such as the mount.
    pub(crate) place: u64,
    pub(crate) how: u64,
}

pub(crate) enum Recent {
    /// Reported lately by the same image: counted.
    Reported,
    /// To be reported, with so many equal ones counted since the last report.
    Due(u32),
}

#[inline(always)]
pub(crate) fn recent(task: Task, key: &Key) -> Recent {
    let image = u64::from(task.pid()) << 32 | u64::from(task.exec_count());
    let who = image ^ task.start_ns().wrapping_mul(0x9e37_79b9_7f4a_7c15);
    // Fibonacci hashing: the top bits of the product are well mixed.
    let mixed = (key.object ^ who.rotate_left(17) ^ key.how).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let Some(slot) = RECENT.get_ptr_mut((mixed >> 40) as u32 & (RECENT_OPENS - 1)) else {
        return Recent::Due(0);
    };
    let renames = renames();
    let now = lately_ns();
    // SAFETY: a valid per-CPU map value, and programs behind sys_exit do not nest.
    let slot = unsafe { &mut *slot };
    let same = slot.object == key.object
        && slot.place == key.place
        && slot.who == who
        && slot.how == key.how
        && slot.renames == renames;
    if same && now.wrapping_sub(slot.reported_ns) < DEDUPE_NS {
        slot.suppressed += 1;
        count(Loss::Deduplicated);
        return Recent::Reported;
    }
    let suppressed = if same { slot.suppressed } else { 0 };
    *slot = RecentEvent {
        object: key.object,
        place: key.place,
        who,
        how: key.how,
        renames,
        reported_ns: now,
        suppressed: 0,
    };
    Recent::Due(if suppressed > u64::from(u32::MAX) {
        u32::MAX
    } else {
        suppressed as u32
    })
}

/// How often names have changed.
#[inline(always)]
fn renames() -> u64 {
    // SAFETY: a valid map value.
    RENAMES
        .get_ptr(0)
        .map_or(0, |renames| unsafe { read_volatile(renames) })
}

/// Counts a change of names: from then on any path may lead elsewhere.
#[inline(always)]
pub(crate) fn note_rename() {
    if let Some(renames) = RENAMES.get_ptr_mut(0) {
        // SAFETY: a valid map value.
        unsafe { write_volatile(renames, read_volatile(renames).wrapping_add(1)) };
    }
}

/// Whether a call failed because of what it was given, so that there is nothing to tell of.
#[inline(always)]
pub(crate) fn was_nonsense(call: &Call) -> bool {
    const EBADF: i64 = -9;
    const EFAULT: i64 = -14;
    const ENOTSOCK: i64 = -88;
    call.result == EBADF || call.result == EFAULT || call.result == ENOTSOCK
}

/// Which form a call has that several share, as bits of [`SyscallTable`].
#[inline(always)]
fn form(call: &Call) -> u32 {
    let Some(actions) = SYSCALLS.get_ptr(call.number()) else {
        return 0;
    };
    // SAFETY: a valid map value.
    let forms = unsafe { read_volatile(actions) } & !0xffff;
    if call.compat { forms >> 1 } else { forms }
}

/// Whether the call of this number submits to io_uring.
#[inline(always)]
pub(crate) fn is_io_uring_enter(number: u32, compat: bool) -> bool {
    let Some(actions) = SYSCALLS.get_ptr(number) else {
        return false;
    };
    // SAFETY: a valid map value.
    let forms = unsafe { read_volatile(actions) };
    (if compat { forms >> 1 } else { forms }) & SyscallTable::IO_URING != 0
}

/// What the table says of this call; the tail-called programs serve several.
#[inline(always)]
pub(crate) fn action(call: &Call) -> u32 {
    action_of(call.number(), call.compat)
}

/// What the table says of a call by its number.
#[inline(always)]
pub(crate) fn action_of(number: u32, compat: bool) -> u32 {
    let Some(actions) = SYSCALLS.get_ptr(number) else {
        return 0;
    };
    // SAFETY: a valid map value.
    let actions = unsafe { read_volatile(actions) };
    (if compat { actions >> 8 } else { actions }) & 0xff
}

/// `rename`, `renameat`, `renameat2`.
#[inline(always)]
pub(crate) fn rename(call: &Call) -> Result<(), Loss> {
    if was_nonsense(call) {
        return Ok(());
    }
    if call.result == 0 {
        note_rename();
    }
    let record = Record::<PathChange>::new(place::SYSCALL)?;
    call.describe(Kind::Rename, &record);
    let at = action(call) == Action::RenameAt as u32;
    let (old_directory, old, new_directory, new) = if at {
        (call.first() as i32, call.second(), call.third() as i32, call.fourth())
    } else {
        (CWD, call.first(), CWD, call.second())
    };
    let body = record.body();
    let argument = if at { call.fifth() as u32 } else { 0 };
    // SAFETY: the body lies in scratch memory.
    unsafe {
        body.write(PathChange {
            result: call.result as i32,
            argument,
            ..PathChange::default()
        });
    }
    // SAFETY: as above.
    let from = unsafe { (&raw mut (*body).base, &raw mut (*body).name) };
    append_passed(&record, old_directory, Name::User(old), from)?;
    // SAFETY: as above.
    let to = unsafe { (&raw mut (*body).new_base, &raw mut (*body).new_name) };
    append_passed(&record, new_directory, Name::User(new), to)?;
    record.submit(Ring::File)
}

/// `unlink`, `unlinkat`, `rmdir`.
#[inline(always)]
pub(crate) fn unlink(call: &Call) -> Result<(), Loss> {
    let at = action(call) == Action::UnlinkAt as u32;
    let (directory, name, argument) = if at {
        (call.first() as i32, call.second(), call.third() as u32)
    } else {
        (CWD, call.first(), 0)
    };
    one_path(call, Kind::Unlink, directory, name, argument)
}

/// `chmod`, `fchmod`, `fchmodat`, `fchmodat2`.
#[inline(always)]
pub(crate) fn chmod(call: &Call) -> Result<(), Loss> {
    let action = action(call);
    if action == Action::ChmodDescriptor as u32 {
        return chmod_descriptor(call);
    }
    let (directory, name, mode) = if action == Action::ChmodAt as u32 {
        (call.first() as i32, call.second(), call.third() as u32)
    } else {
        (CWD, call.first(), call.second() as u32)
    };
    one_path(call, Kind::Chmod, directory, name, mode)
}

#[inline(always)]
fn one_path(call: &Call, kind: Kind, directory: i32, name: u64, argument: u32) -> Result<(), Loss> {
    if was_nonsense(call) {
        return Ok(());
    }
    let record = Record::<PathChange>::new(place::SYSCALL)?;
    call.describe(kind, &record);
    let body = record.body();
    // SAFETY: the body lies in scratch memory.
    unsafe {
        body.write(PathChange {
            result: call.result as i32,
            argument,
            ..PathChange::default()
        });
    }
    // SAFETY: as above.
    let members = unsafe { (&raw mut (*body).base, &raw mut (*body).name) };
    append_passed(&record, directory, Name::User(name), members)?;
    record.submit(Ring::File)
}

#[inline(always)]
fn chmod_descriptor(call: &Call) -> Result<(), Loss> {
    if was_nonsense(call) {
        return Ok(());
    }
    let file = call.task.file(call.first() as u32)?;
    let record = Record::<PathChange>::new(place::SYSCALL)?;
    call.describe(Kind::Chmod, &record);
    let body = record.body();
    let fixed = PathChange {
        result: call.result as i32,
        argument: call.second() as u32,
        ..PathChange::default()
    };
    // SAFETY: the body lies in scratch memory.
    unsafe { body.write(fixed) };
    // SAFETY: as above.
    path::append(&record, file.mount()?, file.dentry()?, unsafe { &raw mut (*body).base })?;
    record.submit(Ring::File)
}

/// `chdir`, `fchdir`: keeps the process table's working directories true.
#[inline(always)]
pub(crate) fn chdir(call: &Call) -> Result<(), Loss> {
    if call.result != 0 {
        return Ok(());
    }
    let record = Record::<Chdir>::new(place::SYSCALL)?;
    call.describe(Kind::Chdir, &record);
    let body = record.body();
    // SAFETY: the body lies in scratch memory.
    unsafe { body.write(Chdir::default()) };
    let (mount, dentry) = call.task.cwd();
    // SAFETY: as above.
    path::append(&record, mount, dentry, unsafe { &raw mut (*body).path })?;
    record.submit(Ring::Process)
}
