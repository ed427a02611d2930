//! The calls of bpf(2) that aya does not have, has only for objects that it made itself, or makes with more ado.
//!
//! Layouts are those of `union bpf_attr` and of the `bpf_*_info` structs (include/uapi/linux/bpf.h), which are ABI.

use std::{
    ffi::{CStr, CString},
    fmt, io,
    os::{
        fd::{AsFd as _, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

use aya_obj::generated::bpf_insn;

const BPF_MAP_LOOKUP_ELEM: libc::c_long = 1;
const BPF_MAP_UPDATE_ELEM: libc::c_long = 2;
const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_OBJ_PIN: libc::c_long = 6;
const BPF_OBJ_GET: libc::c_long = 7;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_long = 15;
const BPF_RAW_TRACEPOINT_OPEN: libc::c_long = 17;
const BPF_BTF_LOAD: libc::c_long = 18;
const BPF_MAP_FREEZE: libc::c_long = 22;
const BPF_MAP_LOOKUP_BATCH: libc::c_long = 24;
const BPF_LINK_CREATE: libc::c_long = 28;

/// `BPF_PERF_EVENT` of `enum bpf_attach_type`.
const ATTACH_PERF_EVENT: u32 = 41;
const PERF_TYPE_TRACEPOINT: u32 = 2;
/// `PERF_ATTR_SIZE_VER0`: all that a tracepoint needs, and every kernel knows it.
const PERF_ATTR_BYTES: u32 = 64;
const PERF_FLAG_FD_CLOEXEC: libc::c_long = 8;
const PERF_EVENT_IOC_ENABLE: libc::c_ulong = 0x2400;
const PERF_EVENT_IOC_SET_BPF: libc::c_ulong = 0x4004_2408;

/// What a program is to the kernel: `enum bpf_prog_type`, `enum bpf_attach_type`, and the type of its hook.
#[derive(Clone, Copy, Debug)]
pub(super) struct ProgramType {
    program: u32,
    attach: u32,
    hook: u32,
}

impl ProgramType {
    /// For a perf event of a tracepoint.
    pub(super) const EVENT: Self = Self {
        program: 5,
        attach: 0,
        hook: 0,
    };

    /// For the tracepoint of this type.
    pub(super) const fn tracepoint(hook: u32) -> Self {
        Self {
            program: 26,
            attach: 23,
            hook,
        }
    }

    /// For the LSM hook of this type.
    pub(super) const fn lsm(hook: u32) -> Self {
        Self {
            program: 29,
            attach: 27,
            hook,
        }
    }
}

/// Records that tell of a program's functions or lines.
pub(super) struct Told {
    pub(super) bytes: Vec<u8>,
    pub(super) record_bytes: usize,
}

impl Told {
    fn count(&self) -> io::Result<u32> {
        u32::try_from(self.bytes.len().checked_div(self.record_bytes).unwrap_or(0)).map_err(io::Error::other)
    }
}

/// A program as the kernel takes it.
pub(super) struct Code<'a> {
    pub(super) name: &'a str,
    pub(super) instructions: &'a [bpf_insn],
    pub(super) license: &'a CStr,
    /// Its type information, and what that says of its functions and lines.
    pub(super) types: Option<(BorrowedFd<'a>, &'a Told, &'a Told)>,
}

/// That the kernel did not load a program, and what its verifier said.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) error: io::Error,
    log: String,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\n{}", self.error, self.log)
    }
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        Self {
            error,
            log: String::new(),
        }
    }
}

/// Loads a program. A log costs time, so the verifier writes one only when asked again.
pub(super) fn load(code: &Code<'_>, program_type: ProgramType) -> Result<OwnedFd, Refusal> {
    const LOG_BYTES: usize = 1 << 20;
    match load_with(code, program_type, &mut []) {
        Ok(program) => Ok(program),
        Err(_) => {
            let mut log = vec![0; LOG_BYTES];
            load_with(code, program_type, &mut log).map_err(|error| {
                let end = log.iter().position(|byte| *byte == 0).unwrap_or(log.len());
                let log = String::from_utf8_lossy(&log[..end]).into_owned();
                Refusal { error, log }
            })
        }
    }
}

