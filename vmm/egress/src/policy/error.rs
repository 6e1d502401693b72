use std::fmt;

use ipnet::IpNet;

use crate::name::NameError;

/// How much of an invalid rule is shown.
const SHOWN: usize = 80;

/// A policy is invalid.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PolicyError {
    /// One of its rules is invalid.
    #[error("invalid egress rule {rule}: {why}")]
    Rule {
        /// The rule as it was given.
        rule: ShownRule,
        /// Why.
        why: RuleError,
    },
    /// It has more rules than [`MAX_RULES`](super::MAX_RULES).
    #[error("{count} egress rules exceed the limit of {}", super::MAX_RULES)]
    TooMany {
        /// The number of rules.
        count: usize,
    },
}

/// Why a text is not a rule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RuleError {
    /// It does not begin with an action.
    #[error("it does not begin with \"allow=\" or \"deny=\"")]
    Action,
    /// There is nothing after the action.
    #[error("the destination is missing")]
    NoTarget,
    /// The port is not a number from 1 to 65535.
    #[error("the port is not a number from 1 to 65535")]
    Port,
    /// Guests cannot be allowed to use DNS servers.
    #[error("port {0} is refused: name resolution goes through microagent's own resolver")]
    DnsPort(u16),
    /// The prefix length is not a number that fits the address.
    #[error("the prefix length is invalid")]
    Prefix,
    /// Bits of the address are set after the prefix.
    #[error("the address has bits set after the prefix (the network is {0})")]
    HostBits(IpNet),
    /// Text in brackets is not an IPv6 address or network, or the brackets do not match.
    #[error("the text in brackets is not an IPv6 address or network")]
    Brackets,
    /// An IPv6 address without brackets, where a port could not be told from the address.
    #[error("IPv6 addresses are written in brackets, as in [2001:db8::/32]:443")]
    NoBrackets,
    /// Not an IPv4 network, although there is a slash in the text.
    #[error("the network is not an IPv4 address and a prefix length")]
    Network,
    /// A rule for a host name that is not one.
    #[error("{0}")]
    Name(#[from] NameError),
    /// `*` is not the whole first label.
    #[error("\"*\" is allowed only as the first label, as in *.example.com")]
    Wildcard,
    /// The suffix after `*.` has one label.
    #[error("the part after \"*.\" must have two labels or more")]
    ShortSuffix,
    /// Packets to this destination never leave the guest's own network stack.
    #[error("no packet can have this destination")]
    NeverOnALink,
}

/// A rule as it was given, shortened and escaped, in quotes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShownRule(String);

impl ShownRule {
    pub(super) fn new(text: &str) -> Self {
        Self(text.chars().take(SHOWN + 1).collect())
    }
}

impl fmt::Display for ShownRule {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.char_indices().nth(SHOWN) {
            Some((end, _)) => write!(formatter, "{:?}…", &self.0[..end]),
            None => write!(formatter, "{:?}", self.0),
        }
    }
}
