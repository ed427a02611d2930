//! Calls without a program of their own, recorded by their shape.

use crate::{
    SHAPES,
    emit::{Record, place},
    file::{self, Key, Recent},
    kernel::Call,
    path::{self, CWD, Name, ROOT},
    socket,
};
use core::ptr::read_volatile;
use staghound_ebpf::{Action, Call as Body, Kind, Loss, Ring, SHAPES_MAX, Shape, Span, TEXT_BYTES_MAX, Wanted, flags};

/// Records a call by its shape.
#[inline(always)]
pub(crate) fn record(call: &Call) -> Result<(), Loss> {
    if file::was_nonsense(call) {
        return Ok(());
    }
    let index = file::action(call).wrapping_sub(Action::Call as u32) as usize;
    if index >= SHAPES_MAX {
        return Err(Loss::ProgramMissing);
    }
    // SAFETY: the index is below the length of the table.
    let shape = unsafe { read_volatile((&raw const SHAPES.shapes).cast::<Shape>().add(index)) };
    let record = Record::<Body>::new(place::SYSCALL)?;
    // SAFETY: header and body lie in scratch memory, which this program alone uses until it ends.
    let body = unsafe { &mut *record.body() };
    *body = Body {
        result: call.result,
        args: [
            call.first(),
            call.second(),
            call.third(),
            call.fourth(),
            call.fifth(),
            call.sixth(),
        ],
        ..Body::default()
    };
    match wanted(call, &shape, body)? {
        Recent::Reported => return Ok(()),
        Recent::Due(suppressed) => body.suppressed = suppressed,
    }
    call.describe(Kind::Call, &record);
    if shape.descriptor != 0 {
        let member = &raw mut body.object;
        append_object(
            &record,
            call,
            argument(body, shape.descriptor) as u32,
            Some(body),
            member,
        )?;
    }
    if shape.new_descriptor != 0 {
        let member = &raw mut body.new_object;
        append_object(&record, call, argument(body, shape.new_descriptor) as u32, None, member)?;
    }
    if shape.path != 0 {
        let members = (&raw mut body.base, &raw mut body.name);
        append_path(&record, call, (shape.directory, shape.path), members)?;
    }
    if shape.new_path != 0 {
        let members = (&raw mut body.new_base, &raw mut body.new_name);
        append_path(&record, call, (shape.new_directory, shape.new_path), members)?;
    }
    if shape.text != 0 {
        append_text(&record, argument(body, shape.text), &raw mut body.text);
    }
    if shape.more & Shape::BYTES != 0 {
        let which = shape.more & (Shape::BYTES - 1);
        let words = u64::from(shape.more / Shape::WORD);
        record.begin();
        let address = argument(body, which);
        let len = if words == 0 {
            argument(body, which + 1)
        } else {
            words * 8
        };
        // What `ioctl` takes is an address for some requests only.
        if address != 0
            && !record.user_bytes::<{ TEXT_BYTES_MAX - 1 }>(address, len)
            && u32::from(shape.wanted) != Wanted::Ioctl as u32
        {
            record.flag(flags::FAULT);
        }
        record.end(&raw mut body.more);
    } else if shape.more != 0 {
        append_text(&record, argument(body, shape.more), &raw mut body.more);
    }
    record.submit(if shape.file == 0 { Ring::Process } else { Ring::File })
}

/// An argument by its number, counted from 1.
#[inline(always)]
fn argument(body: &Body, number: u8) -> u64 {
    let index = usize::from(number).wrapping_sub(1);
    if index >= 6 {
        return 0;
    }
    // SAFETY: the index is below the length.
    unsafe { read_volatile(body.args.as_ptr().add(index)) }
}

#[inline(always)]
fn append_text(record: &Record<Body>, address: u64, member: *mut Span) {
    record.begin();
    // A null or bad address carries no text; what the call returned says what the kernel made of it.
    if address != 0 {
        record.user_string(address, TEXT_BYTES_MAX);
    }
    record.end(member);
}

#[inline(always)]
fn append_path(
    record: &Record<Body>,
    call: &Call,
    (directory, path): (u8, u8),
    members: (*mut Span, *mut Span),
) -> Result<(), Loss> {
    // SAFETY: the body lies in scratch memory.
    let body = unsafe { &*record.body() };
    // What the path led to is the root by now, with no name below it.
    let rooted = directory == Shape::ROOT && call.result == 0;
    let address = if rooted { 0 } else { argument(body, path) };
    let directory = if rooted {
        ROOT
    } else if directory == 0 || directory == Shape::ROOT {
        CWD
    } else {
        argument(body, directory) as i32
    };
    let name = Name::User(address);
    path::append_passed(record, directory, name, members)
}

