//! The conditions of policies, in parts that are evaluated at most once for each request.
//!
//! A policy applies when its scope and all its clauses hold. Cedar reads them as one chain
//! `a && b && …`, from the left and no further than to the first part that is false. The policies of
//! a set have many parts in common, so the chain is cut at each `&&` when the set is loaded, and a
//! request remembers the answers to the parts that several policies share.
//!
//! Cedar evaluates each part. Where its answer is not a boolean, Cedar evaluates the whole policy,
//! and so itself says how the policy fails.

use std::{collections::HashMap, sync::Arc};

use cedar_policy::{Effect, EvaluationError, Policy};
use cedar_policy_core::{
    ast::{self, Expr, ExprKind, Literal, SlotEnv, ValueKind},
    evaluator::Evaluator,
};
use serde_json::Value;

/// A policy that is ready to be evaluated.
#[derive(Debug)]
pub(crate) struct Rule {
    pub(crate) id: String,
    pub(crate) effect: Effect,
    policy: ast::Policy,
    parts: Vec<Arc<Part>>,
}

/// A part of a condition.
#[derive(Debug)]
struct Part {
    expr: Expr,
    /// The place of its answer in [`Answers::known`], if several policies have this part.
    place: Option<usize>,
}

/// The policies of a set.
#[derive(Debug)]
pub(crate) struct Rules {
    pub(crate) all: Vec<Arc<Rule>>,
    shared: usize,
}

impl Rules {
    /// `forms` are the JSON forms of `policies`.
    pub(crate) fn of(policies: &[Policy], forms: Vec<Option<Value>>) -> Self {
        let conditions = policies.iter().zip(forms);
        let conditions = conditions.map(|(policy, form)| without_places(policy, form));
        let cut: Vec<Vec<Expr>> = conditions.map(parts).collect();
        let mut uses = HashMap::<&Expr, usize>::new();
        for expr in cut.iter().flatten() {
            *uses.entry(expr).or_default() += 1;
        }
        let mut shared = HashMap::<&Expr, Arc<Part>>::new();
        let all = policies.iter().zip(&cut).map(|(policy, cut)| {
            let parts = cut.iter().map(|expr| {
                let part = |place| {
                    Arc::new(Part {
                        expr: expr.clone(),
                        place,
                    })
                };
                if uses.get(expr) == Some(&1) {
                    return part(None);
                }
                let place = shared.len();
                Arc::clone(shared.entry(expr).or_insert_with(|| part(Some(place))))
            });
            Arc::new(Rule {
                id: policy.id().to_string(),
                effect: policy.effect(),
                policy: policy.as_ref().clone(),
                parts: parts.collect(),
            })
        });
        Self {
            all: all.collect(),
            shared: shared.len(),
        }
    }

    /// Nothing is known yet about the request of `evaluator`.
    pub(crate) fn answers<'a>(&self, evaluator: &'a Evaluator<'a>) -> Answers<'a> {
        Answers {
            evaluator,
            none: SlotEnv::new(),
            known: vec![None; self.shared],
        }
    }
}

/// The parts of a condition in the order of their evaluation.
fn parts(condition: Expr) -> Vec<Expr> {
    let mut parts = Vec::new();
    let mut open = vec![condition];
    while let Some(expr) = open.pop() {
        match expr.expr_kind() {
            ExprKind::And { left, right } => {
                open.extend([right, left].map(|side| side.as_ref().clone()));
            }
            ExprKind::Lit(Literal::Bool(true)) => {}
            _ => parts.push(expr),
        }
    }
    parts
}

/// The condition of a policy. It does not know where in a file its parts are, because handing that
/// on costs as much as evaluating them; Cedar's JSON form has no places.
fn without_places(policy: &Policy, form: Option<Value>) -> Expr {
    let condition = policy.as_ref().condition();
    let bare = form.and_then(|form| Policy::from_json(Some(policy.id().clone()), form).ok());
    // Places do not count here: the two are the same condition, or the policy keeps its own.
    let bare = bare.map(|policy| policy.as_ref().condition());
    bare.filter(|bare| *bare == condition).unwrap_or(condition)
}

/// Whether the policies apply to one request.
pub(crate) struct Answers<'a> {
    evaluator: &'a Evaluator<'a>,
    /// The policies have no slots.
    none: SlotEnv,
    known: Vec<Option<Answer>>,
}

/// Cedar's answer to a part.
#[derive(Debug, Clone, Copy)]
enum Answer {
    True,
    False,
    /// It failed, or is no boolean.
    Neither,
}

impl Answers<'_> {
    /// Whether the policy applies. Fails as Cedar does.
    pub(crate) fn applies(&mut self, rule: &Rule) -> Result<bool, Box<EvaluationError>> {
        for part in &rule.parts {
            match self.answer(part) {
                Answer::True => {}
                Answer::False => return Ok(false),
                Answer::Neither => return self.evaluator.evaluate(&rule.policy).map_err(Box::new),
            }
        }
        Ok(true)
    }

    fn answer(&mut self, part: &Part) -> Answer {
        let known = part.place.and_then(|place| self.known.get_mut(place));
        match known {
            Some(known) => *known.get_or_insert_with(|| ask(self.evaluator, part, &self.none)),
            None => ask(self.evaluator, part, &self.none),
        }
    }
}

fn ask(evaluator: &Evaluator<'_>, part: &Part, none: &SlotEnv) -> Answer {
    let value = evaluator.interpret(&part.expr, none);
    match value.as_ref().map(ast::Value::value_kind) {
        Ok(ValueKind::Lit(Literal::Bool(true))) => Answer::True,
        Ok(ValueKind::Lit(Literal::Bool(false))) => Answer::False,
        _ => Answer::Neither,
    }
}
