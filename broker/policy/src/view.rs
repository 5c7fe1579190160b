//! The request as policies see it: entities, their attributes, the context. It is made from
//! [`Facts`], and the Cedar request and the canonical JSON are made from it. The digest of that
//! JSON goes into the record, so it covers exactly the facts of the decision.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Serialize, Serializer, ser::SerializeMap};
use taskpass_core::{Agent, Credential, Labels, ProviderName, RoleName, RoleSpec, Scope, Task};

use crate::{Action, CredentialRequest, Facts, Principal, Resource};

/// The only id of an `Installation`.
const INSTALLATION_ID: &str = "this";

/// A request in the words of the schema. Serialises to canonical JSON (RFC 8785), with entities and
/// values in Cedar's own JSON form, so that an auditor can repeat the decision with Cedar's tools.
#[derive(Debug, Serialize)]
pub(crate) struct View {
    // Canonical JSON has sorted keys: these fields and the fields below are in that order.
    pub(crate) action: Uid,
    pub(crate) context: BTreeMap<&'static str, Value>,
    pub(crate) entities: Vec<Entity>,
    pub(crate) principal: Uid,
    pub(crate) resource: Uid,
}

/// An entity with all attributes that policies may ask for.
#[derive(Debug, Serialize)]
pub(crate) struct Entity {
    pub(crate) attrs: BTreeMap<&'static str, Value>,
    /// All ancestors, not only the nearest.
    pub(crate) parents: BTreeSet<Uid>,
    pub(crate) uid: Uid,
}

/// The name of an entity. The id may be any string; it never becomes Cedar text.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(crate) struct Uid {
    pub(crate) id: String,
    #[serde(rename = "type")]
    pub(crate) kind: Kind,
}

macro_rules! kinds {
    ($($kind:ident = $name:literal,)*) => {
        /// The entity types of the schema.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
        pub(crate) enum Kind {
            $(#[serde(rename = $name)] $kind,)*
        }

        impl Kind {
            pub(crate) const ALL: &'static [Self] = &[$(Self::$kind,)*];

            pub(crate) const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$kind => $name,)*
                }
            }
        }
    };
}

kinds! {
    Action = "Taskpass::Action",
    Agent = "Taskpass::Agent",
    AgentClass = "Taskpass::AgentClass",
    Credential = "Taskpass::Credential",
    Installation = "Taskpass::Installation",
    Operator = "Taskpass::Operator",
    Provider = "Taskpass::Provider",
    Role = "Taskpass::Role",
    Task = "Taskpass::Task",
    Team = "Taskpass::Team",
}

/// The value of an attribute.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Value {
    Bool(bool),
    Long(i64),
    Text(String),
    Set(BTreeSet<Self>),
    Entity(Uid),
    Datetime(String),
    Ip(String),
}

impl View {
    pub(crate) fn of(facts: &Facts<'_>) -> Self {
        let mut entities = Vec::with_capacity(4);
        let (principal, task_bound) = match facts.principal {
            Principal::Agent { agent, bound_to } => {
                (add(&mut entities, of_agent(agent)), bound_to.is_some())
            }
            Principal::Operator(name) => {
                let uid = Uid::new(Kind::Operator, name.as_str());
                let attrs = BTreeMap::from([("name", Value::text(name.as_str()))]);
                (add(&mut entities, Entity::new(uid, attrs, [])), false)
            }
        };
        let mut context = BTreeMap::from([
            ("now", Value::Datetime(facts.now.to_string())),
            ("taskBound", Value::Bool(task_bound)),
        ]);
        if let Some(ip) = facts.ip {
            // The address of an IPv4 caller of a dual-stack socket must match the IPv4 ranges in
            // policies.
            context.insert("ip", Value::Ip(ip.to_canonical().to_string()));
        }
        let resource = of_resource(facts.resource, &mut entities);
        if let Some(request) = facts.request {
            add_request(&mut context, &mut entities, &request);
        }
        Self {
            action: of_action(facts.action),
            context,
            entities,
            principal,
            resource,
        }
    }

