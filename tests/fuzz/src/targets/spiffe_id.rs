//! SPIFFE IDs and trust domains (SPIFFE-ID.md), and the identities they name.

use taskpass_core::{Identity, SpiffeId, TrustDomain};

use crate::{
    fixtures, input,
    wording::{VALUE_CHARS_MAX, one_line},
};

pub(crate) fn run(data: &[u8]) {
    let Some(text) = input::text(data) else {
        return;
    };
    trust_domain(text);
    match text.parse::<SpiffeId>() {
        Ok(id) => follows_the_standard(text, &id),
        Err(error) => drop(one_line(error, VALUE_CHARS_MAX)),
    }
    let ours = fixtures::trust_domain();
    match Identity::parse(text, &ours) {
        Ok(identity) => {
            let id = identity.spiffe_id(&ours).expect("it was one");
            assert_eq!(id.as_str(), text);
            assert!(id.is_member_of(&ours));
        }
        Err(error) => drop(one_line(error, VALUE_CHARS_MAX)),
    }
}

fn trust_domain(text: &str) {
    match text.parse::<TrustDomain>() {
        Ok(domain) => {
            assert_eq!(domain.as_str(), text);
            assert!((1..=255).contains(&text.len()) && text.chars().all(is_domain_char));
            assert_eq!(domain.id_string(), format!("spiffe://{text}"));
        }
        Err(error) => drop(one_line(error, VALUE_CHARS_MAX)),
    }
}

/// Asserts sections 2.1 to 2.4, without using the parser.
fn follows_the_standard(text: &str, id: &SpiffeId) {
    assert_eq!(id.as_str(), text);
    assert!(text.len() <= 2048);
    let rest = text.strip_prefix("spiffe://").expect("the scheme");
    let (domain, path) = rest.split_once('/').expect("a path");
    assert!(!domain.is_empty() && domain.len() <= 255 && domain.chars().all(is_domain_char));
    for segment in path.split('/') {
        assert!(!["", ".", ".."].contains(&segment), "{text}");
        assert!(
            segment
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || ".-_".contains(c)),
            "{text}"
        );
    }
    assert_eq!(id.path(), format!("/{path}"));
    let domain: TrustDomain = domain.parse().expect("the domain of an accepted ID");
    assert!(id.is_member_of(&domain));
}

fn is_domain_char(c: char) -> bool {
    c.is_ascii_lowercase() || c.is_ascii_digit() || ".-_".contains(c)
}
