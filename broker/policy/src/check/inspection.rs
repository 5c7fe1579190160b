//! Reading policies: each step that can find a mistake in them.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    fmt,
    ops::Range,
};

use cedar_policy::{
    EntityUid, Policy, PolicyId, PolicySet, ValidationError, ValidationMode, ValidationWarning,
    Validator,
};
use miette::Diagnostic;
use taskpass_core::is_hidden;

use super::catalogue::{Catalogue, KnownNames, nearest};
use crate::{
    Finding, PolicyFile, Report, Severity, limits,
    schema::{Language, one_line},
    source,
};

/// The policies, each with its `@id` or `file:number` as id, and the findings.
pub(crate) fn inspect(
    language: &Language,
    files: &[PolicyFile],
    known: Option<&KnownNames>,
) -> (Vec<Policy>, Report) {
    let mut inspection = Inspection::default();
    let mut names = BTreeSet::new();
    for file in files {
        if !names.insert(&file.name) {
            inspection.whole(
                &file.name,
                Severity::Error,
                "there are two files of this name",
            );
        }
        inspection.read(file);
    }
    if inspection.policies.len() > limits::POLICIES_MAX {
        let message = format!(
            "there are {} policies, more than {}: merge some",
            inspection.policies.len(),
            limits::POLICIES_MAX
        );
        inspection.whole("", Severity::Error, &message);
    } else {
        inspection.validate(language);
        if let Some(known) = known {
            inspection.compare(known);
        }
    }
    if inspection.policies.is_empty() && inspection.findings.is_empty() {
        let message = "there are no policies, so everything is denied";
        inspection.whole("", Severity::Warning, message);
    }
    inspection.finish(files.len())
}

/// A check in progress.
#[derive(Default)]
struct Inspection<'a> {
    policies: Vec<(Policy, Place<'a>)>,
    by_id: HashMap<PolicyId, Place<'a>>,
    /// The findings, and for each the actions it is about unless it is about all.
    findings: BTreeMap<Finding, BTreeSet<String>>,
}

/// The place of a policy.
#[derive(Debug, Clone)]
struct Place<'a> {
    file: &'a PolicyFile,
    range: Range<usize>,
}

impl<'a> Inspection<'a> {
    /// Parses one file and names its policies.
    fn read(&mut self, file: &'a PolicyFile) {
        if file.text.len() > limits::FILE_BYTES_MAX {
            let message = format!("the file is larger than {} bytes", limits::FILE_BYTES_MAX);
            return self.whole(&file.name, Severity::Error, &message);
        }
        if let Some(offset) = file
            .text
            .find(|c| is_hidden(c) && !matches!(c, '\n' | '\r' | '\t'))
        {
            let range = offset..offset;
            let message =
                "an invisible character, which can make a policy read as another than it is";
            self.at(
                &Place { file, range },
                Severity::Error,
                message,
                Some("remove it"),
            );
        }
        let set: PolicySet = match file.text.parse() {
            Ok(set) => set,
            Err(errors) => {
                for error in errors.iter() {
                    self.diagnosed(file, None, Severity::Error, error, &[]);
                }
                return;
            }
        };
        let ranges = source::statements(&file.text);
        // Cedar numbers the statements of a text from 0.
        let number = |id: &PolicyId| {
            let id: &str = id.as_ref();
            id.strip_prefix("policy")
                .and_then(|n| n.parse::<usize>().ok())
        };
        let place = |number: Option<usize>| Place {
            file,
            range: number.and_then(|n| ranges.get(n).cloned()).unwrap_or(0..0),
        };
        for template in set.templates() {
            let message = "templates are not supported: there is nothing that could fill `?principal` or `?resource`";
            let hint = "write the entity itself, or `principal` and a condition";
            self.at(
                &place(number(template.id())),
                Severity::Error,
                message,
                Some(hint),
            );
        }
        let mut policies: Vec<_> = set.policies().map(|p| (number(p.id()), p)).collect();
        policies.sort_by_key(|(number, _)| *number);
        for (number, policy) in policies {
            let ordinal = number.unwrap_or_default().saturating_add(1);
            self.name(policy, place(number), &format!("{}:{ordinal}", file.name));
        }
    }

