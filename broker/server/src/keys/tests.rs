use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::PathBuf,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use async_trait::async_trait;
use serde_json::{Value, json};
use taskpass_core::{
    Clock as _, Event, ManualClock, Secret, SeededEntropy, Timestamp, with_sources,
};
use taskpass_engine::Timer;
use taskpass_files::power_cut::Fuse;
use taskpass_ledger::disk::SystemDisk;
use taskpass_provider::{BuildError, Finding, ProviderError, Seal, SealFactory, SealParts};

use super::{change::move_now, *};
use crate::{
    app,
    config::{Config, KeysConfig},
    fixture::Installation,
    provider_kinds,
};

/// A key service of the tests: it reads backwards, and may be away for some calls.
#[derive(Debug, Clone)]
struct Service {
    word: &'static str,
    away_for: Arc<AtomicUsize>,
    schema: Value,
}

impl Service {
    fn new(word: &'static str) -> Self {
        Self {
            word,
            away_for: Arc::default(),
            schema: json!({}),
        }
    }

    fn answer(&self) -> Result<(), ProviderError> {
        let left = |left: usize| left.checked_sub(1);
        let order = Ordering::SeqCst;
        match self.away_for.fetch_update(order, order, left) {
            Ok(_) => Err(ProviderError::retryable("no answer")),
            Err(_) => Ok(()),
        }
    }
}

impl SealFactory for Service {
    fn word(&self) -> &str {
        self.word
    }

    fn schema(&self) -> &Value {
        &self.schema
    }

    fn check(&self, _table: &Value) -> Vec<Finding> {
        Vec::new()
    }

    fn build(&self, _table: &Value, _parts: &SealParts) -> Result<Arc<dyn Seal>, BuildError> {
        Ok(Arc::new(self.clone()))
    }
}

#[async_trait]
impl Seal for Service {
    async fn wrap(&self, key: &Secret, context: &str) -> Result<String, ProviderError> {
        self.answer()?;
        let backwards: String = key.expose().chars().rev().collect();
        Ok(format!("{} {context} {backwards}", self.word))
    }

    async fn unwrap(&self, wrapped: &str, context: &str) -> Result<Secret, ProviderError> {
        self.answer()?;
        let rest = wrapped.strip_prefix(&format!("{} {context} ", self.word));
        let rest = rest.ok_or_else(|| ProviderError::Denied("wrapped elsewhere".to_owned()))?;
        Ok(Secret::new(rest.chars().rev().collect()))
    }
}

/// Lets the manual clock pass.
#[derive(Debug)]
struct Passing(Arc<ManualClock>);

#[async_trait]
impl Timer for Passing {
    async fn sleep(&self, span: Duration) {
        self.0.advance(span);
    }
}

impl Installation {
    /// The configuration with this service in `[keys]`.
    fn with(&self, service: &Service) -> Config {
        let keys = KeysConfig::of(Arc::new(service.clone()), self.config.data_dir.clone());
        let mut config = self.config.clone();
        config.keys = keys;
        config
    }

    async fn change(&self, config: &Config, change: Change) -> Result<Changed, Error> {
        let request = Request {
            config: config.clone(),
            change,
            user: self.user(),
        };
        super::change(request, &self.deps).await
    }

    /// The private keys as an installation in plain text has them.
    fn secrets(&self) -> Vec<String> {
        let data = &self.config.data_dir;
        let root = fs::read_to_string(data.join("ca/root.key")).unwrap();
        let body = root.lines().nth(1).unwrap().to_owned();
        let seed = fs::read_to_string(data.join("ledger.key")).unwrap();
        // The seed, which may have a plus itself, is after the name and the id.
        let seed = seed.trim().splitn(5, '+').nth(4).unwrap().to_owned();
        assert!(body.len() > 40 && seed.len() > 40);
        vec![
            body,
            seed,
            "BEGIN PRIVATE KEY".to_owned(),
            "PRIVATE+KEY".to_owned(),
        ]
    }

    /// Whether the authority and the ledger open, and are those of before.
    async fn opens(&self, config: &Config) {
        let keys = open(config, &self.deps).await.unwrap();
        let authority = app::open_authority(config, &self.deps, &keys).unwrap();
        authority.rotate().unwrap();
        let opened = app::open_store(config, &self.deps, Arc::new(SystemDisk), &keys);
        opened.await.unwrap().store.close().await.unwrap();
    }

    async fn refusal(&self, config: &Config) -> String {
        with_sources(&open(config, &self.deps).await.unwrap_err())
    }
}

