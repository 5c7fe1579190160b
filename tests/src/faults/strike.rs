//! Injects each fault, removes it, and keeps the operation's result meanwhile.

use std::{fs, io::Write, process::Child, thread, time::Duration};

use taskpass_client::Client;

use crate::{Broker, Link, Trouble, eventually, wire::runtime, witness::client_config};

use super::{
    Fault, Jump, Operation,
    operation::{Answer, in_words},
    play::Play,
    stage::Stage,
    verdict::Back,
};

const HOUR: i64 = 3600;
/// Longer than the certificate authority lives in a cell about its end.
const LONG: i64 = 2 * HOUR + 60;

/// The state after the fault.
#[derive(Debug)]
pub(super) struct Struck<'a> {
    pub(super) broker: Broker<'a>,
    /// The result of the operation while the fault lasted.
    pub(super) meanwhile: Answer,
    pub(super) back: Back,
    /// Secrets that worked although they were reported as revoked with proof.
    pub(super) false_proofs: Vec<String>,
    pub(super) wrong: Vec<String>,
}

impl<'a> Struck<'a> {
    const fn new(broker: Broker<'a>, meanwhile: Answer, back: Back) -> Self {
        Self {
            broker,
            meanwhile,
            back,
            false_proofs: Vec::new(),
            wrong: Vec::new(),
        }
    }
}

pub(super) fn strike<'a>(stage: &'a Stage, broker: Broker<'a>, play: &Play<'a>) -> Struck<'a> {
    match stage.cell.fault {
        Fault::Killed => killed(stage, broker, play),
        Fault::PowerCut => power_cut(stage, broker, play),
        Fault::Down => trouble(stage, broker, play, Trouble::Down),
        Fault::Slow => trouble(stage, broker, play, Trouble::Slow(ms(300))),
        Fault::Hung => trouble(stage, broker, play, Trouble::Hung),
        Fault::AnswerLost => trouble(stage, broker, play, Trouble::AnswerLost),
        Fault::AnswerTwice => trouble(stage, broker, play, Trouble::AnswerTwice),
        Fault::AnswerWrong => trouble(stage, broker, play, Trouble::AnswerWrong),
        Fault::Failing => trouble(stage, broker, play, Trouble::Failing),
        Fault::DiskFull => disk_full(stage, broker, play),
        Fault::DiskReadOnly => disk_read_only(stage, broker, play),
        Fault::LedgerTorn => restarted(stage, broker, play, tear),
        Fault::LedgerDamaged => ledger_damaged(stage, broker, play),
        Fault::IndexDamaged => restarted(stage, broker, play, damage_index),
        Fault::IndexRemoved => restarted(stage, broker, play, remove_index),
        Fault::ClockForwards(jump) => clock_forwards(stage, broker, play, jump),
        Fault::ClockBackwards(jump) => {
            stage.jump_broker(-jump.seconds());
            let meanwhile = play.ask(&broker);
            let mut struck = watched(broker, play, meanwhile);
            if jump.is_noticed() {
                no_issue_in_doubt(stage, &mut struck);
            }
            stage.jump_broker(0);
            struck
        }
        Fault::ClockFast => clock_fast(stage, broker, play),
        Fault::ClockAheadThenRight => clock_ahead_then_right(stage, broker, play),
        Fault::ClientKilled => client_killed(stage, broker, play),
        Fault::ClientStopped => client_stopped(broker, play),
        Fault::ClientPartitioned => client_partitioned(stage, broker, play),
        Fault::LongDowntime => {
            broker.kill();
            stage.jump(LONG);
            let broker = stage.installation.start();
            let meanwhile = play.ask(&broker);
            Struck::new(broker, meanwhile, Back::ByRestart)
        }
    }
}

/// Looks for false proofs for a while.
fn watched<'a>(broker: Broker<'a>, play: &Play<'a>, meanwhile: Answer) -> Struck<'a> {
    let mut struck = Struck::new(broker, meanwhile, Back::ByItself);
    for _ in 0..4 {
        struck
            .false_proofs
            .extend(play.false_proofs_now(&struck.broker));
        pause(250);
    }
    struck
}

