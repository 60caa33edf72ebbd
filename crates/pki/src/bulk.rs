//! Issues many leaves in one run.
//!
//! A part of [`Pki`]. Leaves are issued in batches, and each batch is one `Transaction`. Keys and
//! certificates are first written to temporary files, which one call makes durable. Then the
//! inventory records the batch. After that, the files are renamed to their final paths. If a run is
//! killed after recording, the next command renames the files. The next run with the same list
//! skips these leaves.

use std::collections::HashSet;
use std::num::NonZero;
use std::path::PathBuf;
use std::sync::mpsc;

use zeroize::Zeroizing;

use super::directory::Pki;
use super::files::error::PkiError;
use super::files::layout::Scope;
use super::files::own::refuse_own;
use super::files::transaction::Transaction;
use super::issuing::sign;
use super::records::inventory::{Cause, Inventory, NewEntry};
use super::signing::authority::CertificateAuthority;
use super::signing::profile::CertificateProfile;
use super::signing::request::IssueRequest;
use super::store::key::{self, KeyProtection};
use super::store::{self, Audience, Existing};
use crate::clock;
use crate::file_access;

/// Number of leaves in one batch. Each batch is one transaction.
const BATCH: usize = 1_000;

/// The progress of one call of [`Pki::issue_many`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BulkProgress {
    /// Number of leaves that were requested.
    pub total: usize,
    /// Number of leaves that were issued until now.
    pub issued: usize,
    /// Number of leaves that were skipped until now, because they were issued earlier and their
    /// files exist.
    pub skipped: usize,
}

/// A leaf that must be issued, with the paths of its files.
struct Task<'a> {
    request: &'a IssueRequest,
    profile: CertificateProfile,
    certificate: PathBuf,
    key: PathBuf,
    existing: Existing,
}

/// A leaf that was signed but not written or recorded yet.
struct Made<'a> {
    task: Task<'a>,
    record: NewEntry,
    key: Zeroizing<String>,
    chain: String,
}

/// The leaves of one batch that were signed but not written or recorded yet. `size` is the number
/// of requests, including those that were skipped.
struct Batch<'a> {
    size: usize,
    made: Vec<Made<'a>>,
}

