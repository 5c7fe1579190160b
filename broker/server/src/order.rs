//! Orders of a person on the broker's machine to the running broker, through its control socket:
//! the replacement of the root, and the withdrawal of an operator's identities.
//!
//! The broker runs while they are carried out, since agents issue all the time. They are no gRPC
//! calls: an order needs the rights of the broker's own user, who could change its files anyway,
//! and no stolen operator's identity reaches them.

mod report;

use std::{path::Path, sync::Arc};

use serde::{Deserialize, Serialize};
use taskpass_core::{OperatorName, Text};
use taskpass_engine::{Engine, RetireRoot};

pub use self::report::{Done, RootReport};
use crate::{
    certificate::ShownCertificate,
    reload::{AskError, control},
};

/// An order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// Show the roots and what hangs on each.
    RootStatus,
    /// Make another root and publish it.
    RootPrepare,
    /// Have the prepared root sign.
    RootActivate,
    /// Take the outgoing root out of the bundle.
    RootRetire {
        /// Whether to do it although something hangs on it.
        force: bool,
    },
    /// End every identity of an operator.
    WithdrawOperator {
        /// The operator.
        operator: OperatorName,
        /// Why.
        reason: Text,
    },
}

/// The answer to an order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Answer {
    Done(Done),
    Refused(String),
}

/// Why an order was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum OrderError {
    /// There is no broker to be asked, or it did not answer.
    #[error(transparent)]
    Ask(#[from] AskError),
    /// The broker refused.
    #[error("{0}")]
    Refused(String),
}

/// Has the broker that runs with a data directory carry out an order, and waits for its answer.
pub fn give(data_dir: &Path, order: &Order) -> Result<Done, OrderError> {
    match control::order(data_dir, order)? {
        Answer::Done(done) => Ok(done),
        Answer::Refused(why) => Err(OrderError::Refused(why)),
    }
}

/// Carries out an order, in the broker.
pub(crate) async fn carry_out(
    order: Order,
    engine: &Arc<Engine>,
    certificate: &Arc<ShownCertificate>,
) -> Answer {
    let done = match order {
        Order::RootStatus => RootReport::of(engine).await.map(Done::Roots),
        Order::RootPrepare => match engine.prepare_root().await {
            Ok(()) => RootReport::of(engine).await.map(Done::Roots),
            Err(error) => Err(error),
        },
        Order::RootActivate => match engine.activate_root().await {
            Ok(()) => RootReport::of(engine).await.map(Done::Roots),
            Err(error) => Err(error),
        },
        Order::RootRetire { force } => {
            let how = if force {
                RetireRoot::Forced
            } else {
                RetireRoot::Unused
            };
            match engine.retire_root(how).await {
                Ok(ended) => RootReport::after(engine, &ended).await.map(Done::Roots),
                Err(error) => Err(error),
            }
        }
        Order::WithdrawOperator { operator, reason } => engine
            .withdraw_operator(&operator, reason)
            .await
            .map(|identities| Done::Withdrawn {
                operator,
                identities,
            }),
    };
    // The roots may have changed even where the order failed later on.
    if let Err(error) = certificate.renew_if_due(engine.clock().now()) {
        tracing::error!(%error, "the broker's certificate could not be renewed; trying again");
    }
    match done {
        Ok(done) => Answer::Done(done),
        Err(error) => Answer::Refused(error.message()),
    }
}
