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
#[cfg(all(test, target_os = "linux"))]
mod renew_lock;
#[cfg(test)]
mod trust;
