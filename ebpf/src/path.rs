//! Walks a path from its dentry to the root of the mount namespace.
//!
//! Components are written from leaf to root, each NUL-terminated; user space turns them round. This is what the kernel
//! resolved: symbolic links, bind mounts, `..` and `/proc/self/fd` have no say in it.

use crate::{
    emit::{Buffer, Record, cut},
    kernel::{Task, read},
    offset,
};
use core::ptr::write_volatile;
use staghound_ebpf::{Loss, NAME_BYTES_MAX, PATH_BYTES_MAX, PATH_COMPONENTS_MAX, Span, flags};

/// Longest component, its NUL included (`NAME_MAX` + 1).
const COMPONENT_BYTES_MAX: u32 = 256;

/// A climb from a dentry to the root of the mount namespace, across mounts.
pub(crate) struct Climb {
    dentry: u64,
    /// `struct mount`.
    mount: u64,
    /// The dentry at which that mount ends.
    root: u64,
}

/// What the next step of a climb is about.
pub(crate) enum Step {
    /// A component of the path: its name.
    Component(u64),
    /// The mount ended, and the climb goes on where it is mounted.
    Mount,
    /// The climb ended at the root.
    Root,
    /// The climb ended at what hangs nowhere: its name.
    Detached(u64),
}

impl Climb {
    /// From a dentry on a mount (`struct vfsmount`).
    #[inline(always)]
    pub(crate) fn new(vfs_mount: u64, dentry: u64) -> Result<Self, Loss> {
        Ok(Self {
            dentry,
            mount: vfs_mount.wrapping_sub(offset!(mount_vfs) as u64),
            root: read(vfs_mount, offset!(vfs_root))?,
        })
    }

    #[inline(always)]
    pub(crate) fn step(&mut self) -> Result<Step, Loss> {
        if self.dentry == self.root {
            let parent: u64 = read(self.mount, offset!(mount_parent))?;
            if parent == self.mount {
                return Ok(Step::Root);
            }
            self.dentry = read(self.mount, offset!(mount_point))?;
            self.mount = parent;
            self.root = read(parent, offset!(mount_vfs) + offset!(vfs_root))?;
            return Ok(Step::Mount);
        }
        let parent: u64 = read(self.dentry, offset!(dentry_parent))?;
        let name: u64 = read(self.dentry, offset!(dentry_name))?;
        if parent == self.dentry {
            return Ok(Step::Detached(name));
        }
        self.dentry = parent;
        Ok(Step::Component(name))
    }
}

/// What a global function returns instead of spans when it could not read.
const FAILED: u64 = u64::MAX;

/// A span as part of what a global function returns.
#[inline(always)]
fn packed(span: Span) -> u64 {
    u64::from(span.offset) | u64::from(span.len) << 16
}

#[inline(always)]
fn unpacked(word: u64) -> Span {
    Span {
        offset: word as u16,
        len: (word >> 16) as u16,
    }
}

/// Appends the path of a dentry on a mount (`struct vfsmount`), and writes down in `member` where it lies.
#[inline(always)]
pub(crate) fn append<B>(record: &Record<B>, vfs_mount: u64, dentry: u64, member: *mut Span) -> Result<(), Loss> {
    let (vfs_mount, dentry) = (record.number(vfs_mount), record.number(dentry));
    let span = append_path(record.place(), record.fixed(), vfs_mount, dentry);
    if span == FAILED {
        return Err(Loss::ReadFailed);
    }
    // SAFETY: the caller names a member of this record's body.
    unsafe { write_volatile(member, unpacked(span)) };
    Ok(())
}

/// A global function, so that the verifier follows the climb once for each program, not once for each path and way to it.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn append_path(place: u32, fixed: u32, vfs_mount: u64, dentry: u64) -> u64 {
    let Some(buffer) = Buffer::at(place, fixed) else {
        return FAILED;
    };
    match climb(&buffer, vfs_mount, dentry) {
        Ok(()) => packed(buffer.span()),
        Err(_) => FAILED,
    }
}