/// Appends the path of an open file, and tells of its inode where asked.
#[inline(always)]
fn append_object(
    record: &Record<Body>,
    call: &Call,
    descriptor: u32,
    body: Option<&mut Body>,
    member: *mut Span,
) -> Result<(), Loss> {
    // A descriptor that is none, such as -1 for anonymous memory, has nothing to tell.
    let Ok(file) = call.task.file(descriptor) else {
        return Ok(());
    };
    if let Some(body) = body {
        let inode = file.inode()?;
        body.inode = inode.number()?;
        body.device = inode.device()?;
        body.mode = u32::from(inode.mode()?);
        body.layer = inode.layer()?;
        body.target = file.process()?;
    }
    path::append(record, file.mount()?, file.dentry()?, member)
}

/// Whether this call of its shape is to be recorded, with how many equal ones were not.
#[inline(always)]
fn wanted(call: &Call, shape: &Shape, body: &Body) -> Result<Recent, Loss> {
    const NO: Result<Recent, Loss> = Ok(Recent::Reported);
    const YES: Result<Recent, Loss> = Ok(Recent::Due(0));
    let [first, second, third, ..] = body.args;
    // The kernel takes these arguments for 32 bits wide; what somebody put above them must not hide a call.
    let narrow = |argument: u64| argument & 0xffff_ffff;
    let which = u32::from(shape.wanted);
    if which == Wanted::All as u32 {
        return YES;
    }
    if which == Wanted::SignalToOther as u32 {
        // Signal 0 only asks whether somebody is there. What a runtime sends to its own threads is its own affair.
        let own = call.task.own_number()?;
        return if narrow(second) == 0 || first as u32 == own || first as u32 == call.task.tid() {
            NO
        } else {
            YES
        };
    }
    if which == Wanted::Ptrace as u32 {
        return if is_hold(first) {
            repeated(call, first, second)
        } else {
            NO
        };
    }
    /// `F_DUPFD`, `F_DUPFD_CLOEXEC`.
    const DUPLICATE: [u64; 2] = [0, 1030];
    let asked = if which == Wanted::MapWritableExecutable as u32 {
        third & 6 == 6
    } else if which == Wanted::ProtectExecutable as u32 {
        third & 4 != 0
    } else if which == Wanted::Prctl as u32 {
        is_telling_prctl(narrow(first))
    } else if which == Wanted::Bpf as u32 {
        is_telling(narrow(first))
    } else if which == Wanted::Ioctl as u32 {
        is_telling_ioctl(narrow(second))
    } else if which == Wanted::SocketUnusual as u32 {
        is_unusual(narrow(first), narrow(second), narrow(third))
    } else if which == Wanted::FcntlSocketOntoStdio as u32 {
        narrow(second) == DUPLICATE[0] || narrow(second) == DUPLICATE[1]
    } else if which == Wanted::Moved as u32 {
        call.result > 0
    } else {
        true
    };
    if !asked {
        return NO;
    }
    if call.result < 0 {
        // The kernel refused. Of what goes on all the time that is no news.
        let told = which == Wanted::Bpf as u32
            || which == Wanted::SocketUnusual as u32
            || which == Wanted::Ioctl as u32
            || which == Wanted::Repeated as u32;
        return if told { repeated(call, first, second) } else { NO };
    }
    if which == Wanted::ProtectExecutable as u32 {
        repeated(call, third, 0)
    } else if which == Wanted::Bpf as u32 {
        repeated(call, first, third)
    } else if which == Wanted::Moved as u32 {
        repeated(call, first, second ^ third.rotate_left(32))
    } else if which == Wanted::Repeated as u32 {
        repeated(call, first, 0)
    } else if which == Wanted::SocketOntoStdio as u32 || which == Wanted::FcntlSocketOntoStdio as u32 {
        socket_onto_stdio(call)
    } else {
        YES
    }
}

/// Of equal calls the first is recorded, the others within a second are counted.
#[inline(always)]
fn repeated(call: &Call, object: u64, place: u64) -> Result<Recent, Loss> {
    Ok(file::recent(
        call.task,
        &Key {
            object: object ^ u64::from(call.number()).rotate_left(48),
            place,
            how: call.result.min(0) as u64,
        },
    ))
}

