//! Paths as the kernel resolved them, from LSM hooks: they run just before the kernel acts, so that neither another
//! thread nor a symbolic link can make the record tell of another file.

use crate::{
    emit::Record,
    file,
    kernel::{File, Task, read},
    offset, path, wanted,
};
use staghound_ebpf::{Action, Kind, Loss, Open, Resolved, Ring, flags};

/// A path: `struct vfsmount *` and `struct dentry *`.
type Place = (u64, u64);

/// What a `struct path *` points to.
#[inline(always)]
pub(crate) fn place(path: *const u8) -> Result<Place, Loss> {
    Ok((
        read(path as u64, offset!(path_mount))?,
        read(path as u64, offset!(path_dentry))?,
    ))
}

/// An entry of a directory that is given as a `struct path *`.
#[inline(always)]
pub(crate) fn entry(directory: *const u8, dentry: *const u8) -> Result<Place, Loss> {
    Ok((read(directory as u64, offset!(path_mount))?, dentry as u64))
}

/// Whether the call under way is one whose record these paths complete. An open that makes or truncates its file comes by
/// here too, and so does a call that nobody wants.
#[inline(always)]
fn completes_a_record(task: Task) -> bool {
    let Some(number) = task.current_call() else {
        return true;
    };
    let action = file::action_of(number as u32, task.is_compat());
    action != 0 && action != Action::Open as u32
}

/// Reports one place, or two.
#[inline(always)]
pub(crate) fn report(at: u32, first: Result<Place, Loss>, second: Option<Result<Place, Loss>>) -> Result<(), Loss> {
    let task = Task::current();
    if !wanted(task.pid()) || !completes_a_record(task) {
        return Ok(());
    }
    let record = Record::<Resolved>::new(at)?;
    record.describe(Kind::Resolved);
    let body = record.body();
    // SAFETY: as above.
    unsafe { body.write(Resolved::default()) };
    let (mount, dentry) = first?;
    // SAFETY: as above.
    path::append(&record, mount, dentry, unsafe { &raw mut (*body).path })?;
    if let Some(second) = second {
        let (mount, dentry) = second?;
        // SAFETY: as above.
        path::append(&record, mount, dentry, unsafe { &raw mut (*body).new_path })?;
    }
    record.submit(Ring::File)
}

/// `file_open(file)`, for what io_uring opens: no call ends that would show it.
#[inline(always)]
pub(crate) fn open(at: u32, file: *const u8) -> Result<(), Loss> {
    let task = Task::current();
    let by_io_uring = task.is_io_worker()
        || task
            .current_call()
            .is_some_and(|number| file::is_io_uring_enter(number as u32, task.is_compat()));
    if !by_io_uring || !wanted(task.pid()) {
        return Ok(());
    }
    let file = File::at(file as u64);
    let record = Record::<Open>::new(at)?;
    let Some((mount, dentry)) = file::describe_open(&record, task, file)? else {
        return Ok(());
    };
    record.describe(Kind::Open);
    record.flag(flags::IO_URING | flags::RESULT_UNKNOWN);
    let body = record.body();
    // SAFETY: the body lies in scratch memory.
    path::append(&record, mount, dentry, unsafe { &raw mut (*body).path })?;
    record.submit(Ring::File)
}
