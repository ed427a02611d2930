//! Reads kernel structs by the offsets that the agent resolved.
//!
//! A pointer whose BTF type the verifier knows (tracepoint arguments, the current task, and what they point to) is
//! loaded from directly, which is nearly free; any other costs a helper call of some 25 ns.

use crate::{
    SETTINGS, constant,
    emit::{Buffer, Record},
    offset,
};
use aya_ebpf::{
    helpers::generated::{
        bpf_get_current_cgroup_id, bpf_get_current_task, bpf_get_current_task_btf, bpf_jiffies64,
        bpf_ktime_get_boot_ns, bpf_probe_read_kernel, bpf_task_pt_regs,
    },
    programs::{BtfTracePointContext, LsmContext},
};
use core::{mem::MaybeUninit, ptr::read_volatile};
use staghound_ebpf::{ABSENT, COMM_BYTES, Header, Ids, Kind, Loss, flags, open_layer};

/// Set in the number of a system call made through the x32 ABI (`__X32_SYSCALL_BIT`).
pub(crate) const X32_BIT: u64 = 0x4000_0000;

/// Set in `thread_info.status` during a 32-bit system call (`TS_COMPAT`, arch/x86/include/asm/thread_info.h).
const TS_COMPAT: u32 = 0x0002;

/// Loads through a pointer of known BTF type; yields zero where the pointer is null.
///
/// # Safety
/// `base` must come from such a pointer, and `offset` from [`offset!`].
#[inline(always)]
pub(crate) unsafe fn load<T: Copy>(base: *const u8, offset: usize) -> T {
    // SAFETY: the verifier checks the access against the BTF type; a fault yields zero.
    unsafe { read_volatile(base.add(offset).cast::<T>()) }
}

/// Loads through a pointer that leads from the current task or from a task of a tracepoint; yields zero where it is null.
///
/// Before 5.11 a program has the current task as a bare address only, and must read with the helper.
#[inline(always)]
pub(crate) fn follow<T: Copy>(base: *const u8, offset: usize) -> T {
    if constant(&SETTINGS.task_pointers) != 0 {
        // SAFETY: such pointers have BTF types that the verifier knows.
        unsafe { load(base, offset) }
    } else if let Ok(value) = read(base as u64, offset) {
        value
    } else {
        // SAFETY: only numbers, arrays of them and pointers are asked for, of which all zeros are values.
        unsafe { MaybeUninit::zeroed().assume_init() }
    }
}

/// Reads from any kernel address.
#[inline(always)]
pub(crate) fn read<T: Copy>(address: u64, offset: usize) -> Result<T, Loss> {
    let mut value = MaybeUninit::<T>::uninit();
    let source = (address as *const u8).wrapping_add(offset);
    // SAFETY: the helper checks the source address and writes all of `value` or fails.
    let status = unsafe { bpf_probe_read_kernel(value.as_mut_ptr().cast(), size_of::<T>() as u32, source.cast()) };
    if status < 0 {
        return Err(Loss::ReadFailed);
    }
    // SAFETY: the helper succeeded.
    Ok(unsafe { value.assume_init() })
}

/// Reads from any kernel address to where it is wanted: an array that is passed on goes through as many registers as it
/// has bytes, and these through the stack.
///
/// # Safety
/// `to` must be valid for writes.
#[inline(always)]
pub(crate) unsafe fn read_to<T: Copy>(to: *mut T, address: u64, offset: usize) -> Result<(), Loss> {
    let source = (address as *const u8).wrapping_add(offset);
    // SAFETY: the helper checks the source address; the caller vouches for `to`.
    let status = unsafe { bpf_probe_read_kernel(to.cast(), size_of::<T>() as u32, source.cast()) };
    if status < 0 { Err(Loss::ReadFailed) } else { Ok(()) }
}

/// A clock to tell whether something was lately, to a tick of some milliseconds. The kernel's count of ticks is one load;
/// reading the exact time takes as long as all else that is done for an open that nobody wants.
#[inline(always)]
pub(crate) fn lately_ns() -> u64 {
    let tick_ns = constant(&SETTINGS.tick_ns);
    if tick_ns == 0 {
        // SAFETY: has no preconditions.
        unsafe { bpf_ktime_get_boot_ns() }
    } else {
        // SAFETY: as above.
        unsafe { bpf_jiffies64() }.wrapping_mul(u64::from(tick_ns))
    }
}