fn trouble<'a>(
    stage: &'a Stage,
    broker: Broker<'a>,
    play: &Play<'a>,
    trouble: Trouble,
) -> Struck<'a> {
    stage.relay.make(trouble);
    let meanwhile = play.ask(&broker);
    let struck = watched(broker, play, meanwhile);
    stage.relay.make(Trouble::None);
    struck
}

fn killed<'a>(stage: &'a Stage, broker: Broker<'a>, play: &Play<'a>) -> Struck<'a> {
    let place = match stage.cell.operation {
        Operation::Attest => "attest.recorded",
        Operation::Start => "start.recorded",
        Operation::Issue => "issue.minted",
        Operation::Renew => "renew.extended",
        Operation::Revoke | Operation::End => "revoke.called",
        Operation::Rotate => "rotate.moved",
    };
    broker.kill();
    stage.shift_before_rotation(Duration::from_secs(10));
    let broker = stage
        .installation
        .start_with(&[("TASKPASS_FAILPOINT", place)]);
    let meanwhile = play.ask(&broker);
    broker.wait_killed();
    let back = stage.installation.start();
    let mut struck = Struck::new(back, meanwhile, Back::ByRestart);
    if struck.meanwhile.is_ok() {
        let wrong = format!("the answer came although the broker was killed at {place}");
        struck.wrong.push(wrong);
    }
    struck
}

/// Cuts the power while another client works, so that requests are in flight.
fn power_cut<'a>(stage: &'a Stage, broker: Broker<'a>, play: &Play<'a>) -> Struck<'a> {
    let disk = stage.disk.as_ref().expect("the stage has a disk");
    let meanwhile = thread::scope(|scope| {
        let at_work = scope.spawn(|| while play.probe(&broker).is_ok() {});
        let meanwhile = play.ask(&broker);
        // All threads stop with the disk, as a processor without power does. A thread that went on
        // could be told that data is durable which is not: of 400 cuts under a plain writer, 29
        // lost data that a successful `fdatasync` had covered; of 375 cuts with the writer stopped,
        // none did.
        broker.suspend();
        disk.cut();
        broker.signal(rustix::process::Signal::KILL);
        at_work.join().expect("the thread does not panic");
        meanwhile
    });
    broker.wait_killed();
    disk.replug();
    Struck::new(stage.installation.start(), meanwhile, Back::ByRestart)
}

fn disk_full<'a>(stage: &'a Stage, broker: Broker<'a>, play: &Play<'a>) -> Struck<'a> {
    let disk = stage.disk.as_ref().expect("the stage has a disk");
    disk.fill();
    let meanwhile = play.ask(&broker);
    let struck = watched(broker, play, meanwhile);
    disk.free();
    struck
}

fn disk_read_only<'a>(stage: &'a Stage, broker: Broker<'a>, play: &Play<'a>) -> Struck<'a> {
    let disk = stage.disk.as_ref().expect("the stage has a disk");
    disk.fail_read_only();
    let meanwhile = play.ask(&broker);
    // The broker ends by itself when it cannot write; the repair does not wait for that.
    broker.kill();
    disk.replug();
    Struck::new(stage.installation.start(), meanwhile, Back::ByPerson)
}

/// Kills the broker after the operation, changes its files, and starts it again.
fn restarted<'a>(
    stage: &'a Stage,
    broker: Broker<'a>,
    play: &Play<'a>,
    change: fn(&Stage),
) -> Struck<'a> {
    let meanwhile = play.ask(&broker);
    broker.kill();
    change(stage);
    Struck::new(stage.installation.start(), meanwhile, Back::ByRestart)
}

/// Appends half an entry: the beginning of the first entry behind the last one.
fn tear(stage: &Stage) {
    const HEADER_BYTES: usize = 20;
    const HALF: usize = 40;
    let segment = fs::read(stage.segment()).expect("the segment");
    let mut file = fs::OpenOptions::new()
        .append(true)
        .open(stage.segment())
        .expect("the segment");
    file.write_all(&segment[HEADER_BYTES..][..HALF])
        .expect("it can be written");
}

