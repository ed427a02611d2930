//! Sockets: connect, listen, accept, datagrams to port 53; all at the end of their system call.

use crate::{
    emit::Record,
    file,
    kernel::{Call, read},
    offset,
};
use aya_ebpf::helpers::generated::bpf_probe_read_user;
use core::mem::MaybeUninit;
use staghound_ebpf::{ABSENT, Action, Kind, Loss, PAYLOAD_BYTES_MAX, Ring, Socket, flags};

const AF_UNIX: u16 = 1;
const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;
const IPPROTO_UDP: u16 = 17;
const DNS_PORT: u16 = 53;
const EINPROGRESS: i64 = -115;
/// File type bits, and a socket's (`S_IFMT`, `S_IFSOCK`).
const FILE_TYPE: u16 = 0o170_000;
const SOCKET_TYPE: u16 = 0o140_000;
/// Messages of one `sendmmsg` that are looked at; the resolver sends two.
const MESSAGES_MAX: u32 = 4;
/// `struct mmsghdr` and `struct msghdr` as 64-bit callers lay them out (include/linux/socket.h).
const MMSGHDR_BYTES: u64 = 64;

/// Reads user memory.
#[inline(always)]
fn read_user<T: Copy>(address: u64) -> Option<T> {
    let mut value = MaybeUninit::<T>::uninit();
    // SAFETY: the helper checks the source and writes all of `value` or fails.
    let status = unsafe { bpf_probe_read_user(value.as_mut_ptr().cast(), size_of::<T>() as u32, address as *const _) };
    // SAFETY: written, since the helper succeeded.
    (status >= 0).then(|| unsafe { value.assume_init() })
}

/// The kernel's `struct sock` behind a descriptor.
#[inline(always)]
fn sock(call: &Call, descriptor: u32) -> Result<Option<u64>, Loss> {
    let file = call.task.file(descriptor)?;
    if file.inode()?.mode()? & FILE_TYPE != SOCKET_TYPE {
        return Ok(None);
    }
    match read::<u64>(file.private()?, offset!(socket_sock))? {
        0 => Ok(None),
        sock => Ok(Some(sock)),
    }
}

/// Both ends, as the kernel keeps them.
#[inline(always)]
fn describe(sock: u64, body: &mut Socket) -> Result<(), Loss> {
    body.family = read(sock, offset!(sock_family))?;
    body.protocol = read(sock, offset!(sock_protocol))?;
    if body.family == AF_INET {
        let local: [u8; 4] = read(sock, offset!(sock_local_v4))?;
        let remote: [u8; 4] = read(sock, offset!(sock_remote_v4))?;
        put_v4(&mut body.local, local);
        put_v4(&mut body.remote, remote);
    } else if body.family == AF_INET6 && offset!(sock_remote_v6) != ABSENT as usize {
        body.local = read(sock, offset!(sock_local_v6))?;
        body.remote = read(sock, offset!(sock_remote_v6))?;
    } else {
        return Ok(());
    }
    body.local_port = read(sock, offset!(sock_local_port))?;
    body.remote_port = u16::from_be(read(sock, offset!(sock_remote_port))?);
    Ok(())
}

#[inline(always)]
fn put_v4(to: &mut [u8; 16], from: [u8; 4]) {
    to[0] = from[0];
    to[1] = from[1];
    to[2] = from[2];
    to[3] = from[3];
}

/// Takes the remote end from the address that the process passed; false when it is none of ours.
#[inline(always)]
fn take_passed(address: u64, body: &mut Socket) -> bool {
    // `struct sockaddr_in`: family, port, address; `struct sockaddr_in6`: family, port, flow, address.
    let Some(head) = read_user::<[u8; 8]>(address) else {
        return false;
    };
    let family = u16::from_ne_bytes([head[0], head[1]]);
    if family == AF_INET {
        let address = [head[4], head[5], head[6], head[7]];
        body.remote = [0; 16];
        if body.family == AF_INET6 {
            // Into a record of the other family it goes as the kernel would map it.
            body.remote[10] = 0xff;
            body.remote[11] = 0xff;
            body.remote[12] = address[0];
            body.remote[13] = address[1];
            body.remote[14] = address[2];
            body.remote[15] = address[3];
        } else {
            put_v4(&mut body.remote, address);
        }
    } else if family == AF_INET6 {
        let Some(remote) = read_user::<[u8; 16]>(address + 8) else {
            return false;
        };
        body.remote = remote;
    } else {
        return false;
    }
    body.remote_port = u16::from_be_bytes([head[2], head[3]]);
    true
}

