//! `staghound attest`: makes keys, signs what is said about a run, and verifies it.

use std::{
    fmt::Write as _,
    fs::{File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail, ensure};
use sha2::{Digest as _, Sha256};
use staghound_gate::attest::{
    self, envelope,
    key::{PrivateKey, PublicKey},
};
use staghound_proto::text::escape;

use crate::report;

/// Bytes of a file with a key.
const KEY_BYTES_MAX: u64 = 64 * 1024;
/// Bytes of an attestation.
const BYTES_MAX: u64 = 64 * 1024 * 1024;
/// Subjects that are listed.
const LISTED_MAX: usize = 100;

/// What to do about attestations.
#[derive(clap::Subcommand)]
pub enum AttestCommand {
    /// Make a key: `NAME.key`, which only its owner can read, and `NAME.pub`.
    Keygen {
        /// Path of both files without their ending.
        #[arg(value_name = "NAME", default_value = "staghound")]
        name: PathBuf,
    },
    /// Sign what a report says, as an in-toto statement (runtime trace) in a Sigstore bundle.
    Sign {
        /// The private key, ECDSA P-256 in PEM (PKCS#8). Nobody but its owner may be able to read it.
        #[arg(long, value_name = "FILE")]
        key: PathBuf,
        /// The report as JSON.
        #[arg(value_name = "REPORT")]
        report: PathBuf,
        /// Where to write it [default: standard output].
        #[arg(long, short, value_name = "FILE")]
        output: Option<PathBuf>,
        /// Only the DSSE envelope, without the bundle around it.
        #[arg(long)]
        envelope: bool,
    },
    /// Verify an attestation, and that it is about the files that are given.
    ///
    /// Exits 0 when all holds, 1 when anything does not.
    Verify {
        /// The public key, in PEM.
        #[arg(long, value_name = "FILE")]
        key: PathBuf,
        /// Refuse every verdict but this one: pass, fail or inconclusive.
        #[arg(long, value_name = "VERDICT")]
        require: Option<String>,
        /// The bundle, or the envelope.
        #[arg(value_name = "BUNDLE")]
        bundle: PathBuf,
        /// Files that the run left behind, or its report.
        #[arg(value_name = "FILE")]
        files: Vec<PathBuf>,
    },
}

/// Does what was asked for; yields what to print.
///
/// # Errors
/// A file cannot be read or written, or the attestation does not hold.
pub fn attest(command: &AttestCommand) -> Result<String> {
    match command {
        AttestCommand::Keygen { name } => keygen(name),
        AttestCommand::Sign {
            key,
            report,
            output,
            envelope,
        } => {
            let key = private_key(key)?;
            let statement = attest::statement(&report::read(report)?);
            let signed = if *envelope {
                envelope::envelope(&statement, &key)
            } else {
                envelope::bundle(&statement, &key)
            };
            report::write(output.as_deref(), &signed)?;
            Ok(String::new())
        }
        AttestCommand::Verify {
            key,
            require,
            bundle,
            files,
        } => verify(key, require.as_deref(), bundle, files),
    }
}

fn keygen(name: &Path) -> Result<String> {
    let mut random = [0; 32];
    getrandom::fill(&mut random).map_err(|error| io::Error::other(error.to_string()))?;
    let key = PrivateKey::generate(&random)?;
    let (private, public) = (with_ending(name, ".key"), with_ending(name, ".pub"));
    // Never over another: what that one signed could not be verified again.
    for (path, mode, pem) in [(&private, 0o600, key.to_pem()), (&public, 0o644, key.public().to_pem())] {
        OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(path)
            .and_then(|mut file| file.write_all(pem.as_bytes()))
            .with_context(|| format!("cannot make {}", path.display()))?;
    }
    Ok(format!(
        "wrote {} (keep it to yourself) and {}\n",
        private.display(),
        public.display()
    ))
}

fn with_ending(name: &Path, ending: &str) -> PathBuf {
    let mut path = name.as_os_str().to_owned();
    path.push(ending);
    path.into()
}

/// Reads a private key that nobody but its owner can read.
///
/// # Errors
/// Others can read it, or it is none.
pub fn private_key(path: &Path) -> Result<PrivateKey> {
    let metadata = std::fs::metadata(path).with_context(|| format!("cannot read {}", path.display()))?;
    ensure!(
        metadata.mode() & 0o077 == 0,
        "{} may be read by others than its owner (mode {:04o}); run `chmod 600` on it, and think whether somebody has",
        path.display(),
        metadata.mode() & 0o7777
    );
    let pem = report::read_text(path, KEY_BYTES_MAX)?;
    PrivateKey::from_pem(&pem).with_context(|| path.display().to_string())
}

fn verify(key: &Path, require: Option<&str>, bundle: &Path, files: &[PathBuf]) -> Result<String> {
    let pem = report::read_text(key, KEY_BYTES_MAX)?;
    let key = PublicKey::from_pem(&pem).with_context(|| key.display().to_string())?;
    let signed = report::read_text(bundle, BYTES_MAX)?;
    let attested = envelope::verify(&signed, &key).with_context(|| bundle.display().to_string())?;
    if let Some(required) = require.filter(|required| *required != attested.verdict) {
        bail!(
            "{}: the verdict is {}, and {required} is required",
            bundle.display(),
            escape(&attested.verdict)
        );
    }
    for path in files {
        let digest = digest(path).with_context(|| format!("cannot read {}", path.display()))?;
        ensure!(
            attested.covers(&digest),
            "{}: is not about {} (sha256 {digest})",
            bundle.display(),
            path.display()
        );
    }
    let mut told = format!(
        "verified: run {}, verdict {}, {} of {} files looked at\n",
        escape(&attested.run_id),
        escape(&attested.verdict),
        files.len(),
        attested.subjects.len()
    );
    for subject in attested.subjects.iter().take(LISTED_MAX) {
        // Writing to a string cannot fail.
        let _written = writeln!(told, "  {}  {}", escape(&subject.sha256), escape(&subject.name));
    }
    if attested.subjects.len() > LISTED_MAX {
        let _written = writeln!(told, "  … and {} more", attested.subjects.len() - LISTED_MAX);
    }
    Ok(told)
}

fn digest(path: &Path) -> io::Result<String> {
    let mut hasher = Sha256::new();
    io::copy(&mut File::open(path)?, &mut Hashing(&mut hasher))?;
    Ok(format!("{:x}", hasher.finalize()))
}

/// A hasher to write to.
struct Hashing<'a>(&'a mut Sha256);

