//! `--network`, `--network-interface` and `--publish`, and the field of a specification.

use std::net::Ipv6Addr;

use microagent_workspace::plan;
use microagent_workspace::spec::{Forward, Network, NetworkMode, Protocol};

use crate::args::NetworkArgs;
use crate::failure::Failure;

/// The network that the flags describe, validated, in the mode `default` of this host if they name
/// none; `None` if they say nothing.
///
/// # Errors
/// When it is invalid.
pub fn check(args: &NetworkArgs, default: Option<NetworkMode>) -> Result<Option<Network>, Failure> {
    let network = merge(args, None, default)?;
    network.as_ref().map_or(Ok(()), plan::network::check)?;
    Ok(network)
}

/// The network that the flags describe, or else that of the document, in the mode `default` of this
/// host if neither names one; `None` if neither says anything. Whether its values fit together is not
/// checked.
///
/// # Errors
/// When a flag is invalid.
pub fn merge(
    args: &NetworkArgs,
    document: Option<Network>,
    default: Option<NetworkMode>,
) -> Result<Option<Network>, Failure> {
    let mode = args.network.as_deref().map(mode).transpose()?;
    let given = mode.is_some()
        || args.network_interface.is_some()
        || !args.publish.is_empty()
        || !args.egress.is_empty();
    if document.is_none() && !given {
        return Ok(None);
    }
    let mut network = document.unwrap_or_else(|| Network {
        mode: default.unwrap_or_default(),
        ..Network::default()
    });
    if let Some(mode) = mode {
        network.mode = mode;
        // That of another mode.
        network.interface = network.interface.filter(|_| mode == NetworkMode::Bridged);
    }
    if let Some(interface) = &args.network_interface {
        network.interface = Some(interface.clone());
    }
    if !args.publish.is_empty() {
        let forwards = args.publish.iter().map(|word| forward(word));
        network.forwards = forwards.collect::<Result<_, _>>()?;
    }
    if !args.egress.is_empty() {
        network.egress = Some(args.egress.clone());
    }
    Ok(Some(network))
}

/// The mode with this name.
///
/// # Errors
/// When there is none.
pub fn mode(name: &str) -> Result<NetworkMode, Failure> {
    NetworkMode::from_name(name).ok_or_else(|| {
        Failure::usage(format!("unknown network mode {name:?}"))
            .remediation("the modes are user, nat, isolated and bridged")
    })
}

fn with_form(message: impl Into<String>) -> Failure {
    Failure::usage(message)
        .remediation("use --publish [HOST:]PORT:GUESTPORT, such as 8080:80 or 0.0.0.0:8080:80")
}

