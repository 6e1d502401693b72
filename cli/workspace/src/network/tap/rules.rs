//! The nftables rules of one interface in mode `nat`, in a table of its own:
//!
//! ```text
//! table inet microagent_mavm7 {
//!     flags owner
//!     chain source {
//!         type filter hook prerouting priority raw; policy accept;
//!         iifname "mavm7" ip saddr != GUEST drop
//!         iifname "mavm7" icmpv6 type { nd-router-advert, nd-redirect } drop
//!         iifname "mavm7" ip6 saddr & ffc0:: != fe80:: ip6 saddr != { ::, GUEST6 } drop
//!     }
//!     chain forward {
//!         type filter hook forward priority filter; policy accept;
//!         oifname "mavm7" ct state established,related accept
//!         oifname "mavm7" iifname "mavm*" accept
//!         oifname "mavm7" drop
//!     }
//!     chain masquerade {
//!         type nat hook postrouting priority srcnat; policy accept;
//!         iifname "mavm7" oifname != "mavm*" masquerade
//!     }
//! }
//! ```
//!
//! So a VM reaches what its host reaches, under the host's address; VMs in this mode reach each other,
//! and the host reaches them; nobody else does. A VM cannot use the addresses of others, nor tell the
//! host that it is a router, which the host would believe while it does not forward IPv6. Without an
//! IPv6 address of its own all its IPv6 is dropped.
//!
//! **The kernel removes the table** when the netlink socket that made it is closed (`flags owner`,
//! since Linux 5.12), and meanwhile nobody else can change it: `nft flush ruleset`, which a restart
//! of `nftables.service` runs, leaves it. That is why there is a table per VM rather than one, and why
//! the messages are made here rather than by `nft`, whose socket would have to be kept open by
//! another process, and which takes tens of milliseconds. The kernel allows 1024 chains per hook, so
//! about as many VMs.
//!
//! A packet passes if it passes the chains of every table: what a firewall of the host drops stays
//! dropped.

use std::io;
use std::net::Ipv6Addr;
use std::os::fd::OwnedFd;

use nix::libc;
use rustix::net::netlink;

use super::netlink::{Attributes, Message, Netlink};
use super::pool::{NAME_PREFIX, Subnet};

// linux/netfilter/nf_tables.h
const NFTA_LIST_ELEM: u16 = 1;
const NFTA_TABLE_NAME: u16 = 1;
const NFTA_TABLE_FLAGS: u16 = 2;
const NFT_TABLE_F_OWNER: u32 = 2;
const NFTA_CHAIN_TABLE: u16 = 1;
const NFTA_CHAIN_NAME: u16 = 3;
const NFTA_CHAIN_HOOK: u16 = 4;
const NFTA_CHAIN_TYPE: u16 = 7;
const NFTA_HOOK_HOOKNUM: u16 = 1;
const NFTA_HOOK_PRIORITY: u16 = 2;
const NFTA_RULE_TABLE: u16 = 1;
const NFTA_RULE_CHAIN: u16 = 2;
const NFTA_RULE_EXPRESSIONS: u16 = 4;
const NFTA_EXPR_NAME: u16 = 1;
const NFTA_EXPR_DATA: u16 = 2;
const NFTA_DATA_VALUE: u16 = 1;
const NFTA_DATA_VERDICT: u16 = 2;
const NFTA_VERDICT_CODE: u16 = 1;
const NFTA_IMMEDIATE_DREG: u16 = 1;
const NFTA_IMMEDIATE_DATA: u16 = 2;
const NFTA_META_DREG: u16 = 1;
const NFTA_META_KEY: u16 = 2;
const NFTA_CMP_SREG: u16 = 1;
const NFTA_CMP_OP: u16 = 2;
const NFTA_CMP_DATA: u16 = 3;
const NFTA_PAYLOAD_DREG: u16 = 1;
const NFTA_PAYLOAD_BASE: u16 = 2;
const NFTA_PAYLOAD_OFFSET: u16 = 3;
const NFTA_PAYLOAD_LEN: u16 = 4;
const NFTA_BITWISE_SREG: u16 = 1;
const NFTA_BITWISE_DREG: u16 = 2;
const NFTA_BITWISE_LEN: u16 = 3;
const NFTA_BITWISE_MASK: u16 = 4;
const NFTA_BITWISE_XOR: u16 = 5;
const NFTA_CT_DREG: u16 = 1;
const NFTA_CT_KEY: u16 = 2;
// linux/netfilter/nf_conntrack_common.h
const ESTABLISHED_OR_RELATED: u32 = 1 << 1 | 1 << 2;

