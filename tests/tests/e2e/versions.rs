//! Programs of different releases: a workspace runs while the host is upgraded, and keeps the agent
//! that it was created with.
//!
//! The other side of each conversation is recorded: what commands and supervisors of version 1 of the
//! workspace's protocol sent, byte for byte, and the same with a version, fields and messages that
//! are newer than this release.

use std::fs::{self, File, OpenOptions};
use std::io::{IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::thread;

use microagent_tests::image::Layout;
use microagent_tests::microagent::Host;
use microagent_tests::{built_kernel, or_skip, tool};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType, accept, bind,
    connect, listen, recvmsg, sendmsg, socket_with,
};

/// Longer than any packet here.
const PACKET: usize = 4096;

/// A version of the protocol that does not exist yet.
const NEWER: u8 = 200;

fn socket() -> OwnedFd {
    let flags = SocketFlags::CLOEXEC;
    socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap()
}

fn envelope(version: u8) -> Vec<u8> {
    [b"\x7fuVM", &[version, 0, 0, 0][..]].concat()
}

fn packet(version: u8, message: &str) -> Vec<u8> {
    [envelope(version), message.as_bytes().to_vec()].concat()
}

/// A frame of a session with the agent that has a message.
fn frame(message: &str) -> Vec<u8> {
    let length = u32::try_from(message.len()).unwrap().to_le_bytes();
    [&[1][..], &length, message.as_bytes()].concat()
}

fn send(socket: &OwnedFd, packet: &[u8], attached: Option<&UnixStream>) {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let descriptors = attached.map(|attached| [attached.as_fd()]);
    if let Some(descriptors) = &descriptors {
        assert!(ancillary.push(SendAncillaryMessage::ScmRights(descriptors)));
    }
    let flags = SendFlags::NOSIGNAL;
    sendmsg(socket, &[IoSlice::new(packet)], &mut ancillary, flags).unwrap();
}

fn receive(socket: &OwnedFd) -> (Vec<u8>, Option<UnixStream>) {
    let mut packet = vec![0; PACKET];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let parts = &mut [IoSliceMut::new(&mut packet)];
    let length = recvmsg(socket, parts, &mut ancillary, RecvFlags::CMSG_CLOEXEC)
        .unwrap()
        .bytes;
    packet.truncate(length);
    let attached = ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    });
    (packet, attached.map(UnixStream::from))
}

/// A running workspace `w` on engine `qemu`.
struct Running {
    host: Host,
    _layout: Layout,
}

impl Running {
    fn lock(&self) -> PathBuf {
        self.host.state().join("workspaces/w/lock")
    }

    fn start(&self) {
        let words = ["--engine", "qemu", "--quiet", "start", "w"];
        self.host.microagent(words).finish().expect_code(0);
    }

    /// What the supervisor answers to `request`, as text after the envelope of the same version.
    fn ask(&self, version: u8, request: &str, attached: Option<&UnixStream>) -> String {
        let holder = fs::read(self.lock()).unwrap();
        let holder: serde_json::Value = serde_json::from_slice(&holder).unwrap();
        let address = SocketAddrUnix::new(holder["socket"].as_str().unwrap()).unwrap();
        let socket = socket();
        connect(&socket, &address).unwrap();
        send(&socket, &packet(version, request), attached);
        let (reply, _) = receive(&socket);
        assert_eq!(reply[..8], envelope(version), "{reply:?}");
        String::from_utf8(reply[8..].to_vec()).unwrap()
    }

    fn event(&self) -> String {
        let words = ["--json", "status", "w"];
        let status = self.host.microagent(words).finish().expect_code(0).json();
        format!("{} {}", status["state"], status["event"]["detail"])
    }
}

