//! Tests of the deny list alone. The tests in `trust/tests.rs` use it together with certificate
//! verification.

use super::*;

fn identity(name: &str) -> DenyTarget {
    DenyTarget::Identity {
        identity: name.to_owned(),
    }
}

#[test]
fn entries_survive_a_restart_and_move_the_epoch() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("deny.json");
    let list = DenyList::open(path.clone()).unwrap();
    let mut epoch = list.subscribe();
    assert!(!epoch.has_changed().unwrap());
    let entry = list
        .add(identity("dns:A.Example.org."), "stolen", Some(200), 100)
        .unwrap();
    assert_eq!(entry.target, identity("dns:a.example.org"));
    assert!(epoch.has_changed().unwrap());
    epoch.mark_unchanged();
    let again = DenyList::open(path.clone()).unwrap();
    assert_eq!(again.list(100), vec![Arc::clone(&entry)]);
    assert_eq!(again.list(200), Vec::new(), "it has run out");
    assert_eq!((again.count(199), again.count(200)), (1, 0));
    assert!(!list.remove("no such id").unwrap());
    assert!(!epoch.has_changed().unwrap());
    assert!(list.remove(&entry.id).unwrap());
    assert!(DenyList::open(path).unwrap().list(100).is_empty());
}

#[test]
fn the_same_target_has_one_entry() {
    let folder = tempfile::tempdir().unwrap();
    let list = DenyList::open(folder.path().join("deny.json")).unwrap();
    let serial = |serial: &str| DenyTarget::Serial {
        serial: serial.to_owned(),
        issuer: "CN=a".to_owned(),
    };
    list.add(serial("00:AB:cd"), "one", None, 1).unwrap();
    list.add(serial("abcd"), "two", None, 2).unwrap();
    let entries = list.list(3);
    assert_eq!(entries.len(), 1);
    assert_eq!(
        (entries[0].reason.as_str(), &entries[0].target),
        ("two", &serial("abcd"))
    );
}

#[test]
fn targets_that_mean_nothing_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let list = DenyList::open(folder.path().join("deny.json")).unwrap();
    let targets = [
        identity(""),
        identity("alice"),
        identity("ip:nowhere"),
        DenyTarget::Thumbprint {
            thumbprint: "abcd".to_owned(),
        },
        DenyTarget::Serial {
            serial: "xyz".to_owned(),
            issuer: "CN=a".to_owned(),
        },
        // A thumbprint must have 64 digits. This one has 63.
        DenyTarget::Thumbprint {
            thumbprint: "a".repeat(63),
        },
        DenyTarget::Thumbprint {
            thumbprint: "a".repeat(65),
        },
        DenyTarget::Serial {
            serial: "01".to_owned(),
            issuer: String::new(),
        },
        DenyTarget::Serial {
            serial: "01".to_owned(),
            issuer: "CN = a".to_owned(),
        },
        DenyTarget::Serial {
            serial: "01".to_owned(),
            issuer: "O=b, CN=a".to_owned(),
        },
    ];
    for target in targets {
        let error = list.add(target, "", None, 0).unwrap_err();
        assert!(error.is_usage(), "{error}");
    }
    assert!(
        list.add(identity("dns:a.example.org"), "", Some(5), 5)
            .is_err()
    );
    assert!(list.list(0).is_empty());
}

#[test]
fn a_damaged_file_is_refused_and_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("deny.json");
    for content in [
        "",
        "[]",
        r#"{"version":2,"entries":[]}"#,
        r#"{"version":1}"#,
        r#"{"version":1,"entries":[{"id":"a","target":{"thumbprint":"1"},"reason":"","added_at":0}]}"#,
        r#"{"version":1,"entries":[{"id":"a","target":{},"reason":"","added_at":0}]}"#,
    ] {
        std::fs::write(&path, content).unwrap();
        let error = DenyList::open(path.clone()).unwrap_err().to_string();
        assert!(error.contains("deny.json"), "{content}: {error}");
    }
}

#[cfg(unix)]
#[test]
fn the_file_is_private_and_a_failed_write_changes_nothing() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().unwrap();
    let inner = folder.path().join("state");
    std::fs::create_dir(&inner).unwrap();
    let path = inner.join("deny.json");
    let list = DenyList::open(path.clone()).unwrap();
    assert!(!path.exists(), "reading writes nothing");
    assert!(list.create_if_missing().unwrap());
    assert!(!list.create_if_missing().unwrap());
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    std::fs::remove_dir_all(&inner).unwrap();
    let error = list
        .add(identity("dns:a.example.org"), "", None, 0)
        .unwrap_err();
    assert!(!error.is_usage());
    assert!(matches!(error, DenyListError::NotSaved { .. }), "{error}");
}