/// `NF_IP_PRI_RAW`: before connections are tracked.
const RAW: i32 = -300;
const FILTER: i32 = 0;
/// `NF_IP_PRI_NAT_SRC`.
const SOURCE_NAT: i32 = 100;

const ROUTER_ADVERTISEMENT: u8 = 134;
const REDIRECT: u8 = 137;

/// Offset and length of the source address.
const SOURCE_V4: (u32, u32) = (12, 4);
const SOURCE_V6: (u32, u32) = (8, 16);

/// Installs the rules of the interface `name`, and returns the socket that owns them.
///
/// # Errors
/// `EEXIST` or `EPERM` if the table of an interface with this name is just being removed.
pub(super) fn install(name: &str, subnet: &Subnet) -> io::Result<OwnedFd> {
    let table = Table(format!("microagent_{name}"));
    let from = || Rule::new().name(libc::NFT_META_IIFNAME, Cmp::Is, name);
    let to = || Rule::new().name(libc::NFT_META_OIFNAME, Cmp::Is, name);
    let from_v6 = || from().family(libc::NFPROTO_IPV6);
    let guest = subnet.guest().addr().octets();
    let mut source = vec![
        from()
            .family(libc::NFPROTO_IPV4)
            .field(SOURCE_V4, Cmp::IsNot, &guest)
            .verdict(libc::NF_DROP),
    ];
    source.extend(match subnet.guest_v6() {
        None => vec![from_v6().verdict(libc::NF_DROP)],
        Some(address) => vec![
            from_v6()
                .icmpv6(ROUTER_ADVERTISEMENT)
                .verdict(libc::NF_DROP),
            from_v6().icmpv6(REDIRECT).verdict(libc::NF_DROP),
            from_v6()
                .not_link_local()
                // Of duplicate address detection.
                .field(SOURCE_V6, Cmp::IsNot, &Ipv6Addr::UNSPECIFIED.octets())
                .field(SOURCE_V6, Cmp::IsNot, &address.addr().octets())
                .verdict(libc::NF_DROP),
        ],
    });
    let forward = vec![
        to().reply().verdict(libc::NF_ACCEPT),
        to().name_prefix(libc::NFT_META_IIFNAME, Cmp::Is, NAME_PREFIX)
            .verdict(libc::NF_ACCEPT),
        to().verdict(libc::NF_DROP),
    ];
    let masquerade = vec![
        from()
            .name_prefix(libc::NFT_META_OIFNAME, Cmp::IsNot, NAME_PREFIX)
            .expression("masq", &Attributes::new()),
    ];
    let mut messages = vec![batch(libc::NFNL_MSG_BATCH_BEGIN), table.message()];
    for (chain, kind, hook, priority, rules) in [
        ("source", "filter", libc::NF_INET_PRE_ROUTING, RAW, source),
        ("forward", "filter", libc::NF_INET_FORWARD, FILTER, forward),
        (
            "masquerade",
            "nat",
            libc::NF_INET_POST_ROUTING,
            SOURCE_NAT,
            masquerade,
        ),
    ] {
        messages.push(table.chain(chain, kind, hook, priority));
        messages.extend(rules.iter().map(|rule| table.rule(chain, rule)));
    }
    messages.push(batch(libc::NFNL_MSG_BATCH_END));
    let mut socket = Netlink::open(Some(netlink::NETFILTER))?;
    socket.batch(messages, 1)?;
    Ok(socket.into_socket())
}

