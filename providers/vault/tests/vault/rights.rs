//! The rights of the broker's own token: all that the example policy grants is needed, and with it
//! the broker gets no policy that the token role does not allow.

use std::time::Duration;

use serde_json::{Value, json};
use taskpass_core::ManualClock;
use taskpass_provider::{
    Provider, ProviderError, RenewOrder, RevokeOrder, RevokeScope, Revoked,
    conformance::{Fixture, RecordedAnchors, intent_item, known_item, revoke_order},
};
use taskpass_provider_vault::VaultProvider;

use crate::world::{CREATE_ORPHAN, World, broker_policy};

/// Where the example policy lets the broker find the leases of a role of these tests.
const LEASES_OF_ROLE: &str = "sys/leases/lookup/pki/issue/+/";
/// The same of a role with an engine that revokes nothing, so that nothing is proven there.
const LEASES_OF_OTHER_ROLE: &str = "sys/leases/lookup/leased/+/";

/// Each right of the example policy, and the first step of a broker's work that fails without it.
const NEEDED_FOR: [(&str, &str, &str); 15] = [
    ("auth/token/create/taskpass", "update", "issue"),
    ("auth/token/renew-accessor", "update", "issue"),
    ("auth/token/lookup-accessor", "update", "revoke a token"),
    ("auth/token/revoke-accessor", "update", "revoke a token"),
    ("sys/leases/lookup", "update", "revoke a lease"),
    ("sys/leases/renew", "update", "renew"),
    ("sys/leases/revoke", "update", "revoke a lease"),
    (LEASES_OF_ROLE, "list", "prove a lost answer"),
    (LEASES_OF_ROLE, "sudo", "prove a lost answer"),
    ("sys/mounts", "read", "prove a lost answer"),
    ("auth/token/lookup-self", "read", "maintain"),
    ("auth/token/renew-self", "update", "maintain"),
    ("sys/capabilities-self", "update", "check"),
    ("sys/capabilities-accessor", "update", "check"),
    ("auth/token/roles/taskpass", "read", "check"),
];

/// The rights in a policy: path and capability.
fn rights(policy: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut path = String::new();
    for line in policy.lines().map(str::trim) {
        if let Some(rest) = line.strip_prefix("path \"") {
            rest.split('"').next().unwrap().clone_into(&mut path);
        }
        if let Some(rest) = line.strip_prefix("capabilities = [") {
            for capability in rest.trim_end_matches(']').split(", ") {
                found.push((path.clone(), capability.trim_matches('"').to_owned()));
            }
        }
    }
    found
}

/// The policy that grants these rights.
fn policy(rights: &[(String, String)]) -> String {
    let mut text = String::new();
    for (path, _) in rights {
        let of_path = rights.iter().filter(|(of, _)| of == path);
        let capabilities: Vec<&str> = of_path.map(|(_, one)| one.as_str()).collect();
        let block = format!("path \"{path}\" {{ capabilities = {capabilities:?} }}\n");
        if !text.contains(&block) {
            text.push_str(&block);
        }
    }
    text
}

#[tokio::test]
async fn with_the_example_policy_everything_works_and_with_less_it_does_not() {
    let mut granted = rights(&broker_policy());
    granted.retain(|(path, _)| path != LEASES_OF_OTHER_ROLE);
    let named = NEEDED_FOR.map(|(path, one, _)| (path.to_owned(), one.to_owned()));
    let mut sorted = [granted.clone(), named.to_vec()];
    sorted.iter_mut().for_each(|list| list.sort());
    assert_eq!(sorted[0], sorted[1], "the table has every right");

    let (world, clock) = World::with_manual_clock("pki").await;
    world.set_broker_policy(&policy(&granted)).await;
    assert_eq!(failing_step(&world, &clock).await, None);
    for (path, capability, step) in NEEDED_FOR {
        let mut less = granted.clone();
        less.retain(|(p, c)| (p.as_str(), c.as_str()) != (path, capability));
        world.set_broker_policy(&policy(&less)).await;
        let failed = failing_step(&world, &clock).await;
        assert_eq!(failed, Some(step), "without {capability} on `{path}`");
    }
}

