//! Which addresses may be dialled. Rules are checked in order and the first match decides. If none matches, loopback
//! addresses are allowed and everything else is denied.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;
use std::str::FromStr;

use crate::address::{Address, Destination, is_plain};

/// The rule that a denial names if none of the configured ones matches.
const DEFAULT: &str = "loopback only";

/// Allows or denies the addresses that match its pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    is_allowing: bool,
    pattern: Pattern,
}

/// The addresses that a rule applies to: `NETWORK:ADDRESS:PORT` or `unix:PATH`.
///
/// - NETWORK: `tcp`, `udp`, or `*` for both.
/// - ADDRESS: an IPv4 address or an IPv6 address in brackets, each optionally with `/BITS`; `loopback`; or `*`.
/// - PORT: a number, `FIRST-LAST`, or `*`.
/// - PATH: an absolute path; a trailing `*` matches every path with that prefix.
///
/// The unspecified addresses (`0.0.0.0`, `[::]`) count as loopback, because dialling them reaches loopback. An
/// IPv4-mapped IPv6 address counts as its IPv4 address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern {
    text: String,
    matches: Matches,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Matches {
    Ip { tcp: bool, udp: bool, hosts: Hosts, ports: RangeInclusive<u16> },
    Path(String),
    PathsUnder(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Hosts {
    All,
    Loopback,
    Network { ip: IpAddr, bits: u8 },
}

/// Text that is not a [`Pattern`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not a pattern: write NETWORK:ADDRESS:PORT (as tcp:127.0.0.1:80, udp:10.0.0.0/8:*, \
     *:[fd00::]/8:1-1023) or unix:/PATH"
)]
pub struct PatternError(String);

impl Rule {
    /// Allows the addresses that the pattern matches.
    pub fn allow(pattern: Pattern) -> Self {
        Self { is_allowing: true, pattern }
    }

    /// Denies the addresses that the pattern matches.
    pub fn deny(pattern: Pattern) -> Self {
        Self { is_allowing: false, pattern }
    }

    /// Whether this rule allows Unix sockets.
    pub fn opens_paths(&self) -> bool {
        self.is_allowing && !matches!(self.pattern.matches, Matches::Ip { .. })
    }
}

/// Text that is not a [`Rule`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RuleError {
    /// It starts with neither `allow` nor `deny`.
    #[error("`{0}` is not a rule: write `allow PATTERN` or `deny PATTERN`")]
    Word(String),
    /// Its pattern is malformed.
    #[error(transparent)]
    Pattern(#[from] PatternError),
}

impl FromStr for Rule {
    type Err = RuleError;

    /// Parses `allow PATTERN` or `deny PATTERN`, as a rule is displayed.
    fn from_str(text: &str) -> Result<Self, RuleError> {
        match text.split_once(' ') {
            Some(("allow", pattern)) => Ok(Self::allow(pattern.parse()?)),
            Some(("deny", pattern)) => Ok(Self::deny(pattern.parse()?)),
            _ => Err(RuleError::Word(text.to_owned())),
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", if self.is_allowing { "allow" } else { "deny" }, self.pattern.text)
    }
}

/// An address that may not be dialled, and the rule that denies it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Denial {
    /// The first address that was denied.
    pub address: Address,
    /// The rule as configured.
    pub rule: String,
}

impl Denial {
    /// A sentence that names the rule and its owner, such as "the daemon".
    pub fn by(&self, owner: &str) -> String {
        format!("{} is not allowed by {owner}'s rule `{}`", self.address, self.rule)
    }
}

impl Destination {
    /// This destination's addresses that the rules allow. For localhost, that may be one of two.
    ///
    /// # Errors
    /// If none is allowed: the first denial.
    pub fn permitted(&self, rules: &[Rule]) -> Result<Vec<Address>, Denial> {
        let mut denial = None;
        let mut left = self.addresses();
        left.retain(|address| match check(rules, address) {
            Ok(()) => true,
            Err(rule) => {
                denial.get_or_insert(Denial { address: address.clone(), rule });
                false
            }
        });
        match denial {
            Some(denial) if left.is_empty() => Err(denial),
            _ => Ok(left),
        }
    }
}

/// Checks one address; the error is the rule that denies it.
fn check(rules: &[Rule], address: &Address) -> Result<(), String> {
    match rules.iter().find(|rule| rule.pattern.matches.covers(address)) {
        Some(rule) if rule.is_allowing => Ok(()),
        Some(rule) => Err(rule.to_string()),
        None if address.ip().is_some_and(|ip| ip.is_loopback()) => Ok(()),
        None => Err(DEFAULT.to_owned()),
    }
}

impl Matches {
    fn covers(&self, address: &Address) -> bool {
        match (self, address) {
            (Self::Ip { tcp, hosts, ports, .. }, Address::Tcp(address)) => {
                *tcp && ports.contains(&address.port()) && hosts.covers(address.ip())
            }
            (Self::Ip { udp, hosts, ports, .. }, Address::Udp(address)) => {
                *udp && ports.contains(&address.port()) && hosts.covers(address.ip())
            }
            (Self::Path(path), Address::Unix(asked)) => asked == path,
            (Self::PathsUnder(start), Address::Unix(asked)) => asked.starts_with(start.as_str()),
            _ => false,
        }
    }
}

