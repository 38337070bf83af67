//! Pods and namespaces, one or a list, as JSON or as a table.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use http::{Request, StatusCode};
use humantime::format_rfc3339_seconds;
use k8s_api::core_v1::{
    Container, Namespace, NamespaceStatus, Pod as PodBody, PodCondition, PodSpec, PodStatus,
};
use k8s_api::meta_v1::{Column, List, ListMeta, ObjectMeta, PartialObjectMetadata, Row, Table, Typed};
use serde::Serialize;

use super::ApiResponse;
use super::accept::ObjectForm;
use super::answer::{Refusal, json};
use super::route::Objects;
use super::selector::Selector;
use crate::daemon::pods::{Pod, Registry};

/// The version of every object. It never changes: without watches, no client compares versions.
const RESOURCE_VERSION: &str = "1";

/// Answers with the objects, in the form that the request accepts.
pub(super) fn answer<B>(
    pods: &Registry,
    wanted: Objects<'_>,
    request: &Request<B>,
) -> Result<ApiResponse, Refusal> {
    let form = ObjectForm::wanted(request.headers())?;
    let selector = Selector::of_query(request.uri().query())?;
    if selector.watch {
        return Err(Refusal::watch());
    }
    let age = Age(SystemTime::now());
    match wanted {
        Objects::Namespaces => Ok(many(form, "NamespaceList", &namespaces(pods), &NAMESPACE_COLUMNS, age)),
        Objects::Namespace(name) => {
            let found = namespaces(pods).into_iter().find(|namespace| namespace.name == name);
            let namespace = found.ok_or_else(|| Refusal::not_found("namespaces", name))?;
            Ok(one(form, "Namespace", namespace, &NAMESPACE_COLUMNS, age))
        }
        Objects::Pods(namespace) => {
            let here = |pod: &&Pod| namespace.is_none_or(|namespace| pod.namespace == namespace);
            let wanted = |pod: &&Pod| selector.wants(pod, phase(pod));
            let all = pods.all();
            let pods: Vec<&Pod> = all.iter().map(AsRef::as_ref).filter(here).filter(wanted).collect();
            Ok(many(form, "PodList", &pods, &POD_COLUMNS, age))
        }
        Objects::Pod { namespace, name } => {
            let pod = pods.named(namespace, name).ok_or_else(|| Refusal::not_found("pods", name))?;
            Ok(one(form, "Pod", pod.as_ref(), &POD_COLUMNS, age))
        }
    }
}

/// An object that can be served in either form.
trait Object {
    type Body: Serialize;

    fn metadata(&self) -> ObjectMeta;
    fn body(&self) -> Self::Body;
    fn cells(&self, age: Age) -> Vec<String>;
}

fn one<O: Object>(
    form: ObjectForm,
    kind: &'static str,
    object: O,
    columns: &[Column],
    age: Age,
) -> ApiResponse {
    match form {
        ObjectForm::Plain => json(StatusCode::OK, &Typed::v1(kind, object.body())),
        ObjectForm::Table => table(&[object], columns, age),
    }
}

fn many<O: Object>(
    form: ObjectForm,
    kind: &'static str,
    objects: &[O],
    columns: &[Column],
    age: Age,
) -> ApiResponse {
    match form {
        ObjectForm::Plain => {
            let items = objects.iter().map(Object::body).collect();
            json(StatusCode::OK, &Typed::v1(kind, List { metadata: list_metadata(), items }))
        }
        ObjectForm::Table => table(objects, columns, age),
    }
}

fn table<O: Object>(objects: &[O], columns: &[Column], age: Age) -> ApiResponse {
    let row = |object: &O| Row {
        cells: object.cells(age),
        object: Typed::meta("PartialObjectMetadata", PartialObjectMetadata { metadata: object.metadata() }),
    };
    let rows = objects.iter().map(row).collect();
    let table = Table { metadata: list_metadata(), column_definitions: columns.to_vec(), rows };
    json(StatusCode::OK, &Typed::meta("Table", table))
}

fn list_metadata() -> ListMeta {
    ListMeta { resource_version: RESOURCE_VERSION.into() }
}

