//! The truth: the things that are alive at the back ends. The world knows the true time and nothing
//! of the ledger.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use parking_lot::Mutex;
use taskpass_core::CredentialId;

use super::time::Millis;

/// The kinds of back ends there are; each is one provider.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    /// Leases hang on a session of the task, and are found by it or by their own name alone.
    Session,
    /// The name of a minted thing follows from the intent.
    Named,
    /// A minted thing cannot be ended, but the back end refuses names on its deny list.
    DenyList,
    /// A minted thing lives until its end.
    ExpiryOnly,
}

impl Kind {
    pub(super) const ALL: [Self; 4] =
        [Self::Session, Self::Named, Self::DenyList, Self::ExpiryOnly];
}

/// A minted thing; its secret gives access while it is alive.
#[derive(Debug, Clone)]
pub(super) struct Thing {
    pub(super) kind: Kind,
    pub(super) credential: CredentialId,
    pub(super) secret: String,
    pub(super) session: Option<usize>,
    life: Recorded,
}

/// The life of a thing or session, with the writes that a standby may not have seen.
#[derive(Debug, Clone)]
struct Recorded {
    minted: Index,
    expires: Millis,
    ended: Option<Index>,
}

/// How many writes a place has seen. A back end with standbys tells it with each answer.
pub(super) type Index = u64;

/// The place that carries out a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// It has seen everything.
    Active,
    /// A standby that misses so many of the latest writes. It answers from what it knows, and hands
    /// a request on to the active place if the request has something to write there, or asks for
    /// more than the standby has seen.
    Standby { behind: Index },
}

/// How long a thing is to live.
#[derive(Debug, Clone, Copy)]
pub(super) enum Life {
    /// The back end counts the span from when it carries out the request, however late that is.
    For(Millis),
    Until(Millis),
}

impl Life {
    /// The life that a provider can count from the answer on.
    pub(super) const fn span(self) -> Option<Duration> {
        match self {
            Self::For(span) => Some(Duration::from_millis(span)),
            Self::Until(_) => None,
        }
    }

    const fn ends(self, at: Millis) -> Millis {
        match self {
            Self::For(span) => at + span,
            Self::Until(end) => end,
        }
    }
}

/// A request to a back end.
#[derive(Debug, Clone)]
pub(super) enum Effect {
    OpenSession {
        expires: Millis,
    },
    ExtendSession {
        session: usize,
        expires: Millis,
    },
    EndSession {
        session: usize,
    },
    CredentialRequest {
        session: usize,
        credential: CredentialId,
        life: Life,
    },
    Mint {
        kind: Kind,
        credential: CredentialId,
        life: Life,
    },
    /// Things are named by their number.
    Extend {
        thing: usize,
        life: Life,
    },
    End {
        thing: usize,
    },
    EndNamed {
        credential: CredentialId,
    },
    Deny {
        credential: CredentialId,
    },
    IsSessionAlive {
        session: usize,
    },
    IsAlive {
        thing: usize,
    },
    IsNamedAlive {
        credential: CredentialId,
    },
    IsDenied {
        credential: CredentialId,
    },
}

/// The answer of a back end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reply {
    Session(usize),
    Thing(usize),
    Done,
    Yes,
    No,
    /// The session or thing does not exist, or is dead. Nothing was written.
    Refused,
}

/// A reply, and how far the answering place was.
pub(super) type Answer = (Reply, Index);

/// A request that has reached a back end, which carries it out at its time even if the provider no
/// longer waits.
#[derive(Debug)]
struct UnderWay {
    effect: Effect,
    /// What the answering place must have seen.
    after: Index,
    place: Place,
    /// Whether the session was alive when the request came in.
    was_let_in: bool,
}

#[derive(Debug, Default)]
pub(super) struct World(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    things: Vec<Thing>,
    sessions: Vec<Recorded>,
    denied: BTreeSet<CredentialId>,
    under_way: BTreeMap<(Millis, u64), UnderWay>,
    answered: BTreeMap<u64, Answer>,
    requests: u64,
    writes: Index,
}