/// Every file below `dir` that holds one of `secrets`.
fn holders(dir: &std::path::Path, secrets: &[String]) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(holders(&path, secrets));
            continue;
        }
        let content = fs::read(&path).unwrap();
        let holds = |secret: &String| {
            let windows = content.windows(secret.len());
            windows
                .into_iter()
                .any(|window| window == secret.as_bytes())
        };
        if secrets.iter().any(holds) {
            found.push(path.display().to_string());
        }
    }
    found
}

#[tokio::test]
async fn a_copy_of_a_sealed_directory_has_no_private_key_and_the_broker_has_all_of_them() {
    let installation = Installation::new();
    let plain = &installation.config;
    installation.opens(plain).await;
    let secrets = installation.secrets();
    let data = &plain.data_dir;
    assert!(holders(data, &secrets).len() >= 3);

    let (one, two) = (Service::new("one"), Service::new("two"));
    let (one, two) = (installation.with(&one), installation.with(&two));
    let sealed = installation.change(&one, Change::Seal).await.unwrap();
    assert_eq!(
        (sealed.previous.as_str(), sealed.seal.as_str()),
        ("plain", "one")
    );
    assert!(sealed.rewritten.len() >= 3 && sealed.unchanged.is_empty());
    assert_eq!(holders(data, &secrets), Vec::<String>::new());
    installation.opens(&one).await;
    // A day later the authority has made keys that never were in plain text.
    installation.clock.advance(Duration::from_secs(20 * 3600));
    installation.opens(&one).await;
    assert_eq!(holders(data, &secrets), Vec::<String>::new());
    let again = installation.change(&one, Change::Seal).await.unwrap();
    assert!(again.rewritten.is_empty(), "{again}");

    let from = Some(Box::new(one.clone()));
    let moved = installation.change(&two, Change::Reseal { from }).await;
    assert_eq!(moved.unwrap().previous, "one");
    installation.opens(&two).await;
    let refused = installation.refusal(&one).await;
    assert!(
        refused.contains("sealed by `two`, and [keys] names `one`"),
        "{refused}"
    );
    let before = fs::read(data.join("seal.json")).unwrap();
    let renewed = installation
        .change(&two, Change::Reseal { from: None })
        .await;
    assert_eq!(renewed.unwrap().unchanged, Vec::<PathBuf>::new());
    assert_ne!(fs::read(data.join("seal.json")).unwrap(), before);
    installation.opens(&two).await;

    let from = Some(Box::new(two.clone()));
    let unsealed = installation
        .change(plain, Change::Unseal { from })
        .await
        .unwrap();
    assert!(
        unsealed.to_string().contains("seal = \"plain\""),
        "{unsealed}"
    );
    assert!(!data.join("seal.json").exists());
    installation.opens(plain).await;
    assert!(holders(data, &secrets).len() >= 3);

    let events = installation.events().await.into_iter();
    let moves: Vec<String> = events
        .filter_map(|event| match event {
            Event::KeysSealed { previous, seal } => Some(format!("{previous} {seal}")),
            _ => None,
        })
        .collect();
    let expected = ["plain one", "one one", "one two", "two two", "two plain"];
    assert_eq!(moves, expected);
}

/// A change of the seal was interrupted, and the person goes back to the seal of before.
#[tokio::test]
async fn a_change_that_was_interrupted_can_go_on_or_back() {
    let (one, two) = (Service::new("one"), Service::new("two"));
    for goes_back in [false, true] {
        let installation = Installation::new();
        let (one, two) = (installation.with(&one), installation.with(&two));
        installation.change(&one, Change::Seal).await.unwrap();
        let from = Some(Box::new(one.clone()));
        Fuse::set(12);
        let cut = move_now(&two, &Change::Reseal { from }, &installation.deps).await;
        Fuse::clear();
        cut.unwrap_err();
        let status = status(&one, &installation.deps).await.unwrap();
        assert_eq!(status.sealed_by, ["two", "one"]);
        let (to, from) = if goes_back {
            (&one, two)
        } else {
            (&two, one.clone())
        };
        let from = Some(Box::new(from));
        let moved = installation
            .change(to, Change::Reseal { from })
            .await
            .unwrap();
        assert_eq!(moved.seal, to.keys.word());
        installation.opens(to).await;
    }
}

