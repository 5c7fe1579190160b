//! `taskpassd config check`: the file, and the files that it names, without opening the ledger or
//! calling a provider.

use std::{collections::BTreeSet, fmt, path::Path};

use taskpass_core::with_sources;
use taskpass_policy::{KnownNames, PolicySet, Severity};
use taskpass_provider::ProviderKinds;

use crate::init::quoted;

use super::{Config, ConfigError};

/// The findings of a check.
#[derive(Debug, Default)]
pub struct Report {
    /// The configured parts in words, a line each. Empty when the file itself is wrong.
    pub summary: Vec<String>,
    /// Values that are probably not meant, a line each.
    pub warnings: Vec<String>,
    /// Mistakes that keep a broker from starting, a line each.
    pub problems: Vec<String>,
}

impl Report {
    /// Whether a broker would start.
    pub const fn is_ok(&self) -> bool {
        self.problems.is_empty()
    }
}

/// `ok` and the summary, or every problem.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines = if self.is_ok() {
            &self.summary
        } else {
            &self.problems
        };
        if self.is_ok() {
            f.write_str("ok")?;
        }
        for (index, line) in lines.iter().enumerate() {
            if self.is_ok() || index > 0 {
                writeln!(f)?;
            }
            f.write_str(line)?;
        }
        for warning in &self.warnings {
            write!(f, "\nwarning: {warning}")?;
        }
        Ok(())
    }
}

/// Reads the file and the files that it names. `templates` returns the mistakes in the files that
/// providers read when they are built.
pub fn check(
    path: &Path,
    kinds: &ProviderKinds,
    templates: &dyn Fn(&Config) -> Vec<String>,
) -> Report {
    let mut report = Report::default();
    match Config::load(path, kinds) {
        Ok(config) => {
            report.summary = summary(&config);
            report.problems.extend(templates(&config));
            policy(&config, &mut report);
            report.summary.push(format!(
                "not looked at: files with secrets, permissions, the ledger, and whether providers answer; \
                 `taskpassd doctor --config {}` does",
                quoted(path)
            ));
        }
        Err(ConfigError::Invalid(problems)) => {
            report
                .problems
                .extend(problems.iter().map(ToString::to_string));
        }
        Err(error) => report.problems.push(with_sources(&error)),
    }
    report
}

fn summary(config: &Config) -> Vec<String> {
    let mut lines = vec![
        format!(
            "trust domain {}, listening on {}",
            config.trust_domain, config.listen.grpc
        ),
        format!("data in {}", config.data_dir.display()),
        format!(
            "certificates live {}, signing CAs {}, tasks {} or at most {}",
            config.identity.svid_ttl,
            config.identity.ca_ttl,
            config.engine.tasks.ttl_default,
            config.engine.tasks.ttl_max
        ),
    ];
    if config.providers.is_empty() {
        lines.push("no providers: agents get identities, but no credentials".to_owned());
    }
    for provider in &config.providers {
        let roles: Vec<&str> = provider.roles.iter().map(|role| role.name()).collect();
        let roles = if roles.is_empty() {
            "no roles".to_owned()
        } else {
            roles.join(", ")
        };
        lines.push(format!(
            "provider {} ({}): {roles}",
            provider.name,
            provider.kind()
        ));
    }
    lines
}

/// Policies, compared with the providers and roles that the file has. Returns the set that was
/// checked, unless a policy is wrong.
pub(crate) fn policy(config: &Config, report: &mut Report) -> Option<PolicySet> {
    let dir = &config.policy.dir;
    let (found, set) = match PolicySet::load_and_check(dir, &known_names(config)) {
        Ok(checked) => checked,
        Err(error) => {
            report.problems.push(with_sources(&error));
            return None;
        }
    };
    for finding in &found.findings {
        let line = match finding.file.as_str() {
            "" => format!("{}: {finding}", dir.display()),
            _ => format!("{}/{finding}", dir.display()),
        };
        match finding.severity {
            Severity::Error => report.problems.push(line),
            Severity::Warning => report.warnings.push(line),
        }
    }
    let count = |n: usize, one: &str, many: &str| match n {
        1 => format!("1 {one}"),
        n => format!("{n} {many}"),
    };
    report.summary.push(format!(
        "{} in {} in {}",
        count(found.policies, "policy", "policies"),
        count(found.files, "file", "files"),
        dir.display()
    ));
    set
}

fn known_names(config: &Config) -> KnownNames {
    let names: BTreeSet<_> = config.providers.iter().map(|p| p.name.clone()).collect();
    let roles: BTreeSet<_> = config
        .providers
        .iter()
        .flat_map(|p| p.roles.clone())
        .collect();
    KnownNames {
        providers: Some(names),
        roles: Some(roles),
        classes: None,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn checked(toml: &str, policy: &str, problem: Option<&str>) -> Report {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("policy")).unwrap();
        fs::write(dir.path().join("policy/p.cedar"), policy).unwrap();
        let path = dir.path().join("taskpass.toml");
        fs::write(&path, toml).unwrap();
        check(&path, &crate::provider_kinds(), &|_| {
            problem.map(str::to_owned).into_iter().collect()
        })
    }

    const GOOD: &str = "trust_domain = \"acme.test\"\n";
    const POLICY: &str = "@id(\"p\") permit(principal is Taskpass::Operator, action, resource);";

    #[test]
    fn a_good_file_is_ok_in_words() {
        let report = checked(GOOD, POLICY, None);
        let text = report.to_string();
        assert!(report.is_ok(), "{text}");
        assert!(
            text.starts_with("ok\ntrust domain acme.test, listening on 127.0.0.1:7443\n"),
            "{text}"
        );
        assert!(
            text.contains("no providers") && text.contains("1 policy in 1 file in "),
            "{text}"
        );
    }

    #[test]
    fn every_problem_is_shown() {
        let report = checked("trust_domain = 5\nfoo = 1", POLICY, None);
        assert_eq!(report.to_string().lines().count(), 2, "{report}");
        let report = checked(
            GOOD,
            "permit(principal, action",
            Some("a template is wrong"),
        );
        let text = report.to_string();
        assert!(!report.is_ok() && !text.starts_with("ok"), "{text}");
        assert!(
            text.starts_with("a template is wrong\n") && text.contains("/policy/p.cedar:1:"),
            "{text}"
        );
    }

    #[test]
    fn a_missing_file_names_the_command_that_makes_one() {
        let report = check(Path::new("/nowhere/taskpass.toml"), &[], &|_| Vec::new());
        let text = report.to_string();
        assert!(
            text.contains("`taskpassd init` writes one: No such file"),
            "{text}"
        );
    }
}
