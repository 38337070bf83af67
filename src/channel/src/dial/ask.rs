//! One request and its answer, on a connection to the relay.

use std::io;

use rustix::net::RecvFlags;

use super::error::{Failure, OpenError, OpenErrorKind};
use super::raw::{read, write_all};
use crate::descriptor::Descriptor;
use crate::endpoint::Endpoint;
use crate::open::{Open, Opened, Opening, Opens};

/// Sends the request and reads the answer, and not a byte more.
pub(super) async fn ask(
    descriptor: &Descriptor,
    endpoint: &Endpoint,
    open: &Open,
) -> Result<Opened, Failure> {
    let broken = |error: io::Error| {
        let cause = format!(
            "{endpoint}: the connection broke before the relay answered ({error}); is the relay running?"
        );
        OpenError::new(OpenErrorKind::RelayNotReady, cause)
    };
    // A request that does not go out as a whole is not served.
    write_all(descriptor, &open.opening()).await.map_err(|error| Failure::NotServed(broken(error)))?;
    let mut opening = Opening::<Opened>::default();
    let mut buffer = [0; 256];
    loop {
        let wanted = opening.wanted().min(buffer.len());
        let read = read(descriptor, &mut buffer[..wanted], RecvFlags::empty()).await;
        let len = match read
            .and_then(|len| if len > 0 { Ok(len) } else { Err(io::ErrorKind::UnexpectedEof.into()) })
        {
            Ok(len) => len,
            Err(error) if opening.has_preamble() => return Err(broken(error).into()),
            Err(error) => return Err(Failure::NotServed(broken(error))),
        };
        match opening.handle(&buffer[..len]) {
            Ok(None) => {}
            Ok(Some(opened)) => return Ok(opened),
            Err(error) => {
                let cause = format!("{endpoint}: the peer is not a usable relay: {error}");
                return Err(OpenError::new(OpenErrorKind::RelayUnusable, cause).into());
            }
        }
    }
}
