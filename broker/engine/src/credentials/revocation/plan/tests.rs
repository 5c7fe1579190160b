use std::time::Duration;

use taskpass_core::{
    CredentialIntent, Labels, Requester, RevocationClass, RevokeCause, RoleName, Scope, Timestamp,
};

use super::*;
use taskpass_core::{AnchorId, AnchorState, Revocation};

const BEGAN: Timestamp = Timestamp::from_millis(1_700_000_000_000);

/// How a credential stands. Anchors are named by number, times are seconds.
#[derive(Debug, Clone, Copy)]
enum Is {
    /// The provider is being asked.
    Asked,
    /// The provider minted it, through this anchor.
    Active(Option<u64>),
    /// It is being revoked, and the provider had minted it through this anchor.
    Revoking(Option<u64>),
    /// The broker stopped waiting for the provider at this time.
    InDoubt(u32),
    /// It is revoked.
    Dead,
}

/// A situation of one task, and the plan that it must give.
struct Row {
    why: &'static str,
    ended: bool,
    /// Number and standing.
    credentials: &'static [(u64, Is)],
    /// Number, and when it was recorded.
    anchors: &'static [(u64, u32)],
    /// The keys of credentials and anchors with these numbers; the others have none.
    keys: &'static [(u64, &'static str)],
    in_flight: &'static [u64],
    /// The calls without an intent on record.
    unrecorded: &'static [u64],
    due: &'static [u64],
    plan: &'static str,
}

const OPEN: Row = Row {
    why: "",
    ended: false,
    credentials: &[],
    anchors: &[],
    keys: &[],
    in_flight: &[],
    unrecorded: &[],
    due: &[],
    plan: "wait",
};
const ENDED: Row = Row {
    ended: true,
    ..OPEN
};

use Is::{Active, Asked, Dead, InDoubt, Revoking};

