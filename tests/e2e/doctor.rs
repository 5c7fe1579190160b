//! `taskpassd doctor` beside a running broker, and without a broker.

use serde_json::Value;
use taskpass_tests::{Installation, eventually};

fn doctor(installation: &Installation, more: &[&str]) -> String {
    let config = installation.home().join("taskpass.toml");
    let config = config.to_str().expect("a path in UTF-8");
    let done = installation.daemon(&[&["doctor", "--config", config], more].concat());
    let text = String::from_utf8(done.stdout).expect("text");
    assert!(done.status.success(), "{text}");
    text
}

#[test]
fn reconcilers_are_shown_and_one_that_fails_is_a_warning() {
    const ROTATION: &str = "the certificate authority could not be rotated";
    let mut installation = Installation::new();
    installation.expect_error(ROTATION);
    // The first start makes an authority, so that the second one serves without a rotation.
    installation.start().stop();
    let said = doctor(&installation, &[]);
    let none = "[ok]   reconcilers: no broker runs with this data directory";
    assert!(said.contains(none), "{said}");

    // A directory stands where the rotation removes an unfinished file.
    let obstacle = installation.home().join("data/ca/state.json.tmp");
    std::fs::create_dir(&obstacle).expect("nothing is there");
    let broker = installation.start();
    let failing = "[warn] reconciler authority: failed ";
    let said = eventually("the failure is shown", || {
        let said = doctor(&installation, &[]);
        said.contains(failing).then_some(said)
    });
    let line = said.lines().find(|line| line.starts_with(failing));
    let line = line.expect("it is there");
    for words in [
        " in a row, never succeeded since the broker started (",
        "; last error at ",
        "state.json.tmp",
        "; mend what the error names; ",
    ] {
        assert!(line.contains(words), "{words}\n{line}");
    }
    let well = "[ok]   reconciler reaper: last succeeded at ";
    eventually("the others are well", || {
        doctor(&installation, &[]).contains(well).then_some(())
    });

    std::fs::remove_dir(&obstacle).expect("it is empty");
    let report = eventually("it works again", || {
        let said: Value = serde_json::from_str(&doctor(&installation, &["-o", "json"])).ok()?;
        let all = said["reconcilers"].as_array()?;
        let authority = all.iter().find(|it| it["name"] == "authority")?;
        (authority["failures_in_a_row"] == 0).then(|| authority.clone())
    });
    assert!(report["failures"].as_u64() > Some(0), "{report}");
    assert!(
        report["runs"].as_u64() > report["failures"].as_u64(),
        "{report}"
    );
    assert_eq!(report["last_success_at"], report["last_run_at"]);
    let error = report["last_error"]["message"].as_str().expect("it failed");
    assert!(error.contains("state.json.tmp"), "{report}");
    assert!(doctor(&installation, &[]).contains("[ok]   reconciler authority: "));
    broker.stop();
}
