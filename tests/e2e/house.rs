//! Rules that the compiler does not check: which package may depend on which, the length of files,
//! and the truth of the files shipped beside the programs, from the unit file to the README.

mod deploy;
mod documents;
mod layering;
mod programs;
mod sources;

use std::{
    fs,
    path::{Path, PathBuf},
};

use taskpass_tests::workspace;

/// A file of the repository.
fn read(path: &str) -> String {
    let path = workspace().join(path);
    fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// All files below a directory of the repository that end in `suffix`, relative to its root. Build
/// output and installed tools are left out.
fn files(below: &str, suffix: &str) -> Vec<String> {
    let root = workspace();
    let mut found = Vec::new();
    walk(&root.join(below), &mut |path| {
        let relative = path
            .strip_prefix(&root)
            .expect("below the root")
            .to_str()
            .expect("a path in UTF-8");
        if relative.ends_with(suffix) {
            found.push(relative.to_owned());
        }
    });
    found.sort();
    found
}

fn walk(directory: &Path, visit: &mut dyn FnMut(&Path)) {
    for entry in fs::read_dir(directory).unwrap_or_else(|e| panic!("{}: {e}", directory.display()))
    {
        let path: PathBuf = entry.expect("an entry").path();
        let name = path
            .file_name()
            .and_then(|n| n.to_str())
            .unwrap_or_default();
        if name.starts_with('.') || name == "target" || path.is_symlink() {
            continue;
        }
        if path.is_dir() {
            walk(&path, visit);
        } else {
            visit(&path);
        }
    }
}

/// Panics with all complaints, so that one run shows them all.
fn none(complaints: &[String]) {
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}
