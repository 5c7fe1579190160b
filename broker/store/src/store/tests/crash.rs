//! Crashes and damage to the files: every acknowledged entry is there again.

use std::{fs, path::Path};

use super::{
    Batch, Fixture, Opened, Store, ended, ending, everything, furnish, intended, issued, new_task,
    revoked, started,
};

pub(super) fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else if let Err(e) = fs::copy(entry.path(), &target) {
            // A file that went away between listing and copying was never part of a consistent
            // state.
            assert_eq!(e.kind(), std::io::ErrorKind::NotFound);
        }
    }
}

/// The directory as a crash would leave it, at many points; nothing acknowledged before may be
/// missing.
#[tokio::test]
async fn copies_taken_at_any_time_open_with_everything_acknowledged() {
    let fixture = Fixture::new().await;
    let crashes = tempfile::tempdir().unwrap();
    let mut flushed = 0;
    for round in 0..12_u64 {
        let (task, credential) = (round, round * 2);
        let mut events = vec![
            started(new_task(task, 1)),
            intended(credential, task, 1),
            issued(credential),
        ];
        if round % 3 == 0 {
            events.extend([ending(task), revoked(credential), ended(task)]);
        }
        fixture.all(events).await;
        // These reads of history wait for the index, so that no write to it is under way while the
        // files are copied.
        let before = fixture.everything(12).await;
        let size = fixture.ledger().size();
        if round % 4 == 1 {
            // So that some copies have an index that is ahead of others.
            fixture.store().index.flush().unwrap();
            flushed = size;
        }
        let dir = crashes.path().join(round.to_string());
        copy(fixture.dir.path(), &dir);
        let Opened { store, report, .. } = fixture.try_open(&dir).unwrap();
        // A crash harms no index that was whole: the store keeps it, and replays only the entries
        // that it had not flushed.
        assert_eq!(report.index.rebuilt, None, "round {round}");
        assert!(
            report.index.replayed <= size - flushed,
            "round {round}: {:?}",
            report.index
        );
        let state = store.shared.state.read().clone();
        assert_eq!(state.next(), size, "round {round}");
        assert_eq!(state, *fixture.store().shared.state.read());
        let lines =
            |text: &str| -> Vec<String> { text.lines().skip(1).map(str::to_owned).collect() };
        assert_eq!(
            lines(&everything(&store, 12).await),
            lines(&before),
            "round {round}"
        );
    }
}

/// Damages the index of a furnished store and returns why it was built again, if it was.
async fn after(damage: impl FnOnce(&Path)) -> Option<String> {
    let mut fixture = Fixture::new().await;
    furnish(&fixture).await;
    let before = fixture.everything(6).await;
    let state = fixture.store().shared.state.read().clone();
    fixture.store().close().await.unwrap();
    fixture.store = None;
    damage(&fixture.dir.path().join("index"));
    let report = fixture.open();
    let (size, rebuilt) = (state.next(), report.index.rebuilt.clone());
    // The entry about the rebuilding is the only difference.
    let store = fixture.store();
    assert_eq!(
        store.shared.state.read().next(),
        size + u64::from(rebuilt.is_some())
    );
    let now = fixture.everything(6).await;
    let lines = |text: &str| -> Vec<String> { text.lines().skip(1).map(str::to_owned).collect() };
    assert_eq!(lines(&now), lines(&before));
    if rebuilt.is_some() {
        assert_eq!(report.index.replayed, size);
        let last = fixture.ledger().entry(size).unwrap();
        assert!(String::from_utf8(last).unwrap().contains("index_rebuilt"));
    }
    // And it works on.
    store
        .commit(Batch::new([started(new_task(5, 1))]))
        .await
        .unwrap();
    let report = fixture.reopen().await;
    assert_eq!(report.index.rebuilt, None);
    rebuilt
}

#[tokio::test]
async fn a_sound_index_is_kept() {
    assert_eq!(after(|_| ()).await, None);
}

#[tokio::test]
async fn a_missing_index_is_built_again() {
    let reason = after(|index| fs::remove_dir_all(index).unwrap()).await;
    assert_eq!(reason.unwrap(), "it was missing");
}

#[tokio::test]
async fn an_emptied_index_is_built_again() {
    let empty = |index: &Path| {
        fs::remove_dir_all(index).unwrap();
        fs::create_dir(index).unwrap();
    };
    assert_eq!(after(empty).await.unwrap(), "it is empty");
}

