//! Sockets: connect, bind, listen, accept, what is sent and what DNS answers at the end of their system call; ends of
//! connections, and what reaches a socket by other ways, at hooks of their own.

use crate::{
    SETTINGS, constant,
    emit::{self, Buffer, Record, place},
    file::{self, Key, Recent},
    is_current,
    kernel::{Call, File, Task, read, read_to},
    offset, shaped, wanted,
};
use aya_ebpf::{
    EbpfContext as _,
    helpers::generated::bpf_probe_read_user,
    macros::map,
    maps::{HashMap, LruHashMap},
    programs::BtfTracePointContext,
};
use core::{mem::MaybeUninit, ptr::read_volatile};
use staghound_ebpf::{ABSENT, Action, Ended, Ends, Header, Kind, Loss, PAYLOAD_BYTES_MAX, Ring, Socket, flags};
use zerocopy::FromZeros as _;

const AF_UNIX: u16 = 1;
const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;
const IPPROTO_TCP: u16 = 6;
const DNS_PORT: u16 = 53;
const TLS_PORT: u16 = 443;
const EINPROGRESS: i64 = -115;
/// File type bits, and a socket's (`S_IFMT`, `S_IFSOCK`).
const FILE_TYPE: u16 = 0o170_000;
const SOCKET_TYPE: u16 = 0o140_000;
/// Messages of one `sendmmsg` that are looked at; the resolver sends two.
const MESSAGES_MAX: u32 = 4;
/// `struct mmsghdr` as 64-bit and 32-bit callers lay it out (include/linux/socket.h).
const MMSGHDR_BYTES: [u64; 2] = [64, 32];
/// Where in it the length of what came is.
const MMSGHDR_LENGTH: [u64; 2] = [56, 28];
/// Sockets without a peer whose last question is remembered.
const ASKED_MAX: u32 = 1024;

/// Reads user memory.
#[inline(always)]
pub(crate) fn read_user<T: Copy>(address: u64) -> Option<T> {
    let mut value = MaybeUninit::<T>::uninit();
    // SAFETY: the helper checks the source and writes all of `value` or fails.
    let status = unsafe { bpf_probe_read_user(value.as_mut_ptr().cast(), size_of::<T>() as u32, address as *const _) };
    // SAFETY: written, since the helper succeeded.
    (status >= 0).then(|| unsafe { value.assume_init() })
}

/// The kernel's `struct sock` behind a file, if it is a socket.
#[inline(always)]
pub(crate) fn of_file(file: File) -> Result<Option<u64>, Loss> {
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
pub(crate) fn ends(sock: u64, ends: &mut Ends) -> Result<(), Loss> {
    ends.family = read(sock, offset!(sock_family))?;
    ends.protocol = read(sock, offset!(sock_protocol))?;
    (ends.local_port, ends.remote_port) = addresses(sock, ends.family, &raw mut ends.local, &raw mut ends.remote)?;
    Ok(())
}

/// Writes down the addresses of a socket, and yields its ports; nothing of any but those of the internet.
#[inline(always)]
fn addresses(sock: u64, family: u16, local: *mut [u8; 16], remote: *mut [u8; 16]) -> Result<(u16, u16), Loss> {
    // SAFETY: both callers hand in members of what they fill.
    let put = |to: *mut [u8; 16], at: usize| unsafe { read_to(to, sock, at) };
    // SAFETY: as above.
    let put_v4 = |to: *mut [u8; 16], at: usize| unsafe { read_to(to.cast::<[u8; 4]>(), sock, at) };
    if family == AF_INET {
        put_v4(local, offset!(sock_local_v4))?;
        put_v4(remote, offset!(sock_remote_v4))?;
    } else if family == AF_INET6 && offset!(sock_remote_v6) != ABSENT as usize {
        put(local, offset!(sock_local_v6))?;
        put(remote, offset!(sock_remote_v6))?;
    } else {
        return Ok((0, 0));
    }
    Ok((
        read(sock, offset!(sock_local_port))?,
        u16::from_be(read(sock, offset!(sock_remote_port))?),
    ))
}

#[inline(always)]
fn put_v4(to: &mut [u8; 16], from: [u8; 4]) {
    to[0] = from[0];
    to[1] = from[1];
    to[2] = from[2];
    to[3] = from[3];
}

/// Fills the body of a record from the socket.
#[inline(always)]
pub(crate) fn describe(sock: u64, record: &Record<Socket>) -> Result<(), Loss> {
    match describe_socket(record.place(), sock) {
        0 => Ok(()),
        _ => Err(Loss::ReadFailed),
    }
}

/// A global function, as `path::append_path` is; yields 1 when something could not be read.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn describe_socket(place: u32, sock: u64) -> u32 {
    let Some(body) = body_at(place) else { return 1 };
    u32::from(read_socket(sock, body).is_err())
}

