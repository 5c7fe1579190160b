//! Seeds of texts that people and back ends write: values, configuration, policies, templates,
//! paths, answers.

use super::{Seeds, numbered};

const INIT: &str = include_str!("../../../../broker/server/src/init/taskpass.toml");
const EXAMPLE: &str = include_str!("../../../../deploy/examples/taskpass.toml");
const ARTIFACTS: &str = include_str!("../../../../deploy/examples/policies/artifact-reader.json");
const STARTER: &str = include_str!("../../../../broker/policy/src/starter.cedar");

pub(super) fn all() -> Vec<(&'static str, Seeds)> {
    vec![
        ("values", values()),
        ("spiffe_id", numbered(SPIFFE_IDS)),
        ("scope", numbered(SCOPES)),
        ("config", configs()),
        ("policy_set", policies()),
        ("session_policy", session_policies()),
        ("vault_path", numbered(VAULT_PATHS)),
        ("vault_answer", vault_answers()),
        ("aws_answer", numbered(AWS_ANSWERS)),
    ]
}

fn values() -> Seeds {
    const VALUES: [(u8, &[&str]); 13] = [
        (0, &["builder", "a-1", "-a", "Builder"]),
        (1, &["ann@acme.test", "ann@acme", "a@b@c.d"]),
        (2, &["team/x_y.z-1", "a b"]),
        (3, &["migrate the orders table", " ", "one\ntwo"]),
        (4, &["vault-main/ci-db", "vault-main", "a/b/c"]),
        (5, &["bucket", "p_1", "1p"]),
        (
            6,
            &[
                "t0123456789abcdef",
                "c0123456789abcdef",
                "t0123456789abcdeu",
            ],
        ),
        (7, &["c0123456789abcdef"]),
        (8, &["broker", "spiffe://acme.test/operator/ann"]),
        (
            9,
            &[
                "2026-11-22T10:00:00Z",
                "9999-12-31T23:59:59.999-23:59",
                "0000-01-01T00:00:00+23:59",
                "2016-12-31T23:59:60Z",
            ],
        ),
        (10, &["90s", "1h30m", "366d", "99999999999999999999d"]),
        (11, &["team=x\nenv=prod", "a=1\na=2"]),
        (12, &["[a-z]{1,63}", "a)|(?:b", "(?x)a # b", "(\n"]),
    ];
    let with_choice = VALUES.iter().flat_map(|(which, texts)| {
        let which = *which;
        texts
            .iter()
            .map(move |text| [&[which], text.as_bytes()].concat())
    });
    numbered(with_choice)
}

const SPIFFE_IDS: [&str; 9] = [
    "spiffe://acme.test/agent/builder",
    "spiffe://acme.test/agent/builder/task/t0123456789abcdef",
    "spiffe://acme.test/operator/ann",
    "spiffe://acme.test/broker/node-1",
    "spiffe://1.2.3.4/.../A_b-c",
    "spiffe://Acme.test/a",
    "spiffe://acme.test/a/../b",
    "spiffe://u@acme.test:443/%61?x#y",
    "acme.test",
];

const SCOPES: [&str; 6] = [
    "bucket~[a-z0-9.-]{3,63}\nbucket=logs",
    "tier|ro,rw\ntier=ro\nsize<10\nsize=7",
    "size<18446744073709551615\nsize=18446744073709551616",
    "bucket~(?i)a|b\nbucket=ab",
    "bucket~(?x)a # b\nbucket=a",
    "a=1\na=2\nb=x\u{7f}",
];

fn configs() -> Seeds {
    let mut seeds = numbered(CONFIGS);
    let init = INIT.replace("{trust_domain}", "acme.test");
    seeds.push(("init".to_owned(), init.into_bytes()));
    seeds.push(("example".to_owned(), EXAMPLE.as_bytes().to_vec()));
    seeds
}

const CONFIGS: [&str; 4] = [
    "trust_domain = \"acme.test\"\n",
    "trust_domain = \"acme.test\"\n[tasks]\nttl_default = \"9h\"\nttl_max = \"8h\"\n[log]\nformat = \"json\"\n",
    "trust_domain = \"acme.test\"\n\"a\\nb\" = 1\n[limits]\nrequest_bytes = 0x10000\nconections = 1\n",
    "trust_domain = \"acme.test\"\n[[provider]]\nname = \"aws-prod\"\nkind = \"aws\"\nregion = \"eu-central-1\"\n\
     credentials = { source = \"file\", path = \"secrets/aws\" }\n[[provider.role]]\nname = \"reader\"\n\
     role_arn = \"arn:aws:iam::123456789012:role/reader\"\nsession_policy = \"reader.json\"\n\
     params = { bucket = { pattern = \"[a-z]+\" } }\nmax_ttl = \"15m\"\nimpact = 0\n",
];

