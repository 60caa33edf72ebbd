//! Fetches revocation lists from the configured URLs, and keeps them while they cannot be
//! fetched again.
//!
//! Addresses come from the configuration alone, never from a certificate. The last fetched
//! document of each URL is kept in memory over reloads. If a directory is configured, it is
//! also written there once it is in use, so that after a restart an older document is
//! recognized. [`crate::trust`] decides about the content of a list, and whether it may replace
//! the earlier one.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::Uri;
use rustls::RootCertStore;
use rustls_pki_types::CertificateRevocationListDer;

use crate::clock;
use crate::crypto;
use crate::file_read::read_regular;
use crate::http_client::{ClientSettings, FetchError, HttpClient};
use crate::identity::TrustDomain;
use crate::identity::text::hex;
use crate::pem;
use crate::secret::{Existing, write_private};
use crate::trust;

/// The URL of a revocation list, and how to fetch it.
#[derive(Clone)]
pub struct CrlSource {
    /// The trust domain that the lists belong to.
    pub trust_domain: TrustDomain,
    /// An `https` URL.
    pub url: Uri,
    /// The rules for fetching.
    pub policy: Arc<CrlFetchPolicy>,
    /// The document with which the source's configuration was built.
    pub in_use: Bytes,
}

/// The rules by which lists are fetched.
#[derive(Debug, Clone)]
pub struct CrlFetchPolicy {
    /// Authorities that may issue the servers' certificates.
    pub roots: Arc<RootCertStore>,
    /// Timeout of a whole fetch, from connecting to the last byte.
    pub timeout: Duration,
    /// Most bytes of one document.
    pub max_bytes: usize,
    /// How long a list is used before it is fetched again, at the latest.
    pub interval: Duration,
    /// The directory in which the newest list of each URL is kept for the next start.
    pub directory: Option<PathBuf>,
}

/// The reason why there is no list.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CrlFetchError {
    /// The document was not fetched.
    #[error("{0}")]
    Fetch(#[from] FetchError),
    /// No connection can be set up, whatever the URL is.
    #[error("{0}")]
    Setup(String),
    /// The response is not a document of revocation lists.
    #[error("{0}")]
    Unusable(String),
}

/// The newest list of each URL.
#[derive(Default)]
pub struct CrlFetcher {
    kept: Mutex<HashMap<String, Kept>>,
}

struct Kept {
    document: CrlDocument,
    /// When the document was last known to be the server's current one, in seconds since the
    /// Unix epoch; 0 for a copy from disk.
    fetched_at: u64,
}

/// A document that holds revocation lists and nothing else.
#[derive(Debug, Clone)]
pub struct CrlDocument {
    bytes: Bytes,
    /// When the first list of the document is to be replaced, in seconds since the Unix epoch.
    next_update: Option<i64>,
}

impl CrlDocument {
    /// Decodes a document, which takes a while if it is large. Also returns the lists.
    ///
    /// # Errors
    /// Same as [`crls_in`].
    pub fn decode(
        bytes: Bytes,
    ) -> Result<(Self, Vec<CertificateRevocationListDer<'static>>), String> {
        let lists = crls_in(&bytes)?;
        let ends = lists
            .iter()
            .filter_map(|list| trust::revocation::next_update(list));
        let next_update = ends.min();
        let document = Self { bytes, next_update };
        Ok((document, lists))
    }

    fn alone(bytes: Bytes) -> Result<Self, String> {
        Self::decode(bytes).map(|(document, _)| document)
    }
}

/// The document of a source that is not in service yet: fetched, or read from the copy on disk.
#[derive(Debug)]
pub struct Obtained {
    /// The document.
    pub bytes: Bytes,
    /// The document that was in use before according to the copy on disk, if it differs. The
    /// new document may have to be compared with it.
    pub before: Option<Bytes>,
}

impl CrlFetcher {
    /// Obtains a source's document: fetches it, or reads the copy on disk if that fails. Blocks
    /// while it fetches; must not be called on a runtime's threads other than its blocking
    /// ones.
    ///
    /// # Errors
    /// If neither works.
    pub fn obtain(&self, source: &CrlSource) -> Result<Obtained, CrlFetchError> {
        let copy = source.read_copy();
        let fetched = fetch_blocking(source)
            .and_then(|bytes| CrlDocument::alone(bytes).map_err(CrlFetchError::Unusable));
        match (fetched, copy) {
            (Ok(document), copy) => {
                let bytes = document.bytes.clone();
                self.put(source, document, clock::unix_now());
                let before = copy.map(|copy| copy.bytes).filter(|copy| *copy != bytes);
                Ok(Obtained { bytes, before })
            }
            (Err(error), Some(copy)) => {
                tracing::error!(url = %source.url, %error, "the revocation list is used as it was kept on disk");
                let bytes = copy.bytes.clone();
                self.put(source, copy, 0);
                Ok(Obtained {
                    bytes,
                    before: None,
                })
            }
            (Err(error), None) => Err(error),
        }
    }

