//! The identity directory after crashes at every place, with wrong permissions, and with files that
//! another user put there.

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use taskpass_client::{Error, IdentityDirectory};
use taskpass_client_testing::fake::Fake;

/// Names and contents.
type Files<'a> = Vec<(&'a str, &'a [u8])>;

/// A directory with an old identity, and the files of a newer one.
struct Scene {
    fake: Fake,
    old: String,
    new: String,
    new_key: Vec<u8>,
    new_svid: Vec<u8>,
    old_key: Vec<u8>,
    old_svid: Vec<u8>,
}

impl Scene {
    async fn set() -> Self {
        let fake = Fake::start().await;
        let client = fake.client().await;
        let (old_key, old_svid) = (read(&fake, "key.pem"), read(&fake, "svid.pem"));
        let old = client.svid().serial;
        let new = client.renew_svid().await.unwrap().serial;
        let (new_key, new_svid) = (read(&fake, "key.pem"), read(&fake, "svid.pem"));
        assert!(old != new && old_key != new_key && old_svid != new_svid);
        Self {
            fake,
            old,
            new,
            new_key,
            new_svid,
            old_key,
            old_svid,
        }
    }

    /// Lays out the files as a crash leaves them and loads.
    fn after(&self, files: &[(&str, &[u8])]) -> Result<String, Error> {
        let directory = self.fake.identity();
        for name in ["key.pem", "svid.pem", "key.pem.new", "svid.pem.new"] {
            drop(fs::remove_file(directory.join(name)));
        }
        for (name, content) in files {
            put(&directory.join(name), content);
        }
        let identity = IdentityDirectory::new(&directory);
        let serial = identity.leaf()?.serial;
        assert!(
            !directory.join("key.pem.new").exists() && !directory.join("svid.pem.new").exists()
        );
        assert_eq!(
            identity.leaf()?.serial,
            serial,
            "a second look gives another answer"
        );
        Ok(serial)
    }
}

fn read(fake: &Fake, name: &str) -> Vec<u8> {
    fs::read(fake.identity().join(name)).unwrap()
}

