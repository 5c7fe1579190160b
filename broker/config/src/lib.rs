//! The content of a configuration file as JSON schemas: the check, its messages, and the reference.
//!
//! The parts of the broker and the providers say which keys they take. A part does it with
//! [`section!`], a provider with the JSON schema of its own struct. Both end as one schema of the
//! whole file, and everything else here takes that schema as data: [`Document::check`] finds every
//! mistake in one pass, with line, column and the key that was probably meant; [`mod@reference`]
//! writes the page for people; editors read the schema itself. This crate knows no section and no
//! provider.
//!
//! ```
//! use taskpass_config::{Complaints, Document};
//!
//! let schema = serde_json::json!({
//!     "type": "object",
//!     "additionalProperties": false,
//!     "properties": { "timeout": { "type": "string", "format": "duration" } },
//! });
//! let text = "timeuot = \"5s\"";
//! let mut complaints = Complaints::new("app.toml", text);
//! if let Some(document) = Document::parse(text, &mut complaints) {
//!     document.check(&schema, &mut complaints);
//! }
//! let problems = complaints.into_problems();
//! assert_eq!(
//!     problems.first().map(ToString::to_string).as_deref(),
//!     Some("app.toml:1:1: unknown key `timeuot` at the top level; did you mean `timeout`?"),
//! );
//! ```

mod complaints;
mod document;
mod format;
mod nearest;
pub mod reference;
mod schema;
pub mod section;
mod setting;
mod values;
mod walk;
mod wording;

pub use complaints::{Complaints, Problem};
pub use document::Document;
pub use format::{PATH, SECRET_FILE};
pub use section::{Section, describe, read_key};
pub use setting::Setting;
pub use values::each_formatted;

// The names that `section!` needs in the crates that use it.
#[doc(hidden)]
pub use serde_json;
