//! The text form of a sealed key: PEM with headers, so that a person sees which key a file holds
//! and which data key opens it. The headers are authenticated along with the key.

use base64::{Engine as _, engine::general_purpose::STANDARD};

use crate::Error;

const BEGIN: &str = "-----BEGIN TASKPASS SEALED KEY-----";
const END: &str = "-----END TASKPASS SEALED KEY-----";
const VERSION: &str = "1";
const COLUMNS: usize = 64;

/// The parts of a sealed file.
pub(crate) struct SealedText {
    /// The data key.
    pub(crate) key: String,
    /// The name of the key inside.
    pub(crate) name: String,
    /// Salt, ciphertext and tag.
    pub(crate) body: Vec<u8>,
}

/// Whether a file holds a sealed key, by its first line.
pub fn is_sealed(content: &[u8]) -> bool {
    content.trim_ascii_start().starts_with(BEGIN.as_bytes())
}

impl SealedText {
    pub(crate) fn parse(content: &[u8]) -> Result<Self, Error> {
        let text = str::from_utf8(content)
            .ok()
            .ok_or(Error::Malformed("it is not text"))?;
        let inner = text.trim().strip_prefix(BEGIN);
        let inner = inner.ok_or(Error::Malformed("the first line is missing"))?;
        let inner = inner
            .strip_suffix(END)
            .ok_or(Error::Malformed("the last line is missing"))?;
        let (headers, body) = inner
            .split_once("\n\n")
            .ok_or(Error::Malformed("there is no empty line after the headers"))?;
        let header = |name: &str| {
            let mut lines = headers.lines();
            lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
        };
        match header("Version") {
            Some(VERSION) => {}
            Some(other) => return Err(Error::Version(other.chars().take(COLUMNS).collect())),
            None => return Err(Error::Malformed("there is no version")),
        }
        let key = header("Key").ok_or(Error::Malformed("it names no data key"))?;
        let name = header("Name").ok_or(Error::Malformed("it does not say what it holds"))?;
        let body: String = body.chars().filter(|c| !c.is_ascii_whitespace()).collect();
        let body = STANDARD.decode(body).ok();
        Ok(Self {
            key: key.to_owned(),
            name: name.to_owned(),
            body: body.ok_or(Error::Malformed("its body is not base64"))?,
        })
    }

    pub(crate) fn write(&self) -> String {
        let Self { key, name, body } = self;
        let mut text = format!("{BEGIN}\nVersion: {VERSION}\nKey: {key}\nName: {name}\n\n");
        for (index, c) in STANDARD.encode(body).chars().enumerate() {
            if index > 0 && index % COLUMNS == 0 {
                text.push('\n');
            }
            text.push(c);
        }
        text.push('\n');
        text.push_str(END);
        text.push('\n');
        text
    }

    /// The text that is authenticated besides the key: all that the file says about itself, and the
    /// installation.
    pub(crate) fn context(domain: &str, key: &str, name: &str) -> String {
        format!("taskpass sealed key {VERSION}\n{domain}\n{key}\n{name}")
    }
}
