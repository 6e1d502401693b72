//! Subscriptions to the events of a running workspace, as a program that uses the library has them.

use std::fs;
use std::os::fd::AsFd;

use microagent_tests::image::Layout;
use microagent_tests::microagent::Host;
use microagent_tests::{built_kernel, or_skip, tool};
use microagent_workspace::client::{Client, Subscription};
use microagent_workspace::dir::Workspaces;
use microagent_workspace::event::{self, Event};
use microagent_workspace::state::State;
use rustix::event::{PollFd, PollFlags, poll};

fn command(host: &Host, image: &str, script: &str) {
    let mut shell = host.shell(script);
    shell.variable("MICROAGENT_ENGINE", "qemu");
    shell.variable("IMAGE", image);
    shell.finish().expect_code(0);
}

/// The next event, when the descriptor says that there is one.
fn next(subscription: &mut Subscription) -> Option<Event> {
    let mut fds = [PollFd::from_borrowed_fd(
        subscription.as_fd(),
        PollFlags::IN,
    )];
    assert_eq!(poll(&mut fds, None), Ok(1));
    subscription.next_event().expect("the events go on")
}

#[test]
fn a_subscriber_gets_the_last_event_and_each_that_follows() {
    or_skip!(tool::find("qemu-system-x86_64"));
    let layout = or_skip!(Layout::busybox());
    let host = or_skip!(built_kernel::host());
    let image = layout.reference("latest");
    command(
        &host,
        &image,
        r#"microagent create w --image "$IMAGE" --memory 128 --cpus 1; microagent start w"#,
    );
    let directory = Workspaces::of(&host.state()).get("w").unwrap();
    let client = Client::new(&directory).unwrap();
    let mut events = client.subscribe().unwrap();
    // One that never reads, and one that is gone.
    let stalled = client.subscribe().unwrap();
    drop(client.subscribe().unwrap());
    assert_eq!(
        next(&mut events).map(|event| event.state),
        Some(State::Running)
    );
    let script = "for n in 1 2 3; do microagent pause w; microagent resume w; done; microagent stop w --reason enough";
    command(&host, &image, script);
    let mut seen = Vec::new();
    while let Some(event) = next(&mut events) {
        seen.push(event);
    }
    let history = event::history(directory.path()).unwrap();
    let after_the_first = history
        .iter()
        .skip_while(|event| event.state != State::Running);
    assert_eq!(seen, after_the_first.skip(1).cloned().collect::<Vec<_>>());
    assert_eq!(seen.len(), 8);
    let last = seen.last().unwrap();
    assert_eq!(
        (last.state, last.detail.as_deref()),
        (State::Stopped, Some("enough"))
    );
    drop(stalled);
    assert!(Client::new(&directory).is_err());
    command(&host, &image, "microagent delete w");
    assert!(!fs::exists(directory.path()).unwrap());
    host.assert_clean();
}
