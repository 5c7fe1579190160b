//! The part of IAM's evaluation that our policies use: role policies ∩ session policy, explicit
//! denials first.
//! <https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_evaluation-logic.html>

use std::collections::BTreeMap;

use serde_json::Value;
use taskpass_core::Timestamp;

/// A request by a session.
pub(super) struct Request {
    pub(super) action: String,
    pub(super) resource: String,
    /// Condition keys in lower case.
    pub(super) keys: BTreeMap<String, String>,
}

impl Request {
    /// `action` on `resource` at `now`, by a session issued at `issued` with `tags`.
    pub(super) fn new(
        action: &str,
        resource: &str,
        now: Timestamp,
        issued: Timestamp,
        tags: &[(&str, &str)],
    ) -> Self {
        let mut keys = BTreeMap::from([
            ("aws:currenttime".to_owned(), now.to_string()),
            (
                "aws:tokenissuetime".to_owned(),
                issued.floor_to_second().to_string(),
            ),
        ]);
        for (tag, value) in tags {
            keys.insert(
                format!("aws:principaltag/{tag}").to_lowercase(),
                (*value).to_owned(),
            );
        }
        Self {
            action: action.to_owned(),
            resource: resource.to_owned(),
            keys,
        }
    }
}

/// Whether a session with these policies may do it.
pub(super) fn allowed(role_policies: &[&str], session_policy: &str, request: &Request) -> bool {
    let documents = || role_policies.iter().chain(std::iter::once(&session_policy));
    if documents().any(|document| any(document, "Deny", request)) {
        return false;
    }
    role_policies
        .iter()
        .any(|document| any(document, "Allow", request))
        && any(session_policy, "Allow", request)
}

fn any(document: &str, effect: &str, request: &Request) -> bool {
    let document: Value = serde_json::from_str(document).unwrap();
    assert_eq!(document["Version"], "2012-10-17");
    list(&document["Statement"])
        .iter()
        .any(|statement| statement["Effect"] == effect && applies(statement, request))
}

fn applies(statement: &Value, request: &Request) -> bool {
    let hit = |plain: &str, not: &str, subject: &str| match statement.get(plain) {
        Some(patterns) => texts(patterns).iter().any(|p| like(p, subject)),
        None => !texts(&statement[not]).iter().any(|p| like(p, subject)),
    };
    let Some(conditions) = statement.get("Condition") else {
        return hit("Action", "NotAction", &request.action)
            && hit("Resource", "NotResource", &request.resource);
    };
    let met = conditions
        .as_object()
        .unwrap()
        .iter()
        .all(|(operator, keys)| {
            keys.as_object().unwrap().iter().all(|(key, expected)| {
                let Some(actual) = request.keys.get(&key.to_lowercase()) else {
                    return operator.ends_with("IfExists");
                };
                let operator = operator.trim_end_matches("IfExists");
                texts(expected).iter().any(|e| holds(operator, actual, e))
            })
        });
    met && hit("Action", "NotAction", &request.action)
        && hit("Resource", "NotResource", &request.resource)
}

fn holds(operator: &str, actual: &str, expected: &str) -> bool {
    let time = |text: &str| text.parse::<Timestamp>().unwrap();
    match operator {
        "StringEquals" => actual == expected,
        "StringLike" => like(expected, actual),
        "DateGreaterThan" => time(actual) > time(expected),
        "DateGreaterThanEquals" => time(actual) >= time(expected),
        "DateLessThan" => time(actual) < time(expected),
        other => panic!("the evaluator does not know `{other}`"),
    }
}

/// `*` is any run of characters, `?` is one.
pub(super) fn like(pattern: &str, subject: &str) -> bool {
    let (p, s): (Vec<char>, Vec<char>) = (pattern.chars().collect(), subject.chars().collect());
    let tokens: Vec<Token> = p
        .into_iter()
        .map(|c| match c {
            '*' => Token::Any,
            '?' => Token::One,
            c => Token::Is(c),
        })
        .collect();
    matches(&tokens, &s)
}

/// One part of a pattern.
#[derive(Clone, Copy)]
pub(super) enum Token {
    Any,
    One,
    Is(char),
}

/// Whether the whole subject matches.
pub(super) fn matches(tokens: &[Token], subject: &[char]) -> bool {
    match tokens.split_first() {
        None => subject.is_empty(),
        Some((Token::Any, rest)) => (0..=subject.len()).any(|n| matches(rest, &subject[n..])),
        Some((Token::One, rest)) => !subject.is_empty() && matches(rest, &subject[1..]),
        Some((Token::Is(c), rest)) => subject.first() == Some(c) && matches(rest, &subject[1..]),
    }
}

fn list(value: &Value) -> Vec<Value> {
    match value {
        Value::Array(items) => items.clone(),
        one => vec![one.clone()],
    }
}

fn texts(value: &Value) -> Vec<String> {
    list(value)
        .iter()
        .map(|v| v.as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn the_evaluator_itself() {
    let now: Timestamp = "2026-11-22T10:00:00Z".parse().unwrap();
    let all =
        r#"{"Version":"2012-10-17","Statement":{"Effect":"Allow","Action":"*","Resource":"*"}}"#;
    let get = r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"s3:Get*","Resource":"arn:?"}]}"#;
    let deny = r#"{"Version":"2012-10-17","Statement":[{"Effect":"Deny","Action":"*","Resource":"*",
        "Condition":{"StringEquals":{"aws:PrincipalTag/T":["x","y"]},"DateLessThan":{"aws:TokenIssueTime":"2026-11-22T10:00:00Z"}}}]}"#;
    let ask =
        |action, resource, issued, tag| Request::new(action, resource, now, issued, &[("t", tag)]);
    let before = now.minus(std::time::Duration::from_secs(1));
    assert!(allowed(
        &[all],
        get,
        &ask("s3:GetObject", "arn:a", now, "x")
    ));
    assert!(!allowed(
        &[all],
        get,
        &ask("s3:GetObject", "arn:ab", now, "x")
    ));
    assert!(!allowed(
        &[get],
        all,
        &ask("s3:PutObject", "arn:a", now, "x")
    ));
    assert!(!allowed(
        &[all, deny],
        all,
        &ask("s3:GetObject", "arn:a", before, "y")
    ));
    assert!(allowed(
        &[all, deny],
        all,
        &ask("s3:GetObject", "arn:a", now, "y")
    ));
    assert!(allowed(
        &[all, deny],
        all,
        &ask("s3:GetObject", "arn:a", before, "z")
    ));
}
