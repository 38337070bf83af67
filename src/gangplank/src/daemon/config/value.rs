//! Values that TOML has no type for. Each is a string in the file, and each error says what was expected.

use std::fmt;
use std::marker::PhantomData;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::de::{DeserializeSeed, Deserializer, Error, SeqAccess, Unexpected, Visitor};

use gangplank_dial::PodEndpoint;

use crate::daemon::pods::EndpointTemplate;
use crate::unix_url::UnixUrl;

/// A value that is written as a string.
pub(super) trait ConfigValue: Sized {
    /// Ends the sentence "invalid value …, expected …".
    const EXPECTED: &'static str;

    /// Parses the text; `None` if it is not a valid value.
    fn parse(text: &str) -> Option<Self>;
}

/// Reads any [`ConfigValue`]; for `#[serde(deserialize_with = "value")]`.
pub(super) fn value<'de, D: Deserializer<'de>, V: ConfigValue>(from: D) -> Result<V, D::Error> {
    from.deserialize_str(Text(PhantomData))
}

/// The same for a key that may be left out; for `#[serde(default, deserialize_with = "optional")]`.
pub(super) fn optional<'de, D: Deserializer<'de>, V: ConfigValue>(from: D) -> Result<Option<V>, D::Error> {
    value(from).map(Some)
}

/// The same for a list; for `#[serde(default, deserialize_with = "values")]`.
pub(super) fn values<'de, D: Deserializer<'de>, V: ConfigValue>(from: D) -> Result<Vec<V>, D::Error> {
    from.deserialize_seq(List(PhantomData))
}

struct List<V>(PhantomData<V>);

impl<'de, V: ConfigValue> Visitor<'de> for List<V> {
    type Value = Vec<V>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a list, each item {}", V::EXPECTED)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Vec<V>, A::Error> {
        let mut all = Vec::new();
        while let Some(item) = items.next_element_seed(Text(PhantomData))? {
            all.push(item);
        }
        Ok(all)
    }
}

struct Text<V>(PhantomData<V>);

impl<'de, V: ConfigValue> DeserializeSeed<'de> for Text<V> {
    type Value = V;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<V, D::Error> {
        from.deserialize_str(self)
    }
}

impl<V: ConfigValue> Visitor<'_> for Text<V> {
    type Value = V;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(V::EXPECTED)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<V, E> {
        V::parse(text).ok_or_else(|| E::invalid_value(Unexpected::Str(text), &self))
    }
}

impl ConfigValue for Duration {
    const EXPECTED: &'static str = r#"a duration above zero as a string, such as "500ms", "10s" or "4h""#;

    fn parse(text: &str) -> Option<Self> {
        humantime::parse_duration(text).ok().filter(|duration| !duration.is_zero())
    }
}

/// How long open sessions get at shutdown. Unlike other durations, it may be zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(test, derive(serde::Serialize))]
pub(crate) struct Grace(pub(crate) Duration);

impl ConfigValue for Grace {
    const EXPECTED: &'static str =
        r#"a duration as a string, such as "30s", or "0s" to end sessions at once"#;

    fn parse(text: &str) -> Option<Self> {
        humantime::parse_duration(text).ok().map(Self)
    }
}

/// A number of bytes above zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(test, derive(serde::Serialize))]
pub(super) struct ByteSize(pub(super) usize);

impl ConfigValue for ByteSize {
    const EXPECTED: &'static str = r#"a size above zero as a string, such as "512B", "16KiB" or "16MiB""#;

    fn parse(text: &str) -> Option<Self> {
        let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
        let factor: usize = match text[digits.len()..].trim_start() {
            "B" => 1,
            "KiB" => 1 << 10,
            "MiB" => 1 << 20,
            "GiB" => 1 << 30,
            _ => return None,
        };
        let bytes = digits.parse::<usize>().ok()?.checked_mul(factor)?;
        (bytes > 0).then_some(Self(bytes))
    }
}

impl ConfigValue for SocketAddr {
    const EXPECTED: &'static str =
        r#"an address and a port as a string, such as "127.0.0.1:8001" or "[::1]:0" (0: any free port)"#;

    fn parse(text: &str) -> Option<Self> {
        text.parse().ok()
    }
}

impl ConfigValue for UnixUrl {
    const EXPECTED: &'static str = r#"the URL of a Unix socket with an absolute path of at most 107 bytes, such as "unix:///run/gangplank/cri.sock""#;

    fn parse(text: &str) -> Option<Self> {
        Self::from_url(text)
    }
}

/// The file mode of a Unix socket, which decides who may use it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(test, derive(serde::Serialize))]
pub(crate) struct SocketMode(pub(crate) u32);

impl ConfigValue for SocketMode {
    const EXPECTED: &'static str = r#"an octal file mode as a string, such as "0600" or "0660""#;

