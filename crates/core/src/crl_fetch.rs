//! Fetches CRLs from the configured URLs, and keeps the last document of each URL.
//!
//! URLs come only from the configuration, never from a certificate. The last fetched document of
//! each URL stays in memory over reloads. If a directory is configured, a document is also written
//! to disk when it is put in use. After a restart, this copy is needed to detect that a server
//! sends an older document than before. [`crate::trust`] checks the content of a CRL, and decides
//! whether it may replace an earlier CRL.

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
use crate::trust::CrlTimes;

/// The URL of a document with CRLs, and the rules for fetching it.
#[derive(Clone)]
pub struct CrlSource {
    /// The trust domain whose certificates the CRLs revoke.
    pub trust_domain: TrustDomain,
    /// The `https` URL of the document.
    pub url: Uri,
    /// The rules for fetching the document.
    pub policy: Arc<CrlFetchPolicy>,
    /// How long after its thisUpdate a CRL without nextUpdate is used. `None` means that CRLs
    /// without nextUpdate are refused.
    pub max_age: Option<Duration>,
    /// The document from which the current configuration was built.
    pub in_use: Bytes,
}

/// The rules for fetching CRLs.
#[derive(Debug, Clone)]
pub struct CrlFetchPolicy {
    /// The certificate authorities that may issue the certificates of CRL servers.
    pub roots: Arc<RootCertStore>,
    /// Timeout of a whole fetch, from the connection attempt to the last byte.
    pub timeout: Duration,
    /// Maximum size of one document in bytes.
    pub max_bytes: usize,
    /// Maximum time between two fetches of the same document.
    pub interval: Duration,
    /// The directory in which the last used document of each URL is kept for the next start. `None`
    /// if documents are not written to disk.
    pub directory: Option<PathBuf>,
}

/// The reason why a source's document could not be obtained.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CrlFetchError {
    /// The HTTP request failed, or its response was refused.
    #[error("{0}")]
    Fetch(#[from] FetchError),
    /// The HTTP client could not be set up, for a reason that does not depend on the URL.
    #[error("{0}")]
    Setup(String),
    /// The response is not a document with CRLs.
    #[error("{0}")]
    Unusable(String),
}

/// Fetches documents with CRLs, and keeps the last document of each URL.
#[derive(Default)]
pub struct CrlFetcher {
    /// The last document of each URL.
    kept: Mutex<HashMap<String, Kept>>,
}

struct Kept {
    document: CrlDocument,
    /// The time at which the server last returned this document, in seconds since the Unix epoch. 0
    /// if the document is a copy from disk.
    fetched_at: u64,
}

/// A document that contains only CRLs. [`CrlDocument::decode`] has checked this.
#[derive(Debug, Clone)]
pub struct CrlDocument {
    bytes: Bytes,
    /// The thisUpdate and nextUpdate of each CRL in the document.
    times: Vec<CrlTimes>,
}

impl CrlDocument {
    /// Decodes a document. Returns the document and its CRLs. Decoding a large document takes a
    /// long time.
    ///
    /// # Errors
    /// Returns the same errors as [`crls_in`].
    pub fn decode(
        bytes: Bytes,
    ) -> Result<(Self, Vec<CertificateRevocationListDer<'static>>), String> {
        let lists = crls_in(&bytes)?;
        let times = lists.iter().filter_map(|list| CrlTimes::read(list));
        let times = times.collect();
        let document = Self { bytes, times };
        Ok((document, lists))
    }

    fn alone(bytes: Bytes) -> Result<Self, String> {
        Self::decode(bytes).map(|(document, _)| document)
    }
}

/// The document of a source, obtained for a configuration that is not in service yet.
#[derive(Debug)]
pub struct Obtained {
    /// The document, fetched from the server or read from the copy on disk.
    pub bytes: Bytes,
    /// The copy on disk, if it differs from the fetched document. The copy was in use before the
    /// restart, so the fetched document may have to be compared with it.
    pub before: Option<Bytes>,
}

impl CrlFetcher {
    /// Returns a source's document. Fetches the document, or reads the copy on disk if the fetch
    /// fails.
    ///
    /// Blocks the thread during the fetch. On a tokio runtime, call this only on blocking threads.
    ///
    /// # Errors
    /// Returns the error of the fetch, if the fetch fails and there is no copy on disk.
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

