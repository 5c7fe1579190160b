//! For random templates, scopes and histories: no session is allowed more than its template and
//! scope; ended tasks are always denied; other tasks never, unless the list overflowed, and then
//! only sessions older than that.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use proptest::prelude::*;
use taskpass_core::{AgentName, Clock, ManualClock, Scope, SeededEntropy, TaskId, Timestamp};

use super::{
    evaluator::{Request, Token, allowed, matches},
    scale::{MemoryIam, exact_ids},
};
use crate::{
    deny_list::{AGENT_TAG, CLOCK_MARGIN, Mark, TASK_TAG},
    session_policy::Template,
};

const EVERYTHING: &str =
    r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"*","Resource":"*"}]}"#;

fn noon() -> Timestamp {
    "2026-11-22T12:00:00Z".parse().unwrap()
}

/// A pattern of a template: pieces of text, wildcards and the parameters `p` and `q`.
fn pattern() -> impl Strategy<Value = Vec<&'static str>> {
    let piece = prop::sample::select(vec!["a", "b", "/", ":", "*", "?", "${p}", "${q}", "$"]);
    prop::collection::vec(piece, 1..6)
}

fn value() -> impl Strategy<Value = String> {
    prop_oneof![4 => "[ab/:\"\\\\]{0,4}", 1 => "[ab*?$\\{\\}]{1,3}"]
}

fn subject() -> impl Strategy<Value = String> {
    "[ab/:$\"\\\\]{0,8}"
}

/// The meaning of a pattern, computed without the rendering: a parameter is its value, letter by
/// letter.
fn meaning(pattern: &[&str], p: &str, q: &str) -> Vec<Token> {
    let literal = |text: &str| text.chars().map(Token::Is).collect::<Vec<_>>();
    pattern
        .iter()
        .flat_map(|piece| match *piece {
            "*" => vec![Token::Any],
            "?" => vec![Token::One],
            "${p}" => literal(p),
            "${q}" => literal(q),
            text => literal(text),
        })
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_session_is_allowed_exactly_template_and_scope_until_its_deadline(
        allow in pattern(), deny in pattern(), p in value(), q in value(),
        subject in subject(), seconds in -5_i64..5,
    ) {
        let used: String = allow.iter().chain(&deny).copied().collect();
        let declared: BTreeSet<_> =
            ["p", "q"].into_iter().filter(|n| used.contains(&format!("${{{n}}}"))).map(|n| n.parse().unwrap()).collect();
        let document = serde_json::json!({"Version": "2012-10-17", "Statement": [
            {"Effect": "Allow", "Action": ["s3:Get*", "sts:*"], "Resource": allow.concat()},
            {"Effect": "Deny", "Action": "*", "Resource": deny.concat()},
        ]});
        let template = Template::parse(&document.to_string(), &declared);
        // Pieces may join to another placeholder, such as `$` and `${p}`; that is still a template.
        prop_assert!(template.is_ok(), "{template:?}");
        let scope = Scope::from_pairs([("p", p.as_str()), ("q", q.as_str())]).unwrap();
        let special = |v: &str| v.contains(['*', '?', '$', '{', '}']);
        let rendered = template.unwrap().render(&scope, noon());
        let refused = (declared.contains(&"p".parse().unwrap()) && special(&p))
            || (declared.contains(&"q".parse().unwrap()) && special(&q));
        prop_assert_eq!(rendered.is_err(), refused);
        let Ok(policy) = rendered else { return Ok(()) };

        let letters: Vec<char> = subject.chars().collect();
        let forbidden = !matches(&meaning(&allow, &p, &q), &letters)
            || matches(&meaning(&deny, &p, &q), &letters);
        let now = Timestamp::from_millis(noon().millis() + seconds * 1000);
        let ask = |action| Request::new(action, &subject, now, now, &[]);
        prop_assert_eq!(
            allowed(&[EVERYTHING], &policy, &ask("s3:GetObject")),
            !forbidden && seconds < 0
        );
        for action in ["s3:PutObject", "sts:AssumeRole", "sts:AssumeRoot"] {
            prop_assert!(!allowed(&[EVERYTHING], &policy, &ask(action)));
        }
        // A template never grants more than its role has.
        prop_assert!(!allowed(&[&policy.replace("Allow", "Deny")], &policy, &ask("s3:GetObject")));
    }
}

/// An event in the history of a role's deny list.
#[derive(Debug, Clone)]
enum Happening {
    /// This many tasks begin and get a session each.
    Begin(usize),
    /// This many tasks end, beginning with the one at this place among the open ones.
    End(usize, usize),
    /// Time passes.
    Wait(u64),
    /// The broker restarts and knows only the policy in IAM.
    Restart,
    /// An operator deletes the policy or writes nonsense; the broker repairs it.
    Tamper(bool),
    Maintain,
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        4 => (1_usize..30).prop_map(Happening::Begin),
        6 => (any::<usize>(), 1_usize..30).prop_map(|(place, n)| Happening::End(place, n)),
        3 => (1_u64..400).prop_map(Happening::Wait),
        1 => Just(Happening::Restart),
        1 => any::<bool>().prop_map(Happening::Tamper),
        1 => Just(Happening::Maintain),
    ]
}

