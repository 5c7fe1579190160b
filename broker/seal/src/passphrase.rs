//! A passphrase as a seal: PBKDF2-HMAC-SHA256 makes the key that wraps the data key.

use std::num::NonZeroU32;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use ring::pbkdf2;
use taskpass_core::{Entropy, Secret};
use zeroize::Zeroizing;

use crate::{
    Error,
    data_key::{open, seal},
};

/// A thief tries passphrases at this price each. The OWASP Password Storage Cheat Sheet asks for at
/// least 600,000 iterations of PBKDF2 with HMAC-SHA256.
pub(crate) const ITERATIONS: NonZeroU32 = match NonZeroU32::new(600_000) {
    Some(count) => count,
    None => NonZeroU32::MAX,
};
/// A wrapped key that asks for more was written by no release. The count is used before anything is
/// authenticated, and a thief who may write the file could keep the broker's start busy for
/// minutes.
const ITERATIONS_MAX: u32 = 5_000_000;
/// The shortest passphrase. Iterations do not protect a passphrase that a thief can guess.
pub const PASSPHRASE_BYTES_MIN: usize = 16;
/// The longest passphrase.
pub const PASSPHRASE_BYTES_MAX: usize = 4096;
const SALT_BYTES: usize = 32;
const SCHEME: &str = "pbkdf2-sha256";

/// Wraps `key`. `context` must be the same when it is unwrapped.
pub fn wrap_with_passphrase(
    passphrase: &Secret,
    key: &Secret,
    context: &str,
    entropy: &dyn Entropy,
) -> Result<String, Error> {
    wrap(passphrase, key, context, entropy, ITERATIONS)
}

/// The key that [`wrap_with_passphrase`] wrapped.
pub fn unwrap_with_passphrase(
    passphrase: &Secret,
    wrapped: &str,
    context: &str,
) -> Result<Secret, Error> {
    check(passphrase)?;
    let mut parts = wrapped.split('$');
    let mut next = || parts.next().ok_or(Error::WrongPassphrase);
    let (scheme, iterations, salt, sealed) = (next()?, next()?, next()?, next()?);
    let iterations = self::iterations(iterations);
    let decoded = STANDARD.decode(salt).ok().zip(STANDARD.decode(sealed).ok());
    let (true, Some(iterations), Some((salt, sealed))) = (scheme == SCHEME, iterations, decoded)
    else {
        return Err(Error::WrongPassphrase);
    };
    let derived = derive(passphrase, &salt, iterations);
    let opened = open(&derived, &bound(context, iterations), &sealed);
    opened
        .and_then(|bytes| Some(Secret::new(str::from_utf8(&bytes).ok()?.to_owned())))
        .ok_or(Error::WrongPassphrase)
}

fn iterations(text: &str) -> Option<NonZeroU32> {
    let count = text.parse::<NonZeroU32>().ok()?;
    (count.get() <= ITERATIONS_MAX).then_some(count)
}

fn wrap(
    passphrase: &Secret,
    key: &Secret,
    context: &str,
    entropy: &dyn Entropy,
    iterations: NonZeroU32,
) -> Result<String, Error> {
    check(passphrase)?;
    let mut salt = [0; SALT_BYTES];
    entropy.fill(&mut salt).map_err(Error::Entropy)?;
    let derived = derive(passphrase, &salt, iterations);
    let bound = bound(context, iterations);
    let sealed = seal(&derived, &bound, key.expose().as_bytes(), entropy)?;
    let (salt, sealed) = (STANDARD.encode(salt), STANDARD.encode(sealed));
    Ok(format!("{SCHEME}${iterations}${salt}${sealed}"))
}

fn check(passphrase: &Secret) -> Result<(), Error> {
    match passphrase.expose().len() {
        PASSPHRASE_BYTES_MIN..=PASSPHRASE_BYTES_MAX => Ok(()),
        bytes => Err(Error::Passphrase(bytes)),
    }
}

fn bound(context: &str, iterations: NonZeroU32) -> String {
    format!("{SCHEME}\n{iterations}\n{context}")
}

fn derive(passphrase: &Secret, salt: &[u8], iterations: NonZeroU32) -> Zeroizing<[u8; 32]> {
    let mut derived = Zeroizing::new([0; 32]);
    let passphrase = passphrase.expose().as_bytes();
    pbkdf2::derive(
        pbkdf2::PBKDF2_HMAC_SHA256,
        iterations,
        salt,
        passphrase,
        derived.as_mut(),
    );
    derived
}

#[cfg(test)]
mod tests {
    use taskpass_core::SeededEntropy;

    use super::*;

    fn secret(text: &str) -> Secret {
        Secret::new(text.to_owned())
    }

    const FEW: NonZeroU32 = NonZeroU32::new(3).unwrap();

    #[test]
    fn a_count_of_iterations_is_limited_before_it_is_used() {
        let within = |count: &str| iterations(count).is_some();
        assert!(within("600000") && within("5000000"));
        for count in ["5000001", "100000000", "0", "-1", "x"] {
            assert!(!within(count), "{count}");
        }
    }

    #[test]
    fn only_the_same_passphrase_at_the_same_place_unwraps() {
        assert!(ITERATIONS.get() >= 600_000);
        let entropy = SeededEntropy::new(1);
        let (right, key) = (secret("correct horse battery"), secret("aGVsbG8="));
        let wrapped = wrap(&right, &key, "acme.test 1", &entropy, FEW).unwrap();
        assert!(!wrapped.contains("aGVsbG8="), "{wrapped}");
        let unwrapped = unwrap_with_passphrase(&right, &wrapped, "acme.test 1").unwrap();
        assert_eq!(unwrapped.expose(), "aGVsbG8=");
        let cheaper = wrapped.replace("$3$", "$2$");
        let cut = wrapped.get(..40).unwrap();
        for (passphrase, wrapped, context) in [
            ("correct horse batterY", wrapped.as_str(), "acme.test 1"),
            ("correct horse battery", &wrapped, "acme.test 2"),
            ("correct horse battery", &cheaper, "acme.test 1"),
            ("correct horse battery", cut, "acme.test 1"),
            ("correct horse battery", "", "acme.test 1"),
            (
                "correct horse battery",
                // A second or more for each try, before the tag is looked at.
                "pbkdf2-sha256$5000001$AA==$AA==",
                "acme.test 1",
            ),
        ] {
            let refused = unwrap_with_passphrase(&secret(passphrase), wrapped, context);
            assert!(matches!(refused, Err(Error::WrongPassphrase)), "{wrapped}");
        }
        for short in ["", "fifteen bytes.."] {
            let message = wrap(&secret(short), &key, "", &entropy, FEW).unwrap_err();
            assert!(message.to_string().contains("openssl rand"), "{message}");
        }
    }
}
