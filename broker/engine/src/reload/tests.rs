//! The entries that the ledger gets of reloads, and that no configuration is in force without its
//! entry.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use serde_json::{Value, json};

use super::*;
use crate::{
    ConfiguredProvider, Settings,
    testing::{Bench, builder_name, configured},
};

fn files(from: &str, to: &str) -> ReloadedFiles {
    ReloadedFiles {
        previous_config_sha256: from.to_owned(),
        config_sha256: to.to_owned(),
        keys: vec!["tasks.open_per_agent".to_owned()],
    }
}

fn with_tasks(bench: &Bench, open_per_agent: u32) -> Configuration {
    let mut configuration = bench.configuration();
    configuration.settings.tasks.open_per_agent = open_per_agent;
    configuration
}

/// The events of all reloads.
fn reloads(bench: &Bench) -> Vec<Value> {
    let reader = bench.engine.context.ledger.clone();
    let event = |index| {
        let entry: Value = serde_json::from_slice(&reader.entry(index).unwrap()).unwrap();
        entry["event"].clone()
    };
    let events = (0..reader.size()).map(event);
    events
        .filter(|event| event["type"] == "configuration_reloaded")
        .collect()
}

#[tokio::test]
async fn each_change_is_on_record_with_both_hashes_and_the_changed_parts() {
    let bench = Bench::new(&["a"], Settings::default()).await;
    let policy = bench.engine.snapshot().policy().hash().to_owned();
    let engine = &bench.engine;
    let change = engine.reload(with_tasks(&bench, 7), files("1", "2")).await;
    assert!(change.unwrap().settings_differ);
    let without = Configuration {
        providers: Vec::new(),
        ..with_tasks(&bench, 7)
    };
    engine.reload(without, files("2", "3")).await.unwrap();
    let mut other = with_tasks(&bench, 7);
    other.providers[0].fingerprint = "another address".to_owned();
    engine.reload(other, files("3", "4")).await.unwrap();

    let [first, second, third] = &reloads(&bench)[..] else {
        panic!("three reloads are on record");
    };
    assert_eq!(
        *first,
        json!({
            "type": "configuration_reloaded",
            "previous_config_sha256": "1",
            "config_sha256": "2",
            "previous_policy_set": policy,
            "policy_set": policy,
            "keys": ["tasks.open_per_agent"],
        })
    );
    assert_eq!(second["providers_removed"], json!(["a"]));
    assert_eq!(third["providers_added"], json!(["a"]));
    assert_eq!(third["previous_config_sha256"], second["config_sha256"]);
}

#[tokio::test]
async fn a_reload_of_the_same_files_leaves_no_record() {
    let bench = Bench::new(&["a"], Settings::default()).await;
    let same = bench.engine.reload(bench.configuration(), files("1", "1"));
    assert!(same.await.unwrap().is_none());
    assert_eq!(reloads(&bench).len(), 0);
    // A comment changes the file's hash, and the next start names that hash.
    let comment = bench.engine.reload(bench.configuration(), files("1", "2"));
    assert!(comment.await.unwrap().is_none());
    assert_eq!(reloads(&bench).len(), 1);
}

#[tokio::test]
async fn a_configuration_that_cannot_be_recorded_does_not_come_into_force() {
    let bench = Bench::new(&["a"], Settings::default()).await;
    let before = bench.engine.snapshot();
    bench.store.close().await.unwrap();
    let refused = bench.engine.reload(with_tasks(&bench, 7), files("1", "2"));
    refused.await.unwrap_err();
    assert!(std::sync::Arc::ptr_eq(&before, &bench.engine.snapshot()));
}

/// The provider could not revoke a credential of the present address at another one.
#[tokio::test]
async fn a_back_end_that_holds_credentials_is_not_replaced_by_one_at_another_place() {
    let bench = Bench::new(&["a"], Settings::default()).await;
    let (fake, task) = (&bench.fakes[0], bench.task().await);
    bench.issued(fake, task, Duration::from_secs(600)).await;
    let before = bench.engine.snapshot();
    let refused = bench
        .engine
        .reload(at_another_place(&bench), files("1", "2"))
        .await;
    let Err(Error::Precondition(why)) = refused else {
        panic!("{refused:?}");
    };
    assert!(why.contains("provider `a` has live credentials"), "{why}");
    assert!(Arc::ptr_eq(&before, &bench.engine.snapshot()));
    assert_eq!(reloads(&bench).len(), 0);

    // Another limit of a role, or one more role, is at the same place.
    let mut wider = bench.configuration();
    wider.providers[0].fingerprint = "one more role".to_owned();
    wider.providers[0]
        .place
        .insert("more".to_owned(), "new".to_owned());
    let change = bench.engine.reload(wider, files("1", "2")).await.unwrap();
    let replaced = BTreeMap::from([("a".parse().unwrap(), ProviderChange::Replaced)]);
    assert_eq!(change.providers, replaced);
}