/// At every change of the disk the power may go: each key can be read, and the same command goes
/// on.
#[tokio::test]
async fn a_power_cut_in_any_move_loses_no_key_and_the_next_run_finishes_it() {
    let installation = Installation::new();
    let plain = installation.config.clone();
    let (one, two) = (Service::new("one"), Service::new("two"));
    let (one, two) = (installation.with(&one), installation.with(&two));
    let secrets = installation.secrets();
    let move_to =
        async |config: &Config, change: &Change| move_now(config, change, &installation.deps).await;
    let from = |config: &Config| Some(Box::new(config.clone()));
    let unseal = |from| Change::Unseal { from };
    let reseal = |from| Change::Reseal { from };
    // Each row: the state before, the move, and the way back to the state before.
    let moves = [
        ("seal", (&one, Change::Seal), (&plain, unseal(from(&one)))),
        (
            "reseal",
            (&two, reseal(from(&one))),
            (&one, reseal(from(&two))),
        ),
        ("unseal", (&plain, unseal(from(&one))), (&one, Change::Seal)),
    ];
    for (name, (to, change), (back, undo)) in moves {
        if name == "reseal" {
            move_to(&one, &Change::Seal).await.unwrap();
        }
        // Changing the seal has every kind of step; a third of the other two is enough.
        let stride = if name == "reseal" { 1 } else { 3 };
        for steps in (0..).step_by(stride) {
            Fuse::set(steps);
            let cut = move_to(to, &change).await;
            Fuse::clear();
            // An unsealing that lost its power after its last step has nothing left to do.
            if name != "unseal" || plain.keyring().exists() {
                move_to(to, &change).await.unwrap();
            }
            let status = status(to, &installation.deps).await.unwrap();
            assert!(status.is_good(), "{name} after {steps} steps: {status}");
            assert!(status.sealed_by.len() <= 1, "{status}");
            let holders = holders(&plain.data_dir, &secrets);
            assert_eq!(
                holders.is_empty(),
                name != "unseal",
                "{name} {steps}: {holders:?}"
            );
            move_to(back, &undo).await.unwrap();
            if cut.is_ok() {
                assert!(steps > 15, "{name}: {steps}");
                break;
            }
        }
    }
}

#[tokio::test]
async fn keys_that_are_otherwise_than_the_configuration_says_are_refused_with_the_command() {
    let installation = Installation::new();
    let (plain, one) = (
        &installation.config,
        installation.with(&Service::new("one")),
    );
    let data = &plain.data_dir;
    let message = installation.refusal(&one).await;
    assert!(
        message.contains("run `taskpassd keys seal --config "),
        "{message}"
    );
    let nothing = installation.change(plain, Change::Seal).await.unwrap_err();
    assert!(matches!(nothing, Error::NoSeal(_)), "{nothing}");
    let nothing = installation
        .change(plain, Change::Unseal { from: None })
        .await;
    assert!(matches!(nothing, Err(Error::NotSealed { .. })));

    let root = fs::read(data.join("ca/root.key")).unwrap();
    installation.change(&one, Change::Seal).await.unwrap();
    let message = installation.refusal(plain).await;
    assert!(
        message.contains("`taskpassd keys unseal --config "),
        "{message}"
    );
    let refused = installation
        .change(plain, Change::Unseal { from: None })
        .await;
    let message = refused.unwrap_err().to_string();
    assert!(message.contains("as `--from FILE`"), "{message}");

    // A key in plain text among sealed ones: planted, or restored from an old backup.
    let sealed = fs::read(data.join("ca/root.key")).unwrap();
    fs::write(data.join("ca/root.key"), &root).unwrap();
    let keys = open(&one, &installation.deps).await.unwrap();
    let planted = app::open_authority(&one, &installation.deps, &keys).unwrap_err();
    let message = with_sources(&planted);
    assert!(
        message.contains("root.key") && message.contains("keys seal"),
        "{message}"
    );
    let status = status(&one, &installation.deps).await.unwrap();
    assert!(!status.is_good(), "{status}");
    assert!(status.to_string().contains("plain   "), "{status}");
    installation.change(&one, Change::Seal).await.unwrap();
    installation.opens(&one).await;

    // The ledger's sealed key in the place of the root's.
    fs::copy(data.join("ledger.key"), data.join("ca/root.key")).unwrap();
    let swapped = app::open_authority(&one, &installation.deps, &keys).unwrap_err();
    let message = with_sources(&swapped);
    assert!(
        message.contains("`ledger.key`, not `ca/root.key`"),
        "{message}"
    );
    fs::write(data.join("ca/root.key"), &sealed[..sealed.len() / 2]).unwrap();
    let truncated = app::open_authority(&one, &installation.deps, &keys).unwrap_err();
    let message = with_sources(&truncated);
    assert!(message.contains("the last line is missing"), "{message}");
}

