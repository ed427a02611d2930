//! io_uring: requests as they are submitted. What comes of them no call tells; so the result is unknown, and paths are
//! the kernel's copy of what was passed.

use crate::{
    SETTINGS, URING, constant,
    emit::{Record, place},
    file::{self, Key, Recent},
    kernel::{File, Task, read},
    offset,
    path::{self, CWD, Name},
    socket::{self, ByRing, Memory},
    wanted,
};
use aya_ebpf::programs::BtfTracePointContext;
use core::ptr::read_volatile;
use staghound_ebpf::{
    ABSENT, Call, Header, Kind, Loss, Open, PathChange, Ring, Socket, Span, URING_OPCODES_MAX, file_mode, flags,
};

/// Opcodes (`enum io_uring_op`, include/uapi/linux/io_uring.h).
mod opcode {
    pub(super) const SENDMSG: u32 = 9;
    pub(super) const CONNECT: u32 = 16;
    pub(super) const OPENAT: u32 = 18;
    pub(super) const WRITE: u32 = 23;
    pub(super) const SEND: u32 = 26;
    pub(super) const OPENAT2: u32 = 28;
    pub(super) const RENAMEAT: u32 = 35;
    pub(super) const UNLINKAT: u32 = 36;
    pub(super) const MKDIRAT: u32 = 37;
    pub(super) const SYMLINKAT: u32 = 38;
    pub(super) const LINKAT: u32 = 39;
    pub(super) const SEND_ZC: u32 = 47;
    pub(super) const SENDMSG_ZC: u32 = 48;
}

/// `O_CREAT`.
const O_CREAT: u32 = 0o100;
/// `REQ_F_FIXED_FILE`: the descriptor is a place in the ring's own table.
const FIXED_FILE: u64 = 1;
/// Stands for a descriptor whose number is not known.
const NO_DESCRIPTOR: u32 = u32::MAX;
const IPPROTO_TCP: u16 = 6;
/// Numbers of the native `write`, `sendmsg` and `sendto` (arch/x86/entry/syscalls/syscall_64.tbl).
const CALLS: [u32; 3] = [1, 46, 44];

/// A request, and who makes it.
struct Request {
    task: Task,
    address: u64,
    /// Number of the native call that does the same.
    call: u32,
}

impl Request {
    #[inline(always)]
    fn describe<B>(&self, kind: Kind, record: &Record<B>) {
        self.describe_from(record.header(), kind, record);
    }

    #[inline(always)]
    fn describe_from<B>(&self, header: *mut Header, kind: Kind, record: &Record<B>) {
        record.describe_from(header, kind);
        // SAFETY: the header lies in scratch memory.
        unsafe { (*header).flags |= flags::IO_URING | flags::RESULT_UNKNOWN };
        // SAFETY: as above.
        unsafe { (*header).syscall = self.call };
    }

    /// The descriptor that it is about; before 5.19 the kernel does not keep its number.
    #[inline(always)]
    fn descriptor(&self) -> Result<u32, Loss> {
        match offset!(request_descriptor) {
            at if at == ABSENT as usize => Ok(NO_DESCRIPTOR),
            at => read(self.address, at),
        }
    }

    /// The file that it is about, if there is one yet: before 5.19 it has been looked up, later the descriptor tells.
    #[inline(always)]
    fn file(&self, descriptor: u32) -> Result<Option<File>, Loss> {
        if offset!(request_descriptor) != ABSENT as usize {
            return Ok(self.task.file(descriptor).ok());
        }
        let file: u64 = read(self.address, offset!(request_file))?;
        Ok((file != 0).then(|| File::at(file)))
    }

    /// A path: the directory that it starts from, and `struct filename`.
    #[inline(always)]
    fn path(&self, directory: usize, name: usize) -> Result<(i32, u64), Loss> {
        let name: u64 = read(read::<u64>(self.address, name)?, offset!(filename_name))?;
        Ok((read(self.address, directory)?, name))
    }
}

/// `io_uring_submit_req(request)`; before 6.4 `io_uring_submit_sqe(request, …)`, before 5.19 `(ring, request, …)`.
#[inline(always)]
pub(crate) fn submitted(ctx: &BtfTracePointContext) -> Result<(), Loss> {
    let address = if constant(&SETTINGS.request_argument) == 0 {
        ctx.arg::<*const u8>(0) as u64
    } else {
        // Else the compiler makes one load of both, from an address that the verifier does not take for the context's.
        core::hint::black_box(ctx.arg::<*const u8>(1) as u64)
    };
    let opcode = u32::from(read::<u8>(address, offset!(request_opcode))?);
    if opcode >= URING_OPCODES_MAX as u32 {
        return Ok(());
    }
    // The compiler takes a mask for needless here; the verifier does not follow the comparison to another register.
    let index = core::hint::black_box(opcode as usize) & (URING_OPCODES_MAX - 1);
    // SAFETY: the index is below the length of the table.
    let call = unsafe { read_volatile((&raw const URING.calls).cast::<u16>().add(index)) };
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
        opcode::OPENAT | opcode::OPENAT2 if constant(&SETTINGS.lsm) != 0 => Ok(()),
        opcode::OPENAT | opcode::OPENAT2 | opcode::RENAMEAT => named(&request, opcode),
        opcode::UNLINKAT | opcode::MKDIRAT | opcode::SYMLINKAT | opcode::LINKAT => named(&request, opcode),
        opcode::CONNECT => connect(&request),
        opcode::SEND | opcode::SEND_ZC | opcode::SENDMSG | opcode::SENDMSG_ZC | opcode::WRITE => {
            send_message(&request, opcode)?;
            other(&request, opcode)
        }
        _ => other(&request, opcode),
    }
}

