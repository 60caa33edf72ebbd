//! Rechecks all connections when the deny list changes, in the same way as after a reload.

use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::watch;

use crate::snapshot::Snapshot;
use crate::trust::DenyList;

/// Follows the changes of the deny list in service until the process ends. If a reload replaces the
/// list, follows the new list.
pub(super) async fn follow(snapshot: Arc<ArcSwap<Snapshot>>, changed: Arc<watch::Sender<u64>>) {
    let mut reloads = changed.subscribe();
    loop {
        let list = snapshot.load().deny_list.clone();
        let mut changes = list.as_ref().map(|list| list.subscribe());
        // The list may have changed before this task subscribed, so one recheck is always
        // requested.
        changed.send_modify(|changes| *changes += 1);
        reloads.mark_unchanged();
        loop {
            tokio::select! {
                () = next(changes.as_mut()) => {
                    snapshot.load().forget_tokens();
                    changed.send_modify(|changes| *changes += 1);
                    reloads.mark_unchanged();
                }
                changed = reloads.changed() => if changed.is_err() { return },
            }
            if !is_same(list.as_ref(), snapshot.load().deny_list.as_ref()) {
                break;
            }
        }
    }
}

async fn next(changes: Option<&mut watch::Receiver<u64>>) {
    if let Some(changes) = changes
        && changes.changed().await.is_ok()
    {
        return;
    }
    std::future::pending().await
}

fn is_same(one: Option<&Arc<DenyList>>, other: Option<&Arc<DenyList>>) -> bool {
    match (one, other) {
        (Some(one), Some(other)) => Arc::ptr_eq(one, other),
        (None, None) => true,
        _ => false,
    }
}
