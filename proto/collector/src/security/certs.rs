//! Certificates to try it out with: an authority that is thrown away, and one certificate each for the collector, for
//! agents and for consumers. For anything else use your own.

use super::identity::{self, Identity};
use anyhow::{Context as _, bail};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, SanType,
};
use std::{
    fs::{self, DirBuilder},
    io::Write as _,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

/// Clocks of hosts differ.
const BACKDATED: Duration = Duration::from_secs(3600);

/// What to make.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Where to.
    pub directory: PathBuf,
    /// Names and addresses that the collector is reached by.
    pub hosts: Vec<String>,
    /// Ids of agents.
    pub agents: Vec<String>,
    /// Names of consumers.
    pub consumers: Vec<String>,
    /// How long all of it holds.
    pub validity: Duration,
    /// Replace what is there.
    pub force: bool,
}

/// Makes `ca.pem`, `server.pem`, `agent-<id>.pem` and `consumer-<name>.pem`, and the keys beside them (`.key`). Gives
/// the paths.
///
/// # Errors
/// A name is none, a file is there already, or cannot be written.
pub fn make(wanted: &Wanted) -> anyhow::Result<Vec<PathBuf>> {
    let mut builder = DirBuilder::new();
    builder.recursive(true).mode(0o700);
    let directory = &wanted.directory;
    builder
        .create(directory)
        .with_context(|| format!("cannot make {}", directory.display()))?;
    let mut params = CertificateParams::new(Vec::new()).context("cannot make an authority")?;
    params
        .distinguished_name
        .push(DnType::CommonName, "Staghound, for development only");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    limit(&mut params, wanted.validity);
    let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().context("cannot make a key")?)
        .context("cannot make an authority")?;

    let mut made = Vec::new();
    let mut write = |name: &str, certificate: &str, key: &str| -> anyhow::Result<()> {
        for (extension, text, mode) in [("pem", certificate, 0o644), ("key", key, 0o600)] {
            let path = directory.join(format!("{name}.{extension}"));
            create(&path, text, mode, wanted.force)?;
            made.push(path);
        }
        Ok(())
    };
    write("ca", &ca.pem(), &ca.key().serialize_pem())?;
    let issue = |params: CertificateParams| -> anyhow::Result<(String, String)> {
        let key = KeyPair::generate().context("cannot make a key")?;
        let certificate = params.signed_by(&key, &ca).context("cannot sign a certificate")?;
        Ok((certificate.pem(), key.serialize_pem()))
    };

    let mut params = CertificateParams::new(wanted.hosts.clone())
        .with_context(|| format!("{:?} are no names of hosts", wanted.hosts))?;
    params
        .distinguished_name
        .push(DnType::CommonName, "staghound-collector");
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    limit(&mut params, wanted.validity);
    let (certificate, key) = issue(params)?;
    write("server", &certificate, &key)?;

    let agents = wanted
        .agents
        .iter()
        .map(|id| ("agent", id, Identity::Agent(id.clone())));
    let consumers = wanted
        .consumers
        .iter()
        .map(|name| ("consumer", name, Identity::Consumer(name.clone())));
    for (role, name, identity) in agents.chain(consumers) {
        let uri = identity::uri(&identity).unwrap_or_default();
        let mut params = CertificateParams::new(Vec::new()).context("cannot make a certificate")?;
        let uri = uri
            .try_into()
            .with_context(|| format!("{name:?} cannot be part of a URI"))?;
        params.subject_alt_names.push(SanType::URI(uri));
        params
            .distinguished_name
            .push(DnType::CommonName, format!("{role} {name}"));
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        limit(&mut params, wanted.validity);
        let (certificate, key) = issue(params)?;
        if name.contains('/') || name.starts_with('.') {
            bail!("{name:?} cannot be the name of a file; use A-Z a-z 0-9 . _ -");
        }
        write(&format!("{role}-{name}"), &certificate, &key)?;
    }
    Ok(made)
}

fn limit(params: &mut CertificateParams, validity: Duration) {
    let now = SystemTime::now();
    params.not_before = (now - BACKDATED).into();
    params.not_after = (now + validity).into();
}

fn create(path: &Path, text: &str, mode: u32, force: bool) -> anyhow::Result<()> {
    let mut options = fs::OpenOptions::new();
    options.write(true).mode(mode).create_new(true);
    if force && path.exists() {
        fs::remove_file(path).with_context(|| format!("cannot replace {}", path.display()))?;
    }
    let mut file = options
        .open(path)
        .with_context(|| format!("cannot write {}; give --force to replace what is there", path.display()))?;
    file.write_all(text.as_bytes())
        .with_context(|| format!("cannot write {}", path.display()))
}