/// The body of the record in this place.
#[inline(always)]
fn body_at(place: u32) -> Option<&'static mut Socket> {
    let buffer = Buffer::at(place, 0)?;
    // SAFETY: a header and such a body lie in the fixed part of scratch memory, which one program uses at a time.
    Some(unsafe { &mut *buffer.header().add(1).cast() })
}

#[inline(always)]
fn read_socket(sock: u64, body: &mut Socket) -> Result<(), Loss> {
    body.zero();
    body.family = read(sock, offset!(sock_family))?;
    body.protocol = read(sock, offset!(sock_protocol))?;
    (body.local_port, body.remote_port) = addresses(sock, body.family, &raw mut body.local, &raw mut body.remote)?;
    body.identity = sock;
    body.socket_type = u32::from(read::<u16>(sock, offset!(sock_type))?);
    Ok(())
}

/// Whose memory an address lies in.
#[derive(Clone, Copy)]
pub(crate) enum Memory {
    /// That of the process.
    User,
    /// The kernel's.
    Kernel,
}

impl Memory {
    #[inline(always)]
    fn read<T: Copy>(self, address: u64) -> Option<T> {
        match self {
            Self::User => read_user(address),
            Self::Kernel => read(address, 0).ok(),
        }
    }
}

/// Takes the remote end from the address that the process passed; false when it is none of ours.
#[inline(always)]
fn take_passed(address: u64, record: &Record<Socket>) -> bool {
    take_address(address, Memory::User, record)
}

/// The same of an address in anybody's memory.
#[inline(always)]
fn take_address(address: u64, memory: Memory, record: &Record<Socket>) -> bool {
    take_remote(record.place(), address, memory as u32) != 0
}

/// A global function, likewise; yields 0 when the address is none of ours.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn take_remote(place: u32, address: u64, memory: u32) -> u32 {
    let Some(body) = body_at(place) else { return 0 };
    let memory = if memory == Memory::User as u32 {
        Memory::User
    } else {
        Memory::Kernel
    };
    u32::from(read_remote(address, memory, body))
}

#[inline(always)]
fn read_remote(address: u64, memory: Memory, body: &mut Socket) -> bool {
    // `struct sockaddr_in`: family, port, address; `struct sockaddr_in6`: family, port, flow, address.
    let Some(head) = memory.read::<[u8; 8]>(address) else {
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
        let Some(remote) = memory.read::<[u8; 16]>(address + 8) else {
            return false;
        };
        body.remote = remote;
    } else {
        return false;
    }
    body.remote_port = u16::from_be_bytes([head[2], head[3]]);
    true
}

/// A call about a socket: as itself, or as `socketcall` wraps it.
#[derive(Clone, Copy)]
struct Request {
    action: u32,
    args: [u64; 5],
    /// Whether pointers and lengths in memory have 32 bits.
    short: bool,
}

impl Request {
    #[inline(always)]
    fn of(call: &Call) -> Option<Self> {
        let action = file::action(call);
        if action != Action::SocketCall as u32 {
            return Some(Self {
                action,
                args: [call.first(), call.second(), call.third(), call.fourth(), call.fifth()],
                short: call.compat || call.is_x32(),
            });
        }
        // One by one: there are as many as the call needs, and what lies behind them need not be there.
        let word = |index: u64| u64::from(read_user::<u32>(call.second() + 4 * index).unwrap_or(0));
        let mut args = [word(0), word(1), word(2), word(3), word(4)];
        // Numbers of `socketcall` (include/uapi/linux/net.h).
        let action = match call.first() {
            1 => Action::SocketCall,
            2 => Action::Bind,
            3 => Action::Connect,
            4 => Action::Listen,
            5 | 18 => Action::Accept,
            9 | 11 => Action::SendTo,
            10 | 12 => Action::ReceiveFrom,
            16 => Action::SendMsg,
            17 => Action::ReceiveMsg,
            19 => Action::ReceiveMmsg,
            20 => Action::SendMmsg,
            _ => return None,
        };
        if call.first() == 9 || call.first() == 10 {
            // `send` and `recv` have no address.
            args[4] = 0;
        }
        Some(Self {
            action: action as u32,
            args,
            short: true,
        })
    }

