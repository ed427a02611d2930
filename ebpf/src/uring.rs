//! io_uring: requests as they are submitted. What comes of them no call tells; so the result is unknown, and paths are
//! the kernel's copy of what was passed.

use crate::{
    SETTINGS, URING, constant,
    emit::Record,
    file::{self, CWD, Key, Name, Recent},
    kernel::{Task, read},
    offset, path, socket, wanted,
};
use aya_ebpf::programs::BtfTracePointContext;
use core::ptr::read_volatile;
use staghound_ebpf::{Call, Header, Kind, Loss, Open, PathChange, Ring, Socket, Span, URING_OPCODES_MAX, flags};

/// Opcodes (`enum io_uring_op`, include/uapi/linux/io_uring.h).
mod opcode {
    pub(super) const CONNECT: u32 = 16;
    pub(super) const OPENAT: u32 = 18;
    pub(super) const OPENAT2: u32 = 28;
    pub(super) const RENAMEAT: u32 = 35;
    pub(super) const UNLINKAT: u32 = 36;
    pub(super) const MKDIRAT: u32 = 37;
    pub(super) const SYMLINKAT: u32 = 38;
    pub(super) const LINKAT: u32 = 39;
}

/// `REQ_F_FIXED_FILE`: the descriptor is a place in the ring's own table.
const FIXED_FILE: u64 = 1;
const IPPROTO_TCP: u16 = 6;

/// A request, and who makes it.
struct Request {
    task: Task,
    address: u64,
    /// Number of the native call that does the same.
    call: u32,
}

impl Request {
    /// # Safety
    /// `header` must be valid for writes.
    #[inline(always)]
    unsafe fn describe(&self, kind: Kind, header: *mut Header) {
        // SAFETY: the caller vouches for `header`.
        unsafe { self.task.describe(kind, header) };
        // SAFETY: as above.
        unsafe { (*header).flags |= flags::IO_URING | flags::RESULT_UNKNOWN };
        // SAFETY: as above.
        unsafe { (*header).syscall = self.call };
    }

    /// A path: the directory that it starts from, and `struct filename`.
    #[inline(always)]
    fn path(&self, directory: usize, name: usize) -> Result<(i32, Name), Loss> {
        let name: u64 = read(read::<u64>(self.address, name)?, offset!(filename_name))?;
        Ok((read(self.address, directory)?, Name::Kernel(name)))
    }

    #[inline(always)]
    fn append<B>(
        &self,
        record: &mut Record<B>,
        (directory, name): (i32, Name),
        members: (*mut Span, *mut Span),
    ) -> Result<(), Loss> {
        file::append_passed(record, self.task, directory, name, members)
    }
}

/// `io_uring_submit_req(request)`; before 6.4 `io_uring_submit_sqe(request, …)`.
#[inline(always)]
pub(crate) fn submitted(ctx: &BtfTracePointContext) -> Result<(), Loss> {
    let address = ctx.arg::<*const u8>(0) as u64;
    let opcode = u32::from(read::<u8>(address, offset!(request_opcode))?);
    if opcode >= URING_OPCODES_MAX as u32 {
        return Ok(());
    }
    // SAFETY: the index is below the length of the table.
    let call = unsafe { read_volatile((&raw const URING.calls).cast::<u16>().add(opcode as usize)) };
    let task = Task::current();
    if call == 0 || !wanted(task.pid()) {
        return Ok(());
    }
    let request = Request {
        task,
        address,
        call: u32::from(call),
    };
    match opcode {
        opcode::OPENAT | opcode::OPENAT2 => open(&request),
        opcode::UNLINKAT => unlink(&request),
        opcode::RENAMEAT => rename(&request),
        opcode::MKDIRAT | opcode::SYMLINKAT | opcode::LINKAT => make(&request, opcode),
        opcode::CONNECT => connect(&request),
        _ => other(&request, opcode),
    }
}

#[inline(always)]
fn open(request: &Request) -> Result<(), Loss> {
    if constant(&SETTINGS.lsm) != 0 {
        // Its hook sees the file itself.
        return Ok(());
    }
    let mut record = Record::<Open>::of_request()?;
    // SAFETY: header and body lie in scratch memory.
    unsafe { request.describe(Kind::Open, record.header()) };
    let open_flags: u32 = read(request.address, offset!(request_open_flags))?;
    let body = record.body();
    // SAFETY: as above.
    unsafe {
        body.write(Open {
            open_flags,
            // `O_ACCMODE` counts from 0; the kernel's mode bits are one more.
            file_mode: open_flags.wrapping_add(1) & 3,
            ..Open::default()
        });
    }
    let path = request.path(offset!(request_open_directory), offset!(request_open_name))?;
    // SAFETY: as above.
    let members = unsafe { (&raw mut (*body).path, &raw mut (*body).name) };
    request.append(&mut record, path, members)?;
    record.submit(Ring::File)
}

#[inline(always)]
fn unlink(request: &Request) -> Result<(), Loss> {
    let mut record = Record::<PathChange>::of_request()?;
    // SAFETY: header and body lie in scratch memory.
    unsafe { request.describe(Kind::Unlink, record.header()) };
    let body = record.body();
    // SAFETY: as above.
    unsafe {
        body.write(PathChange {
            argument: read(request.address, offset!(request_unlink_flags))?,
            ..PathChange::default()
        });
    }
    let path = request.path(offset!(request_unlink_directory), offset!(request_unlink_name))?;
    // SAFETY: as above.
    let members = unsafe { (&raw mut (*body).base, &raw mut (*body).name) };
    request.append(&mut record, path, members)?;
    record.submit(Ring::File)
}

