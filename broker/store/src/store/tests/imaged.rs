//! Starts from an image of the live records: faster, and never with other records.

use std::{fs, path::PathBuf, sync::Arc, time::Duration};

use super::{
    Batch, CommitError, Fixture, SeededEntropy, SigningKey, Store, agent_name, crash::copy,
    furnish, intended, issued, new_task, revoked, revoking, started, svid, svid_activated,
    svid_issued, task_id,
};
use crate::{
    image::ImageKey,
    imager::{self, Imager, Source},
    testing::{agent, initialized},
};

/// More records than an image needs.
const MANY: u64 = 1200;

/// A furnished store with many live credentials.
async fn filled() -> Fixture {
    let fixture = Fixture::new().await;
    furnish(&fixture).await;
    fixture.all([started(new_task(5, 2))]).await;
    let credentials = 100..100 + MANY;
    fixture
        .all(credentials.flat_map(|n| [intended(n, 5, 2), issued(n)]))
        .await;
    fixture
}

impl Fixture {
    fn image(&self) -> PathBuf {
        self.dir.path().join(imager::FILE)
    }

    async fn close(&mut self) {
        self.store().close().await.unwrap();
        self.store = None;
    }

    /// Opens the store without its image, so that the seal of the index is compared.
    async fn assert_sealed(&mut self) {
        self.close().await;
        fs::remove_file(self.image()).unwrap();
        let report = self.open().index;
        assert_eq!((report.from_image, report.rebuilt), (false, None));
    }
}

#[tokio::test]
async fn a_start_from_an_image_has_the_records_of_the_index() {
    let mut fixture = filled().await;
    let before = fixture.everything(6).await;
    let report = fixture.reopen().await.index;
    assert!(report.from_image);
    assert_eq!((report.rebuilt, report.replayed), (None, 0));
    assert_eq!(fixture.everything(6).await, before);
    let again = Batch::new([started(new_task(4, 1))]);
    let again = fixture.store().commit(again).await;
    assert!(matches!(again, Err(CommitError::Conflict(_))));

    // The seal of the index goes on, although no start has read its records.
    fixture.all([revoking(100), revoked(100)]).await;
    fixture.reopen().await;
    fixture.all([intended(2000, 5, 2)]).await;
    let before = fixture.everything(6).await;
    fixture.assert_sealed().await;
    assert_eq!(fixture.everything(6).await, before);
}

#[tokio::test]
async fn an_older_image_is_brought_up_to_the_index() {
    let mut fixture = filled().await;
    fixture.close().await;
    let old = fs::read(fixture.image()).unwrap();
    fixture.open();
    // More than one reading of the log, so that the index stands within one.
    for n in 0..300 {
        fixture.all([revoking(100 + n), revoked(100 + n)]).await;
        fixture.all([intended(3000 + n, 5, 2)]).await;
    }
    let before = fixture.everything(6).await;
    fixture.close().await;
    fs::write(fixture.image(), old).unwrap();
    let report = fixture.open().index;
    assert!(report.from_image);
    assert_eq!((report.rebuilt, report.replayed), (None, 0));
    assert_eq!(fixture.everything(6).await, before);
    fixture.all([issued(3000)]).await;
    let before = fixture.everything(6).await;
    fixture.assert_sealed().await;
    assert_eq!(fixture.everything(6).await, before);
}

#[tokio::test]
async fn an_image_ahead_of_the_index_or_far_behind_it_is_not_used() {
    let mut fixture = filled().await;
    let index = fixture.dir.path().join("index");
    let kept = tempfile::tempdir().unwrap();
    fixture.close().await;
    copy(&index, &kept.path().join("index"));
    fixture.open();
    fixture.all([revoking(100), revoked(100)]).await;
    let before = fixture.everything(6).await;
    fixture.close().await;
    fs::remove_dir_all(&index).unwrap();
    copy(&kept.path().join("index"), &index);
    let report = fixture.open().index;
    assert_eq!((report.from_image, report.replayed), (false, 2));
    assert_eq!(fixture.everything(6).await, before);
}