    #[inline(always)]
    fn does(&self, action: Action) -> bool {
        self.action == action as u32
    }
}

/// `socket`, as `socketcall` wraps it: told as the call of its own that later programs make.
#[inline(always)]
fn make(call: &Call, request: &Request) -> Result<(), Loss> {
    /// `socket` of 32-bit callers (arch/x86/entry/syscalls/syscall_32.tbl).
    const SOCKET: u32 = 359;
    let [family, socket_type, protocol, ..] = request.args;
    if call.result < 0 || !shaped::is_unusual(family, socket_type, protocol) {
        return Ok(());
    }
    let record = Record::<staghound_ebpf::Call>::new(place::SYSCALL)?;
    // SAFETY: header and body lie in scratch memory, which this program alone uses until it ends.
    unsafe {
        record.body().write(staghound_ebpf::Call {
            result: call.result,
            args: [family, socket_type, protocol, 0, 0, 0],
            ..staghound_ebpf::Call::default()
        });
    }
    call.describe(Kind::Call, &record);
    // SAFETY: as above.
    unsafe { (*record.header()).syscall = SOCKET };
    record.submit(Ring::Process)
}

/// `connect`, `bind`, `listen`, `accept`, `accept4`.
#[inline(always)]
pub(crate) fn state(call: &Call) -> Result<(), Loss> {
    let Some(request) = Request::of(call) else {
        return Ok(());
    };
    let action = request.action;
    if request.does(Action::SocketCall) {
        return make(call, &request);
    } else if request.does(Action::SendTo) || request.does(Action::SendMsg) || request.does(Action::SendMmsg) {
        return send_as(call, &request);
    } else if request.does(Action::ReceiveFrom) || request.does(Action::ReceiveMsg) || request.does(Action::ReceiveMmsg)
    {
        return receive_as(call, &request);
    }
    let (kind, descriptor) = if action == Action::Accept as u32 {
        (Kind::Accept, call.result as u32)
    } else if action == Action::Listen as u32 {
        (Kind::Listen, request.args[0] as u32)
    } else if action == Action::Bind as u32 {
        (Kind::Bind, request.args[0] as u32)
    } else {
        (Kind::Connect, request.args[0] as u32)
    };
    let connect = action == Action::Connect as u32;
    if call.result < 0 && !connect || file::was_nonsense(call) {
        return Ok(());
    }
    let Some(sock) = of_file(call.task.file(descriptor)?)? else {
        return Ok(());
    };
    let record = Record::<Socket>::new(place::SYSCALL)?;
    // SAFETY: header and body lie in scratch memory, which this program alone uses until it ends.
    let body = unsafe { &mut *record.body() };
    describe(sock, &record)?;
    body.result = call.result as i32;
    body.descriptor = descriptor;
    let opens = action == Action::Accept as u32 || connect && (call.result >= 0 || call.result == EINPROGRESS);
    if opens && body.protocol == IPPROTO_TCP {
        keep_scoped(sock)?;
    }
    call.describe(kind, &record);
    finish_state(record, connect, call.result, &request)
}

#[inline(always)]
fn finish_state(record: Record<Socket>, connect: bool, result: i64, request: &Request) -> Result<(), Loss> {
    // SAFETY: as in `state`.
    let body = unsafe { &mut *record.body() };
    if body.family == AF_UNIX {
        if !connect {
            return Ok(());
        }
        append_passed(&record, request.args[1], request.args[2])?;
    } else if body.family != AF_INET && body.family != AF_INET6 {
        return Ok(());
    } else if connect && result < 0 && result != EINPROGRESS && take_passed(request.args[1], &record) {
        // A failed connect leaves no remote end in the socket.
        record.flag(flags::ADDRESS_PASSED);
    }
    record.submit(Ring::Process)?;
    if connect && result == EINPROGRESS && body.protocol == IPPROTO_TCP {
        tell_refused(body.identity)?;
    }
    Ok(())
}

