//! Withdrawal of an operator's identities, by a person on the broker's machine.

use taskpass_core::{Event, Identity, OperatorName, Text};

use crate::{Engine, Error};

impl Engine {
    /// Ends every SVID of an operator, and returns how many counted. The next request on an open
    /// connection is refused as well, and is on record as the use of a superseded certificate.
    pub async fn withdraw_operator(
        &self,
        operator: &OperatorName,
        reason: Text,
    ) -> Result<usize, Error> {
        let holder = Identity::Operator(operator.clone());
        let counted = self.context.store.svids_of(&holder).await?;
        let withdrawn = Event::OperatorWithdrawn {
            operator: operator.clone(),
            reason,
        };
        self.commit_reserved(vec![withdrawn], Vec::new()).await?;
        tracing::warn!(%operator, identities = counted, "the identities of an operator were withdrawn");
        Ok(counted)
    }
}
