use std::net::IpAddr;

use proptest::prelude::*;

use super::*;
use crate::name::{Name, NameError};

fn policy(rules: &[&str]) -> Policy {
    Policy::parse(rules).unwrap()
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

#[test]
fn rules_are_normalised() {
    for (text, normal) in [
        ("allow=any", "allow=any"),
        ("deny=ANY:80", "deny=any:80"),
        ("allow=PyPI.org.:443", "allow=pypi.org:443"),
        ("allow=*.Debian.org", "allow=*.debian.org"),
        ("allow=Bücher.example", "allow=xn--bcher-kva.example"),
        (
            "allow=*.bücher.example:1",
            "allow=*.xn--bcher-kva.example:1",
        ),
        ("deny=10.0.0.0/8", "deny=10.0.0.0/8"),
        ("deny=10.0.0.0/8:65535", "deny=10.0.0.0/8:65535"),
        ("allow=192.0.2.7", "allow=192.0.2.7"),
        ("allow=192.0.2.7/32:443", "allow=192.0.2.7:443"),
        ("allow=0.0.0.0/0", "allow=0.0.0.0/0"),
        ("allow=0.0.0.0/1", "allow=0.0.0.0/1"),
        ("allow=[::/0]", "allow=[::/0]"),
        ("allow=[2001:DB8::/32]:443", "allow=[2001:db8::/32]:443"),
        ("allow=[2001:db8:0::1/128]", "allow=[2001:db8::1]"),
        ("allow=[::ffff:192.0.2.7]:443", "allow=192.0.2.7:443"),
        ("deny=[::ffff:10.0.0.0/104]", "deny=10.0.0.0/8"),
        ("deny=any:53", "deny=any:53"),
    ] {
        let rule: Rule = text.parse().unwrap();
        assert_eq!(rule.to_string(), normal, "{text}");
        assert_eq!(normal.parse::<Rule>().unwrap(), rule);
    }
}

#[test]
fn invalid_rules_have_a_reason() {
    let network = |text: &str| text.parse().unwrap();
    for (text, why) in [
        ("", RuleError::Action),
        ("pypi.org", RuleError::Action),
        ("allow pypi.org", RuleError::Action),
        ("ALLOW=pypi.org", RuleError::Action),
        ("permit=any", RuleError::Action),
        ("allow=", RuleError::NoTarget),
        ("allow=:443", RuleError::NoTarget),
        ("allow=any:", RuleError::Port),
        ("allow=any:0", RuleError::Port),
        ("allow=any:65536", RuleError::Port),
        ("allow=any:+80", RuleError::Port),
        ("allow=any:http", RuleError::Port),
        ("allow=192.0.2.1:53", RuleError::DnsPort(53)),
        ("allow=any:853", RuleError::DnsPort(853)),
        ("allow=any:5353", RuleError::DnsPort(5353)),
        ("allow=any:5355", RuleError::DnsPort(5355)),
        ("allow=10.0.0.0/33", RuleError::Prefix),
        ("allow=10.0.0.0/", RuleError::Prefix),
        ("allow=10.0.0.0/+8", RuleError::Prefix),
        ("allow=10.0.0.0/8/8", RuleError::Prefix),
        ("allow=[2001:db8::/129]", RuleError::Prefix),
        (
            "allow=10.0.0.5/8",
            RuleError::HostBits(network("10.0.0.0/8")),
        ),
        (
            "allow=[2001:db8::1/32]",
            RuleError::HostBits(network("2001:db8::/32")),
        ),
        (
            "allow=[::ffff:10.0.0.5/104]",
            RuleError::HostBits(network("10.0.0.0/8")),
        ),
        ("allow=10.0.0/8", RuleError::Network),
        ("allow=example.com/24", RuleError::Network),
        ("allow=[2001:db8::1", RuleError::Brackets),
        ("allow=[2001:db8::1]443", RuleError::Brackets),
        ("allow=[10.0.0.1]", RuleError::Brackets),
        ("allow=[fe80::1%eth0]", RuleError::Brackets),
        ("allow=2001:db8::1", RuleError::NoBrackets),
        ("allow=10.0.0.256", RuleError::Name(NameError::Numeric)),
        ("allow=10.0.0", RuleError::Name(NameError::Numeric)),
        ("allow=010.0.0.1", RuleError::Name(NameError::Numeric)),
        ("allow=a b", RuleError::Name(NameError::Character(' '))),
        ("allow=*", RuleError::Wildcard),
        ("allow=a*.example.com", RuleError::Wildcard),
        ("allow=*.*.com", RuleError::Wildcard),
        ("allow=*.com", RuleError::ShortSuffix),
        ("allow=*.com.", RuleError::ShortSuffix),
        ("allow=*.", RuleError::Name(NameError::Empty)),
        ("allow=127.0.0.1", RuleError::NeverOnALink),
        ("allow=127.0.0.0/8", RuleError::NeverOnALink),
        ("allow=0.0.0.0", RuleError::NeverOnALink),
        ("deny=[::1]", RuleError::NeverOnALink),
    ] {
        let PolicyError::Rule { why: found, .. } = text.parse::<Rule>().unwrap_err() else {
            unreachable!("the text is one rule")
        };
        assert_eq!(found, why, "{text}");
    }
}

#[test]
fn the_error_names_the_rule() {
    let error = Policy::parse(["allow=any", "allow=10.0.0.5/8"]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "invalid egress rule \"allow=10.0.0.5/8\": the address has bits set after the prefix \
         (the network is 10.0.0.0/8)"
    );
    let error = format!("allow=\n{}", "x".repeat(1000))
        .parse::<Rule>()
        .unwrap_err();
    let shown = "x".repeat(73);
    assert_eq!(
        error.to_string(),
        format!(
            "invalid egress rule \"allow=\\n{shown}\"…: the host name is longer than 253 characters"
        )
    );
    let error = Policy::parse(vec!["deny=any"; 1001]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "1001 egress rules exceed the limit of 1000"
    );
}

#[test]
fn the_first_rule_that_matches_decides() {
    let policy = policy(&[
        "deny=10.1.0.0/16",
        "allow=10.0.0.0/8:443",
        "deny=any:443",
        "allow=any",
    ]);
    let decide = |text: &str, port| policy.decide(address(text), port, None);
    assert_eq!(decide("10.1.0.1", Some(443)), Decision::Deny);
    assert_eq!(decide("10.2.0.1", Some(443)), Decision::Allow);
    assert_eq!(decide("8.8.8.8", Some(443)), Decision::Deny);
    assert_eq!(decide("8.8.8.8", Some(80)), Decision::Allow);
    // ICMP has no port.
    assert_eq!(decide("10.1.0.1", None), Decision::Deny);
    assert_eq!(decide("10.2.0.1", None), Decision::Allow);
    assert_eq!(
        Policy::default().decide(address("8.8.8.8"), Some(443), None),
        Decision::NoRule
    );
}

#[test]
fn rules_for_names_match_only_names() {
    let policy = policy(&["allow=pypi.org:443", "allow=*.debian.org"]);
    let decide = |port, text: &str| policy.decide(address("192.0.2.1"), port, Some(&name(text)));
    assert_eq!(decide(Some(443), "pypi.org"), Decision::Allow);
    assert_eq!(decide(Some(80), "pypi.org"), Decision::NoRule);
    assert_eq!(decide(None, "pypi.org"), Decision::NoRule);
    assert_eq!(decide(Some(443), "www.pypi.org"), Decision::NoRule);
    assert_eq!(decide(Some(1), "a.b.debian.org"), Decision::Allow);
    assert_eq!(decide(None, "deb.debian.org"), Decision::Allow);
    assert_eq!(decide(Some(1), "debian.org"), Decision::NoRule);
    assert_eq!(
        policy.decide(address("192.0.2.1"), Some(443), None),
        Decision::NoRule
    );
}

#[test]
fn an_ipv4_network_matches_every_form_of_its_addresses() {
    let policy = policy(&["deny=10.0.0.0/8", "allow=any"]);
    for text in [
        "10.0.0.1",
        "::ffff:10.0.0.1",
        "64:ff9b::10.0.0.1",
        "2002:a00:1::",
    ] {
        assert_eq!(
            policy.decide(address(text), Some(80), None),
            Decision::Deny,
            "{text}"
        );
    }
    assert_eq!(
        policy.decide(address("64:ff9b::11.0.0.1"), Some(80), None),
        Decision::Allow
    );
}

#[test]
fn metadata_services_need_a_rule_for_their_address() {
    let decide = |rules: &[&str]| {
        policy(rules).decide(
            address("169.254.169.254"),
            Some(80),
            Some(&name("metadata.example")),
        )
    };
    assert_eq!(decide(&["allow=any"]), Decision::Metadata);
    assert_eq!(decide(&["allow=0.0.0.0/0"]), Decision::Metadata);
    assert_eq!(decide(&["allow=metadata.example"]), Decision::Metadata);
    assert_eq!(decide(&["allow=169.254.169.254:80"]), Decision::Allow);
    assert_eq!(decide(&["allow=169.254.0.0/16"]), Decision::Allow);
    assert_eq!(
        decide(&["deny=any", "allow=169.254.0.0/16"]),
        Decision::Deny
    );
}

#[test]
fn names_are_resolved_if_a_rule_could_allow_them() {
    let may = |rules: &[&str], text: &str| policy(rules).may_resolve(&name(text));
    assert!(!may(&[], "pypi.org"));
    assert!(may(&["allow=any"], "pypi.org"));
    assert!(may(&["allow=any:443"], "pypi.org"));
    assert!(may(&["allow=0.0.0.0/0"], "pypi.org"));
    assert!(may(&["allow=pypi.org:443"], "pypi.org"));
    assert!(!may(&["allow=pypi.org:443"], "evil.example"));
    assert!(!may(&["allow=pypi.org"], "www.pypi.org"));
    assert!(may(&["allow=*.pypi.org"], "www.pypi.org"));
    assert!(!may(&["allow=192.0.2.0/24"], "pypi.org"));
    assert!(!may(&["deny=pypi.org", "allow=any"], "pypi.org"));
    assert!(may(&["deny=pypi.org", "allow=any"], "debian.org"));
    assert!(may(&["deny=pypi.org:80", "allow=any"], "pypi.org"));
    assert!(!may(&["deny=any", "allow=pypi.org"], "pypi.org"));
    assert!(may(&["deny=any:80", "allow=pypi.org"], "pypi.org"));
    assert!(may(&["deny=0.0.0.0/0", "allow=pypi.org"], "pypi.org"));
    assert!(!may(&["allow=pypi.org", "deny=any"], "debian.org"));
}

#[test]
fn a_name_is_denied_by_a_rule_for_names_only() {
    let denies = |rules: &[&str], text: &str| policy(rules).denies_name(&name(text));
    assert!(denies(
        &["deny=*.ads.example", "allow=any"],
        "x.ads.example"
    ));
    assert!(!denies(&["deny=any"], "x.ads.example"));
    assert!(!denies(&["deny=x.ads.example:80"], "x.ads.example"));
    assert!(!denies(
        &["allow=x.ads.example", "deny=*.ads.example"],
        "x.ads.example"
    ));
    assert!(!denies(&["allow=pypi.org"], "x.ads.example"));
}

#[test]
fn private_addresses_are_allowed_by_rules_for_addresses_only() {
    let allows = |rules: &[&str], text: &str| policy(rules).allows_address(address(text));
    assert!(!allows(&["allow=any"], "10.0.0.1"));
    assert!(!allows(&["allow=0.0.0.0/0"], "10.0.0.1"));
    assert!(allows(&["allow=10.0.0.0/8"], "10.0.0.1"));
    assert!(allows(&["allow=10.0.0.0/8:443"], "10.0.0.1"));
    assert!(allows(
        &["deny=10.0.0.0/8:80", "allow=10.0.0.1:443"],
        "10.0.0.1"
    ));
    assert!(!allows(&["deny=10.0.0.0/8", "allow=10.0.0.1"], "10.0.0.1"));
    assert!(!allows(&["allow=10.0.0.0/8"], "192.168.0.1"));
}

/// Texts that look like rules.
fn rule_text() -> impl Strategy<Value = String> {
    let host = prop_oneof![
        Just("any".to_owned()),
        r"[a-z0-9_*-]{1,9}(\.[A-Zü0-9-]{1,5}){0,3}\.?",
        (any::<std::net::Ipv4Addr>(), 0u8..40).prop_map(|(a, p)| format!("{a}/{p}")),
        (any::<std::net::Ipv6Addr>(), 0u8..140).prop_map(|(a, p)| format!("[{a}/{p}]")),
        any::<std::net::Ipv6Addr>().prop_map(|a| format!("[{a}]")),
        r"[0-9.:/\[\]]{0,20}",
    ];
    (
        prop_oneof![Just("allow="), Just("deny="), Just("allow")],
        host,
        prop_oneof![
            Just(String::new()),
            (0u32..70000).prop_map(|p| format!(":{p}"))
        ],
    )
        .prop_map(|(action, host, port)| format!("{action}{host}{port}"))
}

proptest! {
    #[test]
    fn what_parses_is_displayed_and_parsed_alike(text in rule_text()) {
        if let Ok(rule) = text.parse::<Rule>() {
            let shown = rule.to_string();
            prop_assert_eq!(shown.parse::<Rule>(), Ok(rule));
        }
    }

    #[test]
    fn any_text_is_a_rule_or_an_error_of_one_line(text in ".*") {
        if let Err(error) = text.parse::<Rule>() {
            let message = error.to_string();
            prop_assert!(!message.contains('\n'));
            prop_assert!(message.len() < 2000);
        }
    }
}