/// Requests about paths. Put together as one body, so that the verifier has two walks to follow and not nine; sent off as
/// the body that the call of the same name has. (Opens are left to the LSM hook where there is one: it sees the file.)
#[inline(always)]
fn named(request: &Request, opcode: u32) -> Result<(), Loss> {
    let record = Record::<Call>::new(place::REQUEST)?;
    // SAFETY: the body lies in scratch memory, which this program alone uses until it ends.
    let body = unsafe { &mut *record.body() };
    *body = Call::default();
    // Where the paths are goes through map memory, and the opcode is read again behind the walks: else each opcode would
    // be a walk of its own to the verifier.
    let places = &raw mut body.args;
    let keep = |at: usize, (directory, name): (i32, u64)| {
        // SAFETY: both are below the length.
        unsafe { places.cast::<u64>().add(at).write_volatile(directory as u64) };
        // SAFETY: as above.
        unsafe { places.cast::<u64>().add(at + 1).write_volatile(name) };
    };
    let kept = |at: usize| {
        // SAFETY: as above.
        let directory = unsafe { places.cast::<u64>().add(at).read_volatile() };
        // SAFETY: as above.
        let name = unsafe { places.cast::<u64>().add(at + 1).read_volatile() };
        (directory as i32, name)
    };
    match opcode {
        opcode::OPENAT | opcode::OPENAT2 => keep(
            0,
            request.path(offset!(request_open_directory), offset!(request_open_name))?,
        ),
        opcode::UNLINKAT => keep(
            0,
            request.path(offset!(request_unlink_directory), offset!(request_unlink_name))?,
        ),
        opcode::MKDIRAT => keep(
            0,
            request.path(offset!(request_mkdir_directory), offset!(request_mkdir_name))?,
        ),
        opcode::SYMLINKAT => keep(
            0,
            request.path(offset!(request_link_new_directory), offset!(request_link_new))?,
        ),
        opcode::LINKAT => {
            keep(
                0,
                request.path(offset!(request_link_old_directory), offset!(request_link_old))?,
            );
            keep(
                2,
                request.path(offset!(request_link_new_directory), offset!(request_link_new))?,
            );
        }
        _ => {
            file::note_rename();
            keep(
                0,
                request.path(offset!(request_rename_old_directory), offset!(request_rename_old))?,
            );
            keep(
                2,
                request.path(offset!(request_rename_new_directory), offset!(request_rename_new))?,
            );
        }
    }
    append(&record, kept(0), (&raw mut body.base, &raw mut body.name))?;
    let second = kept(2);
    if second.1 != 0 {
        append(&record, second, (&raw mut body.new_base, &raw mut body.new_name))?;
    }
    body.args = [0; 6];
    let opcode = u32::from(read::<u8>(request.address, offset!(request_opcode))?);
    match opcode {
        opcode::OPENAT | opcode::OPENAT2 => {
            let open_flags: u32 = read(request.address, offset!(request_open_flags))?;
            let open = Open {
                open_flags,
                // `O_ACCMODE` counts from 0; the kernel's mode bits are one more. Whether a file will be created is not
                // known yet; so it counts as created where it may be.
                file_mode: open_flags.wrapping_add(1) & 3
                    | if open_flags & O_CREAT != 0 {
                        file_mode::CREATED
                    } else {
                        0
                    },
                path: body.base,
                name: body.name,
                ..Open::default()
            };
            send(request, &record, Kind::Open, open)
        }
        opcode::UNLINKAT | opcode::RENAMEAT => {
            let unlink = opcode == opcode::UNLINKAT;
            let change = PathChange {
                argument: if unlink {
                    read(request.address, offset!(request_unlink_flags))?
                } else {
                    0
                },
                base: body.base,
                name: body.name,
                new_base: body.new_base,
                new_name: body.new_name,
                ..PathChange::default()
            };
            send(
                request,
                &record,
                if unlink { Kind::Unlink } else { Kind::Rename },
                change,
            )
        }
        opcode::MKDIRAT => {
            body.args[2] = u64::from(read::<u16>(request.address, offset!(request_mkdir_mode))?);
            submit(request, &record)
        }
        opcode::SYMLINKAT => {
            let text: u64 = read(
                read::<u64>(request.address, offset!(request_link_old))?,
                offset!(filename_name),
            )?;
            record.begin();
            record.kernel_string(text, staghound_ebpf::TEXT_BYTES_MAX);
            record.end(&raw mut body.text);
            submit(request, &record)
        }
        _ => submit(request, &record),
    }
}