/// Parses `[HOST:]PORT:GUESTPORT[/tcp]`.
///
/// # Errors
/// When it is none.
pub fn forward(word: &str) -> Result<Forward, Failure> {
    let invalid = |why: &str| with_form(format!("--publish {word:?} {why}"));
    let (ports, protocol) = word.split_once('/').unwrap_or((word, "tcp"));
    if protocol != "tcp" {
        return Err(invalid("is not TCP, the only protocol that is published"));
    }
    let (rest, guest_port) = ports
        .rsplit_once(':')
        .ok_or_else(|| invalid("has no guest port"))?;
    let (host, host_port) = match rest.rsplit_once(':') {
        Some((host, port)) => (Some(host), port),
        None => (None, rest),
    };
    let number = |text: &str, of: &str| -> Result<u16, Failure> {
        let port: Option<u16> = text.parse().ok().filter(|&port| port > 0);
        port.ok_or_else(|| invalid(&format!("has no {of} from 1 to 65535")))
    };
    let bare = |host: &str| match host.strip_prefix('[').and_then(|h| h.strip_suffix(']')) {
        Some(address) => address.parse::<Ipv6Addr>().ok().map(|it| it.to_string()),
        None => Some(host.to_owned()).filter(|host| !host.contains(':')),
    };
    let host = match host {
        Some(host) => Some(bare(host).ok_or_else(|| invalid("has an invalid address"))?),
        None => None,
    };
    let forward = Forward {
        host,
        host_port: number(host_port, "port of the host")?,
        guest_port: number(guest_port, "port of the guest")?,
        protocol: Protocol::Tcp,
    };
    plan::network::check_forward(&forward)?;
    Ok(forward)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(network: Option<&str>, interface: Option<&str>, publish: &[&str]) -> NetworkArgs {
        NetworkArgs {
            network: network.map(str::to_owned),
            network_interface: interface.map(str::to_owned),
            publish: publish.iter().map(|&word| word.to_owned()).collect(),
            egress: Vec::new(),
        }
    }

    #[test]
    fn the_default_mode_is_that_of_flags_that_describe_a_network() {
        let mode = |given: &NetworkArgs, default| {
            let network = merge(given, None, default).unwrap();
            network.map(|network| network.mode)
        };
        let nat = Some(NetworkMode::Nat);
        assert_eq!(mode(&args(None, None, &["80:80"]), nat), nat);
        assert_eq!(mode(&args(None, Some("br0"), &[]), nat), nat);
        let rule = NetworkArgs {
            egress: vec!["deny=any".into()],
            ..args(None, None, &[])
        };
        assert_eq!(mode(&rule, nat), nat);
        assert_eq!(mode(&args(None, None, &[]), nat), None);
        let user = Some(NetworkMode::User);
        assert_eq!(mode(&args(Some("user"), None, &["80:80"]), nat), user);
        assert_eq!(mode(&args(None, None, &["80:80"]), None), user);
        // A document that describes a network has its mode.
        let network = merge(&args(None, None, &["80:80"]), Some(Network::default()), nat);
        assert_eq!(network.unwrap().unwrap().mode, NetworkMode::User);
    }

    #[test]
    fn flags_win_over_the_document() {
        let document = || {
            Some(Network {
                mode: NetworkMode::Bridged,
                interface: Some("br0".into()),
                egress: None,
                forwards: vec![forward("80:80").unwrap()],
            })
        };
        let get = |args: &NetworkArgs, document| merge(args, document, None).unwrap();
        assert_eq!(get(&args(None, None, &[]), None), None);
        assert_eq!(get(&args(None, None, &[]), document()), document());
        let network = get(&args(Some("user"), None, &["8080:80"]), document()).unwrap();
        assert_eq!(network.mode, NetworkMode::User);
        assert_eq!(network.interface, None);
        assert_eq!(network.forwards, [forward("8080:80").unwrap()]);
        let network = get(&args(None, None, &["1:2"]), None).unwrap();
        assert_eq!(network.mode, NetworkMode::User);
    }

    #[test]
    fn mappings_are_parsed() {
        for (word, host, host_port, guest_port) in [
            ("8080:80", None, 8080, 80),
            ("8080:80/tcp", None, 8080, 80),
            ("0.0.0.0:1:65535", Some("0.0.0.0"), 1, 65535),
            ("[::1]:8080:80", Some("::1"), 8080, 80),
        ] {
            let forward = forward(word).unwrap();
            assert_eq!(forward.host.as_deref(), host, "{word}");
            assert_eq!(
                (forward.host_port, forward.guest_port),
                (host_port, guest_port)
            );
        }
    }

    #[test]
    fn invalid_values_are_named_with_a_remediation() {
        let publish = |word| args(None, None, &[word]);
        for (args, message) in [
            (publish("80"), "--publish \"80\" has no guest port"),
            (
                publish("x:80"),
                "--publish \"x:80\" has no port of the host from 1 to 65535",
            ),
            (
                publish("80:0"),
                "--publish \"80:0\" has no port of the guest from 1 to 65535",
            ),
            (
                publish("80:65536"),
                "--publish \"80:65536\" has no port of the guest from 1 to 65535",
            ),
            (
                publish("80:80/udp"),
                "--publish \"80:80/udp\" is not TCP, the only protocol that is published",
            ),
            (
                publish("::1:80:80"),
                "--publish \"::1:80:80\" has an invalid address",
            ),
            (
                publish("[x]:80:80"),
                "--publish \"[x]:80:80\" has an invalid address",
            ),
            (
                publish("host.example:80:80"),
                "\"host.example\" is not an address of this host to publish on",
            ),
            (
                args(Some("host"), None, &[]),
                "unknown network mode \"host\"",
            ),
            (
                args(Some("bridged"), None, &[]),
                "network mode bridged needs a bridge of the host",
            ),
            (
                args(None, Some("br0"), &[]),
                "--network-interface has no meaning in mode user",
            ),
            (
                args(Some("isolated"), None, &["1:1"]),
                "a guest without a network publishes no ports: mode isolated",
            ),
            (
                args(None, None, &["1:1", "1:2"]),
                "port 1 of the host is published twice",
            ),
        ] {
            let failure = check(&args, None).unwrap_err();
            assert_eq!(failure.message, message);
            assert!(failure.remediation.is_some(), "{message}");
        }
    }
}