/// Tells of a connection that was refused while it was asked for, as by a host that is near: its end came before anybody
/// knew that it had begun.
#[inline(always)]
fn tell_refused(sock: u64) -> Result<(), Loss> {
    if i32::from(read::<u8>(sock, offset!(sock_state))?) != TCP_CLOSE {
        return Ok(());
    }
    let record = Record::<Ended>::new(place::SYSCALL)?;
    // SAFETY: header and body lie in scratch memory, which this program alone uses until it ends.
    let body = unsafe { &mut *record.body() };
    *body = Ended::default();
    ends(sock, &mut body.ends)?;
    body.socket = sock;
    body.error = read(sock, offset!(sock_error))?;
    body.unanswered = 1;
    record.describe(Kind::Ended);
    record.submit(Ring::Process)
}

/// Takes the remote end from the address that the process passed, of a UNIX socket its name.
#[inline(always)]
pub(crate) fn append_passed(record: &Record<Socket>, address: u64, len: u64) -> Result<(), Loss> {
    // SAFETY: the body lies in scratch memory, which this program alone uses until it ends.
    let body = unsafe { &mut *record.body() };
    if body.family != AF_UNIX {
        take_passed(address, record);
        return Ok(());
    }
    // `struct sockaddr_un`: family, then up to 108 bytes of path.
    let len = len.saturating_sub(2);
    record.begin();
    if len > 0 && len <= 108 {
        record.user_bytes::<127>(address + 2, len);
    }
    record.end(&raw mut body.data);
    Ok(())
}

/// One message: where its bytes are and where it goes, as the process passed them.
struct Message {
    address: u64,
    /// The first two parts of it.
    parts: [(u64, u64); 2],
}

impl Message {
    /// From one buffer.
    #[inline(always)]
    fn plain(address: u64, buffer: u64, len: u64) -> Self {
        Self {
            address,
            parts: [(buffer, len), (0, 0)],
        }
    }

    /// From an array of `struct iovec`.
    #[inline(always)]
    fn gathered(address: u64, vectors: u64, count: u64, compat: bool) -> Option<Self> {
        if count == 0 {
            return None;
        }
        let mut parts = [(0, 0); 2];
        if compat {
            let [buffer, len] = read_user::<[u32; 2]>(vectors)?;
            parts[0] = (u64::from(buffer), u64::from(len));
            if count > 1 {
                let [buffer, len] = read_user::<[u32; 2]>(vectors + 8)?;
                parts[1] = (u64::from(buffer), u64::from(len));
            }
        } else {
            let [buffer, len] = read_user::<[u64; 2]>(vectors)?;
            parts[0] = (buffer, len);
            if count > 1 {
                let [buffer, len] = read_user::<[u64; 2]>(vectors + 16)?;
                parts[1] = (buffer, len);
            }
        }
        Some(Self { address, parts })
    }

    /// From a `struct msghdr`: msg_name, msg_namelen (padded), msg_iov, msg_iovlen.
    #[inline(always)]
    fn of_header(header: u64, short: bool) -> Option<Self> {
        if short {
            let [address, _, vectors, count] = read_user::<[u32; 4]>(header)?;
            Self::gathered(u64::from(address), u64::from(vectors), u64::from(count), true)
        } else {
            let [address, _, vectors, count] = read_user::<[u64; 4]>(header)?;
            Self::gathered(address, vectors, count, false)
        }
    }

    /// Of the call, by what the table says it is; the `index`th of several.
    #[inline(always)]
    fn of(request: &Request, index: u32) -> Option<Self> {
        let [_, second, third, _, fifth] = request.args;
        if request.does(Action::SendTo) || request.does(Action::ReceiveFrom) {
            Some(Self::plain(fifth, second, third))
        } else if request.does(Action::Write) || request.does(Action::Read) {
            Some(Self::plain(0, second, third))
        } else if request.does(Action::WriteVector) || request.does(Action::ReadVector) {
            Self::gathered(0, second, third, request.short)
        } else {
            let stride = MMSGHDR_BYTES[usize::from(request.short)];
            Self::of_header(second + u64::from(index) * stride, request.short)
        }
    }

    /// Leaves of the buffers what came, which was `len` bytes.
    #[inline(always)]
    fn cut_to(&mut self, len: u64) {
        let first = self.parts[0].1.min(len);
        self.parts[0].1 = first;
        self.parts[1].1 = self.parts[1].1.min(len - first);
    }
}

