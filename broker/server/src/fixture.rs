//! An installation in a temporary directory, for the tests of this crate. A module of tests adds
//! the methods that only it needs.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use taskpass_ca::{Authority, KeyFiles};
use taskpass_core::{Clock, Event, ManualClock, SeededEntropy, Timestamp};
use taskpass_ledger::disk::SystemDisk;
use taskpass_store::{Entry, Store as _};

use crate::{
    app::{self, Deps, OpenStore},
    config::Config,
    init::{Plan, install},
    provider_kinds,
};

/// The time at which [`Installation::new`] begins.
pub(crate) const BEGIN: Timestamp = Timestamp::from_millis(1_800_000_000_000);

/// The plan of an installation in `dir`.
pub(crate) fn plan(dir: &Path) -> Plan {
    Plan {
        dir: dir.to_owned(),
        trust_domain: "acme.test".parse().unwrap(),
        operator: "admin".parse().unwrap(),
    }
}

/// An installation with its keys in plain text, and the clock and entropy of the tests.
pub(crate) struct Installation<C = ManualClock> {
    scratch: tempfile::TempDir,
    pub(crate) clock: Arc<C>,
    pub(crate) deps: Deps,
    pub(crate) config: Config,
}

impl Installation {
    pub(crate) fn new() -> Self {
        Self::on(ManualClock::new(BEGIN))
    }
}

impl<C: Clock + 'static> Installation<C> {
    pub(crate) fn on(clock: C) -> Self {
        let scratch = tempfile::tempdir().unwrap();
        let clock = Arc::new(clock);
        let deps = Deps {
            clock: Arc::<C>::clone(&clock),
            entropy: Arc::new(SeededEntropy::new(3)),
            credentials: None,
        };
        let plan = plan(&scratch.path().join("t"));
        let installed = install(plan, &provider_kinds(), &deps.clock, &deps.entropy).unwrap();
        let mut this = Self {
            scratch,
            clock,
            deps,
            config: installed.config().clone(),
        };
        // Tests run in parallel, and other programs listen on this machine, too.
        this.edit(|text| text.replace("127.0.0.1:7443", "127.0.0.1:0"));
        this.config = Config::load(&this.config.path, &provider_kinds()).unwrap();
        this
    }

    /// A path in the installation.
    pub(crate) fn path(&self, below: &str) -> PathBuf {
        self.beside("t").join(below)
    }

    /// A path beside the installation.
    pub(crate) fn beside(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    /// Changes the file of the configuration; `config` stays as it was.
    pub(crate) fn edit(&self, change: impl FnOnce(&str) -> String) {
        let text = fs::read_to_string(&self.config.path).unwrap();
        fs::write(&self.config.path, change(&text)).unwrap();
    }

    /// The user that owns the data.
    pub(crate) fn user(&self) -> u32 {
        fs::metadata(&self.config.data_dir).unwrap().uid()
    }

    pub(crate) async fn open(&self) -> OpenStore {
        let (disk, keys) = (Arc::new(SystemDisk), KeyFiles::plain());
        let opened = app::open_store(&self.config, &self.deps, disk, &keys);
        opened.await.unwrap()
    }

    pub(crate) fn authority(&self) -> Arc<Authority> {
        app::open_authority(&self.config, &self.deps, &KeyFiles::plain()).unwrap()
    }

    /// Every event, in the order of the ledger.
    pub(crate) async fn events(&self) -> Vec<Event> {
        let opened = self.open().await;
        let event = |i| {
            let entry = opened.ledger.entry(i).unwrap();
            Entry::parse(&entry).unwrap().event
        };
        let events = (0..opened.ledger.size()).map(event).collect();
        opened.store.close().await.unwrap();
        events
    }

    /// Whether the store has an SVID with this serial that counts.
    pub(crate) async fn counts(&self, serial: &str) -> bool {
        let store = self.open().await.store;
        let found = store.svid(serial).await.unwrap().is_some();
        store.close().await.unwrap();
        found
    }
}
