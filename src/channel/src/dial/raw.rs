//! Reads and writes of a connection that is not a channel yet.

use std::io;

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};
use tokio::io::Interest;

use crate::descriptor::{Descriptor, watch_writing};

/// Reads once; 0 is the end.
pub(super) async fn read(descriptor: &Descriptor, into: &mut [u8], flags: RecvFlags) -> io::Result<usize> {
    descriptor
        .async_io(Interest::READABLE, |fd| {
            retry(|| rustix::net::recv(fd, &mut *into, flags)).map(|(len, _)| len)
        })
        .await
}

pub(super) async fn write_all(descriptor: &Descriptor, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match write(descriptor, bytes) {
            Ok(sent) => bytes = &bytes[sent..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                drop(watch_writing(descriptor.get_ref())?.writable().await?);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Writes once, without waiting.
pub(super) fn write(descriptor: &Descriptor, bytes: &[u8]) -> io::Result<usize> {
    retry(|| rustix::net::send(descriptor.get_ref(), bytes, SendFlags::NOSIGNAL))
}

fn retry<T>(call: impl FnMut() -> rustix::io::Result<T>) -> io::Result<T> {
    rustix::io::retry_on_intr(call).map_err(|error: Errno| error.into())
}
