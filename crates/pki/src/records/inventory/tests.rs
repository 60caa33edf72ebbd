//! Tests of the inventory: filters, versions, concurrent writers.

use super::*;
use crate::signing::revoked::RevocationReason;
use crate::signing::signatory::{AuthorityName, Generation};

fn new(serial: &str, names: &[&str], not_after: i64) -> NewEntry {
    NewEntry {
        serial: serial.to_owned(),
        issuer_key: "k".to_owned(),
        issuer: "CN=Intermediate".to_owned(),
        parent: "p".to_owned(),
        profile: "peer".to_owned(),
        names: names.iter().map(|name| (*name).to_owned()).collect(),
        not_before: 0,
        not_after,
        thumbprint: serial.to_owned(),
        certificate: PathBuf::from("a.pem"),
        issued_at: not_after - 100,
        cause: Cause::Issue,
    }
}

fn serials(inventory: &Inventory, filter: &Filter) -> Vec<String> {
    let keys = ["k".to_owned()];
    let found = inventory.find(&keys, filter).unwrap();
    found.into_iter().map(|entry| entry.serial).collect()
}

#[test]
fn filters_find_what_they_say() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("inventory.db");
    let mut inventory = Inventory::open(&path).unwrap();
    let entries = [
        new("01", &["spiffe://example.org/a", "dns:a"], 1_000),
        new("02", &["spiffe://example.org/b"], 2_000),
        new("03", &["spiffe://example.org/a"], 3_000),
    ];
    inventory.record(&entries).unwrap();
    let revoked = RevokedCertificate {
        issuer: AuthorityName::Intermediate,
        generation: Generation::FIRST,
        serial: "02".to_owned(),
        time: 5,
        reason: RevocationReason::KeyCompromise,
    };
    inventory.mark_revoked("k", [&revoked].into_iter()).unwrap();
    assert_eq!(inventory.count_revoked("k").unwrap(), 1);
    drop(inventory);

    let inventory = Inventory::open(&path).unwrap();
    let all = Filter::default();
    assert_eq!(serials(&inventory, &all), ["01", "02", "03"]);
    let name = |name: &str| Filter {
        name: Some(name.to_owned()),
        ..Filter::default()
    };
    assert_eq!(
        serials(&inventory, &name("spiffe://example.org/a")),
        ["01", "03"]
    );
    assert_eq!(serials(&inventory, &name("dns:a")), ["01"]);
    assert_eq!(serials(&inventory, &name("a")), [""; 0]);
    let live = Filter {
        live_at: Some(1_500),
        ..Filter::default()
    };
    assert_eq!(serials(&inventory, &live), ["03"]);
    let ending = Filter {
        ending_by: Some(2_000),
        ..Filter::default()
    };
    assert_eq!(serials(&inventory, &ending), ["01", "02"]);
    let revoked = Filter {
        revoked: true,
        ..Filter::default()
    };
    assert_eq!(serials(&inventory, &revoked), ["02"]);
    let page = Filter {
        after: Some(1),
        limit: Some(1),
        ..Filter::default()
    };
    assert_eq!(serials(&inventory, &page), ["02"]);
    let earlier = Filter {
        issued_before: Some(1_900),
        ..Filter::default()
    };
    assert_eq!(serials(&inventory, &earlier), ["01"]);
    let entry = inventory
        .find(&["k".to_owned()], &name("dns:a"))
        .unwrap()
        .swap_remove(0);
    assert_eq!(entry.names, ["spiffe://example.org/a", "dns:a"]);
    assert!(
        inventory
            .find(&["other".to_owned()], &all)
            .unwrap()
            .is_empty()
    );
}

#[test]
fn a_serial_number_is_recorded_once() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("inventory.db");
    let mut inventory = Inventory::open(&path).unwrap();
    let first = new("01", &["dns:a"], 1_000);
    inventory.record(std::slice::from_ref(&first)).unwrap();
    let batch = [new("02", &["dns:b"], 1_000), first.clone()];
    assert!(inventory.record(&batch).is_err());
    assert_eq!(
        serials(&inventory, &Filter::default()),
        ["01"],
        "all or none"
    );
    inventory.import(&batch).unwrap();
    inventory.import(&batch).unwrap();
    assert_eq!(serials(&inventory, &Filter::default()), ["01", "02"]);
}