/// `sendto`, `sendmsg`, `sendmmsg`; `write` and `writev` where no other hook shows them.
#[inline(always)]
pub(crate) fn send(call: &Call) -> Result<(), Loss> {
    match Request::of(call) {
        Some(request) => send_as(call, &request),
        None => Ok(()),
    }
}

#[inline(always)]
fn send_as(call: &Call, request: &Request) -> Result<(), Loss> {
    if call.result < 0 {
        return Ok(());
    }
    match of_file(call.task.file(request.args[0] as u32)?)? {
        Some(sock) => sent(call, request, sock, Record::new(place::SYSCALL)?),
        None => Ok(()),
    }
}

/// Whether what such a socket sends is of interest, whoever it goes to.
#[inline(always)]
fn may_tell_sent(body: &Socket) -> bool {
    let of_internet = body.family == AF_INET || body.family == AF_INET6;
    let stream = body.protocol == IPPROTO_TCP;
    of_internet && (!stream || body.remote_port == DNS_PORT || body.remote_port == TLS_PORT)
}

#[inline(always)]
fn sent(call: &Call, request: &Request, sock: u64, record: Record<Socket>) -> Result<(), Loss> {
    // SAFETY: header and body lie in scratch memory, which this program alone uses until it ends.
    let body = unsafe { &mut *record.body() };
    describe(sock, &record)?;
    body.result = call.result as i32;
    body.descriptor = request.args[0] as u32;
    let peer_port = body.remote_port;
    if !may_tell_sent(body) {
        return Ok(());
    }
    call.describe(Kind::Send, &record);
    let many = request.does(Action::SendMmsg);
    for index in 0..MESSAGES_MAX {
        if index > 0 && (!many || i64::from(index) >= call.result) {
            return Ok(());
        }
        let message = Message::of(request, index).ok_or(Loss::ReadFailed)?;
        tell_sent(&record, call.task, sock, (&message, Memory::User), peer_port)?;
    }
    if many && call.result > i64::from(MESSAGES_MAX) {
        return Err(Loss::MessageSkipped);
    }
    Ok(())
}

/// Tells of one message, if it is of interest.
#[inline(always)]
fn tell_sent(
    record: &Record<Socket>,
    task: Task,
    sock: u64,
    (message, address_in): (&Message, Memory),
    peer_port: u16,
) -> Result<(), Loss> {
    // SAFETY: the body lies in scratch memory, which this program alone uses until it ends.
    let body = unsafe { &mut *record.body() };
    let stream = body.protocol == IPPROTO_TCP;
    // An address that is passed goes before the peer of a connected socket.
    if message.address != 0 && !stream {
        if !take_address(message.address, address_in, record) {
            return Ok(());
        }
        record.flag(flags::ADDRESS_PASSED);
        if body.remote_port == DNS_PORT && peer_port == 0 {
            note_asked(task, sock, body);
        }
    } else {
        body.remote_port = peer_port;
    }
    record.restart();
    record.begin();
    if body.remote_port == DNS_PORT {
        append_message(record, message);
    } else if stream {
        if !is_client_hello(message.parts[0].0) {
            return Ok(());
        }
        append_message(record, message);
    } else if let Recent::Reported = file::recent(task, &peer(sock, body)) {
        return Ok(());
    }
    record.end(&raw mut body.data);
    record.submit(Ring::Process)
}

/// What a request of io_uring passes to be sent.
pub(crate) enum ByRing {
    /// `struct msghdr` of user space.
    Header(u64),
    /// One buffer, its length, and where the address lies, if one is passed.
    Buffer(u64, u64, u64, Memory),
}

/// Sends by io_uring, told as they are submitted; `describe_header` writes who did it.
#[inline(always)]
pub(crate) fn sent_by_ring(
    task: Task,
    sock: u64,
    descriptor: u32,
    what: &ByRing,
    describe_header: impl FnOnce(&Record<Socket>),
) -> Result<(), Loss> {
    let record = Record::<Socket>::new(place::REQUEST)?;
    // SAFETY: header and body lie in scratch memory, which this program alone uses until it ends.
    let body = unsafe { &mut *record.body() };
    describe(sock, &record)?;
    body.descriptor = descriptor;
    if !may_tell_sent(body) {
        return Ok(());
    }
    describe_header(&record);
    let peer_port = body.remote_port;
    let (message, address_in) = match *what {
        ByRing::Header(header) => (
            Message::of_header(header, task.is_compat()).ok_or(Loss::ReadFailed)?,
            Memory::User,
        ),
        ByRing::Buffer(buffer, len, address, address_in) => (Message::plain(address, buffer, len), address_in),
    };
    tell_sent(&record, task, sock, (&message, address_in), peer_port)
}