impl Hosts {
    fn covers(&self, ip: IpAddr) -> bool {
        // Other spellings of an address must not bypass a rule about it.
        let ip = match ip.to_canonical() {
            IpAddr::V4(Ipv4Addr::UNSPECIFIED) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(Ipv6Addr::UNSPECIFIED) => Ipv6Addr::LOCALHOST.into(),
            ip => ip,
        };
        match (self, ip) {
            (Self::All, _) => true,
            (Self::Loopback, ip) => ip.is_loopback(),
            (Self::Network { ip: IpAddr::V4(network), bits }, IpAddr::V4(ip)) => {
                let differs = u32::from(*network) ^ u32::from(ip);
                differs.leading_zeros() >= u32::from(*bits)
            }
            (Self::Network { ip: IpAddr::V6(network), bits }, IpAddr::V6(ip)) => {
                let differs = u128::from(*network) ^ u128::from(ip);
                differs.leading_zeros() >= u32::from(*bits)
            }
            _ => false,
        }
    }
}

impl FromStr for Pattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        let matches = parse(text).ok_or_else(|| PatternError(text.to_owned()))?;
        Ok(Self { text: text.to_owned(), matches })
    }
}

fn parse(text: &str) -> Option<Matches> {
    let (network, rest) = text.split_once(':')?;
    if network == "unix" {
        return parse_path(rest);
    }
    let (tcp, udp) = match network {
        "tcp" => (true, false),
        "udp" => (false, true),
        "*" => (true, true),
        _ => return None,
    };
    let (hosts, ports) = rest.rsplit_once(':')?;
    Some(Matches::Ip { tcp, udp, hosts: parse_hosts(hosts)?, ports: parse_ports(ports)? })
}

/// Only plain paths are accepted, because only those are dialled: a rule with another spelling would never match, and a
/// `deny` rule would silently do nothing.
fn parse_path(text: &str) -> Option<Matches> {
    let Some(prefix) = text.strip_suffix('*') else {
        return is_plain(text).then(|| Matches::Path(text.to_owned()));
    };
    let (directory, _) = prefix.rsplit_once('/')?;
    let is_usable = directory.is_empty() || is_plain(directory);
    is_usable.then(|| Matches::PathsUnder(prefix.to_owned()))
}

fn parse_hosts(text: &str) -> Option<Hosts> {
    match text {
        "*" => return Some(Hosts::All),
        "loopback" => return Some(Hosts::Loopback),
        _ => {}
    }
    let (ip, bits) = match text.split_once('/') {
        Some((ip, bits)) => (ip, Some(bits.parse().ok()?)),
        None => (text, None),
    };
    let (ip, most) = match ip.strip_prefix('[').and_then(|ip| ip.strip_suffix(']')) {
        Some(ip) => (IpAddr::V6(ip.parse().ok()?), 128),
        None => (IpAddr::V4(ip.parse().ok()?), 32),
    };
    let bits = bits.unwrap_or(most);
    (bits <= most).then_some(Hosts::Network { ip, bits })
}

