//! One agent that fills the ledger as fast as it may: it starts tasks with the largest labels and
//! ends them, and is denied. It waits where its rate is used up, and nowhere else.

#![expect(
    clippy::disallowed_methods,
    reason = "the load runs beside what is measured, and waits as the broker says"
)]

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use prost::Message;
use taskpass_proto::v1 as pb;
use tokio::task::JoinHandle;
use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::{
    load::Latency,
    wire::{Certificate, Wire, runtime},
};

const START: &str = "/taskpass.v1.TaskService/StartTask";
const END: &str = "/taskpass.v1.TaskService/EndTask";
const GET: &str = "/taskpass.v1.TaskService/GetTask";
/// Callers of the flood, on one connection.
const CALLERS: u64 = 8;

/// A flood under way.
#[derive(Debug)]
pub struct Flood {
    stop: Arc<AtomicBool>,
    callers: Vec<JoinHandle<Noted>>,
}

/// What became of the calls of a flood.
#[derive(Debug, Default)]
pub struct Noted {
    /// All calls.
    pub calls: u64,
    /// Tasks that were started.
    pub started: u64,
    /// Calls that were denied.
    pub denied: u64,
    /// Calls that were refused over a budget.
    pub over_budget: u64,
    /// Calls that came faster than the rate.
    pub too_fast: u64,
    /// Ends of tasks that were refused, other than by the rate, and any other error. There should
    /// be none.
    pub other: Vec<Status>,
}

impl Flood {
    /// Begins to flood.
    pub fn begin(address: &str, agent: &Certificate) -> Self {
        let (wire, stop) = (
            Wire::new(address, Some(agent)),
            Arc::<AtomicBool>::default(),
        );
        let callers = (0..CALLERS).map(|number| {
            let (wire, stop) = (wire.clone(), Arc::clone(&stop));
            runtime().spawn(call_until(stop, wire, number))
        });
        Self {
            callers: callers.collect(),
            stop,
        }
    }

    /// Stops it.
    pub fn end(self) -> Noted {
        self.stop.store(true, Ordering::SeqCst);
        let mut all = Noted::default();
        for caller in self.callers {
            let noted = runtime().block_on(caller).expect("a caller ends");
            all.calls += noted.calls;
            all.started += noted.started;
            all.denied += noted.denied;
            all.over_budget += noted.over_budget;
            all.too_fast += noted.too_fast;
            all.other.extend(noted.other);
        }
        all
    }
}

/// The largest request to start a task without a role.
fn largest() -> Vec<u8> {
    let labels = (0..16).map(|n| (format!("{}{n:02}", "k".repeat(61)), "v".repeat(512)));
    let request = pb::StartTaskRequest {
        purpose: "p".repeat(512),
        labels: labels.collect(),
        ..Default::default()
    };
    request.encode_to_vec()
}

async fn call_until(stop: Arc<AtomicBool>, wire: Wire, caller: u64) -> Noted {
    let mut noted = Noted::default();
    let start = largest();
    while !stop.load(Ordering::SeqCst) {
        if let Some(task) = noted.start(&wire, &start).await {
            noted.end(&wire, task).await;
        }
        let stranger = format!("t{:016x}", noted.calls * CALLERS + caller);
        let denied = pb::GetTaskRequest { task_id: stranger };
        drop(noted.call(&wire, GET, denied.encode_to_vec()).await);
    }
    noted
}

impl Noted {
    async fn start(&mut self, wire: &Wire, message: &[u8]) -> Option<String> {
        let answer = self.call(wire, START, message.to_vec()).await.ok()?;
        self.started += 1;
        let started = pb::StartTaskResponse::decode(answer).expect("an answer");
        Some(started.task.expect("a task").id)
    }

    /// Ends a task; tries again where only the rate was against it.
    async fn end(&mut self, wire: &Wire, task_id: String) {
        let end = pb::EndTaskRequest {
            task_id,
            wait_ms: 1,
            ..Default::default()
        };
        loop {
            let before = self.over_budget + self.denied;
            let ended = self.call(wire, END, end.encode_to_vec()).await;
            match ended {
                Err(status) if self.over_budget + self.denied > before => {
                    return self.other.push(status);
                }
                Err(status) if status.code() == Code::ResourceExhausted => {}
                _ => return,
            }
        }
    }

    async fn call(
        &mut self,
        wire: &Wire,
        method: &str,
        message: Vec<u8>,
    ) -> Result<prost::bytes::Bytes, Status> {
        self.calls += 1;
        let status = match wire.call_async(method, message).await {
            Ok(mut answers) => return Ok(answers.pop().expect("one message")),
            Err(status) => status,
        };
        let details = status.get_error_details();
        match details.error_info().map(|info| info.reason.as_str()) {
            Some("DENIED") => self.denied += 1,
            Some("BUDGET_EXCEEDED") => {
                let info = details.retry_info().and_then(|info| info.retry_delay);
                match info {
                    Some(_) => self.over_budget += 1,
                    None => self.other.push(status.clone()),
                }
            }
            Some("LIMIT_EXCEEDED") => {
                self.too_fast += 1;
                let wait = details.retry_info().and_then(|info| info.retry_delay);
                tokio::time::sleep(wait.unwrap_or_default()).await;
            }
            _ => self.other.push(status.clone()),
        }
        Err(status)
    }
}

/// The latency of another agent that starts and ends `tasks` tasks, one after the other, at most
/// one each `every`.
pub fn work(wire: &Wire, tasks: u32, every: Duration) -> Latency {
    let start = pb::StartTaskRequest {
        purpose: "the work of another agent".to_owned(),
        ..Default::default()
    };
    runtime().block_on(async {
        let mut times = Vec::new();
        for _ in 0..tasks {
            let began = Instant::now();
            let answer = wire.call_async(START, start.encode_to_vec()).await;
            let mut answer = answer.expect("a task starts");
            let started = answer.pop().map(pb::StartTaskResponse::decode);
            let task = started.expect("one message").expect("an answer").task;
            let end = pb::EndTaskRequest {
                task_id: task.expect("a task").id,
                wait_ms: 1,
                ..Default::default()
            };
            let ended = wire.call_async(END, end.encode_to_vec()).await;
            ended.expect("a task ends");
            times.push(began.elapsed());
            tokio::time::sleep(every.saturating_sub(began.elapsed())).await;
        }
        Latency::of(times)
    })
}
