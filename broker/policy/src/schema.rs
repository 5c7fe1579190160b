//! The schema, and how a [`View`] becomes a Cedar request. Values reach Cedar as values: no Cedar
//! text is ever put together from a caller's input.
//!
//! Four steps of Cedar's public interface are bypassed, because they would be repeated for every
//! request and cost most of it: parsing the names of extension functions, evaluating expressions
//! that are values already, completing a hierarchy of entities that is complete already, and
//! checking the types of values that this crate alone makes.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use cedar_policy::{
    Context, Entities, Entity, EntityId, EntityTypeName, EntityUid, Request, Schema,
};
use cedar_policy_core::{
    ast::{self, Name, PartialValue},
    entities::{self, NoEntitiesSchema, TCComputation},
    extensions::Extensions,
};

use taskpass_core::is_hidden;

use crate::{
    Action,
    view::{self, Kind, Uid, Value, View},
};

/// The schema of policies, in Cedar's own notation.
pub const fn schema_text() -> &'static str {
    include_str!("schema.cedarschema")
}

/// The parsed schema with the names made once.
#[derive(Debug)]
pub(crate) struct Language {
    pub(crate) schema: Schema,
    types: BTreeMap<Kind, EntityTypeName>,
    /// The kinds of principal and resource that each action applies to.
    shapes: BTreeMap<Action, Vec<(Kind, Kind)>>,
    /// Every action with the groups it is in.
    action_entities: Entities,
    datetime: Name,
    ip: Name,
}

impl Language {
    /// Reads the schema. A failure is a bug of this crate; its message is one line.
    pub(crate) fn load() -> Result<Self, String> {
        let fault = |e: &dyn std::fmt::Display| format!("the built-in schema is broken: {e}");
        let (schema, _) = Schema::from_cedarschema_str(schema_text()).map_err(|e| fault(&e))?;
        let action_entities = schema.action_entities().map_err(|e| fault(&e))?;
        let types = Kind::ALL
            .iter()
            .map(|kind| Ok((*kind, kind.as_str().parse().map_err(|e| fault(&e))?)))
            .collect::<Result<_, String>>()?;
        let shapes = shapes(&schema, &types);
        Ok(Self {
            schema,
            types,
            shapes,
            action_entities,
            datetime: "datetime".parse().map_err(|e| fault(&e))?,
            ip: "ip".parse().map_err(|e| fault(&e))?,
        })
    }

    /// `uid` as Cedar names it.
    pub(crate) fn uid(&self, uid: &Uid) -> Result<EntityUid, String> {
        let kind = self
            .types
            .get(&uid.kind)
            .ok_or_else(|| format!("the schema has no type `{}`", uid.kind.as_str()))?;
        let id = EntityId::new(&uid.id);
        Ok(EntityUid::from_type_name_and_id(kind.clone(), id))
    }

    /// All actions and groups, as policies write them.
    pub(crate) fn action_names(&self) -> Vec<String> {
        self.schema.actions().map(ToString::to_string).collect()
    }

    /// All types of principals and resources, and of the entities they are in.
    pub(crate) fn type_names(&self) -> Vec<String> {
        self.types.values().map(ToString::to_string).collect()
    }

    /// The action, which knows its groups.
    pub(crate) fn action(&self, action: Action) -> Result<Entity, String> {
        let uid = self.uid(&view::of_action(action))?;
        let entity = self.action_entities.get(&uid).cloned();
        entity.ok_or_else(|| format!("the schema has no action `{action}`"))
    }

    /// The names of the action and its groups.
    pub(crate) fn lineage(&self, action: Action) -> Result<Vec<EntityUid>, String> {
        let uid = self.uid(&view::of_action(action))?;
        let groups = self.action_entities.ancestors(&uid);
        let groups: Vec<EntityUid> = groups.into_iter().flatten().cloned().collect();
        Ok(std::iter::once(uid).chain(groups).collect())
    }

    /// The request of an action, if it fits the schema. Cedar would also check types that cannot be
    /// wrong here; a test compares the two.
    pub(crate) fn request(&self, action: Action, view: &View) -> Result<Request, String> {
        let (principal, resource) = (view.principal.kind, view.resource.kind);
        let shapes = self.shapes.get(&action).map_or(&[][..], Vec::as_slice);
        if !shapes.contains(&(principal, resource)) {
            return Err(format!(
                "`{action}` by a `{}` on a `{}` is not in the schema",
                principal.as_str(),
                resource.as_str()
            ));
        }
        if action.grants_access() != view.grants_access() {
            return Err(format!(
                "the access that `{action}` asks for does not fit the schema"
            ));
        }
        self.any_request(view, None)
    }