#[inline(always)]
fn append(record: &Record<Call>, (directory, name): (i32, u64), members: (*mut Span, *mut Span)) -> Result<(), Loss> {
    path::append_passed(record, directory, Name::Kernel(name), members)
}

/// Sends off a record as it was put together.
#[inline(always)]
fn submit(request: &Request, record: &Record<Call>) -> Result<(), Loss> {
    request.describe(Kind::Call, record);
    record.submit(Ring::File)
}

/// Sends off a record with another body, which is no larger, in the place of its own.
#[inline(always)]
fn send<T>(request: &Request, record: &Record<Call>, kind: Kind, body: T) -> Result<(), Loss> {
    let start = record.with_body(body);
    request.describe_from(start, kind, record);
    record.submit_from::<T>(start, Ring::File)
}

/// Connections of TCP are reported as the kernel makes them (`socket::change`); here are the others.
#[inline(always)]
fn connect(request: &Request) -> Result<(), Loss> {
    let descriptor = request.descriptor()?;
    let Some(file) = request.file(descriptor)? else {
        return Ok(());
    };
    let Some(sock) = socket::of_file(file)? else {
        return Ok(());
    };
    let record = Record::<Socket>::new(place::REQUEST)?;
    // SAFETY: header and body lie in scratch memory, which this program alone uses until it ends.
    let body = unsafe { &mut *record.body() };
    socket::describe(sock, &record)?;
    if body.protocol == IPPROTO_TCP {
        return Ok(());
    }
    body.descriptor = descriptor;
    request.describe(Kind::Connect, &record);
    let address: u64 = read(request.address, offset!(request_connect_address))?;
    record.flag(flags::ADDRESS_PASSED);
    socket::append_passed(&record, address, 110)?;
    record.submit(Ring::Process)
}

/// What goes to another host, as by the calls that do the same.
#[inline(always)]
fn send_message(request: &Request, opcode: u32) -> Result<(), Loss> {
    let absent = |offset: usize| offset == ABSENT as usize;
    if read::<u64>(request.address, offset!(request_flags))? & FIXED_FILE != 0 || absent(offset!(request_send_buffer)) {
        return Ok(());
    }
    let descriptor = request.descriptor()?;
    let Some(file) = request.file(descriptor)? else {
        return Ok(());
    };
    let Some(sock) = socket::of_file(file)? else {
        return Ok(());
    };
    let call;
    let what = if opcode == opcode::WRITE {
        call = CALLS[0];
        if absent(offset!(request_write_buffer)) {
            return Ok(());
        }
        let buffer = read(request.address, offset!(request_write_buffer))?;
        let len: u32 = read(request.address, offset!(request_write_len))?;
        ByRing::Buffer(buffer, u64::from(len), 0, Memory::User)
    } else if opcode == opcode::SENDMSG || opcode == opcode::SENDMSG_ZC {
        call = CALLS[1];
        ByRing::Header(read(request.address, offset!(request_send_buffer))?)
    } else {
        call = CALLS[2];
        let buffer = read(request.address, offset!(request_send_buffer))?;
        let len: u32 = read(request.address, offset!(request_send_len))?;
        // Until 6.12 the address is left where it was passed; since then the kernel has copied it by now.
        let (address, memory) = if !absent(offset!(request_send_address)) {
            (read(request.address, offset!(request_send_address))?, Memory::User)
        } else {
            (copied_address(request)?, Memory::Kernel)
        };
        ByRing::Buffer(buffer, u64::from(len), address, memory)
    };
    socket::sent_by_ring(request.task, sock, descriptor, &what, |record| {
        request.describe(Kind::Send, record);
        // SAFETY: the header lies in scratch memory.
        unsafe { (*record.header()).syscall = call };
    })
}

/// Where the kernel has put the address that a request to send passes; 0 for none.
#[inline(always)]
fn copied_address(request: &Request) -> Result<u64, Loss> {
    if offset!(request_async) == ABSENT as usize || offset!(async_message_name) == ABSENT as usize {
        return Ok(0);
    }
    match read::<u64>(request.address, offset!(request_async))? {
        0 => Ok(0),
        message => read(message, offset!(async_message_name)),
    }
}

/// Whatever else: the opcode and the file that it is about.
#[inline(always)]
fn other(request: &Request, opcode: u32) -> Result<(), Loss> {
    let descriptor = request.descriptor()?;
    let key = Key {
        object: u64::from(opcode) << 48 | u64::from(descriptor),
        place: 0,
        how: u64::from(request.call),
    };
    let Recent::Due(suppressed) = file::recent(request.task, &key) else {
        return Ok(());
    };
    let record = Record::<Call>::new(place::REQUEST)?;
    request.describe(Kind::Call, &record);
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
        && let Some(file) = request.file(descriptor)?
    {
        let inode = file.inode()?;
        body.inode = inode.number()?;
        body.device = inode.device()?;
        body.mode = u32::from(inode.mode()?);
        path::append(&record, file.mount()?, file.dentry()?, &raw mut body.object)?;
    }
    record.submit(Ring::File)
}