/// A task of known BTF type.
#[derive(Clone, Copy)]
pub(crate) struct Task(*const u8);

impl Task {
    #[inline(always)]
    pub(crate) fn current() -> Self {
        if constant(&SETTINGS.task_pointers) != 0 {
            // SAFETY: has no preconditions.
            Self(unsafe { bpf_get_current_task_btf() }.cast())
        } else {
            // SAFETY: as above.
            Self(unsafe { bpf_get_current_task() } as *const u8)
        }
    }

    /// A task given as a tracepoint's argument.
    #[inline(always)]
    pub(crate) fn argument(ctx: &BtfTracePointContext, index: usize) -> Self {
        Self(ctx.arg(index))
    }

    /// A task given as an LSM hook's argument.
    #[inline(always)]
    pub(crate) fn of_hook(ctx: &LsmContext, index: usize) -> Self {
        Self(ctx.arg(index))
    }

    #[inline(always)]
    fn get<T: Copy>(self, offset: usize) -> T {
        follow(self.0, offset)
    }

    #[inline(always)]
    pub(crate) fn pid(self) -> u32 {
        self.get(offset!(task_tgid))
    }

    #[inline(always)]
    pub(crate) fn tid(self) -> u32 {
        self.get(offset!(task_pid))
    }

    #[inline(always)]
    pub(crate) fn parent_pid(self) -> u32 {
        Self(self.get(offset!(task_real_parent))).pid()
    }

    /// When the leader of the thread group started, in nanoseconds since boot.
    #[inline(always)]
    pub(crate) fn start_ns(self) -> u64 {
        Self(self.get(offset!(task_group_leader))).get(offset!(task_start))
    }

    #[inline(always)]
    pub(crate) fn exit_code(self) -> u32 {
        self.get(offset!(task_exit_code))
    }

    #[inline(always)]
    pub(crate) fn exec_count(self) -> u32 {
        self.get(offset!(task_exec_count))
    }

    #[inline(always)]
    pub(crate) fn signal(self) -> *const u8 {
        self.get(offset!(task_signal))
    }

    #[inline(always)]
    pub(crate) fn memory(self) -> *const u8 {
        self.get(offset!(task_mm))
    }

    #[inline(always)]
    pub(crate) fn is_compat(self) -> bool {
        let at = offset!(task_thread_status);
        if at == ABSENT as usize {
            return false;
        }
        self.get::<u32>(at) & TS_COMPAT != 0
    }

    /// Its namespaces.
    #[inline(always)]
    pub(crate) fn namespaces(self) -> Namespaces {
        let proxy: *const u8 = self.get(offset!(task_nsproxy));
        let cred: *const u8 = self.get(offset!(task_cred));
        Namespaces {
            mount: follow(follow(proxy, offset!(nsproxy_mount)), offset!(mount_namespace_number)),
            pid: follow(follow(proxy, offset!(nsproxy_pid)), offset!(pid_namespace_number)),
            network: follow(follow(proxy, offset!(nsproxy_network)), offset!(network_number)),
            user: follow(
                follow(cred, offset!(cred_user_namespace)),
                offset!(user_namespace_number),
            ),
        }
    }

    /// Namespaces that another task does not share with this one, as `CLONE_NEW*` bits.
    #[inline(always)]
    pub(crate) fn namespaces_not_shared(self, other: Self) -> Result<u32, Loss> {
        // Without branches: each would double what older verifiers have to go through. Read as numbers, since they let
        // nobody calculate with pointers.
        let differ = |member: usize, of: *const u8, from: *const u8| -> Result<u32, Loss> {
            let difference = read::<u64>(of as u64, member)? ^ read::<u64>(from as u64, member)?;
            // The top bit is set exactly when there is one. The compiler must not take it for a comparison.
            Ok(((difference | core::hint::black_box(difference).wrapping_neg()) >> 63) as u32)
        };
        let user = differ(
            offset!(cred_user_namespace),
            self.get(offset!(task_cred)),
            other.get(offset!(task_cred)),
        )? << 28;
        let mine: *const u8 = self.get(offset!(task_nsproxy));
        let theirs: *const u8 = other.get(offset!(task_nsproxy));
        if mine as u64 == theirs as u64 {
            return Ok(user);
        }
        Ok(user
            | differ(offset!(nsproxy_mount), mine, theirs)? << 17
            | differ(offset!(nsproxy_cgroup), mine, theirs)? << 25
            | differ(offset!(nsproxy_uts), mine, theirs)? << 26
            | differ(offset!(nsproxy_ipc), mine, theirs)? << 27
            | differ(offset!(nsproxy_pid), mine, theirs)? << 29
            | differ(offset!(nsproxy_network), mine, theirs)? << 30)
    }

