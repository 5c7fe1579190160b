//! A renewal and a login wait for another process that holds `renew.lock`.

use std::{fs::File, mem::MaybeUninit, os::fd::OwnedFd, path::Path, pin::pin};

use rustix::{
    fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags},
    io::Errno,
};
use taskpass_client::Client;
use taskpass_client_testing::fake::Fake;

/// The attempts to take a lock. Each attempt opens the file, of which the kernel tells.
struct Attempts(OwnedFd);

impl Attempts {
    fn at(lock: &Path) -> Self {
        let told = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC).unwrap();
        // The kernel tells of equal events in a row once, so the closing stands between them.
        let events = WatchFlags::OPEN | WatchFlags::CLOSE_WRITE;
        inotify::add_watch(&told, lock, events).unwrap();
        Self(told)
    }

    /// Ends at the second attempt: the first one was refused, and did not give up.
    async fn repeated(&self) {
        let mut buffer = [MaybeUninit::uninit(); 512];
        let mut events = Reader::new(&self.0, &mut buffer);
        let mut opened = 0;
        while opened < 2 {
            match events.next() {
                Ok(event) => opened += u32::from(event.events().contains(ReadFlags::OPEN)),
                Err(Errno::AGAIN) => tokio::task::yield_now().await,
                Err(error) => panic!("{error}"),
            }
        }
    }
}

#[tokio::test]
async fn a_renewal_and_a_login_wait_for_the_process_that_renews() {
    for (renews, logs_in) in [(true, false), (false, true), (true, true)] {
        let fake = Fake::start().await;
        let client = fake.client().await;
        let old = client.svid();
        let path = fake.identity().join("renew.lock");
        let lock = File::open(&path).unwrap();
        lock.lock().unwrap();
        let attempts = Attempts::at(&path);
        fake.state().token_used = false;
        let (config, token) = (fake.config(), fake.token());
        let renewal = async {
            match renews {
                true => Some(client.renew_svid().await),
                false => None,
            }
        };
        let login = async {
            match logs_in {
                true => Some(Client::login(&config, &token).await),
                false => None,
            }
        };
        let mut work = pin!(async { tokio::join!(renewal, login) });
        tokio::select! {
            done = &mut work => panic!("nothing waited for the lock: {done:?}"),
            () = attempts.repeated() => {}
        }
        assert_eq!(fake.state().count("renew_svid"), 0);
        assert!(!fake.state().token_used, "the token was sent");
        assert_eq!(fake.config().directory.leaf().unwrap(), old);
        drop(lock);
        let (renewed, new) = work.await;
        let new = new.map(Result::unwrap);
        // The login may come first or last, and is in the directory if it came last.
        let stored = Some(fake.config().directory.leaf().unwrap());
        assert!(stored == new || stored == renewed.and_then(Result::ok));
    }
}
