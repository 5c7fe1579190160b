//! The schema, and how a [`View`] becomes a Cedar request. Values are handed over as values: no Cedar text is ever put
//! together from what a caller sent.

use std::collections::{BTreeMap, HashMap, HashSet};

use cedar_policy::{
    Context, Entities, Entity, EntityId, EntityTypeName, EntityUid, Request, RestrictedExpression,
    Schema,
};

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
    /// Every action with the groups it is in.
    action_entities: Entities,
}

impl Language {
    /// Reads the schema. The message of a failure is one line; it would be a bug of this crate.
    pub(crate) fn load() -> Result<Self, String> {
        let fault = |e: &dyn std::fmt::Display| format!("the built-in schema is broken: {e}");
        let (schema, _) = Schema::from_cedarschema_str(schema_text()).map_err(|e| fault(&e))?;
        let action_entities = schema.action_entities().map_err(|e| fault(&e))?;
        let types = Kind::ALL
            .iter()
            .map(|kind| Ok((*kind, kind.as_str().parse().map_err(|e| fault(&e))?)))
            .collect::<Result<_, String>>()?;
        Ok(Self {
            schema,
            types,
            action_entities,
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

    /// All types of principals, resources and what they are in.
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

    /// The request, checked against the schema.
    pub(crate) fn request(&self, view: &View) -> Result<Request, String> {
        let context = view
            .context
            .iter()
            .map(|(name, value)| Ok(((*name).to_owned(), self.expression(value)?)))
            .collect::<Result<Vec<_>, String>>()?;
        let context = Context::from_pairs(context).map_err(|e| one_line(&e))?;
        let (principal, action, resource) = (
            self.uid(&view.principal)?,
            self.uid(&view.action)?,
            self.uid(&view.resource)?,
        );
        Request::new(principal, action, resource, context, Some(&self.schema))
            .map_err(|e| one_line(&e))
    }

    /// The entities of the request, `action` among them.
    pub(crate) fn entities(&self, view: &View, action: Entity) -> Result<Entities, String> {
        let mut entities = vec![action];
        for entity in &view.entities {
            entities.push(self.entity(entity)?);
        }
        Entities::from_entities(entities, None).map_err(|e| one_line(&e))
    }

    fn entity(&self, entity: &view::Entity) -> Result<Entity, String> {
        let attrs = entity
            .attrs
            .iter()
            .map(|(name, value)| Ok(((*name).to_owned(), self.expression(value)?)))
            .collect::<Result<HashMap<_, _>, String>>()?;
        let parents = entity
            .parents
            .iter()
            .map(|parent| self.uid(parent))
            .collect::<Result<HashSet<_>, String>>()?;
        Entity::new(self.uid(&entity.uid)?, attrs, parents).map_err(|e| one_line(&e))
    }

    fn expression(&self, value: &Value) -> Result<RestrictedExpression, String> {
        Ok(match value {
            Value::Bool(value) => RestrictedExpression::new_bool(*value),
            Value::Long(value) => RestrictedExpression::new_long(*value),
            Value::Text(value) => RestrictedExpression::new_string(value.clone()),
            Value::Set(values) => {
                let values = values.iter().map(|value| self.expression(value));
                RestrictedExpression::new_set(values.collect::<Result<Vec<_>, String>>()?)
            }
            Value::Entity(uid) => RestrictedExpression::new_entity_uid(self.uid(uid)?),
            Value::Datetime(time) => RestrictedExpression::new_datetime(time),
            Value::Ip(ip) => RestrictedExpression::new_ip(ip),
        })
    }
}

/// An error text on one line; Cedar's may have several, and may repeat what policies or callers wrote.
pub(crate) fn one_line(error: &dyn std::fmt::Display) -> String {
    let text = error.to_string();
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    line.chars()
        .map(|c| if is_hidden(c) { '\u{fffd}' } else { c })
        .collect()
}

/// Whether a character is not seen but changes what is: control characters, and those that set the direction of
/// text (Unicode Standard Annex 9, section 2).
pub(crate) fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}