fn put(path: &PathBuf, content: &[u8]) {
    fs::write(path, content).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[tokio::test]
async fn wherever_renewing_is_cut_off_there_is_a_working_pair() {
    let s = Scene::set().await;
    let (old_key, old_svid) = (s.old_key.as_slice(), s.old_svid.as_slice());
    let (new_key, new_svid) = (s.new_key.as_slice(), s.new_svid.as_slice());
    let old = [("key.pem", old_key), ("svid.pem", old_svid)];
    let cases: [(&str, Files<'_>, &String); 7] = [
        ("before anything", old.to_vec(), &s.old),
        (
            "the new key is written",
            [&old[..], &[("key.pem.new", new_key)]].concat(),
            &s.old,
        ),
        (
            "both are written",
            [
                &old[..],
                &[("key.pem.new", new_key), ("svid.pem.new", new_svid)],
            ]
            .concat(),
            &s.new,
        ),
        (
            "the key is in place",
            vec![
                ("key.pem", new_key),
                ("svid.pem", old_svid),
                ("svid.pem.new", new_svid),
            ],
            &s.new,
        ),
        (
            "both are in place",
            vec![("key.pem", new_key), ("svid.pem", new_svid)],
            &s.new,
        ),
        (
            "the new certificate is damaged",
            [
                &old[..],
                &[("key.pem.new", new_key), ("svid.pem.new", b"-----BEGIN")],
            ]
            .concat(),
            &s.old,
        ),
        (
            "the new files are no pair",
            [
                &old[..],
                &[("key.pem.new", old_key), ("svid.pem.new", new_svid)],
            ]
            .concat(),
            &s.old,
        ),
    ];
    for (what, files, serial) in cases {
        assert_eq!(&s.after(&files).unwrap(), serial, "{what}");
    }
    let parted = s
        .after(&[("key.pem", new_key), ("svid.pem", old_svid)])
        .unwrap_err();
    assert!(parted.to_string().contains("another key"), "{parted}");
}

#[tokio::test]
async fn a_first_login_that_was_cut_off_is_no_identity() {
    let s = Scene::set().await;
    for files in [vec![], vec![("key.pem.new", s.new_key.as_slice())]] {
        let error = s.after(&files).unwrap_err();
        assert!(matches!(error, Error::NoIdentity { .. }), "{error:?}");
    }
    let nowhere = IdentityDirectory::new(s.fake.dir.path().join("nowhere"));
    assert!(matches!(
        nowhere.leaf().unwrap_err(),
        Error::NoIdentity { .. }
    ));
}

#[tokio::test]
async fn written_files_are_for_the_owner_only() {
    let fake = Fake::start().await;
    drop(fake.client().await);
    let directory = fake.identity();
    assert_eq!(mode(&directory), 0o700);
    for name in FILES.into_iter().chain(["renew.lock"]) {
        assert_eq!(mode(&directory.join(name)), 0o600, "{name}");
    }
    assert_eq!(
        fs::read_dir(&directory).unwrap().count(),
        FILES.len() + 1,
        "nothing else is left but `renew.lock`"
    );
    let identity = IdentityDirectory::new(&directory);
    assert!(identity.permission_findings().is_empty());

    fs::set_permissions(directory.join("key.pem"), fs::Permissions::from_mode(0o640)).unwrap();
    let refusal = identity.leaf().unwrap_err().to_string();
    assert!(refusal.contains("chmod 600"), "{refusal}");
    assert_eq!(identity.permission_findings().len(), 1);
}

const FILES: [&str; 5] = [
    "key.pem",
    "svid.pem",
    "bundle.pem",
    "ledger.vkey",
    "ledger.checkpoint",
];

/// What the library says of a directory with this file in it. A library that waits fails the test.
async fn judged(directory: &Path, name: &str) -> String {
    let (identity, name) = (IdentityDirectory::new(directory), name.to_owned());
    let reading = tokio::task::spawn_blocking(move || match name.as_str() {
        "ledger.vkey" => identity.ledger_vkey().map(|_| ()),
        "ledger.checkpoint" => identity.pinned().map(|_| ()),
        _ => identity.leaf().map(|_| ()),
    });
    let read = tokio::time::timeout(Duration::from_secs(10), reading).await;
    let refused = read.expect("reading waits").unwrap().unwrap_err();
    assert!(matches!(refused, Error::IdentityFile { .. }), "{refused:?}");
    refused.to_string()
}

#[tokio::test]
async fn a_link_a_pipe_and_a_directory_are_not_read() {
    let fake = Fake::start().await;
    drop(fake.client().await);
    let directory = fake.identity();
    let elsewhere = fake.dir.path().join("elsewhere");
    for name in FILES {
        let path = directory.join(name);
        fs::rename(&path, &elsewhere).unwrap();
        let advice = format!("run `mv {0} {0}.old`", path.display());

        symlink(&elsewhere, &path).unwrap();
        let said = judged(&directory, name).await;
        assert!(
            said.contains("it is a symbolic link; ") && said.contains(&advice),
            "{said}"
        );
        fs::remove_file(&path).unwrap();

        let made = Command::new("mkfifo").arg(&path).status().unwrap();
        assert!(made.success());
        let said = judged(&directory, name).await;
        assert!(
            said.contains("it is no regular file; ") && said.contains(&advice),
            "{said}"
        );
        fs::remove_file(&path).unwrap();

        fs::create_dir(&path).unwrap();
        let said = judged(&directory, name).await;
        assert!(said.contains("it is no regular file; "), "{said}");
        fs::remove_dir(&path).unwrap();

        fs::rename(&elsewhere, &path).unwrap();
    }
    // What a crash left is judged the same.
    let staged = directory.join("key.pem.new");
    let made = Command::new("mkfifo").arg(&staged).status().unwrap();
    assert!(made.success());
    let said = judged(&directory, "key.pem").await;
    assert!(
        said.contains("key.pem.new` cannot be used: it is no regular file"),
        "{said}"
    );
    fs::remove_file(&staged).unwrap();
    IdentityDirectory::new(&directory).leaf().unwrap();
}

/// The content may be another user's, although the file is this user's.
#[tokio::test]
async fn a_file_that_others_can_write_is_not_read() {
    let fake = Fake::start().await;
    drop(fake.client().await);
    let directory = fake.identity();
    for name in FILES {
        let path = directory.join(name);
        for mode in [0o620, 0o602] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let said = judged(&directory, name).await;
            assert!(said.contains("others may write it"), "{said}");
            assert!(
                said.contains(&format!("`chmod go-w {}`", path.display())),
                "{said}"
            );
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    }
    IdentityDirectory::new(&directory).leaf().unwrap();
}

#[tokio::test]
async fn a_file_of_another_user_is_not_read() {
    let fake = Fake::start().await;
    drop(fake.client().await);
    let directory = fake.identity();
    for name in FILES {
        let path = directory.join(name);
        let me = fs::metadata(&path).unwrap().uid();
        // Only root can give a file away; for others the rule has a test beside it.
        if chown(&path, Some(me + 1), None).is_err() {
            return;
        }
        let said = judged(&directory, name).await;
        assert!(
            said.contains(&format!("it belongs to user {}", me + 1)),
            "{said}"
        );
        assert!(
            said.contains(&format!("`chown -h {me} {}`", path.display())),
            "{said}"
        );
        chown(&path, Some(me), None).unwrap();
    }
    IdentityDirectory::new(&directory).leaf().unwrap();
}
