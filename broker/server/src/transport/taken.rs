//! Whether the connection took a response. A handler's result may never get that far: the caller cancels, the time is
//! over, the connection is cut.

use std::{fmt, sync::Arc};

/// Put on a response by whoever must know that its whole body was taken: then it is called. If it is dropped without
/// having been called, so was the response. What is lost after that, in the kernel's buffers or on the wire, nobody sees.
#[derive(Clone)]
pub(crate) struct WhenTaken(Arc<dyn Fn() + Send + Sync>);

impl WhenTaken {
    /// To be called once, at the end of the body.
    pub(crate) fn new(then: impl Fn() + Send + Sync + 'static) -> Self {
        Self(Arc::new(then))
    }

    pub(super) fn call(&self) {
        (self.0)();
    }
}

impl fmt::Debug for WhenTaken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WhenTaken")
    }
}
