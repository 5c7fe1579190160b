use std::{fs, time::Duration};

use taskpass_ca::KeyFiles;
use taskpass_engine::reconcile::{Reconciler as _, Round};
use taskpass_ledger::{disk::SystemDisk, verify::Directory};

use super::*;
use crate::{
    app,
    config::Archive,
    fixture::{BEGIN, Installation},
    provider_kinds,
};

const DAY: Duration = Duration::from_secs(86_400);

impl Installation {
    /// An installation with a ledger of small segments.
    fn of_small_segments() -> Self {
        let mut this = Self::new();
        this.config.ledger.segment_bytes = 4096;
        this
    }

    fn archive(&self) -> PathBuf {
        self.beside("archive")
    }

    /// Records something on each of some days, one segment for about each.
    async fn live(&self, days: u32) {
        let opened = self.open().await;
        for _ in 0..days {
            for _ in 0..8 {
                let event = Event::IndexRebuilt {
                    reason: "x".repeat(500),
                };
                opened.store.commit(Batch::new([event])).await.unwrap();
            }
            self.clock.advance(DAY);
        }
        opened.store.close().await.unwrap();
    }

    async fn run(&self, before: Timestamp, to: PathBuf) -> Result<Archived, String> {
        let request = Request {
            config: self.config.clone(),
            before,
            to,
            user: self.user(),
        };
        let archived = super::archive(request, &self.deps, &mut |_| ()).await;
        archived.map_err(|error| with_sources(&error))
    }

    /// All entries that this machine and the archive have, as an auditor counts them.
    fn verified(&self) -> u64 {
        let key = fs::read_to_string(self.archive().join("ledger.vkey")).unwrap();
        let key = key.trim().parse().unwrap();
        let (ledger, archives) = (self.config.ledger_dir(), [self.archive()]);
        let directory = Directory {
            ledger: &ledger,
            archives: &archives,
        };
        let found = directory.verify(&key, None, &mut |_| ()).unwrap();
        found.entries + found.unsigned
    }
}

#[tokio::test]
async fn the_command_moves_old_segments_and_the_ledger_says_so_before_they_go() {
    let installation = Installation::of_small_segments();
    installation.live(10).await;
    let now = installation.clock.now();
    let archived = installation
        .run(now.minus(5 * DAY), installation.archive())
        .await;
    let archived = archived.unwrap();
    assert!(archived.entries > 20, "{archived:?}");
    let opened = installation.open().await;
    let entry = |index| Entry::parse(&opened.ledger.entry(index).unwrap()).unwrap();
    let recorded = entry(archived.ledger_index.unwrap()).event;
    let Event::LedgerArchived {
        first,
        next,
        root,
        segments,
        user,
        ..
    } = recorded
    else {
        panic!("{recorded:?}");
    };
    assert_eq!((first, next), (0, archived.kept_from));
    assert_eq!(Some(root), archived.root);
    assert_eq!(segments, archived.segments);
    assert!(user.is_some());
    // Whole segments only: the first entry that stays is no younger than the time that was named.
    assert!(entry(archived.kept_from).time <= now.minus(5 * DAY));
    assert_eq!(opened.ledger.first(), archived.kept_from);
    opened.store.close().await.unwrap();
    drop(opened);
    assert!(installation.verified() > 80);
    // Nothing is left to do, and the second run records nothing.
    let again = installation
        .run(now.minus(5 * DAY), installation.archive())
        .await;
    let again = again.unwrap();
    assert_eq!((again.entries, again.ledger_index), (0, None));
    assert_eq!(again.kept_from, archived.kept_from);
}

#[tokio::test]
async fn what_cannot_be_archived_is_refused_in_one_line() {
    let installation = Installation::of_small_segments();
    installation.live(4).await;
    let now = installation.clock.now();
    let data = installation.config.data_dir.clone();
    fs::write(installation.beside("file"), "").unwrap();
    for (before, to, words) in [
        (now.plus(DAY), installation.archive(), "is in the future"),
        (now, data.clone(), "own place"),
        (now, data.join("ledger/old"), "own place"),
        (now, installation.beside("file"), "cannot"),
    ] {
        let refused = installation.run(before, to.clone()).await.unwrap_err();
        assert!(refused.contains(words), "{to:?}: {refused}");
        assert!(!refused.contains('\n'), "{refused}");
    }
    for order in [
        "",
        "{}",
        "[]",
        r#"{"before":"x","to":"/a"}"#,
        r#"{"to":"/a"}"#,
    ] {
        assert!(serde_json::from_str::<Order>(order).is_err(), "{order}");
    }
}

