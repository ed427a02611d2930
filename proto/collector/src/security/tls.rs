//! The server's certificates, read from files and read again when these change.

use crate::metrics::Metrics;
use rustls::{
    RootCertStore, ServerConfig,
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::WebPkiClientVerifier,
};
use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
};
use tokio::sync::watch;

/// No file of certificates is as large.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Where the certificates are, all in PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Files {
    /// The server's certificate, those that vouch for it after it.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// Who vouches for agents and consumers.
    pub client_ca: PathBuf,
}

/// Why certificates cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("cannot read {path}: {source}; check --tls-cert, --tls-key and --tls-client-ca")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// What it holds is not what it should be.
    #[error("cannot use {path}: {reason}")]
    Content {
        /// The file.
        path: PathBuf,
        /// Why, and what to do.
        reason: String,
    },
}

/// What is served now, and how to tell that the files are others.
pub(crate) struct Tls {
    files: Files,
    current: RwLock<(Contents, Arc<ServerConfig>)>,
    /// How often the CA was replaced; connections that an earlier one vouched for end.
    generation: watch::Sender<u64>,
    metrics: Arc<Metrics>,
}

#[derive(PartialEq, Eq)]
struct Contents {
    certificate: Vec<u8>,
    key: Vec<u8>,
    client_ca: Vec<u8>,
}

/// The one crypto provider, the agent's as well.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

impl Tls {
    pub(crate) fn load(files: Files, metrics: Arc<Metrics>) -> Result<Self, TlsError> {
        let contents = read(&files)?;
        let config = config(&files, &contents)?;
        Ok(Self {
            files,
            current: RwLock::new((contents, Arc::new(config))),
            generation: watch::Sender::new(0),
            metrics,
        })
    }

    pub(crate) fn current(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner).1)
    }

    pub(crate) fn generation(&self) -> watch::Receiver<u64> {
        self.generation.subscribe()
    }

    /// Takes over what is in the files if that is new and good; else what was there goes on to be served. Blocks.
    pub(crate) fn reload(&self) {
        let new = read(&self.files).and_then(|contents| {
            let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
            if current.0 == contents {
                return Ok(None);
            }
            drop(current);
            let config = config(&self.files, &contents)?;
            Ok(Some((contents, config)))
        });
        match new {
            Ok(None) => {
                self.metrics.tls_files_bad.set(0);
            }
            Ok(Some((contents, config))) => {
                let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
                let other_ca = current.0.client_ca != contents.client_ca;
                *current = (contents, Arc::new(config));
                drop(current);
                if other_ca {
                    self.generation.send_modify(|generation| *generation += 1);
                }
                self.metrics.tls_reloads.inc();
                self.metrics.tls_files_bad.set(0);
                tracing::info!(other_ca, "certificates reloaded");
            }
            // While files are replaced one after the other they do not fit together for a moment.
            Err(error) => {
                if self.metrics.tls_files_bad.set(1) == 0 {
                    tracing::warn!(%error, "certificates changed and cannot be used; those from before go on to be served");
                }
            }
        }
    }
}

fn read(files: &Files) -> Result<Contents, TlsError> {
    let read = |path: &Path| {
        let bytes = fs::metadata(path).and_then(|metadata| match metadata.len() {
            0..=FILE_BYTES_MAX => fs::read(path),
            _ => Err(io::Error::other("it is far too large for certificates")),
        });
        bytes.map_err(|source| TlsError::Read {
            path: path.to_owned(),
            source,
        })
    };
    Ok(Contents {
        certificate: read(&files.certificate)?,
        key: read(&files.key)?,
        client_ca: read(&files.client_ca)?,
    })
}

fn config(files: &Files, contents: &Contents) -> Result<ServerConfig, TlsError> {
    let bad = |path: &Path, reason: String| TlsError::Content {
        path: path.to_owned(),
        reason,
    };
    let certificates = |path: &Path, pem: &[u8]| {
        let certificates: Vec<_> = CertificateDer::pem_slice_iter(pem)
            .collect::<Result<_, _>>()
            .map_err(|error| bad(path, format!("{error}; it must hold certificates in PEM")))?;
        if certificates.is_empty() {
            return Err(bad(path, "it holds no certificate in PEM".to_owned()));
        }
        Ok(certificates)
    };
    let chain = certificates(&files.certificate, &contents.certificate)?;
    let key = PrivateKeyDer::from_pem_slice(&contents.key)
        .map_err(|error| bad(&files.key, format!("{error}; it must hold a private key in PEM")))?;
    let mut roots = RootCertStore::empty();
    for certificate in certificates(&files.client_ca, &contents.client_ca)? {
        roots
            .add(certificate)
            .map_err(|error| bad(&files.client_ca, error.to_string()))?;
    }
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider())
        .build()
        .map_err(|error| bad(&files.client_ca, error.to_string()))?;
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| bad(&files.certificate, error.to_string()))?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .map_err(|error| {
            bad(
                &files.certificate,
                format!("{error}; certificate and key must belong together"),
            )
        })?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}