fn parse_ports(text: &str) -> Option<RangeInclusive<u16>> {
    if text == "*" {
        return Some(1..=u16::MAX);
    }
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (first.parse().ok()?, last.parse().ok()?);
    (first <= last && first != 0).then_some(first..=last)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::address::Network;

    fn rules(texts: &[&str]) -> Vec<Rule> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn tcp(address: &str) -> Address {
        Address::Tcp(address.parse().unwrap())
    }

    fn udp(address: &str) -> Address {
        Address::Udp(address.parse().unwrap())
    }

    fn unix(path: &str) -> Address {
        Address::Unix(path.into())
    }

    fn allows(texts: &[&str], address: Address) {
        assert_eq!(check(&rules(texts), &address), Ok(()), "{address}");
    }

    fn denies(texts: &[&str], address: Address, rule: &str) {
        assert_eq!(check(&rules(texts), &address), Err(rule.to_owned()), "{address}");
    }

    #[test]
    fn without_rules_only_loopback_is_allowed() {
        allows(&[], tcp("127.0.0.1:80"));
        allows(&[], udp("[::1]:53"));
        for address in ["10.0.0.1:80", "0.0.0.0:80", "169.254.169.254:80", "[::ffff:127.0.0.1]:80"] {
            denies(&[], tcp(address), "loopback only");
        }
        denies(&[], unix("/run/docker.sock"), "loopback only");
    }

    #[test]
    fn the_first_rule_that_matches_decides() {
        let both = ["deny tcp:10.0.0.1:*", "allow tcp:10.0.0.0/8:*"];
        denies(&both, tcp("10.0.0.1:80"), "deny tcp:10.0.0.1:*");
        allows(&both, tcp("10.0.0.2:80"));
        allows(&["allow tcp:10.0.0.0/8:*", "deny tcp:10.0.0.1:*"], tcp("10.0.0.1:80"));
    }

    #[test]
    fn a_rule_applies_to_its_network_and_ports_only() {
        let one = ["deny tcp:127.0.0.0/8:1-1023"];
        denies(&one, tcp("127.0.0.1:1023"), one[0]);
        allows(&one, tcp("127.0.0.1:1024"));
        allows(&one, udp("127.0.0.1:80"));
        denies(&["deny *:loopback:80"], udp("[::1]:80"), "deny *:loopback:80");
        allows(&["allow udp:*:53"], udp("9.9.9.9:53"));
        denies(&["allow udp:*:53"], tcp("9.9.9.9:53"), "loopback only");
        allows(&["allow tcp:[fd00::]/8:80"], tcp("[fd12::1]:80"));
        denies(&["allow tcp:[fd00::]/8:80"], tcp("[fe12::1]:80"), "loopback only");
        allows(&["allow tcp:0.0.0.0/0:80"], tcp("1.2.3.4:80"));
    }

    #[test]
    fn other_spellings_of_an_address_do_not_bypass_a_rule() {
        let rules = ["deny tcp:127.0.0.0/8:22", "deny tcp:10.0.0.1:*", "allow tcp:*:*"];
        denies(&rules, tcp("0.0.0.0:22"), rules[0]);
        denies(&rules, tcp("[::ffff:127.0.0.1]:22"), rules[0]);
        denies(&rules, tcp("[::ffff:0.0.0.0]:22"), rules[0]);
        denies(&rules, tcp("[::ffff:10.0.0.1]:80"), rules[1]);
    }

    #[test]
    fn paths_match_whole_or_by_prefix() {
        allows(&["allow unix:/run/app.sock"], unix("/run/app.sock"));
        denies(&["allow unix:/run/app.sock"], unix("/run/app.sock2"), "loopback only");
        allows(&["allow unix:/run/app/*"], unix("/run/app/a.sock"));
        allows(&["allow unix:/*"], unix("/run/app/a.sock"));
        denies(&["allow *:*:*"], unix("/run/app/a.sock"), "loopback only");
    }

    fn left(rules: &[&str], network: Network, address: &str) -> Result<Vec<String>, String> {
        let destination = Destination::parse(Some(network), address).unwrap();
        let permitted =
            destination.permitted(&self::rules(rules)).map_err(|denial| denial.by("the daemon"))?;
        Ok(permitted.iter().map(Address::to_string).collect())
    }

    #[test]
    fn a_destination_keeps_the_addresses_that_rules_allow() {
        assert_eq!(left(&[], Network::Tcp, "localhost:80").unwrap(), ["127.0.0.1:80", "[::1]:80"]);
        let one = ["allow tcp:127.0.0.1:80", "deny *:*:*"];
        assert_eq!(left(&one, Network::Tcp, "localhost:80").unwrap(), ["127.0.0.1:80"]);
        assert_eq!(left(&["deny tcp:127.0.0.0/8:80"], Network::Tcp, ":80").unwrap(), ["[::1]:80"]);
        assert_eq!(left(&["allow unix:/run/*"], Network::Unix, "unix:///run/a").unwrap(), ["/run/a"]);
    }

    #[test]
    fn a_denial_names_its_rule() {
        for (rules, network, address, rule) in [
            (&[][..], Network::Tcp, "10.0.0.1:80", "`loopback only`"),
            (&[], Network::Unix, "/run/docker.sock", "`loopback only`"),
            (&["deny udp:*:53"], Network::Udp, ":53", "`deny udp:*:53`"),
            (&["deny tcp:*:81", "deny tcp:*:1-99"], Network::Tcp, ":80", "`deny tcp:*:1-99`"),
        ] {
            let denial = left(rules, network, address).unwrap_err();
            assert!(denial.contains("the daemon's rule") && denial.contains(rule), "{denial}");
        }
    }

    #[test]
    fn a_rule_is_allow_or_deny_and_a_pattern() {
        assert_eq!("deny tcp:*:22".parse::<Rule>().unwrap().to_string(), "deny tcp:*:22");
        for (text, part) in
            [("", "allow PATTERN"), ("permit tcp:*:22", "allow PATTERN"), ("allow 22", "NETWORK")]
        {
            assert!(text.parse::<Rule>().unwrap_err().to_string().contains(part), "{text}");
        }
    }

    #[test]
    fn malformed_patterns_are_rejected_with_the_expected_form() {
        for text in [
            "",
            "tcp",
            "tcp:80",
            "tcp:*:",
            "tcp:*:0",
            "tcp:*:9-8",
            "tcp:*:65536",
            "tcp:10.0.0.0/33:80",
            "tcp:::1:80",
            "sctp:*:80",
            "unix:run/x",
            "unix:*",
            "unix:/",
            "unix:/run//x",
            "unix:/run/../x*",
            "unix:/run/./*",
            "tcp:localhost:80",
        ] {
            let error = text.parse::<Pattern>().unwrap_err().to_string();
            assert!(error.contains("NETWORK:ADDRESS:PORT") && error.contains(text), "{error}");
        }
    }
}
