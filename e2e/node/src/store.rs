//! Sandboxes and containers as files: a folder for each sandbox, in it one message for the sandbox, one for each of
//! its containers, and the guest's files.

use std::io;
use std::path::{Path, PathBuf};

use k8s_api::cri::{PodSandbox, PodSandboxState};
use prost::Message;
use tonic::Status;

use crate::messages::{Container, ContainerState};

/// The extension of a file that is still being written.
const NEW: &str = "new";

/// The folder of all sandboxes.
#[derive(Debug, Clone)]
pub struct Store(PathBuf);

impl Store {
    /// Uses this folder, which is created if necessary. Guests' sockets are in it, so its path must be short.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn open(root: PathBuf) -> io::Result<Self> {
        std::fs::create_dir_all(&root)?;
        Ok(Self(root))
    }

    /// A sandbox's own folder.
    pub fn folder(&self, sandbox: &str) -> PathBuf {
        self.0.join(sandbox)
    }

    /// All sandboxes, each ready only while its guest runs.
    ///
    /// # Errors
    /// If a file cannot be read.
    pub fn sandboxes(&self) -> Result<Vec<PodSandbox>, Status> {
        let mut sandboxes = Vec::new();
        for folder in entries(&self.0)? {
            // A sandbox that is being created or removed has none.
            if let Some(mut sandbox) = read::<PodSandbox>(&folder.join("sandbox"))? {
                if !is_running(&folder) {
                    sandbox.state = PodSandboxState::SandboxNotready.into();
                }
                sandboxes.push(sandbox);
            }
        }
        Ok(sandboxes)
    }

    /// Saves a new or changed sandbox.
    ///
    /// # Errors
    /// If its folder cannot be written.
    pub fn put_sandbox(&self, sandbox: &PodSandbox) -> Result<(), Status> {
        write(&self.folder(&sandbox.id).join("sandbox"), sandbox)
    }

    /// The sandbox with this id or prefix.
    ///
    /// # Errors
    /// If there is none.
    pub fn sandbox(&self, id: &str) -> Result<PodSandbox, Status> {
        let found =
            self.sandboxes()?.into_iter().find(|sandbox| !id.is_empty() && sandbox.id.starts_with(id));
        found.ok_or_else(|| Status::not_found(format!("no sandbox {id:?}")))
    }

    /// All containers. Those whose guest has ended have exited.
    ///
    /// # Errors
    /// If a file cannot be read.
    pub fn containers(&self) -> Result<Vec<Container>, Status> {
        let mut containers = Vec::new();
        for folder in entries(&self.0)? {
            for file in entries(&folder.join("containers"))? {
                let Some(mut container) = read::<Container>(&file)? else { continue };
                if container.state() == ContainerState::Running && !is_running(&folder) {
                    container.state = ContainerState::Exited.into();
                }
                containers.push(container);
            }
        }
        Ok(containers)
    }

    /// Saves a new or changed container.
    ///
    /// # Errors
    /// If its sandbox is gone, or its file cannot be written.
    pub fn put_container(&self, container: &Container) -> Result<(), Status> {
        write(&self.container_file(container), container)
    }

    /// The container with this id.
    ///
    /// # Errors
    /// If there is none.
    pub fn container(&self, id: &str) -> Result<Container, Status> {
        let found = self.containers()?.into_iter().find(|container| container.id == id);
        found.ok_or_else(|| Status::not_found(format!("no container {id:?}")))
    }

    /// Removes a container.
    ///
    /// # Errors
    /// If its file cannot be removed.
    pub fn remove_container(&self, container: &Container) -> Result<(), Status> {
        std::fs::remove_file(self.container_file(container)).map_err(internal)
    }

    fn container_file(&self, container: &Container) -> PathBuf {
        self.folder(&container.pod_sandbox_id).join("containers").join(&container.id)
    }
}

/// The process that runs the guest in this sandbox's folder, if it is running.
pub fn guest(folder: &Path) -> Option<u32> {
    let id = std::fs::read_to_string(folder.join("pid")).ok()?.parse().ok()?;
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    // proc(5): the state follows the name, which is in brackets. It may be a zombie.
    let (_, state) = stat.rsplit_once(") ")?;
    (!state.starts_with('Z')).then_some(id)
}

fn is_running(folder: &Path) -> bool {
    guest(folder).is_some()
}

/// The entries of a folder; none if it does not exist.
fn entries(folder: &Path) -> Result<Vec<PathBuf>, Status> {
    match std::fs::read_dir(folder) {
        Ok(entries) => {
            let paths = entries.map(|entry| Ok(entry.map_err(internal)?.path()));
            paths
                .filter(|path| !path.as_ref().is_ok_and(|path| path.extension() == Some(NEW.as_ref())))
                .collect()
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(internal(error)),
    }
}

fn read<M: Message + Default>(file: &Path) -> Result<Option<M>, Status> {
    match std::fs::read(file) {
        Ok(bytes) => M::decode(&bytes[..]).map(Some).map_err(internal),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(internal(error)),
    }
}

/// Writes a temporary file first, so that readers see either all of the old or all of the new.
fn write(file: &Path, message: &impl Message) -> Result<(), Status> {
    let new = file.with_extension(NEW);
    std::fs::write(&new, message.encode_to_vec()).map_err(internal)?;
    std::fs::rename(&new, file).map_err(internal)
}

pub(crate) fn internal(error: impl std::fmt::Display) -> Status {
    Status::internal(error.to_string())
}