/// `nfgenmsg`.
fn structure(family: i32, resource: u16) -> [u8; 4] {
    let [high, low] = resource.to_be_bytes();
    [family as u8, libc::NFNETLINK_V0 as u8, high, low]
}

/// The begin or the end of messages that take effect together or not at all.
fn batch(kind: i32) -> Message {
    let structure = structure(libc::AF_UNSPEC, libc::NFNL_SUBSYS_NFTABLES as u16);
    Message::new(kind as u16, 0, &structure)
}

/// The name of a table of family `inet`.
struct Table(String);

impl Table {
    fn new_object(kind: i32, flags: i32, attributes: &Attributes) -> Message {
        let kind = libc::NFNL_SUBSYS_NFTABLES << 8 | kind;
        let flags = libc::NLM_F_CREATE | flags;
        let structure = structure(libc::NFPROTO_INET, 0);
        Message::new(kind as u16, flags as u16, &structure).with(attributes)
    }

    fn message(&self) -> Message {
        let attributes = Attributes::new()
            .string(NFTA_TABLE_NAME, &self.0)
            .number_be(NFTA_TABLE_FLAGS, NFT_TABLE_F_OWNER);
        Table::new_object(libc::NFT_MSG_NEWTABLE, libc::NLM_F_EXCL, &attributes)
    }

    fn chain(&self, name: &str, kind: &str, hook: i32, priority: i32) -> Message {
        let hook = Attributes::new()
            .number_be(NFTA_HOOK_HOOKNUM, hook.cast_unsigned())
            .number_be(NFTA_HOOK_PRIORITY, priority.cast_unsigned());
        let attributes = Attributes::new()
            .string(NFTA_CHAIN_TABLE, &self.0)
            .string(NFTA_CHAIN_NAME, name)
            .nested(NFTA_CHAIN_HOOK, &hook)
            .string(NFTA_CHAIN_TYPE, kind);
        Table::new_object(libc::NFT_MSG_NEWCHAIN, libc::NLM_F_EXCL, &attributes)
    }

    fn rule(&self, chain: &str, rule: &Rule) -> Message {
        let attributes = Attributes::new()
            .string(NFTA_RULE_TABLE, &self.0)
            .string(NFTA_RULE_CHAIN, chain)
            .nested(NFTA_RULE_EXPRESSIONS, &rule.0);
        Table::new_object(libc::NFT_MSG_NEWRULE, libc::NLM_F_APPEND, &attributes)
    }
}

/// How a register is compared.
#[derive(Clone, Copy)]
enum Cmp {
    Is,
    IsNot,
}

/// The expressions of a rule. All use the same register.
struct Rule(Attributes);

impl Rule {
    fn new() -> Rule {
        Rule(Attributes::new())
    }

    fn expression(self, name: &str, data: &Attributes) -> Rule {
        let expression = Attributes::new()
            .string(NFTA_EXPR_NAME, name)
            .nested(NFTA_EXPR_DATA, data);
        Rule(self.0.nested(NFTA_LIST_ELEM, &expression))
    }

    fn meta(self, key: i32) -> Rule {
        let data = Attributes::new()
            .number_be(NFTA_META_DREG, libc::NFT_REG_1 as u32)
            .number_be(NFTA_META_KEY, key.cast_unsigned());
        self.expression("meta", &data)
    }

    fn payload(self, base: i32, (offset, len): (u32, u32)) -> Rule {
        let data = Attributes::new()
            .number_be(NFTA_PAYLOAD_DREG, libc::NFT_REG_1 as u32)
            .number_be(NFTA_PAYLOAD_BASE, base.cast_unsigned())
            .number_be(NFTA_PAYLOAD_OFFSET, offset)
            .number_be(NFTA_PAYLOAD_LEN, len);
        self.expression("payload", &data)
    }

