//! Walks a path from its dentry to the root of the mount namespace.
//!
//! Components are written from leaf to root, each NUL-terminated; user space turns them round. This is what the kernel
//! resolved: symbolic links, bind mounts, `..` and `/proc/self/fd` have no say in it.

use crate::{
    emit::{Record, cut},
    kernel::read,
    offset,
};
use staghound_ebpf::{Loss, PATH_BYTES_MAX, PATH_COMPONENTS_MAX, Span, flags};

/// Longest component, its NUL included (`NAME_MAX` + 1).
const COMPONENT_BYTES_MAX: u32 = 256;

/// Appends the path of a dentry on a mount (`struct vfsmount`), and writes down in `member` where it lies.
#[inline(always)]
pub(crate) fn append<B>(record: &mut Record<B>, vfs_mount: u64, dentry: u64, member: *mut Span) -> Result<(), Loss> {
    record.begin();
    let mut dentry = dentry;
    let mut mount = vfs_mount.wrapping_sub(offset!(mount_vfs) as u64);
    let mut root: u64 = read(vfs_mount, offset!(vfs_root))?;
    for _ in 0..PATH_COMPONENTS_MAX {
        if dentry == root {
            let parent: u64 = read(mount, offset!(mount_parent))?;
            if parent == mount {
                record.end(member);
                return Ok(());
            }
            dentry = read(mount, offset!(mount_point))?;
            mount = parent;
            root = read(mount, offset!(mount_vfs) + offset!(vfs_root))?;
            continue;
        }
        if record.part_len() > PATH_BYTES_MAX - COMPONENT_BYTES_MAX {
            break;
        }
        let parent: u64 = read(dentry, offset!(dentry_parent))?;
        let name: u64 = read(dentry, offset!(dentry_name))?;
        if record.kernel_string(name, COMPONENT_BYTES_MAX) == 0 {
            record.flag(flags::FAULT);
        }
        if parent == dentry {
            record.flag(flags::DETACHED);
            record.end(member);
            return Ok(());
        }
        dentry = parent;
    }
    // Without a sign, components that somebody chose would pose as a path from the root.
    record.ellipsis();
    cut(record, flags::PATH_CUT);
    record.end(member);
    Ok(())
}
