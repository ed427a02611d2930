//! Files: open, rename, unlink, chmod, chdir; all at the end of their system call.

use crate::{
    SYSCALLS,
    emit::{Record, count},
    kernel::{Call, read},
    offset, path,
};
use aya_ebpf::{
    helpers::generated::bpf_ktime_get_boot_ns,
    macros::map,
    maps::{Array, PerCpuArray},
};
use core::ptr::{read_volatile, write_volatile};
use staghound_ebpf::{Action, Chdir, DEDUPE_NS, Kind, Loss, NAME_BYTES_MAX, Open, PathChange, Ring, Span, file_mode};

/// `AT_FDCWD`.
const CWD: i32 = -100;

/// Places in the table of recent opens; a power of two.
const RECENT_OPENS: u32 = 1024;

/// An open that was reported lately. Direct-mapped and per CPU: a collision costs one report too many, never one too few.
#[repr(C)]
#[derive(Clone, Copy)]
struct RecentOpen {
    dentry: u64,
    mount: u64,
    /// Thread group and exec count: an open by another image is another event.
    who: u64,
    /// Hash of the name, and how it was opened.
    how: u64,
    /// Renames until then: after one, any path may lead elsewhere.
    renames: u64,
    reported_ns: u64,
    suppressed: u64,
}

#[map]
static RECENT: PerCpuArray<RecentOpen> = PerCpuArray::with_max_entries(RECENT_OPENS, 0);

/// Element 0 counts renames that succeeded. Two at once may count as one; that it changed is what matters.
#[map]
static RENAMES: Array<u64> = Array::with_max_entries(1, 0);

/// `open`, `openat`, `openat2`, `creat`, `open_by_handle_at`: the descriptor leads to what was really opened.
#[inline(always)]
pub(crate) fn open(call: &Call) -> Result<(), Loss> {
    let descriptor = call.result as u32;
    let file = call.task.file(descriptor)?;
    let dentry = file.dentry()?;
    let mount = file.mount()?;
    let file_mode = file.mode()?;
    let open_flags = file.flags()?;
    let suppressed = if file_mode & file_mode::CREATED == 0 {
        let hash: u32 = read(dentry, offset!(dentry_hash))?;
        match recent(call, dentry, mount, hash, open_flags) {
            Recent::Reported => return Ok(()),
            Recent::Due(suppressed) => suppressed,
        }
    } else {
        0
    };

    let mut record = Record::<Open>::of_syscall()?;
    // SAFETY: the header lies in scratch memory.
    unsafe { call.describe(Kind::Open, record.header()) };
    let inode = file.inode()?;
    let fixed = Open {
        inode: inode.number()?,
        device: inode.device()?,
        mode: u32::from(inode.mode()?),
        open_flags,
        file_mode: file_mode & (file_mode::CREATED | file_mode::READ | file_mode::WRITE),
        result: call.result as i32,
        suppressed,
        ..Open::default()
    };
    let body = record.body();
    // SAFETY: the body lies in scratch memory.
    unsafe { body.write(fixed) };
    // SAFETY: as above.
    path::append(&mut record, mount, dentry, unsafe { &raw mut (*body).path })?;
    record.submit(Ring::File)
}

enum Recent {
    /// Reported lately by the same image: counted.
    Reported,
    /// To be reported, with so many equal ones counted since the last report.
    Due(u32),
}

