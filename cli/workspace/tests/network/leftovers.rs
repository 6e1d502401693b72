//! What is left when processes end, and what others can do meanwhile.

use std::collections::BTreeSet;

use microagent_tests::root_or_skip;
use microagent_workspace::network::tap::nat;

use crate::lab::{forward, is_alone, keepers, run};

/// The names of interfaces and tables of ours.
fn ours() -> String {
    run("ip -o link show | grep -o ' ma[vb][mr][0-9]*'; nft list tables | grep microagent; true")
}

#[test]
fn twenty_processes_have_twenty_subnets_and_leave_nothing_when_they_are_killed() {
    const TEST: &str =
        "leftovers::twenty_processes_have_twenty_subnets_and_leave_nothing_when_they_are_killed";
    root_or_skip!();
    if !is_alone(TEST) {
        return;
    }
    forward(true, true);
    // The same name: all want the same slot.
    let mut keepers = keepers(TEST, &[], &["same"; 20]);
    let subnets: BTreeSet<&str> = keepers.iter().map(|keeper| keeper.said.as_str()).collect();
    assert_eq!(subnets.len(), 20, "{subnets:?}");
    assert!(subnets.iter().all(|guest| guest.starts_with("10.213.")));
    assert_eq!(ours().lines().count(), 40);
    for keeper in &mut keepers {
        keeper.child.kill().unwrap();
        keeper.child.wait().unwrap();
    }
    assert_eq!(ours(), "");
    assert_eq!(
        run("ip -4 route show table all | grep -F 10.213. ; true"),
        ""
    );
}

#[test]
fn a_firewall_that_is_restarted_leaves_the_rules() {
    const TEST: &str = "leftovers::a_firewall_that_is_restarted_leaves_the_rules";
    root_or_skip!();
    if !is_alone(TEST) {
        return;
    }
    forward(true, false);
    let link = nat::open("one").unwrap();
    let name = link.name();
    run("nft flush ruleset");
    let listed = run(&format!("nft list table inet microagent_{name}"));
    let guest = link.subnet().unwrap().guest().addr();
    // As `nft` understands them, which is not our code.
    for line in [
        "flags owner".to_owned(),
        format!("iifname \"{name}\" ip saddr != {guest} drop"),
        format!("iifname \"{name}\" meta nfproto ipv6 drop"),
        format!("oifname \"{name}\" ct state established,related accept"),
        format!("oifname \"{name}\" iifname \"mavm*\" accept"),
        format!("oifname \"{name}\" drop"),
        format!("iifname \"{name}\" oifname != \"mavm*\" masquerade"),
        "type nat hook postrouting priority srcnat; policy accept;".to_owned(),
        "type filter hook forward priority filter; policy accept;".to_owned(),
        "type filter hook prerouting priority raw; policy accept;".to_owned(),
    ] {
        assert!(listed.lines().any(|l| l.trim() == line), "{line}\n{listed}");
    }
    drop(link);
    assert_eq!(ours(), "");
}