fn at_another_place(bench: &Bench) -> Configuration {
    let moved = ConfiguredProvider {
        fingerprint: "another address".to_owned(),
        place: BTreeMap::new(),
        ..configured(bench.fakes[0].clone())
    };
    Configuration {
        providers: vec![moved],
        ..bench.configuration()
    }
}

/// What a call mints after the swap could be revoked by nothing, also when the call began under
/// other limits.
#[tokio::test]
async fn a_back_end_that_is_called_is_not_moved_and_mints_nothing_once_it_is() {
    let bench = Bench::new(&["a"], Settings::default()).await;
    let (fake, task) = (&bench.fakes[0], bench.task().await);
    let name = "a".parse().unwrap();
    let snapshot = bench.engine.snapshot();
    let permit = snapshot
        .backends()
        .named(&name)
        .unwrap()
        .0
        .acquire(&builder_name(), bench.fakes[0].role())
        .unwrap();
    let mut narrower = bench.configuration();
    narrower.settings.provider.issue_concurrency = 1;
    bench.swap(narrower);
    let refused = bench
        .engine
        .reload(at_another_place(&bench), files("1", "2"));
    let Err(Error::Precondition(why)) = refused.await else {
        panic!("a call that may mint goes on");
    };
    assert!(why.contains("provider `a` is being called"), "{why}");

    // The refused reload closed nothing.
    drop(permit);
    let late = bench.again(&bench.agent);
    let reload = bench
        .engine
        .reload(at_another_place(&bench), files("1", "2"));
    let change = reload.await.unwrap();
    let replaced = BTreeMap::from([(name.clone(), ProviderChange::Replaced)]);
    assert_eq!(change.providers, replaced);
    for call in [&bench.agent, &late] {
        let refused = bench.begin_as(call, fake, task).await.await.unwrap();
        let refused = refused.unwrap_err();
        assert!(
            matches!(&refused, Error::Provider { source, .. } if source.is_retryable()),
            "{refused}"
        );
    }
    assert_eq!(fake.issues.lock().len(), 0);
    let now = bench.again(&bench.agent);
    drop(bench.begin_as(&now, fake, task).await);
    assert_eq!(fake.issues.lock().len(), 1);
}

/// A back end that takes the place of another one is behind the gate of that one: a request that
/// still holds the first mints nothing once the second is moved.
#[tokio::test]
async fn a_back_end_whose_successor_is_moved_mints_nothing() {
    let bench = Bench::new(&["a"], Settings::default()).await;
    let (fake, task) = (&bench.fakes[0], bench.task().await);
    let mut with_one_more_role = bench.configuration();
    with_one_more_role.providers[0].fingerprint = "one more role".to_owned();
    bench.swap(with_one_more_role);
    let reload = bench
        .engine
        .reload(at_another_place(&bench), files("1", "2"));
    reload.await.unwrap();
    let refused = bench
        .begin_as(&bench.agent, fake, task)
        .await
        .await
        .unwrap();
    let refused = refused.unwrap_err();
    assert!(
        matches!(&refused, Error::Provider { source, .. } if source.is_retryable()),
        "{refused}"
    );
    assert_eq!(fake.issues.lock().len(), 0);
}

/// Without its record a reload changes nothing, and the back end that it would have replaced goes
/// on.
#[tokio::test]
async fn a_back_end_whose_replacement_cannot_be_recorded_goes_on() {
    let bench = Bench::new(&["a"], Settings::default()).await;
    bench.store.close().await.unwrap();
    let refused = bench
        .engine
        .reload(at_another_place(&bench), files("1", "2"));
    refused.await.unwrap_err();
    let name = "a".parse().unwrap();
    let snapshot = bench.engine.snapshot();
    snapshot
        .backends()
        .named(&name)
        .unwrap()
        .0
        .acquire(&builder_name(), bench.fakes[0].role())
        .unwrap();
}