    /// Keeps the copy on disk in place of the fetched document. The source is fetched again at
    /// once. Decodes the copy, as [`CrlDocument::decode`] does.
    pub fn fall_back(&self, source: &CrlSource, copy: Bytes) {
        // Never fails, because the copy was decoded before, when it was read from the disk.
        if let Ok(copy) = CrlDocument::alone(copy) {
            self.put(source, copy, 0);
        }
    }

    /// Fetches a source's document. Returns it if it differs from the kept one.
    ///
    /// # Errors
    /// If it cannot be fetched.
    pub async fn fetch(&self, source: &CrlSource) -> Result<Option<Bytes>, CrlFetchError> {
        let bytes = fetch(source).await?;
        let url = source.url.to_string();
        if let Some(kept) = self.all().get_mut(&url)
            && kept.document.bytes == bytes
        {
            kept.fetched_at = clock::unix_now();
            return Ok(None);
        }
        Ok(Some(bytes))
    }

    /// Writes the document in use to disk, if that is configured and the file differs. The
    /// document stays in use even if it cannot be written.
    pub fn save(source: &CrlSource) {
        if let Some(path) = source.copy()
            && source.read(&path).ok().as_deref() != Some(&*source.in_use)
            && let Err(error) = write_private(&path, &source.in_use, Existing::Replace)
        {
            tracing::error!(file = %path.display(), %error, "a revocation list cannot be kept on disk");
        }
    }

    /// Keeps a document for the next load of its trust domain.
    pub fn keep(&self, source: &CrlSource, document: CrlDocument) {
        self.put(source, document, clock::unix_now());
    }

    fn put(&self, source: &CrlSource, document: CrlDocument, fetched_at: u64) {
        let kept = Kept {
            document,
            fetched_at,
        };
        self.all().insert(source.url.to_string(), kept);
    }

    /// Whether the kept document is the one in use.
    #[must_use]
    pub fn is_in_use(&self, source: &CrlSource) -> bool {
        let all = self.all();
        all.get(&source.url.to_string())
            .is_none_or(|kept| kept.document.bytes == source.in_use)
    }

    /// Returns when the first list of a source is to be replaced, in seconds since the Unix
    /// epoch, if that is known.
    #[must_use]
    pub fn next_update(&self, source: &CrlSource) -> Option<i64> {
        let all = self.all();
        all.get(&source.url.to_string())?.document.next_update
    }

    /// Returns the kept document of a source, if there is one.
    #[must_use]
    pub fn kept(&self, source: &CrlSource) -> Option<Bytes> {
        let all = self.all();
        let kept = all.get(&source.url.to_string())?;
        Some(kept.document.bytes.clone())
    }

    /// Returns when a source's list was last fetched, in seconds since the Unix epoch; 0 if
    /// this process has never fetched it.
    #[must_use]
    pub fn fetched_at(&self, source: &CrlSource) -> u64 {
        let kept = self.all();
        kept.get(&source.url.to_string())
            .map_or(0, |kept| kept.fetched_at)
    }

    fn all(&self) -> MutexGuard<'_, HashMap<String, Kept>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns the revocation lists in a document: PEM with one or more, or one in DER.
///
/// # Errors
/// If the document contains anything else, because nothing is skipped.
pub fn crls_in(document: &[u8]) -> Result<Vec<CertificateRevocationListDer<'static>>, String> {
    pem::revocation_lists(document)
        .map_err(|error| format!("what came is no revocation list: {error}"))
}

impl CrlSource {
    /// Returns the source's file in the directory of copies. A hash of the URL names the file,
    /// because a URL is not a valid file name.
    fn copy(&self) -> Option<PathBuf> {
        let directory = self.policy.directory.as_ref()?;
        let name = hex(&crypto::sha256(self.url.to_string().as_bytes()));
        Some(directory.join(format!("{name}.crl")))
    }

