//! The changes that a reload takes over, the changes that it refuses, and where the answer can be
//! read.

use std::{fs, path::PathBuf, time::Duration};

use taskpass_core::SystemClock;

use super::*;
use crate::{App, fixture::Installation};

/// An installation with a broker in this process, which serves no caller.
struct Bench {
    installation: Installation<SystemClock>,
    reloads: Reloads,
    stop: CancellationToken,
    served: tokio::task::JoinHandle<()>,
}

impl Bench {
    #[expect(
        clippy::disallowed_methods,
        reason = "the broker is awaited by its handle in `stop`"
    )]
    async fn new() -> Self {
        let installation = Installation::on(SystemClock::new());
        let (config, deps) = (installation.config.clone(), installation.deps.clone());
        let app = App::build(config, deps).await.unwrap();
        let (reloads, stop) = (app.reloads(), CancellationToken::new());
        let stopped = stop.clone().cancelled_owned();
        let served = tokio::spawn(async move { app.run(stopped).await.unwrap() });
        Self {
            installation,
            reloads,
            stop,
            served,
        }
    }

    fn path(&self, below: &str) -> PathBuf {
        self.installation.path(below)
    }

    fn add(&self, text: &str) {
        self.installation.edit(|before| before.to_owned() + text);
    }

    async fn reload(&self) -> Verdict {
        self.reloads.perform().await.unwrap().verdict
    }

    async fn ask(&self) -> Result<Outcome, AskError> {
        let data = self.path("data");
        tokio::task::spawn_blocking(move || ask(&data))
            .await
            .unwrap()
    }

    async fn stop(self) -> Installation<SystemClock> {
        self.stop.cancel();
        self.served.await.unwrap();
        self.installation
    }
}

const PROVIDER: &str = "
[[provider]]
name = \"v\"
kind = \"vault\"
address = \"http://127.0.0.1:8200\"
allow_plaintext = true
token_file = \"token\"
";

