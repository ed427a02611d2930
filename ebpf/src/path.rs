//! Walks a path from its dentry to the root of the mount namespace.
//!
//! Components are written from leaf to root, each NUL-terminated; user space turns them round. This is what the kernel
//! resolved: symbolic links, bind mounts, `..` and `/proc/self/fd` have no say in it.

use crate::{
    emit::{Record, cut},
    kernel::{Task, read},
    offset,
};
use staghound_ebpf::{Loss, PATH_BYTES_MAX, PATH_COMPONENTS_MAX, Span, flags};

/// Longest component, its NUL included (`NAME_MAX` + 1).
const COMPONENT_BYTES_MAX: u32 = 256;

/// Appends the path of a dentry on a mount (`struct vfsmount`).
#[inline(always)]
pub(crate) fn append<B>(record: &mut Record<B>, vfs_mount: u64, dentry: u64) -> Result<Span, Loss> {
    let start = record.used();
    let mut dentry = dentry;
    let mut mount = vfs_mount.wrapping_sub(offset!(mount_vfs) as u64);
    let mut root: u64 = read(vfs_mount, offset!(vfs_root))?;
    for _ in 0..PATH_COMPONENTS_MAX {
        if dentry == root {
            let parent: u64 = read(mount, offset!(mount_parent))?;
            if parent == mount {
                return Ok(record.span_from(start));
            }
            dentry = read(mount, offset!(mount_point))?;
            mount = parent;
            root = read(mount, offset!(mount_vfs) + offset!(vfs_root))?;
            continue;
        }
        if record.used() - start > PATH_BYTES_MAX - COMPONENT_BYTES_MAX {
            break;
        }
        let parent: u64 = read(dentry, offset!(dentry_parent))?;
        let name: u64 = read(dentry, offset!(dentry_name))?;
        record.kernel_string(name, COMPONENT_BYTES_MAX);
        if parent == dentry {
            record.flag(flags::DETACHED);
            return Ok(record.span_from(start));
        }
        dentry = parent;
    }
    cut(record, flags::PATH_CUT);
    Ok(record.span_from(start))
}

/// Appends the working directory of a task.
#[inline(always)]
pub(crate) fn append_cwd<B>(record: &mut Record<B>, task: Task) -> Result<Span, Loss> {
    let (mount, dentry) = task.cwd();
    append(record, mount, dentry)
}