    /// Numbers of the process that others share with it.
    #[inline(always)]
    pub(crate) fn ids(self) -> Result<Ids, Loss> {
        // Places in `signal_struct.pids` (`enum pid_type`, include/linux/pid_types.h, since 4.19).
        const THREAD_GROUP: usize = 1;
        const GROUP: usize = 2;
        const SESSION: usize = 3;
        let of = |signal: u64, which: usize| read::<u64>(signal, offset!(signal_pids) + 8 * which);
        let signal = self.signal() as u64;
        let pid = of(signal, THREAD_GROUP)?;
        let group = of(signal, GROUP)?;
        let session = of(signal, SESSION)?;
        let level: u32 = read(pid, offset!(pid_level))?;
        let parent = of(Self(self.get(offset!(task_real_parent))).signal() as u64, THREAD_GROUP)?;
        Ok(Ids {
            session: number(session, 0)?,
            group: number(group, 0)?,
            own_pid: number(pid, level)?,
            own_ppid: number(parent, level)?,
            own_session: number(session, level)?,
            own_group: number(group, level)?,
        })
    }

    /// Its thread group, as its own pid namespace numbers it.
    #[inline(always)]
    pub(crate) fn own_number(self) -> Result<u32, Loss> {
        let pid: u64 = read(self.signal() as u64, offset!(signal_pids) + 8)?;
        number(pid, read(pid, offset!(pid_level))?)
    }

    #[inline(always)]
    pub(crate) fn flags(self) -> u32 {
        self.get(offset!(task_flags))
    }

    /// Its registers at the entry to the kernel. Needs [`staghound_ebpf::Settings::task_registers`].
    #[inline(always)]
    pub(crate) fn registers(self) -> *const u8 {
        // SAFETY: a task of known BTF type.
        unsafe { bpf_task_pt_regs(self.0.cast_mut().cast()) as *const u8 }
    }

    /// Whether io_uring works for it in the background.
    #[inline(always)]
    pub(crate) fn is_io_worker(self) -> bool {
        /// `PF_IO_WORKER` (include/linux/sched.h).
        const IO_WORKER: u32 = 0x10;
        self.flags() & IO_WORKER != 0
    }

    /// The same for kernels that do not show registers. They lie at the top of the stack, whose size no type tells; that
    /// they are there is told by the segment of user code in them.
    #[inline(always)]
    fn call_on_stack(self) -> Option<u64> {
        /// `THREAD_SIZE` (arch/x86/include/asm/page_64_types.h, since 3.15), but for kernels built to find their own bugs.
        const STACK_BYTES: u64 = 16 << 10;
        /// `__USER_CS` and `__USER32_CS`.
        const USER_SEGMENTS: [u64; 2] = [0x33, 0x23];
        let top = self.get::<u64>(offset!(task_stack)).wrapping_add(STACK_BYTES);
        let registers = top.wrapping_sub(offset!(regs_bytes) as u64);
        let segment: u64 = read(registers, offset!(regs_code_segment)).ok()?;
        let number: u64 = read(registers, offset!(regs_number)).ok()?;
        (segment == USER_SEGMENTS[0] || segment == USER_SEGMENTS[1]).then_some(number & !X32_BIT)
    }

    /// Number of the system call it is in, as its ABI counts; unknown where the kernel does not show registers.
    #[inline(always)]
    pub(crate) fn current_call(self) -> Option<u64> {
        if constant(&SETTINGS.task_registers) == 0 {
            return self.call_on_stack();
        }
        // SAFETY: a `struct pt_regs *` of known type.
        Some(unsafe { load::<u64>(self.registers(), offset!(regs_number)) } & !X32_BIT)
    }

    #[inline(always)]
    pub(crate) fn cred(self) -> *const u8 {
        self.get(offset!(task_cred))
    }

