//! Looks for secrets in places where they must not be, in every encoding that programs use.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use base64::{
    Engine,
    engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE_NO_PAD},
};

use crate::Installation;

/// Shorter values, such as `ec`, are no secrets and occur everywhere.
const SECRET_BYTES_MIN: usize = 12;

/// Secrets, and the places that must hold none of them.
#[derive(Debug, Default)]
pub struct Search {
    needles: Vec<Needle>,
    /// Values that are needles already; back ends repeat their answers.
    known: BTreeSet<Vec<u8>>,
    places: Vec<Place>,
}

/// A secret in all its encodings.
#[derive(Debug)]
struct Needle {
    name: String,
    forms: Vec<String>,
}

/// A place that must hold no secret.
#[derive(Debug)]
struct Place {
    name: String,
    content: String,
}

impl Search {
    /// Adds a secret. A value of several lines, such as a certificate, counts line by line where a
    /// line is long enough. A private key counts only with its private part.
    pub fn secret(&mut self, name: &str, value: &str) {
        if value.contains("PRIVATE KEY-----") {
            return self.private_key(name, value);
        }
        for part in value.lines().filter(|line| !line.starts_with("-----")) {
            self.part(name, part.as_bytes());
        }
    }

    /// Adds the secrets in Vault's answers.
    pub fn answers(&mut self, name: &str, answers: &str) {
        for (number, secret) in (1..).zip(secrets_in(answers)) {
            self.secret(&format!("answer {number} of {name}"), &secret);
        }
    }

    /// Adds a place that must hold no secret.
    pub fn place(&mut self, name: &str, content: impl AsRef<[u8]>) {
        self.places.push(Place {
            name: name.to_owned(),
            content: characters(content.as_ref()),
        });
    }

    /// Adds all files that an installation wrote, with its logs and exports, as places. Private
    /// keys, including the keys of `identities`, become secrets, and the files that hold them are
    /// skipped.
    pub fn installation(&mut self, installation: &Installation, identities: &[PathBuf]) {
        let home = installation.home();
        let keys = self.private_keys(&home, identities);
        let beside = fs::read_dir(installation.scratch()).expect("a directory");
        let beside = beside.map(|entry| entry.expect("an entry").path());
        let all = files(&home)
            .into_iter()
            .chain(beside.filter(|path| path.is_file()));
        for file in all.filter(|file| !keys.contains(file)) {
            let content = fs::read(&file).expect("a file");
            self.place(&file.display().to_string(), content);
        }
    }

    /// The number of secrets.
    pub fn secrets(&self) -> usize {
        self.needles.len()
    }

    /// The names of places that are not empty.
    pub fn places(&self) -> impl Iterator<Item = &str> {
        let places = self.places.iter().filter(|place| !place.content.is_empty());
        places.map(|place| place.name.as_str())
    }

    /// The names of the secrets found and of their places. Secrets are not shown, because this text
    /// ends in a log.
    pub fn hits(&self) -> Vec<String> {
        let mut hits = Vec::new();
        for place in &self.places {
            for needle in &self.needles {
                if needle.forms.iter().any(|form| place.content.contains(form)) {
                    hits.push(format!("{} in {}", needle.name, place.name));
                }
            }
        }
        hits.sort();
        hits.dedup();
        hits
    }

    /// Adds the number that is the key, and the first line of the PEM text. The lines after that
    /// hold the public key, which certificates contain too.
    fn private_key(&mut self, name: &str, pem: &str) {
        let lines: Vec<&str> = pem
            .lines()
            .filter(|line| !line.starts_with("-----"))
            .collect();
        self.part(name, lines[0].as_bytes());
        let der = STANDARD.decode(lines.concat()).expect("base64");
        let octets = der
            .windows(2)
            .position(|pair| pair == [0x04, 0x20])
            .expect("a P-256 key");
        self.part(name, &der[octets + 2..octets + 34]);
    }