    /// Compares as many bytes of the register as `value` has.
    fn compare(self, how: Cmp, value: &[u8]) -> Rule {
        let how = match how {
            Cmp::Is => libc::NFT_CMP_EQ,
            Cmp::IsNot => libc::NFT_CMP_NEQ,
        };
        let data = Attributes::new()
            .number_be(NFTA_CMP_SREG, libc::NFT_REG_1 as u32)
            .number_be(NFTA_CMP_OP, how.cast_unsigned())
            .nested(
                NFTA_CMP_DATA,
                &Attributes::new().bytes(NFTA_DATA_VALUE, value),
            );
        self.expression("cmp", &data)
    }

    fn mask(self, mask: &[u8]) -> Rule {
        let value = |bytes: &[u8]| Attributes::new().bytes(NFTA_DATA_VALUE, bytes);
        let data = Attributes::new()
            .number_be(NFTA_BITWISE_SREG, libc::NFT_REG_1 as u32)
            .number_be(NFTA_BITWISE_DREG, libc::NFT_REG_1 as u32)
            .number_be(NFTA_BITWISE_LEN, mask.len() as u32)
            .nested(NFTA_BITWISE_MASK, &value(mask))
            .nested(NFTA_BITWISE_XOR, &value(&vec![0; mask.len()]));
        self.expression("bitwise", &data)
    }

    /// An interface by its name.
    fn name(self, key: i32, how: Cmp, name: &str) -> Rule {
        let mut value = name.as_bytes().to_vec();
        value.resize(libc::IFNAMSIZ, 0);
        self.meta(key).compare(how, &value)
    }

    /// The interfaces whose names begin so.
    fn name_prefix(self, key: i32, how: Cmp, prefix: &str) -> Rule {
        self.meta(key).compare(how, prefix.as_bytes())
    }

    fn family(self, family: i32) -> Rule {
        self.meta(libc::NFT_META_NFPROTO)
            .compare(Cmp::Is, &[family as u8])
    }

    fn field(self, field: (u32, u32), how: Cmp, value: &[u8]) -> Rule {
        self.payload(libc::NFT_PAYLOAD_NETWORK_HEADER, field)
            .compare(how, value)
    }

    /// The source is not in fe80::/10.
    fn not_link_local(self) -> Rule {
        self.payload(libc::NFT_PAYLOAD_NETWORK_HEADER, (SOURCE_V6.0, 2))
            .mask(&[0xff, 0xc0])
            .compare(Cmp::IsNot, &[0xfe, 0x80])
    }

    fn icmpv6(self, kind: u8) -> Rule {
        self.meta(libc::NFT_META_L4PROTO)
            .compare(Cmp::Is, &[libc::IPPROTO_ICMPV6 as u8])
            .payload(libc::NFT_PAYLOAD_TRANSPORT_HEADER, (0, 1))
            .compare(Cmp::Is, &[kind])
    }

    /// The packet belongs to a connection that the other side has opened.
    fn reply(self) -> Rule {
        let data = Attributes::new()
            .number_be(NFTA_CT_DREG, libc::NFT_REG_1 as u32)
            .number_be(NFTA_CT_KEY, libc::NFT_CT_STATE as u32);
        self.expression("ct", &data)
            .mask(&ESTABLISHED_OR_RELATED.to_ne_bytes())
            .compare(Cmp::IsNot, &[0; 4])
    }

    fn verdict(self, code: i32) -> Rule {
        let verdict = Attributes::new().number_be(NFTA_VERDICT_CODE, code.cast_unsigned());
        let data = Attributes::new()
            .number_be(NFTA_IMMEDIATE_DREG, libc::NFT_REG_VERDICT as u32)
            .nested(
                NFTA_IMMEDIATE_DATA,
                &Attributes::new().nested(NFTA_DATA_VERDICT, &verdict),
            );
        self.expression("immediate", &data)
    }
}
