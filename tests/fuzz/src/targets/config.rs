//! `taskpass.toml`, with the providers' own parts.

use std::{collections::BTreeSet, path::Path};

use taskpass_broker::{
    config::{Config, ConfigError},
    provider_kinds,
};
use taskpass_core::sha256_hex;

use crate::{input, wording};

const FILE: &str = "/etc/taskpass/taskpass.toml";

pub(crate) fn run(data: &[u8]) {
    let Some(text) = input::text(data) else {
        return;
    };
    match Config::parse(Path::new(FILE), text, &provider_kinds()) {
        Ok(config) => accepted(&config, text),
        Err(error) => refused(&error, text),
    }
}

fn accepted(config: &Config, text: &str) {
    assert_eq!(config.config_sha256(), sha256_hex(text.as_bytes()));
    for path in [&config.path, &config.data_dir, &config.policy.dir] {
        assert!(path.is_absolute(), "{}", path.display());
    }
    assert!(config.engine.tasks.ttl_default <= config.engine.tasks.ttl_max);
    assert!(config.ca().is_ok());
    let names: BTreeSet<_> = config.providers.iter().map(|p| &p.name).collect();
    assert_eq!(names.len(), config.providers.len());
    for provider in &config.providers {
        let roles: BTreeSet<_> = provider.roles.iter().collect();
        assert_eq!(roles.len(), provider.roles.len());
        assert!(roles.iter().all(|role| *role.provider() == provider.name));
        assert_eq!(provider.findings(), []);
        if provider.kind() == "vault" {
            let has = |key| provider.table.get(key).is_some();
            assert!(has("token_file") != has("approle"));
        }
        assert!(
            provider
                .secret_files()
                .iter()
                .all(|file| file.is_absolute())
        );
    }
    // Values that decide nothing must still be there to be logged.
    assert!(!format!("{:?} {:?}", config.engine, config.limits).is_empty());
}

fn refused(error: &ConfigError, text: &str) {
    wording::one_line_each(error, 1000);
    let ConfigError::Invalid(problems) = error else {
        panic!("{error}");
    };
    assert!(!problems.is_empty());
    let lines = text.split('\n').count();
    for problem in problems {
        wording::one_line(problem, 1000);
        assert!(
            (1..=lines).contains(&problem.line) && problem.column >= 1,
            "{problem}"
        );
    }
}