#[tokio::test(flavor = "multi_thread")]
async fn changes_are_taken_over_and_named() {
    let bench = Bench::new().await;
    let none = Verdict::Unchanged { warnings: vec![] };
    assert_eq!(bench.reload().await, none);
    bench.add(&format!("\n[tasks]\nopen_per_agent = 7\n{PROVIDER}"));
    let Verdict::Reloaded { changes, .. } = bench.reload().await else {
        panic!("it was not reloaded");
    };
    assert_eq!(
        changes,
        [
            "`tasks.open_per_agent`: 100 is now 7",
            "provider `v`: added"
        ]
    );
    assert_eq!(bench.reload().await, none);
    // Neither a comment nor the order of keys makes another provider of it.
    let file = bench.path("taskpass.toml");
    let text = fs::read_to_string(&file).unwrap();
    let moved =
        text.replace("allow_plaintext = true\n", "") + "allow_plaintext = true # as before\n";
    fs::write(&file, moved).unwrap();
    let Verdict::Reloaded { changes, .. } = bench.reload().await else {
        panic!("it was not reloaded");
    };
    assert_eq!(changes, ["nothing but the text of the file"]);
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_with_a_mistake_is_refused_whole() {
    let bench = Bench::new().await;
    let (config, policy) = (bench.path("taskpass.toml"), bench.path("policy/bad.cedar"));
    let good = fs::read_to_string(&config).unwrap();
    let refused = |verdict: Verdict| match verdict {
        Verdict::Refused { problems } => problems.join("\n"),
        other => panic!("{other:?}"),
    };
    // A good part beside the bad one does not come into force either.
    bench.add("\n[tasks]\nopen_per_agent = 7\n[provider_calls]\nbreaker_failure = 3\n");
    let problem = refused(bench.reload().await);
    assert!(
        problem.contains("taskpass.toml:") && problem.contains("breaker_failures"),
        "{problem}"
    );
    fs::write(&config, &good).unwrap();
    fs::write(&policy, "permit(principal, action").unwrap();
    let problem = refused(bench.reload().await);
    assert!(problem.contains("policy/bad.cedar:1:"), "{problem}");
    fs::remove_file(&policy).unwrap();
    fs::remove_file(&config).unwrap();
    let problem = refused(bench.reload().await);
    assert!(
        problem.contains("cannot read the configuration"),
        "{problem}"
    );
    fs::write(&config, &good).unwrap();
    let none = Verdict::Unchanged { warnings: vec![] };
    assert_eq!(bench.reload().await, none);
    bench.stop().await;
}

/// A pipe gives its text to one reader: a second look at the file would wait for a second writer.
#[tokio::test(flavor = "multi_thread")]
async fn the_policy_that_is_checked_is_the_one_in_force() {
    use rustix::fs::{CWD, FileType, Mode, mknodat};
    let bench = Bench::new().await;
    let pipe = bench.path("policy/more.cedar");
    mknodat(CWD, &pipe, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    let text = "@id(\"more\") permit(principal is Taskpass::Operator, action, resource);";
    let writer = pipe.clone();
    let writing = tokio::task::spawn_blocking(move || fs::write(writer, text));
    let verdict = tokio::time::timeout(Duration::from_secs(20), bench.reload()).await;
    if verdict.is_err() {
        // Lets the second reader go, so that the test can end.
        fs::write(&pipe, text).unwrap();
    }
    let Ok(Verdict::Reloaded { changes, .. }) = verdict else {
        panic!("{verdict:?}");
    };
    assert!(changes[0].starts_with("policy set: "), "{changes:?}");
    writing.await.unwrap().unwrap();
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_answer_comes_through_the_socket_and_stays_on_disk() {
    let bench = Bench::new().await;
    let data = bench.path("data");
    let mode = |file: &str| {
        use std::os::unix::fs::PermissionsExt as _;
        fs::metadata(data.join(file)).unwrap().permissions().mode() & 0o777
    };
    assert_eq!(Outcome::last(&data), None);
    bench.add("\n[listen]\n");
    let outcome = bench.ask().await.unwrap();
    assert!(!outcome.is_in_force(), "{outcome}");
    assert_eq!(Outcome::last(&data), Some(outcome));
    assert_eq!((mode("control.sock"), mode("reload.json")), (0o600, 0o600));
    let installation = bench.stop().await;
    assert!(!data.join("control.sock").exists());
    assert_eq!(Outcome::last(&data), None);
    let refused = ask(&installation.path("data")).unwrap_err();
    assert!(matches!(refused, AskError::NotRunning { .. }), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_tells_how_its_reconcilers_stand() {
    let bench = Bench::new().await;
    let data = bench.path("data");
    let names = [
        "authority",
        "certificate",
        "clock",
        "counts",
        "ledger",
        "maintenance",
        "reaper",
        "revoker",
    ];
    let all = async {
        loop {
            let reports = control::look(&data).await.unwrap();
            if reports.len() == names.len() {
                return reports;
            }
        }
    };
    let reports = tokio::time::timeout(Duration::from_secs(20), all).await;
    let reports = reports.expect("each runs once");
    assert!(reports.iter().map(|it| it.name.as_str()).eq(names));
    for report in reports {
        assert!(report.runs > 0 && !report.fails(), "{report:?}");
        assert_eq!(report.last_success_at, Some(report.last_run_at));
    }
    bench.stop().await;
    let refused = control::look(&data).await.unwrap_err();
    assert!(matches!(refused, AskError::NotRunning { .. }), "{refused}");
}

/// A peer that sends nothing and a peer that sends another command get no answer, and block no
/// other peer.
#[tokio::test(flavor = "multi_thread")]
async fn other_commands_are_not_answered() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let bench = Bench::new().await;
    let socket = bench.path("data/control.sock");
    let connect = || tokio::net::UnixStream::connect(&socket);
    let _silent = connect().await.unwrap();
    let mut other = connect().await.unwrap();
    other.write_all(b"restart").await.unwrap();
    let mut endless = connect().await.unwrap();
    endless.write_all(&[b'x'; 4096]).await.unwrap();
    let mut answer = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(20), other.read_to_end(&mut answer));
    read.await.unwrap().unwrap();
    assert_eq!(answer, b"");
    assert!(matches!(endless.read(&mut [0]).await, Ok(0) | Err(_)));
    assert!(bench.ask().await.unwrap().is_in_force());
    bench.stop().await;
}
