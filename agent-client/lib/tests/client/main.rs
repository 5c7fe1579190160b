//! The library against a small broker in this process, over real TLS.

#[cfg(test)]
mod bound;
#[cfg(test)]
mod directory;
#[cfg(test)]
mod history;
#[cfg(test)]
mod installation;
#[cfg(test)]
mod library;
#[cfg(target_os = "linux")]
#[cfg(test)]
mod renew_lock;
#[cfg(test)]
mod trust;
