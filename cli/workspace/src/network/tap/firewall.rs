//! A firewall of the host that keeps VMs of mode `nat` from reaching anything.
//!
//! A forwarded packet passes only if the chains of all tables accept it, so nothing in the table of a
//! VM can help it past a chain that drops by default. Docker makes such a chain if it finds that the
//! host does not forward, and `ufw` has one. It is not changed here: it is the host's.

use std::fmt;
use std::io;

use nix::libc;
use rustix::net::netlink;

use super::netlink::{Answer, Attributes, Message, Netlink, attribute};
use super::pool::NAME_PREFIX;

// linux/netfilter/nf_tables.h
const NFTA_CHAIN_TABLE: u16 = 1;
const NFTA_CHAIN_NAME: u16 = 3;
const NFTA_CHAIN_HOOK: u16 = 4;
const NFTA_CHAIN_POLICY: u16 = 5;
const NFTA_HOOK_HOOKNUM: u16 = 1;
const NFTA_RULE_TABLE: u16 = 1;

/// The length of `nfgenmsg`.
const STRUCTURE: usize = 4;

/// A chain of nftables that drops what is forwarded by default, in a table in which no rule is about
/// interfaces of VMs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Obstacle {
    family: &'static str,
    table: String,
    chain: String,
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Obstacle {
            family,
            table,
            chain,
        } = self;
        write!(
            f,
            "a firewall of this host drops what is forwarded, unless a rule accepts it: chain \
             {chain} of table {family} {table}"
        )
    }
}

impl Obstacle {
    /// What the user can do about it. What reaches a VM from outside is still limited by its own
    /// rules.
    pub fn remediation(&self) -> String {
        let Obstacle {
            family,
            table,
            chain,
        } = self;
        format!(
            "let VMs pass: for of in iifname oifname; do nft insert rule {family} {table} {chain} $of \
             '\"mavm*\"' accept; done"
        )
    }
}

/// Looks for an obstacle.
pub(super) fn obstacle() -> io::Result<Option<Obstacle>> {
    let mut socket = Netlink::open(Some(netlink::NETFILTER))?;
    let chains = socket.dump(get(libc::NFT_MSG_GETCHAIN, libc::NFPROTO_UNSPEC))?;
    for obstacle in chains.iter().filter_map(drops_forwarded) {
        let family = if obstacle.family == "ip" {
            libc::NFPROTO_IPV4
        } else {
            libc::NFPROTO_INET
        };
        let table = Attributes::new().string(NFTA_RULE_TABLE, &obstacle.table);
        let rules = socket.dump(get(libc::NFT_MSG_GETRULE, family).with(&table))?;
        let name = NAME_PREFIX.as_bytes();
        let is_ours = |rule: &Answer| rule.bytes().windows(name.len()).any(|part| part == name);
        if !rules.iter().any(is_ours) {
            return Ok(Some(obstacle));
        }
    }
    Ok(None)
}

fn get(kind: i32, family: i32) -> Message {
    let kind = libc::NFNL_SUBSYS_NFTABLES << 8 | kind;
    let structure = [family as u8, libc::NFNETLINK_V0 as u8, 0, 0];
    Message::new(kind as u16, 0, &structure)
}

/// The obstacle that a chain is, whatever the rules.
fn drops_forwarded(chain: &Answer) -> Option<Obstacle> {
    let [family, ..] = chain.structure::<STRUCTURE>()?;
    let family = match i32::from(family) {
        libc::NFPROTO_IPV4 => "ip",
        libc::NFPROTO_INET => "inet",
        _ => return None,
    };
    let number = |bytes: &[u8]| bytes.try_into().map(i32::from_be_bytes).ok();
    let hook = chain.attribute(STRUCTURE, NFTA_CHAIN_HOOK)?;
    let hook = attribute(hook, NFTA_HOOK_HOOKNUM).and_then(number);
    let policy = chain
        .attribute(STRUCTURE, NFTA_CHAIN_POLICY)
        .and_then(number);
    if hook != Some(libc::NF_INET_FORWARD) || policy != Some(libc::NF_DROP) {
        return None;
    }
    let name = |kind| {
        let bytes = chain.attribute(STRUCTURE, kind)?;
        let text = String::from_utf8_lossy(bytes);
        Some(text.trim_end_matches('\0').to_owned())
    };
    Some(Obstacle {
        family,
        table: name(NFTA_CHAIN_TABLE)?,
        chain: name(NFTA_CHAIN_NAME)?,
    })
}
