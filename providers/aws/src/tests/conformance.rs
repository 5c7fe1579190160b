//! The suite of the provider API, against ministack behind a switch that can cut it off.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use taskpass_core::{Clock, SystemClock, TaskId, Timestamp};
use taskpass_provider::{IssueOrder, Issued, Provider, conformance::Fixture};
use tokio::net::{TcpListener, TcpStream};

use super::support::{Emulator, Orders, cloud, config, object};
use crate::AwsProvider;

struct Aws {
    cloud: Emulator,
    provider: AwsProvider,
    orders: Orders,
    cut: Arc<AtomicBool>,
}

async fn fixture() -> Aws {
    let cloud = cloud().await;
    let cut = Arc::new(AtomicBool::new(false));
    let through = switch(cloud.url.replace("http://", ""), cut.clone()).await;
    let provider = AwsProvider::new(
        &config(&through, true),
        cloud.dir.path(),
        Arc::new(SystemClock::new()),
    );
    Aws {
        cloud,
        provider: provider.unwrap(),
        orders: Orders::new(),
        cut,
    }
}

/// Passes connections on; while it is cut, closes new ones and those that are open.
async fn switch(to: String, cut: Arc<AtomicBool>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let (to, cut) = (to.clone(), cut.clone());
            tokio::spawn(async move {
                if cut.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(mut server) = TcpStream::connect(&to).await else {
                    return;
                };
                let closed = async {
                    while !cut.load(Ordering::SeqCst) {
                        tokio::time::sleep(Duration::from_millis(5)).await;
                    }
                };
                tokio::select! {
                    _ = tokio::io::copy_bidirectional(&mut client, &mut server) => {}
                    () = closed => {}
                }
            });
        }
    });
    url
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
                // Missing altogether: the template cannot be filled.
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
        self.cut.store(true, Ordering::SeqCst);
        true
    }

    async fn mend_back_end(&self) {
        self.cut.store(false, Ordering::SeqCst);
    }
}

taskpass_provider::conformance!(fixture());
