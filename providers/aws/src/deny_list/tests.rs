use taskpass_core::{ManualClock, SeededEntropy};

use super::*;

fn ids(count: usize) -> (ManualClock, Vec<TaskId>) {
    let clock = ManualClock::new("2026-11-22T10:00:00Z".parse().unwrap());
    let entropy = SeededEntropy::new(3);
    let ids = (0..count)
        .map(|_| {
            clock.advance(Duration::from_secs(2));
            TaskId::generate(&clock, &entropy).unwrap()
        })
        .collect();
    (clock, ids)
}

fn agent(name: &str) -> AgentName {
    name.parse().unwrap()
}

fn now() -> Timestamp {
    "2026-11-22T12:00:00Z".parse().unwrap()
}

#[test]
fn the_document_is_the_store() {
    let (_, ids) = ids(3);
    let credential: CredentialId = "c0123456789abcdef".parse().unwrap();
    let mut list = DenyList::default();
    let end = now().plus(Duration::from_secs(900));
    for id in &ids {
        list.add(&agent("a"), Mark::Task(*id), end, now());
    }
    list.add(&agent("a"), Mark::Credential(credential), end, now());
    let document = list.document(now(), 8192);
    let mut read = DenyList::default();
    assert!(read.merge(&document, now()));
    assert_eq!(read.document(now(), 8192), document);
    // Ids that were read live as long as the document says, and no longer.
    let last = end.plus(CLOCK_MARGIN);
    read.prune(last.minus(Duration::from_secs(1)));
    assert!(!read.is_empty(last.minus(Duration::from_secs(1))));
    read.prune(last);
    assert!(
        read.is_empty(last) && read.exact.is_empty(),
        "nothing stays in memory"
    );
    assert!(read.document(last, 8192).contains("TaskpassNobody"));
}

#[test]
fn an_edited_sid_cannot_keep_an_id_for_ever() {
    let (_, ids) = ids(1);
    let document = format!(
        r#"{{"Statement":{{"Sid":"TaskpassTasksUntil99990101T000000Z","Condition":{{"StringEquals":{{"aws:PrincipalTag/taskpass-task":"{}"}}}}}}}}"#,
        ids[0]
    );
    let mut list = DenyList::default();
    assert!(list.merge(&document, now()));
    let end = now().plus(SESSION_MAX).plus(CLOCK_MARGIN);
    assert!(list.is_empty(end) && !list.is_empty(end.minus(Duration::from_secs(1))));
    assert!(!DenyList::default().merge("no policy", now()));
}

#[test]
fn an_id_expires_by_its_own_time_although_the_document_still_has_it() {
    let (_, ids) = ids(2);
    let mut list = DenyList::default();
    let (soon, late) = (
        now().plus(Duration::from_secs(10)),
        now().plus(Duration::from_secs(900)),
    );
    list.add(&agent("a"), Mark::Task(ids[0]), soon, now());
    list.add(&agent("a"), Mark::Task(ids[1]), late, now());
    let document = list.document(now(), 8192);
    let then = soon.plus(CLOCK_MARGIN);
    for _ in 0..2 {
        list.merge(&document, then);
        list.prune(then);
        let pruned = list.document(then, 8192);
        assert!(!pruned.contains(&ids[0].to_string()) && pruned.contains(&ids[1].to_string()));
    }
}

#[test]
fn folding_fits_keeps_the_newest_and_uses_the_narrowest_windows() {
    let (_, ids) = ids(1000);
    let end = now().plus(Duration::from_secs(900));
    for (characters, windows_at_least) in [(8192, 2), (2048, 2), (1024, 1)] {
        let mut list = DenyList::default();
        for (n, id) in ids.iter().enumerate() {
            list.add(
                &agent("a"),
                Mark::Task(*id),
                end,
                now().plus(Duration::from_millis(n as u64)),
            );
        }
        let document = list.document(now(), characters);
        assert!(
            document.len() <= characters,
            "{} > {characters}",
            document.len()
        );
        assert!(
            list.windows().all >= windows_at_least,
            "{}",
            list.windows().all
        );
        assert!(
            document.contains(&ids[999].to_string()),
            "the newest stays exact"
        );
        // It is stable: writing it again changes nothing, and reading it back gives the same.
        assert_eq!(list.document(now(), characters), document);
        let mut read = DenyList::default();
        assert!(read.merge(&document, now()));
        assert_eq!(read.document(now(), characters), document);
    }
}

#[test]
fn the_smallest_configurable_size_holds_the_worst_case() {
    let (_, ids) = ids(50);
    let mut list = DenyList::default();
    let end = now().plus(Duration::from_secs(900));
    for id in &ids {
        list.add(&agent("a"), Mark::Task(*id), end, now());
        list.add(
            &agent("a"),
            Mark::Credential(id.to_string().replace('t', "c").parse().unwrap()),
            end,
            now(),
        );
    }
    let size = list
        .document(now(), crate::revoker::POLICY_CHARACTERS_MIN)
        .len();
    assert!(size <= crate::revoker::POLICY_CHARACTERS_MIN, "{size}");
}

