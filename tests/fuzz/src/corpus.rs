//! The committed inputs: `corpus/<target>/<name>`.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use crate::Target;

/// Where the inputs of a target are.
pub fn directory(target: &Target) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("corpus")
        .join(target.name)
}

/// Every committed input of a target in the order of their names.
pub fn inputs(target: &Target) -> io::Result<Vec<PathBuf>> {
    let mut paths = fs::read_dir(directory(target))?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<io::Result<Vec<_>>>()?;
    paths.sort();
    Ok(paths)
}