    /// Reads a copy of limited size, because a longer document was never fetched.
    fn read(&self, copy: &Path) -> io::Result<Vec<u8>> {
        let max = u64::try_from(self.policy.max_bytes).unwrap_or(u64::MAX);
        read_regular(copy, max)
    }

    /// Reads the copy of the document that was last in use, if there is a readable one.
    fn read_copy(&self) -> Option<CrlDocument> {
        let path = self.copy()?;
        let bytes = match self.read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => {
                tracing::error!(file = %path.display(), %error, "a revocation list that was kept on disk cannot be read");
                return None;
            }
        };
        match CrlDocument::alone(bytes.into()) {
            Ok(document) => Some(document),
            Err(error) => {
                tracing::error!(file = %path.display(), %error, "a revocation list that was kept on disk is damaged");
                None
            }
        }
    }
}

impl fmt::Debug for CrlSource {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("CrlSource")
            .field("trust_domain", &self.trust_domain)
            .field("url", &self.url)
            .finish_non_exhaustive()
    }
}

async fn fetch(source: &CrlSource) -> Result<Bytes, CrlFetchError> {
    let client = HttpClient::new(&ClientSettings {
        roots: Arc::clone(&source.policy.roots),
        certificate: None,
        timeout: source.policy.timeout,
    })
    .map_err(|error| CrlFetchError::Setup(error.to_string()))?;
    Ok(client.fetch(&source.url, source.policy.max_bytes).await?)
}

/// Fetches on a separate thread with a separate runtime, because the caller may be inside one.
fn fetch_blocking(source: &CrlSource) -> Result<Bytes, CrlFetchError> {
    let failed = |error: &dyn fmt::Display| CrlFetchError::Setup(error.to_string());
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("list".to_owned());
        let fetching = thread.spawn_scoped(scope, || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .map_err(|error| failed(&error))?;
            runtime.block_on(fetch(source))
        });
        match fetching.map(std::thread::ScopedJoinHandle::join) {
            Ok(Ok(fetched)) => fetched,
            Ok(Err(_)) => Err(failed(&"fetching it panicked")),
            Err(error) => Err(failed(&error)),
        }
    })
}

impl fmt::Debug for CrlFetcher {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_set().entries(self.all().keys()).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;
    use std::sync::mpsc;

    use countersign_testkit::{Crl, TestCa};

    use super::*;

    fn source(directory: &Path, max_bytes: usize) -> CrlSource {
        CrlSource {
            trust_domain: TrustDomain::parse("example.org").unwrap(),
            url: "https://lists.example.org/a.crl".parse().unwrap(),
            policy: Arc::new(CrlFetchPolicy {
                roots: Arc::new(RootCertStore::empty()),
                timeout: Duration::from_secs(1),
                max_bytes,
                interval: Duration::from_secs(60),
                directory: Some(directory.to_owned()),
            }),
            in_use: Bytes::new(),
        }
    }

    /// What the copy holds, which must be known at once.
    fn read(source: &CrlSource) -> Option<Bytes> {
        let (said, hears) = mpsc::channel();
        let source = source.clone();
        std::thread::spawn(move || said.send(source.read_copy()));
        let copy = hears.recv_timeout(Duration::from_secs(60));
        copy.expect("reading it does not end")
            .map(|copy| copy.bytes)
    }

    #[test]
    fn a_copy_is_a_regular_file_no_longer_than_what_is_fetched() {
        let directory = tempfile::tempdir().unwrap();
        let ca = TestCa::new("example.org");
        let list = Bytes::from(Crl::new().valid(-60, 5_000).pem_signed_by(ca.root()));
        let mut exact = source(directory.path(), list.len());
        exact.in_use = list.clone();
        let path = exact.copy().unwrap();
        assert_eq!(read(&exact), None);
        CrlFetcher::save(&exact);
        assert_eq!(read(&exact), Some(list.clone()));
        assert_eq!(read(&source(directory.path(), list.len() - 1)), None);
        std::fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("/dev/zero", &path).unwrap();
        assert_eq!(read(&exact), None);
        std::fs::remove_file(&path).unwrap();
        assert!(
            Command::new("mkfifo")
                .arg(&path)
                .status()
                .unwrap()
                .success()
        );
        assert_eq!(read(&exact), None);
        // The next one that is kept takes its place.
        CrlFetcher::save(&exact);
        assert_eq!(read(&exact), Some(list));
    }
}