fn load_with(code: &Code<'_>, program_type: ProgramType, log: &mut [u8]) -> io::Result<OwnedFd> {
    /// `BPF_LOG_STATS`: what was wrong and how much was looked at, not every instruction.
    const LOG_LEVEL: u32 = 4;
    /// The kernel gives up when a signal comes; nobody sends that many.
    const ATTEMPTS: u32 = 5;
    #[repr(C)]
    struct Request {
        program_type: u32,
        instructions_count: u32,
        instructions: u64,
        license: u64,
        log_level: u32,
        log_bytes: u32,
        log: u64,
        kernel_version: u32,
        flags: u32,
        name: [u8; 16],
        interface: u32,
        attach_type: u32,
        types: u32,
        function_record_bytes: u32,
        functions: u64,
        functions_count: u32,
        line_record_bytes: u32,
        lines: u64,
        lines_count: u32,
        attach_to: u32,
        attach_to_object: u32,
        reserved: u32,
    }
    let mut name = [0; 16];
    for (to, from) in name[..15].iter_mut().zip(code.name.bytes()) {
        *to = from;
    }
    let mut request = Request {
        program_type: program_type.program,
        instructions_count: u32::try_from(code.instructions.len()).map_err(io::Error::other)?,
        instructions: code.instructions.as_ptr() as u64,
        license: code.license.as_ptr() as u64,
        log_level: if log.is_empty() { 0 } else { LOG_LEVEL },
        log_bytes: u32::try_from(log.len()).map_err(io::Error::other)?,
        log: if log.is_empty() { 0 } else { log.as_mut_ptr() as u64 },
        kernel_version: 0,
        flags: 0,
        name,
        interface: 0,
        attach_type: program_type.attach,
        types: 0,
        function_record_bytes: 0,
        functions: 0,
        functions_count: 0,
        line_record_bytes: 0,
        lines: 0,
        lines_count: 0,
        attach_to: program_type.hook,
        attach_to_object: 0,
        reserved: 0,
    };
    if let Some((types, functions, lines)) = code.types {
        request.types = number(types.as_raw_fd())?;
        request.function_record_bytes = u32::try_from(functions.record_bytes).map_err(io::Error::other)?;
        request.functions = functions.bytes.as_ptr() as u64;
        request.functions_count = functions.count()?;
        request.line_record_bytes = u32::try_from(lines.record_bytes).map_err(io::Error::other)?;
        request.lines = lines.bytes.as_ptr() as u64;
        request.lines_count = lines.count()?;
    }
    let mut attempt = 1;
    loop {
        match bpf(BPF_PROG_LOAD, &mut request) {
            Ok(program) => return Ok(descriptor(program)),
            Err(error) if error.raw_os_error() == Some(libc::EAGAIN) && attempt < ATTEMPTS => attempt += 1,
            Err(error) => return Err(error),
        }
    }
}

/// Tries whether the kernel lets this process load a program for the LSM hook of this type.
pub(super) fn may_load_lsm(hook: u32) -> io::Result<()> {
    let instruction = |code: u8| bpf_insn {
        code,
        _bitfield_align_1: [],
        _bitfield_1: bpf_insn::new_bitfield_1(0, 0),
        off: 0,
        imm: 0,
    };
    let code = Code {
        name: "may_load",
        // r0 = 0; exit
        instructions: &[instruction(0xb7), instruction(0x95)],
        license: c"GPL",
        types: None,
    };
    load_with(&code, ProgramType::lsm(hook), &mut []).map(drop)
}

/// Loads type information.
pub(super) fn load_types(types: &[u8]) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct Request {
        types: u64,
        log: u64,
        types_bytes: u32,
        log_bytes: u32,
        log_level: u32,
        reserved: u32,
    }
    let mut request = Request {
        types: types.as_ptr() as u64,
        log: 0,
        types_bytes: u32::try_from(types.len()).map_err(io::Error::other)?,
        log_bytes: 0,
        log_level: 0,
        reserved: 0,
    };
    Ok(descriptor(bpf(BPF_BTF_LOAD, &mut request)?))
}

/// What keeps a program attached.
#[derive(Debug)]
pub(super) enum Link {
    /// A link object, which can be asked and pinned.
    Object(OwnedFd),
    /// A perf event with the program on it, as before 5.15: there is nothing to pin.
    Event(OwnedFd),
}

impl Link {
    /// The program that it attaches; for a perf event, which cannot be asked, only that the event is still open.
    pub(super) fn program(&self) -> io::Result<Option<u32>> {
        match self {
            Self::Object(link) => linked_program(link.as_fd()).map(Some),
            // SAFETY: takes no pointer.
            Self::Event(event) => match unsafe { libc::fcntl(event.as_raw_fd(), libc::F_GETFD) } {
                -1 => Err(io::Error::last_os_error()),
                _ => Ok(None),
            },
        }
    }
}

