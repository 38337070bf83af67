//! The programs of a test pod: `podserver --base PORT [--announce]`.
//!
//! Serves [`SERVICES`] on 127.0.0.1 at base + number, or on free ports with `--base 0`; prints one line
//! `NAME PORT` each, then `ready`. `--announce`, in a guest: also serves what is the guest's alone, waits for the
//! relay, and then tells the host. `--plain`, in a guest: is a plain relay and nothing else.
#![allow(clippy::print_stdout, reason = "its ports are its output")]

mod guest;
mod hop;

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use gangplank_e2e::pattern::{Pattern, summary};
use gangplank_e2e::services::{LATE, PAGE, SERVICES, Service};
use socket2::{Domain, Socket, Type};

/// More than the 200 connections at once that tests open.
const BACKLOG: i32 = 1024;

fn main() -> io::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let (base, announce) = match args[..] {
        ["--plain"] => {
            guest::serve_plainly()?;
            loop {
                thread::park();
            }
        }
        ["--base", base] => (base, false),
        ["--base", base, "--announce"] => (base, true),
        _ => return Err(io::Error::other("use: podserver --base PORT [--announce], or podserver --plain")),
    };
    let base = base.parse().map_err(|_| io::Error::other(format!("podserver: {base} is not a port")))?;

    // Kept open until the program ends: the refused port must stay taken.
    let _sockets =
        SERVICES.map(|service| start(service, base)).into_iter().collect::<io::Result<Vec<_>>>()?;
    println!("ready");
    if announce {
        guest::serve()?;
        guest::announce()?;
    }
    loop {
        thread::park();
    }
}

/// Binds the service's port, prints it, and serves it in threads.
fn start(service: Service, base: u16) -> io::Result<Socket> {
    let port = if base == 0 { 0 } else { base + service as u16 };
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)).into())?;
    let port = socket.local_addr()?.as_socket().map_or(0, |address| address.port());
    println!("{service:?} {port}");
    if service != Service::Refused {
        socket.listen(BACKLOG)?;
        let listener = TcpListener::from(socket.try_clone()?);
        thread::spawn(move || accept(service, &listener));
    }
    Ok(socket)
}

fn accept(service: Service, listener: &TcpListener) {
    for stream in listener.incoming().flatten() {
        thread::spawn(move || {
            // A client that goes away is no failure of the pod's.
            let _ = serve(service, stream);
        });
    }
}

fn serve(service: Service, mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    match service {
        Service::Http => serve_http(stream),
        Service::Echo => {
            io::copy(&mut stream.try_clone()?, &mut stream)?;
            stream.shutdown(Shutdown::Write)
        }
        Service::Sink => answer_summary(stream, Duration::ZERO),
        Service::LateSink => answer_summary(stream, LATE),
        Service::Blackhole => loop {
            thread::park();
        },
        Service::Reset => {
            stream.read_exact(&mut [0])?;
            Socket::from(stream).set_linger(Some(Duration::ZERO))
        }
        Service::Refused => Ok(()),
    }
}

fn answer_summary(mut stream: TcpStream, delay: Duration) -> io::Result<()> {
    let summary = summary(&stream)?;
    thread::sleep(delay);
    stream.write_all(summary.as_bytes())
}

/// One request and one answer, after which the connection ends.
fn serve_http(mut stream: TcpStream) -> io::Result<()> {
    let mut head = BufReader::new(stream.try_clone()?).lines();
    let request = head.next().transpose()?.unwrap_or_default();
    while head.next().transpose()?.is_some_and(|line| !line.is_empty()) {}
    let path = request.split(' ').nth(1).unwrap_or_default();
    let size = path.strip_prefix("/bytes/").and_then(|size| size.parse().ok());
    match size {
        None if path == "/name" => answer_file(&stream, "/proc/sys/kernel/hostname")?,
        None if path == "/boot-id" => answer_file(&stream, "/proc/sys/kernel/random/boot_id")?,
        Some(size) => {
            write!(stream, "{}", ok_head("application/octet-stream", size))?;
            io::copy(&mut Pattern::new(size), &mut stream)?;
        }
        None if path == "/" => write!(stream, "{}{PAGE}", ok_head("text/plain", PAGE.len() as u64))?,
        None => write!(stream, "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")?,
    }
    stream.shutdown(Shutdown::Write)
}

fn answer_file(mut stream: &TcpStream, path: &str) -> io::Result<()> {
    let text = std::fs::read_to_string(path)?;
    write!(stream, "{}{text}", ok_head("text/plain", text.len() as u64))
}

fn ok_head(kind: &str, size: u64) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {size}\r\nConnection: close\r\n\r\n")
}