    fn part(&mut self, name: &str, part: &[u8]) {
        if part.len() >= SECRET_BYTES_MIN && self.known.insert(part.to_vec()) {
            self.needles.push(Needle {
                name: name.to_owned(),
                forms: forms(part),
            });
        }
    }

    /// Adds private keys as secrets and returns the files that hold them.
    fn private_keys(&mut self, home: &Path, identities: &[PathBuf]) -> Vec<PathBuf> {
        let is_key = |path: &PathBuf| {
            let content = fs::read(path).expect("a file");
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            String::from_utf8_lossy(&content).contains("PRIVATE KEY") || name.ends_with(".key")
        };
        let elsewhere = identities.iter().flat_map(|identity| files(identity));
        let all = files(home).into_iter().chain(elsewhere);
        let keys: Vec<PathBuf> = all.filter(is_key).collect();
        assert!(
            keys.len() >= 4,
            "root, authority, ledger, operator and agent have keys: {keys:?}"
        );
        for path in &keys {
            let content = fs::read_to_string(path).expect("a key");
            let name = path.display().to_string();
            match content.trim().rsplit_once('+') {
                // The ledger's key is one line: some words, then the key.
                Some((words, key)) if words.starts_with("PRIVATE+KEY+") => self.secret(&name, key),
                _ => self.secret(&name, &content),
            }
        }
        keys
    }
}

/// The values of all JSON fields that hold secrets in Vault's API.
fn secrets_in(answers: &str) -> Vec<String> {
    let mut found = Vec::new();
    for field in ["client_token", "private_key", "password", "id"] {
        let begin = format!("\"{field}\":\"");
        for rest in answers.split(&begin).skip(1) {
            let Some((value, _)) = rest.split_once('"') else {
                continue;
            };
            let value = value.replace("\\n", "\n");
            // An accessor is not secret, and the ledger contains it.
            if value.len() >= 20 && (field != "id" || value.starts_with("s.")) {
                found.push(value);
            }
        }
    }
    found
}

/// Maps each byte to one character, so that binary files and secrets can be searched as text.
fn characters(bytes: &[u8]) -> String {
    bytes.iter().copied().map(char::from).collect()
}

/// The secret raw, escaped as programs do, in base64 at each of the three alignments, in hex, as in
/// URLs, and as numbers.
fn forms(secret: &[u8]) -> Vec<String> {
    let quoted = serde_json::to_string(&String::from_utf8_lossy(secret)).expect("a string");
    let hex: String = secret.iter().map(|b| format!("{b:02x}")).collect();
    let url = |upper: bool| -> String {
        let encode = |b: &u8| match *b {
            b if b.is_ascii_alphanumeric() || b"-._~".contains(&b) => char::from(b).to_string(),
            b if upper => format!("%{b:02X}"),
            b => format!("%{b:02x}"),
        };
        secret.iter().map(encode).collect()
    };
    let numbers: Vec<String> = secret.iter().map(u8::to_string).collect();
    let mut forms = vec![
        characters(secret),
        characters(quoted.trim_matches('"').as_bytes()),
        hex.to_uppercase(),
        hex,
        url(true),
        url(false),
        numbers.join(", "),
        numbers.join(","),
    ];
    for before in 0..3 {
        let bytes = [vec![0; before].as_slice(), secret].concat();
        let foreign = [0, 2, 3][before];
        // The last character also holds bits of the data that follows.
        let keep =
            |text: String| text[foreign..text.len() - usize::from(bytes.len() % 3 != 0)].to_owned();
        forms.push(keep(STANDARD_NO_PAD.encode(&bytes)));
        forms.push(keep(URL_SAFE_NO_PAD.encode(&bytes)));
    }
    forms.sort();
    forms.dedup();
    forms
}

/// All files below a directory, without the image of a [`Disk`](crate::Disk): it is one file that
/// also contains keys in their rightful places.
fn files(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).expect("a directory").flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(files(&path));
        } else if path.is_file() && path.extension().is_none_or(|kind| kind != "image") {
            found.push(path);
        }
    }
    found
}
