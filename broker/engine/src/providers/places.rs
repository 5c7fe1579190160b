//! Places at a provider, shared by agents: calls that run, calls that wait, and revocations.
//!
//! Without shares, one agent with calls that hang would hold every place for as long as a call may
//! take, and no other agent could issue or revoke meanwhile. The rule is [`Share`]'s. Of the calls
//! that wait, the next one is of the agent that holds the fewest places, so one agent's queue does
//! not delay another agent.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use parking_lot::Mutex;
use taskpass_core::{AgentName, Share};
use tokio::sync::oneshot;

/// The agent that a place is for. The check of a provider is for the broker itself, and has a share
/// as well.
pub(crate) type Holder = Option<AgentName>;

/// Why there is no place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Full {
    /// All places are taken.
    All,
    /// The holder has so many, which is its share at the moment.
    Share(usize),
}

/// A number of places. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Places(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    all: usize,
    share: Share,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    count: usize,
    /// Only holders of at least one.
    by: BTreeMap<Holder, usize>,
    /// In order of arrival.
    waiting: VecDeque<Waiting>,
}

#[derive(Debug)]
struct Waiting {
    holder: Holder,
    place: oneshot::Sender<Place>,
}

/// One place. It is free again on drop.
#[derive(Debug)]
pub(crate) struct Place {
    places: Arc<Inner>,
    holder: Holder,
}

impl Places {
    pub(crate) fn new(all: usize, share: Share) -> Self {
        Self(Arc::new(Inner {
            all,
            share,
            taken: Mutex::default(),
        }))
    }

    /// How many are taken.
    pub(crate) fn taken(&self) -> usize {
        self.0.taken.lock().count
    }

    /// A place, if there is one right now.
    pub(crate) fn try_acquire(&self, holder: &Holder) -> Result<Place, Full> {
        let taken = &mut *self.0.taken.lock();
        self.0.take(taken, holder).map(|()| self.0.place(holder))
    }

    /// A place, as soon as there is one.
    pub(crate) async fn acquire(&self, holder: &Holder) -> Place {
        loop {
            let promised = {
                let taken = &mut *self.0.taken.lock();
                // A caller that waited longer and may have the place would have it already.
                if self.0.take(taken, holder).is_ok() {
                    return self.0.place(holder);
                }
                let (place, promised) = oneshot::channel();
                taken.waiting.retain(|waiting| !waiting.place.is_closed());
                taken.waiting.push_back(Waiting {
                    holder: holder.clone(),
                    place,
                });
                promised
            };
            if let Ok(place) = promised.await {
                return place;
            }
        }
    }
}

impl Inner {
    fn place(self: &Arc<Self>, holder: &Holder) -> Place {
        Place {
            places: Arc::clone(self),
            holder: holder.clone(),
        }
    }

    fn take(&self, taken: &mut Taken, holder: &Holder) -> Result<(), Full> {
        let free = self.all.saturating_sub(taken.count);
        let held = taken.by.get(holder).copied().unwrap_or(0);
        if free == 0 {
            return Err(Full::All);
        }
        if !self.share.grants(held, free) {
            return Err(Full::Share(held));
        }
        taken.count += 1;
        *taken.by.entry(holder.clone()).or_default() += 1;
        Ok(())
    }

    /// Gives the free places to the waiting calls.
    fn serve(self: &Arc<Self>, taken: &mut Taken) -> Vec<(Waiting, Place)> {
        taken.waiting.retain(|waiting| !waiting.place.is_closed());
        let mut served = Vec::new();
        while let Some(next) = self.next(taken) {
            let Some(waiting) = taken.waiting.remove(next) else {
                break;
            };
            if self.take(taken, &waiting.holder).is_err() {
                break;
            }
            let place = self.place(&waiting.holder);
            served.push((waiting, place));
        }
        served
    }

    /// The waiting call of the holder with the fewest places; the first one of several.
    fn next(&self, taken: &Taken) -> Option<usize> {
        let free = self.all.saturating_sub(taken.count);
        let held = |waiting: &Waiting| taken.by.get(&waiting.holder).copied().unwrap_or(0);
        let waiting = taken.waiting.iter().enumerate();
        let may = waiting.filter(|(_, waiting)| self.share.grants(held(waiting), free));
        may.min_by_key(|(at, waiting)| (held(waiting), *at))
            .map(|(at, _)| at)
    }
}

impl Place {
    pub(crate) const fn holder(&self) -> &Holder {
        &self.holder
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let served = {
            let taken = &mut *self.places.taken.lock();
            taken.count = taken.count.saturating_sub(1);
            if let Some(held) = taken.by.get_mut(&self.holder) {
                *held = held.saturating_sub(1);
                if *held == 0 {
                    taken.by.remove(&self.holder);
                }
            }
            if taken.waiting.is_empty() {
                return;
            }
            self.places.serve(taken)
        };
        // Outside of the lock: a caller that is gone drops its place at once.
        for (waiting, place) in served {
            drop(waiting.place.send(place));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        pin::pin,
        task::{Context, Poll, Waker},
    };

    use super::*;

    fn agent(name: &str) -> Holder {
        Some(name.parse().unwrap())
    }

    fn half(all: usize) -> Places {
        Places::new(all, Share::percent(50))
    }

    #[test]
    fn a_greedy_agent_leaves_places_and_learns_its_share() {
        let places = half(8);
        let greedy: Vec<_> = std::iter::from_fn(|| places.try_acquire(&agent("a")).ok()).collect();
        assert_eq!(greedy.len(), 4);
        assert_eq!(places.try_acquire(&agent("a")).unwrap_err(), Full::Share(4));
        let others: Vec<_> = ["b", "c", "d", "e"]
            .map(|name| places.try_acquire(&agent(name)).unwrap())
            .into();
        assert_eq!(places.try_acquire(&agent("f")).unwrap_err(), Full::All);
        assert_eq!(places.taken(), 8);
        drop((greedy, others));
        assert_eq!(places.taken(), 0);
        assert!(places.0.taken.lock().by.is_empty());
    }

    /// One agent's calls wait in a row, and another agent's call comes last. It gets the next place
    /// that is free.
    #[test]
    fn the_agent_with_the_fewest_places_is_next() {
        let places = half(2);
        let cx = &mut Context::from_waker(Waker::noop());
        let (a, b) = (agent("a"), agent("b"));
        let (first, second) = (
            places.try_acquire(&a).unwrap(),
            places.try_acquire(&agent("c")).unwrap(),
        );
        let mut waits = [(); 3].map(|()| Box::pin(places.acquire(&a)));
        for waits in &mut waits {
            assert!(waits.as_mut().poll(cx).is_pending());
        }
        let mut other = pin!(places.acquire(&b));
        assert!(other.as_mut().poll(cx).is_pending());
        drop(second);
        let Poll::Ready(of_other) = other.as_mut().poll(cx) else {
            panic!("the place went to the greedy agent");
        };
        for waits in &mut waits {
            assert!(waits.as_mut().poll(cx).is_pending());
        }
        // A caller that no longer waits is passed over.
        let [gone, mut next, last] = waits;
        drop(gone);
        drop(first);
        assert!(next.as_mut().poll(cx).is_ready());
        assert_eq!(
            places.taken(),
            2,
            "the last one was served, and has not looked"
        );
        drop((last, of_other));
        assert_eq!(places.taken(), 0);
    }
}
