//! TLS on the streaming server: the files, and what is made of them.
//!
//! HTTP/1.1 is all that is offered: a connection of HTTP/2 could not be upgraded.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls;
use tokio_rustls::rustls::pki_types::pem::{self, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::server::danger::ClientCertVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig};
use tracing::{info, warn};

/// How often the files are looked at, at most.
const CHECK_EVERY: Duration = Duration::from_secs(1);

/// Where the parts of a server's identity lie, all in PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The server's certificate, and those between it and a root.
    pub cert: PathBuf,
    /// Its private key: PKCS #8, PKCS #1 or SEC 1.
    pub key: PathBuf,
    /// The certificates that clients' certificates must lead to. If there is such a file, clients without a
    /// certificate are turned away. A kubelet is one of those: it presents none.
    pub client_ca: Option<PathBuf>,
}

/// Why there is no TLS. Each is the fault of the files.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// A file can't be read.
    #[error("reading {}: {source}; name files that this process may read", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A file does not hold what it should.
    #[error("{} holds no {wanted} in PEM: {cause}", file.display())]
    Content {
        /// The file.
        file: PathBuf,
        /// What was looked for.
        wanted: &'static str,
        /// What was found instead.
        cause: String,
    },
    /// The files don't make an identity together.
    #[error("{} and {} can't be used together: {source}; make both anew, as a pair", cert.display(), key.display())]
    Unusable {
        /// The certificate.
        cert: PathBuf,
        /// The key.
        key: PathBuf,
        /// What rustls says.
        source: rustls::Error,
    },
}

/// A server's identity, kept up to date with its files. Cheap to clone; all clones are one.
#[derive(Debug, Clone)]
pub struct Tls {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    files: TlsFiles,
    current: Mutex<Current>,
}

/// Invariant: `config` was made of good files; `seen` are the files that were looked at last, good or bad.
#[derive(Debug)]
struct Current {
    config: Arc<ServerConfig>,
    seen: Vec<Option<Stamp>>,
    checked: Instant,
}

/// What changes when a file is written or replaced. Mounted secrets are links that are turned: those are followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    modified: Option<SystemTime>,
    len: u64,
    inode: u64,
}

impl Tls {
    /// Reads the files.
    ///
    /// # Errors
    ///
    /// A [`TlsError`] if one is missing or holds something else, or the key is not the certificate's.
    pub fn load(files: TlsFiles) -> Result<Self, TlsError> {
        let seen = files.stamps();
        let config = files.read()?;
        let current = Mutex::new(Current { config, seen, checked: Instant::now() });
        Ok(Self { inner: Arc::new(Inner { files, current }) })
    }

    /// What a new connection is accepted with. Looks at the files if that was not done within the last second;
    /// if they have changed for the worse, what there was goes on.
    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        let mut current = self.inner.current.lock().unwrap_or_else(PoisonError::into_inner);
        if current.checked.elapsed() >= CHECK_EVERY {
            current.checked = Instant::now();
            // Before reading: what changes meanwhile is seen the next time.
            let stamps = self.inner.files.stamps();
            if stamps != current.seen {
                current.seen = stamps;
                self.inner.reload(&mut current);
            }
        }
        TlsAcceptor::from(current.config.clone())
    }
}

impl Inner {
    fn reload(&self, current: &mut Current) {
        let cert = self.files.cert.display();
        match self.files.read() {
            Ok(config) => {
                current.config = config;
                info!(%cert, "reloaded the certificate: its files have changed");
            }
            Err(error) => warn!(%cert, %error, "keeping the old certificate: its new files are no good"),
        }
    }
}

impl TlsFiles {
    fn stamps(&self) -> Vec<Option<Stamp>> {
        [Some(&self.cert), Some(&self.key), self.client_ca.as_ref()]
            .into_iter()
            .flatten()
            .map(stamp)
            .collect()
    }

    fn read(&self) -> Result<Arc<ServerConfig>, TlsError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let unusable = |source| TlsError::Unusable { cert: self.cert.clone(), key: self.key.clone(), source };
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(unusable)?;
        let builder = match &self.client_ca {
            Some(file) => builder.with_client_cert_verifier(client_verifier(file, provider)?),
            None => builder.with_no_client_auth(),
        };
        let chain = certificates(&self.cert)?;
        let key = PrivateKeyDer::from_pem_slice(&read(&self.key)?)
            .map_err(|e| content(&self.key, "private key", &e))?;
        let mut config = builder.with_single_cert(chain, key).map_err(unusable)?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }
}

fn client_verifier(
    file: &Path,
    provider: Arc<rustls::crypto::CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let unusable =
        |cause: String| TlsError::Content { file: file.into(), wanted: "usable certificate", cause };
    let mut roots = RootCertStore::empty();
    for certificate in certificates(file)? {
        roots.add(certificate).map_err(|e| unusable(e.to_string()))?;
    }
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
    verifier.map_err(|e| unusable(e.to_string()))
}

/// All certificates of a file; at least one.
fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let text = read(file)?;
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    match certificates {
        Ok(some) if !some.is_empty() => Ok(some),
        Ok(_) => Err(content(file, "certificate", &pem::Error::NoItemsFound)),
        Err(e) => Err(content(file, "certificate", &e)),
    }
}

fn read(file: &Path) -> Result<Vec<u8>, TlsError> {
    fs::read(file).map_err(|source| TlsError::Read { file: file.into(), source })
}

fn content(file: &Path, wanted: &'static str, cause: &pem::Error) -> TlsError {
    TlsError::Content { file: file.into(), wanted, cause: cause.to_string() }
}

fn stamp(file: &PathBuf) -> Option<Stamp> {
    let file = fs::metadata(file).ok()?;
    Some(Stamp { modified: file.modified().ok(), len: file.len(), inode: file.ino() })
}