/// Attaches a program to the tracepoint or LSM hook that it was loaded for.
pub(super) fn attach(program: BorrowedFd<'_>) -> io::Result<Link> {
    #[repr(C)]
    struct Request {
        name: u64,
        program: u32,
        reserved: u32,
    }
    let mut request = Request {
        name: 0,
        program: number(program.as_raw_fd())?,
        reserved: 0,
    };
    Ok(Link::Object(descriptor(bpf(BPF_RAW_TRACEPOINT_OPEN, &mut request)?)))
}

/// Attaches a program to the perf event of a tracepoint, by the number that tracefs tells.
pub(super) fn attach_to_event(program: BorrowedFd<'_>, tracepoint: u64) -> io::Result<Link> {
    #[repr(C)]
    struct Request {
        program: u32,
        target: u32,
        attach_type: u32,
        flags: u32,
    }
    let event = perf_event(tracepoint)?;
    let mut request = Request {
        program: number(program.as_raw_fd())?,
        target: number(event.as_raw_fd())?,
        attach_type: ATTACH_PERF_EVENT,
        flags: 0,
    };
    match bpf(BPF_LINK_CREATE, &mut request) {
        Ok(link) => return Ok(Link::Object(descriptor(link))),
        // Before 5.15 a perf event cannot be linked to.
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {}
        Err(error) => return Err(error),
    }
    // SAFETY: both descriptors are open; the request takes a descriptor by value.
    let status = unsafe { libc::ioctl(event.as_raw_fd(), PERF_EVENT_IOC_SET_BPF, program.as_raw_fd()) };
    if status < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: as above; the request takes nothing.
    let status = unsafe { libc::ioctl(event.as_raw_fd(), PERF_EVENT_IOC_ENABLE, 0) };
    if status < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(Link::Event(event))
}

fn perf_event(tracepoint: u64) -> io::Result<OwnedFd> {
    let mut attributes = [0_u64; PERF_ATTR_BYTES as usize / 8];
    attributes[0] = u64::from(PERF_TYPE_TRACEPOINT) | (u64::from(PERF_ATTR_BYTES) << 32);
    attributes[1] = tracepoint;
    // Of all processes, on one processor: a program on a tracepoint runs wherever the tracepoint is passed.
    let (process, processor, group): (libc::c_long, libc::c_long, libc::c_long) = (-1, 0, -1);
    // SAFETY: the kernel reads `PERF_ATTR_BYTES` of `attributes`, and keeps nothing of it.
    let event = unsafe {
        libc::syscall(
            libc::SYS_perf_event_open,
            attributes.as_ptr(),
            process,
            processor,
            group,
            PERF_FLAG_FD_CLOEXEC,
        )
    };
    if event < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(descriptor(RawFd::try_from(event).map_err(io::Error::other)?))
}

/// Gives an object a name in a BPF file system, which keeps it alive.
pub(super) fn pin(object: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut request = Named {
        path: path.as_ptr() as u64,
        object: number(object.as_raw_fd())?,
        flags: 0,
    };
    bpf(BPF_OBJ_PIN, &mut request).map(drop)
}

/// Opens an object by its name in a BPF file system.
pub(super) fn open_pin(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut request = Named {
        path: path.as_ptr() as u64,
        object: 0,
        flags: 0,
    };
    Ok(descriptor(bpf(BPF_OBJ_GET, &mut request)?))
}

#[repr(C)]
struct Named {
    path: u64,
    object: u32,
    flags: u32,
}

/// Identity of a program, map or link: for all three it is the second word of what the kernel tells.
pub(super) fn object_id(object: BorrowedFd<'_>) -> io::Result<u32> {
    Ok(high(info(object)?[0]))
}

/// What the kernel says about a program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ProgramInfo {
    pub(super) id: u32,
    /// Its name, of which the kernel keeps 15 bytes.
    pub(super) name: String,
    /// How often it was skipped because it was already running on that processor.
    pub(super) recursion_misses: u64,
    /// Instructions that the verifier went through; unknown before 5.16.
    pub(super) verified_instructions: Option<u32>,
}

/// Asks about a program.
pub(super) fn program_info(program: BorrowedFd<'_>) -> io::Result<ProgramInfo> {
    let info = info(program)?;
    let name: Vec<u8> = info[8..10].iter().flat_map(|word| word.to_ne_bytes()).collect();
    let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
    Ok(ProgramInfo {
        id: high(info[0]),
        name: String::from_utf8_lossy(name).into_owned(),
        recursion_misses: info[26],
        verified_instructions: Some(low(info[27])).filter(|count| *count > 0),
    })
}

/// Identity of the program that a link attaches.
fn linked_program(link: BorrowedFd<'_>) -> io::Result<u32> {
    Ok(low(info(link)?[1]))
}