#[tokio::test]
async fn an_image_that_another_program_changed_is_not_used() {
    let mut fixture = filled().await;
    let before = fixture.everything(6).await;
    fixture.close().await;
    let good = fs::read(fixture.image()).unwrap();
    let header = b"taskpass image v1\n".len();
    let mut wrong: Vec<Vec<u8>> = [
        0,
        header,
        header + 31,
        header + 35,
        header + 36,
        header + 43,
        good.len() / 2,
        good.len() - 1,
    ]
    .map(|place| {
        let mut changed = good.clone();
        changed[place] ^= 1;
        changed
    })
    .into();
    wrong.push(good[..good.len() - 1].to_vec());
    wrong.push(good[..good.len() / 2].to_vec());
    wrong.push(good[..header + 2].to_vec());
    wrong.push(Vec::new());
    let mut count = good.clone();
    count[header + 32..header + 36].fill(0xff);
    wrong.push(count);
    let mut longer = good.clone();
    longer.push(0);
    wrong.push(longer);
    // One part fewer, with a header that says so.
    let parts = u32::from_be_bytes(good[header + 32..header + 36].try_into().unwrap());
    let lengths = header + 36..header + 36 + 4 * usize::try_from(parts).unwrap();
    let mut fewer = good[..header + 32].to_vec();
    fewer.extend((parts - 1).to_be_bytes());
    fewer.extend(&good[lengths.start..lengths.end - 4]);
    fewer.extend(&good[lengths.end..]);
    wrong.push(fewer);
    for (number, wrong) in wrong.into_iter().enumerate() {
        fs::write(fixture.image(), wrong).unwrap();
        let report = fixture.open().index;
        assert_eq!(
            (report.from_image, report.rebuilt),
            (false, None),
            "{number}"
        );
        assert!(!fixture.image().exists(), "{number}: it was not used");
        assert_eq!(fixture.everything(6).await, before, "{number}");
        fixture.close().await;
    }
    fs::write(fixture.image(), good).unwrap();
    assert!(fixture.open().index.from_image);
}

/// The image may have forgotten records by a clock that was wrong, or by the rules of another
/// release. An index that is built anew has them again.
#[tokio::test]
async fn an_image_of_an_index_that_was_built_anew_since_is_not_used() {
    let mut fixture = filled().await;
    fixture.close().await;
    let old = fs::read(fixture.image()).unwrap();
    fs::remove_dir_all(fixture.dir.path().join("index")).unwrap();
    let report = fixture.open().index;
    assert_eq!((report.from_image, report.rebuilt.is_some()), (false, true));
    let removed = !fixture.image().exists();
    assert!(removed, "a kill leaves no image of another index");
    let before = fixture.everything(6).await;
    fixture.close().await;
    fs::write(fixture.image(), old).unwrap();
    let report = fixture.open().index;
    assert_eq!((report.from_image, report.rebuilt), (false, None));
    assert_eq!(fixture.everything(6).await, before);
    assert!(fixture.reopen().await.index.from_image);
}

/// Hides a row while no broker runs, and returns it.
fn hide(fixture: &Fixture, key: &[u8]) -> Vec<u8> {
    let index = sled::open(fixture.dir.path().join("index")).unwrap();
    let row = index.remove(key).unwrap().unwrap().to_vec();
    index.flush().unwrap();
    row
}

#[tokio::test]
async fn a_row_that_was_hidden_is_noticed_although_the_start_does_not_read_it() {
    let mut fixture = filled().await;
    fixture.all([svid_issued(svid("s7", 2, None))]).await;
    fixture.close().await;
    hide(&fixture, b"s/s7");
    assert!(fixture.open().index.from_image);
    // The broker has it all the same, and ends so that the next start builds the index again.
    assert!(fixture.store().svid("s7").await.unwrap().is_some());
    fixture.store().broken().await;
    fixture.close().await;
    assert!(!fixture.image().exists());
    let report = fixture.open().index;
    assert!(!report.from_image && report.moved_to.is_some());
    assert!(fixture.store().svid("s7").await.unwrap().is_some());
}

/// The thread of the index ends although it found the difference while the store closed.
#[tokio::test]
async fn a_store_with_a_hidden_row_can_be_closed_at_once() {
    let mut fixture = filled().await;
    fixture.close().await;
    hide(&fixture, format!("a/{}", agent_name(2)).as_bytes());
    fixture.open();
    fixture.all([intended(4000, 5, 2)]).await;
    let closing = fixture.store().close();
    let closed = tokio::time::timeout(Duration::from_secs(20), closing).await;
    closed.expect("it closes").unwrap();
    fixture.store = None;
    assert!(!fixture.image().exists());
}

