//! The suite of the provider API, against ministack behind a switch that can cut it off.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use parking_lot::Mutex;
use taskpass_core::{Clock, SystemClock, TaskId, Timestamp};
use taskpass_provider::{
    IssueOrder, Issued, Provider,
    conformance::{Fixture, RecordedAnchors},
};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

use super::support::{Emulator, Orders, cloud, config, object};
use crate::AwsProvider;

struct Aws {
    cloud: Emulator,
    provider: AwsProvider,
    orders: Orders,
    switch: Switch,
}

async fn fixture() -> Aws {
    let cloud = cloud().await;
    let switch = Switch::before(cloud.url.replace("http://", "")).await;
    let provider = AwsProvider::new(
        &config(&switch.url, true),
        cloud.dir.path(),
        Arc::new(SystemClock::new()),
    );
    Aws {
        cloud,
        provider: provider.unwrap(),
        orders: Orders::new(),
        switch,
    }
}

/// Passes connections on until it is cut, which closes all of them before it returns.
struct Switch {
    url: String,
    /// `None` while it is cut.
    passing: Arc<Mutex<Option<JoinSet<()>>>>,
    made: Arc<AtomicUsize>,
}

impl Switch {
    async fn before(target: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let passing = Arc::new(Mutex::new(Some(JoinSet::new())));
        let (connections, made) = (Arc::clone(&passing), Arc::new(AtomicUsize::new(0)));
        let counted = Arc::clone(&made);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                if let Some(connections) = connections.lock().as_mut() {
                    counted.fetch_add(1, Ordering::SeqCst);
                    connections.spawn(pass_on(client, target.clone()));
                }
            }
        });
        Self { url, passing, made }
    }

    async fn cut(&self) {
        let connections = self.passing.lock().take();
        if let Some(mut connections) = connections {
            connections.shutdown().await;
        }
    }

    fn mend(&self) {
        *self.passing.lock() = Some(JoinSet::new());
    }
}

async fn pass_on(mut client: TcpStream, target: String) {
    if let Ok(mut server) = TcpStream::connect(&target).await {
        drop(tokio::io::copy_bidirectional(&mut client, &mut server).await);
    }
}

#[async_trait]
impl Fixture for Aws {
    fn provider(&self) -> &dyn Provider {
        &self.provider
    }

    fn now(&self) -> Timestamp {
        SystemClock::new().now()
    }

    fn new_task(&self) -> TaskId {
        self.orders.task()
    }

    fn order(&self, task: TaskId) -> IssueOrder {
        let scope = [("bucket", "logs"), ("key", "a.txt")];
        self.orders.order(task, Duration::from_secs(600), &scope)
    }

    async fn usable(&self, issued: &Issued) -> bool {
        object(&self.cloud, issued, "GET", "/logs/a.txt").await.0 == 200
    }

    fn hostile_orders(&self) -> Vec<IssueOrder> {
        ["*", "?", "${aws:userid}", "a$", "{", "x\u{85}"]
            .into_iter()
            .filter_map(|key| {
                taskpass_core::Scope::from_pairs([("key", key)]).ok()?;
                let scope = [("bucket", "logs"), ("key", key)];
                Some(
                    self.orders
                        .order(self.orders.task(), Duration::from_secs(600), &scope),
                )
            })
            .chain([{
                let long = "x".repeat(510);
                let scope = [("bucket", "logs"), ("key", long.as_str())];
                let mut order =
                    self.orders
                        .order(self.orders.task(), Duration::from_secs(600), &scope);
                // No value: the template cannot be filled.
                order.scope = taskpass_core::Scope::default();
                order
            }])
            .collect()
    }

    fn canaries(&self) -> Vec<String> {
        ["broker.ini", "revoker.ini"]
            .iter()
            .flat_map(|file| {
                let text = std::fs::read_to_string(self.cloud.dir.path().join(file)).unwrap();
                let values = text
                    .lines()
                    .filter_map(|l| l.split_once('='))
                    .map(|(_, v)| v.to_owned());
                values.collect::<Vec<_>>()
            })
            .collect()
    }

    async fn break_back_end(&self) -> bool {
        self.switch.cut().await;
        true
    }

    async fn mend_back_end(&self) {
        self.switch.mend();
    }
}

taskpass_provider::conformance!(fixture());

/// On a shared connection, an answer delivered twice would pass for the next request's.
#[tokio::test]
async fn each_request_has_a_connection_of_its_own() {
    let aws = fixture().await;
    let anchors = RecordedAnchors::new();
    let made = || aws.switch.made.load(Ordering::SeqCst);
    for sessions in 1..=3 {
        let order = aws.order(aws.new_task());
        aws.provider.issue(&order, &anchors).await.unwrap();
        assert_eq!(made(), sessions, "AssumeRole, by the SDK");
    }
    for reads in 1..=2 {
        aws.provider.maintain().await.unwrap();
        assert_eq!(made(), 3 + reads, "GetRolePolicy, signed by ourselves");
    }
}
