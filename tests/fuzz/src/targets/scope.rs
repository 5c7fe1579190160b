//! Scope parameters against a role's rules. Each line declares a rule or gives a value:
//! `name~pattern`, `name|one,of`, `name<max`, `name=value`.

use std::collections::BTreeMap;

use taskpass_core::{Impact, ParamName, ParamRule, RevocationClass, RoleSpec, Scope, Ttl, limits};
use taskpass_provider::config::{ParamConfig, param_rules};

use crate::{
    input,
    wording::{VALUE_CHARS_MAX, one_line},
};

pub(crate) fn run(data: &[u8]) {
    let Some(text) = input::text(data) else {
        return;
    };
    let mut configs: BTreeMap<ParamName, ParamConfig> = BTreeMap::new();
    let mut pairs = Vec::new();
    for line in text.split('\n') {
        let Some((name, sign, rest)) = declaration(line) else {
            continue;
        };
        if sign == '=' {
            pairs.push((name, rest));
            continue;
        }
        let Ok(name) = name.parse() else { continue };
        let config = configs.entry(name).or_default();
        match sign {
            '~' => config.pattern = Some(rest.to_owned()),
            '|' => config.one_of = Some(rest.split(',').map(str::to_owned).collect()),
            _ => config.max = rest.parse().ok(),
        }
    }
    let scope = Scope::from_pairs(pairs.iter().copied());
    let rules = param_rules(&configs);
    match (scope, rules) {
        (Ok(scope), Ok(rules)) => {
            follows_the_limits(&scope);
            check(&scope, rules, &configs);
        }
        (scope, rules) => {
            for error in [scope.err(), rules.err()].into_iter().flatten() {
                one_line(error, VALUE_CHARS_MAX);
            }
        }
    }
}

fn declaration(line: &str) -> Option<(&str, char, &str)> {
    let at = line.find(['~', '|', '<', '='])?;
    let (name, rest) = line.split_at(at);
    let sign = rest.chars().next()?;
    Some((name, sign, rest.split_at(1).1))
}

fn follows_the_limits(scope: &Scope) {
    assert!(scope.iter().count() <= limits::SCOPE_PARAMS_MAX);
    for (name, value) in scope.iter() {
        assert!(name.as_str().len() <= limits::NAME_BYTES_MAX);
        assert!(value.len() <= limits::SCOPE_VALUE_BYTES_MAX);
        assert!(!value.contains(char::is_control));
        assert_eq!(scope.value(name.as_str()), Some(value));
    }
    let json = serde_json::to_string(scope).expect("a scope is JSON");
    assert_eq!(
        serde_json::from_str::<Scope>(&json).ok().as_ref(),
        Some(scope)
    );
    assert_eq!(scope.merged_with(scope).as_ref(), Ok(scope));
}

/// Asserts that accepted values fit the rule as it was written. This code shares nothing with the
/// role's.
fn check(
    scope: &Scope,
    params: BTreeMap<ParamName, ParamRule>,
    configs: &BTreeMap<ParamName, ParamConfig>,
) {
    let required: Vec<ParamName> = params.keys().take(1).cloned().collect();
    let role = RoleSpec {
        name: "vault-main/fuzz".parse().expect("a role"),
        kind: "dynamic".to_owned(),
        params,
        required: required.clone(),
        max_ttl: Ttl::MAX,
        max_total_ttl: None,
        impact: Impact::Read,
        environment: String::new(),
        data_classes: Vec::new(),
        revocation_class: RevocationClass::Immediate,
        renewable: false,
        env: BTreeMap::new(),
    };
    if let Err(error) = role.check_scope(scope) {
        // A rule is text of the platform team; the message repeats it in full.
        let rules: usize = configs.values().map(|c| format!("{c:?}").len()).sum();
        one_line(error, VALUE_CHARS_MAX + 2 * rules);
        return;
    }
    assert_eq!(role.check_pins(scope), Ok(()));
    assert!(
        required
            .iter()
            .all(|name| scope.value(name.as_str()).is_some())
    );
    for (name, value) in scope.iter() {
        let config = configs.get(name).expect("only known parameters");
        if let Some(values) = &config.one_of {
            assert!(values.iter().any(|one| one == value));
        }
        if let Some(max) = config.max {
            assert!(
                value.parse::<u64>().is_ok_and(|n| n <= max),
                "{value} > {max}"
            );
        }
        if let Some(pattern) = &config.pattern {
            let whole = regex::Regex::new(&format!(r"\A(?:{pattern})\z")).expect("it was one");
            assert!(
                whole.is_match(value),
                "{value:?} is no match of {pattern:?}"
            );
        }
    }
}