/// Whom a socket without a peer asked for a name.
#[repr(C)]
#[derive(Clone, Copy)]
struct Asked {
    remote: [u8; 16],
    /// Thread group that asked: the memory of the socket may be another's by now.
    pid: u32,
    reserved: u32,
}

/// By socket: of whoever receives without asking for the address, the kernel keeps none.
#[map]
static ASKED: LruHashMap<u64, Asked> = LruHashMap::with_max_entries(ASKED_MAX, 0);

#[inline(always)]
fn note_asked(task: Task, sock: u64, body: &Socket) {
    let asked = Asked {
        remote: body.remote,
        pid: task.pid(),
        reserved: 0,
    };
    if ASKED.insert(sock, asked, 0).is_err() {
        emit::count(Loss::MessageSkipped);
    }
}

/// Whether the process has asked for a name by a socket without a peer.
#[inline(always)]
fn has_asked(task: Task, sock: u64) -> bool {
    // A number is compared, not the pointer: the verifier lets nobody count with that.
    let pid = ASKED.get_ptr(sock).map_or(0, |asked| {
        // SAFETY: a valid map value.
        unsafe { read_volatile(&raw const (*asked).pid) }
    });
    pid == task.pid()
}

/// Takes the remote end from the last question that the socket asked; false when it asked none.
#[inline(always)]
fn take_asked(task: Task, sock: u64, body: &mut Socket) -> bool {
    let Some(asked) = ASKED.get_ptr(sock) else {
        return false;
    };
    // SAFETY: a valid map value.
    let asked = unsafe { asked.read() };
    if asked.pid != task.pid() {
        return false;
    }
    body.remote = asked.remote;
    body.remote_port = DNS_PORT;
    true
}

/// Datagrams of one socket to one peer are equal.
#[inline(always)]
fn peer(sock: u64, body: &Socket) -> Key {
    let halves = body.remote.as_chunks::<8>().0;
    Key {
        object: sock,
        place: u64::from_ne_bytes(halves[0]).rotate_left(1) ^ u64::from_ne_bytes(halves[1]),
        how: u64::from(body.remote_port),
    }
}

#[inline(always)]
fn append_message(record: &Record<Socket>, message: &Message) {
    const MAX: u32 = PAYLOAD_BYTES_MAX as u32 - 1;
    let [(first, first_len), (second, second_len)] = message.parts;
    if !record.user_bytes::<MAX>(first, first_len) || (second_len > 0 && !record.user_bytes::<MAX>(second, second_len))
    {
        record.flag(flags::FAULT);
    }
}

/// Whether a TLS client begins to speak: record of a handshake, version 3, handshake message `ClientHello` (RFC 8446).
#[inline(always)]
fn is_client_hello(buffer: u64) -> bool {
    let Some(head) = read_user::<[u8; 6]>(buffer) else {
        return false;
    };
    head[0] == 0x16 && head[1] == 3 && head[5] == 1
}

/// `recvfrom`, `recvmsg`, `recvmmsg`; `read` and `readv` where no other hook shows them. For what comes from port 53.
#[inline(always)]
pub(crate) fn receive(call: &Call) -> Result<(), Loss> {
    match Request::of(call) {
        Some(request) => receive_as(call, &request),
        None => Ok(()),
    }
}

#[inline(always)]
fn receive_as(call: &Call, request: &Request) -> Result<(), Loss> {
    if call.result <= 0 {
        return Ok(());
    }
    match of_file(call.task.file(request.args[0] as u32)?)? {
        Some(sock) => received(call, request, sock, Record::new(place::SYSCALL)?),
        None => Ok(()),
    }
}