    /// Whether the context describes access that is asked for.
    pub(crate) fn grants_access(&self) -> bool {
        self.context.contains_key("task")
    }

    /// The entity `uid` and all its ancestors, as far as they are known.
    pub(crate) fn lineage<'a>(&'a self, uid: &'a Uid) -> impl Iterator<Item = &'a Uid> {
        let entity = self.entities.iter().find(|entity| entity.uid == *uid);
        std::iter::once(uid).chain(entity.into_iter().flat_map(|entity| &entity.parents))
    }
}

pub(crate) fn of_action(action: Action) -> Uid {
    Uid::new(Kind::Action, action.as_str())
}

/// Adds the resource with its attributes; returns its name.
fn of_resource(resource: Resource<'_>, entities: &mut Vec<Entity>) -> Uid {
    match resource {
        Resource::Role(role) => add(entities, of_role(role)),
        Resource::Task(task) => add(entities, of_task(task)),
        Resource::Agent(agent) => add(entities, of_agent(agent)),
        Resource::Provider(name) => {
            let uid = uid_of_provider(name);
            add(entities, Entity::new(uid, BTreeMap::new(), []))
        }
        Resource::Credential { credential, role } => {
            if let Some(role) = role {
                add(entities, of_role(role));
            }
            add(entities, of_credential(credential))
        }
        Resource::Installation => {
            let uid = Uid::new(Kind::Installation, INSTALLATION_ID);
            add(entities, Entity::new(uid, BTreeMap::new(), []))
        }
    }
}

fn add_request(
    context: &mut BTreeMap<&'static str, Value>,
    entities: &mut Vec<Entity>,
    request: &CredentialRequest<'_>,
) {
    let task = add(entities, of_task(request.task));
    let (pairs, names) = of_scope(request.scope);
    context.insert("task", Value::Entity(task));
    context.insert("ttlSeconds", Value::Long(request.ttl.seconds().into()));
    context.insert("scope", pairs);
    context.insert("scopeNames", names);
    context.insert("liveInTask", Value::long(request.live_in_task));
    context.insert("liveOfAgent", Value::long(request.live_of_agent));
}

/// Adds an entity once: an agent that asks on itself is both principal and resource.
fn add(entities: &mut Vec<Entity>, entity: Entity) -> Uid {
    let uid = entity.uid.clone();
    if !entities.iter().any(|known| known.uid == uid) {
        entities.push(entity);
    }
    uid
}

fn of_agent(agent: &Agent) -> Entity {
    let class = agent
        .class
        .iter()
        .map(|c| Uid::new(Kind::AgentClass, c.as_str()));
    let team = agent.team.iter().map(|t| Uid::new(Kind::Team, t.as_str()));
    let attrs = BTreeMap::from([
        ("name", Value::text(agent.name.as_str())),
        ("owner", Value::text(agent.owner.as_str())),
        ("labels", of_labels(&agent.labels)),
    ]);
    Entity::new(
        Uid::new(Kind::Agent, agent.name.as_str()),
        attrs,
        class.chain(team),
    )
}

fn of_role(role: &RoleSpec) -> Entity {
    let classes = role.data_classes.iter().map(|c| Value::text(c));
    let attrs = BTreeMap::from([
        ("name", Value::Text(role.name.to_string())),
        ("kind", Value::text(&role.kind)),
        ("impact", Value::Long(u8::from(role.impact).into())),
        ("environment", Value::text(&role.environment)),
        ("dataClasses", Value::Set(classes.collect())),
        ("maxTtlSeconds", Value::Long(role.max_ttl.seconds().into())),
        (
            "revocationClass",
            Value::text(role.revocation_class.as_str()),
        ),
    ]);
    Entity::new(
        uid_of_role(&role.name),
        attrs,
        [uid_of_provider(role.name.provider())],
    )
}