    /// Gives a policy its id: its `@id`, else its place.
    fn name(&mut self, policy: &Policy, place: Place<'a>, fallback: &str) {
        let annotated = policy.annotation("id");
        if let Some(id) = annotated
            && !is_label(id, limits::ID_CHARS_MAX)
        {
            let message = format!(
                "`@id` must be 1 to {} printable characters",
                limits::ID_CHARS_MAX
            );
            self.at(
                &place,
                Severity::Error,
                &message,
                Some("write `@id(\"a-name\")`"),
            );
        }
        if let Some(reason) = policy.annotation("reason")
            && !is_label(reason, limits::REASON_CHARS_MAX)
        {
            let max = limits::REASON_CHARS_MAX;
            let message = format!("`@reason` must be 1 to {max} printable characters");
            self.at(&place, Severity::Error, &message, None);
        }
        let id = PolicyId::new(annotated.unwrap_or(fallback));
        if let Some(first) = self.by_id.get(&id) {
            let message = format!("another policy already has the id `{id}`: {first}");
            self.at(
                &place,
                Severity::Error,
                &message,
                Some("ids name policies in records: give each its own"),
            );
            return;
        }
        self.by_id.insert(id.clone(), place.clone());
        self.policies.push((policy.new_id(id), place));
    }

    /// Checks all policies against the schema.
    fn validate(&mut self, language: &Language) {
        let mut set = PolicySet::new();
        for (policy, place) in &self.policies {
            // INVARIANT: `name` made ids unique.
            if let Err(e) = set.add(policy.clone()) {
                let place = place.clone();
                return self.at(&place, Severity::Error, &one_line(&e), None);
            }
        }
        let validator = Validator::new(language.schema.clone());
        let result = validator.validate(&set, ValidationMode::Strict);
        let mut wrong = HashSet::new();
        for error in result.validation_errors() {
            wrong.insert(error.policy_id());
            let place = self.by_id.get(error.policy_id()).cloned();
            // Cedar's own guesses for these differ from run to run.
            let names = match error {
                ValidationError::UnrecognizedActionId(_) => language.action_names(),
                ValidationError::UnrecognizedEntityType(_) => language.type_names(),
                _ => Vec::new(),
            };
            self.validated(place, Severity::Error, error, &names);
        }
        // A policy with a mistake can often never apply either; the mistake is the finding that
        // helps.
        for warning in result.validation_warnings() {
            let place = self.by_id.get(warning.policy_id()).cloned();
            match warning {
                _ if wrong.contains(warning.policy_id()) => {}
                // `read` has refused it already.
                ValidationWarning::BidiCharsInString(_)
                | ValidationWarning::BidiCharsInIdentifier(_) => {}
                ValidationWarning::ImpossiblePolicy(_)
                | ValidationWarning::InvalidActionApplication(_) => {
                    if let Some(place) = place {
                        let message =
                            "the policy can never apply: no request fits its scope and conditions";
                        self.at(&place, Severity::Warning, message, None);
                    }
                }
                other => self.validated(place, Severity::Warning, other, &[]),
            }
        }
    }

    fn validated(
        &mut self,
        place: Option<Place<'a>>,
        severity: Severity,
        found: &dyn Diagnostic,
        names: &[String],
    ) {
        match place {
            Some(place) => self.diagnosed(place.file, Some(&place), severity, found, names),
            None => self.whole("", severity, &one_line(found)),
        }
    }

    /// Warns about references to names that do not exist.
    fn compare(&mut self, known: &KnownNames) {
        let catalogues = Catalogue::all(known);
        for (policy, place) in &self.policies {
            let literals: BTreeSet<EntityUid> = policy.entity_literals().into_iter().collect();
            for uid in literals {
                let Some((message, hint)) = catalogues.iter().find_map(|c| c.miss(&uid)) else {
                    continue;
                };
                let within = place.file.text.get(place.range.clone()).unwrap_or_default();
                let offset = place.range.start + within.find(&uid.to_string()).unwrap_or(0);
                let place = Place {
                    file: place.file,
                    range: offset..offset,
                };
                let finding = place.finding(Severity::Warning, &message, hint.as_deref());
                self.findings.entry(finding).or_default();
            }
        }
    }

