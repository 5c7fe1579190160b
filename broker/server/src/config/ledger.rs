//! The keys of `[ledger]` that can be off.

use std::{
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use taskpass_core::{InvalidValue, Ttl};

/// The least time for which entries stay. The forecast of the disk looks at the last day.
const KEEP_MIN: Duration = Duration::from_secs(86_400);

/// Where old segments of the ledger are.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Archive {
    /// Nowhere.
    Off,
    /// In this directory.
    In(PathBuf),
}

impl Archive {
    /// The directory, if there is one.
    pub fn directory(&self) -> Option<PathBuf> {
        match self {
            Self::Off => None,
            Self::In(directory) => Some(directory.clone()),
        }
    }

    /// The same with a path that begins at `base`.
    pub(super) fn below(&self, base: &Path) -> Self {
        match self {
            Self::Off => Self::Off,
            Self::In(directory) => Self::In(base.join(directory)),
        }
    }
}

impl FromStr for Archive {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "off" => Ok(Self::Off),
            "" => Err("write \"off\" or the path of a directory"),
            path => Ok(Self::In(path.into())),
        }
    }
}

impl fmt::Display for Archive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => f.write_str("off"),
            Self::In(directory) => directory.display().fmt(f),
        }
    }
}

taskpass_config::text_setting!(Archive);

/// How long entries stay on the broker's machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Keep {
    /// For ever.
    Off,
    /// For so long.
    For(Ttl),
}

impl Keep {
    /// How long, if not for ever.
    pub const fn duration(self) -> Option<Duration> {
        match self {
            Self::Off => None,
            Self::For(ttl) => Some(ttl.duration()),
        }
    }
}

impl FromStr for Keep {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "off" {
            return Ok(Self::Off);
        }
        let ttl: Ttl = text.parse()?;
        if ttl.duration() < KEEP_MIN {
            return Err(InvalidValue::new(
                "write \"off\" or a time of at least one day, like 90d",
            ));
        }
        Ok(Self::For(ttl))
    }
}

impl fmt::Display for Keep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => f.write_str("off"),
            Self::For(ttl) => ttl.fmt(f),
        }
    }
}

taskpass_config::text_setting!(Keep);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_are_off_or_what_they_say() {
        for (text, days) in [
            ("off", None),
            ("1d", Some(1)),
            ("90d", Some(90)),
            ("24h", Some(1)),
        ] {
            let keep: Keep = text.parse().unwrap();
            assert_eq!(
                keep.duration().map(|it| it.as_secs() / 86_400),
                days,
                "{text}"
            );
        }
        for wrong in ["", "on", "23h", "0d", "90", "-1d", "400d"] {
            assert!(wrong.parse::<Keep>().is_err(), "{wrong}");
        }
        assert_eq!("off".parse(), Ok(Archive::Off));
        assert_eq!("./off".parse(), Ok(Archive::In("./off".into())));
        assert!("".parse::<Archive>().is_err());
    }
}
