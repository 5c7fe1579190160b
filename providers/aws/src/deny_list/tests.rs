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
        list.add(Mark::Task(*id), end, now());
    }
    list.add(Mark::Credential(credential), end, now());
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
    list.add(Mark::Task(ids[0]), soon, now());
    list.add(Mark::Task(ids[1]), late, now());
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
            list.window_count() >= windows_at_least,
            "{}",
            list.window_count()
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
        list.add(Mark::Task(*id), end, now());
        list.add(
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