impl World {
    /// Sends a request that is carried out at `at`. Returns its number.
    pub(super) fn send(
        &self,
        (effect, after): (Effect, Index),
        place: Place,
        now: Millis,
        at: Millis,
    ) -> u64 {
        let mut inner = self.0.lock();
        inner.run(now);
        inner.requests += 1;
        let number = inner.requests;
        let was_let_in = match effect {
            Effect::CredentialRequest { session, .. } => {
                inner.is_session_alive(session, now, inner.writes)
            }
            _ => true,
        };
        let under_way = UnderWay {
            effect,
            after,
            place,
            was_let_in,
        };
        inner.under_way.insert((at, number), under_way);
        number
    }

    /// The reply, once the request was carried out.
    pub(super) fn reply(&self, number: u64, now: Millis) -> Option<Answer> {
        let mut inner = self.0.lock();
        inner.run(now);
        inner.answered.remove(&number)
    }

    /// Drops a request that the provider no longer waits for and that the back end has not begun.
    pub(super) fn forget(&self, number: u64) {
        let mut inner = self.0.lock();
        inner.under_way.retain(|(_, n), _| *n != number);
    }

    /// Shows everything that was ever minted, and whether it is alive.
    pub(super) fn each_thing(&self, now: Millis, mut see: impl FnMut(&Thing, bool)) {
        let mut inner = self.0.lock();
        inner.run(now);
        for (number, thing) in inner.things.iter().enumerate() {
            see(thing, inner.is_alive(number, now, inner.writes));
        }
    }

    pub(super) fn secret_of(&self, thing: usize) -> String {
        self.0.lock().things[thing].secret.clone()
    }

    /// When the last request that is under way will have been carried out.
    pub(super) fn quiet_at(&self) -> Option<Millis> {
        let inner = self.0.lock();
        inner.under_way.keys().next_back().map(|(at, _)| *at)
    }
}

impl Inner {
    fn run(&mut self, now: Millis) {
        while let Some(first) = self.under_way.first_entry() {
            let (at, number) = *first.key();
            if at > now {
                return;
            }
            let request = first.remove();
            let answer = self.answer(&request, at);
            self.answered.insert(number, answer);
        }
    }

    fn answer(&mut self, request: &UnderWay, at: Millis) -> Answer {
        if let Place::Standby { behind } = request.place {
            let seen = self.writes.saturating_sub(behind);
            if seen >= request.after
                && let Some(reply) = self.known_to(seen, &request.effect, at)
            {
                return (reply, seen);
            }
        }
        let reply = self.carry_out(request, at);
        if !matches!(reply, Reply::Yes | Reply::No | Reply::Refused) {
            self.writes += 1;
        }
        (reply, self.writes)
    }

    /// The answer of a place that has seen so many writes, if it need not ask the active one.
    fn known_to(&self, seen: Index, effect: &Effect, at: Millis) -> Option<Reply> {
        match *effect {
            Effect::IsSessionAlive { .. } | Effect::IsAlive { .. } => {
                Some(yes(self.is_so(effect, at, seen)))
            }
            Effect::EndSession { session } => {
                (!self.is_session_alive(session, at, seen)).then_some(Reply::Refused)
            }
            Effect::End { thing } => (!self.is_alive(thing, at, seen)).then_some(Reply::Refused),
            _ => None,
        }
    }

