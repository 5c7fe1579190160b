//! Where metrics can be read.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    str::FromStr,
};

/// Where metrics can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum MetricsListen {
    /// Nowhere.
    Off,
    /// At this address.
    At(SocketAddr),
}

impl MetricsListen {
    /// The address, if there is one.
    pub const fn address(self) -> Option<SocketAddr> {
        match self {
            Self::Off => None,
            Self::At(address) => Some(address),
        }
    }
}

impl FromStr for MetricsListen {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "off" {
            return Ok(Self::Off);
        }
        let loopback = |port| SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port);
        let digits = text.bytes().all(|b| b.is_ascii_digit());
        let port = text.parse().ok().filter(|_| digits).map(loopback);
        port.or_else(|| text.parse().ok())
            .map(Self::At)
            .ok_or("write \"off\", a port, or an IP address and a port, like 127.0.0.1:9464")
    }
}

impl fmt::Display for MetricsListen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => f.write_str("off"),
            Self::At(address) => address.fmt(f),
        }
    }
}

taskpass_config::text_setting!(MetricsListen);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_off_or_on_the_loopback_address_unless_another_is_named() {
        let at = |text: &str| MetricsListen::At(text.parse().unwrap());
        for (text, expected) in [
            ("off", Ok(MetricsListen::Off)),
            ("9464", Ok(at("127.0.0.1:9464"))),
            ("0.0.0.0:9464", Ok(at("0.0.0.0:9464"))),
            ("[::1]:0", Ok(at("[::1]:0"))),
        ] {
            assert_eq!(text.parse(), expected, "{text}");
        }
        for wrong in ["", "on", "+9464", "70000", "localhost:9464", "10.0.0.5"] {
            assert!(wrong.parse::<MetricsListen>().is_err(), "{wrong}");
        }
    }
}
