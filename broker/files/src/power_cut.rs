//! A power cut at a chosen change of the disk, for tests of crash safety.

use std::{
    cell::RefCell,
    io,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
};

thread_local! {
    static FUSE: RefCell<Option<Arc<Fuse>>> = const { RefCell::new(None) };
}

/// Lets every change of the disk fail after a number of them, as if the power were gone.
///
/// It holds for the thread that set it.
#[derive(Debug)]
pub struct Fuse(AtomicI64);

impl Fuse {
    /// Lets this thread make `steps` more changes of the disk.
    pub fn set(steps: i64) -> Arc<Self> {
        let fuse = Arc::new(Self(AtomicI64::new(steps)));
        FUSE.with(|slot| *slot.borrow_mut() = Some(Arc::clone(&fuse)));
        fuse
    }

    /// Gives this thread its power back.
    pub fn clear() {
        FUSE.with(|slot| *slot.borrow_mut() = None);
    }

    /// Changes how many changes are left to the threads that this fuse is set in.
    pub fn relight(&self, steps: i64) {
        self.0.store(steps, Ordering::SeqCst);
    }

    /// Whether it has stopped a change.
    pub fn blown(&self) -> bool {
        self.0.load(Ordering::SeqCst) < 0
    }

    fn burn(&self) -> io::Result<()> {
        if self.0.fetch_sub(1, Ordering::SeqCst) <= 0 {
            self.0.store(-1, Ordering::SeqCst);
            return Err(io::Error::other("the power is gone"));
        }
        Ok(())
    }
}

pub(crate) fn burn() -> io::Result<()> {
    let fuse = FUSE.with(|slot| slot.borrow().clone());
    fuse.map_or(Ok(()), |fuse| fuse.burn())
}
