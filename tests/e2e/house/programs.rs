//! The programs behind `make torture` and `make bench` explain their use and refuse unknown
//! arguments: a run that plays nothing would look green.

use std::process::{Command, Output};

use taskpass_tests::{
    faults::{Cell, Fault, Operation},
    program,
};

fn run(name: &str, arguments: &[&str]) -> Output {
    let mut command = Command::new(program(name));
    let done = command.args(arguments).env_clear().output();
    done.expect("it starts")
}

#[test]
fn the_tests_own_programs_give_help() {
    for name in ["taskpass-torture", "taskpass-bench"] {
        for arguments in [&["-h"][..], &["--help"], &["--quick", "--help"]] {
            let done = run(name, arguments);
            let said = String::from_utf8_lossy(&done.stdout);
            assert_eq!(done.status.code(), Some(0), "{name} {arguments:?}");
            assert!(said.starts_with(&format!("usage: {name} ")), "{said}");
            assert!(done.stderr.is_empty(), "{name} {arguments:?}");
        }
    }
}

#[test]
fn the_tests_own_programs_refuse_arguments_that_they_do_not_understand() {
    let torture = "taskpass-torture";
    for (name, arguments, why) in [
        (
            torture,
            &["--part", "matrix", "--cells", "provider × issue"][..],
            "`provider down × issue`",
        ),
        (torture, &["--part", "all"], "no part `all`"),
        (torture, &["--part"], "wants a value"),
        (torture, &["--kills", "many"], "`--kills many`"),
        (torture, &["--cell", "issue"], "`--cell` is not understood"),
        ("taskpass-bench", &["shares"], "`shares` is not understood"),
    ] {
        let done = run(name, arguments);
        let said = String::from_utf8_lossy(&done.stderr);
        assert_eq!(done.status.code(), Some(2), "{name} {arguments:?}: {said}");
        assert!(said.contains(why), "{said}");
        assert!(said.contains(&format!("usage: {name} ")), "{said}");
    }
}

#[test]
fn cells_are_found_by_words_of_their_names() {
    let found = |words: &str| -> Vec<Cell> { Cell::named(words).collect() };
    let down = Cell {
        fault: Fault::Down,
        operation: Operation::Issue,
    };
    for words in [
        "provider down × issue",
        "provider down x issue",
        "Provider  DOWN X Issue",
    ] {
        assert_eq!(found(words), [down], "{words}");
    }
    for words in ["× end", "x end"] {
        assert_eq!(found(words).len(), Fault::ALL.len(), "{words}");
    }
    assert_eq!(found("the ca lives").len(), Operation::ALL.len());
    assert_eq!(found("").len(), Cell::all().count());
    assert_eq!(found("provider up"), []);
}
