//! The library against a small broker in this process, over real TLS.

#[cfg(test)]
mod bound;
#[cfg(test)]
mod directory;
#[cfg(test)]
mod history;
mod installation;
#[cfg(test)]
mod library;
#[cfg(test)]
mod trust;