    /// A finding of Cedar's, at its place if it names one, else at `place`, else at the file.
    fn diagnosed(
        &mut self,
        file: &'a PolicyFile,
        place: Option<&Place<'a>>,
        severity: Severity,
        found: &dyn Diagnostic,
        names: &[String],
    ) {
        let label = found.labels().and_then(|mut labels| labels.next());
        let range = match (&label, place) {
            (Some(label), _) => label.offset()..label.offset(),
            (None, Some(place)) => place.range.clone(),
            (None, None) => 0..0,
        };
        let (message, action) = trimmed(&one_line(found));
        let stated = || {
            let help = found.help().map(|help| one_line(&help));
            let label = || Some(one_line(&label.as_ref()?.label()?));
            help.or_else(label)
        };
        // The unknown name stands between the message's first and last backtick.
        let quoted = message
            .split_once('`')
            .and_then(|(_, rest)| rest.rsplit_once('`'));
        let hint = match (names, quoted) {
            ([_, ..], Some((unknown, _))) => nearest(names, unknown),
            _ => stated(),
        };
        let place = Place { file, range };
        let finding = place.finding(severity, &message, hint.as_deref());
        self.findings.entry(finding).or_default().extend(action);
    }

    fn at(&mut self, place: &Place<'_>, severity: Severity, message: &str, hint: Option<&str>) {
        let finding = place.finding(severity, message, hint);
        self.findings.entry(finding).or_default();
    }

    /// A finding about a whole file, or, without a name, about the set.
    fn whole(&mut self, file: &str, severity: Severity, message: &str) {
        let finding = Finding {
            file: file.to_owned(),
            line: 0,
            column: 0,
            severity,
            message: message.to_owned(),
            hint: None,
        };
        self.findings.entry(finding).or_default();
    }

    fn finish(self, files: usize) -> (Vec<Policy>, Report) {
        let mut findings: Vec<Finding> = self.findings.into_iter().map(for_actions).collect();
        // The limit cuts off warnings before errors.
        findings.sort_by_key(|finding| finding.severity);
        findings.truncate(limits::FINDINGS_MAX);
        findings.sort();
        let policies: Vec<Policy> = self
            .policies
            .into_iter()
            .map(|(policy, _)| policy)
            .collect();
        let report = Report {
            findings,
            files,
            policies: policies.len(),
        };
        (policies, report)
    }
}

/// Cedar's message without the policy's id, because its place tells more, and without the action,
/// which is returned beside it: Cedar reports the same mistake once for each action that a policy
/// can apply to.
fn trimmed(message: &str) -> (String, Option<String>) {
    let message = match message.strip_prefix("for policy `") {
        Some(rest) => rest
            .split_once("`, ")
            .or_else(|| rest.split_once("`: "))
            .map_or(rest, |(_, message)| message),
        None => message,
    };
    let parts = message
        .split_once(" for Taskpass::Action::\"")
        .and_then(|(before, rest)| Some((before, rest.split_once('"')?)));
    match parts {
        Some((before, (action, after))) => (format!("{before}{after}"), Some(action.to_owned())),
        None => (message.to_owned(), None),
    }
}

/// Names the first of the actions that a finding is about, and how many more there are.
fn for_actions((mut finding, actions): (Finding, BTreeSet<String>)) -> Finding {
    if let Some(first) = actions.first() {
        finding.message.push_str(&format!(", for `{first}`"));
        if actions.len() > 1 {
            let more = actions.len() - 1;
            finding.message.push_str(&format!(" and {more} more"));
        }
    }
    finding
}

/// Whether `text` may be put into a record and an error message: not empty, not too long, all
/// characters printable.
fn is_label(text: &str, chars_max: usize) -> bool {
    !text.trim().is_empty() && text.chars().count() <= chars_max && !text.chars().any(is_hidden)
}

impl Place<'_> {
    fn finding(&self, severity: Severity, message: &str, hint: Option<&str>) -> Finding {
        let (line, column) = source::position(&self.file.text, self.range.start);
        Finding {
            file: self.file.name.clone(),
            line,
            column,
            severity,
            message: message.to_owned(),
            hint: hint.map(ToOwned::to_owned),
        }
    }
}

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (line, column) = source::position(&self.file.text, self.range.start);
        write!(f, "{}:{line}:{column}", self.file.name)
    }
}
