use super::*;
use taskpass_files::power_cut::Fuse;

fn stages(steps: &[CaStep]) -> Vec<&'static str> {
    steps.iter().map(|step| step.stage.as_str()).collect()
}

#[test]
fn an_authority_goes_through_its_stages_at_the_right_times() {
    let home = Home::new();
    let authority = home.try_create().unwrap();
    let refused = authority.issue(
        &builder(),
        NewKey::generate().unwrap().public_key(),
        &IssueOptions::default(),
    );
    assert!(matches!(refused, Err(Error::NoActive(_))));
    assert_eq!(
        stages(&authority.rotate().unwrap()),
        ["prepared", "published", "active"]
    );
    assert!(authority.rotate().unwrap().is_empty(), "idempotent");
    let first = authority.authorities()[0].clone();
    let from_first = issue(&authority);

    // Life is 24 h and 10 s: half of it is 12 h and 5 s, a sixth 4 h and 1.67 s.
    let due = first.not_after.minus(Duration::from_secs(12 * 3600 + 5));
    assert_eq!(authority.next_rotation_at(), due);
    home.clock.set(due.minus(Duration::from_millis(1)));
    assert!(authority.rotate().unwrap().is_empty());
    home.clock.set(due);
    assert_eq!(
        stages(&authority.rotate().unwrap()),
        ["prepared", "published"]
    );
    assert_eq!(
        authority.accepted_issuers().len(),
        3,
        "root, active, published"
    );
    assert_eq!(
        issue(&authority).chain_der[1],
        from_first.chain_der[1],
        "the old one signs on"
    );

    let due = authority.next_rotation_at();
    assert_eq!(first.not_after.since(due).as_secs(), 4 * 3600 + 1);
    home.clock.set(due);
    let generation = authority.generation();
    assert_eq!(stages(&authority.rotate().unwrap()), ["active", "retired"]);
    assert!(authority.generation() > generation);
    assert_ne!(issue(&authority).chain_der[1], from_first.chain_der[1]);
    assert_eq!(
        home.files(".key"),
        2,
        "the root's and the active one's: {first:?}"
    );
    let still = authority
        .peer_verifier()
        .verify_client(&from_first.chain_der, START);
    assert!(
        still.is_ok(),
        "what the retired one signed counts until it ends: {still:?}"
    );

    home.clock.set(first.not_after);
    let steps = authority.rotate().unwrap();
    assert_eq!(stages(&steps), ["prepared", "published"], "the third");
    assert!(
        authority
            .authorities()
            .iter()
            .all(|ca| ca.serial != first.serial)
    );
    assert_eq!(authority.accepted_issuers().len(), 3);
    assert_eq!(home.files(".pem"), 3, "the first one's is gone");
}

/// A fortnight, a look every 20 minutes, with and without restarts: there is always an active
/// authority, SVIDs always live as long as they should, and peers accept each SVID for its whole
/// life.
#[test]
fn nothing_breaks_over_many_days() {
    for restart in [false, true] {
        let home = Home::new();
        let mut authority = home.create();
        let mut live: Vec<Issued> = Vec::new();
        let mut actives = HashSet::new();
        for _ in 0..14 * 24 * 3 {
            home.clock.advance(HOUR / 3);
            if restart {
                drop(authority);
                authority = home.open();
            } else if authority.next_rotation_at() <= home.clock.now() {
                assert!(
                    !authority.rotate().unwrap().is_empty() || authority.authorities().len() < 3
                );
            }
            let now = home.clock.now();
            let issued = issue(&authority);
            assert_eq!(
                issued.not_after.since(now.floor_to_second()),
                HOUR,
                "never cut short"
            );
            actives.insert(issued.chain_der[1].clone());
            live.push(issued);
            live.retain(|it| now < it.not_after);
            assert!(live.iter().all(|it| is_accepted(&authority, it, now)));
            assert!(authority.authorities().len() <= 3);
        }
        assert!((27..=29).contains(&actives.len()), "{}", actives.len());
    }
}

#[test]
fn downtime_longer_than_an_authoritys_life_costs_nothing_but_the_time() {
    let home = Home::new();
    drop(home.create());
    home.clock.advance(HOUR * 24 * 40);
    let authority = home.try_open().unwrap();
    let steps = authority.rotate().unwrap();
    assert_eq!(
        stages(&steps),
        ["retired", "prepared", "published", "active"]
    );
    assert!(is_accepted(
        &authority,
        &issue(&authority),
        home.clock.now()
    ));
    assert_eq!(home.files(".key"), 2);
    drop(authority);
    // Down from before the next one was due until shortly before its end: it serves, and is
    // followed at once.
    home.clock.advance(HOUR * 12 + Duration::from_secs(60));
    drop(home.open());
    home.clock.advance(HOUR * 23);
    let authority = home.open();
    assert_eq!(
        issue(&authority)
            .not_after
            .since(home.clock.now().floor_to_second()),
        HOUR
    );
}

