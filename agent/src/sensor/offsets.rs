//! Resolves offsets of kernel struct members from the running kernel's BTF.
//!
//! Reads the raw section twice: once to find where each type begins and which structs we need, once along the members of
//! those. Layout: Documentation/bpf/btf.rst.

use std::{collections::HashMap, fs, io};

use staghound_ebpf::{ABSENT, MEMBERS, Member, Offsets};
use zerocopy::FromBytes as _;

/// Where the kernel describes its types.
pub const VMLINUX: &str = "/sys/kernel/btf/vmlinux";

const MAGIC: u16 = 0xeb9f;
/// Typedefs and qualifiers around a struct, and anonymous structs inside one, are few; a loop is a broken section.
const DEPTH_MAX: u32 = 32;

/// Why offsets cannot be resolved.
#[derive(Debug, thiserror::Error)]
pub enum OffsetsError {
    /// The kernel does not describe its types.
    #[error(
        "this kernel has no type information at {VMLINUX} ({0}); it needs CONFIG_DEBUG_INFO_BTF=y: install a distribution kernel of 5.10 or newer, or mount sysfs"
    )]
    NoBtf(io::Error),
    /// The section is not what it should be.
    #[error("the kernel's type information is damaged: {0}")]
    Damaged(&'static str),
    /// A member is not there.
    #[error(
        "this kernel has no `{container}.{path}`, which the sensor cannot do without; please report the kernel's release"
    )]
    NoMember {
        /// Kernel struct.
        container: &'static str,
        /// Path of members.
        path: &'static str,
    },
}

/// What the sensor needs to know of the running kernel's types.
#[derive(Clone, Debug)]
pub struct KernelTypes {
    /// Where members of kernel structs are.
    pub offsets: Offsets,
    /// What the kernel offers to programs.
    pub features: Features,
    /// How it tells what io_uring was asked for.
    pub io_uring: IoUring,
    hooks: HashMap<Box<[u8]>, u32>,
}

impl KernelTypes {
    /// Of the running kernel. What it tells of its types, some 6 MB, is not kept.
    ///
    /// # Errors
    /// The kernel has no BTF, or lacks a member that no program can do without.
    pub fn of_running_kernel() -> Result<Self, OffsetsError> {
        Self::of(&fs::read(VMLINUX).map_err(OffsetsError::NoBtf)?)
    }

    /// From a raw BTF section.
    ///
    /// # Errors
    /// The section is damaged, or lacks a member that no program can do without.
    pub fn of(section: &[u8]) -> Result<Self, OffsetsError> {
        let types = Types::parse(section)?;
        Ok(Self {
            offsets: types.offsets()?,
            features: types.features(),
            io_uring: types.io_uring(),
            hooks: types.hooks.iter().map(|(name, id)| ((*name).into(), *id)).collect(),
        })
    }

    /// The number of the type that a program for this tracepoint is typed by.
    #[must_use]
    pub fn tracepoint(&self, name: &str) -> Option<u32> {
        self.hooks
            .get([TRACEPOINT, name.as_bytes()].concat().as_slice())
            .copied()
    }

    /// Likewise for an LSM hook.
    #[must_use]
    pub fn lsm_hook(&self, name: &str) -> Option<u32> {
        self.hooks.get([LSM_HOOK, name.as_bytes()].concat().as_slice()).copied()
    }
}

/// What the names of the types of hooks begin with.
const TRACEPOINT: &[u8] = b"btf_trace_";
const LSM_HOOK: &[u8] = b"bpf_lsm_";

/// What the running kernel offers to programs, told by the names of its helpers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Features {
    /// `bpf_get_current_task_btf` (5.11).
    pub task_pointers: bool,
    /// `bpf_task_pt_regs` (5.15).
    pub task_registers: bool,
}

