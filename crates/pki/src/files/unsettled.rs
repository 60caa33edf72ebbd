//! Completes rotations that an old version of this program left incomplete.
//!
//! Old versions made the new generation in `next/` and then moved its files to their final paths.
//! Until all files were moved, `pki.toml` had the mark `unsettled`. If the process was killed, the
//! mark and some files remained. The directory `next/` remained in any case.

use zeroize::Zeroizing;

use super::certificates;
use super::error::PkiError;
use super::layout::{Layout, Scope};
use super::transaction::Transaction;
use crate::directory_lock::DirectoryLock;
use crate::records::state::State;
use crate::signing::signatory::AuthorityName;
use crate::store::{self, Audience};

/// If `pki.toml` has the mark `unsettled`, completes the rotation. Removes the directory `next/`.
pub(crate) fn settle(layout: &Layout, lock: &DirectoryLock) -> Result<(), PkiError> {
    let next = layout.next();
    if !next.directory().exists() || !layout.state().exists() {
        return Ok(());
    }
    let mut state = State::read(&layout.state())?;
    if state.unsettled {
        state.unsettled = false;
        settle_files(layout, &next, &state, lock)?;
    }
    Ok(store::remove_directory(next.directory())?)
}

/// Moves the files of `next/` to their final paths. If a file is missing there, it was already
/// moved.
fn settle_files(
    layout: &Layout,
    next: &Layout,
    state: &State,
    lock: &DirectoryLock,
) -> Result<(), PkiError> {
    let earlier = layout.earlier();
    let mut change = Transaction::begin(layout, Scope::Authority, &[layout.crls()], lock)?;
    let new_root = next.certificate(AuthorityName::Root);
    if new_root.exists() {
        let mut trusted = certificates::read(&layout.trust())?;
        for root in certificates::read(&new_root)? {
            if !trusted.contains(&root) {
                trusted.push(root);
            }
        }
        let trusted: String = trusted.iter().map(certificates::pem).collect();
        change.stage_public(&layout.trust(), trusted.as_bytes())?;
    }
    for name in AuthorityName::ALL {
        if next.crl(name).exists() {
            let mut lists = store::read(&next.crl(name))?;
            let present = store::read(&layout.crl(name))?;
            if !present.starts_with(&lists) {
                lists.extend(present);
                change.stage_public(&layout.crl(name), &lists)?;
            }
        }
        let files = [
            (Layout::certificate as fn(&Layout, _) -> _, Audience::Public),
            (Layout::key, Audience::Owner),
        ];
        for (file, audience) in files {
            let new = file(next, name);
            if new.exists() {
                let content = Zeroizing::new(store::read(&new)?);
                let (place, keep) = (file(layout, name), file(&earlier, name));
                change.stage_and_keep(&place, &content, audience, keep)?;
            }
        }
    }
    let path = layout.state();
    change.stage_public(&path, &state.to_file(&path)?)?;
    Ok(change.commit()?)
}
