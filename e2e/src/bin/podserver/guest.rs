//! What podserver serves in a guest beside the pod's ports: the benchmark's ports by TCP and, to compare with, by raw
//! vsock and through a plain relay; an echo by UDP and by a Unix socket; and a vsock port that kills the relay.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use gangplank_e2e::bulk;
use gangplank_e2e::services::{
    BULK_PORT, HOP_PORT, KILL_PORT, PLAIN_PORT, RAW_PORT, READY_PORT, RELAY_PORT, UDP_PORT, UNIX_SOCKET,
};
use rustix::process::{Pid, Signal, kill_process};

use crate::hop;
use socket2::{Domain, SockAddr, Socket, Type};

/// vsock's addresses (vsock(7)): of anybody, of the guest itself, of its host.
const ANY_CID: u32 = u32::MAX;
const LOCAL_CID: u32 = 1;
const HOST_CID: u32 = 2;

/// Starts all of it.
pub(crate) fn serve() -> io::Result<()> {
    for port in bulk::Port::ALL {
        let tcp = SocketAddr::from((Ipv4Addr::LOCALHOST, BULK_PORT + port as u16));
        bulk::serve(bulk::listen(Domain::IPV4, &tcp.into())?, port);
        let raw = SockAddr::vsock(ANY_CID, RAW_PORT + port as u32);
        bulk::serve(bulk::listen(Domain::VSOCK, &raw)?, port);
    }
    bulk::serve(bulk::listen(Domain::UNIX, &SockAddr::unix(UNIX_SOCKET)?)?, bulk::Port::Echo);
    let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, UDP_PORT))?;
    thread::spawn(move || echo_datagrams(&udp));
    let killer = bulk::listen(Domain::VSOCK, &SockAddr::vsock(ANY_CID, KILL_PORT))?;
    thread::spawn(move || {
        while let Ok((_asking, _)) = killer.accept() {
            kill_relay();
        }
    });
    Ok(())
}

/// A relay of the simplest kind, in a process of its own as any relay is: on an emulated processor, it is the change
/// from one process to another that costs most.
pub(crate) fn serve_plainly() -> io::Result<()> {
    for port in bulk::Port::ALL {
        let tcp = SocketAddr::from((Ipv4Addr::LOCALHOST, BULK_PORT + port as u16));
        let plain = bulk::listen(Domain::VSOCK, &SockAddr::vsock(ANY_CID, PLAIN_PORT + port as u32))?;
        thread::spawn(move || relay_plainly(&plain, tcp));
    }
    let hop = bulk::listen(Domain::VSOCK, &SockAddr::vsock(ANY_CID, HOP_PORT))?;
    thread::spawn(move || hop::serve(&hop));
    Ok(())
}

fn relay_plainly(listener: &Socket, to: SocketAddr) {
    while let Ok((host, _)) = listener.accept() {
        // What fails here fails for the host, which tells of it.
        let _ = thread::Builder::new().spawn(move || -> io::Result<()> {
            let pod = Socket::new(Domain::IPV4, Type::STREAM, None)?;
            pod.set_tcp_nodelay(true)?;
            pod.connect(&to.into())?;
            let (from, back) = (host.try_clone()?, pod.try_clone()?);
            thread::spawn(move || carry(&from, &back));
            carry(&pod, &host);
            host.shutdown(Shutdown::Both)
        });
    }
}

/// Until either side ends.
fn carry(mut from: &Socket, mut to: &Socket) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(len @ 1..) = from.read(&mut buffer) {
        if to.write_all(&buffer[..len]).is_err() {
            break;
        }
    }
    // The other thread may have done so.
    let _ = to.shutdown(Shutdown::Write);
}

fn echo_datagrams(socket: &UdpSocket) {
    let mut buffer = [0; 65_536];
    while let Ok((len, from)) = socket.recv_from(&mut buffer) {
        // One that cannot be sent is lost, as in any network.
        let _ = socket.send_to(&buffer[..len], from);
    }
}

fn kill_relay() {
    for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let name = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
        let pid = process.file_name().to_string_lossy().parse().ok().and_then(Pid::from_raw);
        if name.trim_end() == "gangplank-relay"
            && let Some(pid) = pid
        {
            // It may have ended already.
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}

/// Waits until the guest's own relay takes connections, then connects to the host.
pub(crate) fn announce() -> io::Result<()> {
    let deadline = Instant::now() + Duration::from_secs(20);
    while let Err(error) = connect_vsock(LOCAL_CID, RELAY_PORT) {
        if Instant::now() > deadline {
            return Err(io::Error::other(format!("no relay on vsock port {RELAY_PORT} after 20 s: {error}")));
        }
        thread::sleep(Duration::from_millis(20));
    }
    connect_vsock(HOST_CID, READY_PORT)?.write_all(b"READY")
}

fn connect_vsock(cid: u32, port: u32) -> io::Result<Socket> {
    let socket = Socket::new(Domain::VSOCK, Type::STREAM, None)?;
    socket.connect(&SockAddr::vsock(cid, port))?;
    Ok(socket)
}