#[test]
fn near_the_roots_end_nothing_outlives_it_and_nothing_goes_in_circles() {
    let home = Home::new();
    let authority = home.create();
    let end = authority.roots()[0].not_after;
    home.clock.set(end.minus(HOUR * 30));
    authority.rotate().unwrap();
    let mut made = HashSet::new();
    while home.clock.now() < end {
        authority.rotate().unwrap();
        assert!(authority.rotate().unwrap().is_empty());
        assert!(authority.next_rotation_at() > home.clock.now());
        let issued = issue(&authority);
        assert!(issued.not_after <= end);
        made.insert(issued.chain_der[1].clone());
        home.clock.advance(HOUR / 4);
    }
    assert!(made.len() <= 3, "{}", made.len());
    home.clock.set(end.plus(HOUR));
    assert!(matches!(
        authority.rotate(),
        Ok(_) | Err(Error::RootExpired(_))
    ));
    assert!(matches!(authority.rotate(), Err(Error::RootExpired(_))));
}

/// The power is cut before every single change of the disk, during creation and during a whole
/// rotation.
#[test]
fn a_crash_at_any_point_loses_nothing() {
    for steps in 0.. {
        let home = Home::new();
        let fuse = Fuse::set(steps);
        let created = home.try_create().and_then(|it| it.rotate().map(|_| it));
        let done = !fuse.blown();
        drop(created);
        Fuse::clear();
        let authority = match home.try_open() {
            Ok(authority) => authority,
            Err(Error::Missing(_)) => home.try_create().unwrap(),
            Err(e) => panic!("after {steps} steps: {e}"),
        };
        authority.rotate().unwrap();
        issue(&authority);
        assert_eq!(
            (home.files(".key"), home.files(".tmp")),
            (2, 0),
            "after {steps} steps"
        );
        if done {
            assert!(steps > 10, "{steps}");
            break;
        }
    }
    let mut cuts = 0;
    for (waited, signs) in [(HOUR * 13, 1), (HOUR * 21, 2), (HOUR * 25, 3)] {
        for steps in 0.. {
            let home = Home::new();
            let before = home.create();
            let root = before.pinned_root().0.to_string();
            home.clock.advance(waited - HOUR / 2);
            if signs == 2 {
                before.rotate().unwrap();
            }
            let issued = issue_if_possible(&before);
            drop(before);
            home.clock.advance(HOUR / 2);
            let fuse = Fuse::set(steps);
            let crashed = home.try_open().unwrap();
            let first = crashed.rotate();
            // In the same process the disk comes back; the next run must go on from there.
            let again = steps % 2 == 0;
            if again {
                fuse.relight(i64::MAX);
                crashed.rotate().unwrap();
                check(&crashed, &home, &root, issued.as_ref());
            }
            let done = !fuse.blown() && !again && first.is_ok();
            drop(crashed);
            Fuse::clear();
            check(&home.open(), &home, &root, issued.as_ref());
            cuts += 1;
            if done || steps > 60 {
                break;
            }
        }
    }
    assert!(cuts > 60, "{cuts}");
}

/// A write fails, the process goes on, and then the power is cut. The authority must be whole with
/// the leftovers of the failed write on the disk, and also without them.
#[test]
fn a_crash_after_a_failed_write_loses_nothing() {
    for steps in 0..30 {
        for second in 1..4 {
            let home = Home::new();
            let before = home.create();
            let (root, issued) = (before.pinned_root().0.to_string(), issue(&before));
            drop(before);
            home.clock.advance(HOUR * 13);
            let fuse = Fuse::set(steps);
            let crashed = home.try_open().unwrap();
            let failed = crashed.rotate();
            fuse.relight(second);
            let again = crashed.rotate();
            drop(crashed);
            Fuse::clear();
            check(&home.open(), &home, &root, Some(&issued));
            assert!(failed.is_ok() || again.is_ok() || fuse.blown());
        }
    }
}

fn check(authority: &Authority, home: &Home, root: &str, issued: Option<&Issued>) {
    let now = home.clock.now();
    assert!(is_accepted(authority, &issue(authority), now));
    assert_eq!(authority.pinned_root().0.to_string(), root);
    if let Some(issued) = issued.filter(|it| now < it.not_after) {
        assert!(is_accepted(authority, issued, now));
    }
    assert_eq!(home.files(".tmp"), 0);
    let with_key = authority
        .authorities()
        .iter()
        .filter(|ca| ca.stage != Stage::Retired)
        .count();
    assert_eq!(home.files(".key"), 1 + with_key);
}