    fn carry_out(&mut self, request: &UnderWay, at: Millis) -> Reply {
        match request.effect {
            Effect::OpenSession { expires } => {
                let minted = self.recorded(expires);
                self.sessions.push(minted);
                Reply::Session(self.sessions.len() - 1)
            }
            Effect::ExtendSession { session, expires } => {
                if !self.is_session_alive(session, at, self.writes) {
                    return Reply::Refused;
                }
                self.sessions[session].expires = expires;
                Reply::Done
            }
            Effect::EndSession { session } => {
                if !self.is_session_alive(session, at, self.writes) {
                    return Reply::Refused;
                }
                // Leases of the session die with it; leases that the back end files under it later
                // do not.
                let write = self.writes + 1;
                let of_session = self.things.iter_mut();
                for thing in of_session.filter(|t| t.session == Some(session)) {
                    thing.life.ended.get_or_insert(write);
                }
                self.sessions[session].ended.get_or_insert(write);
                Reply::Done
            }
            Effect::CredentialRequest {
                session,
                credential,
                life,
            } => {
                if !request.was_let_in {
                    return Reply::Refused;
                }
                // The back end files this lease after its session has ended: the lease hangs on
                // nothing and lives out its time.
                let alive = self.is_session_alive(session, at, self.writes);
                self.mint(
                    Kind::Session,
                    credential,
                    alive.then_some(session),
                    life.ends(at),
                )
            }
            Effect::Mint {
                kind,
                credential,
                life,
            } => self.mint(kind, credential, None, life.ends(at)),
            Effect::Extend { thing, life } => self.extend(thing, life, at),
            Effect::End { thing } => {
                let write = self.writes + 1;
                self.things[thing].life.ended.get_or_insert(write);
                Reply::Done
            }
            Effect::EndNamed { credential } => {
                let write = self.writes + 1;
                let named = self.things.iter_mut();
                for thing in named.filter(|t| t.credential == credential) {
                    thing.life.ended.get_or_insert(write);
                }
                Reply::Done
            }
            Effect::Deny { credential } => {
                self.denied.insert(credential);
                Reply::Done
            }
            Effect::IsSessionAlive { .. }
            | Effect::IsAlive { .. }
            | Effect::IsNamedAlive { .. }
            | Effect::IsDenied { .. } => yes(self.is_so(&request.effect, at, self.writes)),
        }
    }

    fn extend(&mut self, thing: usize, life: Life, at: Millis) -> Reply {
        if !self.is_alive(thing, at, self.writes) {
            return Reply::Refused;
        }
        self.things[thing].life.expires = life.ends(at);
        Reply::Done
    }

    /// The answer to a question, by a place that has seen so many writes.
    fn is_so(&self, question: &Effect, at: Millis, seen: Index) -> bool {
        match *question {
            Effect::IsSessionAlive { session } => self.is_session_alive(session, at, seen),
            Effect::IsAlive { thing } => self.is_alive(thing, at, seen),
            Effect::IsNamedAlive { credential } => {
                let mut all = 0..self.things.len();
                all.any(|n| self.things[n].credential == credential && self.is_alive(n, at, seen))
            }
            Effect::IsDenied { credential } => self.denied.contains(&credential),
            _ => false,
        }
    }

    const fn recorded(&self, expires: Millis) -> Recorded {
        Recorded {
            minted: self.writes + 1,
            expires,
            ended: None,
        }
    }

    fn mint(
        &mut self,
        kind: Kind,
        credential: CredentialId,
        session: Option<usize>,
        expires: Millis,
    ) -> Reply {
        let number = self.things.len();
        self.things.push(Thing {
            kind,
            credential,
            secret: format!("secret-{number}-of-{credential}"),
            session,
            life: self.recorded(expires),
        });
        Reply::Thing(number)
    }

    fn is_session_alive(&self, session: usize, now: Millis, seen: Index) -> bool {
        let found = self.sessions.get(session);
        found.is_some_and(|session| session.is_alive(now, seen))
    }

    fn is_alive(&self, thing: usize, now: Millis, seen: Index) -> bool {
        let Some(thing) = self.things.get(thing) else {
            return false;
        };
        let of_session = |session| self.is_session_alive(session, now, seen);
        thing.life.is_alive(now, seen)
            && thing.session.is_none_or(of_session)
            && !self.denied.contains(&thing.credential)
    }
}

impl Recorded {
    /// Whether a place that has seen so many writes takes it for alive.
    fn is_alive(&self, now: Millis, seen: Index) -> bool {
        self.minted <= seen && self.ended.is_none_or(|write| write > seen) && self.expires > now
    }
}

const fn yes(is_so: bool) -> Reply {
    if is_so { Reply::Yes } else { Reply::No }
}
