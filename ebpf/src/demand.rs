//! Which opens any loaded rule can want, so that the others cost neither a record nor a walk.
//!
//! Every rule about opens either wants all of an access or implies that the path has one of some names: a component, or
//! what the last component ends with from its last dot on. Whether the directory of a file has such a name is remembered.

use crate::{
    kernel::{Entry, lately_ns, read},
    offset,
    path::{Climb, Step},
};
use aya_ebpf::{
    helpers::generated::bpf_probe_read_kernel_str,
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
static WANTED_NAMES: HashMap<Key, u32> = HashMap::with_max_entries(WANTED_NAMES_MAX, 0);

/// Places in each table of what was looked at; a power of two.
const LOOKED_MAX: u32 = 1024;

/// A file or a directory whose path was looked at lately.
#[repr(C)]
#[derive(Clone, Copy)]
struct Looked {
    dentry: u64,
    mount: u64,
    /// Hashes of its name and of its parent's: the address alone may be another's by now.
    hashes: u64,
    renames: u64,
    looked_ns: u64,
    /// Accesses for which it is wanted: itself, or any file in it.
    accesses: u64,
}

#[map]
static FILES: PerCpuArray<Looked> = PerCpuArray::with_max_entries(LOOKED_MAX, 0);

#[map]
static DIRECTORIES: PerCpuArray<Looked> = PerCpuArray::with_max_entries(LOOKED_MAX, 0);

impl Looked {
    /// What was found out about this one, if it was looked at lately and is what it was.
    #[inline(always)]
    fn found(&self, which: &Which) -> Option<u32> {
        let holds = self.dentry == which.dentry
            && self.mount == which.mount
            && self.hashes == which.hashes
            && self.renames == which.renames
            && lately_ns().wrapping_sub(self.looked_ns) < DEDUPE_NS;
        holds.then_some(self.accesses as u32)
    }

    /// Until [`Self::is_about`] it is about nothing: another program may run on this processor meanwhile.
    #[inline(always)]
    fn forget(&mut self) {
        self.dentry = 0;
        self.accesses = 0;
    }

    #[inline(always)]
    fn is_about(&mut self, which: &Which) {
        self.mount = which.mount;
        self.hashes = which.hashes;
        self.renames = which.renames;
        self.looked_ns = lately_ns();
        self.dentry = which.dentry;
    }
}

/// What tells one file or directory from others.
struct Which {
    dentry: u64,
    mount: u64,
    hashes: u64,
    renames: u64,
}

impl Which {
    /// Its place in the table.
    #[inline(always)]
    fn place(&self) -> u32 {
        let mixed = (self.dentry ^ self.hashes).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (mixed >> 40) as u32 & (LOOKED_MAX - 1)
    }
}

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

/// Which opens of an access are wanted, as [`open_demand`] has it; `access` as `engine::demand::Access` numbers it.
#[inline(always)]
pub(crate) fn of(access: u32) -> u32 {
    let element = |index: u32| {
        // SAFETY: a valid map value.
        OPEN_WANTED
            .get_ptr(index)
            .map_or(open_demand::ALL, |value| unsafe { read_volatile(value) })
    };
    if element(OPEN_ACCESSES) == 0 {
        return open_demand::ALL;
    }
    element(access & (OPEN_ACCESSES - 1))
}

/// Whether the names in a file's path make an open of it wanted.
#[inline(always)]
pub(crate) fn is_named(mount: u64, dentry: u64, entry: &Entry, access: u32, renames: u64) -> Result<bool, Loss> {
    let which = Which {
        dentry,
        mount,
        hashes: u64::from(entry.hash) << 32 | u64::from(read::<u32>(entry.parent, offset!(dentry_hash))?),
        renames,
    };
    let Some(slot) = FILES.get_ptr_mut(which.place()) else {
        return Ok(true);
    };
    // SAFETY: a valid per-CPU value, and programs behind sys_exit do not nest.
    let slot = unsafe { &mut *slot };
    let accesses = if let Some(accesses) = slot.found(&which) {
        accesses
    } else {
        slot.forget();
        let accesses = of_name(entry.name) | directory(entry.parent, mount, renames)?;
        slot.accesses = u64::from(accesses);
        slot.is_about(&which);
        accesses
    };
    Ok(accesses & 1 << (access & (OPEN_ACCESSES - 1)) != 0)
}

/// Whether a rule is about opens that fail, for whatever reason.
#[inline(always)]
pub(crate) fn wants_failures() -> bool {
    // SAFETY: a valid map value.
    OPEN_WANTED
        .get_ptr(OPEN_DEMAND - 1)
        .is_some_and(|value| unsafe { read_volatile(value) } != open_demand::NONE)
}

/// Key of [`WANTED_NAMES`], as words: bytes would be written one by one.
type Key = [u64; NAME_KEY_BYTES / 8];

/// Accesses for which a name makes a path wanted.
#[inline(always)]
fn lookup(key: Key) -> u32 {
    // SAFETY: a valid map value.
    WANTED_NAMES
        .get_ptr(key)
        .map_or(0, |bits| unsafe { read_volatile(bits) })
}

/// Accesses for which a name makes the path of whatever is below it wanted.
#[inline(always)]
fn component(name: u64) -> u32 {
    let mut key: Key = [0; _];
    // SAFETY: the helper writes at most the key's length.
    let read = unsafe { bpf_probe_read_kernel_str(key.as_mut_ptr().cast(), NAME_KEY_BYTES as u32, name as *const _) };
    if read < 0 { u32::MAX } else { lookup(key) & 0xffff }
}

/// Accesses for which the name of a file makes its path wanted, as a component or by what it ends with. A global function,
/// as `path::append_path` is.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn of_name(name: u64) -> u32 {
    component(name) | ending(name)
}

#[inline(always)]
fn ending(name: u64) -> u32 {
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
    if at == NO_DOT {
        return 0;
    }
    let mut key: Key = [0; _];
    // SAFETY: the helper writes at most the key's length.
    let read =
        unsafe { bpf_probe_read_kernel_str(key.as_mut_ptr().cast(), NAME_KEY_BYTES as u32, (name + at) as *const _) };
    if read < 0 { u32::MAX } else { lookup(key) >> 16 }
}

/// Accesses for which any file in a directory is wanted.
#[inline(always)]
fn directory(dentry: u64, mount: u64, renames: u64) -> Result<u32, Loss> {
    let which = Which {
        dentry,
        mount,
        hashes: u64::from(read::<u32>(dentry, offset!(dentry_hash))?) << 32,
        renames,
    };
    let place = which.place();
    let Some(slot) = DIRECTORIES.get_ptr_mut(place) else {
        return Ok(u32::MAX);
    };
    // SAFETY: a valid per-CPU value, and programs behind sys_exit do not nest.
    let slot = unsafe { &mut *slot };
    if let Some(accesses) = slot.found(&which) {
        return Ok(accesses);
    }
    slot.forget();
    if add_accesses(place, dentry, mount) != 0 {
        return Err(Loss::ReadFailed);
    }
    slot.is_about(&which);
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
