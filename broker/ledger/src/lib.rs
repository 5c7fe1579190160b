//! taskpass-ledger
