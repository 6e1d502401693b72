//! An interface that connects its VM to nothing any more is reported, with the reason.

use std::sync::mpsc;

use microagent_tests::root_or_skip;
use microagent_workspace::network::tap::{Link, Lost, Watch, bridge, nat};

use crate::lab::{forward, is_alone, run};

/// Watches an interface, and runs commands that each make the state another one.
fn watch(link: Link, changes: &[(&str, Result<(), Lost>)]) {
    let (sender, reports) = mpsc::channel();
    let report = move |state| sender.send(state).unwrap();
    let watch = Watch::start(&link, report).unwrap();
    for (command, state) in changes {
        run(&command.replace("IT", link.name()));
        assert_eq!(&reports.recv().unwrap(), state, "{command}");
    }
    // Nothing else was reported, and the end of a VM is not.
    drop(watch);
    drop(link);
    assert_eq!(reports.recv(), Err(mpsc::RecvError));
}

#[test]
fn in_mode_nat() {
    root_or_skip!();
    if !is_alone("watch::in_mode_nat") {
        return;
    }
    forward(true, true);
    let link = nat::open("one").unwrap();
    let name = link.name().to_owned();
    let changes = [
        ("ip link set IT down", Err(Lost::Down(name.clone()))),
        (
            // Nobody is interested in others, nor in what does no harm.
            "ip link add a type veth peer name b && ip link del a && ip link set IT mtu 1400
            ip link set IT up",
            Ok(()),
        ),
        ("ip link del IT", Err(Lost::Deleted(name))),
    ];
    watch(link, &changes);
    watch(nat::open("one").unwrap(), &[]);
}

#[test]
fn in_mode_bridged() {
    root_or_skip!();
    if !is_alone("watch::in_mode_bridged") {
        return;
    }
    run("ip link add br0 type bridge && ip link set br0 up");
    let link = bridge::open("br0").unwrap();
    let detached = Lost::Detached {
        port: link.name().to_owned(),
        bridge: "br0".into(),
    };
    let changes = [
        ("ip link set IT nomaster", Err(detached.clone())),
        ("ip link set IT master br0", Ok(())),
        ("ip link set br0 down", Err(Lost::Down("br0".into()))),
        ("ip link del br0", Err(detached)),
    ];
    watch(link, &changes);
}
