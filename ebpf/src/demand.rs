//! Which opens any loaded rule can want, so that the others cost neither a record nor a walk.
//!
//! Every rule about opens either wants all of an access or implies that the path has one of some names: a component, or
//! what the last component ends with from its last dot on. Whether the directory of a file has such a name is remembered.

use crate::{
    kernel::{File, read},
    offset,
    path::{Climb, Step},
};
use aya_ebpf::{
    helpers::generated::{bpf_ktime_get_boot_ns, bpf_probe_read_kernel_str},
    macros::map,
    maps::{Array, HashMap, PerCpuArray},
};
use core::ptr::read_volatile;
use staghound_ebpf::{
    DEDUPE_NS, Loss, NAME_KEY_BYTES, OPEN_ACCESSES, OPEN_DEMAND, PATH_COMPONENTS_MAX, WANTED_NAMES_MAX, open_demand,
};

/// By access (`engine::demand::Access::index`): one of [`open_demand`]. The element after them is 1 while this holds.
#[map]
static OPEN_WANTED: Array<u32> = Array::with_max_entries(OPEN_DEMAND, 0);

/// Names that make a path wanted, cut and filled up to their key: in the low half the accesses for which a component of
/// this name does, in the high half those for which the last component's ending does.
#[map]
static WANTED_NAMES: HashMap<[u8; NAME_KEY_BYTES], u32> = HashMap::with_max_entries(WANTED_NAMES_MAX, 0);

/// Places in the table of directories; a power of two.
const DIRECTORIES_MAX: u32 = 1024;

/// A directory whose path was looked at lately.
#[repr(C)]
#[derive(Clone, Copy)]
struct Directory {
    dentry: u64,
    mount: u64,
    /// Hash of its name: the address alone may be another directory's by now.
    hash: u64,
    renames: u64,
    looked_ns: u64,
    /// Accesses for which a file in it is wanted.
    accesses: u64,
}

#[map]
static DIRECTORIES: PerCpuArray<Directory> = PerCpuArray::with_max_entries(DIRECTORIES_MAX, 0);

/// Longest name that is looked at for its ending (`NAME_MAX` + 1).
const NAME_BYTES: usize = 256;
/// Longest ending that is looked for, its dot included.
const ENDING_BYTES: usize = 15;

/// A name that is looked at.
#[repr(C)]
struct Text {
    bytes: [u8; NAME_BYTES],
    /// Where its last dot is. Kept here and not in a register: each place would be a state of its own to the verifier, and a
    /// walk of its own behind it.
    dot: u64,
}

/// No place in a name.
const NO_DOT: u64 = u64::MAX;

#[map]
static NAME: PerCpuArray<Text> = PerCpuArray::with_max_entries(1, 0);

/// Whether an open of this file can be wanted; `access` as `engine::demand::Access` numbers it.
#[inline(always)]
pub(crate) fn is_wanted(file: File, access: u32, renames: u64) -> Result<bool, Loss> {
    let element = |index: u32| {
        // SAFETY: a valid map value.
        OPEN_WANTED
            .get_ptr(index)
            .map_or(open_demand::ALL, |value| unsafe { read_volatile(value) })
    };
    if element(OPEN_ACCESSES) == 0 {
        return Ok(true);
    }
    match element(access & (OPEN_ACCESSES - 1)) {
        open_demand::NONE => return Ok(false),
        open_demand::NAMES => {}
        _ => return Ok(true),
    }
    let dentry = file.dentry()?;
    let bit = 1_u32 << (access & (OPEN_ACCESSES - 1));
    let name: u64 = read(dentry, offset!(dentry_name))?;
    if component(name) & bit != 0 || ending(name) & bit != 0 {
        return Ok(true);
    }
    let mount = file.mount()?;
    Ok(directory(read(dentry, offset!(dentry_parent))?, mount, renames)? & bit != 0)
}

/// Whether a rule is about opens that fail, for whatever reason.
#[inline(always)]
pub(crate) fn wants_failures() -> bool {
    // SAFETY: a valid map value.
    OPEN_WANTED
        .get_ptr(OPEN_DEMAND - 1)
        .is_some_and(|value| unsafe { read_volatile(value) } != open_demand::NONE)
}

