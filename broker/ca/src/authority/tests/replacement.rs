use super::*;
use taskpass_files::power_cut::Fuse;

/// A peer that knows these roots, as clients do.
fn knows(roots: &[CertificateDer<'_>]) -> PeerVerifier {
    PeerVerifier::for_bundle(&domain(), roots).unwrap()
}

/// The chain that the broker shows.
fn shown(authority: &Authority) -> Vec<CertificateDer<'static>> {
    let key = NewKey::generate().unwrap();
    let broker = Identity::Broker("broker".parse().unwrap());
    let options = IssueOptions::default();
    let issued = authority.issue(&broker, key.public_key(), &options);
    let mut chain = issued.unwrap().chain_der;
    chain.extend(authority.served_roots());
    chain
}

fn operator(authority: &Authority) -> Issued {
    let key = NewKey::generate().unwrap();
    let name = "admin".parse().unwrap();
    authority.issue_operator(&name, key.public_key()).unwrap()
}

fn sequence(authority: &Authority) -> u64 {
    let jwks: serde_json::Value = serde_json::from_str(&authority.bundle().jwks).unwrap();
    assert_eq!(
        jwks["keys"].as_array().unwrap().len(),
        authority.roots().len()
    );
    jwks["spiffe_sequence"].as_u64().unwrap()
}

fn stages(authority: &Authority) -> Vec<(String, &'static str)> {
    let roots = authority.roots();
    let shown = |it: &crate::RootRecord| (it.number.to_string(), it.stage.as_str());
    roots.iter().map(shown).collect()
}

/// Old and new peers verify the broker, and the broker verifies old and new identities, at every
/// stage and after a restart at every stage.
#[test]
#[expect(
    clippy::too_many_lines,
    reason = "one replacement, from the first stage to the last"
)]
fn old_and_new_peers_are_served_until_the_old_root_is_retired() {
    for restart in [false, true] {
        let home = Home::new();
        let reopened = |authority: Authority| match restart {
            false => authority,
            true => {
                drop(authority);
                home.open()
            }
        };
        let mut authority = home.create();
        let old = authority.bundle().roots_der.clone();
        let (old_pin, first) = authority.pinned_root();
        let (old_agent, old_operator) = (issue(&authority), operator(&authority));
        let (one, two) = (RootNumber::FIRST, RootNumber::FIRST.next());
        assert_eq!((first, old_agent.root, old_operator.root), (one, one, one));
        assert_eq!(
            (stages(&authority), sequence(&authority)),
            (vec![("1".to_owned(), "active")], 1)
        );

        authority.prepare_root().unwrap();
        authority = reopened(authority);
        assert_eq!(
            stages(&authority),
            [("1".to_owned(), "active"), ("2".to_owned(), "prepared")]
        );
        assert_eq!(sequence(&authority), 2);
        let both = authority.bundle().roots_der.clone();
        let new = vec![both[1].clone()];
        assert_eq!(authority.pinned_root(), (old_pin, one));
        assert_eq!(shown(&authority).last(), old.last());
        for known in [&old, &both] {
            knows(known)
                .verify_server(&shown(&authority), START)
                .unwrap();
        }
        assert!(
            knows(&new)
                .verify_server(&shown(&authority), START)
                .is_err()
        );

        let changed = authority.activate_root().unwrap();
        assert_eq!((changed.active.number, changed.outgoing.number), (two, one));
        authority = reopened(authority);
        assert_eq!(
            stages(&authority),
            [("2".to_owned(), "active"), ("1".to_owned(), "outgoing")]
        );
        assert_eq!(sequence(&authority), 2, "the bundle is the same");
        assert!(!home.dir.join("root.key").exists(), "the old key is erased");
        assert_ne!(authority.pinned_root().0, old_pin);
        assert_eq!(
            shown(&authority).last(),
            old.last(),
            "old join tokens pin it"
        );
        let (new_agent, new_operator) = (issue(&authority), operator(&authority));
        assert_eq!((new_agent.root, new_operator.root), (two, two));
        for known in [&old, &both, &new] {
            knows(known)
                .verify_server(&shown(&authority), START)
                .unwrap();
        }
        for issued in [&old_agent, &old_operator, &new_agent, &new_operator] {
            assert!(is_accepted(&authority, issued, START));
        }

        authority.retire_root(one).unwrap();
        authority = reopened(authority);
        assert_eq!(stages(&authority), [("2".to_owned(), "active")]);
        assert_eq!(sequence(&authority), 3);
        assert_eq!(authority.bundle().roots_der, new);
        assert!(!home.dir.join("root.pem").exists() && home.files(".cross.pem") == 0);
        for known in [&both, &new] {
            knows(known)
                .verify_server(&shown(&authority), START)
                .unwrap();
        }
        assert!(
            knows(&old)
                .verify_server(&shown(&authority), START)
                .is_err()
        );
        for (issued, counts) in [
            (&old_agent, false),
            (&old_operator, false),
            (&new_agent, true),
            (&new_operator, true),
        ] {
            assert_eq!(is_accepted(&authority, issued, START), counts);
        }
        assert!(matches!(
            home.try_create(),
            Err(Error::Exists(_) | Error::InUse(_))
        ));

        // The next replacement takes the next number.
        assert_eq!(authority.prepare_root().unwrap().number, two.next());
        assert_eq!(authority.activate_root().unwrap().outgoing.number, two);
        drop(authority);
        assert!(matches!(home.try_create(), Err(Error::Exists(_))));
    }
}

