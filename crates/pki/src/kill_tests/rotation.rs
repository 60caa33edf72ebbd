//! Tests that end the process in the middle of a rotation, and then continue the rotation.

use super::*;

/// Ends the process at each point of an operation that prepares a rotation. The next command must
/// find the earlier or the new generation. `check` gets that command, and its directory.
fn prepared_or_not(operation: &str, template: &Template, mut check: impl FnMut(&Path, &mut Pki)) {
    let mut generations = Vec::new();
    at_each_point(
        operation,
        |home| template.put(home),
        |home| {
            let mut pki = next_command(home);
            generations.push(pki.generation().number());
            check(home, &mut pki);
        },
    );
    generations.dedup();
    assert_eq!(generations, [1, 2]);
}

#[test]
fn a_rotation_is_prepared_or_not_begun() {
    let template = Template::new(|_, _| {});
    let before = template.tree();
    prepared_or_not("kill_tests::operations::prepare", &template, |home, pki| {
        if pki.generation() == Generation::FIRST {
            assert_eq!(tree(home), before);
        } else {
            let after = tree(home);
            for file in [
                "root.key",
                "root.pem",
                "intermediate.key",
                "intermediate.pem",
            ] {
                let present = Path::new("certs").join(file);
                let earlier = Path::new("certs/earlier").join(file);
                assert_eq!(after[&earlier], before[&present], "{file}");
                assert_ne!(after[&present], before[&present], "{file}");
            }
            assert_eq!(after.len(), before.len() + 4);
        }
        use_it(pki);
        if pki.generation() == Generation::FIRST {
            pki.prepare_rotation(&RotationOptions::default()).unwrap();
        }
        pki.retire(true).unwrap();
        next_command(home);
    });
}

/// Both generations use the same root key, so a rotation must never move the key file.
#[test]
fn a_rotation_of_the_intermediate_keeps_the_root() {
    let template = Template::new(|_, _| {});
    let before = template.tree();
    prepared_or_not(
        "kill_tests::operations::prepare_intermediate",
        &template,
        |home, pki| {
            let after = tree(home);
            for file in ["root.key", "root.pem", "trust.pem", "crl/root.crl"] {
                let path = Path::new("certs").join(file);
                assert_eq!(after[&path], before[&path], "{file}");
            }
            use_it(pki);
            if pki.generation() != Generation::FIRST {
                // Otherwise its list would stay published.
                let earlier = pki.layout().earlier();
                let earlier = earlier.certificate(AuthorityName::Intermediate);
                let target = RevocationTarget::File(earlier);
                pki.revoke(&target, RevocationReason::Superseded).unwrap();
                pki.retire(true).unwrap();
                assert!(pki.layout().key(AuthorityName::Root).exists());
                next_command(home);
            }
        },
    );
}

/// An operator may keep the root's key elsewhere, so there is no old key to move to `earlier/`. A
/// step that is repeated after a kill must not move the new key there instead.
#[test]
fn a_rotation_does_not_move_the_new_key_for_an_absent_one() {
    let template = Template::new(|pki, home| {
        let key = pki.layout().key(AuthorityName::Root);
        std::fs::rename(key, home.join("root.key")).unwrap();
    });
    at_each_point(
        "kill_tests::operations::prepare",
        |home| template.put(home),
        |home| {
            let pki = next_command(home);
            if pki.generation() != Generation::FIRST {
                assert!(pki.layout().key(AuthorityName::Root).exists());
                assert!(!pki.layout().earlier().key(AuthorityName::Root).exists());
                pki.load_authority(AuthorityName::Root).unwrap();
            }
        },
    );
}

/// `earlier/` contains the files of an authority that was replaced during its rotation. A new
/// rotation must move them to `retired/`.
#[test]
fn a_rotation_puts_aside_files_without_an_owner() {
    let template = Template::new(|pki, home| {
        pki.prepare_rotation(&RotationOptions::default()).unwrap();
        Pki::replace(&home.join("certs"), &domain(), &KeyProtection::Plain).unwrap();
    });
    prepared_or_not("kill_tests::operations::prepare", &template, |home, pki| {
        if pki.generation() == Generation::FIRST {
            pki.prepare_rotation(&RotationOptions::default()).unwrap();
        }
        // The generation of the replaced authority and that of the new authority have the same
        // number. Each must have a directory in `retired/`.
        pki.retire(true).unwrap();
        let retired = std::fs::read_dir(pki.layout().retired()).unwrap();
        assert_eq!(retired.count(), 2);
        next_command(home);
    });
}

