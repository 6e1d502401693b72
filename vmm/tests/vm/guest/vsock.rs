//! A vsock tool for the guest. The test compiles it statically; busybox has no AF_VSOCK.
//!
//! - `vsock connect PORT`: sends standard input to the host's port, and what it receives to
//!   standard output, until both end.
//! - `vsock tcp ADDRESS`: the same over TCP.
//! - `vsock echo PORT`: listens, connects to the host's port of the same number to report that, and
//!   echoes one connection.
//! - `vsock serve PORT ACCEPT CONNECT`: as `echo`, for ACCEPT connections at once, and for CONNECT
//!   connections that it opens to the host's next port. Prints how many ended, and waits until the
//!   host closes the connection that reported the listener.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;

const AF_VSOCK: u16 = 40;
const HOST: u32 = 2;
const ANY: u32 = u32::MAX;

#[repr(C)]
struct SockaddrVm {
    family: u16,
    reserved: u16,
    port: u32,
    cid: u32,
    zero: [u8; 4],
}

unsafe extern "C" {
    fn socket(domain: i32, kind: i32, protocol: i32) -> i32;
    fn connect(fd: i32, address: *const SockaddrVm, len: u32) -> i32;
    fn bind(fd: i32, address: *const SockaddrVm, len: u32) -> i32;
    fn listen(fd: i32, backlog: i32) -> i32;
    fn accept(fd: i32, address: *const SockaddrVm, len: *mut u32) -> i32;
}

fn check(result: i32) -> io::Result<i32> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

fn socket_in_guest() -> io::Result<OwnedFd> {
    let fd = check(unsafe { socket(i32::from(AF_VSOCK), 1, 0) })?;
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn address(cid: u32, port: u32) -> SockaddrVm {
    SockaddrVm {
        family: AF_VSOCK,
        reserved: 0,
        port,
        cid,
        zero: [0; 4],
    }
}

fn connect_to_host(port: u32) -> io::Result<UnixStream> {
    let socket = socket_in_guest()?;
    check(unsafe { connect(socket.as_raw_fd(), &address(HOST, port), 16) })?;
    Ok(socket.into())
}

fn connect_over_network(address: &str) -> io::Result<UnixStream> {
    // It is only read, written and shut down, which all stream sockets support.
    Ok(OwnedFd::from(TcpStream::connect(address)?).into())
}

/// A socket that listens on this port, and the connection that reported it to the host.
fn listener(port: u32, backlog: i32) -> io::Result<(OwnedFd, UnixStream)> {
    let socket = socket_in_guest()?;
    check(unsafe { bind(socket.as_raw_fd(), &address(ANY, port), 16) })?;
    check(unsafe { listen(socket.as_raw_fd(), backlog) })?;
    Ok((socket, connect_to_host(port)?))
}

fn accept_one(listener: &OwnedFd) -> io::Result<UnixStream> {
    let fd = check(unsafe {
        accept(
            listener.as_raw_fd(),
            std::ptr::null(),
            std::ptr::null_mut(),
        )
    })?;
    Ok(unsafe { UnixStream::from_raw_fd(fd) })
}

fn echo(mut stream: UnixStream) -> io::Result<()> {
    pass(&mut stream.try_clone()?, &mut stream)?;
    stream.shutdown(Shutdown::Write)
}

fn serve(port: u32, accepts: i32, connects: i32) -> io::Result<()> {
    let (listener, mut report) = listener(port, accepts)?;
    let mut threads = Vec::new();
    for _ in 0..connects {
        let stream = connect_to_host(port + 1)?;
        threads.push(std::thread::spawn(move || echo(stream)));
    }
    for _ in 0..accepts {
        let stream = accept_one(&listener)?;
        threads.push(std::thread::spawn(move || echo(stream)));
    }
    let mut ended = 0;
    for thread in threads {
        thread.join().unwrap()?;
        ended += 1;
    }
    println!("GUEST served {ended}");
    // Wait until the sent data is received: a power-off would lose it.
    pass(&mut report, &mut io::sink())
}

fn main() -> io::Result<()> {
    let arguments: Vec<String> = std::env::args().collect();
    if arguments[1] == "tcp" {
        return exchange(connect_over_network(&arguments[2])?);
    }
    let port = arguments[2].parse().unwrap();
    if arguments[1] == "echo" {
        let (listener, _) = listener(port, 1)?;
        return echo(accept_one(&listener)?);
    }
    if arguments[1] == "serve" {
        let [accepts, connects] = [2, 3].map(|n| arguments[n + 1].parse().unwrap());
        return serve(port, accepts, connects);
    }
    exchange(connect_to_host(port)?)
}

fn exchange(mut stream: UnixStream) -> io::Result<()> {
    let mut to = stream.try_clone()?;
    let sender = std::thread::spawn(move || -> io::Result<()> {
        pass(&mut io::stdin(), &mut to)?;
        to.shutdown(Shutdown::Write)
    });
    pass(&mut stream, &mut io::stdout())?;
    sender.join().unwrap()
}

fn pass(from: &mut dyn Read, to: &mut dyn Write) -> io::Result<()> {
    let mut bytes = [0; 65536];
    loop {
        match from.read(&mut bytes)? {
            0 => return to.flush(),
            n => to.write_all(&bytes[..n])?,
        }
    }
}