#[inline(always)]
fn socket_onto_stdio(call: &Call) -> Result<Recent, Loss> {
    if call.result > 2 {
        return Ok(Recent::Reported);
    }
    Ok(match socket::of_file(call.task.file(call.result as u32)?)? {
        Some(_) => Recent::Due(0),
        None => Recent::Reported,
    })
}

/// Requests of `ptrace` that take hold of a process or change it (include/uapi/linux/ptrace.h).
#[inline(always)]
fn is_hold(request: u64) -> bool {
    // TRACEME, POKETEXT, POKEDATA, POKEUSR, SETREGS, SETFPREGS, ATTACH; SETREGSET, SEIZE.
    const SMALL: u64 = 1 | 1 << 4 | 1 << 5 | 1 << 6 | 1 << 13 | 1 << 15 | 1 << 16;
    (request < 64 && SMALL >> request & 1 != 0) || request == 0x4205 || request == 0x4206
}

/// Commands of `bpf` that load, attach, pin, or change or open what others made (include/uapi/linux/bpf.h).
#[inline(always)]
fn is_telling(command: u64) -> bool {
    // MAP_CREATE, MAP_UPDATE_ELEM, MAP_DELETE_ELEM, PROG_LOAD, OBJ_PIN, OBJ_GET, PROG_ATTACH, PROG_DETACH,
    // PROG_GET_FD_BY_ID, MAP_GET_FD_BY_ID, RAW_TRACEPOINT_OPEN, MAP_FREEZE, MAP_UPDATE_BATCH, MAP_DELETE_BATCH,
    // LINK_CREATE, LINK_UPDATE, LINK_GET_FD_BY_ID, LINK_DETACH, PROG_BIND_MAP.
    const TELLING: u64 = 1
        | 1 << 2
        | 1 << 3
        | 1 << 5
        | 1 << 6
        | 1 << 7
        | 1 << 8
        | 1 << 9
        | 1 << 13
        | 1 << 14
        | 1 << 17
        | 1 << 22
        | 1 << 26
        | 1 << 27
        | 1 << 28
        | 1 << 29
        | 1 << 30
        | 1 << 34
        | 1 << 35;
    command < 64 && TELLING >> command & 1 != 0
}

/// Options of `prctl` that hide a process, or change who may look at it or what it may do (include/uapi/linux/prctl.h).
#[inline(always)]
fn is_telling_prctl(option: u64) -> bool {
    // SET_DUMPABLE, SET_KEEPCAPS, SET_NAME, SET_MM, SET_CHILD_SUBREAPER, CAP_AMBIENT; SET_PTRACER.
    const TELLING: u64 = 1 << 4 | 1 << 8 | 1 << 15 | 1 << 35 | 1 << 36 | 1 << 47;
    (option < 64 && TELLING >> option & 1 != 0) || option == 0x5961_6d61
}

/// Requests of `ioctl` that put input into a terminal, set attributes of files, or make an interface listen to all.
#[inline(always)]
fn is_telling_ioctl(request: u64) -> bool {
    // TIOCSTI, TIOCLINUX, FS_IOC_SETFLAGS, FS_IOC32_SETFLAGS, FS_IOC_FSSETXATTR, SIOCSIFFLAGS, TUNSETIFF, LOOP_SET_FD.
    request == 0x5412
        || request == 0x541c
        || request == 0x4008_6602
        || request == 0x4004_6602
        || request == 0x401c_5820
        || request == 0x8914
        || request == 0x4004_54ca
        || request == 0x4c00
}

/// Sockets that ordinary programs do not make (include/linux/socket.h).
#[inline(always)]
pub(crate) fn is_unusual(family: u64, socket_type: u64, protocol: u64) -> bool {
    // KEY, NETLINK apart, PACKET, RDS, CAN, TIPC, BLUETOOTH, ALG, VSOCK, XDP.
    const UNUSUAL: u64 = 1 << 15 | 1 << 17 | 1 << 21 | 1 << 29 | 1 << 30 | 1 << 31 | 1 << 38 | 1 << 40 | 1 << 44;
    const NETLINK: u64 = 16;
    // AUDIT, CONNECTOR, NETFILTER.
    const NETLINK_UNUSUAL: u64 = 1 << 9 | 1 << 11 | 1 << 12;
    const RAW: u64 = 3;
    if family == NETLINK {
        return protocol < 64 && NETLINK_UNUSUAL >> protocol & 1 != 0;
    }
    (family < 64 && UNUSUAL >> family & 1 != 0) || socket_type & 0xf == RAW
}
