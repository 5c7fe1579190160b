//! Seeds: inputs that are valid or almost valid. `cargo run -p taskpass-fuzz -- seeds` writes them
//! into the corpus, and libFuzzer derives the others from them.

mod identities;
mod ledgers;
mod requests;
mod texts;

use std::{fs, io};

use crate::{Target, corpus};

/// The seeds of one target, each with a name.
type Seeds = Vec<(String, Vec<u8>)>;

/// Writes `seed-<name>` for every seed of every target.
pub fn write() -> io::Result<()> {
    let all = [
        texts::all(),
        identities::all(),
        ledgers::all(),
        requests::all(),
    ];
    for (target, seeds) in all.into_iter().flatten() {
        let target = Target::named(target).ok_or(io::ErrorKind::NotFound)?;
        let directory = corpus::directory(target);
        fs::create_dir_all(&directory)?;
        for (name, data) in seeds {
            fs::write(directory.join(format!("seed-{name}")), data)?;
        }
    }
    Ok(())
}

/// Numbered seeds.
fn numbered<D: AsRef<[u8]>>(all: impl IntoIterator<Item = D>) -> Seeds {
    let named = |(number, data): (usize, D)| (format!("{number:02}"), data.as_ref().to_vec());
    all.into_iter().enumerate().map(named).collect()
}

/// A seed with the target's choice as first byte.
fn choosing(choice: u8, name: &str, data: impl AsRef<[u8]>) -> (String, Vec<u8>) {
    (name.to_owned(), [&[choice], data.as_ref()].concat())
}
