//! What the runtime does with sandboxes and their containers. A sandbox is a guest, booted by `run-guest`, whose
//! programs start with it, so its containers are only records.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use data_encoding::HEXLOWER;
use k8s_api::cri::{
    ListPodSandboxRequest, ListPodSandboxResponse, PodSandbox, PodSandboxState, PodSandboxStatus,
    PodSandboxStatusRequest, PodSandboxStatusResponse, RemovePodSandboxRequest, RunPodSandboxRequest,
    RunPodSandboxResponse, StopPodSandboxRequest,
};
use rustix::process::{Pid, Signal, kill_process};
use tonic::Status;

use crate::messages::{
    Container, ContainerId, ContainerState, ContainerStatus, ContainerStatusResponse, CreateContainerRequest,
    ListContainersRequest, ListContainersResponse,
};
use crate::store::{self, Store, internal};

/// The exit status that a shell reports for a program ended by SIGKILL.
const KILLED: i32 = 128 + 9;

/// How long a guest may take to end.
const END: Duration = Duration::from_secs(10);

/// The sandboxes.
#[derive(Debug, Clone)]
pub struct Sandboxes {
    store: Store,
    run_guest: PathBuf,
}

impl Sandboxes {
    /// Manages the sandboxes in this store; this program boots new ones.
    pub fn new(store: Store, run_guest: PathBuf) -> Self {
        Self { store, run_guest }
    }

    /// Boots a guest and returns once its relay is up.
    ///
    /// # Errors
    /// If it does not come up.
    pub fn run(&self, asked: RunPodSandboxRequest) -> Result<RunPodSandboxResponse, Status> {
        let config = asked.config.ok_or_else(|| Status::invalid_argument("no config"))?;
        let id = new_id()?;
        let folder = self.store.folder(&id);
        std::fs::create_dir_all(folder.join("containers")).map_err(internal)?;
        let guest = boot(&self.run_guest, &folder)?;
        std::fs::write(folder.join("pid"), guest.id().to_string()).map_err(internal)?;
        collect(guest);
        self.store.put_sandbox(&PodSandbox {
            id: id.clone(),
            metadata: config.metadata,
            state: PodSandboxState::SandboxReady.into(),
            created_at: now(),
            labels: config.labels,
            annotations: config.annotations,
            runtime_handler: asked.runtime_handler,
        })?;
        Ok(RunPodSandboxResponse { pod_sandbox_id: id })
    }

    /// Ends its guest, and so its containers. An unknown sandbox counts as stopped.
    ///
    /// # Errors
    /// If that cannot be recorded, or the guest does not end.
    pub fn stop(&self, asked: &StopPodSandboxRequest) -> Result<(), Status> {
        let Ok(mut sandbox) = self.store.sandbox(&asked.pod_sandbox_id) else { return Ok(()) };
        end(&self.store.folder(&sandbox.id))?;
        sandbox.state = PodSandboxState::SandboxNotready.into();
        self.store.put_sandbox(&sandbox)
    }

    /// Removes it.
    ///
    /// # Errors
    /// If its folder cannot be removed.
    pub fn remove(&self, asked: &RemovePodSandboxRequest) -> Result<(), Status> {
        let Ok(sandbox) = self.store.sandbox(&asked.pod_sandbox_id) else { return Ok(()) };
        let folder = self.store.folder(&sandbox.id);
        end(&folder)?;
        std::fs::remove_dir_all(folder).map_err(internal)
    }

    /// The sandboxes that match the filter.
    ///
    /// # Errors
    /// If they cannot be read.
    pub fn list(&self, asked: ListPodSandboxRequest) -> Result<ListPodSandboxResponse, Status> {
        let filter = asked.filter.unwrap_or_default();
        let mut items = self.store.sandboxes()?;
        items.retain(|item| {
            item.id.starts_with(&filter.id)
                && filter.state.is_none_or(|wanted| wanted.state == item.state)
                && filter.label_selector.iter().all(|(key, value)| item.labels.get(key) == Some(value))
        });
        Ok(ListPodSandboxResponse { items })
    }

    /// One in full.
    ///
    /// # Errors
    /// If there is none with this id.
    pub fn status(&self, asked: &PodSandboxStatusRequest) -> Result<PodSandboxStatusResponse, Status> {
        let sandbox = self.store.sandbox(&asked.pod_sandbox_id)?;
        let status = PodSandboxStatus {
            id: sandbox.id,
            metadata: sandbox.metadata,
            state: sandbox.state,
            created_at: sandbox.created_at,
            labels: sandbox.labels,
            annotations: sandbox.annotations,
            runtime_handler: sandbox.runtime_handler,
            ..PodSandboxStatus::default()
        };
        Ok(PodSandboxStatusResponse { status: Some(status), ..PodSandboxStatusResponse::default() })
    }