    /// Keeps the copy on disk (`copy`) in place of the fetched document. `fetched_at` becomes 0, so
    /// that the document is fetched again soon. Decodes the copy like [`CrlDocument::decode`].
    pub fn fall_back(&self, source: &CrlSource, copy: Bytes) {
        // Decoding always succeeds here, because the copy was decoded when it was read from disk.
        if let Ok(copy) = CrlDocument::alone(copy) {
            self.put(source, copy, 0);
        }
    }

    /// Fetches a source's document. Returns `None` if the fetched document equals the kept
    /// document.
    ///
    /// # Errors
    /// Returns an error if the document cannot be fetched.
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

    /// Writes the document in use to disk, if a directory is configured and the copy in it differs
    /// from the document. The document stays in use even if the write fails.
    pub fn save(source: &CrlSource) {
        if let Some(path) = source.copy()
            && source.read(&path).ok().as_deref() != Some(&*source.in_use)
            && let Err(error) = write_private(&path, &source.in_use, Existing::Replace)
        {
            tracing::error!(file = %path.display(), %error, "a revocation list cannot be kept on disk");
        }
    }

    /// Keeps a document in memory. The next load of the source's trust domain uses it.
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

    /// Returns whether the kept document equals the document in use. Also returns `true` if no
    /// document is kept.
    #[must_use]
    pub fn is_in_use(&self, source: &CrlSource) -> bool {
        let all = self.all();
        all.get(&source.url.to_string())
            .is_none_or(|kept| kept.document.bytes == source.in_use)
    }

    /// Returns the earliest time at which one of a source's CRLs expires, in seconds since the Unix
    /// epoch. A CRL expires at its nextUpdate. Without nextUpdate, a CRL expires `max_age` after
    /// its thisUpdate. Returns `None` if no such time is known.
    #[must_use]
    pub fn next_update(&self, source: &CrlSource) -> Option<i64> {
        let all = self.all();
        let times = &all.get(&source.url.to_string())?.document.times;
        times
            .iter()
            .filter_map(|time| time.end(source.max_age))
            .min()
    }

    /// Returns the kept document of a source. Returns `None` if no document is kept.
    #[must_use]
    pub fn kept(&self, source: &CrlSource) -> Option<Bytes> {
        let all = self.all();
        let kept = all.get(&source.url.to_string())?;
        Some(kept.document.bytes.clone())
    }

    /// Returns when a source's document was last fetched, in seconds since the Unix epoch. Returns
    /// 0 if this process has never fetched it, or if the kept document is a copy from disk.
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

/// Returns the CRLs in a document. The document is PEM with one or more CRLs, or a single CRL in
/// DER.
///
/// # Errors
/// Returns an error if a part of the document is not a CRL. No part of a document is skipped.
pub fn crls_in(document: &[u8]) -> Result<Vec<CertificateRevocationListDer<'static>>, String> {
    pem::revocation_lists(document)
        .map_err(|error| format!("what came is no revocation list: {error}"))
}

impl CrlSource {
    /// Returns the path of the copy on disk. The file name is a hash of the URL, because a URL is
    /// not a valid file name.
    fn copy(&self) -> Option<PathBuf> {
        let directory = self.policy.directory.as_ref()?;
        let name = hex(&crypto::sha256(self.url.to_string().as_bytes()));
        Some(directory.join(format!("{name}.crl")))
    }

    /// Reads a copy on disk. The limit `max_bytes` is the same as for fetched documents.
    fn read(&self, copy: &Path) -> io::Result<Vec<u8>> {
        let max = u64::try_from(self.policy.max_bytes).unwrap_or(u64::MAX);
        read_regular(copy, max)
    }

    /// Reads the copy on disk. Returns `None` if there is no readable copy.
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

/// Fetches the document on a new thread with a new runtime. The current thread may belong to a
/// runtime, and such a thread must not start another runtime.
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
            max_age: None,
            in_use: Bytes::new(),
        }
    }

    /// Reads the copy in a thread, so that the test fails if the read blocks.
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
        // Saving a document replaces the named pipe at the path of the copy.
        CrlFetcher::save(&exact);
        assert_eq!(read(&exact), Some(list));
    }
}
