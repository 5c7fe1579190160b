//! How much of a shared thing one agent may take.

/// The part of a number of places that one agent may hold, in percent of all places while no other
/// agent holds any.
///
/// The rule compares the agent's places with the free ones, so the share of each agent shrinks as
/// more agents take places: at 50, an agent takes a place only while it then holds no more than it
/// leaves free. One greedy agent leaves half of all places, and nine of them leave a tenth. A fixed
/// number for each agent would let a few agents take everything, or keep a lone agent slow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share(u32);

/// All of it.
const WHOLE: u32 = 100;

impl Share {
    /// A share of 1 to 100 percent. A number outside of that becomes the nearest one.
    pub fn percent(percent: u32) -> Self {
        Self(percent.clamp(1, WHOLE))
    }

    /// Whether an agent that holds `held` places may take one more of the `free` ones. The first
    /// place is always granted while one is free.
    pub fn grants(self, held: usize, free: usize) -> bool {
        let Some(left) = free.checked_sub(1) else {
            return false;
        };
        let part = |places: usize, percent: u32| places.saturating_mul(percent as usize);
        held == 0 || part(held.saturating_add(1), WHOLE - self.0) <= part(left, self.0)
    }

    /// How many of `all` places an agent may hold while no other agent holds any.
    pub fn alone(self, all: usize) -> usize {
        let part = all.saturating_mul(self.0 as usize) / WHOLE as usize;
        part.clamp(1, all.max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many places each of `agents` holds when all take as many as they can, in turn.
    fn taken(share: Share, all: usize, agents: usize) -> Vec<usize> {
        let mut held = vec![0; agents];
        loop {
            let before = held.clone();
            for agent in 0..agents {
                let free = all - held.iter().sum::<usize>();
                if share.grants(held[agent], free) {
                    held[agent] += 1;
                }
            }
            if held == before {
                return held;
            }
        }
    }

    #[test]
    fn greedy_agents_leave_room_for_one_more() {
        let half = Share::percent(50);
        assert_eq!(taken(half, 64, 1), [32]);
        assert_eq!(half.alone(64), 32);
        assert_eq!(taken(half, 63, 2), [21, 21]);
        for agents in 1..15 {
            let held = taken(half, 16, agents);
            assert!(held.iter().sum::<usize>() < 16, "{held:?} of 16");
        }
        assert_eq!(taken(Share::percent(25), 64, 1), [16]);
    }

    #[test]
    fn a_share_is_at_least_one_place_and_at_most_all() {
        for percent in [0, 1, 50, 100, 1000] {
            let share = Share::percent(percent);
            assert!(share.grants(0, 1) && !share.grants(0, 0), "{percent}");
            assert_eq!(share.alone(1), 1, "{percent}");
        }
        assert_eq!(taken(Share::percent(100), 5, 1), [5]);
        assert_eq!(taken(Share::percent(1), 5, 1), [1]);
    }
}