#[inline(always)]
fn rename(request: &Request) -> Result<(), Loss> {
    file::note_rename();
    let mut record = Record::<PathChange>::of_request()?;
    // SAFETY: header and body lie in scratch memory.
    unsafe { request.describe(Kind::Rename, record.header()) };
    let body = record.body();
    // SAFETY: as above.
    unsafe { body.write(PathChange::default()) };
    let old = request.path(offset!(request_rename_old_directory), offset!(request_rename_old))?;
    // SAFETY: as above.
    let members = unsafe { (&raw mut (*body).base, &raw mut (*body).name) };
    request.append(&mut record, old, members)?;
    let new = request.path(offset!(request_rename_new_directory), offset!(request_rename_new))?;
    // SAFETY: as above.
    let members = unsafe { (&raw mut (*body).new_base, &raw mut (*body).new_name) };
    request.append(&mut record, new, members)?;
    record.submit(Ring::File)
}

/// `mkdirat`, `symlinkat`, `linkat`, with their arguments where the calls have them.
#[inline(always)]
fn make(request: &Request, opcode: u32) -> Result<(), Loss> {
    let mut record = Record::<Call>::of_request()?;
    // SAFETY: header and body lie in scratch memory, which this program alone uses until it ends.
    unsafe { request.describe(Kind::Call, record.header()) };
    let body = record.body();
    // SAFETY: as above.
    unsafe { body.write(Call::default()) };
    // SAFETY: as above.
    let members = unsafe { (&raw mut (*body).base, &raw mut (*body).name) };
    // SAFETY: as above.
    let new_members = unsafe { (&raw mut (*body).new_base, &raw mut (*body).new_name) };
    if opcode == opcode::MKDIRAT {
        let mode: u16 = read(request.address, offset!(request_mkdir_mode))?;
        // SAFETY: as above.
        unsafe { (*body).args[2] = u64::from(mode) };
        let path = request.path(offset!(request_mkdir_directory), offset!(request_mkdir_name))?;
        request.append(&mut record, path, members)?;
        return record.submit(Ring::File);
    }
    let new = request.path(offset!(request_link_new_directory), offset!(request_link_new))?;
    if opcode == opcode::SYMLINKAT {
        let text: u64 = read(
            read::<u64>(request.address, offset!(request_link_old))?,
            offset!(filename_name),
        )?;
        record.begin();
        record.kernel_string(text, staghound_ebpf::TEXT_BYTES_MAX);
        // SAFETY: as above.
        record.end(unsafe { &raw mut (*body).text });
        request.append(&mut record, new, members)?;
        return record.submit(Ring::File);
    }
    let old = request.path(offset!(request_link_old_directory), offset!(request_link_old))?;
    request.append(&mut record, old, members)?;
    request.append(&mut record, new, new_members)?;
    record.submit(Ring::File)
}

/// Connections of TCP are reported as the kernel makes them (`socket::change`); here are the others.
#[inline(always)]
fn connect(request: &Request) -> Result<(), Loss> {
    let descriptor: u32 = read(request.address, offset!(request_descriptor))?;
    let Ok(file) = request.task.file(descriptor) else {
        return Ok(());
    };
    let Some(sock) = socket::of_file(file)? else {
        return Ok(());
    };
    let mut record = Record::<Socket>::of_request()?;
    // SAFETY: header and body lie in scratch memory, which this program alone uses until it ends.
    let body = unsafe { &mut *record.body() };
    socket::describe(sock, body)?;
    if body.protocol == IPPROTO_TCP {
        return Ok(());
    }
    body.descriptor = descriptor;
    // SAFETY: as above.
    unsafe { request.describe(Kind::Connect, record.header()) };
    let address: u64 = read(request.address, offset!(request_connect_address))?;
    record.flag(flags::ADDRESS_PASSED);
    socket::append_passed(&mut record, address, 110)?;
    record.submit(Ring::Process)
}

/// Whatever else: the opcode and the file that it is about.
#[inline(always)]
fn other(request: &Request, opcode: u32) -> Result<(), Loss> {
    let descriptor: u32 = read(request.address, offset!(request_descriptor))?;
    let key = Key {
        object: u64::from(opcode) << 48 | u64::from(descriptor),
        place: 0,
        how: u64::from(request.call),
    };
    let Recent::Due(suppressed) = file::recent(request.task, &key) else {
        return Ok(());
    };
    let mut record = Record::<Call>::of_request()?;
    // SAFETY: header and body lie in scratch memory, which this program alone uses until it ends.
    unsafe { request.describe(Kind::Call, record.header()) };
    // SAFETY: as above.
    let body = unsafe { &mut *record.body() };
    let fixed = read::<u64>(request.address, offset!(request_flags))? & FIXED_FILE;
    *body = Call {
        args: [u64::from(opcode), u64::from(descriptor), fixed, 0, 0, 0],
        suppressed,
        ..Call::default()
    };
    if fixed == 0
        && descriptor as i32 != CWD
        && let Ok(file) = request.task.file(descriptor)
    {
        let inode = file.inode()?;
        body.inode = inode.number()?;
        body.device = inode.device()?;
        body.mode = u32::from(inode.mode()?);
        path::append(&mut record, file.mount()?, file.dentry()?, &raw mut body.object)?;
    }
    record.submit(Ring::File)
}
