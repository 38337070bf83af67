//! `guest-runtime SOCKET FOLDER RUN_GUEST`: serves CRI on SOCKET. Its sandboxes are QEMU guests that the program
//! RUN_GUEST boots in subfolders of FOLDER, with their hybrid vsock sockets at `FOLDER/ID/v.sock`.

use std::error::Error;
use std::path::PathBuf;

use gangplank_e2e_node::sandboxes::Sandboxes;
use gangplank_e2e_node::server;
use gangplank_e2e_node::store::Store;
use tokio::net::UnixListener;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let [socket, folder, run_guest] = &args[..] else {
        return Err("use: guest-runtime SOCKET FOLDER RUN_GUEST".into());
    };
    let sandboxes = Sandboxes::new(Store::open(folder.clone())?, run_guest.clone());
    // Left by one that was killed.
    if socket.exists() {
        std::fs::remove_file(socket)?;
    }
    server::serve(UnixListener::bind(socket)?, sandboxes).await?;
    Ok(())
}
