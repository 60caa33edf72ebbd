//! Revocation lists by URL: fetched from where the configuration says, kept
//! while they cannot be fetched anew.
//!
//! Addresses come from the configuration alone, never from a certificate. What
//! was fetched last stays in memory over reloads, and on disk where a directory
//! is given: there once it was in use, so that the next start can tell an older
//! one. What a list means, and whether it may replace the one before, is decided
//! by [`crate::trust`].

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

use super::http_client::{ClientSettings, FetchError, HttpClient};
use crate::clock;
use crate::crypto;
use crate::file_read::read_regular;
use crate::identity::TrustDomain;
use crate::identity::text::hex;
use crate::pem;
use crate::secret::{Existing, write_private};
use crate::trust;

/// Where a list comes from.
#[derive(Clone)]
pub struct ListSource {
    /// Whose list it is.
    pub trust_domain: TrustDomain,
    /// An `https` URL.
    pub url: Uri,
    /// How it is fetched.
    pub policy: Arc<FetchPolicy>,
    /// The document that the configuration this belongs to was built with.
    pub in_use: Bytes,
}

/// How lists are fetched.
#[derive(Debug, Clone)]
pub struct FetchPolicy {
    /// Authorities that the servers' certificates may come from.
    pub roots: Arc<RootCertStore>,
    /// From connecting to the last octet.
    pub timeout: Duration,
    /// Most octets of one list.
    pub most_octets: usize,
    /// How long a list is used before it is fetched again, at the latest.
    pub interval: Duration,
    /// Where the newest list of each URL is kept for the next start.
    pub directory: Option<PathBuf>,
}

/// Why a list cannot be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ListUnavailable {
    /// It was not fetched.
    #[error("{0}")]
    Fetch(#[from] FetchError),
    /// No connection can be set up at all.
    #[error("{0}")]
    Setup(String),
    /// Something else came.
    #[error("{0}")]
    Unusable(String),
}

/// The newest list of each URL.
#[derive(Default)]
pub struct RemoteLists {
    kept: Mutex<HashMap<String, Kept>>,
}

struct Kept {
    document: Document,
    /// When it was last known to be what the server has, in seconds since the
    /// Unix epoch; 0 for a copy from disk.
    fetched_at: u64,
}

/// A document that holds revocation lists and nothing else.
#[derive(Debug, Clone)]
pub struct Document {
    octets: Bytes,
    /// When the first of its lists is to be replaced, in seconds since the Unix
    /// epoch.
    next_update: Option<i64>,
}

impl Document {
    /// Decodes one, which takes a while where it is large. Also gives the lists.
    ///
    /// # Errors
    /// As [`lists_in`].
    pub fn decode(
        octets: Bytes,
    ) -> Result<(Self, Vec<CertificateRevocationListDer<'static>>), String> {
        let lists = lists_in(&octets)?;
        let ends = lists
            .iter()
            .filter_map(|list| trust::revocation::next_update(list));
        let next_update = ends.min();
        let document = Self {
            octets,
            next_update,
        };
        Ok((document, lists))
    }

    fn alone(octets: Bytes) -> Result<Self, String> {
        Self::decode(octets).map(|(document, _)| document)
    }
}

/// A document for a configuration that has none of its source yet.
#[derive(Debug)]
pub struct Obtained {
    /// The document.
    pub octets: Bytes,
    /// What was in use before, by the copy on disk, where that is another one. The
    /// document may have to be held against it.
    pub before: Option<Bytes>,
}

impl RemoteLists {
    /// Obtains a source's document: fetched now, else the copy on disk. Blocks while
    /// it fetches; not to be called from a runtime's threads other than its blocking
    /// ones.
    ///
    /// # Errors
    /// When there is none in either place.
    pub fn obtain(&self, source: &ListSource) -> Result<Obtained, ListUnavailable> {
        let copy = source.read_copy();
        let fetched = fetch_blocking(source)
            .and_then(|octets| Document::alone(octets).map_err(ListUnavailable::Unusable));
        match (fetched, copy) {
            (Ok(document), copy) => {
                let octets = document.octets.clone();
                self.put(source, document, clock::unix_now());
                let before = copy.map(|copy| copy.octets).filter(|copy| *copy != octets);
                Ok(Obtained { octets, before })
            }
            (Err(error), Some(copy)) => {
                tracing::error!(url = %source.url, %error, "the revocation list is used as it was kept on disk");
                let octets = copy.octets.clone();
                self.put(source, copy, 0);
                Ok(Obtained {
                    octets,
                    before: None,
                })
            }
            (Err(error), None) => Err(error),
        }
    }

    /// Keeps the copy on disk in place of what was fetched, which is fetched again
    /// at once. Decodes it, as [`Document::decode`] does.
    pub fn fall_back(&self, source: &ListSource, copy: Bytes) {
        // It was read as a document before.
        if let Ok(copy) = Document::alone(copy) {
            self.put(source, copy, 0);
        }
    }

    /// Fetches a source's list; says what came if that is not what is kept.
    ///
    /// # Errors
    /// When it cannot be fetched.
    pub async fn fetch(&self, source: &ListSource) -> Result<Option<Bytes>, ListUnavailable> {
        let octets = fetch(source).await?;
        let url = source.url.to_string();
        if let Some(kept) = self.all().get_mut(&url)
            && kept.document.octets == octets
        {
            kept.fetched_at = clock::unix_now();
            return Ok(None);
        }
        Ok(Some(octets))
    }

