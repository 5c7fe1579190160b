//! The parts of a cell: an OpenBao behind a relay, an installation, and a disk of its own where the
//! fault needs one.

use std::{
    fs,
    path::PathBuf,
    time::{Duration, Instant},
};

use serde_json::Value;
use taskpass_core::{Clock, SystemClock, Timestamp};

use crate::{Broker, Disk, Installation, OpenBao, Relay};

use super::{Cell, Fault, Operation, play::Play, strike, verdict::Verdict};

/// Short deadlines towards the provider, so that a cell takes seconds, and limits that no load of a
/// cell reaches.
const CONFIG: &str = r#"
[provider_calls]
issue_timeout = "2s"
revoke_timeout = "3s"

[credentials]
revoke_wait_default = "1s"
"#;

/// The installation is this old when the fault is injected. A clock that jumps an hour back is then
/// still after its beginning.
const AGE_SECONDS: i64 = 2 * 3600;
/// A shorter age, for cells in which a certificate of the broker must become due within the hour.
const SHORT_AGE_SECONDS: i64 = 1800;

/// All parts of a cell.
#[derive(Debug)]
pub(super) struct Stage {
    pub(super) cell: Cell,
    pub(super) bao: OpenBao,
    pub(super) relay: Relay,
    pub(super) installation: Installation,
    pub(super) disk: Option<Disk>,
    /// Whether the cell also waits for tokens that expire by themselves after a minute.
    pub(super) is_thorough: bool,
    /// When the certificate authority's next step is due.
    rotation_due: Option<Timestamp>,
    began: Instant,
}

impl Stage {
    /// Sets up the parts. `Err` says why this machine cannot play the cell.
    #[expect(
        clippy::disallowed_methods,
        reason = "how long a cell takes is measured in real time"
    )]
    pub(super) fn set(cell: Cell, is_thorough: bool) -> Result<Self, String> {
        let began = Instant::now();
        let mut installation = Installation::made_before(age(cell));
        installation.configure(CONFIG);
        installation.configure(identity(cell));
        let rotation_due =
            (cell.operation == Operation::Rotate).then(|| first_authority(&installation));
        let data = installation.home().join("data");
        let disk = match cell.fault {
            Fault::DiskFull => Some(Disk::in_memory(&data)?),
            Fault::PowerCut | Fault::DiskReadOnly => Some(Disk::on_loop(&data)?),
            _ => None,
        };
        if let Some(disk) = &disk {
            installation.launch_with(disk.enter());
        }
        for text in expected_errors(cell.fault) {
            installation.expect_error(text);
        }
        let bao = OpenBao::start();
        let relay = Relay::start(bao.address());
        let provider = bao.provider("vault-main", "");
        installation.configure(&provider.replace(bao.address(), &relay.address()));
        Ok(Self {
            cell,
            bao,
            relay,
            installation,
            disk,
            is_thorough,
            rotation_due,
            began,
        })
    }

    /// Plays the cell.
    pub(super) fn play(&self) -> Verdict {
        self.shift_before_rotation(Duration::from_secs(15));
        let broker = self.installation.start();
        let play = Play::begin(self, &broker);
        let struck = strike::strike(self, broker, &play);
        play.finish(struck, self.began)
    }

    /// In a cell about rotation, shifts the clocks so that the authority's next step is due after
    /// `left`.
    pub(super) fn shift_before_rotation(&self, left: Duration) {
        if let Some(due) = self.rotation_due {
            let wanted = due.minus(left).millis() - SystemClock::new().now().millis();
            self.installation.shift_clock(wanted / 1000);
        }
    }

    /// The present error of the clocks in seconds.
    pub(super) fn shift(&self) -> i64 {
        let file = self.installation.clock_shift();
        let text = file.and_then(|file| fs::read_to_string(file).ok());
        text.map_or(0, |text| {
            let first = text.split_whitespace().next().expect("a word");
            first.parse::<i64>().expect("a number") / 1000
        })
    }

    /// Shifts the clocks by so many seconds more.
    pub(super) fn jump(&self, seconds: i64) {
        self.installation.shift_clock(self.shift() + seconds);
    }

    /// Puts the broker's clock so many seconds ahead of the clients' clocks.
    pub(super) fn jump_broker(&self, seconds: i64) {
        self.installation
            .shift_brokers_clock(self.shift() + seconds);
    }

    /// The identity directories of agents.
    pub(super) fn identities(&self) -> Vec<PathBuf> {
        let beside = fs::read_dir(self.installation.scratch()).expect("a directory");
        let beside = beside.map(|entry| entry.expect("an entry").path());
        beside
            .filter(|path| path.is_dir() && *path != self.installation.home())
            .collect()
    }

    /// The only segment of the ledger.
    pub(super) fn segment(&self) -> PathBuf {
        self.installation
            .home()
            .join("data/ledger/segments/00000000000000000000.seg")
    }

    /// Restarts the broker if it has ended, as a service manager does. Returns whether it did.
    pub(super) fn restart_if_ended<'a>(&'a self, broker: Broker<'a>) -> (Broker<'a>, bool) {
        if broker.has_ended() {
            broker.wait_killed();
            (self.installation.start(), true)
        } else {
            (broker, false)
        }
    }
}

const fn age(cell: Cell) -> i64 {
    match (cell.fault, cell.operation) {
        (_, Operation::Rotate) => 0,
        (Fault::ClockAheadThenRight, _) => SHORT_AGE_SECONDS,
        (Fault::ClockBackwards(_) | Fault::ClockForwards(_) | Fault::ClockFast, _) => AGE_SECONDS,
        _ => 0,
    }
}

const fn identity(cell: Cell) -> &'static str {
    match (cell.fault, cell.operation) {
        (_, Operation::Rotate) | (Fault::LongDowntime, _) => {
            "[identity]\nsvid_ttl = \"10m\"\nca_ttl = \"1h\"\n"
        }
        (Fault::ClockAheadThenRight, _) => "[identity]\nsvid_ttl = \"2h\"\nca_ttl = \"24h\"\n",
        _ => "[identity]\nsvid_ttl = \"12h\"\nca_ttl = \"4d\"\n",
    }
}

/// Starts the broker for the first time, which creates the first authority. Returns when its
/// successor is due.
fn first_authority(installation: &Installation) -> Timestamp {
    installation.start().stop();
    let path = installation.home().join("data/ca/state.json");
    let text = fs::read_to_string(path).expect("the authority's state is there");
    let state: Value = serde_json::from_str(&text).expect("JSON");
    let only = &state["authorities"][0];
    let time = |name: &str| -> Timestamp { crate::witness::time(only, name) };
    let (from, until) = (time("not_before"), time("not_after"));
    until.minus(until.since(from) / 2)
}

/// The ERROR texts that the fault justifies.
const fn expected_errors(fault: Fault) -> &'static [&'static str] {
    match fault {
        Fault::DiskFull | Fault::DiskReadOnly | Fault::PowerCut => {
            &["ledger", "index", "authority"]
        }
        Fault::ClockForwards(_)
        | Fault::ClockBackwards(_)
        | Fault::ClockFast
        | Fault::ClockAheadThenRight => &[
            "the clock is in doubt",
            "authority could not be rotated",
            "certificate could not be renewed",
        ],
        _ => &[],
    }
}