const INFO_WORDS: usize = 32;

fn info(object: BorrowedFd<'_>) -> io::Result<[u64; INFO_WORDS]> {
    #[repr(C)]
    struct Request {
        object: u32,
        info_bytes: u32,
        info: u64,
    }
    let mut info = [0_u64; INFO_WORDS];
    let mut request = Request {
        object: number(object.as_raw_fd())?,
        info_bytes: u32::try_from(size_of_val(&info)).map_err(io::Error::other)?,
        info: info.as_mut_ptr() as u64,
    };
    bpf(BPF_OBJ_GET_INFO_BY_FD, &mut request)?;
    Ok(info)
}

#[repr(C)]
struct Element {
    map: u32,
    reserved: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// The element of an array of programs: the identity of the program in it, if there is one.
pub(super) fn program_in(array: BorrowedFd<'_>, index: u32) -> io::Result<Option<u32>> {
    let mut value = 0_u32;
    let mut request = Element {
        map: number(array.as_raw_fd())?,
        reserved: 0,
        key: (&raw const index) as u64,
        value: (&raw mut value) as u64,
        flags: 0,
    };
    match bpf(BPF_MAP_LOOKUP_ELEM, &mut request) {
        Ok(_) => Ok(Some(value)),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Puts a program into an array of programs.
pub(super) fn put_program(array: BorrowedFd<'_>, index: u32, program: BorrowedFd<'_>) -> io::Result<()> {
    let value = number(program.as_raw_fd())?;
    write_element(array, index, &value.to_ne_bytes())
}

/// Writes an element of an array whose elements are that long.
pub(super) fn write_element(array: BorrowedFd<'_>, index: u32, value: &[u8]) -> io::Result<()> {
    let mut request = Element {
        map: number(array.as_raw_fd())?,
        reserved: 0,
        key: (&raw const index) as u64,
        value: value.as_ptr() as u64,
        flags: 0,
    };
    bpf(BPF_MAP_UPDATE_ELEM, &mut request).map(drop)
}

/// Lets nobody change a map from outside of programs any more.
pub(super) fn freeze(map: BorrowedFd<'_>) -> io::Result<()> {
    let mut request = [number(map.as_raw_fd())?, 0];
    bpf(BPF_MAP_FREEZE, &mut request).map(drop)
}

/// All elements of an array of numbers, in one call.
pub(super) fn read_array(array: BorrowedFd<'_>, values: &mut [u32]) -> io::Result<()> {
    #[repr(C)]
    struct Request {
        from: u64,
        until: u64,
        keys: u64,
        values: u64,
        count: u32,
        map: u32,
        element_flags: u64,
        flags: u64,
    }
    let mut keys = vec![0_u32; values.len()];
    let mut until = 0_u32;
    let mut request = Request {
        from: 0,
        until: (&raw mut until) as u64,
        keys: keys.as_mut_ptr() as u64,
        values: values.as_mut_ptr() as u64,
        count: u32::try_from(values.len()).map_err(io::Error::other)?,
        map: number(array.as_raw_fd())?,
        element_flags: 0,
        flags: 0,
    };
    match bpf(BPF_MAP_LOOKUP_BATCH, &mut request) {
        Ok(_) => {}
        // The end was reached, as it should be.
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
        Err(error) => return Err(error),
    }
    if request.count as usize == values.len() {
        Ok(())
    } else {
        Err(io::Error::other(format!("only {} elements were read", request.count)))
    }
}

/// Calls bpf(2). What `request` points to is the caller's to keep alive: it is always a local of the caller.
fn bpf<T>(command: libc::c_long, request: &mut T) -> io::Result<RawFd> {
    // SAFETY: the kernel reads and writes at most the bytes of `request`, and what it points to as the command says.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut *request, size_of::<T>()) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    RawFd::try_from(result).map_err(io::Error::other)
}

/// The kernel has just returned it, so nobody else owns it.
fn descriptor(raw: RawFd) -> OwnedFd {
    // SAFETY: as said above.
    unsafe { OwnedFd::from_raw_fd(raw) }
}

fn number(descriptor: RawFd) -> io::Result<u32> {
    u32::try_from(descriptor).map_err(io::Error::other)
}

fn low(word: u64) -> u32 {
    let [a, b, c, d, ..] = word.to_ne_bytes();
    u32::from_ne_bytes([a, b, c, d])
}

fn high(word: u64) -> u32 {
    let [.., a, b, c, d] = word.to_ne_bytes();
    u32::from_ne_bytes([a, b, c, d])
}
