//! The kernel object, ready to be loaded: its globals set, its maps made, its programs bound to them.
//!
//! aya's own loader would read all of the kernel's type information for it, twice, and hand out programs one at a time:
//! 40 ms and 20 MB for two numbers per program that `offsets.rs` has found already. So aya takes the object apart and
//! makes the maps, and what remains is here. Programs are loaded through a shared reference, on any thread.

use std::{
    collections::{HashMap, HashSet},
    ffi::CString,
    os::fd::{AsFd as _, AsRawFd as _, OwnedFd},
    path::Path,
};

use aya::maps::{Map, MapData};
use aya_obj::{EbpfSectionKind, generated::bpf_insn};

use crate::sensor::bpf::{self, Code, ProgramType, Refusal, Told};

/// The object, its maps apart.
pub(super) struct Object {
    programs: HashMap<String, Program>,
    license: CString,
    types: Option<OwnedFd>,
    /// Those that nobody took out. A map that goes away before the program that uses it is loaded cannot be loaded with it.
    pub(super) maps: HashMap<String, Map>,
}

struct Program {
    instructions: Vec<bpf_insn>,
    functions: Told,
    lines: Told,
}

impl Object {
    /// Takes an object apart, sets its globals and makes its maps; those of `shared` are opened there if they are.
    pub(super) fn new(bytes: &[u8], globals: &[(&str, &[u8])], shared: &[(&str, &Path)]) -> Result<Self, String> {
        let mut object = aya_obj::Object::parse(bytes).map_err(|error| chain(&error))?;
        let globals = globals.iter().map(|(name, value)| (*name, (*value, true))).collect();
        object.patch_map_data(globals).map_err(|error| chain(&error))?;
        let types = load_types(&mut object)?;
        let (mut descriptions, mut maps) = (Vec::new(), HashMap::new());
        for (name, description) in object.maps.drain() {
            let pin = shared.iter().find(|(shared, _)| *shared == name).map(|(_, path)| *path);
            let map = map(&name, &description, types.as_ref(), pin).map_err(|error| format!("map {name}: {error}"))?;
            descriptions.push((name.clone(), map.fd().as_fd().as_raw_fd(), description));
            let map = Map::from_map_data(map).map_err(|error| format!("map {name}: {}", chain(&error)))?;
            maps.insert(name, map);
        }
        let sections: HashSet<usize> = object.functions.keys().map(|(section, _)| *section).collect();
        let places = descriptions
            .iter()
            .map(|(name, map, description)| (name.as_str(), *map, description));
        object.relocate_maps(places, &sections).map_err(|error| chain(&error))?;
        object.relocate_calls(&sections).map_err(|error| chain(&error))?;
        let mut programs = HashMap::new();
        for (name, program) in &object.programs {
            let function = object
                .functions
                .get(&program.function_key())
                .ok_or_else(|| format!("program {name} has no code"))?;
            let code = Program {
                instructions: function.instructions.clone(),
                functions: Told {
                    bytes: function.func_info.func_info_bytes(),
                    record_bytes: function.func_info_rec_size,
                },
                lines: Told {
                    bytes: function.line_info.line_info_bytes(),
                    record_bytes: function.line_info_rec_size,
                },
            };
            programs.insert(name.clone(), code);
        }
        Ok(Self {
            programs,
            license: object.license,
            types,
            maps,
        })
    }

    /// How long a program is, in instructions; 0 if there is none of this name.
    pub(super) fn len_of(&self, program: &str) -> usize {
        self.programs
            .get(program)
            .map_or(0, |program| program.instructions.len())
    }

    /// Loads a program; none if there is none of this name.
    pub(super) fn load(&self, name: &str, program_type: ProgramType) -> Option<Result<OwnedFd, Refusal>> {
        let program = self.programs.get(name)?;
        let code = Code {
            name,
            instructions: &program.instructions,
            license: &self.license,
            types: self
                .types
                .as_ref()
                .map(|types| (types.as_fd(), &program.functions, &program.lines)),
        };
        Some(bpf::load(&code, program_type))
    }
}

/// Loads the type information of the object, less what this kernel does not know; none where it knows none.
fn load_types(object: &mut aya_obj::Object) -> Result<Option<OwnedFd>, String> {
    let Some(features) = aya::features().btf() else {
        return Ok(None);
    };
    let types = object.fixup_and_sanitize_btf(features).map_err(|error| chain(&error))?;
    let Some(types) = types.map(aya_obj::btf::Btf::to_bytes) else {
        return Ok(None);
    };
    match bpf::load_types(&types) {
        Ok(types) => Ok(Some(types)),
        Err(error) => Err(format!("its type information is refused: {error}")),
    }
}

/// Makes a map, or opens the one that is pinned there; and fills it if it holds data of the object.
fn map(name: &str, description: &aya_obj::Map, types: Option<&OwnedFd>, pin: Option<&Path>) -> Result<MapData, String> {
    if let Some(path) = pin.filter(|path| path.exists()) {
        return MapData::from_pin(path).map_err(|error| chain(&error));
    }
    let map = MapData::create(description.clone(), name, types.map(OwnedFd::as_fd)).map_err(|error| chain(&error))?;
    if let Some(path) = pin {
        map.pin(path).map_err(|error| chain(&error))?;
    }
    if !description.data().is_empty() {
        bpf::write_element(map.fd().as_fd(), 0, description.data()).map_err(|error| error.to_string())?;
    }
    if description.section_kind() == EbpfSectionKind::Rodata {
        // The verifier takes frozen data for constants.
        bpf::freeze(map.fd().as_fd()).map_err(|error| error.to_string())?;
    }
    Ok(map)
}

/// An error with its causes.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}