/// The statements of a document that fold ids, with the agents that they name.
fn folds(document: &str) -> Vec<Vec<String>> {
    let document: Value = serde_json::from_str(document).unwrap();
    let statements = document["Statement"].as_array().unwrap();
    let folds = statements
        .iter()
        .filter(|statement| statement["Condition"].get("StringLike").is_some());
    let named = |statement: &Value| {
        let agents = values(Some(&statement["Condition"]), AGENT_OPERATOR, &agent_key());
        agents.into_iter().collect()
    };
    folds.map(named).collect()
}

/// One agent ends hundreds of tasks, and another one a few. Only the first one's ids are folded, in
/// a statement that names it, also after another broker has read the list.
#[test]
fn the_agent_with_the_most_ids_is_folded_and_named() {
    let (_, ids) = ids(600);
    let end = now().plus(Duration::from_secs(900));
    let mut list = DenyList::default();
    for (n, id) in ids.iter().enumerate() {
        let name = if n % 20 == 0 { "b" } else { "a" };
        list.add(&agent(name), Mark::Task(*id), end, now());
    }
    let document = list.document(now(), 8192);
    assert!(document.len() <= 8192, "{}", document.len());
    assert_eq!(folds(&document), [["a"]]);
    for id in ids.iter().step_by(20) {
        assert!(document.contains(&id.to_string()), "{id} stays exact");
    }
    let mut read = DenyList::default();
    assert!(read.merge(&document, now()));
    assert_eq!(read.document(now(), 8192), document);
    assert_eq!(read.windows().of_any_agent, 0);
    // The broker that read it goes on to fold the same agent.
    for id in &self::ids(900).1[600..] {
        read.add(&agent("a"), Mark::Task(*id), end, now());
    }
    let document = read.document(now(), 8192);
    assert!(document.len() <= 8192, "{}", document.len());
    assert_eq!(folds(&document), [["a"]]);
}

/// Many agents with a few ids each: a statement for each would be longer than their ids.
#[test]
fn many_small_agents_are_folded_together_and_named() {
    let (_, ids) = ids(440);
    let end = now().plus(Duration::from_secs(900));
    let mut list = DenyList::default();
    for (n, id) in ids.iter().enumerate() {
        let name = format!("agent-with-a-long-name-{}", n % 44);
        list.add(&agent(&name), Mark::Task(*id), end, now());
    }
    let document = list.document(now(), 8192);
    assert!(document.len() <= 8192, "{}", document.len());
    let folds = folds(&document);
    assert!(folds.len() == 1 && folds[0].len() == 44, "{folds:?}");
    // With less room than their names take, any agent's older sessions are denied.
    let mut list = DenyList::default();
    for (n, id) in ids.iter().take(60).enumerate() {
        let name = format!("agent-with-a-long-name-{n}");
        list.add(&agent(&name), Mark::Task(*id), end, now());
    }
    let document = list.document(now(), 1024);
    assert!(document.len() <= 1024, "{}", document.len());
    assert!(list.windows().of_any_agent > 0);
}

/// As many ids as the shares of all agents allow fit without folding.
#[test]
fn what_shares_allow_fits() {
    for (characters, agents) in [(1024, 1), (8192, 1), (8192, 4), (8192, 70), (10_240, 5)] {
        let all = ids_within(characters);
        let (_, ids) = ids(all);
        let end = now().plus(Duration::from_secs(900));
        let mut list = DenyList::default();
        for (n, id) in ids.iter().enumerate() {
            let name = format!("{}-{}", "x".repeat(60), n % agents);
            list.add(&agent(&name), Mark::Task(*id), end, now());
        }
        let document = list.document(now(), characters);
        let shown = (document.len(), list.windows().all);
        assert!(shown.0 <= characters && shown.1 == 0, "{shown:?}, {agents}");
    }
}

/// Each `Sid` of a policy must be unique, or IAM refuses it.
#[test]
fn sids_are_unique() {
    let (_, ids) = ids(400);
    let end = now().plus(Duration::from_secs(900));
    let mut list = DenyList::default();
    for (n, id) in ids.iter().enumerate() {
        let name = format!("agent-{}", n % 3);
        list.add(&agent(&name), Mark::Task(*id), end, now());
        let credential = id.to_string().replace('t', "c").parse().unwrap();
        list.add(&agent(&name), Mark::Credential(credential), end, now());
    }
    for characters in [100_000, 10_240, 4096] {
        let document = list.document(now(), characters);
        let statements = statements(&document).unwrap();
        let sids: BTreeSet<_> = statements.iter().map(|s| s["Sid"].as_str()).collect();
        assert_eq!(sids.len(), statements.len(), "{document}");
    }
}
