//! A broker that is started while its disk is full: it takes back what it must, and has all of its history again as soon
//! as there is room, without a person.

use taskpass_tests::{Disk, World, eventually};

use crate::support::{receipt, text};

const BUILT_AGAIN: &str = "the index was built again from the ledger";

#[test]
fn a_broker_started_on_a_full_disk_takes_back_what_it_must() {
    if let Some(log) = start_on_a_full_disk("true") {
        assert!(
            !log.contains(BUILT_AGAIN),
            "nothing was wrong with it: {log}"
        );
    }
}

#[test]
fn a_broker_started_on_a_full_disk_does_so_too_when_its_index_is_damaged() {
    let harm = "for file in conf db; do dd if=/dev/urandom of=\"$1/index/$file\" bs=512 count=1 conv=notrunc; done";
    if let Some(log) = start_on_a_full_disk(harm) {
        assert!(log.contains(BUILT_AGAIN), "{log}");
    }
}

#[test]
fn a_broker_started_on_a_full_disk_does_so_too_when_its_index_is_gone() {
    let harm = "rm -r \"$1/index\"; cat /dev/zero >> \"$1/filler\" || true";
    if let Some(log) = start_on_a_full_disk(harm) {
        assert!(log.contains(BUILT_AGAIN), "{log}");
    }
}

/// What the last broker says when there is room again; `None` where the machine cannot play it.
fn start_on_a_full_disk(harm: &str) -> Option<String> {
    let mut world = World::new();
    let disk = match Disk::in_memory(&world.installation.home().join("data")) {
        Ok(disk) => disk,
        Err(why) => {
            println!("not on this machine: {why}");
            return None;
        }
    };
    world.installation.launch_with(disk.enter());
    for text in ["ledger", "index", "authority"] {
        world.installation.expect_error(text);
    }
    let broker = world.start();
    let agent = broker.agent("builder");
    let task = World::task(&agent, &["vault-main/config"]);
    let token = World::draw(&agent, &task, "vault-main/config", &[]);
    disk.fill();
    broker.kill();
    disk.shell(harm);

    let broker = world.start();
    // The answer has the receipts of what has left memory; that it has not is no reason not to end the task.
    let (_, refused) = broker.known("builder").refused(&["task", "end", &task]);
    assert!(refused.contains("the disk is full"), "{refused}");
    eventually("the token is revoked", || {
        world.bao.task_tokens().is_empty().then_some(())
    });

    disk.free();
    eventually("it ends, to be started again", || {
        broker.has_ended().then_some(())
    });
    broker.wait_killed();
    let broker = world.start();
    let shown = broker.known("builder").json(&["task", "show", &task]);
    assert_eq!(text(receipt(&shown, &token), "state"), "revoked_verified");
    let log = broker.log();
    broker.stop();
    Some(log)
}