    /// Controlling terminal, as `/proc/PID/stat` numbers it (`new_encode_dev`, include/linux/kdev_t.h); 0 for none.
    #[inline(always)]
    pub(crate) fn tty(self) -> u32 {
        let tty: *const u8 = follow(self.signal(), offset!(signal_tty));
        if tty.is_null() {
            return 0;
        }
        let driver: *const u8 = follow(tty, offset!(tty_driver));
        let index: u32 = follow(tty, offset!(tty_index));
        let major: u32 = follow(driver, offset!(driver_major));
        let first: u32 = follow(driver, offset!(driver_minor));
        let minor = first.wrapping_add(index);
        (minor & 0xff) | (major << 8) | ((minor & !0xff) << 12)
    }

    /// Working directory: its mount and its dentry.
    #[inline(always)]
    pub(crate) fn cwd(self) -> (u64, u64) {
        self.directory(offset!(fs_pwd))
    }

    /// Root directory, likewise.
    #[inline(always)]
    pub(crate) fn root(self) -> (u64, u64) {
        self.directory(offset!(fs_root))
    }

    #[inline(always)]
    fn directory(self, path: usize) -> (u64, u64) {
        let fs: *const u8 = self.get(offset!(task_fs));
        (
            follow(fs, path + offset!(path_mount)),
            follow(fs, path + offset!(path_dentry)),
        )
    }

    /// The open file behind a descriptor.
    #[inline(always)]
    pub(crate) fn file(self, descriptor: u32) -> Result<File, Loss> {
        let files: *const u8 = self.get(offset!(task_files));
        let table: *const u8 = follow(files, offset!(files_table));
        let max: u32 = follow(table, offset!(table_max));
        let array: u64 = follow(table, offset!(table_files));
        if descriptor >= max {
            return Err(Loss::DescriptorGone);
        }
        match read::<u64>(array + u64::from(descriptor) * 8, 0)? {
            0 => Err(Loss::DescriptorGone),
            address => Ok(File(address)),
        }
    }

    /// Fills a record's header; `flags`, `syscall` and `len` stay the caller's.
    ///
    /// # Safety
    /// `header` must be valid for writes.
    #[inline(always)]
    pub(crate) unsafe fn describe(self, kind: u32, header: *mut Header) {
        let cred: *const u8 = self.get(offset!(task_cred));
        let login = offset!(task_login_uid);
        // SAFETY: the caller vouches for `header`; `cred` has a known BTF type; the helpers have no preconditions.
        #[expect(clippy::multiple_unsafe_ops_per_block, reason = "one plain list of stores")]
        unsafe {
            (*header).time_ns = bpf_ktime_get_boot_ns();
            (*header).start_ns = self.start_ns();
            (*header).cgroup_id = bpf_get_current_cgroup_id();
            (*header).capabilities = follow(cred, offset!(cred_capabilities));
            (*header).permitted = follow(cred, offset!(cred_permitted));
            (*header).kind = kind as u16;
            (*header).flags = 0;
            (*header).len = 0;
            (*header).pid = self.pid();
            (*header).tid = self.tid();
            (*header).ppid = self.parent_pid();
            (*header).exec_count = self.exec_count();
            (*header).uid = follow(cred, offset!(cred_uid));
            (*header).euid = follow(cred, offset!(cred_euid));
            (*header).gid = follow(cred, offset!(cred_gid));
            (*header).egid = follow(cred, offset!(cred_egid));
            (*header).login_uid = if login == ABSENT as usize {
                u32::MAX
            } else {
                self.get(login)
            };
            (*header).syscall = 0;
            (*header).comm = self.get::<[u8; COMM_BYTES]>(offset!(task_comm));
        }
    }
}

/// Fills the header of a record in scratch memory, `shift` bytes behind its beginning, as for the current task.
///
/// A global function, which the verifier looks at once for each program and not on each of its ways: to it a pointer that
/// leads from a task costs up to a millisecond each time (6.4 to 7.x look a type up by its name among all).
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn describe_current(place: u32, shift: u32, kind: u32) -> u32 {
    let Some(buffer) = Buffer::at(place, shift) else {
        return 1;
    };
    // SAFETY: the fixed part of scratch memory is followed by more than a header.
    let header = unsafe { buffer.header().cast::<u8>().add(buffer.fixed() as usize) }.cast();
    // SAFETY: as above.
    unsafe { Task::current().describe(kind, header) };
    0
}

/// What such a file is called where it is anonymous, its NUL included.
const PIDFD: u64 = u64::from_ne_bytes(*b"[pidfd]\0");

