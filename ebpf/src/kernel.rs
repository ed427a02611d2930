//! Reads kernel structs by the offsets that the agent resolved.
//!
//! A pointer whose BTF type the verifier knows (tracepoint arguments, the current task, and what they point to) is
//! loaded from directly, which is nearly free; any other costs a helper call of some 25 ns.

use crate::offset;
use aya_ebpf::{
    helpers::generated::{
        bpf_get_current_cgroup_id, bpf_get_current_task_btf, bpf_ktime_get_boot_ns, bpf_probe_read_kernel,
    },
    programs::BtfTracePointContext,
};
use core::{mem::MaybeUninit, ptr::read_volatile};
use staghound_ebpf::{ABSENT, COMM_BYTES, Header, Kind, Loss, flags};

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

/// A task of known BTF type.
#[derive(Clone, Copy)]
pub(crate) struct Task(*const u8);

impl Task {
    #[inline(always)]
    pub(crate) fn current() -> Self {
        // SAFETY: has no preconditions.
        Self(unsafe { bpf_get_current_task_btf() }.cast())
    }

    /// A task given as a tracepoint's argument.
    #[inline(always)]
    pub(crate) fn argument(ctx: &BtfTracePointContext, index: usize) -> Self {
        Self(ctx.arg(index))
    }

    #[inline(always)]
    fn get<T: Copy>(self, offset: usize) -> T {
        // SAFETY: a `Task` is made of pointers of known BTF type only.
        unsafe { load(self.0, offset) }
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

    /// Mount and pid namespace, by number.
    #[inline(always)]
    pub(crate) fn namespaces(self) -> (u32, u32) {
        let proxy: *const u8 = self.get(offset!(task_nsproxy));
        // SAFETY: pointers of known BTF type, loaded from one another.
        let mount: *const u8 = unsafe { load(proxy, offset!(nsproxy_mount)) };
        // SAFETY: as above.
        let pid: *const u8 = unsafe { load(proxy, offset!(nsproxy_pid)) };
        // SAFETY: as above.
        let mount_number = unsafe { load(mount, offset!(mount_namespace_number)) };
        // SAFETY: as above.
        let pid_number = unsafe { load(pid, offset!(pid_namespace_number)) };
        (mount_number, pid_number)
    }

    /// Controlling terminal, as `/proc/PID/stat` numbers it (`new_encode_dev`, include/linux/kdev_t.h); 0 for none.
    #[inline(always)]
    pub(crate) fn tty(self) -> u32 {
        // SAFETY: pointers of known BTF type, loaded from one another; a null one yields zeros.
        let tty: *const u8 = unsafe { load(self.signal(), offset!(signal_tty)) };
        if tty.is_null() {
            return 0;
        }
        // SAFETY: as above.
        let driver: *const u8 = unsafe { load(tty, offset!(tty_driver)) };
        // SAFETY: as above.
        let index: u32 = unsafe { load(tty, offset!(tty_index)) };
        // SAFETY: as above.
        let major: u32 = unsafe { load(driver, offset!(driver_major)) };
        // SAFETY: as above.
        let first: u32 = unsafe { load(driver, offset!(driver_minor)) };
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
        // SAFETY: `fs` has a known BTF type, and `path` is embedded in it.
        let mount = unsafe { load::<u64>(fs, path + offset!(path_mount)) };
        // SAFETY: as above.
        let dentry = unsafe { load::<u64>(fs, path + offset!(path_dentry)) };
        (mount, dentry)
    }

    /// The open file behind a descriptor.
    #[inline(always)]
    pub(crate) fn file(self, descriptor: u32) -> Result<File, Loss> {
        let files: *const u8 = self.get(offset!(task_files));
        // SAFETY: pointers of known BTF type, loaded from one another.
        let table: *const u8 = unsafe { load(files, offset!(files_table)) };
        // SAFETY: as above.
        let max = unsafe { load::<u32>(table, offset!(table_max)) };
        // SAFETY: as above.
        let array = unsafe { load::<u64>(table, offset!(table_files)) };
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
    pub(crate) unsafe fn describe(self, kind: Kind, header: *mut Header) {
        let cred: *const u8 = self.get(offset!(task_cred));
        let login = offset!(task_login_uid);
        // SAFETY: the caller vouches for `header`; `cred` has a known BTF type; the helpers have no preconditions.
        #[expect(clippy::multiple_unsafe_ops_per_block, reason = "one plain list of stores")]
        unsafe {
            (*header).time_ns = bpf_ktime_get_boot_ns();
            (*header).start_ns = self.start_ns();
            (*header).cgroup_id = bpf_get_current_cgroup_id();
            (*header).capabilities = load(cred, offset!(cred_capabilities));
            (*header).kind = kind as u16;
            (*header).flags = 0;
            (*header).len = 0;
            (*header).pid = self.pid();
            (*header).tid = self.tid();
            (*header).ppid = self.parent_pid();
            (*header).exec_count = self.exec_count();
            (*header).uid = load(cred, offset!(cred_uid));
            (*header).euid = load(cred, offset!(cred_euid));
            (*header).gid = load(cred, offset!(cred_gid));
            (*header).egid = load(cred, offset!(cred_egid));
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

    #[inline(always)]
    pub(crate) fn inode(self) -> Result<Inode, Loss> {
        Ok(Inode(read(self.0, offset!(file_inode))?))
    }
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

    #[inline(always)]
    fn register(&self, native: usize, compat: usize) -> u64 {
        if self.compat {
            // SAFETY: `regs` is the tracepoint's `struct pt_regs *`.
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

    /// Fills a record's header.
    ///
    /// # Safety
    /// `header` must be valid for writes.
    #[inline(always)]
    pub(crate) unsafe fn describe(&self, kind: Kind, header: *mut Header) {
        // SAFETY: the caller vouches for `header`.
        unsafe { self.task.describe(kind, header) };
        let compat = if self.compat { flags::COMPAT } else { 0 };
        // SAFETY: as above.
        unsafe { (*header).flags |= compat };
        // SAFETY: as above.
        unsafe { (*header).syscall = self.number() };
    }
}
