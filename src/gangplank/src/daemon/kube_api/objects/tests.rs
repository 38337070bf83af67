use http::header::ACCEPT;
use http_body_util::BodyExt;
use serde_json::Value;

use super::*;
use crate::daemon::pods::tests::{pod, pod_at};

const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io";

fn registry() -> Registry {
    let mut other = pod("ccc", "other");
    other.namespace = "elsewhere".into();
    Registry::new([pod("aaa", "one"), pod_at("bbb", "two", "unix:///nowhere/r.sock"), other])
}

fn get(wanted: Objects<'_>, accept: &str, query: &str) -> Result<Value, Refusal> {
    let request = Request::get(format!("/x?{query}")).header(ACCEPT, accept).body(()).unwrap();
    let body = answer(&registry(), wanted, &request)?.into_body();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let bytes = runtime.block_on(body.collect()).unwrap().to_bytes();
    Ok(serde_json::from_slice(&bytes).unwrap())
}

fn names(list: &Value) -> Vec<&str> {
    list["items"].as_array().unwrap().iter().map(|item| item["metadata"]["name"].as_str().unwrap()).collect()
}

#[test]
fn pods_are_listed_for_one_namespace_and_for_all() {
    let list = get(Objects::Pods(Some("default")), "*/*", "").unwrap();
    assert_eq!((&list["kind"], &list["apiVersion"]), (&"PodList".into(), &"v1".into()));
    assert_eq!(names(&list), ["one", "two"]);
    assert_eq!(names(&get(Objects::Pods(None), "*/*", "").unwrap()), ["one", "two", "other"]);
    assert_eq!(names(&get(Objects::Pods(Some("nowhere")), "*/*", "").unwrap()), [""; 0]);
    assert_eq!(
        names(&get(Objects::Pods(None), "*/*", "fieldSelector=status.phase%3DPending").unwrap()),
        ["two"]
    );
}

#[test]
fn a_pod_has_the_fields_that_port_forward_needs() {
    let one = get(Objects::Pod { namespace: "default", name: "one" }, "application/json", "").unwrap();
    assert_eq!(one["kind"], "Pod");
    assert_eq!(one["metadata"]["namespace"], "default");
    assert_eq!(one["metadata"]["creationTimestamp"], "2023-11-14T22:13:20Z");
    assert_eq!(one["spec"]["containers"][0]["name"], "one");
    assert_eq!(one["status"]["phase"], "Running");
    let two = get(Objects::Pod { namespace: "default", name: "two" }, "application/json", "").unwrap();
    assert_eq!(two["status"]["phase"], "Pending");
    assert_eq!(two["status"]["conditions"][0]["status"], "False");
}

#[test]
fn tables_have_a_cell_per_column_and_a_name_per_row() {
    for wanted in [
        Objects::Pods(None),
        Objects::Pod { namespace: "default", name: "one" },
        Objects::Namespaces,
        Objects::Namespace("default"),
    ] {
        let table = get(wanted, TABLE, "").unwrap();
        assert_eq!((&table["kind"], &table["apiVersion"]), (&"Table".into(), &"meta.k8s.io/v1".into()));
        let columns = table["columnDefinitions"].as_array().unwrap().len();
        for row in table["rows"].as_array().unwrap() {
            assert_eq!(row["cells"].as_array().unwrap().len(), columns);
            assert_eq!(row["cells"][0], row["object"]["metadata"]["name"]);
            assert_eq!(row["object"]["kind"], "PartialObjectMetadata");
        }
    }
}

#[test]
fn namespaces_are_those_of_the_pods() {
    let list = get(Objects::Namespaces, "*/*", "").unwrap();
    assert_eq!(names(&list), ["default", "elsewhere"]);
    assert_eq!(list["items"][0]["metadata"].get("namespace"), None);
    let one = get(Objects::Namespace("elsewhere"), "*/*", "").unwrap();
    assert_eq!(one["status"]["phase"], "Active");
}

#[test]
fn unknown_objects_are_not_found() {
    let missing = Objects::Pod { namespace: "elsewhere", name: "one" };
    assert_eq!(get(missing, "*/*", "").unwrap_err(), Refusal::not_found("pods", "one"));
    assert_eq!(get(Objects::Namespace("nowhere"), "*/*", "").unwrap_err().code(), 404);
}

#[test]
fn watches_are_refused() {
    assert_eq!(get(Objects::Pods(None), "*/*", "watch=true").unwrap_err().code(), 405);
}

#[test]
fn ages_are_brief() {
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(10_000_000);
    let ago = |seconds| Age(now).of(now - Duration::from_secs(seconds));
    assert_eq!(ago(0), "0s");
    assert_eq!(ago(119), "119s");
    assert_eq!(ago(120), "2m");
    assert_eq!(ago(3 * 3600), "3h");
    assert_eq!(ago(48 * 3600), "2d");
    assert_eq!(Age(SystemTime::UNIX_EPOCH).of(now), "0s");
}