/// The number of a `struct pid` at a level of nested pid namespaces; 0 where it has none there.
#[inline(always)]
fn number(pid: u64, level: u32) -> Result<u32, Loss> {
    /// `MAX_PID_NS_LEVEL`.
    const LEVEL_MAX: u32 = 32;
    let levels: u32 = read(pid, offset!(pid_level))?;
    if level > levels || level > LEVEL_MAX {
        return Ok(0);
    }
    read(pid, offset!(pid_numbers) + level as usize * offset!(upid_bytes))
}

/// Numbers of namespaces.
pub(crate) struct Namespaces {
    pub(crate) mount: u32,
    pub(crate) pid: u32,
    pub(crate) network: u32,
    pub(crate) user: u32,
}

/// An open file, by address.
#[derive(Clone, Copy)]
pub(crate) struct File(u64);

impl File {
    /// A file given by a pointer that was loaded.
    #[inline(always)]
    pub(crate) fn at(address: u64) -> Self {
        Self(address)
    }

    #[inline(always)]
    pub(crate) fn mount(self) -> Result<u64, Loss> {
        read(self.0, offset!(file_path) + offset!(path_mount))
    }

    #[inline(always)]
    pub(crate) fn dentry(self) -> Result<u64, Loss> {
        read(self.0, offset!(file_path) + offset!(path_dentry))
    }

    #[inline(always)]
    pub(crate) fn mode(self) -> Result<u32, Loss> {
        read(self.0, offset!(file_mode))
    }

    #[inline(always)]
    pub(crate) fn flags(self) -> Result<u32, Loss> {
        read(self.0, offset!(file_flags))
    }

    #[inline(always)]
    pub(crate) fn private(self) -> Result<u64, Loss> {
        read(self.0, offset!(file_private))
    }

    /// What an open is told by, by way of `aside`: its members lie close together, and one long read costs little more than
    /// one of a word.
    ///
    /// # Safety
    /// `aside` must be valid for writes of [`LOOK_BYTES`].
    #[inline(always)]
    pub(crate) unsafe fn look(self, aside: *mut u8) -> Result<Look, Loss> {
        let (mode, flags, inode) = (offset!(file_mode), offset!(file_flags), offset!(file_inode));
        let mount = offset!(file_path) + offset!(path_mount);
        let dentry = offset!(file_path) + offset!(path_dentry);
        let from = least(least(mode, flags), least(inode, least(mount, dentry)));
        let to = most(most(mode, flags) + 4, most(inode, most(mount, dentry)) + 8);
        if to - from > LOOK_BYTES {
            return Ok(Look {
                mode: self.mode()?,
                flags: self.flags()?,
                mount: self.mount()?,
                dentry: self.dentry()?,
                inode: self.inode()?,
            });
        }
        let source = (self.0 as *const u8).wrapping_add(from);
        // SAFETY: the helper checks the source; the caller vouches for `aside`.
        if unsafe { bpf_probe_read_kernel(aside.cast(), (to - from) as u32, source.cast()) } < 0 {
            return Err(Loss::ReadFailed);
        }
        // SAFETY: all of them lie in what was read, aligned as in the struct that begins at a multiple of eight.
        unsafe {
            Ok(Look {
                mode: read_volatile(aside.add(mode - from).cast()),
                flags: read_volatile(aside.add(flags - from).cast()),
                mount: read_volatile(aside.add(mount - from).cast()),
                dentry: read_volatile(aside.add(dentry - from).cast()),
                inode: Inode(read_volatile(aside.add(inode - from).cast())),
            })
        }
    }

    #[inline(always)]
    pub(crate) fn inode(self) -> Result<Inode, Loss> {
        Ok(Inode(read(self.0, offset!(file_inode))?))
    }

    /// The process that it stands for, by its number in the initial pid namespace; 0 when it stands for none.
    #[inline(always)]
    pub(crate) fn process(self) -> Result<u32, Loss> {
        /// `PID_FS_MAGIC`, since 6.9; `ANON_INODE_FS_MAGIC` before.
        const PID_FS: u64 = 0x5049_4446;
        const ANONYMOUS: u64 = 0x0904_1934;
        let inode: u64 = read(self.0, offset!(file_inode))?;
        let magic: u64 = read(read(inode, offset!(inode_super))?, offset!(super_magic))?;
        let pid: u64 = if magic == PID_FS {
            read(inode, offset!(inode_private))?
        } else if magic == ANONYMOUS && read::<u64>(read(self.dentry()?, offset!(dentry_name))?, 0)? == PIDFD {
            self.private()?
        } else {
            return Ok(0);
        };
        if pid == 0 { Ok(0) } else { number(pid, 0) }
    }
}

