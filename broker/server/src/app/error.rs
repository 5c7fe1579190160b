//! Why a broker does not start, or did not stop in good order.

use std::net::SocketAddr;

/// Why a broker does not start, or did not stop in good order.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// A part could not be set up.
    #[error("{what} failed")]
    Setup {
        /// Which, and the remedy.
        what: String,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Ledger or index are of no more use as they are.
    #[error(
        "after a failed write or a full disk the ledger and its index must be opened anew; the broker ends, to be started again"
    )]
    Broken,
    /// The configured address cannot be listened on.
    #[error("cannot listen on {address}; is another broker running there?")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
}

impl AppError {
    /// Names what was being set up when something failed.
    pub(crate) fn setup<E: Into<Box<dyn std::error::Error + Send + Sync>>>(
        what: impl Into<String>,
    ) -> impl FnOnce(E) -> Self {
        let what = what.into();
        move |source| Self::Setup {
            what,
            source: source.into(),
        }
    }
}