/// Does all that a broker does at Vault, in a fresh process, and names the first step that fails.
async fn failing_step(world: &World, clock: &ManualClock) -> Option<&'static str> {
    let provider = world.restarted();
    let (task, anchors) = (world.new_task(), RecordedAnchors::new());
    let token = world.order_for(task, "reader", &[]);
    let lease = world.pki_order(task, "pki");
    let mut items = Vec::new();
    for order in [&token, &lease] {
        let Ok(issued) = provider.issue(order, &anchors).await else {
            return Some("issue");
        };
        items.push(known_item(order, &issued, &anchors, world.now()));
    }
    let renewal = RenewOrder {
        credential: lease.credential,
        task,
        role: lease.role.clone(),
        handle: items[1].handle.clone(),
        anchor: items[1].anchor.clone(),
        until: lease.expires_at,
    };
    // Allowed to ask, the broker is told that a certificate has no other end.
    let renewed = provider.renew(&renewal).await;
    if !matches!(renewed, Err(ProviderError::Unsupported(_))) {
        return Some("renew");
    }
    for (item, step) in items.iter().zip(["revoke a token", "revoke a lease"]) {
        let one = vec![item.clone()];
        let order = revoke_order(&lease, RevokeScope::Credentials, &anchors, one);
        if !is_verified(revoked(&provider, &order).await) {
            return Some(step);
        }
    }
    let lost = world.pki_order(task, "pki");
    let lost = vec![intent_item(&provider, &lost, world.now())];
    let end = revoke_order(&lease, RevokeScope::Task, &anchors, lost);
    // As another broker process does, which has not asked this Vault for anything yet.
    let after = world.restarted();
    if let Err(ProviderError::Retryable {
        after: Some(left), ..
    }) = revoked(&after, &end).await
    {
        clock.advance(left + Duration::from_secs(1));
    }
    if !is_verified(revoked(&after, &end).await) {
        return Some("prove a lost answer");
    }
    world.use_an_old_token().await;
    if after.maintain().await.is_err() {
        return Some("maintain");
    }
    let health = after.check().await;
    // The other warnings are about roles of the tests.
    let about_rights = |w: &String| {
        let of_other_role = w.contains("`sys/leases/lookup/leased/");
        (w.starts_with("without") && !of_other_role)
            || w.starts_with("token role")
            || w.starts_with("the broker's token")
    };
    match health {
        Ok(health) if !health.warnings.iter().any(about_rights) => None,
        _ => Some("check"),
    }
}

async fn revoked(provider: &VaultProvider, order: &RevokeOrder) -> Result<Revoked, ProviderError> {
    provider.revoke(order).await?.remove(0)
}

fn is_verified(outcome: Result<Revoked, ProviderError>) -> bool {
    matches!(outcome, Ok(revoked) if revoked.verified)
}

/// A thief of the broker's token asks for more than the token role allows.
#[tokio::test]
async fn the_brokers_token_gets_no_policy_that_the_token_role_does_not_allow() {
    let world = World::new("reader").await;
    let by_role = "auth/token/create/taskpass";
    let ask = async |path: &str, body: Value| {
        let token = &world.broker_token;
        world.bao.call_as(token, "POST", path, body).await
    };
    for policies in [
        json!(["root"]),
        json!(["broker"]),
        json!(["default"]),
        json!(["reader", "broker"]),
        json!(["unknown"]),
    ] {
        let (status, answer) = ask(by_role, json!({ "policies": policies })).await;
        assert!((400..=403).contains(&status), "{policies}: {answer}");
    }
    for more in [
        json!({"entity_alias": "admin"}),
        json!({"id": "a-token-of-mine"}),
    ] {
        let mut body = json!({"policies": ["reader"]});
        body.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        let (status, answer) = ask(by_role, body).await;
        assert!((400..=403).contains(&status), "{more}: {answer}");
    }
    for path in [
        "auth/token/create",
        "auth/token/create-orphan",
        "auth/token/create/other",
        "auth/token/roles/taskpass",
        "sys/policies/acl/broker",
        "sys/policies/acl/reader",
    ] {
        let (status, answer) = ask(path, json!({"policies": ["reader"]})).await;
        assert_eq!(status, 403, "{path}: {answer}");
    }
    // Without a list the role gives what it allows, and no more.
    let (status, answer) = ask(by_role, json!({})).await;
    assert_eq!(status, 200);
    let policies = answer["auth"]["policies"].as_array().unwrap();
    assert!(
        policies
            .iter()
            .all(|one| one != "broker" && one != "default")
    );
    assert_eq!(answer["auth"]["orphan"], true);
}