const TABLE: &[Row] = &[
    Row {
        why: "a known credential is revoked by itself, and its anchor stays",
        credentials: &[(1, Revoking(Some(1))), (2, Active(Some(1)))],
        anchors: &[(1, 0)],
        due: &[1],
        plan: "credentials 1, no anchor",
        ..OPEN
    },
    Row {
        why: "what is not due waits for its time",
        credentials: &[(1, Revoking(None)), (2, Revoking(None))],
        due: &[2],
        plan: "credentials 2, no anchor",
        ..OPEN
    },
    Row {
        why: "what was settled meanwhile is not revoked again",
        credentials: &[(1, Dead)],
        due: &[1],
        ..OPEN
    },
    Row {
        why: "nothing that is active or just asked for is revoked because it is named",
        credentials: &[(1, Active(None)), (2, Asked)],
        due: &[1, 2],
        ..OPEN
    },
    Row {
        why: "a call that runs must be over first",
        credentials: &[(1, InDoubt(5))],
        in_flight: &[1],
        due: &[1],
        ..OPEN
    },
    Row {
        why: "in doubt without an anchor, the provider has to find it by its locator",
        credentials: &[(1, InDoubt(5))],
        due: &[1],
        plan: "credentials 1, no anchor",
        ..OPEN
    },
    Row {
        why: "in doubt, its anchor ends; nothing else hangs on it",
        credentials: &[(1, InDoubt(5)), (2, Dead)],
        anchors: &[(1, 0)],
        due: &[1],
        plan: "credentials 1, anchors 1",
        ..OPEN
    },
    Row {
        why: "an anchor that is younger than the doubt has nothing to do with it",
        credentials: &[(1, InDoubt(5)), (2, Active(Some(2)))],
        anchors: &[(1, 4), (2, 6)],
        due: &[1],
        plan: "credentials 1, anchors 1",
        ..OPEN
    },
    Row {
        why: "the anchor may have been recorded in the moment in which the wait ended",
        credentials: &[(1, InDoubt(5))],
        anchors: &[(1, 5)],
        due: &[1],
        plan: "credentials 1, anchors 1",
        ..OPEN
    },
    Row {
        why: "what dies with the anchor is marked before it ends, and what is just being issued too",
        credentials: &[
            (1, InDoubt(5)),
            (2, Active(Some(1))),
            (3, Asked),
            (4, Active(Some(2))),
            (5, Active(None)),
        ],
        anchors: &[(1, 0), (2, 9)],
        due: &[1],
        plan: "mark 2 3",
        ..OPEN
    },
    Row {
        why: "once they are marked, one order revokes them all",
        credentials: &[
            (1, InDoubt(5)),
            (2, Revoking(Some(1))),
            (4, Revoking(Some(2))),
        ],
        anchors: &[(1, 0), (2, 9)],
        due: &[1],
        plan: "credentials 1 2, anchors 1",
        ..OPEN
    },
    Row {
        why: "all in doubt are revoked together, whenever each is due",
        credentials: &[(1, InDoubt(5)), (2, InDoubt(7)), (3, Revoking(None))],
        anchors: &[(1, 6)],
        due: &[1],
        plan: "credentials 1 2, anchors 1",
        ..OPEN
    },
    Row {
        why: "a known credential that is due pulls no doubt along",
        credentials: &[(1, Revoking(None)), (2, InDoubt(7))],
        anchors: &[(1, 0)],
        due: &[1],
        plan: "credentials 1, no anchor",
        ..OPEN
    },
    Row {
        why: "no anchor ends while a call may issue through it; what is known is revoked meanwhile",
        credentials: &[(1, InDoubt(5)), (2, Revoking(Some(1))), (3, InDoubt(6))],
        anchors: &[(1, 0)],
        in_flight: &[3],
        due: &[1, 2],
        plan: "credentials 2, no anchor",
        ..OPEN
    },
    Row {
        why: "until then a sibling whose time has not come is not tried again and again",
        credentials: &[(1, InDoubt(5)), (2, Revoking(Some(1))), (3, InDoubt(6))],
        anchors: &[(1, 0)],
        in_flight: &[3],
        due: &[1],
        plan: "wait",
        ..OPEN
    },
    Row {
        why: "a doubt ends the anchors with its key; what hangs on others goes on",
        credentials: &[(1, InDoubt(5)), (2, Active(Some(2))), (3, Asked)],
        anchors: &[(1, 0), (2, 0)],
        keys: &[(1, "a"), (2, "b"), (3, "b")],
        due: &[1],
        plan: "credentials 1, anchors 1",
        ..OPEN
    },
    Row {
        why: "an anchor that an earlier release recorded has no key, and may be any credential's",
        credentials: &[(1, InDoubt(5)), (2, Active(Some(2))), (3, Asked)],
        anchors: &[(1, 0), (2, 0)],
        keys: &[(1, "a"), (3, "b")],
        due: &[1],
        plan: "mark 2 3",
        ..OPEN
    },
    Row {
        why: "what an earlier release asked for may hang on any anchor",
        credentials: &[(1, InDoubt(5)), (3, Asked)],
        anchors: &[(2, 0), (4, 0)],
        keys: &[(2, "b"), (3, "b"), (4, "c")],
        due: &[1],
        plan: "mark 3",
        ..OPEN
    },
    Row {
        why: "doubts with anchors of their own are revoked each at its time",
        credentials: &[(1, InDoubt(5)), (2, InDoubt(5)), (3, InDoubt(6))],
        anchors: &[(1, 0), (2, 0)],
        keys: &[(1, "a"), (2, "b"), (3, "a")],
        due: &[1],
        plan: "credentials 1 3, anchors 1",
        ..OPEN
    },
    Row {
        why: "beside an anchor without a key they are revoked together",
        credentials: &[(1, InDoubt(5)), (2, InDoubt(5))],
        anchors: &[(1, 0), (2, 0), (4, 0)],
        keys: &[(1, "a"), (2, "b")],
        due: &[1],
        plan: "credentials 1 2, anchors 1 2 4",
        ..OPEN
    },
    Row {
        why: "a call through an anchor that stays is not waited for",
        credentials: &[(1, InDoubt(5)), (3, InDoubt(6)), (5, Asked)],
        anchors: &[(1, 0), (2, 0)],
        keys: &[(1, "a"), (2, "b"), (3, "b"), (5, "b")],
        in_flight: &[3, 5],
        due: &[1],
        plan: "credentials 1, anchors 1",
        ..OPEN
    },
    Row {
        why: "the task ended: a call through any anchor is waited for",
        credentials: &[(1, Revoking(Some(1))), (3, InDoubt(6))],
        anchors: &[(1, 0)],
        keys: &[(1, "a"), (3, "b")],
        in_flight: &[3],
        due: &[1],
        plan: "credentials 1, no anchor",
        ..ENDED
    },
    Row {
        why: "the task ended: every key's anchors end",
        credentials: &[(1, InDoubt(5)), (2, Revoking(Some(2)))],
        anchors: &[(1, 0), (2, 9)],
        keys: &[(1, "a"), (2, "b")],
        due: &[1],
        plan: "task 1, anchors 1 2",
        ..ENDED
    },
    Row {
        why: "the task ended: everything there is revoked as one, with its anchors",
        credentials: &[(1, Revoking(Some(1))), (2, Revoking(None)), (3, InDoubt(5))],
        anchors: &[(1, 0), (2, 9)],
        due: &[1, 2],
        plan: "task 1 2 3, anchors 1 2",
        ..ENDED
    },
    Row {
        why: "the task ended: while a call runs its anchors stay",
        credentials: &[(1, Revoking(Some(1))), (2, InDoubt(5))],
        anchors: &[(1, 0)],
        in_flight: &[2],
        due: &[1],
        plan: "credentials 1, no anchor",
        ..ENDED
    },
    Row {
        why: "the task ended: an intent that is not marked yet may still be minted",
        credentials: &[(1, Revoking(Some(1))), (2, Asked)],
        anchors: &[(1, 0)],
        due: &[1],
        plan: "credentials 1, no anchor",
        ..ENDED
    },
    Row {
        why: "the task ended: a call that no intent names keeps the anchors, too",
        credentials: &[(1, Revoking(Some(1)))],
        anchors: &[(1, 0)],
        unrecorded: &[2],
        due: &[1],
        plan: "credentials 1, no anchor",
        ..ENDED
    },
    Row {
        why: "the task ended and only a call that no intent names is left",
        anchors: &[(1, 0)],
        unrecorded: &[2],
        ..ENDED
    },
    Row {
        why: "a call that no intent names keeps the anchor of a doubt with its key",
        credentials: &[(1, InDoubt(5))],
        anchors: &[(3, 0)],
        keys: &[(1, "k"), (2, "k"), (3, "k")],
        unrecorded: &[2],
        due: &[1],
        ..OPEN
    },
    Row {
        why: "a call that no intent names and with another key keeps nothing",
        credentials: &[(1, InDoubt(5))],
        anchors: &[(3, 0)],
        keys: &[(1, "k"), (2, "other"), (3, "k")],
        unrecorded: &[2],
        due: &[1],
        plan: "credentials 1, anchors 3",
        ..OPEN
    },
    Row {
        why: "the task ended and only a call is left: nothing can be done yet",
        credentials: &[(1, InDoubt(5))],
        anchors: &[(1, 0)],
        in_flight: &[1],
        ..ENDED
    },
    Row {
        why: "the task ended and all is dead but the anchors",
        credentials: &[(1, Dead)],
        anchors: &[(1, 0)],
        plan: "task nothing, anchors 1",
        ..ENDED
    },
    Row {
        why: "nothing is left at all",
        credentials: &[(1, Dead)],
        ..ENDED
    },
];