const fn column(
    name: &'static str,
    format: &'static str,
    priority: i32,
    description: &'static str,
) -> Column {
    Column { name, kind: "string", format, description, priority }
}

const POD_COLUMNS: [Column; 5] = [
    column("Name", "name", 0, "The pod's name."),
    column("Status", "", 0, "Running, or Pending while the pod's endpoint does not exist."),
    column("Age", "", 0, "How long gangplank has known the pod."),
    column("Sandbox", "", 1, "The id of the pod's sandbox."),
    column("Endpoint", "", 1, "How the pod's ports are reached."),
];

impl Object for &Pod {
    type Body = PodBody;

    fn metadata(&self) -> ObjectMeta {
        ObjectMeta {
            name: self.name.clone(),
            namespace: self.namespace.clone(),
            uid: self.uid.clone(),
            resource_version: RESOURCE_VERSION.into(),
            creation_timestamp: timestamp(self.created),
            labels: self.labels.clone(),
        }
    }

    fn body(&self) -> PodBody {
        let ready = if self.ready() { "True" } else { "False" };
        PodBody {
            metadata: self.metadata(),
            // The pod's containers are not known, but kubectl panics on a pod without any.
            spec: PodSpec { containers: vec![Container { name: self.name.clone() }] },
            status: PodStatus {
                phase: phase(self),
                conditions: vec![PodCondition { kind: "Ready", status: ready }],
                start_time: timestamp(self.created),
            },
        }
    }

    fn cells(&self, age: Age) -> Vec<String> {
        let endpoint = self.route.to_string();
        vec![self.name.clone(), phase(self).into(), age.of(self.created), self.id.to_string(), endpoint]
    }
}

/// kubectl forwards only to pods that are running.
fn phase(pod: &Pod) -> &'static str {
    if pod.ready() { "Running" } else { "Pending" }
}

const NAMESPACE_COLUMNS: [Column; 3] = [
    column("Name", "name", 0, "The namespace's name."),
    column("Status", "", 0, "Always Active."),
    column("Age", "", 0, "How long gangplank has known its oldest pod."),
];

/// The namespaces of all pods. Each is as old as its oldest pod.
fn namespaces(pods: &Registry) -> Vec<ListedNamespace> {
    let mut oldest: BTreeMap<String, SystemTime> = BTreeMap::new();
    for pod in pods.all() {
        let created = oldest.entry(pod.namespace.clone()).or_insert(pod.created);
        *created = pod.created.min(*created);
    }
    oldest.into_iter().map(|(name, created)| ListedNamespace { name, created }).collect()
}

struct ListedNamespace {
    name: String,
    created: SystemTime,
}

impl Object for ListedNamespace {
    type Body = Namespace;

    fn metadata(&self) -> ObjectMeta {
        ObjectMeta {
            name: self.name.clone(),
            resource_version: RESOURCE_VERSION.into(),
            creation_timestamp: timestamp(self.created),
            ..ObjectMeta::default()
        }
    }

    fn body(&self) -> Namespace {
        Namespace { metadata: self.metadata(), status: NamespaceStatus { phase: "Active" } }
    }

    fn cells(&self, age: Age) -> Vec<String> {
        vec![self.name.clone(), "Active".into(), age.of(self.created)]
    }
}

fn timestamp(time: SystemTime) -> String {
    format_rfc3339_seconds(time).to_string()
}

/// The current time, from which ages are computed. They are written as kubectl writes them.
#[derive(Debug, Clone, Copy)]
struct Age(SystemTime);

impl Age {
    fn of(self, then: SystemTime) -> String {
        const MINUTE: u64 = 60;
        const HOUR: u64 = 60 * MINUTE;
        const DAY: u64 = 24 * HOUR;
        // Zero if the clock was set back.
        let seconds = self.0.duration_since(then).unwrap_or(Duration::ZERO).as_secs();
        match seconds {
            0..120 => format!("{seconds}s"),
            120..10_800 => format!("{}m", seconds / MINUTE),
            10_800..172_800 => format!("{}h", seconds / HOUR),
            _ => format!("{}d", seconds / DAY),
        }
    }
}

#[cfg(test)]
mod tests;