struct Session {
    agent: AgentName,
    task: TaskId,
    issued: Timestamp,
    end: Timestamp,
    ended: bool,
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn ended_tasks_are_denied_and_others_are_not(
        happenings in prop::collection::vec(happening(), 1..40),
        characters_max in prop::sample::select(vec![1024_usize, 2048, 8192]),
        seed in any::<u64>(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(history(happenings, characters_max, seed))?;
    }
}

/// The session of the `n`th task. One agent begins nine of ten.
fn session(n: usize, task: TaskId, issued: Timestamp) -> Session {
    let name = if n.is_multiple_of(10) { "b" } else { "a" };
    Session {
        agent: name.parse().unwrap(),
        task,
        issued,
        end: issued.plus(Duration::from_secs(900)),
        ended: false,
    }
}

async fn history(
    happenings: Vec<Happening>,
    characters_max: usize,
    seed: u64,
) -> Result<(), TestCaseError> {
    let clock = Arc::new(ManualClock::new(noon()));
    let entropy = SeededEntropy::new(seed);
    let iam = Arc::new(MemoryIam::default());
    *iam.clock.lock() = Some(clock.clone());
    let broker = || super::scale::list(&iam, &clock, characters_max);
    let mut list = broker();
    let mut sessions: Vec<Session> = Vec::new();
    let (mut overflowed, mut restarted) = (false, false);
    for happening in happenings {
        match happening {
            Happening::Begin(count) => {
                for _ in 0..count {
                    clock.advance(Duration::from_millis(700));
                    let task = TaskId::generate(&*clock, &entropy).unwrap();
                    sessions.push(session(sessions.len(), task, clock.now()));
                }
            }
            Happening::End(place, count) => {
                for _ in 0..count {
                    let mut open: Vec<_> = sessions.iter_mut().filter(|s| !s.ended).collect();
                    if open.is_empty() {
                        break;
                    }
                    let session = open.swap_remove(place % open.len());
                    session.ended = true;
                    let marks = [(Mark::Task(session.task), session.end)];
                    let written = list.deny(&session.agent, &marks).await.unwrap();
                    overflowed |= written.windows.all > 0;
                }
            }
            Happening::Wait(seconds) => clock.advance(Duration::from_secs(seconds)),
            Happening::Restart => {
                list = broker();
                restarted = true;
            }
            Happening::Tamper(delete) => {
                // Only while the broker's memory is complete: ids that are removed while no broker
                // knows them are lost.
                if restarted {
                    continue;
                }
                *iam.document.lock() = (!delete).then(|| "nonsense".to_owned());
                list.refresh().await.unwrap();
            }
            Happening::Maintain => {
                list.refresh().await.unwrap();
            }
        }
        check(&sessions, &iam, clock.now(), characters_max, overflowed)?;
    }
    // Once every session has expired, the list is empty.
    clock.advance(Duration::from_secs(2 * 3600));
    list.refresh().await.unwrap();
    if let Some(document) = iam.document.lock().clone() {
        prop_assert!(
            exact_ids(&document).is_empty() && !document.contains("StringLike"),
            "{document}"
        );
    }
    Ok(())
}

/// Whether the document has windows of time for sessions of an agent.
fn folds_over(document: &str, agent: &AgentName) -> bool {
    let document: serde_json::Value = serde_json::from_str(document).unwrap();
    let statements = document["Statement"].as_array().cloned();
    statements.unwrap_or_default().iter().any(|statement| {
        let condition = &statement["Condition"];
        let named = &condition["StringEqualsIfExists"]["aws:PrincipalTag/taskpass-agent"];
        let named = named.as_array().cloned();
        condition.get("StringLike").is_some()
            && named.is_none_or(|named| named.iter().any(|name| name == agent.as_str()))
    })
}

fn check(
    sessions: &[Session],
    iam: &MemoryIam,
    now: Timestamp,
    characters_max: usize,
    overflowed: bool,
) -> Result<(), TestCaseError> {
    let document = iam.document.lock().clone();
    let document = document.as_deref().unwrap_or(EVERYTHING);
    prop_assert!(document.len() <= characters_max);
    for session in sessions.iter().filter(|session| session.end > now) {
        let task = session.task.to_string();
        let tags = [
            (TASK_TAG, task.as_str()),
            (AGENT_TAG, session.agent.as_str()),
        ];
        let ask = |issued| Request::new("s3:GetObject", "x", now, issued, &tags);
        let may = allowed(&[EVERYTHING, document], EVERYTHING, &ask(session.issued));
        if session.ended {
            prop_assert!(!may, "{task} has ended and is allowed by {document}");
            // The same for a session of a release that set no tag with the agent.
            let untagged = Request::new("s3:GetObject", "x", now, session.issued, &tags[..1]);
            prop_assert!(!allowed(&[EVERYTHING, document], EVERYTHING, &untagged));
        } else if !overflowed || !folds_over(document, &session.agent) {
            prop_assert!(may, "{task} is open and denied by {document}");
        } else {
            // Another task gets a working session by requesting again, once the folding is a minute
            // old.
            let later = now.plus(CLOCK_MARGIN).plus(Duration::from_secs(2));
            prop_assert!(allowed(&[EVERYTHING, document], EVERYTHING, &ask(later)));
        }
    }
    Ok(())
}