#[tokio::test]
async fn an_index_of_garbage_is_built_again() {
    for (file, garbage) in [
        ("db", vec![0xa5; 70_000]),
        ("conf", b"what is this\n".to_vec()),
    ] {
        let reason = after(|index| fs::write(index.join(file), garbage).unwrap()).await;
        assert!(reason.is_some(), "{file}");
    }
}

#[tokio::test]
async fn a_file_in_place_of_the_index_is_moved_aside() {
    let replace = |index: &Path| {
        fs::remove_dir_all(index).unwrap();
        fs::write(index, b"not a directory").unwrap();
    };
    assert!(after(replace).await.is_some());
}

/// sled drops the part that it cannot read, and opens. The index then either is behind and catches
/// up, or does not fit the log and is built again.
#[tokio::test]
async fn a_truncated_index_loses_nothing() {
    for keep in [0, 100, 5_000] {
        let cut = |index: &Path| {
            let file = fs::OpenOptions::new()
                .write(true)
                .open(index.join("db"))
                .unwrap();
            file.set_len(keep).unwrap();
        };
        after(cut).await;
    }
}

/// The ledger was restored from an older backup; the index was not.
#[tokio::test]
async fn an_index_from_the_future_is_built_again() {
    let mut fixture = Fixture::new().await;
    furnish(&fixture).await;
    fixture.store().close().await.unwrap();
    fixture.store = None;
    let backup = tempfile::tempdir().unwrap();
    copy(&fixture.dir.path().join("ledger"), backup.path());
    fixture.open();
    fixture.all([started(new_task(7, 1))]).await;
    fixture.store().close().await.unwrap();
    fixture.store = None;
    fs::remove_dir_all(fixture.dir.path().join("ledger")).unwrap();
    copy(backup.path(), &fixture.dir.path().join("ledger"));
    let report = fixture.open();
    assert!(
        report
            .index
            .rebuilt
            .unwrap()
            .contains("entries and the ledger has")
    );
    assert!(report.index.moved_to.unwrap().ends_with("index.damaged-1"));
    assert_eq!(
        fixture
            .store()
            .task(crate::testing::task_id(7))
            .await
            .unwrap(),
        None
    );
    // Another history of the same length is noticed as well.
    fixture.all([started(new_task(8, 1))]).await;
    fixture.store().close().await.unwrap();
    fixture.store = None;
    fs::remove_dir_all(fixture.dir.path().join("ledger")).unwrap();
    copy(backup.path(), &fixture.dir.path().join("ledger"));
    fs::rename(
        fixture.dir.path().join("index"),
        fixture.dir.path().join("kept"),
    )
    .unwrap();
    fixture.open();
    fixture.all([started(new_task(9, 1))]).await;
    fixture.store().close().await.unwrap();
    fixture.store = None;
    fs::remove_dir_all(fixture.dir.path().join("index")).unwrap();
    fs::rename(
        fixture.dir.path().join("kept"),
        fixture.dir.path().join("index"),
    )
    .unwrap();
    let report = fixture.open();
    assert_eq!(
        report.index.rebuilt.unwrap(),
        "its last entry is not the ledger's"
    );
    assert_eq!(
        fixture
            .store()
            .task(crate::testing::task_id(8))
            .await
            .unwrap(),
        None
    );
    assert!(
        fixture
            .store()
            .task(crate::testing::task_id(9))
            .await
            .unwrap()
            .is_some()
    );
}

#[tokio::test]
async fn an_index_of_another_layout_is_built_again() {
    let mut fixture = Fixture::new().await;
    furnish(&fixture).await;
    let top = crate::testing::task_id(1);
    let before = fixture.store().credentials_of_task(top).await.unwrap();
    assert!(!before.is_empty());
    fixture.store().close().await.unwrap();
    fixture.store = None;
    let index = sled::open(fixture.dir.path().join("index")).unwrap();
    let meta = index.get("m").unwrap().unwrap();
    let mut meta: serde_json::Value = serde_json::from_slice(&meta).unwrap();
    meta["format"] = 3.into();
    index.insert("m", meta.to_string().as_bytes()).unwrap();
    index.flush().unwrap();
    drop(index);
    let report = fixture.open();
    let reason = report.index.rebuilt.unwrap();
    assert!(reason.starts_with("it has format 3, not "), "{reason}");
    let after = fixture.store().credentials_of_task(top).await.unwrap();
    assert_eq!(after, before);
}
