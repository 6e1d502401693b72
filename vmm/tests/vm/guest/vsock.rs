//! `vsock connect PORT`: standard input goes to the host's port, what comes back to standard output,
//! each until its end; `vsock tcp ADDRESS` does the same over the network. `vsock echo PORT`:
//! listens, tells the host so by connecting to its port of the same number, and sends one
//! connection back what it sends. `vsock serve PORT ACCEPT CONNECT`: as `echo`, for so many
//! connections at once, and for so many more that it makes to the host's next port; then it says
//! how many came to their end, and waits until the host ends the first of all.
//! Compiled by the test, static, for the guest: busybox has no AF_VSOCK.

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
    // Only read, written and shut down, which is the same for all streams.
    Ok(OwnedFd::from(TcpStream::connect(address)?).into())
}

/// A socket that listens on this port, and the connection by which the host was told.
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
    let (listener, mut told) = listener(port, accepts)?;
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
    // What was sent is not yet received: a power-off now would lose it.
    pass(&mut told, &mut io::sink())
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