#[test]
fn a_newer_file_is_refused_and_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("inventory.db");
    drop(Inventory::open(&path).unwrap());
    let connection = Connection::open(&path).unwrap();
    connection
        .execute_batch("PRAGMA user_version = 99")
        .unwrap();
    drop(connection);
    assert!(matches!(
        Inventory::open(&path),
        Err(InventoryError::Newer { found: 99, .. })
    ));
    std::fs::write(
        &path,
        b"this is no database, and longer than a header of one hundred octets: \
        this is no database, and longer than a header of one hundred octets",
    )
    .unwrap();
    assert!(matches!(
        Inventory::open(&path),
        Err(InventoryError::Sqlite { .. })
    ));
}

#[test]
fn writers_wait_for_one_another() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("inventory.db");
    std::thread::scope(|scope| {
        for writer in 0..4 {
            let path = &path;
            scope.spawn(move || {
                let mut inventory = Inventory::open(path).unwrap();
                for index in 0..10 {
                    let serial = format!("{writer}{index}");
                    inventory
                        .record(&[new(&serial, &["dns:a"], 1_000)])
                        .unwrap();
                }
            });
        }
    });
    let inventory = Inventory::open(&path).unwrap();
    assert_eq!(serials(&inventory, &Filter::default()).len(), 40);
}

/// A search must return the same rows with each [`Access`], whether few or many rows match.
#[test]
fn the_way_to_rows_does_not_change_what_is_found() {
    let directory = tempfile::tempdir().unwrap();
    let mut inventory = Inventory::open(&directory.path().join("inventory.db")).unwrap();
    let count = usize::try_from(schema::FEW).unwrap() + 1_000;
    let entries: Vec<NewEntry> = (0..count)
        .map(|index| {
            let end = 1_000 + i64::try_from(index % 3_000).unwrap();
            new(&format!("{index:06x}"), &[&format!("dns:h{index}")], end)
        })
        .collect();
    inventory.record(&entries).unwrap();
    let compare = |inventory: &Inventory, filter: &Filter, access: Access| {
        assert_eq!(inventory.access(filter).unwrap(), access, "{filter:?}");
        let found = serials(inventory, filter);
        let plain = Filter {
            limit: None,
            ..Filter::default()
        };
        let mut expected: Vec<String> = inventory
            .find(&["k".to_owned()], &plain)
            .unwrap()
            .into_iter()
            .filter(|entry| filter.ending_by.is_none_or(|end| entry.not_after <= end))
            .filter(|entry| {
                filter
                    .live_at
                    .is_none_or(|now| entry.not_after >= now && entry.revoked.is_none())
            })
            .filter(|entry| !filter.revoked || entry.revoked.is_some())
            .filter(|entry| filter.after.is_none_or(|after| entry.id > after))
            .map(|entry| entry.serial)
            .collect();
        if let Some(limit) = filter.limit {
            expected.truncate(usize::try_from(limit).unwrap());
        }
        assert_eq!(found, expected, "{filter:?}");
    };
    let page = Filter {
        limit: Some(100),
        after: Some(7_000),
        ..Filter::default()
    };
    let ending = |end| Filter {
        live_at: Some(1_500),
        ending_by: Some(end),
        ..page.clone()
    };
    let revoked = Filter {
        revoked: true,
        ..page.clone()
    };
    compare(&inventory, &page, Access::InOrder);
    compare(&inventory, &ending(1_600), Access::ByEnd);
    compare(
        &inventory,
        &Filter {
            live_at: None,
            ..ending(9_000)
        },
        Access::InOrder,
    );
    compare(&inventory, &revoked, Access::ByRevocation);
    let mark = |index: usize| RevokedCertificate {
        issuer: AuthorityName::Intermediate,
        generation: Generation::FIRST,
        serial: format!("{index:06x}"),
        time: 5,
        reason: RevocationReason::KeyCompromise,
    };
    let some: Vec<_> = (0..count).step_by(9).map(mark).collect();
    inventory.mark_revoked("k", some.iter()).unwrap();
    compare(&inventory, &revoked, Access::ByRevocation);
    let all: Vec<_> = (0..count).map(mark).collect();
    inventory.mark_revoked("k", all.iter()).unwrap();
    compare(&inventory, &revoked, Access::InOrder);
    let serial = Filter {
        serial: Some("000007".to_owned()),
        ..Filter::default()
    };
    assert_eq!(inventory.access(&serial).unwrap(), Access::BySerial);
    assert_eq!(serials(&inventory, &serial), ["000007"]);
}
