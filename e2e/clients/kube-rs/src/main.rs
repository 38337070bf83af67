//! Forwards ports of a pod with kube-rs and prints a line for each check that passes.
//!
//! Arguments: a kubeconfig, the pod, the ports of an echo service and a web page, and a closed port.

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};
use rand::RngCore;
use sha2::{Digest, Sha256};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

const LENGTH: usize = 8 << 20;

#[tokio::main]
async fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [kubeconfig, pod, ports @ ..] = arguments.as_slice() else {
        anyhow::bail!("missing kubeconfig or pod")
    };
    let ports = ports.iter().map(|port| port.parse()).collect::<Result<Vec<u16>, _>>()?;
    let &[echo_port, page_port, closed_port] = ports.as_slice() else {
        anyhow::bail!("expected three ports")
    };
    let config =
        Config::from_custom_kubeconfig(Kubeconfig::read_from(kubeconfig)?, &KubeConfigOptions::default())
            .await?;
    let pods: Api<Pod> = Api::namespaced(Client::try_from(config)?, "default");

    let mut all = pods.portforward(pod, &[echo_port, page_port, closed_port]).await?;
    echo(all.take_stream(echo_port).context("no stream to the echo service")?).await?;
    println!("echoed");

    fetch(all.take_stream(page_port).context("no stream to the page")?).await?;
    println!("two ports");

    let error = all.take_error(closed_port).context("no error channel")?.await;
    let error = error.context("no error for the closed port")?;
    ensure!(
        error.contains(&format!("error forwarding port {closed_port} to pod")),
        "unexpected error: {error}"
    );
    println!("refused");
    Ok(())
}

/// Sends and receives at the same time.
async fn echo(stream: impl AsyncRead + AsyncWrite + Unpin) -> Result<()> {
    let mut sent = vec![0; LENGTH];
    rand::rng().fill_bytes(&mut sent);
    let mut back = vec![0; LENGTH];
    let (mut reader, mut writer) = tokio::io::split(stream);
    let send = async {
        writer.write_all(&sent).await?;
        writer.flush().await
    };
    tokio::try_join!(send, reader.read_exact(&mut back))?;
    ensure!(Sha256::digest(&sent) == Sha256::digest(&back), "different bytes came back");
    Ok(())
}

/// Waits for the text of the page: the stream does not end while another port of the session is open.
async fn fetch(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> Result<()> {
    stream.write_all(b"GET / HTTP/1.1\r\nHost: pod\r\nConnection: close\r\n\r\n").await?;
    stream.flush().await?;
    let mut page = Vec::new();
    while !String::from_utf8_lossy(&page).contains("This page was served from inside the pod") {
        ensure!(stream.read_buf(&mut page).await? > 0, "unexpected page: {}", String::from_utf8_lossy(&page));
    }
    Ok(())
}