#[test]
fn an_entry_counts_although_it_cannot_be_written_and_is_written_later() {
    let folder = tempfile::tempdir().unwrap();
    let inner = folder.path().join("state");
    std::fs::create_dir(&inner).unwrap();
    let path = inner.join("deny.json");
    let list = DenyList::open(path.clone()).unwrap();
    let kept = list
        .add(identity("dns:a.example.org"), "", None, 0)
        .unwrap();
    std::fs::remove_dir_all(&inner).unwrap();
    let epoch = list.epoch();
    for name in ["dns:b.example.org", "dns:c.example.org"] {
        assert!(list.add(identity(name), "leaked", None, 0).is_err());
    }
    assert_ne!(list.epoch(), epoch, "connections are told");
    assert_eq!((list.list(0).len(), list.unsaved_count()), (3, 2));
    assert!(list.refresh().is_err());
    // The directory of the file is missing, so the file cannot be written. Then `remove` fails and
    // removes nothing.
    let [_, second, third] = <[_; 3]>::try_from(list.list(0)).unwrap();
    assert!(list.remove(&second.id).is_err());
    assert_eq!(list.list(0).len(), 3);

    std::fs::create_dir(&inner).unwrap();
    assert!(list.remove(&second.id).unwrap());
    assert_eq!(list.unsaved_count(), 0);
    assert_eq!(list.list(0), [Arc::clone(&kept), Arc::clone(&third)]);
    assert_eq!(DenyList::open(path).unwrap().list(0), [kept, third]);
    assert!(!list.refresh().unwrap());
}

#[test]
fn of_two_unsaved_entries_for_one_target_the_later_one_counts() {
    let folder = tempfile::tempdir().unwrap();
    let inner = folder.path().join("state");
    let path = inner.join("deny.json");
    let list = DenyList::open(path.clone()).unwrap();
    let target = || identity("dns:a.example.org");
    assert!(list.add(target(), "first", Some(60), 0).is_err());
    assert!(list.add(target(), "second", None, 0).is_err());
    assert_eq!((list.list(0).len(), list.unsaved_count()), (1, 1));
    std::fs::create_dir(&inner).unwrap();
    assert!(list.refresh().unwrap());
    for read in [list.list(100), DenyList::open(path).unwrap().list(100)] {
        assert_eq!(read.len(), 1);
        assert_eq!(read[0].reason, "second");
    }
    // The list `next` gets the entry that `list` could not write to its file.
    let next = DenyList::open(folder.path().join("next.json")).unwrap();
    std::fs::remove_dir_all(&inner).unwrap();
    assert!(
        list.add(identity("dns:b.example.org"), "", None, 0)
            .is_err()
    );
    next.take_unsaved_of(&list);
    assert_eq!((next.list(0).len(), next.unsaved_count()), (1, 1));
    assert!(next.refresh().unwrap());
    assert_eq!(next.unsaved_count(), 0);
}

#[test]
fn what_others_write_does_not_push_an_unsaved_entry_out() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("deny.json");
    let (one, two) = (
        DenyList::open(path.clone()).unwrap(),
        DenyList::open(path.clone()).unwrap(),
    );
    one.add(identity("dns:a.example.org"), "", None, 0).unwrap();
    // This thread holds the lock on `seen`, so the other thread cannot write the file yet. The
    // entry that the other thread adds is already in force.
    let busy = two.seen();
    let adding = std::thread::scope(|scope| {
        let adding = scope.spawn(|| two.add(identity("dns:b.example.org"), "", None, 0));
        while two.list(0).is_empty() {
            std::thread::yield_now();
        }
        assert_eq!(two.unsaved_count(), 1);
        drop(busy);
        adding.join().unwrap()
    });
    adding.unwrap();
    assert_eq!((two.list(0).len(), two.unsaved_count()), (2, 0));
    assert_eq!(DenyList::open(path).unwrap().list(0).len(), 2);
}