fn policies() -> Seeds {
    let mut seeds = numbered(POLICIES);
    let starter = STARTER.replace("{admin}", "ann");
    seeds.push(("starter".to_owned(), starter.into_bytes()));
    seeds
}

const POLICIES: [&str; 6] = [
    "permit (principal, action, resource);\n//// next file\nforbid (principal, action, resource) when { true };",
    "@id(\"a\") @reason(\"no\") forbid (principal is Taskpass::Agent, action == Taskpass::Action::\"credential.issue\", \
     resource is Taskpass::Role) when { resource.impact > 1 && context.ttl_seconds > 60 };",
    "permit (principal == Taskpass::Operator::\"ann\", action in Taskpass::Action::\"read\", resource) \
     unless { ip(\"10.0.0.0/8\").isLoopback() };",
    "@id(\"a\") permit (principal, action, resource); @id(\"a\") permit (principal == ?principal, action, resource);",
    "permit (principal, action == Taskpass::Action::\"provider.check\", resource == Taskpass::Provider::\"nobody\");",
    "permit (principal, action, resource) when { \"\u{202e}\" like \"*\" && [1, 2].contains(-1) };",
];

fn session_policies() -> Seeds {
    let parts = [
        (ARTIFACTS, "bucket=logs"),
        (ARTIFACTS, "bucket=logs\nprefix=a"),
        (
            r#"{"Version":"2012-10-17","Statement":{"Effect":"Allow","Action":["s3:Get*"],"Resource":"arn:aws:s3:::${bucket}/${prefix}/${aws:userid}/*","Condition":{"StringLike":{"s3:prefix":["${prefix}/${*}"]}}}}"#,
            "bucket=logs\nprefix=a\\\"b",
        ),
        (
            r#"{"Version":"2012-10-17","Statement":[{"Sid":"A1","Effect":"Deny","NotAction":"*","NotResource":"${${p}$${p}}"}]}"#,
            "p=x",
        ),
        (
            r#"{"Version":"2012-10-17","Id":"x","Statement":[{"Effect":"Allow","Action":"*","Resource":"${p}"}]}"#,
            "p=*",
        ),
    ];
    numbered(parts.map(|(template, scope)| format!("{template}\0{scope}")))
}

const VAULT_PATHS: [&str; 5] = [
    "database/creds/ci",
    "database/creds/${team}-${tier}\nteam=a b\ntier=ro",
    "kv/data/${a}${b}\na=.\nb=.",
    "kv/${a\na=x",
    "${mount}/creds\nmount=sys",
];

/// Statuses are counted from 200.
fn vault_answers() -> Seeds {
    const ANSWERS: [(u16, &str); 6] = [
        (
            0,
            r#"{"request_id":"x","lease_id":"database/creds/ci/1","lease_duration":60,"renewable":true,"data":{"username":"u","password":"p","n":1,"x":null},"auth":null}"#,
        ),
        (
            0,
            r#"{"lease_id":"","lease_duration":0,"renewable":false,"data":null,"auth":{"client_token":"hvs.x","accessor":"a","policies":["p"],"token_policies":["p"],"metadata":null,"lease_duration":60,"renewable":true,"entity_id":"","token_type":"service","orphan":true}}"#,
        ),
        (0, ""),
        (
            200,
            "{\"errors\":[\"1 error occurred:\\n\\t* invalid lease\\n\\n\"]}",
        ),
        (204, "{\"errors\":[]}"),
        (300, "<html>"),
    ];
    let answers = ANSWERS.map(|(status, body)| {
        let status = status.to_be_bytes();
        [status.as_slice(), body.as_bytes()].concat()
    });
    numbered(answers)
}

const AWS_ANSWERS: [&str; 5] = [
    "\0<ErrorResponse><Error><Type>Sender</Type><Code>AccessDenied</Code><Message>no &amp;lt; &quot;x&quot;</Message></Error></ErrorResponse>",
    "\0<Code>PackedPolicyTooLarge</Code><Message>a\nb</Message>",
    "\0<Code>Throt\ntling</Code>",
    "\u{1}{\"Version\":\"2012-10-17\",\"Statement\":[{\"Sid\":\"TaskpassTasksUntil20261122T130000Z\",\"Effect\":\"Deny\",\"Action\":\"*\",\"Resource\":\"*\",\"Condition\":{\"StringEquals\":{\"aws:PrincipalTag/taskpass-task\":[\"t0123456789abcdef\",\"t0123456789abcdeg\"]}}}]}",
    "\u{1}{\"Statement\":{\"Sid\":\"TaskpassCredentialWindowsUntil20261122T130000Z\",\"Condition\":{\"StringLike\":{\"aws:PrincipalTag/taskpass-credential\":\"c01hx*\"},\"DateLessThan\":{\"aws:TokenIssueTime\":\"2026-11-22T11:00:00Z\"}}}}",
];