/// Most bytes of a `struct file` from the first member that is looked at to the end of the last: 96 at most from 5.10 to 7.x.
pub(crate) const LOOK_BYTES: usize = 128;

/// What an open is told by.
pub(crate) struct Look {
    pub(crate) mode: u32,
    pub(crate) flags: u32,
    pub(crate) mount: u64,
    pub(crate) dentry: u64,
    pub(crate) inode: Inode,
}

/// What a file is told by where it lies.
pub(crate) struct Entry {
    pub(crate) parent: u64,
    /// Address of its name.
    pub(crate) name: u64,
    /// Of its name and of where its parent is in memory.
    pub(crate) hash: u32,
}

impl Entry {
    /// Of a dentry, by way of `aside`.
    ///
    /// # Safety
    /// As for [`File::look`].
    #[inline(always)]
    pub(crate) unsafe fn of(dentry: u64, aside: *mut u8) -> Result<Self, Loss> {
        let (parent, name, hash) = (offset!(dentry_parent), offset!(dentry_name), offset!(dentry_hash));
        let from = least(parent, least(name, hash));
        let to = most(most(parent, name) + 8, hash + 4);
        if to - from > LOOK_BYTES {
            return Ok(Self {
                parent: read(dentry, parent)?,
                name: read(dentry, name)?,
                hash: read(dentry, hash)?,
            });
        }
        let source = (dentry as *const u8).wrapping_add(from);
        // SAFETY: the helper checks the source; the caller vouches for `aside`.
        if unsafe { bpf_probe_read_kernel(aside.cast(), (to - from) as u32, source.cast()) } < 0 {
            return Err(Loss::ReadFailed);
        }
        // SAFETY: as in `File::look`.
        unsafe {
            Ok(Self {
                parent: read_volatile(aside.add(parent - from).cast()),
                name: read_volatile(aside.add(name - from).cast()),
                hash: read_volatile(aside.add(hash - from).cast()),
            })
        }
    }
}

/// `Ord::min` of constants, without the call.
#[inline(always)]
fn least(one: usize, other: usize) -> usize {
    if one < other { one } else { other }
}

#[inline(always)]
fn most(one: usize, other: usize) -> usize {
    if one < other { other } else { one }
}

/// An inode, by address.
#[derive(Clone, Copy)]
pub(crate) struct Inode(u64);

impl Inode {
    #[inline(always)]
    pub(crate) fn number(self) -> Result<u64, Loss> {
        read(self.0, offset!(inode_number))
    }

    #[inline(always)]
    pub(crate) fn mode(self) -> Result<u16, Loss> {
        read(self.0, offset!(inode_mode))
    }

    #[inline(always)]
    pub(crate) fn links(self) -> Result<u32, Loss> {
        read(self.0, offset!(inode_links))
    }

    #[inline(always)]
    pub(crate) fn owner(self) -> Result<u32, Loss> {
        read(self.0, offset!(inode_owner))
    }

    #[inline(always)]
    pub(crate) fn group(self) -> Result<u32, Loss> {
        read(self.0, offset!(inode_group))
    }

    /// Device number of a device file.
    #[inline(always)]
    pub(crate) fn is_device(self) -> Result<u32, Loss> {
        read(self.0, offset!(inode_rdev))
    }

    /// When it was last changed, in nanoseconds since 1970.
    #[inline(always)]
    pub(crate) fn changed_ns(self) -> Result<u64, Loss> {
        self.time(offset!(inode_changed), offset!(inode_changed_ns))
    }

    /// When its data was last written, in nanoseconds since 1970.
    #[inline(always)]
    pub(crate) fn modified_ns(self) -> Result<u64, Loss> {
        self.time(offset!(inode_modified), offset!(inode_modified_ns))
    }