impl io::Write for Hashing<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _};

    use staghound_proto::{json, v1::Run};

    use super::*;

    #[test]
    fn from_key_to_verified() {
        let directory = tempfile::TempDir::new().unwrap();
        let path = |name: &str| directory.path().join(name);
        let keygen = || attest(&AttestCommand::Keygen { name: path("ours") });
        keygen().unwrap();
        assert!(keygen().is_err(), "a key is not overwritten");
        assert_eq!(fs::metadata(path("ours.key")).unwrap().mode() & 0o777, 0o600);
        let run = Run {
            run_id: "r".to_owned(),
            verdict: staghound_proto::v1::Verdict::Pass.into(),
            ..Run::default()
        };
        fs::write(path("report.json"), json::to_string(&run) + "\n").unwrap();
        let sign = || {
            attest(&AttestCommand::Sign {
                key: path("ours.key"),
                report: path("report.json"),
                output: Some(path("bundle.json")),
                envelope: false,
            })
        };
        sign().unwrap();
        let verify = |require: &str, file: &str| {
            attest(&AttestCommand::Verify {
                key: path("ours.pub"),
                require: Some(require.to_owned()),
                bundle: path("bundle.json"),
                files: vec![path(file)],
            })
        };
        let told = verify("pass", "report.json").unwrap();
        assert!(
            told.starts_with("verified: run r, verdict pass, 1 of 1 files"),
            "{told}"
        );
        let error = verify("fail", "report.json").unwrap_err().to_string();
        assert!(error.ends_with("the verdict is pass, and fail is required"), "{error}");
        let error = verify("pass", "ours.pub").unwrap_err().to_string();
        assert!(error.contains("is not about"), "{error}");
        fs::set_permissions(path("ours.key"), fs::Permissions::from_mode(0o640)).unwrap();
        let error = sign().unwrap_err().to_string();
        assert!(error.contains("may be read by others"), "{error}");
    }
}