#[test]
fn each_situation_has_its_plan() {
    for row in TABLE {
        let due = row.due.iter().map(|n| credential_id(*n)).collect();
        let plan = plan_revocation(&due, &situation(row));
        assert_eq!(shown(&plan), row.plan, "{}", row.why);
    }
}

/// Marking ends once no credential is left to mark, so the loop over plans ends.
#[test]
fn a_plan_that_marks_is_followed_by_one_that_does_not() {
    for row in TABLE {
        let due = row.due.iter().map(|n| credential_id(*n)).collect();
        let mut situation = situation(row);
        let Plan::Mark(marked) = plan_revocation(&due, &situation) else {
            continue;
        };
        for credential in &mut situation.credentials {
            if marked.contains(&credential.id) {
                revoking(Arc::make_mut(credential), 8);
            }
        }
        let next = plan_revocation(&due, &situation);
        assert!(!matches!(next, Plan::Mark(_)), "{}: {next:?}", row.why);
    }
}

fn at(seconds: u32) -> Timestamp {
    BEGAN.plus(Duration::from_secs(seconds.into()))
}

fn credential_id(n: u64) -> CredentialId {
    format!("c{n:016}").parse().unwrap()
}

fn anchor_id(n: u64) -> AnchorId {
    format!("a{n:016}").parse().unwrap()
}

fn role() -> RoleName {
    "vault-main/ci".parse().unwrap()
}