#[test]
fn moves_out_of_turn_are_refused_with_the_next_command() {
    let home = Home::new();
    let authority = home.create();
    let text = |refused: Result<(), Error>| refused.unwrap_err().to_string();
    let activate = || authority.activate_root().map(drop);
    let prepare = || authority.prepare_root().map(drop);
    let retire = || authority.retire_root(RootNumber::FIRST).map(drop);
    assert!(text(activate()).contains("taskpassd root prepare"));
    assert!(text(retire()).contains("taskpassd root status"));
    prepare().unwrap();
    assert!(text(prepare()).contains("taskpassd root activate"));
    assert!(text(retire()).contains("taskpassd root status"));
    activate().unwrap();
    assert!(text(activate()).contains("taskpassd root prepare"));
    assert!(text(prepare()).contains("taskpassd root retire"));
    retire().unwrap();
    assert_eq!(stages(&authority), [("2".to_owned(), "active")]);
}

/// The issuing authorities rotate on through the whole replacement, and nothing outlives the root
/// that signed it.
#[test]
fn issuing_authorities_rotate_under_the_active_root() {
    let home = Home::new();
    let authority = home.create();
    home.clock.advance(HOUR * 24 * 3640);
    authority.rotate().unwrap();
    authority.prepare_root().unwrap();
    authority.activate_root().unwrap();
    let old_end = authority.roots()[1].not_after;
    for _ in 0..4 * 14 {
        home.clock.advance(HOUR * 6);
        authority.rotate().unwrap();
        let now = home.clock.now();
        let issued = issue(&authority);
        assert_eq!(issued.root, RootNumber::FIRST.next());
        assert_eq!(issued.not_after.since(now.floor_to_second()), HOUR);
        assert!(is_accepted(&authority, &issued, now));
    }
    assert!(old_end < home.clock.now(), "the outgoing root has ended");
    authority.retire_root(RootNumber::FIRST).unwrap();
}

/// The power is cut before every single change of the disk, in each of the three moves. The move
/// has happened or it has not, old identities are accepted, and the person can repeat it.
#[test]
fn a_crash_at_any_point_of_a_replacement_loses_nothing() {
    let go_to = |authority: &Authority, moves: usize| {
        for number in 0..moves {
            step(authority, number).unwrap();
        }
    };
    let mut cuts = 0;
    for number in 0..3 {
        for steps in 0.. {
            let home = Home::new();
            let authority = home.create();
            let issued = issue(&authority);
            go_to(&authority, number);
            let before = stages(&authority);
            let fuse = Fuse::set(steps);
            let moved = step(&authority, number);
            let done = !fuse.blown() && moved.is_ok();
            if steps % 2 == 0 {
                // In the same process the disk comes back.
                fuse.relight(i64::MAX);
                authority.rotate().unwrap();
                is_whole(&authority, &home);
            }
            drop(authority);
            Fuse::clear();
            let authority = home.open();
            is_whole(&authority, &home);
            assert!(moved.is_err() || stages(&authority) != before);
            if stages(&authority) == before {
                step(&authority, number).unwrap();
                is_whole(&authority, &home);
            }
            assert_eq!(is_accepted(&authority, &issued, START), number < 2);
            cuts += 1;
            if done {
                break;
            }
        }
    }
    assert!(cuts > 30, "{cuts}");
}

