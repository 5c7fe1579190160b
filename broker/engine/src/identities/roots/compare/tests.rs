use taskpass_core::{RootCertificate, Timestamp};

use super::*;
use RootStage::{Active, Outgoing, Prepared, Retired};

fn number(n: u32) -> RootNumber {
    n.to_string().parse().unwrap()
}

fn recorded(roots: &[(u32, RootStage)]) -> BTreeMap<RootNumber, RecordedRoot> {
    let root = |(n, stage): &(u32, RootStage)| RecordedRoot {
        stage: *stage,
        certificate: RootCertificate {
            serial: format!("serial {n}"),
            certificate_sha256: format!("sha256 {n}"),
        },
    };
    roots.iter().map(|it| (number(it.0), root(it))).collect()
}

fn on_disk(roots: &[(u32, RootStage)]) -> Vec<RootRecord> {
    let root = |(n, stage): &(u32, RootStage)| RootRecord {
        number: number(*n),
        stage: *stage,
        serial: format!("serial {n}"),
        not_before: Timestamp::EPOCH,
        not_after: Timestamp::EPOCH,
        certificate_sha256: format!("sha256 {n}"),
    };
    roots.iter().map(root).collect()
}

type Roots<'a> = &'a [(u32, RootStage)];

/// Each step of a replacement, with its record and before it.
#[test]
fn a_crash_between_disk_and_record_is_no_difference() {
    let cases: &[(Roots<'_>, Roots<'_>)] = &[
        (&[], &[(1, Active)]),
        (&[(1, Active)], &[(1, Active)]),
        (&[(1, Active)], &[(1, Active), (2, Prepared)]),
        (&[(1, Active), (2, Prepared)], &[(2, Active), (1, Outgoing)]),
        (&[(1, Outgoing), (2, Active)], &[(2, Active), (1, Outgoing)]),
        (&[(1, Retired), (2, Active)], &[(2, Active), (1, Outgoing)]),
        (&[(1, Retired), (2, Active)], &[(2, Active)]),
        (&[(1, Retired), (2, Active)], &[(2, Active), (3, Prepared)]),
    ];
    for (ledger, disk) in cases {
        let compared = compare_roots(&recorded(ledger), &on_disk(disk));
        assert_eq!(compared, Ok(()), "{ledger:?}, {disk:?}");
    }
}

#[test]
fn a_root_that_the_ledger_does_not_have_is_refused() {
    let cases: &[(Roots<'_>, Roots<'_>)] = &[
        (&[(1, Active)], &[(1, Active), (2, Outgoing)]),
        (&[(1, Active)], &[(2, Active), (1, Outgoing)]),
        (&[], &[(1, Outgoing), (2, Active)]),
        (&[(1, Retired), (3, Active)], &[(3, Active), (2, Prepared)]),
    ];
    for (ledger, disk) in cases {
        let refused = compare_roots(&recorded(ledger), &on_disk(disk)).unwrap_err();
        let message = refused.to_string();
        assert!(matches!(refused, RootsDiffer::Unknown { .. }), "{message}");
        assert!(message.contains("ca/state.json"), "{message}");
    }
}

#[test]
fn a_known_number_with_another_certificate_is_refused() {
    let ledger = recorded(&[(1, Outgoing), (2, Active)]);
    for change in [
        |root: &mut RootRecord| root.serial = "another".to_owned(),
        |root: &mut RootRecord| root.certificate_sha256 = "another".to_owned(),
    ] {
        let mut disk = on_disk(&[(2, Active), (1, Outgoing)]);
        change(&mut disk[1]);
        let message = compare_roots(&ledger, &disk).unwrap_err().to_string();
        assert!(message.contains("`ca/root.pem`"), "{message}");
        assert!(message.contains("serial 1"), "{message}");
    }
}

#[test]
fn an_older_copy_of_the_directory_is_refused() {
    let cases: &[(Roots<'_>, Roots<'_>)] = &[
        (&[(1, Active), (2, Prepared)], &[(1, Active)]),
        (&[(1, Outgoing), (2, Active)], &[(1, Active)]),
        (&[(1, Outgoing), (2, Active)], &[(1, Active), (2, Prepared)]),
        (&[(1, Retired), (2, Active)], &[(1, Active)]),
    ];
    for (ledger, disk) in cases {
        let refused = compare_roots(&recorded(ledger), &on_disk(disk)).unwrap_err();
        let message = refused.to_string();
        assert!(
            message.contains("`ca/` is older than the ledger"),
            "{message}"
        );
        assert!(message.contains("restore the newer copy"), "{message}");
    }
}
