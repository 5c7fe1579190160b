use std::os::unix::fs::symlink;

use super::*;

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

fn names(dir: &Path) -> usize {
    fs::read_dir(dir).unwrap().count()
}

#[test]
fn private_files_and_directories_are_their_owners_alone() {
    let scratch = tempfile::tempdir().unwrap();
    let dir = scratch.path().join("a/b");
    create_dir_all(&dir).unwrap();
    create_dir_all(&dir).unwrap();
    assert_eq!(
        (mode(&scratch.path().join("a")), mode(&dir)),
        (0o700, 0o700)
    );
    assert!(create_dir(&dir).unwrap_err().is_already_there());
    create_dir(&dir.join("c")).unwrap();
    assert_eq!(mode(&dir.join("c")), 0o700);

    create_new(&dir.join("new"), b"x", Access::Private).unwrap();
    replace(&dir.join("replaced"), b"x", Access::Private).unwrap();
    replace(&dir.join("ordinary"), b"x", Access::Ordinary).unwrap();
    assert_eq!(
        (mode(&dir.join("new")), mode(&dir.join("replaced"))),
        (0o600, 0o600)
    );
    let ordinary = fs::metadata(dir.join("ordinary")).unwrap();
    fs::write(dir.join("reference"), b"").unwrap();
    assert_eq!(mode(&dir.join("ordinary")), mode(&dir.join("reference")));
    assert_eq!(exposed_mode(&fs::metadata(dir.join("new")).unwrap()), None);
    assert_eq!(
        exposed_mode(&ordinary).is_some(),
        mode(&dir.join("ordinary")) & 0o077 != 0
    );
}

#[test]
fn a_file_that_is_there_is_only_replaced_on_purpose() {
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("f");
    create_new(&path, b"old", Access::Private).unwrap();
    let refused = create_new(&path, b"new", Access::Private).unwrap_err();
    assert!(refused.is_already_there(), "{refused:?}");
    assert_eq!(fs::read(&path).unwrap(), b"old");
    replace(&path, b"new", Access::Private).unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"new");
    assert_eq!(names(scratch.path()), 1, "nothing is left beside it");
}

#[test]
fn links_are_not_followed() {
    let scratch = tempfile::tempdir().unwrap();
    let (path, victim) = (scratch.path().join("f"), scratch.path().join("victim"));
    fs::write(&victim, b"victim").unwrap();
    for place in [path.clone(), unfinished(&path)] {
        symlink(&victim, &place).unwrap();
        let created = create_new(&path, b"new", Access::Private);
        assert_eq!(created.is_err(), place == path);
        replace(&path, b"newer", Access::Private).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"newer");
        assert!(!path.symlink_metadata().unwrap().is_symlink());
        fs::remove_file(&path).unwrap();
    }
    // A dangling link counts as an existing file, too.
    symlink(scratch.path().join("nothing"), &path).unwrap();
    assert!(create_new(&path, b"new", Access::Private).is_err());
    assert!(!scratch.path().join("nothing").exists());
    assert_eq!(fs::read(&victim).unwrap(), b"victim");
}

#[test]
fn a_leftover_is_neither_reused_nor_believed() {
    let scratch = tempfile::tempdir().unwrap();
    let (path, other) = (scratch.path().join("f"), scratch.path().join("other"));
    // A crash between link and unlink leaves two names of one finished file.
    fs::write(&other, b"finished").unwrap();
    fs::hard_link(&other, unfinished(&path)).unwrap();
    fs::set_permissions(&other, fs::Permissions::from_mode(0o666)).unwrap();
    create_new(&path, b"new", Access::Private).unwrap();
    assert_eq!(fs::read(&other).unwrap(), b"finished");
    assert_eq!(
        (fs::read(&path).unwrap(), mode(&path)),
        (b"new".to_vec(), 0o600)
    );
}

#[test]
fn a_draft_that_is_given_up_leaves_nothing() {
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("f");
    let mut draft = Draft::begin(&path, Access::Private).unwrap();
    draft.write_all(b"secret").unwrap();
    assert_eq!(mode(&unfinished(&path)), 0o600);
    drop(draft);
    assert_eq!(names(scratch.path()), 0);
}

#[cfg(feature = "power-cut")]
mod power {
    use super::*;
    use crate::power_cut::Fuse;

    /// Repeats `act` with ever later power cuts until one comes too late. Returns how many came in
    /// time.
    fn cuts(
        mut prepare: impl FnMut(),
        act: impl Fn() -> Result<(), Error>,
        check: impl Fn(),
    ) -> i64 {
        for steps in 0.. {
            prepare();
            let fuse = Fuse::set(steps);
            let outcome = act();
            let blown = fuse.blown();
            Fuse::clear();
            if !blown {
                outcome.unwrap();
                return steps;
            }
            check();
        }
        unreachable!("every act has an end")
    }

    #[test]
    fn a_cut_leaves_the_old_content_or_the_new() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("f");
        let cuts = cuts(
            || fs::write(&path, b"old").unwrap(),
            || replace(&path, b"new", Access::Private),
            || {
                let content = fs::read(&path).unwrap();
                assert!(content == b"old" || content == b"new", "{content:?}");
            },
        );
        assert!(
            cuts >= 6,
            "remove, create, write, sync, rename, sync: {cuts}"
        );
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(names(scratch.path()), 1);
    }

    #[test]
    fn a_cut_leaves_a_new_file_whole_or_absent_and_the_next_try_says_which() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("f");
        let clean = || {
            fs::remove_file(&path).ok();
        };
        let cuts = cuts(
            clean,
            || create_new(&path, b"new", Access::Private),
            || {
                let there = path.exists();
                assert!(!there || fs::read(&path).unwrap() == b"new");
                let again = create_new(&path, b"again", Access::Private);
                assert_eq!(again.is_err(), there);
                assert_eq!(names(scratch.path()), 1, "leftovers are gone after it");
            },
        );
        assert!(
            cuts >= 7,
            "remove, create, write, sync, link, unlink, sync: {cuts}"
        );
    }

    #[test]
    fn directories_are_made_again_after_a_cut() {
        let scratch = tempfile::tempdir().unwrap();
        let dir = scratch.path().join("a/b");
        let cuts = cuts(
            || {
                fs::remove_dir_all(scratch.path().join("a")).ok();
            },
            || create_dir_all(&dir),
            || create_dir_all(&dir).unwrap(),
        );
        assert!(cuts >= 4, "two directories, each made and synced: {cuts}");
    }
}
