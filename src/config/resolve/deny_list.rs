//! `[deny_list]`: who is refused at once.

use std::sync::Arc;

use super::{Context, pem};
use crate::config::raw::DenySection;
use crate::trust::DenyList;

/// Opens the list. One that is in service goes on as it is: its file is followed by
/// itself, and what is wrong with that is no reason to forget its entries.
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