    /// Writes the document in use to disk, where that is wanted and it is not there
    /// yet. Where the disk does not take it, it is in use nevertheless.
    pub fn save(source: &ListSource) {
        if let Some(path) = source.copy()
            && source.read(&path).ok().as_deref() != Some(&*source.in_use)
            && let Err(error) = write_private(&path, &source.in_use, Existing::Replace)
        {
            tracing::error!(file = %path.display(), %error, "a revocation list cannot be kept on disk");
        }
    }

    /// Keeps a document from now on, for the next load of the configuration.
    pub fn keep(&self, source: &ListSource, document: Document) {
        self.put(source, document, clock::unix_now());
    }

    fn put(&self, source: &ListSource, document: Document, fetched_at: u64) {
        let kept = Kept {
            document,
            fetched_at,
        };
        self.all().insert(source.url.to_string(), kept);
    }

    /// Whether the document that is kept is the one in use.
    #[must_use]
    pub fn is_in_use(&self, source: &ListSource) -> bool {
        let all = self.all();
        all.get(&source.url.to_string())
            .is_none_or(|kept| kept.document.octets == source.in_use)
    }

    /// When the first list of a source is to be replaced, in seconds since the Unix
    /// epoch, where that is known.
    #[must_use]
    pub fn next_update(&self, source: &ListSource) -> Option<i64> {
        let all = self.all();
        all.get(&source.url.to_string())?.document.next_update
    }

    /// The document of a source that is kept, if there is one.
    #[must_use]
    pub fn kept(&self, source: &ListSource) -> Option<Bytes> {
        let all = self.all();
        let kept = all.get(&source.url.to_string())?;
        Some(kept.document.octets.clone())
    }

    /// When a source's list was last fetched, in seconds since the Unix epoch; 0
    /// if never by this process.
    #[must_use]
    pub fn fetched_at(&self, source: &ListSource) -> u64 {
        let kept = self.all();
        kept.get(&source.url.to_string())
            .map_or(0, |kept| kept.fetched_at)
    }

    fn all(&self) -> MutexGuard<'_, HashMap<String, Kept>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The revocation lists in a document: PEM with one or more, or one in DER.
///
/// # Errors
/// When there is anything else in it: nothing is skipped.
pub fn lists_in(document: &[u8]) -> Result<Vec<CertificateRevocationListDer<'static>>, String> {
    pem::revocation_lists(document)
        .map_err(|error| format!("what came is no revocation list: {error}"))
}

impl ListSource {
    /// Its file in the directory of copies: named by a hash, because a URL is no
    /// file name.
    fn copy(&self) -> Option<PathBuf> {
        let directory = self.policy.directory.as_ref()?;
        let name = hex(&crypto::sha256(self.url.to_string().as_bytes()));
        Some(directory.join(format!("{name}.crl")))
    }

    /// What is longer was never fetched.
    fn read(&self, copy: &Path) -> io::Result<Vec<u8>> {
        let max = u64::try_from(self.policy.most_octets).unwrap_or(u64::MAX);
        read_regular(copy, max)
    }

    /// What was in use last, where that was kept on disk and can be read.
    fn read_copy(&self) -> Option<Document> {
        let path = self.copy()?;
        let octets = match self.read(&path) {
            Ok(octets) => octets,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => {
                tracing::error!(file = %path.display(), %error, "a revocation list that was kept on disk cannot be read");
                return None;
            }
        };
        match Document::alone(octets.into()) {
            Ok(document) => Some(document),
            Err(error) => {
                tracing::error!(file = %path.display(), %error, "a revocation list that was kept on disk is damaged");
                None
            }
        }
    }
}

impl fmt::Debug for ListSource {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("ListSource")
            .field("trust_domain", &self.trust_domain)
            .field("url", &self.url)
            .finish_non_exhaustive()
    }
}

async fn fetch(source: &ListSource) -> Result<Bytes, ListUnavailable> {
    let client = HttpClient::new(&ClientSettings {
        roots: Arc::clone(&source.policy.roots),
        certificate: None,
        timeout: source.policy.timeout,
    })
    .map_err(|error| ListUnavailable::Setup(error.to_string()))?;
    Ok(client.fetch(&source.url, source.policy.most_octets).await?)
}

/// On a thread with a runtime of its own: the caller may be inside one.
fn fetch_blocking(source: &ListSource) -> Result<Bytes, ListUnavailable> {
    let failed = |error: &dyn fmt::Display| ListUnavailable::Setup(error.to_string());
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

impl fmt::Debug for RemoteLists {
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

    fn source(directory: &Path, most_octets: usize) -> ListSource {
        ListSource {
            trust_domain: TrustDomain::parse("example.org").unwrap(),
            url: "https://lists.example.org/a.crl".parse().unwrap(),
            policy: Arc::new(FetchPolicy {
                roots: Arc::new(RootCertStore::empty()),
                timeout: Duration::from_secs(1),
                most_octets,
                interval: Duration::from_secs(60),
                directory: Some(directory.to_owned()),
            }),
            in_use: Bytes::new(),
        }
    }

    /// What the copy holds, which must be known at once.
    fn read(source: &ListSource) -> Option<Bytes> {
        let (said, hears) = mpsc::channel();
        let source = source.clone();
        std::thread::spawn(move || said.send(source.read_copy()));
        let copy = hears.recv_timeout(Duration::from_secs(60));
        copy.expect("reading it does not end")
            .map(|copy| copy.octets)
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
        RemoteLists::save(&exact);
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
        RemoteLists::save(&exact);
        assert_eq!(read(&exact), Some(list));
    }
}
