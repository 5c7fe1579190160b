//! Whether a configuration can work, as far as it can be told without files and network.

use taskpass_core::InvalidValue;
use url::{Host, Url};

use crate::{
    config::{ConfigError, VaultConfig},
    role::Role,
};

impl VaultConfig {
    /// Checks everything that can be checked without reading files or the network.
    pub fn validate(&self) -> Result<(), ConfigError> {
        match self.mistakes().into_iter().next() {
            Some((_, error)) => Err(error),
            None => Ok(()),
        }
    }

    /// Every mistake, with a JSON pointer to its place.
    pub(crate) fn mistakes(&self) -> Vec<(String, ConfigError)> {
        let mut found = Vec::new();
        let mut note = |place: &str, error| found.push((place.to_owned(), error));
        if let Err(error) = self.url() {
            note("/address", error);
        }
        for (index, error) in self.wrong_roles() {
            note(&format!("/role/{index}"), error);
        }
        match (&self.token_file, &self.approle) {
            (Some(_), Some(_)) => note(
                "/approle",
                self.complaint("`token_file` and `approle` are both given; keep one"),
            ),
            (None, None) => note(
                "",
                self.complaint(
                    "neither `token_file` nor `approle` is given; the broker needs a token of its own",
                ),
            ),
            (None, Some(approle)) if !is_plain_path(&approle.mount) => note(
                "/approle/mount",
                self.complaint("`approle.mount` must be a path like `approle`"),
            ),
            _ => {}
        }
        if self
            .token_role
            .as_deref()
            .is_some_and(|role| role.contains('/') || !is_plain_path(role))
        {
            note(
                "/token_role",
                self.complaint("`token_role` must be the name of a token role, like `taskpass`"),
            );
        }
        let odd = |text: &String| text.is_empty() || !text.chars().all(|c| c.is_ascii_graphic());
        if self.namespace.as_ref().is_some_and(odd) {
            note(
                "/namespace",
                self.complaint("`namespace` must be visible ASCII"),
            );
        }
        found
    }

    /// The address, if the broker may use it.
    pub(crate) fn url(&self) -> Result<Url, ConfigError> {
        let complain = |message: String| self.complaint(&message);
        let url = Url::parse(&self.address).map_err(|e| {
            complain(format!(
                "`address` is not a URL like https://vault.acme.test:8200: {e}"
            ))
        })?;
        let local = match url.host() {
            Some(Host::Ipv4(ip)) => ip.is_loopback(),
            Some(Host::Ipv6(ip)) => ip.is_loopback(),
            Some(Host::Domain(name)) => name == "localhost",
            None => false,
        };
        let extra = url.query().is_some() || url.fragment().is_some();
        if extra || !url.username().is_empty() || url.password().is_some() {
            return Err(complain(
                "`address` must have no user, query or fragment".to_owned(),
            ));
        }
        match url.scheme() {
            "https" => Ok(url),
            "http" if local || self.allow_plaintext => Ok(url),
            "http" => Err(complain(format!(
                "`{}` would show every secret to the network; use https, or set `allow_plaintext = true`",
                self.address
            ))),
            _ => Err(complain(
                "`address` must begin with https:// or http://".to_owned(),
            )),
        }
    }

    /// The roles in the form that works with them.
    pub(crate) fn checked_roles(&self) -> Result<Vec<Role>, ConfigError> {
        self.each_role().collect()
    }

    fn wrong_roles(&self) -> Vec<(usize, ConfigError)> {
        let wrong = |(index, role): (usize, Result<Role, ConfigError>)| Some((index, role.err()?));
        self.each_role().enumerate().filter_map(wrong).collect()
    }

    fn each_role(&self) -> impl Iterator<Item = Result<Role, ConfigError>> {
        self.roles.iter().enumerate().map(|(index, config)| {
            let complain = |error: InvalidValue| ConfigError::Role {
                provider: self.name.clone(),
                role: config.name.clone(),
                message: error.to_string(),
            };
            let earlier = self.roles.iter().take(index);
            if earlier.into_iter().any(|known| known.name == config.name) {
                return Err(complain(InvalidValue::new("the name is used twice")));
            }
            Role::new(&self.name, config).map_err(complain)
        })
    }

    fn complaint(&self, message: &str) -> ConfigError {
        ConfigError::Provider {
            provider: self.name.clone(),
            message: message.to_owned(),
        }
    }
}

pub(crate) fn is_plain_path(path: &str) -> bool {
    !path.is_empty()
        && path.split('/').all(|segment| {
            !segment.is_empty()
                && segment != "."
                && segment != ".."
                && segment
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
        })
}