/// `connect`, `listen`, `accept`, `accept4`.
#[inline(always)]
pub(crate) fn state(call: &Call) -> Result<(), Loss> {
    let action = file::action(call);
    let (kind, descriptor) = if action == Action::Accept as u32 {
        (Kind::Accept, call.result as u32)
    } else if action == Action::Listen as u32 {
        (Kind::Listen, call.first() as u32)
    } else {
        (Kind::Connect, call.first() as u32)
    };
    let connect = action == Action::Connect as u32;
    if call.result < 0 && !connect {
        return Ok(());
    }
    if file::was_nonsense(call) {
        return Ok(());
    }
    let Some(sock) = sock(call, descriptor)? else {
        return Ok(());
    };
    let mut record = Record::<Socket>::of_syscall()?;
    // SAFETY: header and body lie in scratch memory, which this program alone uses until it ends.
    let body = unsafe { &mut *record.body() };
    *body = Socket {
        result: call.result as i32,
        descriptor,
        ..Socket::default()
    };
    describe(sock, body)?;
    // SAFETY: as above.
    unsafe { call.describe(kind, record.header()) };
    if body.family == AF_UNIX {
        if !connect {
            return Ok(());
        }
        // `struct sockaddr_un`: family, then up to 108 bytes of path.
        let len = call.third().saturating_sub(2);
        record.begin();
        if len > 0 && len <= 108 {
            record.user_bytes::<127>(call.second() + 2, len);
        }
        record.end(&raw mut body.data);
    } else if body.family != AF_INET && body.family != AF_INET6 {
        return Ok(());
    } else if connect && call.result < 0 && call.result != EINPROGRESS && take_passed(call.second(), body) {
        // A failed connect leaves no remote end in the socket.
        record.flag(flags::ADDRESS_PASSED);
    }
    record.submit(Ring::Process)
}

/// One datagram: where its bytes are and where it goes, as the process passed them.
struct Message {
    address: u64,
    buffer: u64,
    len: u64,
}

/// `sendto`, `sendmsg`, `sendmmsg`, for datagrams to port 53.
#[inline(always)]
pub(crate) fn send(call: &Call) -> Result<(), Loss> {
    if call.result < 0 {
        return Ok(());
    }
    let descriptor = call.first() as u32;
    let Some(sock) = sock(call, descriptor)? else {
        return Ok(());
    };
    let mut record = Record::<Socket>::of_syscall()?;
    // SAFETY: header and body lie in scratch memory, which this program alone uses until it ends.
    let body = unsafe { &mut *record.body() };
    *body = Socket {
        result: call.result as i32,
        descriptor,
        ..Socket::default()
    };
    describe(sock, body)?;
    let peer_port = body.remote_port;
    if body.protocol != IPPROTO_UDP {
        return Ok(());
    }
    // SAFETY: as above.
    unsafe { call.describe(Kind::Send, record.header()) };
    let action = file::action(call);
    if action != Action::SendTo as u32 && call.compat {
        return Err(Loss::MessageSkipped);
    }
    let many = action == Action::SendMmsg as u32;
    for index in 0..MESSAGES_MAX {
        if index > 0 && (!many || i64::from(index) >= call.result) {
            return Ok(());
        }
        let message = if action == Action::SendTo as u32 {
            Message {
                address: call.fifth(),
                buffer: call.second(),
                len: call.third(),
            }
        } else {
            message(call.second() + u64::from(index) * MMSGHDR_BYTES).ok_or(Loss::ReadFailed)?
        };
        // An address that is passed goes before the peer of a connected socket.
        if message.address != 0 {
            if !take_passed(message.address, body) || body.remote_port != DNS_PORT {
                continue;
            }
            record.flag(flags::ADDRESS_PASSED);
        } else if peer_port != DNS_PORT {
            continue;
        }
        record.restart();
        record.begin();
        if !record.user_bytes::<{ PAYLOAD_BYTES_MAX as u32 - 1 }>(message.buffer, message.len) {
            record.flag(flags::FAULT);
        }
        record.end(&raw mut body.data);
        record.submit(Ring::Process)?;
    }
    if many && call.result > i64::from(MESSAGES_MAX) {
        return Err(Loss::MessageSkipped);
    }
    Ok(())
}

/// Reads a `struct msghdr` of a 64-bit caller and its first `struct iovec`.
#[inline(always)]
fn message(header: u64) -> Option<Message> {
    // msg_name, msg_namelen (padded), msg_iov, msg_iovlen.
    let [address, _, vectors, count] = read_user::<[u64; 4]>(header)?;
    if count == 0 {
        return None;
    }
    let [buffer, len] = read_user::<[u64; 2]>(vectors)?;
    Some(Message { address, buffer, len })
}
