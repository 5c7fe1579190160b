//! The private parsers as functions, for the fuzz targets in `tests/fuzz`.

use taskpass_core::{InvalidValue, Scope, SecretFields};
use taskpass_provider::ProviderError;

use crate::{
    api::Reply, fault::Fault, issue::secret_fields, path::PathTemplate, transport::Answer,
};

/// The path of `template` for `scope`, with the number of its segments.
pub fn path(template: &str, scope: &Scope) -> Result<String, InvalidValue> {
    PathTemplate::parse(template)?.render(scope)
}

/// The secret in an answer of Vault.
pub fn answer(status: u16, body: &[u8]) -> Result<SecretFields, ProviderError> {
    let answer = Answer {
        status,
        retry_after: None,
        index: None,
        body: body.to_vec().into(),
    };
    let reply = Reply::read(&answer).map_err(|fault: Fault| fault.while_doing("issue"))?;
    secret_fields(reply.data)
}
