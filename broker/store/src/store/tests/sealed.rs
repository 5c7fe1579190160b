//! Another program writes the files of the index. The start notices, and builds it from the ledger.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{
    Batch, Fixture, Store, abandoned, ended, ending, furnish, intended, issued, new_task, revoked,
    started, svid, svid_activated, svid_issued, task_id, token,
};
use crate::testing::{agent_name, credential_id, token_id};

const CHANGED: &str = "its records are not those that this broker wrote";

type Rows = BTreeMap<Vec<u8>, Vec<u8>>;

/// A furnished store that is closed.
async fn closed() -> Fixture {
    let mut fixture = Fixture::new().await;
    furnish(&fixture).await;
    close(&mut fixture).await;
    fixture
}

async fn close(fixture: &mut Fixture) {
    fixture.store().close().await.unwrap();
    fixture.store = None;
}

fn rows(fixture: &Fixture) -> Rows {
    let index = sled::open(fixture.dir.path().join("index")).unwrap();
    let rows = index.iter().map(|row| {
        let (key, value) = row.unwrap();
        (key.to_vec(), value.to_vec())
    });
    rows.collect()
}

/// Sets a row, or takes it out.
fn put(fixture: &Fixture, key: &[u8], value: Option<&[u8]>) {
    let index = sled::open(fixture.dir.path().join("index")).unwrap();
    match value {
        Some(value) => index.insert(key, value).unwrap(),
        None => index.remove(key).unwrap(),
    };
    index.flush().unwrap();
}

/// Changes the record under a key that begins so, which must be there once.
fn edit(fixture: &Fixture, prefix: &str, change: impl Fn(&mut Value)) {
    let all = rows(fixture);
    let mut found = all
        .iter()
        .filter(|(key, _)| key.starts_with(prefix.as_bytes()));
    let (key, value) = found.next().unwrap();
    let mut record: Value = serde_json::from_slice(value).unwrap();
    let before = record.clone();
    change(&mut record);
    assert_ne!(record, before, "{before}");
    put(fixture, key, Some(record.to_string().as_bytes()));
}

/// Opens the store. The index must have been built again, from the ledger alone.
fn assert_noticed(fixture: &mut Fixture, what: &str) {
    let report = fixture.open();
    assert_eq!(report.index.rebuilt.as_deref(), Some(CHANGED), "{what}");
    assert!(report.index.moved_to.is_some(), "{what}");
}

#[tokio::test]
async fn another_class_of_an_agent_is_noticed() {
    let mut fixture = closed().await;
    let name = agent_name(1);
    edit(&fixture, &format!("a/{name}"), |agent| {
        agent["class"] = "deployer".into();
    });
    assert_noticed(&mut fixture, "class");
    let agent = fixture.store().agent(&name).await.unwrap().unwrap();
    assert_eq!(agent.class, None);
}

#[tokio::test]
async fn a_used_join_token_that_is_made_new_is_noticed() {
    let mut fixture = closed().await;
    edit(&fixture, &format!("j/{}", token_id(1)), |token| {
        assert_eq!(token["used"], true, "{token}");
        token["used"] = false.into();
    });
    assert_noticed(&mut fixture, "token");
}

#[tokio::test]
async fn a_superseded_svid_that_is_put_back_is_noticed() {
    let mut fixture = closed().await;
    let old = rows(&fixture).remove(b"s/s1".as_slice()).unwrap();
    fixture.open();
    fixture
        .all([svid_issued(svid("s9", 1, None)), svid_activated("s9")])
        .await;
    close(&mut fixture).await;
    assert!(!rows(&fixture).contains_key(b"s/s1".as_slice()));
    put(&fixture, b"s/s1", Some(&old));
    assert_noticed(&mut fixture, "svid");
    assert!(fixture.store().svid("s1").await.unwrap().is_none());
}

#[tokio::test]
async fn a_live_credential_that_is_taken_out_is_noticed_and_revoked_all_the_same() {
    let mut fixture = closed().await;
    let id = credential_id(3);
    let all = rows(&fixture);
    let key = all.keys().find(|key| {
        let of_record = serde_json::from_slice::<Value>(&all[*key]).is_ok();
        of_record && key.ends_with(id.to_string().as_bytes())
    });
    put(&fixture, key.unwrap(), None);
    assert_noticed(&mut fixture, "credential");
    let found = fixture.store().credential(id).await.unwrap().unwrap();
    assert!(!found.state.is_final());
}

/// Every row that a start loads, one after the other: taken out, and changed in any byte that
/// leaves it readable.
#[tokio::test]
async fn no_live_row_can_be_taken_out_or_changed() {
    let mut fixture = closed().await;
    let all = rows(&fixture);
    let live: Vec<_> = all
        .keys()
        .filter(|key| key.starts_with(b"l/"))
        .map(|key| key[2..].to_vec())
        .collect();
    let is_loaded = |key: &[u8], value: &[u8]| {
        let always = [b"a/", b"j/", b"s/", b"i/", b"l/"];
        let of_task = live.iter().any(|task| {
            let mut under = task.clone();
            under.push(b'/');
            key.ends_with(task) || key.windows(under.len()).any(|part| part == under)
        });
        let is_record = serde_json::from_slice::<Value>(value).is_ok_and(|v| v.is_object());
        always.iter().any(|prefix| key.starts_with(*prefix)) || (of_task && is_record)
    };
    let mut tried = 0;
    for (key, value) in all.iter().filter(|(key, value)| is_loaded(key, value)) {
        let what = String::from_utf8_lossy(key).into_owned();
        put(&fixture, key, None);
        let report = fixture.open();
        assert!(report.index.rebuilt.is_some(), "{what} was taken out");
        close(&mut fixture).await;
        // A digit that becomes another one leaves the record readable.
        let text = String::from_utf8_lossy(value).into_owned();
        if let Some(place) = text.rfind(|c: char| ('0'..='8').contains(&c)) {
            let mut changed = value.clone();
            changed[place] += 1;
            put(&fixture, key, Some(&changed));
            let report = fixture.open();
            assert!(report.index.rebuilt.is_some(), "{what} was changed");
            close(&mut fixture).await;
        }
        tried += 1;
    }
    assert!(tried > 15, "{tried} rows");
}