#[tokio::test]
async fn a_lost_index_is_built_again_from_archive_and_rest() {
    let installation = Installation::of_small_segments();
    installation.live(10).await;
    let now = installation.clock.now();
    let archived = installation
        .run(now.minus(2 * DAY), installation.archive())
        .await;
    archived.unwrap();
    let index = installation.config.data_dir.join("index");
    // The index is intact: the archive may be anywhere.
    let opened = installation.open().await;
    let agents = opened.store.agent_counts();
    opened.store.close().await.unwrap();
    drop(opened);
    fs::remove_dir_all(&index).unwrap();
    let disk = Arc::new(SystemDisk);
    let (config, deps) = (&installation.config, &installation.deps);
    let refused = app::open_store(config, deps, disk, &KeyFiles::plain()).await;
    let refused = with_sources(&refused.err().unwrap());
    assert!(refused.contains("[ledger] archive"), "{refused}");
    assert!(!index.exists(), "nothing is begun that cannot be completed");
    let mut told = installation;
    told.config.ledger.archive = Archive::In(told.archive());
    let opened = told.open().await;
    assert_eq!(opened.store.agent_counts(), agents);
    assert_eq!(opened.ledger.first_readable(), 0);
    opened.ledger.entry(0).unwrap();
    opened.store.close().await.unwrap();
}

#[tokio::test]
async fn the_broker_keeps_the_limit_by_itself_and_says_why_it_does_not() {
    let installation = Installation::of_small_segments();
    installation.live(10).await;
    let opened = installation.open().await;
    let clock: Arc<dyn Clock> = installation.clock.clone();
    let ledger = opened.ledger.clone();
    let archiving = Archiving::new(
        Arc::clone(&opened.store),
        ledger.clone(),
        opened.archiver,
        Arc::clone(&clock),
        TaskTracker::new(),
    );
    let archiving = Arc::new(archiving);
    let mut limit = KeepLimit::new(
        Arc::clone(&archiving),
        clock,
        4 * DAY,
        installation.archive(),
    );
    // The archive is not mounted. The broker makes no directory in its place.
    let Round::Failed { message, .. } = limit.round().await else {
        panic!("the archive is missing");
    };
    assert!(message.contains("cannot be written"), "{message}");
    assert!(!installation.archive().exists());
    assert_eq!(ledger.first(), 0);
    // The place of the volume is there, and no person has begun an archive in it.
    fs::create_dir(installation.archive()).unwrap();
    let refused = |round: Round| match round {
        Round::Failed { message, .. } => message,
        Round::Done(_) => panic!("there is no archive"),
    };
    let message = refused(limit.round().await);
    assert!(
        message.contains("has no archive of this ledger"),
        "{message}"
    );
    assert_eq!(ledger.first(), 0);
    let order = |to| Order {
        before: BEGIN.minus(DAY),
        to,
    };
    let told = || watch::channel(Progress::default()).0;
    let begin = Arc::clone(&archiving).archive(order(installation.archive()), Some(1), told());
    let begun = begin.await.unwrap();
    assert!(begun.begun && begun.entries == 0, "{begun:?}");
    assert!(begun.to_string().contains("one begins there now"));
    assert!(matches!(limit.round().await, Round::Done(_)));
    let kept = ledger.first();
    assert!(kept > 20);
    let entry = Entry::parse(&ledger.entry(kept).unwrap()).unwrap();
    assert!(entry.time <= installation.clock.now().minus(4 * DAY));
    assert!(matches!(limit.round().await, Round::Done(_)));
    assert_eq!(ledger.first(), kept);
    // The volume is away, and its empty place is left.
    let volume = installation.archive().with_file_name("volume");
    fs::rename(installation.archive(), &volume).unwrap();
    fs::create_dir(installation.archive()).unwrap();
    installation.clock.advance(3 * DAY);
    let message = refused(limit.round().await);
    assert!(message.contains("mount its volume"), "{message}");
    assert_eq!(fs::read_dir(installation.archive()).unwrap().count(), 0);
    assert_eq!(ledger.first(), kept);
    fs::remove_dir(installation.archive()).unwrap();
    fs::rename(&volume, installation.archive()).unwrap();
    assert!(matches!(limit.round().await, Round::Done(_)));
    assert!(ledger.first() > kept);
    drop((limit, archiving));
    opened.store.close().await.unwrap();
}

#[tokio::test]
async fn doctor_names_an_archive_that_is_missing_not_begun_or_beside_the_ledger() {
    let installation = Installation::of_small_segments();
    let (path, archive) = (&installation.config.path, installation.archive());
    let table = format!("\n[ledger]\narchive = \"{}\"\n", archive.display());
    installation.edit(|text| text.to_owned() + &table);
    let begun = archive.join("ledger.vkey");
    for words in ["is not there", "has no archive", "on the same file system"] {
        let kinds = provider_kinds();
        let diagnosis = crate::doctor::diagnose(path, &kinds, &installation.deps, |_| Vec::new());
        let findings = diagnosis.await.findings;
        let found = findings.iter().find(|it| it.check == "archive").unwrap();
        assert!(found.message.contains(words), "{found:?}");
        match archive.exists() {
            false => fs::create_dir(&archive).unwrap(),
            true => fs::write(&begun, "key").unwrap(),
        }
    }
}