#[tokio::test]
async fn a_start_waits_a_while_for_a_key_service_and_a_command_does_not() {
    let installation = Installation::new();
    let service = Service::new("one");
    let config = installation.with(&service);
    installation.change(&config, Change::Seal).await.unwrap();
    let timer = Passing(Arc::clone(&installation.clock));
    let began = installation.clock.now();
    service.away_for.store(3, Ordering::SeqCst);
    open_at_start(&config, &installation.deps, &timer)
        .await
        .unwrap();
    assert_eq!(
        installation.clock.now().since(began),
        Duration::from_secs(6)
    );

    service.away_for.store(1000, Ordering::SeqCst);
    let gave_up = open_at_start(&config, &installation.deps, &timer).await;
    let message = with_sources(&gave_up.unwrap_err());
    assert!(
        message.contains("the seal `one` did not give the data key"),
        "{message}"
    );
    assert_eq!(
        installation.clock.now().since(began),
        Duration::from_secs(36)
    );
    let at_once = installation.refusal(&config).await;
    assert!(at_once.contains("no answer"), "{at_once}");
    assert_eq!(
        installation.clock.now().since(began),
        Duration::from_secs(36)
    );

    // A wrapped key of another installation is refused for good, so no start waits for it.
    service.away_for.store(0, Ordering::SeqCst);
    let path = config.keyring();
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replace("one acme.test", "one other.test")).unwrap();
    let refused = open_at_start(&config, &installation.deps, &timer).await;
    let message = with_sources(&refused.unwrap_err());
    assert!(message.contains("wrapped elsewhere"), "{message}");
    assert_eq!(
        installation.clock.now().since(began),
        Duration::from_secs(36)
    );
}

#[tokio::test]
async fn a_passphrase_is_private_long_enough_and_outside_of_the_data() {
    let dir = tempfile::tempdir().unwrap();
    let parts = SealParts {
        base_dir: dir.path().to_owned(),
        credentials: None,
        clock: Arc::new(ManualClock::new(Timestamp::from_millis(0))),
        entropy: Arc::new(SeededEntropy::new(1)),
    };
    let kinds = provider_kinds();
    let of = |table: &Value, parts: &SealParts| {
        let seals = seals(&kinds);
        let seal = seals
            .iter()
            .find(|seal| table["seal"] == seal.word())
            .unwrap();
        assert_eq!(seal.check(table), []);
        seal.build(table, parts).unwrap()
    };
    let refused = async |seal: Arc<dyn Seal>| {
        let key = Secret::new("aGVsbG8=".to_owned());
        seal.wrap(&key, "x").await.unwrap_err().to_string()
    };
    let file = json!({ "seal": "passphrase_file", "passphrase_file": "pass" });
    let path = dir.path().join("pass");
    assert!(refused(of(&file, &parts)).await.contains("cannot open"));
    fs::write(&path, "correct horse battery staple\n").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    assert!(refused(of(&file, &parts)).await.contains("chmod 600"));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(&path, "too short\n").unwrap();
    assert!(refused(of(&file, &parts)).await.contains("openssl rand"));

    let credential = json!({ "seal": "systemd_credential", "credential": "pass" });
    let message = refused(of(&credential, &parts)).await;
    assert!(message.contains("CREDENTIALS_DIRECTORY") && message.contains("systemd-run"));
    let parts = SealParts {
        credentials: Some(dir.path().to_owned()),
        ..parts
    };
    // systemd's access list shows as bits of the group.
    fs::set_permissions(&path, fs::Permissions::from_mode(0o440)).unwrap();
    assert!(
        refused(of(&credential, &parts))
            .await
            .contains("openssl rand")
    );
    fs::set_permissions(&path, fs::Permissions::from_mode(0o444)).unwrap();
    assert!(
        refused(of(&credential, &parts))
            .await
            .contains("open to all users")
    );

    let inside = "trust_domain = \"acme.test\"\n[keys]\nseal = \"passphrase_file\"\npassphrase_file = \"data/pass\"\n";
    let parsed = Config::parse(std::path::Path::new("/t/taskpass.toml"), inside, &kinds);
    let message = parsed.unwrap_err().to_string();
    assert!(message.contains("is inside of `data_dir`"), "{message}");
}