#[test]
fn what_others_write_is_taken_over_and_what_they_break_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("deny.json");
    let (one, two) = (
        DenyList::open(path.clone()).unwrap(),
        DenyList::open(path.clone()).unwrap(),
    );
    assert_ne!(one.epoch(), two.epoch(), "each list has epochs of its own");
    let first = one.add(identity("dns:a.example.org"), "", None, 0).unwrap();
    let epoch = two.epoch();
    assert!(two.refresh().unwrap());
    assert_ne!(two.epoch(), epoch);
    assert_eq!(two.list(0), [Arc::clone(&first)]);
    assert!(!two.refresh().unwrap());
    // Each `add` first reads the file. So the file keeps the entries of both lists, although
    // neither list was refreshed.
    let second = one.add(identity("dns:b.example.org"), "", None, 0).unwrap();
    let third = two.add(identity("dns:c.example.org"), "", None, 0).unwrap();
    assert_eq!(two.list(0), [first, second, third]);

    std::fs::write(&path, "{").unwrap();
    assert!(two.refresh().is_err());
    assert!(!two.refresh().unwrap(), "said once");
    assert_eq!(two.list(0).len(), 3);
    std::fs::remove_file(&path).unwrap();
    assert!(two.refresh().is_err());
    assert_eq!(two.list(0).len(), 3);
    // The file was deleted. The new entry is written together with the three entries in memory.
    two.add(identity("dns:d.example.org"), "", None, 0).unwrap();
    assert_eq!(DenyList::open(path).unwrap().list(0).len(), 4);
}

#[test]
fn thumbprints_are_read_as_the_audit_log_writes_them() {
    let folder = tempfile::tempdir().unwrap();
    let list = DenyList::open(folder.path().join("deny.json")).unwrap();
    let target = |thumbprint: &str| DenyTarget::Thumbprint {
        thumbprint: thumbprint.to_owned(),
    };
    let entry = list
        .add(
            target("AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8"),
            "",
            None,
            0,
        )
        .unwrap();
    assert_eq!(
        entry.target,
        target("000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f")
    );
}

#[test]
fn of_two_entries_for_one_target_the_one_that_ends_last_counts() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("deny.json");
    let entry = |id: &str, end: &str| {
        format!(
            r#"{{"id":"{id}","target":{{"identity":"dns:a"}},"reason":"{id}","added_at":0{end}}}"#
        )
    };
    let ends = [
        entry("a", ""),
        entry("b", r#","expires_at":50"#),
        entry("c", r#","expires_at":900"#),
    ];
    for (order, expected) in [
        ([0, 1, 2], "a"),
        ([1, 2, 0], "a"),
        ([2, 1, 1], "c"),
        ([1, 2, 1], "c"),
    ] {
        let entries = order.map(|index: usize| ends[index].clone()).join(",");
        let content = format!(r#"{{"version":1,"entries":[{entries}]}}"#);
        std::fs::write(&path, content).unwrap();
        let list = DenyList::open(path.clone()).unwrap();
        let found = list.index.load();
        let found = found.find(&identity("dns:a"), 100).unwrap();
        assert_eq!(found.id, expected);
    }
}

#[test]
fn what_cannot_be_read_for_a_moment_is_not_lost() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("deny.json");
    let (one, two) = (
        DenyList::open(path.clone()).unwrap(),
        DenyList::open(path.clone()).unwrap(),
    );
    let first = one.add(identity("dns:a.example.org"), "", None, 0).unwrap();
    let busy: ReadEntries = |path| {
        Err(DenyListError::File {
            path: path.to_owned(),
            error: io::Error::other("too many open files"),
        })
    };
    for _ in 0..2 {
        assert!(two.take_over(&mut two.seen(), busy).is_err());
    }
    // If the file cannot be read, `change_after` must fail. Otherwise it would replace the file
    // with old entries.
    let change = two.change_after(busy, |entries| {
        entries.clear();
        Ok(true)
    });
    assert!(change.is_err());
    assert_eq!(DenyList::open(path).unwrap().list(0).len(), 1);
    assert!(two.refresh().unwrap(), "it is read as soon as that goes");
    assert_eq!(two.list(0), [first]);
    assert!(!two.refresh().unwrap());
}

/// Opening a named pipe could block forever. So [`DenyList::open`] must refuse a path that is not a
/// regular file.
#[test]
fn what_is_no_file_is_refused_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("deny.json");
    let made = std::process::Command::new("mkfifo").arg(&path).status();
    assert!(made.unwrap().success());
    let (said, hears) = std::sync::mpsc::channel();
    let pipe = path.clone();
    std::thread::spawn(move || said.send(DenyList::open(pipe).map(drop)));
    let opened = hears.recv_timeout(std::time::Duration::from_secs(60));
    let error = opened.expect("opening it does not end").unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("deny.json") && text.contains("named pipe"),
        "{text}"
    );
}
