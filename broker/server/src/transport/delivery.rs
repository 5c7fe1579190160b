//! The news that a response was delivered. A handler cannot know it: after the handler has
//! returned, the caller may cancel, the deadline may pass, or the connection may be cut.

use std::{fmt, sync::Arc};

/// A handler puts this on a response to learn that the connection took the whole body: the
/// transport then calls it. If the transport drops it without calling it, the response was dropped
/// too. A loss after that, in the kernel's buffers or on the wire, stays unseen.
#[derive(Clone)]
pub(crate) struct OnDelivered(Arc<dyn Fn() + Send + Sync>);

impl OnDelivered {
    /// The transport calls `then` once, at the end of the body.
    pub(crate) fn new(then: impl Fn() + Send + Sync + 'static) -> Self {
        Self(Arc::new(then))
    }

    pub(super) fn call(&self) {
        (self.0)();
    }
}

impl fmt::Debug for OnDelivered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OnDelivered")
    }
}
