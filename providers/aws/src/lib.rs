//! taskpass-provider-aws