    /// Records a container.
    ///
    /// # Errors
    /// If its sandbox is not known.
    pub fn create_container(&self, asked: CreateContainerRequest) -> Result<ContainerId, Status> {
        let sandbox = self.store.sandbox(&asked.pod_sandbox_id)?;
        let config = asked.config.ok_or_else(|| Status::invalid_argument("no config"))?;
        let image_ref = config.image.as_ref().map(|image| image.image.clone()).unwrap_or_default();
        let id = new_id()?;
        self.store.put_container(&Container {
            id: id.clone(),
            pod_sandbox_id: sandbox.id,
            metadata: config.metadata,
            image: config.image,
            image_ref,
            state: ContainerState::Created.into(),
            created_at: now(),
            labels: config.labels,
            annotations: config.annotations,
        })?;
        Ok(ContainerId { container_id: id })
    }

    /// Records that it runs, or no longer does.
    ///
    /// # Errors
    /// If it is not known.
    pub fn set_container(&self, asked: &ContainerId, state: ContainerState) -> Result<(), Status> {
        let mut container = self.store.container(&asked.container_id)?;
        container.state = state.into();
        self.store.put_container(&container)
    }

    /// Removes a container.
    ///
    /// # Errors
    /// If its file cannot be removed.
    pub fn remove_container(&self, asked: &ContainerId) -> Result<(), Status> {
        let Ok(container) = self.store.container(&asked.container_id) else { return Ok(()) };
        self.store.remove_container(&container)
    }

    /// The containers that match the filter.
    ///
    /// # Errors
    /// If they cannot be read.
    pub fn containers(&self, asked: ListContainersRequest) -> Result<ListContainersResponse, Status> {
        let filter = asked.filter.unwrap_or_default();
        let mut containers = self.store.containers()?;
        containers.retain(|container| {
            container.id.starts_with(&filter.id)
                && container.pod_sandbox_id.starts_with(&filter.pod_sandbox_id)
                && filter.state.as_ref().is_none_or(|wanted| wanted.state == container.state)
                && filter.label_selector.iter().all(|(key, value)| container.labels.get(key) == Some(value))
        });
        Ok(ListContainersResponse { containers })
    }

    /// One container in full.
    ///
    /// # Errors
    /// If it is not known.
    pub fn container_status(&self, asked: &ContainerId) -> Result<ContainerStatusResponse, Status> {
        let container = self.store.container(&asked.container_id)?;
        let state = container.state();
        let started = if state == ContainerState::Created { 0 } else { container.created_at };
        let exited = state == ContainerState::Exited;
        let status = ContainerStatus {
            id: container.id,
            metadata: container.metadata,
            state: state.into(),
            created_at: container.created_at,
            started_at: started,
            finished_at: if exited { started } else { 0 },
            exit_code: if exited { KILLED } else { 0 },
            image: container.image,
            image_ref: container.image_ref,
            labels: container.labels,
            annotations: container.annotations,
        };
        Ok(ContainerStatusResponse { status: Some(status) })
    }
}

/// Starts `run-guest`, which prints one line once the guest is ready, and outlives this process.
fn boot(run_guest: &Path, folder: &Path) -> Result<Child, Status> {
    let log = std::fs::File::create(folder.join("run-guest.log")).map_err(internal)?;
    let mut command = Command::new(run_guest);
    command.arg(folder).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log);
    let mut guest = command.spawn().map_err(internal)?;
    let mut line = String::new();
    if let Some(output) = guest.stdout.take() {
        BufReader::new(output).read_line(&mut line).map_err(internal)?;
    }
    if line.is_empty() {
        let log = std::fs::read_to_string(folder.join("run-guest.log")).unwrap_or_default();
        return Err(Status::internal(format!("the guest did not boot:\n{log}")));
    }
    Ok(guest)
}

/// Waits for the process, as its parent must.
fn collect(mut guest: Child) {
    std::thread::spawn(move || guest.wait());
}

/// Ends the guest in this folder, if there is one.
fn end(folder: &Path) -> Result<(), Status> {
    let deadline = Instant::now() + END;
    while let Some(id) = store::guest(folder) {
        let process = i32::try_from(id).ok().and_then(Pid::from_raw);
        // It may have ended in the meantime.
        let _ = process.map(|process| kill_process(process, Signal::KILL));
        if Instant::now() > deadline {
            return Err(Status::deadline_exceeded("the guest does not end"));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

/// Half as long as other runtimes' ids, because it is part of socket paths.
fn new_id() -> Result<String, Status> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(internal)?;
    Ok(HEXLOWER.encode(&bytes))
}

/// Nanoseconds since 1970.
fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}
