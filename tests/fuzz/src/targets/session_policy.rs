//! A role's session policy, narrowed by a scope: the template, a zero byte, then lines
//! `name=value`.

use serde_json::Value;
use taskpass_core::Scope;

use crate::{fixtures, input, wording};

/// STS takes no more.
const CHARACTERS_MAX: usize = 2048;

pub(crate) fn run(data: &[u8]) {
    let Some((template, pairs)) = input::text(data).and_then(|text| text.split_once('\0')) else {
        return;
    };
    let pairs = pairs.split('\n').filter_map(|line| line.split_once('='));
    let Ok(scope) = Scope::from_pairs(pairs) else {
        return;
    };
    match taskpass_provider_aws::fuzz::session_policy(template, &scope, fixtures::now()) {
        Ok(policy) => accepted(template, &scope, &policy),
        Err(error) => drop(wording::one_line(error, wording::VALUE_CHARS_MAX)),
    }
}

fn accepted(template: &str, scope: &Scope, policy: &str) {
    assert!(policy.chars().count() <= CHARACTERS_MAX);
    let policy: Value = serde_json::from_str(policy).expect("JSON");
    let written: Value = serde_json::from_str(template).expect("JSON");
    let statements = list(&policy["Statement"]);
    let (given, ours) = statements.split_at(statements.len() - 2);
    let deadline = &ours[0]["Condition"]["DateGreaterThanEquals"]["aws:CurrentTime"];
    assert_eq!(deadline, "2026-11-22T12:00:00Z");
    for denial in &ours[..1] {
        assert!(denial["Effect"] == "Deny" && denial["Action"] == "*" && denial["Resource"] == "*");
    }
    assert!(ours[1]["Effect"] == "Deny" && ours[1]["Action"] == "sts:Assume*");
    let templates = list(&written["Statement"]);
    assert_eq!(given.len(), templates.len());
    for (given, template) in given.iter().zip(&templates) {
        same_structure(template, given, scope);
    }
}

fn list(value: &Value) -> Vec<Value> {
    match value {
        Value::Array(many) => many.clone(),
        one => vec![one.clone()],
    }
}

/// Asserts that only texts with a parameter differ, and only in its value: wildcards and variables
/// come from the template.
fn same_structure(template: &Value, given: &Value, scope: &Scope) {
    match (template, given) {
        (Value::String(template), Value::String(given)) if template != given => {
            assert!(template.contains("${"), "{template} became {given}");
            assert!(scope.iter().any(|(_, value)| given.contains(value)));
            for special in ['*', '?', '$', '{', '}'] {
                let count = |text: &str| text.matches(special).count();
                assert!(count(given) <= count(template), "{template} became {given}");
            }
        }
        (Value::Array(template), Value::Array(given)) => {
            assert_eq!(template.len(), given.len());
            let pairs = template.iter().zip(given);
            pairs.for_each(|(template, given)| same_structure(template, given, scope));
        }
        (Value::Object(template), Value::Object(given)) => {
            assert!(template.keys().eq(given.keys()));
            let pairs = template.values().zip(given.values());
            pairs.for_each(|(template, given)| same_structure(template, given, scope));
        }
        // Fractions may lose their last digit, and have no meaning in a policy.
        (Value::Number(template), Value::Number(given)) if template.is_f64() => {
            assert!(given.is_f64());
        }
        (template, given) => assert_eq!(template, given),
    }
}
