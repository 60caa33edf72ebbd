//! `[deny_list]`: the callers and certificates that the gateway refuses immediately.

use std::sync::Arc;

use super::context::Context;
use super::pem;
use crate::document::raw::DenySection;
use crate::trust::DenyList;

/// Opens the deny list. If the snapshot in service has a deny list with the same path, returns that
/// list and does not read the file. So an error in the file cannot remove entries that are in
/// force. When the file changes, the running gateway reads it separately from reloads.
pub(super) fn deny_list(
    section: Option<&DenySection>,
    context: &mut Context<'_>,
) -> Option<Arc<DenyList>> {
    let written = section?.file.at()?;
    let path = context.files.locate(&written.value);
    let previous = context
        .previous
        .and_then(|previous| previous.deny_list.as_ref())
        .filter(|list| list.path() == path);
    if let Some(list) = previous {
        return Some(Arc::clone(list));
    }
    let opened = context
        .files
        .reading(&path, || DenyList::open(path.clone()));
    match opened {
        Ok(list) => Some(Arc::new(list)),
        Err(error) => {
            let shown = pem::about(written, &path, &format!("cannot be used: {error}"));
            context.error(shown.help(
                "restore the file; only if nobody is to be denied, remove it and an empty one is made",
            ));
            None
        }
    }
}
