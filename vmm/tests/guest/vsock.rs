//! `vsock connect PORT`: standard input goes to the host's port, what comes back to standard output,
//! each until its end. `vsock echo PORT`: listens, tells the host so by connecting to its port of
//! the same number, and sends one connection back what it sends. Compiled by the test, static, for
//! the guest: busybox has no AF_VSOCK.

use std::io::{self, Read, Write};
use std::net::Shutdown;
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

fn accept_one(port: u32) -> io::Result<UnixStream> {
    let socket = socket_in_guest()?;
    check(unsafe { bind(socket.as_raw_fd(), &address(ANY, port), 16) })?;
    check(unsafe { listen(socket.as_raw_fd(), 1) })?;
    connect_to_host(port)?;
    let fd = check(unsafe { accept(socket.as_raw_fd(), std::ptr::null(), std::ptr::null_mut()) })?;
    Ok(unsafe { UnixStream::from_raw_fd(fd) })
}

fn main() -> io::Result<()> {
    let arguments: Vec<String> = std::env::args().collect();
    let port = arguments[2].parse().unwrap();
    if arguments[1] == "echo" {
        let mut stream = accept_one(port)?;
        pass(&mut stream.try_clone()?, &mut stream)?;
        return stream.shutdown(Shutdown::Write);
    }
    let mut stream = connect_to_host(port)?;
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
