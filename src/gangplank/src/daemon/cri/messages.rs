//! From the registry to CRI's messages.

use std::collections::BTreeMap;
use std::time::UNIX_EPOCH;

use k8s_api::cri::{
    API_VERSION, KUBE_API_VERSION, LinuxPodSandboxStatus, ListPodSandboxResponse, NETWORK_READY, Namespace,
    NamespaceMode, NamespaceOption, PodSandbox, PodSandboxFilter, PodSandboxMetadata,
    PodSandboxNetworkStatus, PodSandboxState, PodSandboxStatus, PodSandboxStatusResponse, RUNTIME_READY,
    RuntimeCondition, RuntimeStatus, StatusResponse, VersionResponse, label,
};

use crate::daemon::pods::{Pod, Registry};

/// Who we are. Clients refuse an answer with an empty field.
pub(super) fn version() -> VersionResponse {
    VersionResponse {
        version: KUBE_API_VERSION.into(),
        runtime_name: "gangplank".into(),
        runtime_version: env!("CARGO_PKG_VERSION").into(),
        runtime_api_version: API_VERSION.into(),
    }
}

/// Both conditions that a kubelet waits for: whoever gets an answer can forward ports.
pub(super) fn status() -> StatusResponse {
    let holds = |condition: &str| RuntimeCondition {
        r#type: condition.into(),
        status: true,
        reason: String::new(),
        message: String::new(),
    };
    let conditions = vec![holds(RUNTIME_READY), holds(NETWORK_READY)];
    StatusResponse { status: Some(RuntimeStatus { conditions }), info: BTreeMap::new() }
}

/// The sandboxes that the filter lets through.
pub(super) fn list(pods: &Registry, filter: Option<PodSandboxFilter>) -> ListPodSandboxResponse {
    let filter = filter.unwrap_or_default();
    let begun = pods.with_prefix(&filter.id);
    let items = begun.iter().map(|pod| sandbox(pod)).filter(|sandbox| wanted(sandbox, &filter));
    ListPodSandboxResponse { items: items.collect() }
}

fn wanted(sandbox: &PodSandbox, filter: &PodSandboxFilter) -> bool {
    let state = filter.state.is_none_or(|wanted| wanted.state == sandbox.state);
    let has = |(key, value): (&String, &String)| sandbox.labels.get(key) == Some(value);
    state && filter.label_selector.iter().all(has)
}

fn sandbox(pod: &Pod) -> PodSandbox {
    PodSandbox {
        id: pod.id.to_string(),
        metadata: Some(metadata(pod)),
        state: state(pod).into(),
        created_at: created_at(pod),
        labels: labels(pod),
        annotations: BTreeMap::new(),
        runtime_handler: String::new(),
    }
}

/// A sandbox in full; with its endpoint as `info`, if that is asked for.
pub(super) fn sandbox_status(pod: &Pod, verbose: bool) -> PodSandboxStatusResponse {
    let info = BTreeMap::from([("endpoint".into(), format!("{:?}", pod.route.to_string()))]);
    PodSandboxStatusResponse {
        status: Some(PodSandboxStatus {
            id: pod.id.to_string(),
            metadata: Some(metadata(pod)),
            state: state(pod).into(),
            created_at: created_at(pod),
            network: Some(PodSandboxNetworkStatus::default()),
            linux: Some(linux()),
            labels: labels(pod),
            annotations: BTreeMap::new(),
            runtime_handler: String::new(),
        }),
        info: if verbose { info } else { BTreeMap::new() },
    }
}

fn metadata(pod: &Pod) -> PodSandboxMetadata {
    PodSandboxMetadata {
        name: pod.name.clone(),
        uid: pod.uid.clone(),
        namespace: pod.namespace.clone(),
        attempt: 0,
    }
}

fn state(pod: &Pod) -> PodSandboxState {
    if pod.ready() { PodSandboxState::SandboxReady } else { PodSandboxState::SandboxNotready }
}

/// Nanoseconds since 1970, never 0: clients refuse that.
fn created_at(pod: &Pod) -> i64 {
    let since = pod.created.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX).max(1)
}