#[test]
fn a_generation_is_retired_or_not() {
    let template = Template::new(|pki, _| {
        pki.prepare_rotation(&RotationOptions::default()).unwrap();
    });
    let before = template.tree();
    let mut retired = Vec::new();
    at_each_point(
        "kill_tests::operations::retire",
        |home| template.put(home),
        |home| {
            let mut pki = next_command(home);
            let is_retired = pki.earlier.is_none();
            retired.push(is_retired);
            if is_retired {
                // The files of the retired generation must be moved, and not removed.
                let after = tree(home);
                for file in [
                    "root.key",
                    "root.pem",
                    "intermediate.key",
                    "intermediate.pem",
                ] {
                    let earlier = Path::new("certs/earlier").join(file);
                    let aside = Path::new("certs/retired/1").join(file);
                    assert_eq!(after[&aside], before[&earlier], "{file}");
                }
                assert!(!pki.layout().earlier().directory().exists());
                let again = pki.retire(true).unwrap_err();
                assert!(matches!(again, PkiError::NothingToRetire), "{again}");
            } else {
                assert_eq!(tree(home), before);
            }
            use_it(&mut pki);
            if !is_retired {
                pki.retire(true).unwrap();
            }
            next_command(home);
        },
    );
    retired.dedup();
    assert_eq!(retired, [false, true]);
}

/// Builds the state in which an old version was killed during a rotation: `pki.toml` has the mark
/// `unsettled`, and the new files are in `next/`. The next command must complete the rotation.
#[test]
fn what_earlier_versions_left_of_a_rotation_is_completed() {
    let template = Template::new(|pki, _| {
        pki.prepare_rotation(&RotationOptions::default()).unwrap();
        let layout = pki.layout();
        let next = layout.next();
        std::fs::create_dir_all(next.crls()).unwrap();
        for name in AuthorityName::ALL {
            for file in [Layout::certificate, Layout::key] {
                std::fs::rename(file(layout, name), file(&next, name)).unwrap();
                std::fs::rename(file(&layout.earlier(), name), file(layout, name)).unwrap();
            }
            let content = std::fs::read(layout.crl(name)).unwrap();
            let of = |signatory| {
                let subject = pki.certificate_of(signatory).subject_der();
                crls::list_of(&content, subject).unwrap().unwrap()
            };
            let mut signatories = pki.signatories(name);
            std::fs::write(next.crl(name), of(signatories.next().unwrap())).unwrap();
            std::fs::write(layout.crl(name), of(signatories.next().unwrap())).unwrap();
        }
        let roots = certificates::pem(
            pki.certificate_of(Signatory {
                name: AuthorityName::Root,
                generation: Generation::FIRST,
            })
            .der(),
        );
        std::fs::write(layout.trust(), roots).unwrap();
        std::fs::remove_dir(layout.earlier().directory()).unwrap();
        let state = std::fs::read_to_string(layout.state()).unwrap();
        let unsettled = state.replace("generation = 2\n", "generation = 2\nunsettled = true\n");
        assert_ne!(state, unsettled);
        std::fs::write(layout.state(), unsettled).unwrap();
    });
    at_each_point(
        "kill_tests::operations::list",
        |home| template.put(home),
        |home| {
            let mut pki = next_command(home);
            assert_eq!(pki.generation().number(), 2);
            use_it(&mut pki);
            pki.retire(true).unwrap();
            next_command(home);
        },
    );
}

/// Old versions left the empty directory `next/` after each rotation. The next command must remove
/// it.
#[test]
fn an_empty_next_directory_does_not_stay() {
    let template = Template::new(|pki, _| {
        std::fs::create_dir_all(pki.layout().next().crls()).unwrap();
    });
    let home = tempfile::tempdir().unwrap();
    template.put(home.path());
    next_command(home.path());
}
