//! The private parsers as functions, for the fuzz targets in `tests/fuzz`.

use std::collections::BTreeSet;

use taskpass_core::{Scope, Timestamp};
use taskpass_provider::ProviderError;

use crate::{deny_list::DenyList, session_policy::Template, transport::Answer};

/// The session policy of `template` for `scope`; the scope's parameters are the declared ones.
pub fn session_policy(
    template: &str,
    scope: &Scope,
    deadline: Timestamp,
) -> Result<String, String> {
    let declared: BTreeSet<_> = scope.iter().map(|(name, _)| name.clone()).collect();
    let template = Template::parse(template, &declared)?;
    template.render(scope, deadline).map_err(|e| e.to_string())
}

/// The error for an answer with a refusal.
pub fn refusal(status: u16, body: String) -> ProviderError {
    let answer = Answer {
        status,
        date: None,
        body,
    };
    answer.refusal("AssumeRole of role `fuzz`")
}

/// The deny list as it would be written after reading `document`; `None` if that is no policy
/// document.
pub fn deny_list(document: &str, now: Timestamp, characters_max: usize) -> Option<String> {
    let mut list = DenyList::default();
    list.merge(document, now)
        .then(|| list.document(now, characters_max))
}
