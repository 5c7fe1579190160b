//! A text that is made at most once a second, however often it is asked for.

use std::{sync::Arc, time::Duration};

use taskpass_core::Clock;
use tokio::sync::Mutex;

/// How old a text may be that is given out again. Prometheus asks every few seconds at most.
const AGE_MAX: Duration = Duration::from_secs(1);

/// The last text, and when it was made.
#[derive(Debug)]
pub(super) struct Recent {
    clock: Arc<dyn Clock>,
    /// Held while the next text is made: of many that ask at once one makes it for all.
    last: Mutex<Option<(Duration, Arc<str>)>>,
}

impl Recent {
    pub(super) fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            clock,
            last: Mutex::default(),
        }
    }

    /// The last text while it is young, else a text that `make` makes now.
    pub(super) async fn get(&self, make: impl Future<Output = String> + Send) -> Arc<str> {
        let mut last = self.last.lock().await;
        let now = self.clock.monotonic();
        if let Some((made, text)) = last.as_ref()
            && now.saturating_sub(*made) < AGE_MAX
        {
            return Arc::clone(text);
        }
        let text: Arc<str> = make.await.into();
        *last = Some((now, Arc::clone(&text)));
        text
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use taskpass_core::{ManualClock, Timestamp};

    use super::*;

    #[tokio::test]
    async fn a_text_is_made_once_a_second_for_all_who_ask() {
        let clock = Arc::new(ManualClock::new(Timestamp::EPOCH));
        let recent = Recent::new(clock.clone());
        let made = AtomicUsize::new(0);
        let get = async || {
            let make = async {
                let number = made.fetch_add(1, Ordering::SeqCst);
                tokio::task::yield_now().await;
                number.to_string()
            };
            recent.get(make).await
        };
        let many = futures_util::future::join_all((0..100).map(|_| get())).await;
        assert!(many.iter().all(|text| **text == *"0"), "{many:?}");
        clock.advance(AGE_MAX - Duration::from_millis(1));
        assert_eq!(*get().await, *"0");
        clock.advance(Duration::from_millis(1));
        assert_eq!(*get().await, *"1");
        // A reader that hangs up while the text is made leaves the next one nothing half done.
        clock.advance(AGE_MAX);
        let unfinished = recent.get(std::future::pending());
        let patience = Duration::from_millis(1);
        assert!(tokio::time::timeout(patience, unfinished).await.is_err());
        assert_eq!(*get().await, *"2");
    }
}
