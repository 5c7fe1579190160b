//! The program `taskpass` against a small broker in this process, over real TLS.

#[cfg(test)]
mod commands;
#[cfg(test)]
mod history;
#[cfg(test)]
mod running;