#[inline(always)]
fn climb(buffer: &Buffer, vfs_mount: u64, dentry: u64) -> Result<(), Loss> {
    buffer.begin();
    let mut climb = Climb::new(vfs_mount, dentry)?;
    for _ in 0..PATH_COMPONENTS_MAX {
        match climb.step()? {
            Step::Root => return Ok(()),
            Step::Mount => {}
            Step::Component(_) | Step::Detached(_) if buffer.part_len() > PATH_BYTES_MAX - COMPONENT_BYTES_MAX => break,
            Step::Component(name) => component(buffer, name),
            Step::Detached(name) => {
                component(buffer, name);
                buffer.flag(flags::DETACHED);
                return Ok(());
            }
        }
    }
    // Without a sign, components that somebody chose would pose as a path from the root.
    buffer.ellipsis();
    cut(buffer, flags::PATH_CUT);
    Ok(())
}

#[inline(always)]
fn component(buffer: &Buffer, name: u64) {
    if buffer.kernel_string(name, COMPONENT_BYTES_MAX) == 0 {
        buffer.flag(flags::FAULT);
    }
}

/// Where a path that somebody passed lies.
#[derive(Clone, Copy)]
pub(crate) enum Name {
    /// In the memory of the process.
    User(u64),
    /// In the kernel's copy.
    Kernel(u64),
}

/// `AT_FDCWD`.
pub(crate) const CWD: i32 = -100;
/// In the same place: the root of the process. No descriptor has the number.
pub(crate) const ROOT: i32 = -101;

/// Appends a path as it was passed to the current task, and the directory it starts from. A null path is an empty one.
#[inline(always)]
pub(crate) fn append_passed<B>(
    record: &Record<B>,
    directory: i32,
    name: Name,
    (base, member): (*mut Span, *mut Span),
) -> Result<(), Loss> {
    let (name, of_kernel) = match name {
        Name::User(address) => (address, 0),
        Name::Kernel(address) => (address, 1),
    };
    let spans = append_passed_path(record.place(), record.fixed(), directory as u32, name, of_kernel);
    if spans == FAILED {
        return Err(Loss::ReadFailed);
    }
    // SAFETY: the caller names members of this record's body.
    unsafe { write_volatile(member, unpacked(spans)) };
    // SAFETY: as above.
    unsafe { write_volatile(base, unpacked(spans >> 32)) };
    Ok(())
}

/// A global function, as [`append_path`] is. Yields where the path lies, and above that where its directory does.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn append_passed_path(place: u32, fixed: u32, directory: u32, name: u64, of_kernel: u32) -> u64 {
    let Some(buffer) = Buffer::at(place, fixed) else {
        return FAILED;
    };
    buffer.begin();
    let read = if name == 0 {
        1
    } else if of_kernel == 0 {
        buffer.user_string(name, NAME_BYTES_MAX as u32)
    } else {
        buffer.kernel_string(name, NAME_BYTES_MAX as u32)
    };
    if read == 0 {
        return FAILED;
    }
    let absolute = buffer.part_len() > 0 && buffer.part_begins_with(b'/');
    let path = packed(buffer.span());
    let task = Task::current();
    let directory = directory as i32;
    // An absolute path begins at the root of the process, which chroot(2) may have moved.
    let (mount, dentry) = if absolute || directory == ROOT {
        task.root()
    } else if directory == CWD {
        task.cwd()
    } else if let Ok(file) = task.file(directory as u32) {
        match (file.mount(), file.dentry()) {
            (Ok(mount), Ok(dentry)) => (mount, dentry),
            _ => return FAILED,
        }
    } else {
        // A directory that does not exist: the call failed, and says so.
        return path;
    };
    match append_path(place, fixed, buffer.number(mount), buffer.number(dentry)) {
        FAILED => FAILED,
        base => path | base << 32,
    }
}
