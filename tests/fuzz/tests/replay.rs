//! Replays every committed input through its target. Every target must have some.

use std::fs;

use taskpass_fuzz::{TARGETS, Target, corpus};

/// The size of all inputs together is limited, because every checkout contains them.
const CORPUS_BYTES_MAX: u64 = 2 * 1024 * 1024;

macro_rules! replay {
    ($($target:ident)*) => {
        $(
            #[test]
            fn $target() {
                replay(stringify!($target));
            }
        )*

        const REPLAYED: &[&str] = &[$(stringify!($target)),*];
    };
}

replay! {
    values spiffe_id scope csr certificate_chain identity_directory join_token config policy_set session_policy
    aws_answer vault_answer vault_path ledger_entry ledger_directory ledger_export checkpoint proof wire
}

fn replay(name: &str) {
    let target = Target::named(name).expect("a target");
    let inputs = corpus::inputs(target).expect("a directory of inputs");
    assert!(!inputs.is_empty(), "{name} has no inputs");
    for path in inputs {
        let data = fs::read(&path).expect("an input");
        // A failing test must show the name of its input.
        println!("{}", path.display());
        (target.run)(&data);
    }
}

#[test]
fn every_target_is_replayed_and_the_corpus_is_small() {
    let names: Vec<&str> = TARGETS.iter().map(|target| target.name).collect();
    assert_eq!(names, REPLAYED);
    let bytes: u64 = TARGETS
        .iter()
        .flat_map(|target| corpus::inputs(target).expect("inputs"))
        .map(|path| fs::metadata(path).expect("a file").len())
        .sum();
    assert!(
        bytes <= CORPUS_BYTES_MAX,
        "{bytes} bytes of inputs: minimise them"
    );
}
