//! taskpass-broker
