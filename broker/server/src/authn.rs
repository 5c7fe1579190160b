//! Authentication: from what a connection proved to a caller.
//!
//! One file for each way to prove oneself. Nothing in a request's body or headers ever says who the caller is.

mod join_token;
mod svid;

pub(crate) use join_token::JoinTokenText;
pub(crate) use svid::authenticate;
