//! Answers of back ends. AWS: the first byte chooses an error or a deny list. Vault: the first two
//! bytes are the status.

use std::collections::BTreeMap;

use taskpass_core::limits;

use crate::{fixtures, input, wording::one_line};

/// IAM's limit for the inline policies of a role.
const DENY_LIST_CHARACTERS_MAX: usize = 10_240;

pub(crate) fn aws(data: &[u8]) {
    let (which, rest) = input::choice(data);
    let Some(text) = input::text(rest) else {
        return;
    };
    if which % 2 == 0 {
        let error = taskpass_provider_aws::fuzz::refusal(400, text.to_owned());
        one_line(error, 800);
        return;
    }
    let write = |text| {
        taskpass_provider_aws::fuzz::deny_list(text, fixtures::now(), DENY_LIST_CHARACTERS_MAX)
    };
    if let Some(written) = write(text) {
        assert!(serde_json::from_str::<serde_json::Value>(&written).is_ok());
        // Another broker that reads the list denies the same.
        assert_eq!(write(&written), Some(written));
    }
}

pub(crate) fn vault(data: &[u8]) {
    let Some((status, body)) = data.split_first_chunk::<2>() else {
        return;
    };
    let status = 200 + u16::from_be_bytes(*status) % 400;
    match taskpass_provider_vault::fuzz::answer(status, body) {
        Ok(fields) => {
            let fields: BTreeMap<_, _> = fields.iter().map(|(n, s)| (n, s.expose())).collect();
            assert!(status < 300 && serde_json::to_string(&fields).is_ok());
            assert!(fields.keys().all(|name| !name.contains(char::is_control)));
        }
        Err(error) => drop(one_line(error, limits::ERROR_TEXT_CHARS_MAX + 100)),
    }
}
