use taskpass_ca::{KeyFiles, NewKey};
use taskpass_core::{Event, Identity, ManualClock, SeededEntropy, Timestamp};
use taskpass_ledger::disk::SystemDisk;
use taskpass_store::{Batch, Store as _};

use super::*;
use crate::{
    app::{self, Deps},
    fixture::{BEGIN, Installation},
    issuing::Issuing,
    operator,
};

const HOUR: Duration = Duration::from_secs(3600);
const YEARS: Duration = Duration::from_secs(5 * 365 * 86_400);

/// A machine whose run has a name.
#[derive(Debug)]
struct Machine(ManualClock);

impl Clock for Machine {
    fn now(&self) -> Timestamp {
        self.0.now()
    }

    fn monotonic(&self) -> Duration {
        self.0.monotonic()
    }

    fn boot(&self) -> Option<&str> {
        Some("this run")
    }
}

impl Installation<Machine> {
    fn on_machine() -> Self {
        Self::on(Machine(ManualClock::new(BEGIN)))
    }

    async fn accept(&self, time: Option<Timestamp>) -> Result<Accepted, Error> {
        let request = Request {
            config: self.config.clone(),
            time,
            user: self.user(),
        };
        accept(request, &self.deps).await
    }

    async fn issue(&self, operator: &str) -> Result<operator::Issued, operator::Error> {
        let request = operator::Request {
            config: self.config.clone(),
            operator: operator.parse().unwrap(),
            dir: self.beside(operator),
            user: self.user(),
        };
        operator::issue(request, &self.deps).await
    }

    /// Works with the store at the machine's own time, as brokers did before they watched it.
    async fn record(&self, events: Vec<Event>) -> Timestamp {
        let store = self.open().await.store;
        for event in events {
            store.commit(Batch::new([event])).await.unwrap();
        }
        let last = store.last_time();
        store.close().await.unwrap();
        last
    }

    /// Signs for an agent, at the machine's own time.
    fn sign(&self) -> Result<(), String> {
        let authority = self.authority();
        let rotated = authority.rotate().map_err(|e| with_sources(&e));
        rotated?;
        let builder = Identity::Agent("builder".parse().unwrap());
        let key = NewKey::generate().unwrap();
        let options = taskpass_ca::IssueOptions::default();
        let issued = authority.issue(&builder, key.public_key(), &options);
        issued.map(drop).map_err(|e| with_sources(&e))
    }
}

#[tokio::test]
async fn an_installation_that_was_brought_years_ahead_comes_back() {
    let installation = Installation::on_machine();
    let ann = installation.issue("ann").await.unwrap();
    let clock = &installation.clock.0;

    clock.set(BEGIN.plus(YEARS));
    fs::remove_file(installation.config.data_dir.join(MARK)).ok();
    installation.sign().unwrap();
    let stopped = vec![Event::BrokerStopped {}, Event::BrokerStopped {}];
    let ahead = installation.record(stopped).await;
    assert_eq!(ahead, BEGIN.plus(YEARS));
    assert!(!installation.counts(&ann.serial).await, "she is forgotten");
    let now = BEGIN.plus(HOUR);
    clock.set(now);
    let refused = installation.issue("bob").await.unwrap_err();
    assert!(
        refused.to_string().contains("taskpassd clock accept"),
        "{refused}"
    );
    assert!(
        installation.sign().is_err(),
        "the authority is of the future"
    );

    // The person has to look at a clock.
    let refused = installation.accept(None).await.unwrap_err().to_string();
    assert!(refused.contains(&format!("--time {now}")), "{refused}");
    let refused = installation.accept(Some(now.plus(HOUR))).await;
    let refused = refused.unwrap_err();
    assert!(matches!(refused, Error::AnotherTime { .. }), "{refused}");
    assert_eq!(installation.record(Vec::new()).await, ahead);

    let accepted = installation.accept(Some(now)).await.unwrap();
    assert_eq!((accepted.previous, accepted.accepted), (ahead, now));
    assert!(
        accepted.to_string().contains("operator issue"),
        "{accepted}"
    );
    let json: serde_json::Value = serde_json::from_str(&accepted.to_json()).unwrap();
    assert_eq!(json["accepted"], now.to_string());
    assert!(installation.counts(&ann.serial).await, "she is back");
    installation.sign().unwrap();
    let bob = installation.issue("bob").await.unwrap();
    assert!(bob.expires_at < BEGIN.plus(YEARS));
    assert_eq!(
        installation.record(vec![Event::BrokerStopped {}]).await,
        now
    );

    // Once more does no harm, also when the first time was interrupted.
    clock.advance(HOUR);
    let again = installation.accept(Some(now.plus(HOUR))).await.unwrap();
    assert_eq!(again.previous, now);
    let again = installation.accept(Some(now.plus(HOUR))).await.unwrap();
    assert_eq!(again.previous, again.accepted);
    assert!(!installation.config.data_dir.join("index").exists());
    for serial in [&ann.serial, &bob.serial] {
        assert!(installation.counts(serial).await);
    }
}