    #[inline(always)]
    fn time(self, seconds: usize, nanoseconds: usize) -> Result<u64, Loss> {
        // Before 6.11 they are a `struct timespec64`; since 6.13 the top bits carry a flag.
        let at = if nanoseconds == ABSENT as usize {
            seconds + 8
        } else {
            nanoseconds
        };
        let rest: u32 = read(self.0, at)?;
        Ok(read::<u64>(self.0, seconds)?
            .wrapping_mul(1_000_000_000)
            .wrapping_add(u64::from(rest & 0x3fff_ffff)))
    }

    /// In which layer of an overlay file system it lies, as bits of [`open_layer`]; 0 on any other file system.
    #[inline(always)]
    pub(crate) fn layer(self) -> Result<u32, Loss> {
        /// `OVERLAYFS_SUPER_MAGIC`.
        const OVERLAY: u64 = 0x794c_7630;
        let super_block: u64 = read(self.0, offset!(inode_super))?;
        if read::<u64>(super_block, offset!(super_magic))? != OVERLAY {
            return Ok(0);
        }
        // `struct ovl_inode` keeps the upper dentry right behind the inode (fs/overlayfs/ovl_entry.h, 4.13 to 7.x).
        let upper: u64 = read(self.0, offset!(inode_bytes))?;
        Ok(if upper == 0 {
            open_layer::LOWER
        } else {
            open_layer::UPPER
        })
    }

    #[inline(always)]
    pub(crate) fn device(self) -> Result<u32, Loss> {
        read(read::<u64>(self.0, offset!(inode_super))?, offset!(super_device))
    }
}

/// A system call that has just ended.
pub(crate) struct Call {
    pub(crate) task: Task,
    pub(crate) result: i64,
    pub(crate) compat: bool,
    regs: *const u8,
}

impl Call {
    #[inline(always)]
    pub(crate) fn at_exit(ctx: &BtfTracePointContext) -> Self {
        let task = Task::current();
        Self {
            task,
            result: ctx.arg(1),
            compat: task.is_compat(),
            regs: ctx.arg(0),
        }
    }

    /// For programs whose context does not show the registers. Needs [`staghound_ebpf::Settings::task_registers`].
    #[inline(always)]
    pub(crate) fn of_current(result: i64) -> Self {
        let task = Task::current();
        Self {
            task,
            result,
            compat: task.is_compat(),
            regs: task.registers(),
        }
    }

    #[inline(always)]
    fn register(&self, native: usize, compat: usize) -> u64 {
        if self.compat {
            // SAFETY: `regs` is a `struct pt_regs *` of known type.
            unsafe { load::<u64>(self.regs, compat) & 0xffff_ffff }
        } else {
            // SAFETY: as above.
            unsafe { load(self.regs, native) }
        }
    }

    #[inline(always)]
    pub(crate) fn number(&self) -> u32 {
        // SAFETY: as above.
        (unsafe { load::<u64>(self.regs, offset!(regs_number)) } & !X32_BIT) as u32
    }

    /// Whether it was made through the x32 ABI, whose structs in memory are those of 32-bit callers.
    #[inline(always)]
    pub(crate) fn is_x32(&self) -> bool {
        // SAFETY: as above.
        unsafe { load::<u64>(self.regs, offset!(regs_number)) & X32_BIT != 0 }
    }

    #[inline(always)]
    pub(crate) fn first(&self) -> u64 {
        self.register(offset!(regs_di), offset!(regs_bx))
    }

    #[inline(always)]
    pub(crate) fn second(&self) -> u64 {
        self.register(offset!(regs_si), offset!(regs_cx))
    }

    #[inline(always)]
    pub(crate) fn third(&self) -> u64 {
        self.register(offset!(regs_dx), offset!(regs_dx))
    }

    #[inline(always)]
    pub(crate) fn fourth(&self) -> u64 {
        self.register(offset!(regs_r10), offset!(regs_si))
    }

    #[inline(always)]
    pub(crate) fn fifth(&self) -> u64 {
        self.register(offset!(regs_r8), offset!(regs_di))
    }

    #[inline(always)]
    pub(crate) fn sixth(&self) -> u64 {
        self.register(offset!(regs_r9), offset!(regs_bp))
    }

    /// Fills a record's header.
    #[inline(always)]
    pub(crate) fn describe<B>(&self, kind: Kind, record: &Record<B>) {
        record.describe(kind);
        record.flag(if self.compat { flags::COMPAT } else { 0 });
        // SAFETY: the header lies in scratch memory.
        unsafe { (*record.header()).syscall = self.number() };
    }
}