fn revoking(credential: &mut Credential, since: u32) {
    credential.state = CredentialState::Revoking;
    credential.revocation = Some(Box::new(Revocation {
        cause: RevokeCause::OutcomeUnknown,
        since: at(since),
        attempts: 0,
        retry_at: at(since),
        last_error: None,
        stuck: false,
        done_at: None,
        proof: None,
        may_live_until: None,
        identity_until: None,
    }));
}

fn credential(task: &Task, n: u64, is: Is) -> Credential {
    let mut credential = Credential::from(CredentialIntent {
        id: credential_id(n),
        task: task.id,
        agent: task.agent.clone(),
        role: role(),
        scope: Scope::default(),
        revocation_class: RevocationClass::Immediate,
        intended_at: BEGAN,
        expires_at: at(60),
        anchor_key: None,
        handle: None,
    });
    if let Active(anchor) | Revoking(anchor) = is {
        credential.record_issued(at(1), at(60));
        credential.anchor = anchor.map(anchor_id);
    }
    match is {
        Asked | Active(_) => {}
        Revoking(_) => revoking(&mut credential, 2),
        InDoubt(since) => revoking(&mut credential, since),
        Dead => {
            revoking(&mut credential, 2);
            credential.state = CredentialState::RevokedVerified;
        }
    }
    credential
}

fn situation(row: &Row) -> Situation {
    let task = Task {
        id: "t0000000000000001".parse().unwrap(),
        agent: "builder".parse().unwrap(),
        purpose: "revoke by table".parse().unwrap(),
        requester: Requester::SelfDeclared { name: None },
        roles: [(role(), Scope::default())].into(),
        started_at: BEGAN,
        deadline: at(60),
        heartbeat: None,
        parent: None,
        depth: 0,
        max_credentials: 9,
        labels: Labels::default(),
        state: if row.ended {
            TaskState::Ending
        } else {
            TaskState::Open
        },
        end_cause: None,
        ending_at: None,
        ended_at: None,
    };
    let key = |n: u64| {
        let named = row.keys.iter().find(|(of, _)| *of == n);
        named.map(|(_, key)| AnchorKey::of([*key]))
    };
    let anchor = |(n, recorded): &(u64, u32)| Anchor {
        id: anchor_id(*n),
        task: task.id,
        provider: role().provider().clone(),
        key: key(*n),
        handle: serde_json::json!({ "accessor": n }).into(),
        recorded_at: at(*recorded),
        expires_at: at(60),
        state: AnchorState::Live,
    };
    let credentials = row.credentials.iter();
    Situation {
        credentials: credentials
            .map(|(n, is)| {
                let mut credential = credential(&task, *n, *is);
                credential.anchor_key = key(*n);
                Arc::new(credential)
            })
            .collect(),
        anchors: row.anchors.iter().map(anchor).map(Arc::new).collect(),
        in_flight: row.in_flight.iter().map(|n| credential_id(*n)).collect(),
        unrecorded: row.unrecorded.iter().map(|n| key(*n)).collect(),
        task: Arc::new(task),
    }
}

/// A plan in words: ids by their number, in the order of the plan.
fn shown(plan: &Plan) -> String {
    let numbers = |ids: Vec<String>| {
        let numbers = ids.iter().map(|id| id.trim_start_matches(['a', 'c', '0']));
        numbers.collect::<Vec<_>>().join(" ")
    };
    let or = |text: String, none: &str| {
        if text.is_empty() {
            none.to_owned()
        } else {
            text
        }
    };
    match plan {
        Plan::Wait => "wait".to_owned(),
        Plan::Mark(ids) => {
            let ids = ids.iter().map(ToString::to_string).collect();
            format!("mark {}", numbers(ids))
        }
        Plan::Revoke(selected) => {
            let scope = match selected.scope {
                RevokeScope::Task => "task",
                RevokeScope::Credentials => "credentials",
            };
            let ids = selected.credentials.iter().map(|c| c.id.to_string());
            let anchors = selected.anchors.iter().map(|a| a.id.to_string());
            let anchors = match numbers(anchors.collect()) {
                none if none.is_empty() => "no anchor".to_owned(),
                some => format!("anchors {some}"),
            };
            let ids = or(numbers(ids.collect()), "nothing");
            format!("{scope} {ids}, {anchors}")
        }
    }
}
