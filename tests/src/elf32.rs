//! A 32-bit program of a few system calls, put together here: no compiler has to be able to make one.

/// Where the one segment is loaded, as linkers do it for i386.
const BASE: u32 = 0x0804_8000;
const HEADER_BYTES: u32 = 52;
const SEGMENT_BYTES: u32 = 32;

/// An argument of a call.
#[derive(Clone, Debug)]
pub enum Argument {
    /// A number.
    Number(u32),
    /// The address of these bytes.
    Bytes(Vec<u8>),
    /// What the call of this index returned.
    Result(usize),
    /// The address of these arguments as words.
    Words(Vec<Argument>),
}

/// One call: its number in the 32-bit ABI, and at most five arguments.
#[derive(Clone, Debug)]
pub struct Call(pub u32, pub Vec<Argument>);

/// Code and data that are being laid out. The addresses of data are known only once the code's length is: so the whole
/// is laid out twice.
struct Layout {
    code: Vec<u8>,
    data: Vec<u8>,
    data_base: u32,
}

fn length(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).expect("a small program")
}

impl Layout {
    fn keep(&mut self, bytes: &[u8]) -> u32 {
        let at = self.data_base + length(&self.data);
        self.data.extend_from_slice(bytes);
        self.data.resize(self.data.len().next_multiple_of(4), 0);
        at
    }

    fn emit(&mut self, opcode: &[u8], value: u32) {
        self.code.extend_from_slice(opcode);
        self.code.extend_from_slice(&value.to_le_bytes());
    }

    /// What an argument is: a value, or the address of a value that is known only when the program runs.
    fn place(&mut self, argument: &Argument, results: &[u32]) -> Result<u32, u32> {
        match argument {
            Argument::Number(number) => Ok(*number),
            Argument::Bytes(bytes) => Ok(self.keep(bytes)),
            Argument::Result(index) => Err(results[*index]),
            Argument::Words(words) => {
                let placed: Vec<Result<u32, u32>> = words.iter().map(|word| self.place(word, results)).collect();
                let bytes: Vec<u8> = placed.iter().flat_map(|word| word.unwrap_or(0).to_le_bytes()).collect();
                let at = self.keep(&bytes);
                for (word, offset) in placed.iter().zip((at..).step_by(4)) {
                    if let Err(from) = word {
                        // mov eax, [from]; mov [offset], eax
                        self.emit(&[0xa1], *from);
                        self.emit(&[0xa3], offset);
                    }
                }
                Ok(at)
            }
        }
    }

    fn lay(calls: &[Call], data_base: u32) -> Self {
        let mut layout = Self {
            code: Vec::new(),
            data: Vec::new(),
            data_base,
        };
        let results: Vec<u32> = calls.iter().map(|_| layout.keep(&[0; 4])).collect();
        for (Call(number, arguments), result) in calls.iter().zip(&results) {
            let placed: Vec<Result<u32, u32>> = arguments
                .iter()
                .map(|argument| layout.place(argument, &results))
                .collect();
            // ebx, ecx, edx, esi, edi: from a number, from memory.
            let registers: [(u8, u8); 5] = [(0xbb, 0x1d), (0xb9, 0x0d), (0xba, 0x15), (0xbe, 0x35), (0xbf, 0x3d)];
            for (place, (number, memory)) in placed.iter().zip(registers) {
                match place {
                    Ok(value) => layout.emit(&[number], *value),
                    Err(from) => layout.emit(&[0x8b, memory], *from),
                }
            }
            layout.emit(&[0xb8], *number);
            layout.code.extend_from_slice(&[0xcd, 0x80]);
            layout.emit(&[0xa3], *result);
        }
        // exit(0)
        layout.emit(&[0xbb], 0);
        layout.emit(&[0xb8], 1);
        layout.code.extend_from_slice(&[0xcd, 0x80]);
        layout
    }
}

/// A program that makes these calls and exits with 0.
///
/// # Panics
/// A call has more than five arguments.
#[must_use]
pub fn program(calls: &[Call]) -> Vec<u8> {
    assert!(calls.iter().all(|Call(_, arguments)| arguments.len() <= 5));
    let start = BASE + HEADER_BYTES + SEGMENT_BYTES;
    let code_bytes = length(&Layout::lay(calls, start).code);
    let layout = Layout::lay(calls, start + code_bytes.next_multiple_of(4));
    let mut body = layout.code;
    body.resize(body.len().next_multiple_of(4), 0);
    body.extend_from_slice(&layout.data);

    let total = HEADER_BYTES + SEGMENT_BYTES + length(&body);
    let mut file = b"\x7fELF\x01\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    // Executable, i386, version 1; entry, program headers, no sections, no flags.
    file.extend_from_slice(&[2, 0, 3, 0, 1, 0, 0, 0]);
    for word in [start, HEADER_BYTES, 0, 0] {
        file.extend_from_slice(&word.to_le_bytes());
    }
    // Sizes of this header and of a program header, one of those; no sections.
    for half in [52_u16, 32, 1, 0, 0, 0] {
        file.extend_from_slice(&half.to_le_bytes());
    }
    // PT_LOAD of the whole file, readable, writable and executable.
    for word in [1, 0, BASE, BASE, total, total, 7, 0x1000] {
        file.extend_from_slice(&word.to_le_bytes());
    }
    file.extend_from_slice(&body);
    file
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_laid_out() {
        let file = program(&[
            Call(5, vec![Argument::Bytes(b"/x\0".to_vec()), Argument::Number(0)]),
            Call(
                102,
                vec![
                    Argument::Number(3),
                    Argument::Words(vec![Argument::Result(0), Argument::Number(7)]),
                ],
            ),
        ]);
        let word = |at: usize| u32::from_le_bytes(file[at..at + 4].try_into().unwrap());
        assert_eq!(word(24), BASE + 84);
        assert_eq!(word(68), length(&file));
        // mov ebx, path
        assert_eq!(file[84], 0xbb);
        let path = (word(85) - BASE) as usize;
        assert_eq!(&file[path..path + 3], b"/x\0");
        // The last word of the data is the 7.
        assert_eq!(word(file.len() - 4), 7);
    }
}