fn damage_index(stage: &Stage) {
    let mut damaged = 0;
    for file in fs::read_dir(stage.installation.home().join("data/index")).expect("the index") {
        let path = file.expect("a file").path();
        if path.is_file() {
            let length = fs::metadata(&path).expect("its length").len();
            fs::write(
                &path,
                vec![0xa5; usize::try_from(length).expect("a small file")],
            )
            .expect("it can be damaged");
            damaged += 1;
        }
    }
    assert!(damaged > 0, "the index has no files");
}

fn remove_index(stage: &Stage) {
    fs::remove_dir_all(stage.installation.home().join("data/index")).expect("the index");
}

/// The broker must not serve from a ledger that differs from the one it signed. A person restores
/// the file.
fn ledger_damaged<'a>(stage: &'a Stage, broker: Broker<'a>, play: &Play<'a>) -> Struck<'a> {
    let meanwhile = play.ask(&broker);
    broker.kill();
    let good = fs::read(stage.segment()).expect("the segment");
    let mut bad = good.clone();
    bad[good.len() / 3] ^= 0x01;
    fs::write(stage.segment(), bad).expect("it can be damaged");
    let config = stage.installation.home().join("taskpass.toml");
    let config = config.display().to_string();
    let done = stage.installation.daemon(&["run", "--config", &config]);
    let complaint = String::from_utf8_lossy(&done.stderr).into_owned();
    fs::write(stage.segment(), good).expect("it can be repaired");
    let mut struck = Struck::new(stage.installation.start(), meanwhile, Back::ByPerson);
    if done.status.success() || !complaint.contains("ledger") {
        struck.wrong.push(format!(
            "it started from a damaged ledger, or did not say why not: {complaint}"
        ));
    }
    play.remark("refuses to start from a damaged ledger, as it must");
    struck
}

/// A broker whose clock ran away gives out nothing.
fn no_issue_in_doubt(stage: &Stage, struck: &mut Struck<'_>) {
    let reason = struck.meanwhile.as_ref().err();
    let is_of_clock = reason.is_some_and(|why| why.contains("clock says"));
    if stage.cell.operation.issues() && !is_of_clock {
        let wrong = format!("not refused because of the clock: {:?}", struck.meanwhile);
        struck.wrong.push(wrong);
    }
}

fn clock_forwards<'a>(
    stage: &'a Stage,
    broker: Broker<'a>,
    play: &Play<'a>,
    jump: Jump,
) -> Struck<'a> {
    if !jump.is_noticed() {
        stage.jump(jump.seconds());
        let meanwhile = play.ask(&broker);
        return watched(broker, play, meanwhile);
    }
    stage.jump_broker(jump.seconds());
    let meanwhile = play.ask(&broker);
    let mut struck = watched(broker, play, meanwhile);
    no_issue_in_doubt(stage, &mut struck);
    if jump != Jump::Hour {
        stage.jump_broker(0);
        return struck;
    }
    // The hour has passed, and a machine that stood still does not know.
    stage.jump(jump.seconds());
    struck.broker.kill();
    struck.broker = accepted(stage, &mut struck.wrong);
    struck.back = Back::ByPerson;
    struck
}

/// A person confirms the time and starts the broker.
fn accepted<'a>(stage: &'a Stage, wrong: &mut Vec<String>) -> Broker<'a> {
    let done = stage.installation.accept_clock();
    if !done.status.success() {
        wrong.push(String::from_utf8_lossy(&done.stderr).into_owned());
    }
    stage.installation.start()
}

/// The broker follows a clock until that has gained five minutes. The cell begins just before. Then
/// the ledger is five minutes ahead, and a person does not wait that long.
fn clock_fast<'a>(stage: &'a Stage, broker: Broker<'a>, play: &Play<'a>) -> Struck<'a> {
    const GAINED_BEFORE: i64 = 295;
    const NOTICED_AFTER: i64 = 10;
    for gained in 0..NOTICED_AFTER {
        let gained = GAINED_BEFORE + gained;
        stage.jump_broker(gained);
        pause(1000);
    }
    let meanwhile = play.ask(&broker);
    let mut struck = watched(broker, play, meanwhile);
    no_issue_in_doubt(stage, &mut struck);
    stage.jump_broker(0);
    struck.broker.kill();
    struck.broker = accepted(stage, &mut struck.wrong);
    struck.back = Back::ByPerson;
    struck
}