impl Pki {
    /// Issues leaves with new keys, in the order of `requests`, batch by batch. A request without
    /// `overwrite` is skipped if its leaf was issued before: the inventory has a live certificate
    /// for it, and its files exist. `progress` is called after each batch.
    ///
    /// # Errors
    /// If the gateway would refuse one of the leaves, or if two leaves have the same files, nothing
    /// is issued. If a file already exists or cannot be written, the batches before the error stay
    /// issued.
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
            None => self.load_authority(self.issuer())?,
        };
        let mut done = BulkProgress {
            total: requests.len(),
            ..BulkProgress::default()
        };
        let places = self.places(requests)?;
        let issued = self.issue_batches(&signer, requests, &places, &mut done, progress);
        self.signer = Some(signer);
        issued?;
        Ok(done)
    }

    /// Returns the directories into which the files of the leaves are written.
    fn places(&self, requests: &[IssueRequest]) -> Result<Vec<PathBuf>, PkiError> {
        let mut places = Vec::new();
        for request in requests {
            let (certificate, _) = self.layout().leaf_files(request)?;
            let place = file_access::parent(&certificate).to_owned();
            if !places.contains(&place) {
                places.push(place);
            }
        }
        // `issued` is the usual directory for leaves. It contains none of the authority's own
        // files, so no check is needed. Real paths are compared, because `issued` may be a symbolic
        // link.
        let usual = self.layout().directory().canonicalize().ok();
        let usual = usual.map(|directory| directory.join("issued"));
        if places
            .iter()
            .all(|place| place.canonicalize().ok() == usual)
        {
            return Ok(places);
        }
        for request in requests {
            let (certificate, key) = self.layout().leaf_files(request)?;
            refuse_own(&certificate)?;
            refuse_own(&key)?;
        }
        Ok(places)
    }

    /// Issues all batches. While one batch is written, another thread signs the next batch.
    fn issue_batches(
        &self,
        signer: &CertificateAuthority,
        requests: &[IssueRequest],
        places: &[PathBuf],
        done: &mut BulkProgress,
        progress: &mut dyn FnMut(BulkProgress),
    ) -> Result<(), PkiError> {
        let mut inventory = self.inventory()?;
        let known = self.inventory()?;
        std::thread::scope(|scope| {
            let (finished, batches) = mpsc::sync_channel(1);
            scope.spawn(move || {
                for part in requests.chunks(BATCH) {
                    let batch = self.make_batch(signer, &known, part);
                    let failed = batch.is_err();
                    // `send` fails if the receiver is gone. It is gone if an earlier batch could
                    // not be written.
                    if finished.send(batch).is_err() || failed {
                        return;
                    }
                }
            });
            for batch in batches {
                let batch = batch?;
                let issued = batch.made.len();
                self.deliver_batch(&mut inventory, places, batch.made)?;
                done.issued += issued;
                done.skipped += batch.size - issued;
                progress(*done);
            }
            Ok(())
        })
    }

    fn make_batch<'a>(
        &self,
        signer: &CertificateAuthority,
        known: &Inventory,
        requests: &'a [IssueRequest],
    ) -> Result<Batch<'a>, PkiError> {
        let mut tasks = Vec::with_capacity(requests.len());
        for request in requests {
            tasks.extend(self.task(known, request)?);
        }
        let threads = std::thread::available_parallelism().map_or(1, NonZero::get);
        let share = tasks.len().div_ceil(threads).max(1);
        let mut made = Vec::with_capacity(tasks.len());
        std::thread::scope(|scope| {
            let mut workers = Vec::with_capacity(threads);
            while !tasks.is_empty() {
                let part = tasks.split_off(tasks.len().saturating_sub(share));
                workers.push(scope.spawn(move || {
                    part.into_iter()
                        .map(|task| self.make(signer, task))
                        .collect::<Result<Vec<_>, _>>()
                }));
            }
            // The parts were split off from the end of `tasks`. So the last worker has the first
            // part, and the reverse order restores the order of the requests.
            for worker in workers.into_iter().rev() {
                let part = worker
                    .join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
                made.extend(part?);
            }
            Ok(Batch {
                size: requests.len(),
                made,
            })
        })
    }

    fn make<'a>(
        &self,
        signer: &CertificateAuthority,
        task: Task<'a>,
    ) -> Result<Made<'a>, PkiError> {
        let new_key = key::generate_for(task.profile.new_key_type())?;
        let signed = sign(signer, &new_key, task.request, &task.profile).map_err(
            PkiError::authority(&self.layout().certificate(self.issuer())),
        )?;
        self.check_constraints(&signed, &task.profile)?;
        Ok(Made {
            record: self.entry_for(&signed, task.request, &task.profile, Cause::Issue)?,
            key: key::to_pem(&new_key, &KeyProtection::Plain)?,
            chain: self.chain(&signed),
            task,
        })
    }

    /// Writes a batch to temporary files, makes them durable with one call, records the batch, and
    /// renames the files to their final paths.
    fn deliver_batch(
        &self,
        inventory: &mut Inventory,
        places: &[PathBuf],
        made: Vec<Made<'_>>,
    ) -> Result<(), PkiError> {
        if made.is_empty() {
            return Ok(());
        }
        let lock = self.layout().lock_for_leaves()?;
        self.check_intermediate(&self.current_state()?)?;
        let mut change = Transaction::begin_large(self.layout(), Scope::Leaves, places, &lock)?;
        let mut records = Vec::with_capacity(made.len());
        for Made {
            task,
            record,
            key,
            chain,
        } in made
        {
            let (place, existing) = (&task.key, task.existing);
            change.stage(place, key.as_bytes(), Audience::Owner, existing)?;
            let (place, chain) = (&task.certificate, chain.as_bytes());
            change.stage(place, chain, Audience::Public, existing)?;
            records.push(record);
        }
        change.commit_recorded(inventory, &records)
    }

    /// Returns what must be issued for a request. Returns `None` if the leaf was issued before and
    /// its files exist.
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
                clock::certificate_now(),
            )?;
            if recorded && certificate.exists() && key.exists() {
                return Ok(None);
            }
            // If the leaf is recorded but a file is missing, the file was removed or could not be
            // written. The leaf is then issued again, and the remaining file may be replaced.
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
}