#[tokio::test]
async fn a_row_that_was_hidden_cannot_be_put_back_after_its_end() {
    let mut fixture = filled().await;
    fixture.all([svid_issued(svid("s7", 2, None))]).await;
    fixture.close().await;
    let row = hide(&fixture, b"s/s7");
    fixture.open();
    fixture
        .all([svid_issued(svid("s8", 2, None)), svid_activated("s8")])
        .await;
    assert!(fixture.store().svid("s7").await.unwrap().is_none());
    fixture.store().broken().await;
    fixture.close().await;
    let index = sled::open(fixture.dir.path().join("index")).unwrap();
    index.insert(b"s/s7", row).unwrap();
    index.flush().unwrap();
    drop(index);
    fs::remove_file(fixture.image()).ok();
    fixture.open();
    assert!(fixture.store().svid("s7").await.unwrap().is_none());
}

/// A kill leaves entries that the index has not seen. The start writes them, so it compares the
/// rows before.
#[tokio::test]
async fn a_hidden_row_is_noticed_before_the_start_writes_anything() {
    let mut fixture = filled().await;
    fixture.close().await;
    let kept = tempfile::tempdir().unwrap();
    let index = fixture.dir.path().join("index");
    let image = fs::read(fixture.image()).unwrap();
    copy(&index, &kept.path().join("index"));
    fixture.open();
    fixture.all([revoking(100), revoked(100)]).await;
    let before = fixture.everything(6).await;
    fixture.close().await;
    for hidden in [false, true] {
        fs::remove_dir_all(&index).unwrap();
        copy(&kept.path().join("index"), &index);
        fs::write(fixture.image(), &image).unwrap();
        if hidden {
            hide(&fixture, format!("a/{}", agent_name(2)).as_bytes());
        }
        let report = fixture.open().index;
        assert_eq!(report.from_image, !hidden);
        assert_eq!(report.moved_to.is_some(), hidden);
        fixture.close().await;
    }
    fixture.open();
    let agents = |everything: String| everything.matches("agent-2").count();
    assert_eq!(agents(fixture.everything(6).await), agents(before));
}

#[tokio::test]
async fn an_image_of_another_ledger_is_not_used() {
    let mut fixture = filled().await;
    fixture.close().await;
    let mut other = Fixture::empty();
    let file = other.dir.path().join("ledger.key");
    SigningKey::generate("taskpass/acme.test", &file, &SeededEntropy::new(2)).unwrap();
    other.open();
    other.all([initialized(), agent(1)]).await;
    other.close().await;
    fs::copy(fixture.image(), other.image()).unwrap();
    assert!(!other.open().index.from_image);
    assert!(other.store().task(task_id(5)).await.unwrap().is_none());
}

#[tokio::test]
async fn few_records_need_no_image_and_an_old_one_goes() {
    let mut fixture = Fixture::new().await;
    furnish(&fixture).await;
    fs::write(fixture.image(), b"left over").unwrap();
    fixture.reopen().await;
    fixture.close().await;
    assert!(!fixture.image().exists());
}

#[tokio::test]
async fn images_are_made_while_the_store_is_open() {
    let fixture = filled().await;
    let source = |path: PathBuf| Source {
        path,
        key: ImageKey::new(&super::key_in(fixture.dir.path()).derive("taskpass image v1")),
        origin: "taskpass/acme.test".to_owned(),
        index: Arc::clone(&fixture.store().index),
        shared: Arc::clone(&fixture.store().shared),
        entries: Arc::clone(&fixture.store().entries),
    };
    let path = fixture.dir.path().join("made");
    let mut imager = Imager::new(source(path.clone()), 100);
    imager.make_when_due(100 + imager::EVERY_ENTRIES - 1);
    imager.wait();
    assert!(!path.exists());
    imager.make_when_due(100 + imager::EVERY_ENTRIES);
    imager.wait();
    let size = fixture.store().size();
    let opened = crate::image::Image::open(&path, &source(path.clone()).key);
    assert_eq!(opened.unwrap().unwrap().standing().position, size);
    // The next one is due that much later.
    fs::remove_file(&path).unwrap();
    imager.make_when_due(size + imager::EVERY_ENTRIES - 1);
    imager.wait();
    assert!(!path.exists());
}
