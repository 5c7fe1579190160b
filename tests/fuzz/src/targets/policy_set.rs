//! Policy texts: the check's findings, and that a set without errors decides.

use std::sync::OnceLock;

use taskpass_core::{ManualClock, OperatorName};
use taskpass_policy::{
    Action, Facts, KnownNames, PolicyFile, PolicySet, Principal, Resource, fuzz::Checker, limits,
};

use crate::{fixtures, input, wording};

/// Separates the files of one input.
const NEXT_FILE: &str = "\n//// next file\n";

pub(crate) fn run(data: &[u8]) {
    let Some(text) = input::text(data) else {
        return;
    };
    let files: Vec<PolicyFile> = text
        .split(NEXT_FILE)
        .enumerate()
        .map(|(number, text)| PolicyFile {
            name: format!("{number:02}.cedar"),
            text: text.to_owned(),
        })
        .collect();
    let known = KnownNames {
        providers: Some(["vault-main".parse().expect("a name")].into()),
        roles: Some(["vault-main/ci-db".parse().expect("a name")].into()),
        classes: Some(["builder".parse().expect("a name")].into()),
    };
    let report = checker().check(&files, &known);
    assert!(report.findings.len() <= limits::FINDINGS_MAX);
    for finding in &report.findings {
        wording::one_line(finding, 1000);
        let file = files.iter().find(|file| file.name == finding.file);
        let lines = file.map_or(0, |file| file.text.split('\n').count());
        assert!(finding.line <= lines, "{finding}");
    }
    wording::one_line(report.summary(), 1100);
    // Loading reads the schema anew, which takes longer than any small text.
    if !report.has_errors() {
        let policies = PolicySet::parse(&files).expect("no errors were found");
        assert_eq!(policies.len(), report.policies);
        decides(&policies);
    }
}

fn checker() -> &'static Checker {
    static MADE: OnceLock<Checker> = OnceLock::new();
    MADE.get_or_init(|| Checker::new().expect("the schema is built in"))
}

/// Asserts that every action is decided, with a record that is small and readable.
fn decides(policies: &PolicySet) {
    let domain = fixtures::trust_domain();
    let ann: OperatorName = "ann".parse().expect("a name");
    let clock = ManualClock::new(fixtures::now());
    for action in Action::ALL.iter().copied() {
        let facts = Facts {
            trust_domain: &domain,
            principal: Principal::Operator(&ann),
            action,
            resource: Resource::Installation,
            now: fixtures::now(),
            ip: Some([192, 0, 2, 1].into()),
            request: None,
        };
        let decision = policies.decide(&facts, &clock);
        let record = decision.record();
        assert!(record.policies.len() <= limits::DECIDING_POLICIES_MAX);
        if policies.is_empty() {
            assert!(!decision.is_allowed());
        }
        if !decision.is_allowed() {
            wording::one_line(decision.reason(), limits::REASON_CHARS_MAX);
        }
    }
}