#[inline(always)]
fn received(call: &Call, request: &Request, sock: u64, record: Record<Socket>) -> Result<(), Loss> {
    let family: u16 = read(sock, offset!(sock_family))?;
    if family != AF_INET && family != AF_INET6 {
        return Ok(());
    }
    let peer_port = u16::from_be(read(sock, offset!(sock_remote_port))?);
    let connected = peer_port != 0;
    if connected && peer_port != DNS_PORT {
        return Ok(());
    }
    let many = request.does(Action::ReceiveMmsg);
    let has_asked = !connected && has_asked(call.task, sock);
    // SAFETY: header and body lie in scratch memory, which this program alone uses until it ends.
    let body = unsafe { &mut *record.body() };
    body.identity = 0;
    for index in 0..MESSAGES_MAX {
        if index > 0 && (!many || i64::from(index) >= call.result) {
            return Ok(());
        }
        let mut message = Message::of(request, index).ok_or(Loss::ReadFailed)?;
        if !connected && message.address == 0 && !has_asked {
            continue;
        }
        if body.identity == 0 {
            describe(sock, &record)?;
            body.result = call.result as i32;
            body.descriptor = request.args[0] as u32;
            call.describe(Kind::Receive, &record);
        }
        if !connected {
            let told = message.address != 0 && take_address(message.address, Memory::User, &record);
            if !told && !take_asked(call.task, sock, body) || body.remote_port != DNS_PORT {
                continue;
            }
            record.flag(flags::ADDRESS_PASSED);
        }
        // The buffers are larger than what came.
        message.cut_to(if many {
            let at = MMSGHDR_LENGTH[usize::from(request.short)]
                + u64::from(index) * MMSGHDR_BYTES[usize::from(request.short)];
            u64::from(read_user::<u32>(request.args[1] + at).ok_or(Loss::ReadFailed)?)
        } else {
            call.result as u64
        });
        record.restart();
        record.begin();
        append_message(&record, &message);
        record.end(&raw mut body.data);
        record.submit(Ring::Process)?;
    }
    // Whether the others are answers nobody knows, unless the socket has asked.
    if many && call.result > i64::from(MESSAGES_MAX) && (connected || has_asked) {
        return Err(Loss::MessageSkipped);
    }
    Ok(())
}

/// `sock_send_length(sk, ret, flags)`, since 6.3: whatever reached a socket by other calls than those of sockets.
#[inline(always)]
pub(crate) fn sent_otherwise(ctx: &BtfTracePointContext) -> Result<(), Loss> {
    other_way(ctx, sent, [Action::Write, Action::WriteVector], false)
}

/// `sock_recv_length(sk, ret, flags)`, likewise.
#[inline(always)]
pub(crate) fn received_otherwise(ctx: &BtfTracePointContext) -> Result<(), Loss> {
    other_way(ctx, received, [Action::Read, Action::ReadVector], true)
}

/// The first argument of a tracepoint as a bare address, which the verifier lets us count with.
#[inline(always)]
fn first_argument(ctx: &BtfTracePointContext) -> Result<u64, Loss> {
    read(ctx.as_ptr() as u64, 0)
}

#[inline(always)]
fn other_way(
    ctx: &BtfTracePointContext,
    look: fn(&Call, &Request, u64, Record<Socket>) -> Result<(), Loss>,
    actions: [Action; 2],
    receives: bool,
) -> Result<(), Loss> {
    let sock = first_argument(ctx)?;
    let result = i64::from(ctx.arg::<i32>(1));
    if result <= 0 || constant(&SETTINGS.task_registers) == 0 {
        return Ok(());
    }
    let port = u16::from_be(read(sock, offset!(sock_remote_port))?);
    // One without a peer may have asked for a name.
    let may_tell =
        port == DNS_PORT || !receives && port == TLS_PORT || receives && port == 0 && has_asked(Task::current(), sock);
    if !may_tell {
        return Ok(());
    }
    let call = Call::of_current(result);
    let Some(request) = Request::of(&call) else {
        return Ok(());
    };
    if !actions.into_iter().any(|action| request.does(action)) || !wanted(call.task.pid()) {
        return Ok(());
    }
    look(&call, &request, sock, Record::new(place::SOCKET)?)
}

#[repr(C)]
struct SocketRecord {
    header: Header,
    body: Socket,
}

#[repr(C)]
struct EndedRecord {
    header: Header,
    body: Ended,
}

/// Sockets of connections that processes in scope opened, when the agent watches one process tree only: whoever runs when
/// a connection ends has as a rule nothing to do with it. Not preallocated: most agents watch all.
#[map]
static SCOPED_SOCKETS: HashMap<u64, u32> = HashMap::with_max_entries(65_536, aya_ebpf::bindings::BPF_F_NO_PREALLOC);

