//! Writes a cpio archive of the form the kernel unpacks at boot (`newc`; Documentation/driver-api/early-userspace/buffer-format.rst).

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::Path;

use anyhow::{Context, Result, ensure};

const DIRECTORY: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;
const SYMBOLIC_LINK: u32 = 0o120_000;
const CHARACTER_DEVICE: u32 = 0o020_000;

/// An archive that is being written. Everything in it belongs to root.
pub(super) struct Archive<W: Write = BufWriter<File>> {
    output: W,
    written: u64,
    entries: u32,
}

impl Archive {
    /// Makes the directory, too: in a new checkout this is the first that is put there.
    pub(super) fn create(path: &Path) -> Result<Archive> {
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory).with_context(|| format!("cannot create {}", directory.display()))?;
        }
        let file = File::create(path).with_context(|| format!("cannot create {}", path.display()))?;
        Ok(Archive::new(BufWriter::new(file)))
    }
}

impl<W: Write> Archive<W> {
    fn new(output: W) -> Archive<W> {
        Archive {
            output,
            written: 0,
            entries: 0,
        }
    }

    pub(super) fn directory(&mut self, name: &str, mode: u32) -> Result<()> {
        self.entry(name, DIRECTORY | mode, (0, 0), &[])
    }

    pub(super) fn character_device(&mut self, name: &str, mode: u32, major: u32, minor: u32) -> Result<()> {
        self.entry(name, CHARACTER_DEVICE | mode, (major, minor), &[])
    }

    pub(super) fn symbolic_link(&mut self, name: &str, target: &str) -> Result<()> {
        self.entry(name, SYMBOLIC_LINK | 0o777, (0, 0), target.as_bytes())
    }

    pub(super) fn text(&mut self, name: &str, mode: u32, content: &str) -> Result<()> {
        self.entry(name, REGULAR | mode, (0, 0), content.as_bytes())
    }

    pub(super) fn file(&mut self, name: &str, mode: u32, from: &Path) -> Result<()> {
        let content = fs::read(from).with_context(|| format!("cannot read {}", from.display()))?;
        self.entry(name, REGULAR | mode, (0, 0), &content)
    }

    /// Writes the end mark; returns the size in bytes.
    pub(super) fn finish(mut self) -> Result<u64> {
        self.entry("TRAILER!!!", 0, (0, 0), &[])?;
        self.output.flush().context("cannot write the archive")?;
        Ok(self.written)
    }

    fn entry(&mut self, name: &str, mode: u32, device: (u32, u32), content: &[u8]) -> Result<()> {
        ensure!(
            !name.starts_with('/') && !name.contains('\0'),
            "`{name}` is not a name for an archive"
        );
        self.entries += 1;
        let size = u32::try_from(content.len()).with_context(|| format!("{name} is larger than 4 GiB"))?;
        let name_size = u32::try_from(name.len() + 1).with_context(|| format!("{name} is too long"))?;
        // Inode, mode, user, group, links, time, size, device of the file, device it is, length of the name, checksum.
        let fields = [
            self.entries,
            mode,
            0,
            0,
            1,
            0,
            size,
            0,
            0,
            device.0,
            device.1,
            name_size,
            0,
        ];
        let mut header = String::from("070701");
        for field in fields {
            header.push_str(&format!("{field:08X}"));
        }
        self.write(header.as_bytes())?;
        self.write(name.as_bytes())?;
        self.write(&[0])?;
        self.align()?;
        self.write(content)?;
        self.align()
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.output.write_all(bytes).context("cannot write the archive")?;
        self.written += u64::try_from(bytes.len()).context("length does not fit")?;
        Ok(())
    }

    /// Names and contents end at a multiple of four bytes.
    fn align(&mut self) -> Result<()> {
        while !self.written.is_multiple_of(4) {
            self.write(&[0])?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::Archive;

    #[test]
    fn entries_have_the_form_the_kernel_reads() {
        let mut bytes = Vec::new();
        let mut archive = Archive::new(&mut bytes);
        archive.directory("etc", 0o755).unwrap();
        archive.text("etc/x", 0o640, "hello").unwrap();
        archive.character_device("null", 0o666, 1, 3).unwrap();
        let written = archive.finish().unwrap();
        assert_eq!(written, u64::try_from(bytes.len()).unwrap());
        let expected = concat!(
            "07070100000001000041ED00000000000000000000000100000000000000000000000000000000000000000000000000000004",
            "00000000etc\0\0\0",
            "07070100000002000081A000000000000000000000000100000000000000050000000000000000000000000000000000000006",
            "00000000etc/x\0hello\0\0\0",
            "07070100000003000021B600000000000000000000000100000000000000000000000000000000000000010000000300000005",
            "00000000null\0\0",
            "07070100000004000000000000000000000000000000010000000000000000000000000000000000000000000000000000000B",
            "00000000TRAILER!!!\0\0\0\0",
        );
        assert_eq!(String::from_utf8(bytes).unwrap(), expected);
    }

    #[test]
    fn absolute_names_are_refused() {
        assert!(Archive::new(Vec::new()).text("/etc/x", 0o644, "").is_err());
    }
}
