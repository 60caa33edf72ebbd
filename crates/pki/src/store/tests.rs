//! Tests of reading and writing files: modes, exclusive creation, replacement, and paths that do
//! not lead to regular files.

use super::*;

fn mode(path: &Path) -> u32 {
    path.metadata().unwrap().permissions().mode() & 0o777
}

fn entries(directory: &Path) -> usize {
    std::fs::read_dir(directory).unwrap().count()
}

#[test]
fn private_files_are_for_their_owner_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.key");
    write(&path, b"secret", Audience::Owner, Existing::Refuse).unwrap();
    assert_eq!(mode(&path), 0o600);
    // A user has made the private file readable for others. When it is replaced, its mode must be
    // 0600 again.
    std::fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
    write(&path, b"secret", Audience::Owner, Existing::Replace).unwrap();
    assert_eq!(mode(&path), 0o600);
    assert_eq!(mode(&path) & 0o022, 0);
}

#[test]
fn nothing_is_overwritten_and_nothing_left_behind() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a");
    write(&path, b"one", Audience::Public, Existing::Refuse).unwrap();
    let again = write(&path, b"two", Audience::Public, Existing::Refuse);
    assert!(matches!(again, Err(StoreError::Exists(_))));
    assert_eq!(std::fs::read(&path).unwrap(), b"one");
    write(&path, b"two", Audience::Public, Existing::Replace).unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), b"two");
    drop(Staged::new(&path, b"three", Audience::Public, Existing::Replace).unwrap());
    assert_eq!(std::fs::read(&path).unwrap(), b"two");
    assert_eq!(entries(directory.path()), 1);
}

#[test]
fn a_file_that_appears_meanwhile_is_not_overwritten() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a");
    let staged = Staged::new(&path, b"ours", Audience::Public, Existing::Refuse).unwrap();
    std::fs::write(&path, b"theirs").unwrap();
    assert!(matches!(staged.place(), Err(StoreError::Exists(_))));
    assert_eq!(std::fs::read(&path).unwrap(), b"theirs");
    assert_eq!(entries(directory.path()), 1);
}

#[test]
fn links_are_neither_followed_nor_overwritten() {
    let directory = tempfile::tempdir().unwrap();
    let elsewhere = directory.path().join("elsewhere");
    let link = directory.path().join("link");
    std::os::unix::fs::symlink(&elsewhere, &link).unwrap();
    assert!(matches!(
        write(&link, b"x", Audience::Owner, Existing::Refuse),
        Err(StoreError::Exists(_))
    ));
    write(&link, b"x", Audience::Owner, Existing::Replace).unwrap();
    assert!(!elsewhere.exists());
    assert!(link.symlink_metadata().unwrap().is_file());
}

#[test]
fn errors_name_the_act_and_the_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("missing").join("a.key");
    let error = write(&path, b"x", Audience::Owner, Existing::Refuse).unwrap_err();
    let text = error.to_string();
    assert!(text.starts_with("cannot create "), "{text}");
    assert!(text.contains("missing/a.key"), "{text}");
}

#[test]
fn files_of_one_prefix_are_swept_up() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a");
    write(&path, b"kept", Audience::Public, Existing::Refuse).unwrap();
    for prefix in [".one-", ".other-"] {
        let (owner, replace) = (Audience::Owner, Existing::Replace);
        let staged = Staged::written(&path, b"x", owner, replace, prefix, true).unwrap();
        assert!(staged.name().to_str().unwrap().starts_with(prefix));
        staged.leave_aside();
    }
    assert_eq!(entries(directory.path()), 3);
    sweep(directory.path(), ".one-");
    assert_eq!(entries(directory.path()), 2);
    assert_eq!(std::fs::read(&path).unwrap(), b"kept");
    sweep(&directory.path().join("missing"), ".one-");
}

#[test]
fn only_regular_files_are_read() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a");
    std::fs::write(&path, "x").unwrap();
    assert_eq!(read(&path).unwrap(), b"x");
    for other in [Path::new("/dev/zero"), directory.path()] {
        let text = read(other).unwrap_err().to_string();
        let place = other.display().to_string();
        assert!(
            text.starts_with(&format!("cannot use {place}: it is ")),
            "{text}"
        );
    }
    // An operator can give a path without an end, such as `/dev/zero`. Reading must stop at the
    // limit.
    let endless = read_named(Path::new("/dev/zero")).unwrap_err();
    assert!(matches!(endless, StoreError::TooLarge(_)));
}
