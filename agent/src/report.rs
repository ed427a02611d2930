//! `staghound report`: tells a run that was reported as JSON again, in any format.

use std::{
    fs::File,
    io::{self, IsTerminal as _, Read as _, Write as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};
use staghound_gate::report::{self, Format};
use staghound_proto::v1::Run;

/// Bytes of a file that is read; a run has a thousand findings of a quarter of a MiB at most.
const BYTES_MAX: u64 = 512 * 1024 * 1024;

/// What to tell, and how.
#[derive(clap::Args)]
pub struct ReportArgs {
    /// The report as JSON, `report.json` of a directory of reports; `-` for standard input.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// console, markdown, sarif, junit, navigator, html or json.
    #[arg(long, value_name = "FORMAT", default_value_t = Format::Console)]
    format: Format,
    /// Where to write it [default: standard output].
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// As Markdown, short enough for a comment on a pull request.
    #[arg(long, conflicts_with = "format")]
    comment: bool,
}

/// Tells the run.
///
/// # Errors
/// The file is no report, or the output cannot be written.
pub fn report(args: &ReportArgs) -> Result<()> {
    let run = read(&args.file)?;
    let text = if args.comment {
        report::markdown::render(&run, report::markdown::COMMENT_BYTES_MAX)
    } else if args.format == Format::Console && args.output.is_none() {
        let colour = io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        report::console::render(&run, colour)
    } else {
        report::render(&run, args.format)
    };
    write(args.output.as_deref(), &text)
}

/// Reads a report.
///
/// # Errors
/// The file cannot be read, is too large, or is no report.
pub fn read(path: &Path) -> Result<Run> {
    report::read(&read_text(path, BYTES_MAX)?).with_context(|| path.display().to_string())
}

/// Reads a file of no more than so many bytes, or standard input.
///
/// # Errors
/// It cannot be read, is too large, or is no UTF-8.
pub fn read_text(path: &Path, bytes_max: u64) -> Result<String> {
    let name = || format!("cannot read {}", path.display());
    let mut text = String::new();
    if path == Path::new("-") {
        io::stdin().lock().take(bytes_max + 1).read_to_string(&mut text)
    } else {
        let file = File::open(path).with_context(name)?;
        file.take(bytes_max + 1).read_to_string(&mut text)
    }
    .with_context(name)?;
    let length = u64::try_from(text.len()).context("a length fits into 64 bits")?;
    ensure!(
        length <= bytes_max,
        "{} is larger than {bytes_max} bytes, so it was not read",
        path.display()
    );
    Ok(text)
}

/// Writes to a file, or to standard output.
///
/// # Errors
/// It cannot be written.
pub fn write(path: Option<&Path>, text: &str) -> Result<()> {
    match path {
        Some(path) => std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display())),
        None => Ok(io::stdout().lock().write_all(text.as_bytes())?),
    }
}