fn step(authority: &Authority, number: usize) -> Result<(), Error> {
    match number {
        0 => authority.prepare_root().map(drop),
        1 => authority.activate_root().map(drop),
        _ => authority.retire_root(RootNumber::FIRST).map(drop),
    }
}

fn is_whole(authority: &Authority, home: &Home) {
    let now = home.clock.now();
    assert!(is_accepted(authority, &issue(authority), now));
    assert!(is_accepted(authority, &operator(authority), now));
    let bundle = authority.bundle();
    let known = knows(&bundle.roots_der);
    known.verify_server(&shown(authority), now).unwrap();
    assert_eq!(home.files(".tmp"), 0);
    let signs = |root: &&crate::RootRecord| root.stage != RootStage::Outgoing;
    let keys = authority.roots().iter().filter(signs).count();
    assert_eq!(
        home.files(".key"),
        keys + 1,
        "those roots, and one authority"
    );
}

/// Writes `state.json` with a change, as a program without any private key can.
fn rewrite(home: &Home, change: impl FnOnce(&mut serde_json::Value)) {
    let path = home.dir.join("state.json");
    let mut state = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    change(&mut state);
    fs::write(&path, state.to_string()).unwrap();
}

/// The certificate of another installation's authority of the same name.
fn foreign() -> (Home, Authority) {
    let other = Home::new();
    other.entropy.fill(&mut [0; 64]).unwrap();
    let authority = other.create();
    (other, authority)
}

fn complaint(home: &Home) -> String {
    home.try_open().map(drop).unwrap_err().to_string()
}

/// The broker sends the certificate to every peer, so it proves itself.
#[test]
fn a_cross_certificate_without_the_outgoing_roots_signature_is_refused() {
    let (_other, stranger) = foreign();
    let planted = &stranger.bundle().roots_der[0];
    for step in ["of another root", "of the new root itself"] {
        let home = Home::new();
        let authority = home.create();
        authority.prepare_root().unwrap();
        authority.activate_root().unwrap();
        let own = authority.bundle().roots_der[0].clone();
        drop(authority);
        let planted = if step == "of another root" {
            planted
        } else {
            &own
        };
        let cross = home.dir.join("root-2.cross.pem");
        fs::write(&cross, pem::certificate(planted)).unwrap();
        assert!(complaint(&home).contains("root-2.cross.pem"), "{step}");
    }
}

/// An issuing authority without a private key is accepted until it expires: `retired` says so.
#[test]
fn an_issuing_authority_without_its_roots_signature_is_refused() {
    let (_other, stranger) = foreign();
    let chain = issue(&stranger).chain_der;
    let planted = stranger.authorities().remove(0);
    let home = Home::new();
    drop(home.create());
    let file = home.dir.join(planted.certificate_file());
    fs::write(&file, pem::certificate(&chain[1])).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    rewrite(&home, |state| {
        let mut record = serde_json::to_value(&planted).unwrap();
        record["stage"] = "retired".into();
        state["authorities"].as_array_mut().unwrap().push(record);
    });
    let complaint = complaint(&home);
    assert!(
        complaint.contains(&planted.certificate_file()) && complaint.contains("signature"),
        "{complaint}"
    );
}

/// After a failed write the running broker reads the state again. A state that it did not write was
/// compared with no ledger.
#[test]
fn a_state_of_another_program_is_not_adopted_after_a_failed_write() {
    let home = Home::new();
    let authority = home.create();
    let in_the_way = home.dir.join("state.json.tmp");
    fs::create_dir(&in_the_way).unwrap();
    authority.prepare_root().unwrap_err();
    fs::remove_dir(&in_the_way).unwrap();
    rewrite(&home, |state| {
        state["authorities"][0]["stage"] = "retired".into();
        state["generation"] = 9.into();
    });
    let refused = authority.rotate().unwrap_err().to_string();
    assert!(refused.contains("another program"), "{refused}");
}