/// The pod's labels, and those by which a kubelet finds its sandboxes.
fn labels(pod: &Pod) -> BTreeMap<String, String> {
    let mut labels = pod.labels.clone();
    labels.insert(label::POD_NAME.into(), pod.name.clone());
    labels.insert(label::POD_NAMESPACE.into(), pod.namespace.clone());
    labels.insert(label::POD_UID.into(), pod.uid.clone());
    labels
}

fn linux() -> LinuxPodSandboxStatus {
    let options = NamespaceOption {
        network: NamespaceMode::Pod.into(),
        pid: NamespaceMode::Container.into(),
        ipc: NamespaceMode::Pod.into(),
    };
    LinuxPodSandboxStatus { namespaces: Some(Namespace { options: Some(options) }) }
}

#[cfg(test)]
mod tests {
    use k8s_api::cri::PodSandboxStateValue;

    use super::*;
    use crate::daemon::pods::tests::{pod, pod_at};

    fn registry() -> Registry {
        let mut labelled = pod("abc2", "two");
        labelled.labels.insert("app".into(), "web".into());
        Registry::new([pod("abc1", "one"), labelled, pod_at("def", "three", "unix:///nowhere/r.sock")])
    }

    fn ids(filter: PodSandboxFilter) -> Vec<String> {
        list(&registry(), Some(filter)).items.into_iter().map(|item| item.id).collect()
    }

    fn with_label(key: &str, value: &str) -> PodSandboxFilter {
        let label_selector = BTreeMap::from([(key.into(), value.into())]);
        PodSandboxFilter { label_selector, ..Default::default() }
    }

    #[test]
    fn no_field_of_the_version_is_empty() {
        let VersionResponse { version, runtime_name, runtime_version, runtime_api_version } = version();
        for field in [&version, &runtime_name, &runtime_version, &runtime_api_version] {
            assert!(!field.is_empty());
        }
    }

    #[test]
    fn both_conditions_hold() {
        let conditions = status().status.unwrap().conditions;
        let held: Vec<_> = conditions.iter().filter(|c| c.status).map(|c| c.r#type.as_str()).collect();
        assert_eq!(held, ["RuntimeReady", "NetworkReady"]);
    }

    #[test]
    fn filters_let_through_what_fits_in_every_part() {
        let state = |state: PodSandboxState| Some(PodSandboxStateValue { state: state.into() });
        assert_eq!(ids(PodSandboxFilter::default()), ["abc1", "abc2", "def"]);
        assert_eq!(ids(PodSandboxFilter { id: "abc".into(), ..Default::default() }), ["abc1", "abc2"]);
        let ready = PodSandboxFilter { state: state(PodSandboxState::SandboxReady), ..Default::default() };
        assert_eq!(ids(ready), ["abc1", "abc2"]);
        let not_ready =
            PodSandboxFilter { state: state(PodSandboxState::SandboxNotready), ..Default::default() };
        assert_eq!(ids(not_ready), ["def"]);
        assert_eq!(ids(with_label("app", "web")), ["abc2"]);
        assert_eq!(ids(with_label(label::POD_UID, "uid-of-def")), ["def"]);
        assert_eq!(ids(with_label("app", "db")), [""; 0]);
        assert_eq!(ids(PodSandboxFilter { id: "def".into(), ..with_label("app", "web") }), [""; 0]);
    }

    #[test]
    fn a_sandbox_has_all_that_clients_insist_on() {
        let mut pod = pod("abc1", "one");
        pod.created = UNIX_EPOCH;
        let response = sandbox_status(&pod, false);
        assert!(response.info.is_empty());
        let status = response.status.unwrap();
        let metadata = status.metadata.unwrap();
        assert_eq!(status.id, "abc1");
        assert_eq!((metadata.name.as_str(), metadata.namespace.as_str()), ("one", "default"));
        assert_eq!(metadata.uid, "uid-of-abc1");
        assert!(status.created_at > 0);
        assert!(status.network.is_some() && status.linux.is_some());
    }

    #[test]
    fn the_endpoint_is_told_when_asked_for() {
        let info = sandbox_status(&pod("abc1", "one"), true).info;
        assert_eq!(info["endpoint"], "\"netns:///proc/self/ns/net\"");
    }
}