/// The settings of the token role come before those of the request.
#[tokio::test]
async fn a_token_role_that_makes_other_tokens_is_refused() {
    let world = World::new("reader").await;
    let before = world.accessors().await.len();
    for (wrong, word) in [
        (json!({"orphan": false}), "orphan=true"),
        (json!({"renewable": false}), "renewable=true"),
        (
            json!({"token_type": "batch", "renewable": false, "token_explicit_max_ttl": 0}),
            "token_type=service",
        ),
        (json!({"token_period": "1h"}), "token_period=0"),
        (json!({"token_num_uses": 2}), "token_num_uses=0"),
        (json!({"allowed_policies": []}), "allowed_policies"),
    ] {
        world.set_token_role(wrong.clone()).await;
        let checked = world.provider.check().await;
        assert!(
            matches!(&checked, Err(ProviderError::Misconfigured(text)) if text.contains(word)),
            "{wrong}: {checked:?}"
        );
        let order = world.order(world.new_task());
        let anchors = RecordedAnchors::new();
        let issued = world.provider.issue(&order, &anchors).await;
        let may_work = wrong.get("token_period").is_some() || wrong.get("token_num_uses").is_some();
        assert!(issued.is_err() || may_work, "{wrong}");
        if let Ok(issued) = issued {
            let item = known_item(&order, &issued, &anchors, world.now());
            let end = revoke_order(&order, RevokeScope::Task, &anchors, vec![item]);
            assert!(is_verified(revoked(&world.provider, &end).await));
        }
        world.set_token_role(json!({"orphan": true, "renewable": true, "token_type": "service", "token_period": 0, "token_num_uses": 0})).await;
    }
    assert_eq!(world.accessors().await.len(), before, "a token was left");
    for (wide, word) in [
        (json!({"allowed_policies_glob": ["*"]}), "every policy"),
        (
            json!({"token_no_default_policy": false}),
            "token_no_default_policy=true",
        ),
        (
            json!({"allowed_entity_aliases": ["admin"]}),
            "allowed_entity_aliases=",
        ),
        (
            json!({"token_explicit_max_ttl": 0}),
            "token_explicit_max_ttl",
        ),
    ] {
        world.set_token_role(wide.clone()).await;
        let warnings = world.provider.check().await.unwrap().warnings;
        assert!(
            warnings.iter().any(|w| w.contains(word)),
            "{wide}: {warnings:?}"
        );
        world.set_token_role(json!({"allowed_policies_glob": [], "allowed_entity_aliases": [], "token_explicit_max_ttl": "8h"})).await;
    }
    world
        .set_token_role(json!({"allowed_policies": ["web"]}))
        .await;
    let warnings = world.provider.check().await.unwrap().warnings;
    let reader = warnings.iter().find(|w| w.contains("`vault-test/reader`"));
    assert!(reader.is_some_and(|w| w.contains("let token role `taskpass` allow reader")));
    world
        .bao
        .must("DELETE", "auth/token/roles/taskpass", json!({}))
        .await;
    let gone = world.provider.check().await;
    assert!(
        matches!(&gone, Err(ProviderError::Misconfigured(text)) if text.contains("no token role")),
        "{gone:?}"
    );
}

/// Without a token role the broker works as before, and a check says that it has too many rights.
#[tokio::test]
async fn rights_that_are_wider_than_needed_are_named() {
    let world = World::new("reader").await;
    world
        .set_broker_policy(&format!("{}\n{CREATE_ORPHAN}", broker_policy()))
        .await;
    let warned = |warnings: &[String], word: &str| warnings.iter().any(|w| w.contains(word));
    let warnings = world.provider.check().await.unwrap().warnings;
    assert!(warned(&warnings, "take that away"), "{warnings:?}");
    let world = world.without_token_role().await;
    let warnings = world.provider.check().await.unwrap().warnings;
    assert!(warned(&warnings, "without `token_role`"), "{warnings:?}");
    let wide = broker_policy().replacen("[\"update\"]", "[\"update\", \"sudo\"]", 1);
    world.set_broker_policy(&wide).await;
    let warnings = world.restarted().check().await.unwrap().warnings;
    assert!(
        warned(&warnings, "sudo on `auth/token/create/taskpass`"),
        "{warnings:?}"
    );
}

/// A thief who may list every lease of Vault could revoke those of everybody else.
#[tokio::test]
async fn the_brokers_token_lists_the_leases_of_its_roles_only() {
    let world = World::new("pki").await;
    let above = "sys/leases/lookup/pki/";
    let of_role = "sys/leases/lookup/pki/issue/web/";
    let lists = async |path: &str| {
        let token = &world.broker_token;
        world.bao.call_as(token, "LIST", path, Value::Null).await.0
    };
    let too_wide = async || {
        let warnings = world.provider.check().await.unwrap().warnings;
        let found = warnings.iter().find(|w| w.contains("may list all leases"));
        found.cloned()
    };
    for path in ["sys/leases/lookup/", above, "sys/leases/lookup/auth/"] {
        assert_eq!(lists(path).await, 403, "{path}");
    }
    assert_eq!(lists(of_role).await, 404, "allowed, and there is none");
    assert_eq!(too_wide().await, None);

    let wide = format!(
        "{}\npath \"sys/leases/lookup/*\" {{ capabilities = [\"list\", \"sudo\"] }}",
        broker_policy()
    );
    world.set_broker_policy(&wide).await;
    assert_ne!(lists(above).await, 403);
    let warning = too_wide().await.unwrap();
    assert!(warning.contains(&format!("`{of_role}`")), "{warning}");
}
