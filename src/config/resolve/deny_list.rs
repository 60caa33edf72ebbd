//! `[deny_list]`: who is refused at once.

use std::sync::Arc;

use super::{Context, pem};
use crate::config::raw::DenySection;
use crate::trust::DenyList;

/// Opens the list. One that is in service goes on: what is wrong with its file
/// by now is no reason to forget its entries.
pub(super) fn deny_list(
    section: Option<&DenySection>,
    context: &mut Context<'_>,
) -> Option<Arc<DenyList>> {
    let written = section?.file.at()?;
    let path = context.files.locate(&written.value);
    let previous = context
        .previous
        .and_then(|previous| previous.denied.as_ref())
        .filter(|list| list.path() == path);
    if let Some(list) = previous {
        if let Err(error) = list.refresh() {
            let warning = pem::about(written, &path, &format!("cannot be used: {error}"));
            context
                .warn(warning.help("its entries of before still count; mend or restore the file"));
        }
        return Some(Arc::clone(list));
    }
    match DenyList::open(path.clone()) {
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