/// Entries written while the clocks were ahead lie in the future once the clocks are right again.
fn clock_ahead_then_right<'a>(stage: &'a Stage, broker: Broker<'a>, play: &Play<'a>) -> Struck<'a> {
    broker.kill();
    stage.jump(HOUR);
    let broker = stage.installation.start();
    let ahead = play.probe(&broker).err();
    // Identities of ten minutes do not outlive the jump, and must not.
    let is_short = stage.cell.operation == Operation::Rotate;
    let ahead = ahead.filter(|why| {
        !(is_short && why.starts_with("the identity `") && why.contains("expired at"))
    });
    let mut wrong: Vec<String> = ahead.into_iter().collect();
    broker.kill();
    stage.jump(-HOUR);
    if is_short {
        // The issuing authority is of the future as well, so no broker can serve.
        let broker = accepted(stage, &mut wrong);
        let meanwhile = play.ask(&broker);
        let mut struck = watched(broker, play, meanwhile);
        (struck.back, struck.wrong) = (Back::ByPerson, wrong);
        return struck;
    }
    let broker = stage.installation.start();
    let meanwhile = play.ask(&broker);
    let mut struck = watched(broker, play, meanwhile);
    no_issue_in_doubt(stage, &mut struck);
    struck.wrong.extend(wrong);
    struck.broker.kill();
    struck.broker = accepted(stage, &mut struck.wrong);
    struck.back = Back::ByPerson;
    struck
}

fn client_killed<'a>(stage: &'a Stage, broker: Broker<'a>, play: &Play<'a>) -> Struck<'a> {
    // Slow enough that the client is killed in the middle.
    stage.relay.make(Trouble::Slow(ms(400)));
    let mut client = play.spawn(&broker);
    pause(if stage.cell.operation.needs_provider() {
        300
    } else {
        20
    });
    let _gone = client.kill();
    let _reaped = client.wait();
    stage.relay.make(Trouble::None);
    let killed = Err("the client was killed".to_owned());
    Struck::new(broker, killed, Back::ByItself)
}

/// A stopped client delays no other, and goes on when it is continued.
fn client_stopped<'a>(broker: Broker<'a>, play: &Play<'a>) -> Struck<'a> {
    let mut client = play.spawn(&broker);
    pause(30);
    signal(&client, rustix::process::Signal::STOP);
    let others = play.probe(&broker);
    signal(&client, rustix::process::Signal::CONT);
    let status = eventually("the client ends", || client.try_wait().expect("its status"));
    let meanwhile = match status.success() {
        true => Ok(()),
        false => Err(format!("the client ended with {status}")),
    };
    let mut struck = Struck::new(broker, meanwhile, Back::ByItself);
    struck.wrong.extend(others.err());
    struck
}

fn client_partitioned<'a>(stage: &'a Stage, broker: Broker<'a>, play: &Play<'a>) -> Struck<'a> {
    let link = Link::start(broker.address());
    let through = client_config(&play.agent(&broker).through(link.address()));
    let client = runtime()
        .block_on(Client::connect(through))
        .expect("nothing is parted yet");
    link.cut();
    let meanwhile = thread::scope(|scope| {
        scope.spawn(|| {
            pause(1500);
            link.restore();
        });
        match stage.cell.operation {
            Operation::Attest => {
                let cli = play.without_identity(&broker).through(link.address());
                let token = play.take_join_token(&broker)?;
                let config = client_config(&cli);
                let login = Client::login(&config, &token);
                runtime().block_on(login).map(drop).map_err(in_words)
            }
            Operation::Rotate => play.ask(&broker),
            operation => runtime().block_on(play.carry_out(operation, &client)),
        }
    });
    Struck::new(broker, meanwhile, Back::ByItself)
}

fn signal(child: &Child, signal: rustix::process::Signal) {
    let pid = i32::try_from(child.id()).expect("a pid");
    let pid = rustix::process::Pid::from_raw(pid).expect("a pid");
    rustix::process::kill_process(pid, signal).expect("it can be signalled");
}

const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// Waits. A fault lasts for a while, and no event tells that it has lasted long enough.
#[expect(clippy::disallowed_methods, reason = "faults last in real time")]
pub(super) fn pause(millis: u64) {
    thread::sleep(ms(millis));
}
