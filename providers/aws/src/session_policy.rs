//! Session policies: a role's template, narrowed by a scope and ended by a deadline.
//!
//! The template is parsed as JSON once, and a parameter is put only into a parsed string value, so
//! no value can become structure. Characters that IAM interprets in a value (`*`, `?`, `$`) are
//! refused, even if a parameter's own rule allows them. So are braces, which could complete a `$`
//! of the template to a variable. Placeholders with a `:` (`${aws:userid}`) and `${*}`, `${?}`,
//! `${$}` are IAM's and stay.
//!
//! Two denials are added to every session policy. The first denies everything after the deadline,
//! which makes lifetimes below STS's minimum of 900 s possible without a further call. It is an
//! explicit Deny, because a resource policy that names the session overrides an implicit one. The
//! second denies to assume another role with the session: a chained session would carry neither
//! this policy nor this deadline.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};
use taskpass_core::{ParamName, Scope, Timestamp, excerpt};

/// The most characters that STS takes as an inline session policy. STS has a separate limit on the
/// packed form, which only STS can compute; a policy beyond it is refused as
/// `PackedPolicyTooLarge`.
pub(crate) const SESSION_POLICY_CHARACTERS_MAX: usize = 2048;

/// A checked template.
#[derive(Debug, Clone)]
pub(crate) struct Template {
    statements: Vec<Value>,
    params: BTreeSet<ParamName>,
}

/// Why a template has no session policy for a scope.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RenderError {
    #[error("the session policy needs the parameter `{0}`")]
    Missing(ParamName),
    #[error(
        "the value of `{0}` has one of `*`, `?`, `$`, `{{`, `}}` or a control character, which IAM would interpret; ask for a plain value"
    )]
    Value(ParamName),
    #[error(
        "the session policy would have {0} characters and STS takes 2048; shorten the template or the values"
    )]
    TooLarge(usize),
}

impl Template {
    /// Parses a policy document that uses exactly the `declared` parameters. The error names the
    /// place to change.
    pub(crate) fn parse(text: &str, declared: &BTreeSet<ParamName>) -> Result<Self, String> {
        let document: Value =
            serde_json::from_str(text).map_err(|e| format!("it is not JSON: {e}"))?;
        let Value::Object(mut document) = document else {
            return Err("it is not a JSON object".to_owned());
        };
        if document.get("Version").and_then(Value::as_str) != Some("2012-10-17") {
            return Err("`Version` must be `2012-10-17`".to_owned());
        }
        let statements = match document.remove("Statement") {
            Some(Value::Array(statements)) if !statements.is_empty() => statements,
            Some(statement @ Value::Object(_)) => vec![statement],
            _ => return Err("`Statement` must be a statement or a list of at least one".to_owned()),
        };
        if let Some(key) = document
            .keys()
            .find(|key| !matches!(key.as_str(), "Version" | "Id"))
        {
            return Err(format!(
                "`{}` is not part of a policy document",
                excerpt(key)
            ));
        }
        let mut params = BTreeSet::new();
        for statement in &statements {
            check_statement(statement)?;
            collect_params(statement, &mut params)?;
        }
        if let Some(unknown) = params.difference(declared).next() {
            return Err(format!(
                "it uses `${{{unknown}}}`, which is not in `params`"
            ));
        }
        if let Some(unused) = declared.difference(&params).next() {
            return Err(format!(
                "the parameter `{unused}` is not used in it; remove it from `params`"
            ));
        }
        let template = Self { statements, params };
        let smallest = template
            .document(&template.statements, Timestamp::MAX)
            .chars()
            .count();
        if smallest > SESSION_POLICY_CHARACTERS_MAX + 512 {
            return Err(format!(
                "it has {smallest} characters and STS takes {SESSION_POLICY_CHARACTERS_MAX}"
            ));
        }
        Ok(template)
    }

    /// The parameters that it uses; a scope must give all of them.
    pub(crate) fn params(&self) -> impl Iterator<Item = &ParamName> {
        self.params.iter()
    }

    /// The session policy for `scope`. It allows nothing from `deadline` on, which is a whole
    /// second.
    pub(crate) fn render(&self, scope: &Scope, deadline: Timestamp) -> Result<String, RenderError> {
        for param in &self.params {
            let value = scope
                .value(param.as_str())
                .ok_or_else(|| RenderError::Missing(param.clone()))?;
            if value
                .chars()
                .any(|c| matches!(c, '*' | '?' | '$' | '{' | '}') || c.is_control())
            {
                return Err(RenderError::Value(param.clone()));
            }
        }
        let mut statements = self.statements.clone();
        for statement in &mut statements {
            substitute(statement, scope);
        }
        let document = self.document(&statements, deadline);
        match document.chars().count() {
            size if size > SESSION_POLICY_CHARACTERS_MAX => Err(RenderError::TooLarge(size)),
            _ => Ok(document),
        }
    }

    fn document(&self, statements: &[Value], deadline: Timestamp) -> String {
        let mut all = statements.to_vec();
        all.push(deny_from(deadline));
        all.push(json!({"Effect": "Deny", "Action": "sts:Assume*", "Resource": "*"}));
        json!({"Version": "2012-10-17", "Statement": all}).to_string()
    }
}