/// The index is lost as well: opening the store records that, and not at the wrong time.
#[tokio::test]
async fn a_clock_years_ahead_is_not_recorded_before_it_is_accepted() {
    let installation = Installation::on_machine();
    let clock = &installation.clock.0;
    let started = Event::BrokerStarted {
        version: "0.0.0".to_owned(),
        config_sha256: String::new(),
        policy_set: String::new(),
    };
    let before = installation.record(vec![started]).await;
    clock.set(BEGIN.plus(YEARS));
    fs::remove_dir_all(installation.config.data_dir.join("index")).unwrap();

    let refused = installation.issue("ann").await.unwrap_err();
    assert!(
        matches!(refused, operator::Error::ClockInDoubt { .. }),
        "{refused}"
    );
    let refused = installation.accept(None).await.unwrap_err();
    assert!(matches!(refused, Error::TimeMissing { .. }), "{refused}");
    clock.set(BEGIN);
    assert_eq!(installation.record(Vec::new()).await, before);

    // A person who says that the years have passed is believed.
    clock.set(BEGIN.plus(YEARS));
    let accepted = installation.accept(Some(BEGIN.plus(YEARS))).await.unwrap();
    assert_eq!(accepted.previous, before);
    installation.issue("ann").await.unwrap();
}

#[tokio::test]
async fn the_watch_tells_people_and_the_next_process() {
    let installation = Installation::on_machine();
    let (machine, data_dir) = (&installation.clock, &installation.config.data_dir);
    let clock = trusted(data_dir, Arc::<Machine>::clone(machine));
    clock.resumes_after(BEGIN);
    let (health, _) = tonic_health::server::health_reporter();
    let issuing = Issuing::new(health);
    let mut watch = ClockWatch::new(clock, &installation.config, issuing);
    assert!(matches!(watch.round().await, Round::Done(_)));
    assert_eq!(watch.told, Some(Told::Right));
    let left = mark(data_dir).unwrap();
    assert_eq!((left.time, left.ahead_ms), (BEGIN, 0));

    machine.0.set(BEGIN.plus(YEARS));
    let Round::Failed { message, .. } = watch.round().await else {
        panic!("the clock is wrong");
    };
    assert!(message.contains("seconds ahead of"), "{message}");
    assert!(
        message.contains("taskpassd clock accept --config "),
        "{message}"
    );
    assert_eq!(watch.told, Some(Told::InDoubt));
    assert!(mark(data_dir).unwrap().ahead_ms > 0);

    // A restart does not clear the clock, a person does.
    let refused = installation.issue("ann").await.unwrap_err();
    assert!(
        matches!(refused, operator::Error::ClockInDoubt { .. }),
        "{refused}"
    );
    installation.accept(Some(BEGIN.plus(YEARS))).await.unwrap();
    installation.issue("ann").await.unwrap();

    machine.0.set(BEGIN);
    assert!(matches!(watch.round().await, Round::Done(_)));
    assert_eq!(watch.told, Some(Told::Right));
}

/// Another program wrote the mark.
#[tokio::test]
async fn a_forged_mark_dates_no_entry() {
    let installation = Installation::on_machine();
    let data_dir = &installation.config.data_dir;
    let forged = ClockMark {
        boot: "this run".to_owned(),
        monotonic_ms: 0,
        time: BEGIN.plus(YEARS),
        ahead_ms: 0,
    };
    leave(data_dir, &forged).unwrap();
    let deps = Deps {
        clock: trusted(data_dir, Arc::<Machine>::clone(&installation.clock)),
        entropy: Arc::new(SeededEntropy::new(4)),
        credentials: None,
    };
    let keys = KeyFiles::plain();
    let opened = app::open_store(&installation.config, &deps, Arc::new(SystemDisk), &keys);
    let store = opened.await.unwrap().store;
    let stopped = Batch::reserved([Event::BrokerStopped {}]);
    assert_eq!(store.commit(stopped).await.unwrap().time, BEGIN);
    store.close().await.unwrap();
}

#[test]
fn a_mark_that_cannot_be_read_is_none() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(mark(dir.path()), None);
    fs::write(dir.path().join(MARK), "{").unwrap();
    assert_eq!(mark(dir.path()), None);
}
