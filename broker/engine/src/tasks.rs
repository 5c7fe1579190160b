//! Tasks: start, heartbeat, end, read.

mod end;
mod heartbeat;
mod heartbeats;
mod read;
mod start;

pub use end::{EndTask, Ended, Ending, Receipt};
pub use heartbeat::Heartbeat;
pub(crate) use heartbeats::Heartbeats;
pub use read::TaskView;
pub use start::{StartTask, StartedTask, TaskRoles};
