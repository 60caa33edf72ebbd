//! Issuing many leaves at once.
//!
//! A part of [`Pki`]. Leaves are made in batches, each of them one `Transaction`: keys and
//! certificates are written aside and made durable by one barrier, the batch is recorded, and only
//! then put in place. The files that a killed run has recorded are put in place by the next
//! command, and skipped by the next run with the same list.

use std::collections::HashSet;
use std::num::NonZero;
use std::path::PathBuf;
use std::sync::mpsc;

use zeroize::Zeroizing;

use super::directory::Pki;
use super::files::error::PkiError;
use super::files::layout::Scope;
use super::files::transaction::Transaction;
use super::issuing::sign;
use super::records::inventory::{Cause, Inventory, NewEntry};
use super::signing::authority::CertificateAuthority;
use super::signing::profile::CertificateProfile;
use super::signing::request::IssueRequest;
use super::store::key::{self, KeyProtection};
use super::store::{self, Audience, Existing};
use crate::clock;

/// Leaves in one transaction.
const BATCH: usize = 1_000;

/// Progress of a bulk run through its list.
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

/// A leaf that is made, in memory only.
struct Made<'a> {
    task: Task<'a>,
    record: NewEntry,
    key: Zeroizing<String>,
    chain: String,
}

/// A part of the list whose leaves are made, but not written yet.
struct Batch<'a> {
    size: usize,
    made: Vec<Made<'a>>,
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

    /// Returns the directories that files are written to.
    fn places(&self, requests: &[IssueRequest]) -> Result<Vec<PathBuf>, PkiError> {
        let mut places = Vec::new();
        for request in requests {
            let (certificate, _) = self.layout().leaf_files(request)?;
            let place = store::parent(&certificate).to_owned();
            if !places.contains(&place) {
                places.push(place);
            }
        }
        Ok(places)
    }

    /// Leaves of the next batch are made while those of this one are written.
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
                    // The receiver is dropped after writing has failed.
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
            // The parts were taken from the end.
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
        Ok(Made {
            record: self.entry_for(&signed, task.request, &task.profile, Cause::Issue)?,
            key: key::to_pem(&new_key, &KeyProtection::Plain)?,
            chain: self.chain(&signed),
            task,
        })
    }

    /// Writes everything aside, makes it durable at once, records it in one
    /// transaction, and puts it in its places.
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

    /// Returns the task for a request. None if the leaf exists already.
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
            // Recorded and not in its place: it was removed, or could not be put there.
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