#[tokio::test]
async fn a_record_that_is_put_in_is_noticed() {
    let mut fixture = closed().await;
    let all = rows(&fixture);
    for (prefix, name) in [("a/", "a/stranger"), ("s/", "s/forged"), ("i/", "")] {
        let (key, value) = all
            .iter()
            .find(|(key, _)| key.starts_with(prefix.as_bytes()))
            .unwrap();
        let mut other = name.as_bytes().to_vec();
        if name.is_empty() {
            other.clone_from(key);
            let last = other.last_mut().unwrap();
            *last ^= 1;
        }
        // The table keeps a record under the name in it.
        let value = String::from_utf8(value.clone()).unwrap();
        let value = value.replace(&agent_name(1).to_string(), "stranger");
        put(&fixture, &other, Some(value.as_bytes()));
        assert_noticed(&mut fixture, prefix);
        close(&mut fixture).await;
    }
    // A task that has ended is put back among the live ones.
    let ended = format!("l/{}", task_id(4));
    assert!(!all.contains_key(ended.as_bytes()));
    put(&fixture, ended.as_bytes(), Some(b""));
    assert_noticed(&mut fixture, "ended task");
}

#[tokio::test]
async fn a_seal_fits_its_own_head_only() {
    let mut fixture = closed().await;
    let early = rows(&fixture);
    fixture.open();
    fixture.all([started(new_task(7, 1))]).await;
    close(&mut fixture).await;
    let head = rows(&fixture).remove(b"m".as_slice()).unwrap();
    let change = |field: &str, value: Value| {
        let mut head: Value = serde_json::from_slice(&head).unwrap();
        head[field] = value;
        head.to_string().into_bytes()
    };
    let early_head: Value = serde_json::from_slice(&early[b"m".as_slice()]).unwrap();
    for (what, forged) in [
        ("no seal", change("seal", "".into())),
        (
            "the seal before",
            change("seal", early_head["seal"].clone()),
        ),
        ("another time", change("time", 1_000.into())),
        ("the head before", early[b"m".as_slice()].clone()),
    ] {
        put(&fixture, b"m", Some(&forged));
        let report = fixture.open();
        let reason = report.index.rebuilt.unwrap();
        assert!(!reason.is_empty(), "{what}");
        assert!(fixture.store().task(task_id(7)).await.unwrap().is_some());
        close(&mut fixture).await;
        // The next round begins with a genuine index of the same history again.
        put(&fixture, b"m", Some(&rows(&fixture)[b"m".as_slice()]));
    }
}

#[tokio::test]
async fn an_older_index_as_a_whole_is_genuine_and_is_brought_up_to_date() {
    let mut fixture = closed().await;
    let index = fixture.dir.path().join("index");
    let kept = fixture.dir.path().join("kept");
    super::crash::copy(&index, &kept);
    fixture.open();
    fixture
        .all([
            started(new_task(7, 1)),
            token(3, 1),
            svid_issued(svid("s9", 1, None)),
            svid_activated("s9"),
        ])
        .await;
    let state = fixture.store().shared.state.read().clone();
    close(&mut fixture).await;
    std::fs::remove_dir_all(&index).unwrap();
    std::fs::rename(&kept, &index).unwrap();
    let report = fixture.open();
    assert_eq!(report.index.rebuilt, None);
    assert!(report.index.replayed > 0);
    assert_eq!(*fixture.store().shared.state.read(), state);
}

/// What leaves the live records in one batch, in another batch, in another process, and what comes
/// and goes within one batch.
#[tokio::test]
async fn the_seal_follows_every_way_to_leave_the_live_records() {
    let mut fixture = closed().await;
    for round in 0..4_u64 {
        let (first, second) = (20 + round * 2, 21 + round * 2);
        let report = fixture.open();
        assert_eq!(report.index.rebuilt, None, "round {round}");
        let mut events = vec![
            started(new_task(first, 1)),
            intended(first, first, 1),
            issued(first),
            intended(50 + first, first, 1),
            abandoned(50 + first),
        ];
        let end = [ending(first), revoked(first), ended(first)];
        match round {
            // All in one batch of the index.
            0 => events.extend(end),
            // In two batches of one process: a reader of history waits for the first.
            1 => {
                fixture.all(std::mem::take(&mut events)).await;
                fixture.everything(2).await;
                events.extend(end);
            }
            // In two processes.
            2 => {
                fixture.all(std::mem::take(&mut events)).await;
                assert_eq!(fixture.reopen().await.index.rebuilt, None);
                events.extend(end);
            }
            // Never.
            _ => {}
        }
        fixture.all(events).await;
        let store = fixture.store();
        let batch = Batch::new([started(new_task(second, 2))]);
        store.commit(batch).await.unwrap();
        close(&mut fixture).await;
    }
    assert_eq!(fixture.open().index.rebuilt, None);
}
