//! The library and the program `taskpass` against a small broker in this process, over real TLS.

#[cfg(test)]
mod commands;
#[cfg(test)]
mod directory;
#[cfg(test)]
mod fake;
#[cfg(test)]
mod library;
#[cfg(test)]
mod pki;
#[cfg(test)]
mod running;
#[cfg(test)]
mod services;
#[cfg(test)]
mod trust;