/// Accesses for which a name makes a path wanted.
#[inline(always)]
fn lookup(address: u64) -> u32 {
    let mut key = [0_u8; NAME_KEY_BYTES];
    // SAFETY: the helper writes at most the key's length.
    let read =
        unsafe { bpf_probe_read_kernel_str(key.as_mut_ptr().cast(), NAME_KEY_BYTES as u32, address as *const _) };
    if read < 0 {
        return u32::MAX;
    }
    // SAFETY: a valid map value.
    WANTED_NAMES
        .get_ptr(key)
        .map_or(0, |bits| unsafe { read_volatile(bits) })
}

#[inline(always)]
fn component(name: u64) -> u32 {
    lookup(name) & 0xffff
}

/// Accesses for which what a name ends with makes its path wanted. A global function, as `path::append_path` is.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn ending(name: u64) -> u32 {
    let Some(text) = NAME.get_ptr_mut(0) else {
        return u32::MAX;
    };
    // SAFETY: a valid per-CPU value that begins with so many bytes.
    let read = unsafe { bpf_probe_read_kernel_str(text.cast(), NAME_BYTES as u32, name as *const _) };
    if read <= 1 {
        return 0;
    }
    let len = read as usize - 1;
    // SAFETY: a valid per-CPU value.
    let dot = unsafe { &raw mut (*text).dot };
    // SAFETY: as above.
    unsafe { dot.write_volatile(NO_DOT) };
    for back in (1..=ENDING_BYTES).rev() {
        let index = len.wrapping_sub(back) & (NAME_BYTES - 1);
        // SAFETY: the index is below the length.
        let byte = unsafe { read_volatile(text.cast::<u8>().add(index)) };
        if byte == b'.' && back <= len {
            // The last of them stays.
            // SAFETY: as above.
            unsafe { dot.write_volatile(index as u64) };
        }
    }
    // SAFETY: as above.
    let at = unsafe { dot.read_volatile() };
    if at == NO_DOT { 0 } else { lookup(name + at) >> 16 }
}

/// Accesses for which any file in a directory is wanted.
#[inline(always)]
fn directory(dentry: u64, mount: u64, renames: u64) -> Result<u32, Loss> {
    let hash = u64::from(read::<u32>(dentry, offset!(dentry_hash))?);
    let mixed = (dentry ^ hash << 32).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let place = (mixed >> 40) as u32 & (DIRECTORIES_MAX - 1);
    let Some(slot) = DIRECTORIES.get_ptr_mut(place) else {
        return Ok(u32::MAX);
    };
    // SAFETY: has no preconditions.
    let now = unsafe { bpf_ktime_get_boot_ns() };
    // SAFETY: a valid per-CPU value, and programs behind sys_exit do not nest.
    let slot = unsafe { &mut *slot };
    if slot.dentry == dentry
        && slot.mount == mount
        && slot.hash == hash
        && slot.renames == renames
        && now.wrapping_sub(slot.looked_ns) < DEDUPE_NS
    {
        return Ok(slot.accesses as u32);
    }
    slot.accesses = 0;
    slot.dentry = dentry;
    slot.mount = mount;
    slot.hash = hash;
    slot.renames = renames;
    slot.looked_ns = now;
    if add_accesses(place, dentry, mount) != 0 {
        return Err(Loss::ReadFailed);
    }
    // SAFETY: a valid per-CPU value.
    Ok(unsafe { read_volatile(&raw const slot.accesses) } as u32)
}

/// Adds up the accesses of every component. What cannot be walked to its end is wanted. A global function, as
/// `path::append_path` is; yields 1 when something could not be read.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn add_accesses(place: u32, dentry: u64, mount: u64) -> u32 {
    let Some(slot) = DIRECTORIES.get_ptr_mut(place) else {
        return 1;
    };
    // SAFETY: a valid per-CPU value.
    let accesses = unsafe { &raw mut (*slot).accesses };
    u32::from(walk(dentry, mount, accesses).is_err())
}

#[inline(always)]
fn walk(dentry: u64, mount: u64, accesses: *mut u64) -> Result<(), Loss> {
    // Kept in map memory, as the length of a record is: a register would make each turn a new state to the verifier.
    let add = |bits: u32| {
        // SAFETY: a valid per-CPU value.
        unsafe { accesses.write_volatile(accesses.read_volatile() | u64::from(bits)) };
    };
    let mut climb = Climb::new(mount, dentry)?;
    for _ in 0..PATH_COMPONENTS_MAX {
        match climb.step()? {
            Step::Root => return Ok(()),
            Step::Mount => {}
            Step::Component(name) => add(component(name)),
            Step::Detached(_) => break,
        }
    }
    add(u32::MAX);
    Ok(())
}