/// The session policy of a canary, which may do only `action`, on everything, until `deadline`.
pub(crate) fn single_action(action: Option<&str>, deadline: Timestamp) -> String {
    let mut statements = vec![deny_from(deadline)];
    statements.push(match action {
        Some(action) => json!({"Effect": "Allow", "Action": action, "Resource": "*"}),
        None => json!({"Effect": "Deny", "Action": "*", "Resource": "*"}),
    });
    json!({"Version": "2012-10-17", "Statement": statements}).to_string()
}

fn deny_from(deadline: Timestamp) -> Value {
    json!({"Effect": "Deny", "Action": "*", "Resource": "*",
        "Condition": {"DateGreaterThanEquals": {"aws:CurrentTime": iam_time(deadline)}}})
}

/// A time in the form of IAM's conditions: whole seconds.
pub(crate) fn iam_time(time: Timestamp) -> String {
    let text = time.floor_to_second().to_string();
    format!("{}Z", text.strip_suffix(".000Z").unwrap_or(&text))
}

/// The operator decides the structure: a parameter must not decide whether a statement allows or
/// denies.
fn check_statement(statement: &Value) -> Result<(), String> {
    let Value::Object(fields) = statement else {
        return Err("a statement is not a JSON object".to_owned());
    };
    if !matches!(
        fields.get("Effect").and_then(Value::as_str),
        Some("Allow" | "Deny")
    ) {
        return Err("each statement needs `Effect`: `Allow` or `Deny`".to_owned());
    }
    for (one, other) in [("Action", "NotAction"), ("Resource", "NotResource")] {
        if fields.contains_key(one) == fields.contains_key(other) {
            return Err(format!("each statement needs either `{one}` or `{other}`"));
        }
    }
    for key in fields.keys() {
        if !matches!(
            key.as_str(),
            "Sid" | "Effect" | "Action" | "NotAction" | "Resource" | "NotResource" | "Condition"
        ) {
            return Err(format!(
                "`{}` is not part of a session policy's statement",
                excerpt(key)
            ));
        }
    }
    match fields.get("Sid") {
        Some(Value::String(sid)) if sid.bytes().all(|b| b.is_ascii_alphanumeric()) => Ok(()),
        None => Ok(()),
        Some(_) => Err("a `Sid` has letters and digits only".to_owned()),
    }
}

fn collect_params(value: &Value, params: &mut BTreeSet<ParamName>) -> Result<(), String> {
    match value {
        Value::String(text) => {
            for piece in pieces(text) {
                if let Piece::Param(name) = piece {
                    params.insert(
                        name.parse()
                            .map_err(|e: taskpass_core::InvalidValue| e.to_string())?,
                    );
                }
            }
            Ok(())
        }
        Value::Array(items) => items
            .iter()
            .try_for_each(|item| collect_params(item, params)),
        Value::Object(fields) => fields.iter().try_for_each(|(key, field)| {
            if pieces(key).any(|piece| matches!(piece, Piece::Param(_))) {
                return Err(format!(
                    "`{}` has a parameter in a key; parameters stand in values only",
                    excerpt(key)
                ));
            }
            collect_params(field, params)
        }),
        Value::Null | Value::Bool(_) | Value::Number(_) => Ok(()),
    }
}

fn substitute(value: &mut Value, scope: &Scope) {
    match value {
        Value::String(text) => {
            let narrowed: String = pieces(text)
                .map(|piece| match piece {
                    Piece::Text(text) => text,
                    // INVARIANT: `render` has checked that each parameter has a value.
                    Piece::Param(name) => scope.value(name).unwrap_or_default(),
                })
                .collect();
            *text = narrowed;
        }
        Value::Array(items) => items.iter_mut().for_each(|item| substitute(item, scope)),
        Value::Object(fields) => fields_mut(fields).for_each(|field| substitute(field, scope)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

fn fields_mut(fields: &mut Map<String, Value>) -> impl Iterator<Item = &mut Value> {
    fields.iter_mut().map(|(_, field)| field)
}

/// A part of a template's string.
enum Piece<'a> {
    Text(&'a str),
    Param(&'a str),
}

/// Splits at `${name}`. If the text between the braces is no parameter's name, it is IAM's own and
/// stays.
fn pieces(text: &str) -> impl Iterator<Item = Piece<'_>> {
    let mut rest = text;
    let mut queued = None;
    std::iter::from_fn(move || {
        if let Some(name) = queued.take() {
            return Some(Piece::Param(name));
        }
        if rest.is_empty() {
            return None;
        }
        let whole = rest;
        let mut from = 0;
        while let Some((start, end)) = next_placeholder(whole, from) {
            let (Some(before), Some(name), Some(after)) = (
                whole.get(..start),
                whole.get(start + 2..end),
                whole.get(end + 1..),
            ) else {
                break;
            };
            from = end + 1;
            if name.parse::<ParamName>().is_ok() {
                rest = after;
                if before.is_empty() {
                    return Some(Piece::Param(name));
                }
                queued = Some(name);
                return Some(Piece::Text(before));
            }
        }
        rest = "";
        Some(Piece::Text(whole))
    })
}

/// The places of the next `${` at or after `from` and of its `}`.
fn next_placeholder(text: &str, from: usize) -> Option<(usize, usize)> {
    let start = from + text.get(from..)?.find("${")?;
    let end = start + text.get(start..)?.find('}')?;
    Some((start, end))
}

#[cfg(test)]
mod tests;
