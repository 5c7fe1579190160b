//! A broker that starts on a full disk revokes the credentials that are due. It has all of its
//! history again as soon as there is room, without a person's help.

use taskpass_proto::v1 as pb;
use taskpass_tests::{
    Disk, World, eventually,
    wire::{Certificate, Wire},
};

use crate::support::{receipt, text};

/// Later than the deadline of every task and than the next step of the certificate authority.
const LATER_SECONDS: i64 = 13 * 3600;

#[test]
fn a_broker_started_on_a_full_disk_revokes_all_that_is_due() {
    // The index may be sound or damaged, as the full disk left it.
    start_on_a_full_disk("true");
}

#[test]
fn a_broker_started_on_a_full_disk_with_a_damaged_index_revokes_all_that_is_due() {
    start_on_a_full_disk(
        "for file in conf db; do dd if=/dev/urandom of=\"$1/index/$file\" bs=512 count=1 conv=notrunc; done",
    );
}

#[test]
fn a_broker_started_on_a_full_disk_without_an_index_revokes_all_that_is_due() {
    start_on_a_full_disk("rm -r \"$1/index\"");
}

/// Applies `harm` to the files between the two brokers. Passes on a machine that cannot play it.
fn start_on_a_full_disk(harm: &str) {
    let mut world = World::new();
    let disk = match Disk::in_memory(&world.installation.home().join("data")) {
        Ok(disk) => disk,
        Err(why) => return println!("not on this machine: {why}"),
    };
    world.installation.launch_with(disk.enter());
    world.installation.configure(
        "[tasks]\nopen_per_agent = 100000\n\n\
         [limits]\nagent_requests_per_second = 100000\nagent_requests_burst = 1000000\n\
         agent_ledger_bytes_per_hour = 4000000000\nagent_task_starts_per_hour = 100000000\n",
    );
    for text in [
        "the index of history",
        "the certificate authority could not be rotated",
    ] {
        world.installation.expect_error(text);
    }
    let broker = world.start();
    let agent = broker.agent("builder");
    let task = World::task(&agent, &["vault-main/config"]);
    let token = World::issue(&agent, &task, "vault-main/config", &[]);
    disk.fill();
    use_up(&Wire::new(
        broker.address(),
        Some(&Certificate::load(agent.identity())),
    ));
    broker.kill();
    disk.shell(harm);
    // The broker may have freed the room that it had set aside for its index.
    disk.fill();
    world.installation.shift_clock(LATER_SECONDS);

    let broker = world.start();
    eventually("the token is revoked", || {
        world.bao.task_tokens().is_empty().then_some(())
    });
    eventually("the end is on record, so that it is history", || {
        let shown = broker.operator().run(&["task", "show", &task]);
        shown.stderr.contains("no room on the disk").then_some(())
    });
    broker.kill();
    disk.fill();
    let broker = world.start();

    disk.free();
    eventually("it ends, to be started again", || {
        broker.has_ended().then_some(())
    });
    broker.wait_killed();
    let broker = world.start();
    let shown = broker.operator().json(&["task", "show", &task]);
    assert_eq!(text(&shown, "state"), "ended");
    assert_eq!(text(receipt(&shown, &token), "state"), "revoked_verified");
    broker.stop();
}

/// The ledger has allocated room in front of its reserve. Issuing stops only when that room is used
/// up.
fn use_up(agent: &Wire) {
    let long = "x".repeat(512);
    let request = pb::StartTaskRequest {
        purpose: long.clone(),
        roles: vec![pb::TaskRole {
            role: "vault-main/config".to_owned(),
            ..Default::default()
        }],
        labels: (0..16).map(|n| (format!("n{n}"), long.clone())).collect(),
        ..Default::default()
    };
    for _ in 0..5000 {
        let started = agent.ask("/taskpass.v1.TaskService/StartTask", &request);
        if let Err(refused) = started.map(|_: pb::StartTaskResponse| ()) {
            assert!(refused.message().contains("disk is full"), "{refused:?}");
            return;
        }
    }
    panic!("it still gives something out");
}