/// TCP states (include/net/tcp_states.h).
const TCP_SYN_SENT: i32 = 2;
const TCP_CLOSE: i32 = 7;
const TCP_LISTEN: i32 = 10;

/// Keeps the socket of a connection whose end is to be told.
#[inline(always)]
fn keep_scoped(sock: u64) -> Result<(), Loss> {
    if constant(&SETTINGS.scoped) == 0 || i32::from(read::<u8>(sock, offset!(sock_state))?) == TCP_CLOSE {
        return Ok(());
    }
    SCOPED_SOCKETS.insert(sock, 1, 0).map_err(|_| Loss::ScopeFull)
}

/// `inet_sock_set_state(sk, old, new)`: connections that no `connect` call shows, and ends of connections. May run in an
/// interrupt, so that it must not use the scratch memory of the others.
#[inline(always)]
pub(crate) fn change(ctx: &BtfTracePointContext) -> Result<(), Loss> {
    let sock = first_argument(ctx)?;
    let old = ctx.arg::<i32>(1);
    let new = ctx.arg::<i32>(2);
    if new == TCP_SYN_SENT {
        return connecting(sock);
    }
    if new != TCP_CLOSE || old == TCP_LISTEN || old == TCP_CLOSE || !is_current() {
        return Ok(());
    }
    if constant(&SETTINGS.scoped) != 0 && SCOPED_SOCKETS.remove(sock).is_err() {
        return Ok(());
    }
    let mut record = EndedRecord {
        header: Header::default(),
        body: Ended::default(),
    };
    ends(sock, &mut record.body.ends)?;
    if record.body.ends.protocol != IPPROTO_TCP {
        return Ok(());
    }
    record.body.socket = sock;
    record.body.error = read(sock, offset!(sock_error))?;
    record.body.unanswered = u32::from(old == TCP_SYN_SENT);
    if offset!(tcp_received) != ABSENT as usize {
        // The kernel counts the end of the stream as a byte.
        /// `SOCK_DONE` (`enum sock_flags`, include/net/sock.h): the other end has said that nothing more comes.
        const DONE: u64 = 1 << 1;
        let ended = read::<u64>(sock, offset!(sock_flags))? & DONE != 0;
        record.body.received = read::<u64>(sock, offset!(tcp_received))?.saturating_sub(u64::from(ended));
    }
    if offset!(tcp_sent) != ABSENT as usize && offset!(tcp_sent_again) != ABSENT as usize {
        let sent: u64 = read(sock, offset!(tcp_sent))?;
        record.body.sent = sent.saturating_sub(read(sock, offset!(tcp_sent_again))?);
    }
    // SAFETY: the header is ours.
    unsafe { Task::current().describe(Kind::Ended as u32, &raw mut record.header) };
    // SAFETY: the record begins with a header, and both parts are free of padding by construction.
    unsafe { emit::submit(Ring::Process, &mut record) }
}

/// A TCP connection begins: reported here when no call shows it that is reported at its end, as with io_uring and
/// `MSG_FASTOPEN`.
#[inline(always)]
fn connecting(sock: u64) -> Result<(), Loss> {
    let task = Task::current();
    if !wanted(task.pid()) {
        return Ok(());
    }
    let io_uring = task.is_io_worker();
    let action = match task.current_call() {
        Some(number) => file::action_of(number as u32, task.is_compat()),
        None if io_uring => 0,
        None => return Ok(()),
    };
    if !io_uring && (action == Action::Connect as u32 || action == Action::SocketCall as u32) {
        return Ok(());
    }
    let mut record = SocketRecord {
        header: Header::default(),
        body: Socket::default(),
    };
    read_socket(sock, &mut record.body)?;
    // SAFETY: the header is ours.
    unsafe { task.describe(Kind::Connect as u32, &raw mut record.header) };
    record.header.flags |= flags::RESULT_UNKNOWN;
    if io_uring || action == 0 {
        record.header.flags |= flags::IO_URING;
    }
    // Not closed, though the state is set only after this.
    if constant(&SETTINGS.scoped) != 0 && SCOPED_SOCKETS.insert(sock, 1, 0).is_err() {
        emit::count(Loss::ScopeFull);
    }
    // SAFETY: the record begins with a header, and both parts are free of padding by construction.
    unsafe { emit::submit(Ring::Process, &mut record) }
}
