//! One renewal or login at a time in one identity directory, among all processes that share it.
//!
//! Two that renew at once would each have the broker drop the other's certificate, and one would
//! remove the pair that the other has staged. The directory could lose its identity, and the broker
//! would see a certificate that was replaced, as if a thief used it. The lock has a file of
//! its own, since readers take the lock on the directory, too, and must not wait for a broker.

use std::{fs::File, io, time::Duration};

use crate::{Error, IdentityDirectory, link::blocking};

/// How long to wait for another process. A renewal asks the broker twice, and repeats what fails.
const WAIT_MAX: Duration = Duration::from_secs(90);
/// The pause between two looks. The kernel would also queue, but nothing could end that wait.
const PAUSE: Duration = Duration::from_millis(50);

/// Waits for the lock, which lasts until the file is dropped.
pub(crate) async fn acquire(directory: &IdentityDirectory) -> Result<File, Error> {
    let waiting = async {
        loop {
            let directory = directory.clone();
            if let Some(lock) = blocking(move || directory.try_renew_lock()).await? {
                return Ok(lock);
            }
            tokio::time::sleep(PAUSE).await;
        }
    };
    tokio::time::timeout(WAIT_MAX, waiting)
        .await
        .unwrap_or_else(|_elapsed| {
            let why = "another process has been renewing or logging in for 90 seconds";
            Err(Error::File {
                action: "lock",
                path: directory.renew_lock_path(),
                source: io::Error::new(io::ErrorKind::TimedOut, why),
            })
        })
}