#[test]
fn a_supervisor_answers_commands_of_older_and_newer_releases() {
    or_skip!(tool::find("qemu-system-x86_64"));
    let host = or_skip!(built_kernel::host());
    let layout = or_skip!(Layout::busybox());
    let image = layout.reference("latest");
    let words = [
        "--engine", "qemu", "create", "w", "--memory", "128", "--image", &image,
    ];
    host.microagent(words).finish().expect_code(0);
    let running = Running {
        host,
        _layout: layout,
    };
    running.start();
    let pid = {
        let holder: serde_json::Value =
            serde_json::from_slice(&fs::read(running.lock()).unwrap()).unwrap();
        holder["pid"].as_u64().unwrap()
    };
    for version in [1, 2, NEWER] {
        // A newer command is answered as far as it asks for what is known.
        assert_eq!(
            running.ask(version, r#""status""#, None),
            format!(
                r#"{{"status":{{"state":"running","pid":{pid},"engine":"qemu","workload":false}}}}"#
            )
        );
    }
    assert_eq!(
        running.ask(NEWER, r#"{"dance":{"slowly":true}}"#, None),
        r#"{"refused":{"message":"the workspace is kept by another version of microagent (protocol 200)","state":null}}"#
    );
    // The agent, with the first version that is understood, and one that does not exist yet.
    for (version, newer) in [(9, ""), (10, r#","mood":"good""#)] {
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        let connected = running.ask(1, r#"{"connect":{"port":1024}}"#, Some(&theirs));
        assert_eq!(connected, r#""connected""#);
        drop(theirs);
        let exec = format!(
            r#"{{"exec":{{"argv":["echo","hello"],"env":[["PATH","/bin"]],"cwd":"/","user":"","stdin":false,"output":"separate","place":"beside"{newer}}}}}"#
        );
        ours.write_all(&[envelope(version), frame(&exec)].concat())
            .unwrap();
        let mut reply = Vec::new();
        ours.read_to_end(&mut reply).unwrap();
        let end = [
            &b"\x03\x06\x00\x00\x00hello\n"[..],
            &frame(r#"{"exited":{"code":0,"signal":null,"outOfMemory":false}}"#),
        ]
        .concat();
        assert!(reply.starts_with(b"\x7fuVM"), "{}", reply.escape_ascii());
        assert!(reply.ends_with(&end), "{}", reply.escape_ascii());
    }
    assert_eq!(
        running.ask(
            1,
            r#"{"stop":{"force":false,"reason":"by an old halt"}}"#,
            None
        ),
        r#"{"ended":{"state":"halted","result":null}}"#
    );
    assert_eq!(running.event(), r#""halted" "by an old halt""#);
    running.start();
    assert_eq!(
        running.ask(1, r#"{"kill":{"reason":"by an old kill"}}"#, None),
        r#"{"ended":{"state":"stopped","result":null}}"#
    );
    assert_eq!(running.event(), r#""stopped" "by an old kill""#);
    running.start();
    assert_eq!(
        running.ask(
            NEWER,
            r#"{"kill":{"reason":"by a new kill","failed":false,"gently":1}}"#,
            None
        ),
        r#"{"ended":{"state":"stopped","result":null}}"#
    );
    running
        .host
        .microagent(["delete", "w"])
        .finish()
        .expect_code(0);
    running.host.assert_clean();
}

/// A supervisor of another release: it holds the lock of a workspace, listens, and answers what it
/// is asked. Lives as long as this process.
struct Other {
    host: Host,
    _layout: Layout,
    _lock: File,
    _directory: tempfile::TempDir,
}

/// What it answers to a request that starts so, and what its agent does with a stream.
struct Recorded {
    status: &'static str,
    ended: [&'static str; 2],
    agent: (u8, &'static str, &'static str),
}

fn other(recorded: &'static Recorded) -> Result<Other, microagent_tests::Error> {
    let host = built_kernel::host()?;
    let layout = Layout::busybox()?;
    let image = layout.reference("latest");
    let words = [
        "--engine", "qemu", "create", "w", "--memory", "128", "--image", &image,
    ];
    host.microagent(words).finish().expect_code(0);
    let directory = tempfile::tempdir_in("/tmp").unwrap();
    let path = directory.path().join("shim");
    let listener = socket();
    bind(&listener, &SocketAddrUnix::new(&path).unwrap()).unwrap();
    listen(&listener, 16).unwrap();
    thread::spawn(move || {
        loop {
            let client = accept(&listener).unwrap();
            thread::spawn(move || answer(&client, recorded));
        }
    });
    let lock = hold(&host.state().join("workspaces/w/lock"), &path);
    Ok(Other {
        host,
        _layout: layout,
        _lock: lock,
        _directory: directory,
    })
}

/// Holds a lock as a supervisor does, for other processes than this one.
fn hold(path: &Path, socket: &Path) -> File {
    let mut lock = OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .unwrap();
    let operation = rustix::fs::FlockOperation::NonBlockingLockExclusive;
    rustix::fs::fcntl_lock(&lock, operation).unwrap();
    let holder = serde_json::json!({ "pid": std::process::id(), "socket": socket });
    lock.set_len(0).unwrap();
    writeln!(lock, "{holder}").unwrap();
    lock
}

fn answer(client: &OwnedFd, recorded: &Recorded) {
    let (request, attached) = receive(client);
    // The version of the client, whatever the own one is.
    let (envelope, request) = request.split_at(8);
    let reply = |message: &str| send(client, &[envelope, message.as_bytes()].concat(), None);
    match std::str::from_utf8(request).unwrap() {
        r#""status""# => reply(recorded.status),
        r#"{"connect":{"port":1024}}"# => {
            reply(r#""connected""#);
            agent(attached.unwrap(), recorded.agent);
        }
        request if request.starts_with(r#"{"stop":{"force":false,"#) => reply(recorded.ended[0]),
        request if request.starts_with(r#"{"kill":{"#) => reply(recorded.ended[1]),
        request => reply(&format!(r#"{{"refused":{{"message":{request:?}}}}}"#)),
    }
}

/// Answers one request to run a command.
fn agent(mut stream: UnixStream, (version, started, exited): (u8, &str, &str)) {
    let mut opening = [0; 13];
    stream.read_exact(&mut opening).unwrap();
    let length = u32::from_le_bytes(opening[9..].try_into().unwrap());
    let mut request = vec![0; length as usize];
    stream.read_exact(&mut request).unwrap();
    let request: serde_json::Value = serde_json::from_slice(&request).unwrap();
    let echo = request["exec"]["argv"][1].as_str().unwrap();
    let output = [&[3, echo.len() as u8, 0, 0, 0], echo.as_bytes()].concat();
    let all = [envelope(version), frame(started), output, frame(exited)].concat();
    stream.write_all(&all).unwrap();
    let _ = stream.read_to_end(&mut Vec::new());
}

/// Of version 1 of the workspace's protocol.
const OLD: Recorded = Recorded {
    status: r#"{"status":{"state":"running","pid":1,"engine":"qemu","workload":false}}"#,
    ended: [
        r#"{"ended":{"state":"halted"}}"#,
        r#"{"ended":{"state":"stopped"}}"#,
    ],
    agent: (
        9,
        r#"{"started":{"pid":7}}"#,
        r#"{"exited":{"code":3,"signal":null,"outOfMemory":false}}"#,
    ),
};

/// Of versions that do not exist yet.
const NEW: Recorded = Recorded {
    status: r#"{"status":{"state":"running","pid":1,"engine":"qemu","workload":false,"mood":"good"}}"#,
    ended: [
        r#"{"ended":{"state":"halted","result":null,"mood":"good"}}"#,
        r#"{"ended":{"state":"stopped","result":null,"mood":"good"}}"#,
    ],
    agent: (
        10,
        r#"{"started":{"pid":7,"innerPid":null,"mood":"good"}}"#,
        r#"{"exited":{"code":3,"signal":null,"outOfMemory":false,"mood":"good"}}"#,
    ),
};

#[test]
fn commands_understand_supervisors_of_older_and_newer_releases() {
    or_skip!(tool::find("qemu-system-x86_64"));
    for recorded in [&OLD, &NEW] {
        let other = or_skip!(other(recorded));
        add_newer_field(&other.host);
        let script = "microagent exec w -- echo hello; echo \" $?\"
            microagent status w | grep ^state; microagent ps | awk 'NR > 1 {print $1, $2}'
            microagent --json halt w; microagent --json kill w";
        let finished = other.host.shell(script).finish();
        let ended = |state| format!("{{\n  \"workspace\": \"w\",\n  \"state\": \"{state}\"\n}}\n");
        let expected = format!(
            "hello 3\nstate      starting\nw starting\n{}{}",
            ended("halted"),
            ended("stopped")
        );
        assert_eq!(finished.text(), expected, "{}", finished.errors());
    }
}

/// Adds a field to the manifest of the workspace `w` that does not exist yet.
fn add_newer_field(host: &Host) {
    let path = host.state().join("workspaces/w/spec.json");
    let text = fs::read_to_string(&path).unwrap();
    let newer = text.replacen("{\n", "{\n  \"mood\": {\"good\": true},\n", 1);
    fs::write(&path, newer).unwrap();
}

/// What a newer release recorded is shown and can be deleted, but is not started without the part
/// that is not understood.
#[test]
fn a_manifest_of_a_newer_release_is_read_but_nothing_is_started_or_made_of_it() {
    or_skip!(tool::find("qemu-system-x86_64"));
    let host = or_skip!(built_kernel::host());
    let layout = or_skip!(Layout::busybox());
    let image = layout.reference("latest");
    let words = ["--engine", "qemu", "create", "w", "--image", &image];
    host.microagent(words).finish().expect_code(0);
    add_newer_field(&host);
    let script = r#"exec 2>&1; microagent status w | grep ^state; microagent list | awk 'NR > 1 {print $1, $2}'; microagent diff w; echo $?
        echo "name: w" >spec.yaml; for command in 'start w' 'clone w c' 'apply --file spec.yaml'; do
            microagent --quiet --engine qemu $command 2>&1 | sed 's/.*spec.json:/spec.json:/' | head -n 1; done
        microagent list | wc -l; microagent delete w; ls "$MICROAGENT_STATE_DIR/workspaces" "$MICROAGENT_STATE_DIR/cas/roots" | grep -c workspace-"#;
    let unknown = "spec.json:2: unknown field \"mood\"; use one of name, role, image";
    let text = host.shell(script).finish().text();
    let mut lines = text.lines();
    let mut next = |count| lines.by_ref().take(count).collect::<Vec<_>>();
    assert_eq!(
        next(3),
        ["state      prepared", "w prepared", "0"],
        "{text}"
    );
    for line in next(3) {
        assert!(line.starts_with(unknown), "{text}");
    }
    assert_eq!(next(3), ["2", "w", "0"], "{text}");
    host.assert_clean();
}