    /// The request, checked against `schema`, if one is given.
    pub(crate) fn any_request(
        &self,
        view: &View,
        schema: Option<&Schema>,
    ) -> Result<Request, String> {
        let context = view
            .context
            .iter()
            .map(|(name, value)| Ok(((*name).into(), self.value(value)?)))
            .collect::<Result<_, String>>()?;
        let context = Context::from(ast::Context::Value(Arc::new(context)));
        let (principal, action, resource) = (
            self.uid(&view.principal)?,
            self.uid(&view.action)?,
            self.uid(&view.resource)?,
        );
        Request::new(principal, action, resource, context, schema).map_err(|e| one_line(&e))
    }

    /// The entities of the request, `action` among them. Each entity names all its ancestors, so
    /// there is nothing to complete.
    pub(crate) fn entities(&self, view: &View, action: &Entity) -> Result<Entities, String> {
        let action: &ast::Entity = action.as_ref();
        let mut all = vec![action.clone()];
        for entity in &view.entities {
            all.push(self.entity(entity)?);
        }
        let made = entities::Entities::from_entities(
            all,
            None::<&NoEntitiesSchema>,
            TCComputation::AssumeAlreadyComputed,
            Extensions::all_available(),
        );
        made.map(Entities::from).map_err(|e| one_line(&e))
    }

    fn entity(&self, entity: &view::Entity) -> Result<ast::Entity, String> {
        let attrs = entity.attrs.iter();
        let attrs = attrs.map(|(name, value)| Ok(((*name).into(), self.value(value)?.into())));
        let parents = entity.parents.iter();
        let parents = parents.map(|parent| Ok(self.uid(parent)?.into()));
        Ok(ast::Entity::new_with_attr_partial_value(
            self.uid(&entity.uid)?.into(),
            attrs.collect::<Result<Vec<_>, String>>()?,
            HashSet::new(),
            parents.collect::<Result<HashSet<_>, String>>()?,
            [],
        ))
    }

    fn value(&self, value: &Value) -> Result<ast::Value, String> {
        Ok(match value {
            Value::Bool(value) => (*value).into(),
            Value::Long(value) => (*value).into(),
            Value::Text(value) => value.as_str().into(),
            Value::Set(values) => {
                let values = values.iter().map(|value| self.value(value));
                values.collect::<Result<Vec<_>, String>>()?.into()
            }
            Value::Entity(uid) => ast::EntityUID::from(self.uid(uid)?).into(),
            Value::Datetime(time) => extension(&self.datetime, time)?,
            Value::Ip(ip) => extension(&self.ip, ip)?,
        })
    }
}

/// The value that an extension function makes of its text.
fn extension(function: &Name, text: &str) -> Result<ast::Value, String> {
    let function = Extensions::all_available()
        .func(function)
        .map_err(|e| one_line(&e))?;
    match function.call(&[text.into()]).map_err(|e| one_line(&e))? {
        PartialValue::Value(value) => Ok(value),
        PartialValue::Residual(unknown) => Err(format!("`{unknown}` is not a value")),
    }
}

fn shapes(
    schema: &Schema,
    types: &BTreeMap<Kind, EntityTypeName>,
) -> BTreeMap<Action, Vec<(Kind, Kind)>> {
    let kind_of = |name: &EntityTypeName| {
        let known = types.iter().find(|(_, known)| *known == name);
        known.map(|(kind, _)| *kind)
    };
    let mut shapes = BTreeMap::<Action, Vec<(Kind, Kind)>>::new();
    for one in schema.request_envs() {
        let id = one.action().id().unescaped();
        let action = Action::ALL.iter().find(|action| action.as_str() == id);
        let kinds = (action, kind_of(one.principal()), kind_of(one.resource()));
        if let (Some(action), Some(principal), Some(resource)) = kinds {
            shapes
                .entry(*action)
                .or_default()
                .push((principal, resource));
        }
    }
    shapes
}

/// An error text on one line. Cedar's may have several lines, and may repeat a policy or a caller's
/// input.
pub(crate) fn one_line(error: &dyn std::fmt::Display) -> String {
    let text = error.to_string();
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    line.chars()
        .map(|c| if is_hidden(c) { '\u{fffd}' } else { c })
        .collect()
}
