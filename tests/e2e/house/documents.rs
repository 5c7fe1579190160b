//! The documents are true.

use std::process::Command;

use taskpass_tests::{program, workspace};

use super::{files, none, read};

#[test]
fn links_lead_to_files_that_exist() {
    let mut complaints = Vec::new();
    for document in files(".", ".md") {
        let text = read(&document);
        let folder = workspace()
            .join(&document)
            .parent()
            .expect("a folder")
            .to_owned();
        for (at, _) in text.match_indices("](") {
            let target = text[at + 2..].split(')').next().unwrap_or_default();
            if target.contains("://") || target.starts_with('#') || target.starts_with("mailto:") {
                continue;
            }
            let path = target.split('#').next().unwrap_or_default();
            if !folder.join(path).exists() {
                complaints.push(format!("{document}: `{target}` leads nowhere"));
            }
        }
    }
    none(&complaints);
}

/// The guarantees link each promise to its tests by name. A link `[…](file)` without a name in
/// backticks leads to a whole file.
#[test]
fn guarantees_name_tests_that_exist() {
    let text = read("docs/guarantees.md");
    let mut seen = 0;
    let mut complaints = Vec::new();
    for link in text.split("[`").skip(1) {
        let (name, rest) = link.split_once("`](../").expect("a link to a file");
        let path = rest.split(')').next().expect("the end of the link");
        if name.contains('.') {
            continue;
        }
        seen += 1;
        let source = read(path);
        // Tables of tests have lines `name: …`.
        let is_there = [format!("fn {name}("), format!(" {name}: ")];
        if !is_there.iter().any(|form| source.contains(form)) {
            complaints.push(format!("`{path}` has no test `{name}`"));
        }
    }
    assert!(seen > 50, "only {seen} tests are named");
    none(&complaints);
    let rows = text.lines().filter(|line| line.starts_with("| "));
    let promises = rows.filter(|row| !row.starts_with("| Promise ") && !row.starts_with("| ---"));
    none(
        &promises
            .filter(|row| !row.contains("](../"))
            .map(|row| format!("no test is named for `{row}`"))
            .collect::<Vec<_>>(),
    );
}

/// Asks each command of the documents for its help: programs refuse unknown commands and flags
/// before they print help.
#[test]
fn commands_in_the_documents_exist() {
    let texts = [
        "README.md",
        "docs/operating.md",
        "docs/limits.md",
        "docs/errors.md",
    ]
    .map(read);
    let mut commands = Vec::new();
    for text in &texts {
        for (index, block) in text.split("```").enumerate() {
            if index % 2 == 1 {
                commands.extend(block.lines().map(str::trim));
            } else {
                commands.extend(block.split('`').skip(1).step_by(2));
            }
        }
    }
    let mut seen = 0;
    let mut complaints = Vec::new();
    for command in commands {
        let command = command.split(" #").next().unwrap_or_default();
        let command = command.split(" -- ").next().unwrap_or_default();
        let words = words_of(command);
        let [name, arguments @ ..] = &words[..] else {
            continue;
        };
        if !["taskpass", "taskpassd"].contains(&name.as_str()) {
            continue;
        }
        let mut arguments = arguments.to_vec();
        // Placeholders stand for values that must have a form of their own.
        arguments.retain(|a| !["NAME", "ID"].contains(&a.as_str()));
        for argument in arguments.iter_mut().filter(|a| *a == "TIME") {
            "2026-11-28T09:30:00Z".clone_into(argument);
        }
        seen += 1;
        let done = Command::new(program(name))
            .args(&arguments)
            .arg("--help")
            .env_clear()
            .output()
            .expect("it starts");
        if !done.status.success() {
            complaints.push(format!(
                "`{command}`: {}",
                String::from_utf8_lossy(&done.stderr)
            ));
        }
    }
    assert!(seen > 25, "the documents show only {seen} commands");
    none(&complaints);
}

/// The words of a command up to a pipe or a redirection, as a shell splits them at double quotes.
fn words_of(command: &str) -> Vec<String> {
    let mut words = Vec::new();
    for (index, part) in command.split('"').enumerate() {
        if index % 2 == 1 {
            words.push(part.to_owned());
        } else {
            words.extend(part.split_whitespace().map(str::to_owned));
        }
    }
    let end = words
        .iter()
        .position(|word| ["<", ">", "|"].contains(&word.as_str()));
    words.truncate(end.unwrap_or(words.len()));
    words
}

#[test]
fn make_targets_in_the_documents_exist() {
    let makefile = read("Makefile");
    let mut complaints = Vec::new();
    for document in files(".", ".md") {
        let text = read(&document);
        let words = text
            .match_indices("make ")
            .filter(|(at, _)| *at == 0 || text[..*at].ends_with(['`', '\n']));
        for (at, _) in words {
            let target: String = text[at + 5..]
                .chars()
                .take_while(|c| c.is_ascii_lowercase() || *c == '-')
                .collect();
            if !makefile.contains(&format!("\n{target}:")) {
                complaints.push(format!("{document}: there is no `make {target}`"));
            }
        }
    }
    none(&complaints);
}
