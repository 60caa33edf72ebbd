//! Issuing many leaves at once.
//!
//! A part of [`Pki`]. Leaves are made in batches: keys and certificates are
//! written aside and synced by several threads (waiting for the disk overlaps),
//! the batch is recorded in one transaction, and only then put in place. What a
//! killed run recorded and placed is skipped by the next one with the same list.

use std::collections::HashSet;
use std::path::PathBuf;

use super::authority::CertificateAuthority;
use super::directory::{Pki, unix_now};
use super::inventory::{Cause, Inventory, NewEntry};
use super::issuing::sign;
use super::key::{self, KeyProtection};
use super::profile::CertificateProfile;
use super::request::IssueRequest;
use super::state::AuthorityName;
use super::store::{self, Audience, Existing, Staged};
use super::{PkiError, certificates};

/// Leaves in one transaction.
const BATCH: usize = 1_000;

/// Threads that make leaves: more than there are cores, as most of them wait
/// for the disk.
const THREADS: usize = 16;

/// How far a list is done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BulkProgress {
    /// Leaves asked for.
    pub total: usize,
    /// Issued by this run.
    pub issued: usize,
    /// Issued earlier, and in their places.
    pub skipped: usize,
}

/// A leaf that is to be made.
struct Task<'a> {
    request: &'a IssueRequest,
    profile: CertificateProfile,
    certificate: PathBuf,
    key: PathBuf,
    existing: Existing,
}

/// A leaf that is made and not yet in its place.
struct Made {
    record: NewEntry,
    key: Staged,
    certificate: Staged,
}

impl Pki {
    /// Issues leaves with new keys, in order, a batch at a time. Those of which
    /// the inventory has a live certificate, and whose files are in their places,
    /// are skipped, unless they are to be overwritten. `progress` is called after
    /// each batch.
    ///
    /// # Errors
    /// Before anything is issued when the gateway would refuse one of them or two
    /// share files; later when files are there already or cannot be written.
    /// Earlier batches stay issued then.
    pub fn issue_many(
        &mut self,
        requests: &[IssueRequest],
        progress: &mut dyn FnMut(BulkProgress),
    ) -> Result<BulkProgress, PkiError> {
        let mut taken = HashSet::with_capacity(requests.len());
        for request in requests {
            self.check_names(request)?;
            let (certificate, _) = self.layout().leaf_files(request)?;
            if let Some(twice) = taken.replace(certificate) {
                return Err(PkiError::Twice(twice));
            }
        }
        let signer = match self.signer.take() {
            Some(signer) => signer,
            None => self.load_authority(AuthorityName::Intermediate)?,
        };
        let mut inventory = self.inventory()?;
        let mut done = BulkProgress {
            total: requests.len(),
            ..BulkProgress::default()
        };
        for batch in requests.chunks(BATCH) {
            let issued = self.issue_batch(&signer, &mut inventory, batch)?;
            done.issued += issued;
            done.skipped += batch.len() - issued;
            progress(done);
        }
        self.signer = Some(signer);
        Ok(done)
    }

    fn issue_batch(
        &self,
        signer: &CertificateAuthority,
        inventory: &mut Inventory,
        batch: &[IssueRequest],
    ) -> Result<usize, PkiError> {
        let _lock = self.layout().lock()?;
        let state = self.current_state()?;
        self.check_intermediate(&state)?;
        let mut tasks = Vec::with_capacity(batch.len());
        for request in batch {
            tasks.extend(self.task(inventory, request)?);
        }
        let made = self.make_all(signer, &tasks)?;
        let (records, files): (Vec<_>, Vec<_>) = made
            .into_iter()
            .map(|made| (made.record, (made.key, made.certificate)))
            .unzip();
        inventory.record(&records)?;
        for (key, certificate) in files {
            key.place_unsynced()?;
            certificate.place_unsynced()?;
        }
        let places: HashSet<_> = tasks
            .iter()
            .filter_map(|task| task.certificate.parent())
            .collect();
        for place in places {
            store::sync_directory(place)?;
        }
        Ok(tasks.len())
    }

    /// What is to be done for a request; none where it is done already.
    fn task<'a>(
        &self,
        inventory: &Inventory,
        request: &'a IssueRequest,
    ) -> Result<Option<Task<'a>>, PkiError> {
        let (certificate, key) = self.layout().leaf_files(request)?;
        let name = request.names.iter().next().map(ToString::to_string);
        let mut existing = Existing::Replace;
        if !request.overwrite {
            let place = std::path::absolute(&certificate).unwrap_or_else(|_| certificate.clone());
            let recorded = inventory.has_live(
                &self.issuer_keys(),
                &name.unwrap_or_default(),
                &place,
                unix_now(),
            )?;
            if recorded && certificate.exists() && key.exists() {
                return Ok(None);
            }
            // Recorded and not placed: a run was killed in between. What it left
            // is of no use.
            if !recorded {
                store::refuse_existing(&key)?;
                store::refuse_existing(&certificate)?;
                existing = Existing::Refuse;
            }
        }
        Ok(Some(Task {
            request,
            profile: self.check_names(request)?,
            certificate,
            key,
            existing,
        }))
    }

    fn make_all(
        &self,
        signer: &CertificateAuthority,
        tasks: &[Task<'_>],
    ) -> Result<Vec<Made>, PkiError> {
        let share = tasks.len().div_ceil(THREADS).max(1);
        std::thread::scope(|scope| {
            let workers: Vec<_> = tasks
                .chunks(share)
                .map(|tasks| {
                    scope.spawn(move || {
                        tasks
                            .iter()
                            .map(|task| self.make(signer, task))
                            .collect::<Result<Vec<_>, _>>()
                    })
                })
                .collect();
            let mut made = Vec::with_capacity(tasks.len());
            for worker in workers {
                let part = worker
                    .join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
                made.extend(part?);
            }
            Ok(made)
        })
    }

    fn make(&self, signer: &CertificateAuthority, task: &Task<'_>) -> Result<Made, PkiError> {
        let new_key = key::generate()?;
        let signed = sign(signer, &new_key, task.request, task.profile).map_err(
            PkiError::authority(&self.layout().certificate(AuthorityName::Intermediate)),
        )?;
        let parent = self.authority(AuthorityName::Intermediate);
        let chain = certificates::pem(&signed.der) + &certificates::pem(parent.der());
        Ok(Made {
            record: self.entry_for(&signed, task.request, task.profile, Cause::Issue)?,
            key: key::stage(&task.key, &new_key, &KeyProtection::Plain, task.existing)?,
            certificate: Staged::new(
                &task.certificate,
                chain.as_bytes(),
                Audience::Public,
                task.existing,
            )?,
        })
    }
}