#[inline(always)]
fn recent(call: &Call, dentry: u64, mount: u64, hash: u32, open_flags: u32) -> Recent {
    let who = u64::from(call.task.pid()) << 32 | u64::from(call.task.exec_count());
    let how = u64::from(hash) << 32 | u64::from(open_flags);
    // Fibonacci hashing: the top bits of the product are well mixed.
    let mixed = (dentry ^ who.rotate_left(17) ^ how).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let Some(slot) = RECENT.get_ptr_mut((mixed >> 40) as u32 & (RECENT_OPENS - 1)) else {
        return Recent::Due(0);
    };
    let Some(renames) = RENAMES.get_ptr(0) else {
        return Recent::Due(0);
    };
    // SAFETY: a valid map value.
    let renames = unsafe { read_volatile(renames) };
    // SAFETY: has no preconditions.
    let now = unsafe { bpf_ktime_get_boot_ns() };
    // SAFETY: a valid per-CPU map value, and programs behind sys_exit do not nest.
    let slot = unsafe { &mut *slot };
    let same =
        slot.dentry == dentry && slot.mount == mount && slot.who == who && slot.how == how && slot.renames == renames;
    if same && now.wrapping_sub(slot.reported_ns) < DEDUPE_NS {
        slot.suppressed += 1;
        count(Loss::Deduplicated);
        return Recent::Reported;
    }
    let suppressed = if same { slot.suppressed } else { 0 };
    *slot = RecentOpen {
        dentry,
        mount,
        who,
        how,
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

/// Appends a path as it was passed, and the directory it starts from.
#[inline(always)]
fn append_passed(
    record: &mut Record<PathChange>,
    call: &Call,
    (directory, address): (i32, u64),
    (base, name): (*mut Span, *mut Span),
) -> Result<(), Loss> {
    record.begin();
    if record.user_string(address, NAME_BYTES_MAX as u32) == 0 {
        return Err(Loss::ReadFailed);
    }
    let absolute = record.part_begins_with(b'/');
    record.end(name);
    // An absolute path begins at the root of the process, which chroot(2) may have moved.
    let (mount, dentry) = if absolute {
        call.task.root()
    } else if directory == CWD {
        call.task.cwd()
    } else if let Ok(file) = call.task.file(directory as u32) {
        (file.mount()?, file.dentry()?)
    } else {
        // A directory that does not exist: the call failed, and says so.
        return Ok(());
    };
    path::append(record, mount, dentry, base)
}

/// Whether a call failed because of what it was given, so that there is nothing to tell of.
#[inline(always)]
pub(crate) fn was_nonsense(call: &Call) -> bool {
    const EBADF: i64 = -9;
    const EFAULT: i64 = -14;
    const ENOTSOCK: i64 = -88;
    call.result == EBADF || call.result == EFAULT || call.result == ENOTSOCK
}

/// What the table says of this call; the tail-called programs serve several.
#[inline(always)]
pub(crate) fn action(call: &Call) -> u32 {
    let Some(actions) = SYSCALLS.get_ptr(call.number()) else {
        return 0;
    };
    // SAFETY: a valid map value.
    let actions = unsafe { read_volatile(actions) };
    (if call.compat { actions >> 8 } else { actions }) & 0xff
}

/// `rename`, `renameat`, `renameat2`.
#[inline(always)]
pub(crate) fn rename(call: &Call) -> Result<(), Loss> {
    if was_nonsense(call) {
        return Ok(());
    }
    if call.result == 0
        && let Some(renames) = RENAMES.get_ptr_mut(0)
    {
        // SAFETY: a valid map value.
        unsafe { write_volatile(renames, read_volatile(renames).wrapping_add(1)) };
    }
    let mut record = Record::<PathChange>::of_syscall()?;
    // SAFETY: the header lies in scratch memory.
    unsafe { call.describe(Kind::Rename, record.header()) };
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
    append_passed(&mut record, call, (old_directory, old), from)?;
    // SAFETY: as above.
    let to = unsafe { (&raw mut (*body).new_base, &raw mut (*body).new_name) };
    append_passed(&mut record, call, (new_directory, new), to)?;
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
    let mut record = Record::<PathChange>::of_syscall()?;
    // SAFETY: the header lies in scratch memory.
    unsafe { call.describe(kind, record.header()) };
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
    append_passed(&mut record, call, (directory, name), members)?;
    record.submit(Ring::File)
}

#[inline(always)]
fn chmod_descriptor(call: &Call) -> Result<(), Loss> {
    if was_nonsense(call) {
        return Ok(());
    }
    let file = call.task.file(call.first() as u32)?;
    let mut record = Record::<PathChange>::of_syscall()?;
    // SAFETY: the header lies in scratch memory.
    unsafe { call.describe(Kind::Chmod, record.header()) };
    let body = record.body();
    let fixed = PathChange {
        result: call.result as i32,
        argument: call.second() as u32,
        ..PathChange::default()
    };
    // SAFETY: the body lies in scratch memory.
    unsafe { body.write(fixed) };
    // SAFETY: as above.
    path::append(&mut record, file.mount()?, file.dentry()?, unsafe {
        &raw mut (*body).base
    })?;
    record.submit(Ring::File)
}

/// `chdir`, `fchdir`: keeps the process table's working directories true.
#[inline(always)]
pub(crate) fn chdir(call: &Call) -> Result<(), Loss> {
    if call.result != 0 {
        return Ok(());
    }
    let mut record = Record::<Chdir>::of_syscall()?;
    // SAFETY: the header lies in scratch memory.
    unsafe { call.describe(Kind::Chdir, record.header()) };
    let body = record.body();
    // SAFETY: the body lies in scratch memory.
    unsafe { body.write(Chdir::default()) };
    let (mount, dentry) = call.task.cwd();
    // SAFETY: as above.
    path::append(&mut record, mount, dentry, unsafe { &raw mut (*body).path })?;
    record.submit(Ring::Process)
}
