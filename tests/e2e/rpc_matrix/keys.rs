//! Every RPC that changes the state takes an idempotency key, or is listed here with the reason why
//! it needs none.

use std::collections::BTreeMap;

use prost::Message as _;
use taskpass_proto::v1::FILE_DESCRIPTOR_SET;

/// The names of RPCs that change nothing begin with these words.
const READS: [&str; 7] = [
    "Explain", "Get", "List", "Export", "Prove", "Check", "WhoAmI",
];

/// RPCs without a key, and why repeating them does no harm.
const NEED_NONE: [(&str, &str); 11] = [
    ("FreezeAgent", "freezing twice changes nothing"),
    ("ReleaseAgent", "releasing twice changes nothing"),
    ("RetireAgent", "retiring twice changes nothing"),
    ("ChangeAgentOwner", "naming the same owner changes nothing"),
    ("DepartOwner", "an owner leaves once"),
    ("WithdrawJoinToken", "withdrawing twice changes nothing"),
    ("Attest", "the join token can be used once"),
    (
        "RenewSvid",
        "a second certificate is no more than the first, and using one ends the others",
    ),
    ("EndTask", "ending twice gives the same receipts"),
    ("Heartbeat", "saying it twice changes nothing"),
    ("RevokeCredential", "revoking twice gives the same receipt"),
];

#[test]
fn every_rpc_that_changes_the_state_takes_an_idempotency_key() {
    let set = prost_types::FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).expect("descriptors");
    let files = || {
        let ours = |file: &&prost_types::FileDescriptorProto| file.package() == "taskpass.v1";
        set.file.iter().filter(ours)
    };
    let has_key: BTreeMap<String, bool> = files()
        .flat_map(|file| &file.message_type)
        .map(|message| {
            let mut names = message.field.iter().map(|field| field.name());
            let has_key = names.any(|name| name == "idempotency_key");
            (format!(".taskpass.v1.{}", message.name()), has_key)
        })
        .collect();
    let mut excused = Vec::new();
    let mut keyed = 0;
    for method in files().flat_map(|f| &f.service).flat_map(|s| &s.method) {
        let name = method.name();
        let (reads, has_key) = (
            READS.iter().any(|read| name.starts_with(read)),
            has_key[method.input_type()],
        );
        keyed += usize::from(has_key);
        assert!(!(reads && has_key), "{name} only looks");
        if !reads && !has_key {
            excused.push(name);
        }
    }
    let mut rows: Vec<&str> = NEED_NONE.iter().map(|(name, _)| *name).collect();
    excused.sort_unstable();
    rows.sort_unstable();
    assert_eq!(
        excused, rows,
        "an RPC that changes something has neither a key nor a reason, or a row is stale"
    );
    assert!(keyed >= 5, "the descriptors are not those of the API");
}