    fn parse(text: &str) -> Option<Self> {
        let octal = text.len() == 4 && text.starts_with('0');
        octal.then(|| u32::from_str_radix(text, 8).ok())?.map(Self)
    }
}

/// The id of a sandbox, or the uid of a pod. Clients reject an empty one.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(test, derive(serde::Serialize))]
pub(crate) struct Id(pub(crate) String);

impl ConfigValue for Id {
    const EXPECTED: &'static str = "an id of 1 to 128 letters, digits, dots, dashes and underscores";

    fn parse(text: &str) -> Option<Self> {
        let valid = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        ((1..=128).contains(&text.len()) && text.chars().all(valid)).then(|| Self(text.into()))
    }
}

/// The name of a pod or a namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(test, derive(serde::Serialize))]
pub(crate) struct DnsName(pub(crate) String);

impl ConfigValue for DnsName {
    const EXPECTED: &'static str = "a Kubernetes name of 1 to 253 lower-case letters, digits, dots and dashes that begins and ends with a letter or digit";

    fn parse(text: &str) -> Option<Self> {
        let ends = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        let valid = |c: char| ends(c) || c == '.' || c == '-';
        let fits = (1..=253).contains(&text.len()) && text.chars().all(valid);
        (fits && text.starts_with(ends) && text.ends_with(ends)).then(|| Self(text.into()))
    }
}

impl ConfigValue for PodEndpoint {
    const EXPECTED: &'static str = Self::EXPECTED;

    fn parse(text: &str) -> Option<Self> {
        text.parse().ok()
    }
}

impl ConfigValue for EndpointTemplate {
    const EXPECTED: &'static str = EndpointTemplate::EXPECTED;

    fn parse(text: &str) -> Option<Self> {
        text.parse().ok()
    }
}

/// The absolute path of a file or a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(test, derive(serde::Serialize))]
pub(crate) struct AbsolutePath(pub(crate) PathBuf);

impl ConfigValue for AbsolutePath {
    const EXPECTED: &'static str = r#"an absolute path, such as "/run/vc/vm""#;

    fn parse(text: &str) -> Option<Self> {
        Path::new(text).is_absolute().then(|| Self(text.into()))
    }
}

/// A rule on which addresses in pods may be dialled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DialRule(pub(crate) gangplank_dial::Rule);

impl ConfigValue for DialRule {
    const EXPECTED: &'static str = r#"a rule: "allow PATTERN" or "deny PATTERN", where PATTERN is NETWORK:ADDRESS:PORT or unix:/PATH, such as "allow tcp:10.0.0.0/8:80", "deny *:loopback:22" or "allow unix:/run/app/*""#;

    fn parse(text: &str) -> Option<Self> {
        text.parse().ok().map(Self)
    }
}

#[cfg(test)]
impl serde::Serialize for DialRule {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units() {
        let bytes = |text| ByteSize::parse(text).map(|bytes| bytes.0);
        assert_eq!(bytes("512B"), Some(512));
        assert_eq!(bytes("16KiB"), Some(16 << 10));
        assert_eq!(bytes("16 MiB"), Some(16 << 20));
        assert_eq!(bytes("1GiB"), Some(1 << 30));
        for wrong in ["", "16", "16 kB", "MiB", "-1MiB", "0B", "1.5MiB", "99999999999999999999B", "９B"] {
            assert_eq!(bytes(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn only_the_grace_may_be_zero() {
        assert_eq!(Duration::parse("1h 30m"), Some(Duration::from_secs(5400)));
        assert_eq!(Duration::parse("0s"), None);
        assert_eq!(Duration::parse("10"), None);
        assert_eq!(Grace::parse("0s"), Some(Grace(Duration::ZERO)));
    }

    #[test]
    fn sockets_are_absolute_and_short() {
        assert_eq!(UnixUrl::parse("unix:///run/x.sock").unwrap().path(), Path::new("/run/x.sock"));
        assert_eq!(UnixUrl::parse("unix://run/x.sock"), None);
        assert_eq!(UnixUrl::parse("/run/x.sock"), None);
        assert_eq!(UnixUrl::parse(&format!("unix:///{}", "x".repeat(107))), None);
    }

    #[test]
    fn modes_are_octal() {
        assert_eq!(SocketMode::parse("0660"), Some(SocketMode(0o660)));
        for wrong in ["660", "0999", "rw", "00660"] {
            assert_eq!(SocketMode::parse(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn names_follow_the_rules_of_kubernetes() {
        for right in ["demo", "a", "web-1.example"] {
            assert!(DnsName::parse(right).is_some(), "{right:?}");
        }
        for wrong in ["", "Demo", "-demo", "demo-", "de/mo", "de mo"] {
            assert!(DnsName::parse(wrong).is_none(), "{wrong:?}");
        }
        assert!(Id::parse("../x").is_none() && Id::parse("").is_none());
    }
}
