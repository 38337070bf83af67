//! Local ports, TCP or UDP.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use gangplank_dial::Network;
use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::mpsc;

use super::forwarded_port::ForwardedPort;
use super::{ForwardError, Incoming, PortPair, udp};
use crate::listen;

/// A local port on one address.
#[derive(Debug)]
pub(super) enum LocalListener {
    Tcp(TcpListener),
    Udp(UdpSocket),
}

impl LocalListener {
    async fn bind(network: Network, address: IpAddr, port: u16) -> io::Result<Self> {
        match network {
            Network::Udp => UdpSocket::bind((address, port)).await.map(Self::Udp),
            _ => TcpListener::bind((address, port)).await.map(Self::Tcp),
        }
    }

    pub(super) fn local_addr(&self) -> io::Result<SocketAddr> {
        match self {
            Self::Tcp(listener) => listener.local_addr(),
            Self::Udp(socket) => socket.local_addr(),
        }
    }

    /// Passes on connections or datagrams until the receiver is dropped.
    pub(super) async fn serve(self, forwarded: Arc<ForwardedPort>, to: mpsc::Sender<Incoming>) {
        match self {
            Self::Tcp(listener) => accept(listener, forwarded, to).await,
            Self::Udp(socket) => udp::serve(socket, forwarded, to).await,
        }
    }
}

async fn accept(listener: TcpListener, forwarded: Arc<ForwardedPort>, to: mpsc::Sender<Incoming>) {
    loop {
        let socket = listen::accept(&listener).await;
        let _ = socket.set_nodelay(true); // fails only if the connection has already ended
        if to.send(Incoming::Tcp(Arc::clone(&forwarded), socket)).await.is_err() {
            return;
        }
    }
}

/// Listens on the given address; without one, on 127.0.0.1 and ::1, or whichever of them is available.
pub(super) async fn bind(pair: PortPair) -> Result<Vec<LocalListener>, ForwardError> {
    let PortPair { address: Some(address), local: port, network, .. } = pair else {
        return loopback(pair.network, pair.local).await;
    };
    match LocalListener::bind(network, address, port).await {
        Ok(listener) => Ok(vec![listener]),
        Err(source) => Err(ForwardError::Listen { address: address.to_string(), port, source }),
    }
}

async fn loopback(network: Network, port: u16) -> Result<Vec<LocalListener>, ForwardError> {
    let v4 = LocalListener::bind(network, Ipv4Addr::LOCALHOST.into(), port).await;
    // Use the same port on both addresses, even if the system chose it.
    let port = v4.as_ref().ok().and_then(|v4| v4.local_addr().ok()).map_or(port, |v4| v4.port());
    let v6 = LocalListener::bind(network, Ipv6Addr::LOCALHOST.into(), port).await;
    match (v4, v6) {
        (Err(source), Err(_)) => {
            Err(ForwardError::Listen { address: "127.0.0.1 or [::1]".into(), port, source })
        }
        (v4, v6) => Ok(v4.into_iter().chain(v6).collect()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(listeners: &[LocalListener]) -> Vec<SocketAddr> {
        listeners.iter().map(|listener| listener.local_addr().unwrap()).collect()
    }

    #[tokio::test]
    async fn a_chosen_port_is_the_same_on_both_addresses() {
        for network in [Network::Tcp, Network::Udp] {
            let addresses = addresses(&loopback(network, 0).await.unwrap());
            assert!(addresses[0].ip().is_loopback() && addresses[0].port() != 0);
            assert!(addresses.iter().all(|address| address.port() == addresses[0].port()));
        }
    }

    #[tokio::test]
    async fn one_address_is_enough() {
        let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = taken.local_addr().unwrap().port();
        let addresses = addresses(&loopback(Network::Tcp, port).await.unwrap());
        assert_eq!(addresses, [SocketAddr::from((Ipv6Addr::LOCALHOST, port))]);
    }

    #[tokio::test]
    async fn a_port_in_use_on_both_addresses_is_named_in_the_error() {
        let _taken = loopback(Network::Tcp, 0).await.unwrap();
        let port = _taken[0].local_addr().unwrap().port();
        let error = loopback(Network::Tcp, port).await.unwrap_err().to_string();
        assert!(error.contains(&format!("port {port}")), "{error}");
    }
}