fn of_task(task: &Task) -> Entity {
    let roles = task.roles.keys().map(|r| Value::Entity(uid_of_role(r)));
    let attrs = BTreeMap::from([
        (
            "agent",
            Value::Entity(Uid::new(Kind::Agent, task.agent.as_str())),
        ),
        ("purpose", Value::text(task.purpose.as_str())),
        (
            "selfDeclared",
            Value::Bool(task.requester.is_self_declared()),
        ),
        ("roles", Value::Set(roles.collect())),
        ("state", Value::text(task.state.as_str())),
        ("depth", Value::Long(task.depth.into())),
        ("deadline", Value::Datetime(task.deadline.to_string())),
        ("labels", of_labels(&task.labels)),
    ]);
    Entity::new(Uid::new(Kind::Task, task.id.to_string()), attrs, [])
}

fn of_credential(credential: &Credential) -> Entity {
    let task = Uid::new(Kind::Task, credential.task.to_string());
    let role = uid_of_role(&credential.role);
    let attrs = BTreeMap::from([
        (
            "agent",
            Value::Entity(Uid::new(Kind::Agent, credential.agent.as_str())),
        ),
        ("task", Value::Entity(task.clone())),
        ("role", Value::Entity(role.clone())),
        ("state", Value::text(credential.state.as_str())),
        (
            "revocationClass",
            Value::text(credential.revocation_class.as_str()),
        ),
    ]);
    Entity::new(
        Uid::new(Kind::Credential, credential.id.to_string()),
        attrs,
        [task, role, uid_of_provider(credential.role.provider())],
    )
}

fn uid_of_role(name: &RoleName) -> Uid {
    Uid::new(Kind::Role, name.to_string())
}

fn uid_of_provider(name: &ProviderName) -> Uid {
    Uid::new(Kind::Provider, name.as_str())
}

/// `name=value` pairs, and the names alone. Names have no `=`, so no pair can pass for another.
fn of_scope(scope: &Scope) -> (Value, Value) {
    let pairs = scope
        .iter()
        .map(|(name, value)| Value::Text(format!("{name}={value}")));
    let names = scope.iter().map(|(name, _)| Value::text(name.as_str()));
    (Value::Set(pairs.collect()), Value::Set(names.collect()))
}

fn of_labels(labels: &Labels) -> Value {
    Value::Set(
        labels
            .iter()
            .map(|(key, value)| Value::Text(format!("{key}={value}")))
            .collect(),
    )
}

impl Entity {
    fn new(
        uid: Uid,
        attrs: BTreeMap<&'static str, Value>,
        parents: impl IntoIterator<Item = Uid>,
    ) -> Self {
        Self {
            attrs,
            parents: parents.into_iter().collect(),
            uid,
        }
    }
}

impl Uid {
    pub(crate) fn new(kind: Kind, id: impl Into<String>) -> Self {
        Self {
            id: id.into(),
            kind,
        }
    }
}

impl Value {
    fn text(text: &str) -> Self {
        Self::Text(text.to_owned())
    }

    /// A count. A count too large for Cedar becomes the largest there is, which no policy means.
    fn long(count: u64) -> Self {
        Self::Long(i64::try_from(count).unwrap_or(i64::MAX))
    }
}

impl Serialize for Value {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Bool(value) => serializer.serialize_bool(*value),
            Self::Long(value) => serializer.serialize_i64(*value),
            Self::Text(value) => serializer.serialize_str(value),
            Self::Set(values) => serializer.collect_seq(values),
            Self::Entity(uid) => serializer.collect_map([("__entity", uid)]),
            Self::Datetime(arg) => extension(serializer, "datetime", arg),
            Self::Ip(arg) => extension(serializer, "ip", arg),
        }
    }
}

fn extension<S: Serializer>(serializer: S, function: &str, arg: &str) -> Result<S::Ok, S::Error> {
    let call = BTreeMap::from([("arg", arg), ("fn", function)]);
    let mut map = serializer.serialize_map(Some(1))?;
    map.serialize_entry("__extn", &call)?;
    map.end()
}
