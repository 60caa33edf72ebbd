//! Checks whether a configuration can replace the one in service without a restart.

use crate::clock;
use crate::config::{Loaded, Progress};
use crate::snapshot::{Settings, Snapshot};
use crate::trust::DenyList;

/// Checks that the new configuration needs no restart, and that no entry of the deny list is lost.
/// Creates the deny list's file if it does not exist.
///
/// # Errors
/// Returns the reason why the configuration needs a restart or cannot be used.
pub(super) fn check_replaces(
    settings: &Settings,
    previous: &Snapshot,
    loaded: &Loaded,
    progress: &Progress,
) -> Result<(), String> {
    if let Some(what) = needs_restart(settings, &loaded.settings) {
        return Err(format!(
            "{what} cannot change while the gateway runs; restart it, or set it back"
        ));
    }
    if loaded.snapshot.limits.connections != previous.limits.connections {
        return Err(
            "[limits] connections cannot change while the gateway runs; restart it, or set it back"
                .to_owned(),
        );
    }
    keeps_denials(
        previous.deny_list.as_deref(),
        loaded.snapshot.deny_list.as_deref(),
    )?;
    if let Some(list) = &loaded.snapshot.deny_list
        // The check is only for a list at another path. At the same path, the list in service
        // stays, and it watches its own file.
        && previous.deny_list.as_ref().is_none_or(|before| before.path() != list.path())
    {
        progress
            .during(list.path(), || list.create_if_missing())
            .map_err(|error| error.to_string())?;
    }
    Ok(())
}

/// Refuses a configuration that names another deny list whose file does not exist, if the list in
/// service has entries. Probably the file was moved, or its name is wrong.
fn keeps_denials(before: Option<&DenyList>, after: Option<&DenyList>) -> Result<(), String> {
    let now = clock::certificate_now();
    let denied = before.map_or(0, |list| list.list(now).len());
    match (before, after) {
        (Some(before), None) if denied > 0 => {
            tracing::warn!(
                entries = denied,
                "there is no [deny_list] any longer: those in {} are let in again",
                before.path().display()
            );
            Ok(())
        }
        (Some(before), Some(after)) if denied > 0 && !after.has_file() => {
            if before.path() == after.path() {
                return Ok(());
            }
            Err(format!(
                "{} does not exist, and {denied} entries of the deny list {} count: copy that \
                 file there first, or remove the entries",
                after.path().display(),
                before.path().display()
            ))
        }
        _ => Ok(()),
    }
}

/// Returns the name of the first changed setting that takes effect only after a restart.
fn needs_restart(old: &Settings, new: &Settings) -> Option<&'static str> {
    let public = |settings: &Settings| settings.public.as_ref().map(|public| public.address);
    let offered = |settings: &Settings| {
        let public = settings.public.as_ref()?;
        Some((
            public.keys,
            public.health,
            public.metrics,
            public.tls.is_some(),
        ))
    };
    let admin = |settings: &Settings| settings.admin.as_ref().map(|admin| admin.address);
    let socket = |settings: &Settings| settings.admin.as_ref()?.socket.clone();
    let operated = |settings: &Settings| {
        let admin = settings.admin.as_ref();
        admin.is_some_and(|admin| !admin.operators.is_empty())
    };
    if old.address != new.address {
        return Some("[listener] address");
    }
    if public(old) != public(new) {
        return Some("[public] address");
    }
    if offered(old) != offered(new) {
        return Some("[public] serve");
    }
    if admin(old) != admin(new) {
        return Some("[admin] address");
    }
    if operated(old) != operated(new) {
        return Some("whether [admin] has operators");
    }
    if socket(old) != socket(new) {
        return Some("[admin] socket");
    }
    if old.audit != new.audit {
        return Some("[audit] file");
    }
    if old.audit_chains != new.audit_chains {
        return Some("[audit] chains");
    }
    (old.workers != new.workers).then_some("[runtime] workers")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trust::DenyTarget;

    #[test]
    fn an_absent_file_does_not_empty_the_deny_list() {
        let folder = tempfile::tempdir().unwrap();
        let open = |name: &str| DenyList::open(folder.path().join(name)).unwrap();
        let (before, after) = (open("a.json"), open("b.json"));
        assert_eq!(keeps_denials(Some(&before), Some(&after)), Ok(()));
        let identity = "dns:a.example.org".to_owned();
        let target = DenyTarget::Identity { identity };
        let end = i64::try_from(clock::unix_now()).unwrap() + 600;
        before.add(target, "", Some(end), end - 900).unwrap();
        let refused = keeps_denials(Some(&before), Some(&after)).unwrap_err();
        assert!(refused.contains("b.json") && refused.contains("a.json"));
        std::fs::copy(before.path(), after.path()).unwrap();
        assert_eq!(keeps_denials(Some(&before), Some(&open("b.json"))), Ok(()));
        // If the new configuration names the same list, its file may be missing for a short time,
        // because the entries are in memory.
        std::fs::remove_file(before.path()).unwrap();
        assert!(before.refresh().is_err());
        assert_eq!(keeps_denials(Some(&before), Some(&before)), Ok(()));
        assert_eq!(keeps_denials(Some(&before), None), Ok(()));
        assert_eq!(keeps_denials(None, Some(&after)), Ok(()));
    }
}
