//! The systemd units that `pki renew --timer` and `pki init --timer` write.

use std::os::unix::fs::{MetadataExt as _, chown};
use std::path::Path;

use super::{Authority, pki};
use crate::support::Run;

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn service(authority: &Authority, arguments: &[&str]) -> String {
    let common = ["renew", "--all", "--timer=-", "--json"];
    let units = authority.run(&[&common, arguments].concat()).done().json();
    units["service"].as_str().unwrap().to_owned()
}

fn has_line(unit: &str, line: &str) -> bool {
    unit.lines().any(|own| own == line)
}

#[test]
fn units_with_another_content_are_not_replaced() {
    let authority = Authority::new();
    authority.run(&["renew", "--all", "--timer"]).done();
    let before = authority.read("countersign-renew.service");
    // The same units may be written again.
    authority.run(&["renew", "--all", "--timer"]).done();
    let other = ["renew", "--all", "--if-expiring", "8h", "--timer"];
    authority.run(&other).refused(1, "--force");
    assert_eq!(authority.read("countersign-renew.service"), before);
    authority.run(&[&other[..], &["--force"]].concat()).done();
    assert_ne!(authority.read("countersign-renew.service"), before);
    authority
        .run(&["renew", "--all", "--force"])
        .refused(2, "--timer");
    // If one of the units exists, none is written.
    std::fs::remove_file(authority.path("countersign-renew.service")).unwrap();
    std::fs::write(authority.path("countersign-renew.timer"), "[Timer]\n").unwrap();
    authority.run(&other).refused(1, "countersign-renew.timer");
    assert!(!authority.path("countersign-renew.service").exists());
}

#[test]
fn a_new_authority_does_not_replace_units() {
    let home = tempfile::tempdir().unwrap();
    let unit = home.path().join("countersign-crl.timer");
    std::fs::write(&unit, "[Timer]\n").unwrap();
    let mut init = pki(&["init", "--trust-domain", "example.org", "--no-passphrase"]);
    init.arg("--timer").arg("--dir").arg(home.path());
    Run::of(&mut init).refused(1, "countersign-crl.timer");
    assert_eq!(std::fs::read(&unit).unwrap(), b"[Timer]\n");
    assert!(!home.path().join("root.pem").exists());
    Run::of(init.arg("--force")).done();
    assert_ne!(std::fs::read(&unit).unwrap(), b"[Timer]\n");
}

#[test]
fn each_certificate_has_units_of_its_own() {
    let authority = Authority::new();
    let units = authority.home.path().join("units");
    std::fs::create_dir(&units).unwrap();
    let directory = format!("--timer={}", units.display());
    for (name, out) in [
        ("a", "certs/issued/gw"),
        ("b", "elsewhere/gw"),
        ("c", "certs/issued/g w"),
        ("d", "certs/issued/g&w"),
    ] {
        let prefix = authority.home.path().join(out);
        std::fs::create_dir_all(prefix.parent().unwrap()).unwrap();
        let id = format!("spiffe://example.org/{name}");
        authority
            .run(&["issue", &id, "--out", text(&prefix)])
            .done();
        let certificate = format!("{}.pem", prefix.display());
        authority.run(&["renew", &certificate, &directory]).done();
    }
    let mut names: Vec<String> = std::fs::read_dir(&units)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with(".service"))
        .collect();
    names.sort();
    assert_eq!(names.len(), 4, "{names:?}");
    assert!(names.contains(&"countersign-renew-gw.service".to_owned()));
    let sanitized = names.iter().filter(|name| name.contains("-g_w-"));
    assert_eq!(sanitized.count(), 2, "{names:?}");
}

#[test]
fn the_service_has_no_more_rights_than_the_owner_of_the_directory() {
    const OWNER: u32 = 65_534;
    let authority = Authority::new();
    let own = authority.dir().metadata().unwrap().uid();
    let unit = service(&authority, &[]);
    assert!(has_line(&unit, "UMask=0077"), "{unit}");
    assert!(has_line(&unit, "NoNewPrivileges=yes"), "{unit}");
    if own != 0 {
        assert!(has_line(&unit, &format!("User={own}")), "{unit}");
        return;
    }
    assert!(!unit.contains("User="), "{unit}");
    chown(authority.dir(), Some(OWNER), Some(OWNER - 1)).unwrap();
    let unit = service(&authority, &[]);
    assert!(has_line(&unit, "User=65534"), "{unit}");
    assert!(has_line(&unit, "Group=65533"), "{unit}");
    // A directory that does not exist yet will belong to the owner of its parent.
    chown(authority.home.path(), Some(OWNER), Some(OWNER)).unwrap();
    let new = authority.home.path().join("new/certs");
    let mut init = pki(&["init", "--trust-domain", "example.org", "--no-passphrase"]);
    Run::of(init.arg("--timer").arg("--dir").arg(&new)).done();
    let unit = std::fs::read_to_string(new.join("countersign-crl.service")).unwrap();
    assert!(has_line(&unit, "User=65534"), "{unit}");
    assert_eq!(new.metadata().unwrap().uid(), OWNER);
}

#[test]
fn the_command_that_enables_the_units_can_be_pasted() {
    let authority = Authority::new();
    let units = authority.home.path().join("my units");
    std::fs::create_dir(&units).unwrap();
    let mut renew = authority.pki(&["renew", "--all", "--timer=my units"]);
    let said = Run::of(renew.current_dir(authority.home.path())).done();
    let unit = |kind: &str| format!("'{}/countersign-renew.{kind}'", units.display());
    let command = format!(
        "install -o root -g root -m 0644 {} {} /etc/systemd/system/ && systemctl daemon-reload \
         && systemctl enable --now countersign-renew.timer\n",
        unit("service"),
        unit("timer")
    );
    assert!(said.stdout.contains(&command), "{}", said.stdout);
}

#[test]
fn a_passphrase_file_that_systemd_could_not_read_is_refused() {
    let authority = Authority::new();
    let home = authority.home.path();
    let phrase = home.join("phrase");
    std::fs::write(&phrase, "correct horse\n").unwrap();
    let init = ["init", "--trust-domain", "example.org", "--force"];
    authority
        .run(&[&init[..], &["--passphrase-file", text(&phrase)]].concat())
        .done();
    let renew = |arguments: &[&str]| {
        let common = ["renew", "--all", "--timer=-"];
        authority.run(&[&common, arguments].concat())
    };
    renew(&["--passphrase-file", text(&phrase)]).done();
    for name in ["back\\slash", "new\nline"] {
        let path = home.join(name);
        std::fs::copy(&phrase, &path).unwrap();
        renew(&["--passphrase-file", text(&path)]).refused(2, "control character");
    }
    for path in ["/dev/null", "/nowhere/phrase"] {
        renew(&["--passphrase-file", path]).refused(2, "not a regular file");
    }
    // A service has no environment variables or descriptors of this process.
    let mut command = authority.pki(&["renew", "--all", "--timer", "--passphrase-env", "PHRASE"]);
    let said = Run::of(command.env("PHRASE", "correct horse")).done();
    let expected = "reads the passphrase from /etc/countersign/ca.pass";
    assert!(said.stdout.contains(expected), "{}", said.stdout);
}
