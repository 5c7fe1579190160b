//! The way to the back ends: slow, unreliable, and often without an answer.
//!
//! The wire may lose a request before or after the back end carries it out, deliver it twice,
//! deliver it long after the provider has stopped waiting, or lose the answer. A refusal is honest:
//! the back end did not carry out a request that it refuses.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use taskpass_provider::ProviderError;

use super::{
    fate::Fate,
    time::{Millis, SimTime, SimTimer},
    world::{Answer, Effect, Index, Kind, Place, Reply, World},
};
use crate::Timer;

/// A request is carried out at most this long after it was sent.
pub(super) const LATE_MAX: Millis = 10_000;

/// The state of a back end.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Mood {
    #[default]
    Good,
    /// No request reaches it.
    Down,
    /// It takes requests and does not answer.
    Silent,
    /// It is far behind.
    Slow,
    /// It refuses everything.
    Refusing,
}

/// The connection of one provider to its back end.
#[derive(Debug)]
pub(super) struct Wire {
    kind: Kind,
    pub(super) world: Arc<World>,
    pub(super) time: Arc<SimTime>,
    pub(super) fate: Arc<Fate>,
    mood: Mutex<Mood>,
}

/// The fate of one request.
#[derive(Debug)]
enum Turn {
    Answered,
    Twice,
    LostBefore,
    LostAfter,
    NeverAnswered { is_done: bool },
    Refused(ProviderError),
}

/// A request under way. If the provider drops it before the answer, the back end forgets it in half
/// of the cases.
struct Sent<'a> {
    wire: &'a Wire,
    number: u64,
    is_answered: bool,
}

impl Wire {
    pub(super) fn new(
        kind: Kind,
        world: &Arc<World>,
        time: &Arc<SimTime>,
        fate: &Arc<Fate>,
    ) -> Self {
        Self {
            kind,
            world: Arc::clone(world),
            time: Arc::clone(time),
            fate: Arc::clone(fate),
            mood: Mutex::default(),
        }
    }

    pub(super) fn set_mood(&self, mood: Mood) {
        *self.mood.lock() = mood;
    }

    /// One round trip, to any place.
    pub(super) async fn call(&self, effect: Effect) -> Result<Reply, ProviderError> {
        self.call_after(effect, 0).await.map(|(reply, _)| reply)
    }

    /// One round trip, to a place that has seen so many writes.
    pub(super) async fn call_after(
        &self,
        effect: Effect,
        after: Index,
    ) -> Result<Answer, ProviderError> {
        self.fate.place().await;
        let turn = self.turn(&effect);
        let delay = self.delay();
        self.fate
            .note(|| format!("  at {} {effect:?}: {turn:?}, {delay} ms", self.time.now()));
        let effect = (effect, after);
        let reply = match turn {
            Turn::LostBefore => {
                self.wait(delay).await;
                Err(ProviderError::Unreachable(
                    "the connection broke".to_owned(),
                ))
            }
            Turn::Refused(error) => {
                self.wait(delay).await;
                Err(error)
            }
            Turn::NeverAnswered { is_done: false } => std::future::pending().await,
            Turn::NeverAnswered { is_done: true } => {
                self.send(effect, delay).is_answered = true;
                std::future::pending().await
            }
            Turn::LostAfter => {
                self.answer(effect, delay).await?;
                Err(ProviderError::retryable(
                    "the connection broke before the answer",
                ))
            }
            Turn::Twice => {
                self.send(effect.clone(), delay).is_answered = true;
                self.answer(effect, delay).await
            }
            Turn::Answered => self.answer(effect, delay).await,
        };
        self.fate.place().await;
        reply
    }

    async fn answer(
        &self,
        effect: (Effect, Index),
        delay: Millis,
    ) -> Result<Answer, ProviderError> {
        let mut sent = self.send(effect, delay);
        self.wait(delay).await;
        sent.is_answered = true;
        let reply = self.world.reply(sent.number, self.time.now());
        reply.ok_or_else(|| ProviderError::retryable("no answer"))
    }

    fn send(&self, effect: (Effect, Index), delay: Millis) -> Sent<'_> {
        let now = self.time.now();
        let number = self.world.send(effect, self.place(), now, now + delay);
        Sent {
            wire: self,
            number,
            is_answered: false,
        }
    }

    /// Behind the address of a back end with sessions there are standbys, too, and they lag.
    fn place(&self) -> Place {
        match self.kind {
            Kind::Session if self.fate.percent(40) => Place::Standby {
                behind: self.fate.below(30),
            },
            _ => Place::Active,
        }
    }

    async fn wait(&self, delay: Millis) {
        let timer = SimTimer(Arc::clone(&self.time));
        timer.sleep(Duration::from_millis(delay)).await;
    }

    fn delay(&self) -> Millis {
        let fate = &self.fate;
        // A broker that is about to be killed leaves late calls behind, rather than others.
        let late = if fate.kills_soon() { 500 } else { 40 };
        if *self.mood.lock() == Mood::Slow || fate.wrong(late) {
            return fate.between(500, LATE_MAX);
        }
        fate.between(1, 60)
    }

    fn turn(&self, effect: &Effect) -> Turn {
        let fate = &self.fate;
        let mood = *self.mood.lock();
        match mood {
            Mood::Down => return Turn::LostBefore,
            Mood::Silent => {
                return Turn::NeverAnswered {
                    is_done: fate.percent(50),
                };
            }
            Mood::Refusing => {
                return Turn::Refused(ProviderError::Denied("no permission".to_owned()));
            }
            Mood::Good | Mood::Slow => {}
        }
        if !fate.wrong(150) {
            return Turn::Answered;
        }
        match fate.below(8) {
            0 => Turn::LostBefore,
            1 | 2 => Turn::LostAfter,
            3 => Turn::NeverAnswered { is_done: false },
            4 => Turn::NeverAnswered { is_done: true },
            // A provider that finds the thing only by the answer does not send such a request
            // twice.
            5 if !matches!(
                effect,
                Effect::CredentialRequest { .. } | Effect::OpenSession { .. }
            ) =>
            {
                Turn::Twice
            }
            5 => Turn::LostAfter,
            6 => Turn::Refused(ProviderError::Retryable {
                message: "busy".to_owned(),
                after: Some(Duration::from_secs(fate.between(0, 1000))),
            }),
            _ => Turn::Refused(ProviderError::Misconfigured("wrong path".to_owned())),
        }
    }
}

impl Drop for Sent<'_> {
    fn drop(&mut self) {
        if !self.is_answered && self.wire.fate.percent(50) {
            self.wire.world.forget(self.number);
        }
    }
}