/// How a kernel tells what io_uring was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IoUring {
    /// By this tracepoint, whose argument of this number, from 0, is the request.
    Request(&'static str, u32),
    /// By this tracepoint, which does not show the request (before 5.15, unless the distribution took it over from there).
    NoRequest(&'static str),
    /// It has no io_uring, or does not tell.
    Absent,
}

/// The tracepoint of io_uring's requests, newest name first.
const IO_URING_TRACEPOINTS: [&str; 2] = ["io_uring_submit_req", "io_uring_submit_sqe"];

#[derive(Clone, Copy)]
struct Header {
    name: u32,
    kind: u32,
    members: u32,
    bitfields: bool,
    /// Size or referred type.
    size_or_type: u32,
}

mod kind {
    pub(super) const POINTER: u32 = 2;
    pub(super) const STRUCT: u32 = 4;
    pub(super) const UNION: u32 = 5;
    pub(super) const TYPEDEF: u32 = 8;
    pub(super) const VOLATILE: u32 = 9;
    pub(super) const CONST: u32 = 10;
    pub(super) const RESTRICT: u32 = 11;
    pub(super) const FUNCTION: u32 = 12;
    pub(super) const FUNCTION_PROTOTYPE: u32 = 13;
    pub(super) const TYPE_TAG: u32 = 18;
}

/// What a pointer leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pointee<'a> {
    Void,
    /// A struct of this name.
    Struct(&'a [u8]),
}

struct Types<'a> {
    types: &'a [u8],
    strings: &'a [u8],
    /// Where each type begins; type 0 is void.
    starts: Vec<u32>,
    /// The structs that members are wanted of.
    containers: Vec<(&'static str, u32)>,
    /// The types that hooks have, by name: a typedef for each tracepoint, a function for each LSM hook.
    hooks: HashMap<&'a [u8], u32>,
}

impl<'a> Types<'a> {
    fn parse(section: &'a [u8]) -> Result<Self, OffsetsError> {
        let word = |at: usize| u32_at(section, at).ok_or(OffsetsError::Damaged("header is cut short"));
        if section.get(..2) != Some(&MAGIC.to_ne_bytes()[..]) {
            return Err(OffsetsError::Damaged("wrong magic number"));
        }
        let part = |offset: u32, len: u32| {
            let start = (word(4)? as usize).saturating_add(offset as usize);
            section
                .get(start..start.saturating_add(len as usize))
                .ok_or(OffsetsError::Damaged("a part lies outside of the section"))
        };
        let types = part(word(8)?, word(12)?)?;
        let strings = part(word(16)?, word(20)?)?;
        let mut this = Self {
            types,
            strings,
            starts: vec![0],
            containers: Vec::new(),
            hooks: HashMap::new(),
        };
        this.index()?;
        Ok(this)
    }

    fn index(&mut self) -> Result<(), OffsetsError> {
        let mut wanted: Vec<&'static str> = MEMBERS.iter().map(|member| member.container).collect();
        wanted.sort_unstable();
        wanted.dedup();
        let mut at = 0;
        while at < self.types.len() {
            let start = u32::try_from(at).map_err(|_| OffsetsError::Damaged("section is too large"))?;
            self.starts.push(start);
            let header = self.header_at(at).ok_or(OffsetsError::Damaged("a type is cut short"))?;
            if header.kind == kind::STRUCT
                && header.members > 0
                && let Ok(index) = wanted.binary_search_by(|name| name.as_bytes().cmp(self.name(header.name)))
                && !self.containers.iter().any(|(name, _)| *name == wanted[index])
            {
                let id = u32::try_from(self.starts.len() - 1).map_err(|_| OffsetsError::Damaged("too many types"))?;
                self.containers.push((wanted[index], id));
            }
            let prefix = match header.kind {
                kind::TYPEDEF => TRACEPOINT,
                kind::FUNCTION => LSM_HOOK,
                _ => &[],
            };
            if !prefix.is_empty() && self.tail_of_strings(header.name).starts_with(prefix) {
                let id = u32::try_from(self.starts.len() - 1).map_err(|_| OffsetsError::Damaged("too many types"))?;
                self.hooks.entry(self.name(header.name)).or_insert(id);
            }
            at += 12 + Self::tail(header).ok_or(OffsetsError::Damaged("a type is of an unknown kind"))?;
        }
        Ok(())
    }

    /// Bytes that follow a type's header, by its kind.
    fn tail(header: Header) -> Option<usize> {
        let members = header.members as usize;
        Some(match header.kind {
            1 | 14 | 17 => 4,                                // int, variable, declaration tag
            3 => 12,                                         // array
            kind::STRUCT | kind::UNION | 19 => 12 * members, // struct, union, 64-bit enum
            6 | 13 => 8 * members,                           // enum, function prototype
            15 => 12 * members,                              // data section
            2 | 7..=12 | 16 | 18 => 0, // pointer, forward, typedef, qualifiers, function, float, type tag
            _ => return None,
        })
    }

    fn header_at(&self, at: usize) -> Option<Header> {
        let info = u32_at(self.types, at + 4)?;
        Some(Header {
            name: u32_at(self.types, at)?,
            kind: (info >> 24) & 0x1f,
            members: info & 0xffff,
            bitfields: info >> 31 == 1,
            size_or_type: u32_at(self.types, at + 8)?,
        })
    }

    fn header(&self, id: u32) -> Option<(usize, Header)> {
        let at = *self.starts.get(id as usize).filter(|_| id != 0)? as usize;
        Some((at, self.header_at(at)?))
    }

    fn tail_of_strings(&self, offset: u32) -> &'a [u8] {
        self.strings.get(offset as usize..).unwrap_or_default()
    }

    fn name(&self, offset: u32) -> &'a [u8] {
        let text = self.tail_of_strings(offset);
        &text[..memchr::memchr(0, text).unwrap_or(text.len())]
    }

    /// The type behind typedefs, qualifiers and tags.
    fn peel(&self, mut id: u32) -> Option<u32> {
        for _ in 0..DEPTH_MAX {
            let (_, header) = self.header(id)?;
            match header.kind {
                kind::TYPEDEF | kind::VOLATILE | kind::CONST | kind::RESTRICT | kind::TYPE_TAG => {
                    id = header.size_or_type;
                }
                _ => return Some(id),
            }
        }
        None
    }

    /// What a tracepoint's argument points to. The typedef is of a pointer to a function whose first parameter belongs to
    /// the tracing itself.
    fn argument(&self, typedef: u32, index: u32) -> Option<Pointee<'a>> {
        let pointee = |id| {
            let (_, header) = self.header(self.peel(id)?)?;
            (header.kind == kind::POINTER).then_some(header.size_or_type)
        };
        let (at, function) = self.header(self.peel(pointee(typedef)?)?)?;
        if function.kind != kind::FUNCTION_PROTOTYPE || function.members < index + 2 {
            return None;
        }
        let argument = pointee(u32_at(self.types, at + 12 + 8 * (index as usize + 1) + 4)?)?;
        if argument == 0 {
            return Some(Pointee::Void);
        }
        let (_, container) = self.header(self.peel(argument)?)?;
        (container.kind == kind::STRUCT).then(|| Pointee::Struct(self.name(container.name)))
    }

    fn features(&self) -> Features {
        let has = |name: &[u8]| memchr::memmem::find(self.strings, name).is_some();
        Features {
            task_pointers: has(b"\0BPF_FUNC_get_current_task_btf\0"),
            task_registers: has(b"\0BPF_FUNC_task_pt_regs\0"),
        }
    }

    fn io_uring(&self) -> IoUring {
        for tracepoint in IO_URING_TRACEPOINTS {
            let typedef = [TRACEPOINT, tracepoint.as_bytes()].concat();
            if let Some(id) = self.hooks.get(typedef.as_slice()) {
                // From 5.19 on the request comes first and is typed; before, it follows its ring, and both are bare pointers.
                return match (self.argument(*id, 0), self.argument(*id, 1)) {
                    (Some(Pointee::Struct(b"io_kiocb")), _) => IoUring::Request(tracepoint, 0),
                    (Some(Pointee::Void), Some(Pointee::Void)) => IoUring::Request(tracepoint, 1),
                    _ => IoUring::NoRequest(tracepoint),
                };
            }
        }
        IoUring::Absent
    }

    fn offsets(&self) -> Result<Offsets, OffsetsError> {
        let mut offsets = Vec::with_capacity(MEMBERS.len() * 4);
        for member in MEMBERS {
            let offset = match self.offset(member)? {
                Some(offset) => offset,
                None if member.optional => ABSENT,
                None => {
                    return Err(OffsetsError::NoMember {
                        container: member.container,
                        path: member.path,
                    });
                }
            };
            offsets.extend_from_slice(&offset.to_ne_bytes());
        }
        Ok(Offsets::read_from_bytes(&offsets).expect("Offsets is one u32 per member"))
    }

    fn offset(&self, member: &Member) -> Result<Option<u32>, OffsetsError> {
        let Some(&(_, mut id)) = self.containers.iter().find(|(name, _)| *name == member.container) else {
            return Ok(None);
        };
        if member.path == "sizeof" {
            return Ok(self.header(id).map(|(_, header)| header.size_or_type));
        }
        let mut bits = 0_u32;
        for step in member.path.split('.') {
            let found = step.split('|').find_map(|name| self.find(id, name.as_bytes(), 0));
            let Some((offset, member_type)) = found else {
                return Ok(None);
            };
            bits += offset;
            id = self.peel(member_type).unwrap_or(0);
        }
        if !bits.is_multiple_of(8) {
            return Err(OffsetsError::Damaged("a member that must be whole is a bit field"));
        }
        Ok(Some(bits / 8))
    }

    /// Offset in bits and type of a member, looked for in anonymous members too.
    fn find(&self, container: u32, wanted: &[u8], depth: u32) -> Option<(u32, u32)> {
        let (at, header) = self.header(self.peel(container)?)?;
        if depth > DEPTH_MAX || !(header.kind == kind::STRUCT || header.kind == kind::UNION) {
            return None;
        }
        let mut anonymous = Vec::new();
        for index in 0..header.members as usize {
            let member = at + 12 + index * 12;
            let name = self.name(u32_at(self.types, member)?);
            let member_type = u32_at(self.types, member + 4)?;
            let raw = u32_at(self.types, member + 8)?;
            let offset = if header.bitfields { raw & 0x00ff_ffff } else { raw };
            if name == wanted {
                return Some((offset, member_type));
            }
            if name.is_empty() {
                anonymous.push((offset, member_type));
            }
        }
        anonymous.into_iter().find_map(|(offset, member_type)| {
            self.find(member_type, wanted, depth + 1)
                .map(|(inner, found)| (offset + inner, found))
        })
    }
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes
        .get(at..at.checked_add(4)?)?
        .first_chunk()
        .map(|chunk| u32::from_ne_bytes(*chunk))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn resolves_the_running_kernel() {
        let types = KernelTypes::of_running_kernel().unwrap();
        let offsets = types.offsets;
        assert!(
            offsets.task_tgid == offsets.task_pid + 4,
            "pid and tgid are neighbours in every kernel"
        );
        assert!(offsets.mm_arg_end == offsets.mm_arg_start + 8);
        assert_eq!(offsets.path_dentry, 8);
        assert_eq!(offsets.vfs_root, 0);
        // Every kernel that is tested natively is newer than 5.19.
        assert!(matches!(types.io_uring, IoUring::Request(_, 0) | IoUring::Absent));
        assert!(types.features.task_pointers);
    }

    #[test]
    fn finds_the_types_of_hooks() {
        let section = fs::read(VMLINUX).unwrap();
        let types = Types::parse(&section).unwrap();
        assert_eq!(types.argument(0, 0), None);
        let known = KernelTypes::of(&section).unwrap();
        let exec = known.tracepoint("sched_process_exec").unwrap();
        assert_eq!(types.argument(exec, 0), Some(Pointee::Struct(b"task_struct")));
        assert_eq!(known.tracepoint("sched_process"), None);
        assert_eq!(known.lsm_hook("sched_process_exec"), None);
    }

    #[test]
    fn a_damaged_section_is_an_error() {
        assert!(matches!(KernelTypes::of(b""), Err(OffsetsError::Damaged(_))));
        assert!(matches!(KernelTypes::of(&[0xff; 64]), Err(OffsetsError::Damaged(_))));
        let mut real = fs::read(VMLINUX).unwrap();
        real.truncate(1000);
        assert!(matches!(KernelTypes::of(&real), Err(OffsetsError::Damaged(_))));
    }

    proptest! {
        #[test]
        fn any_bytes_resolve_or_fail(bytes in prop::collection::vec(any::<u8>(), 0..512)) {
            let mut section = vec![0x9f, 0xeb, 1, 0, 24, 0, 0, 0, 0, 0, 0, 0, 128, 0, 0, 0, 128, 0, 0, 0, 64, 0, 0, 0];
            section.extend(bytes);
            let _ignored = KernelTypes::of(&section);
            if let Ok(types) = Types::parse(&section) {
                let _ignored = types.io_uring();
            }
        }
    }
}
