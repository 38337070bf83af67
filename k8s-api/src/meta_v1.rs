//! A little of meta/v1: object metadata, errors, tables and discovery.
//!
//! gangplank writes these types and never reads them, so they only serialize, and `kind` and `apiVersion` are
//! constants.

use std::collections::BTreeMap;

use serde::Serialize;

/// The metadata of an object.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ObjectMeta {
    /// The object's name.
    pub name: String,
    /// Its namespace; empty for objects without one.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    /// Its uid.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub uid: String,
    /// Its version, for watches. Nothing can be watched here, so any constant will do.
    pub resource_version: String,
    /// When it was created, as RFC 3339 in UTC with whole seconds.
    pub creation_timestamp: String,
    /// Its labels.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

/// The metadata of a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ListMeta {
    /// The list's version, from which a watch would start.
    pub resource_version: String,
}

/// An object or a list with its kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Typed<T> {
    /// The kind: `Pod`, `PodList`, `Status`, …
    pub kind: &'static str,
    /// The group and version that define it, `v1` for the core group.
    pub api_version: &'static str,
    /// The other fields.
    #[serde(flatten)]
    pub body: T,
}

impl<T> Typed<T> {
    /// An object of the core group, or of a kind such as `Status` that is `v1` in every group.
    pub fn v1(kind: &'static str, body: T) -> Self {
        Self { kind, api_version: "v1", body }
    }

    /// An object of the group meta.k8s.io.
    pub fn meta(kind: &'static str, body: T) -> Self {
        Self { kind, api_version: "meta.k8s.io/v1", body }
    }
}

/// The body of a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct List<T> {
    /// The list's metadata.
    pub metadata: ListMeta,
    /// The items.
    pub items: Vec<T>,
}

/// The body of a `Status`: an error.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Status {
    /// Empty, but clients expect the field.
    pub metadata: BTreeMap<String, String>,
    /// `Failure`.
    pub status: &'static str,
    /// The sentence that kubectl prints.
    pub message: String,
    /// The word in the brackets of `Error from server (NotFound)`.
    pub reason: &'static str,
    /// The object that the error is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub details: Option<StatusDetails>,
    /// The HTTP status.
    pub code: u16,
}

impl Status {
    /// An error for this reason, as the body of a response with the HTTP status `code`.
    pub fn failure(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        let message = message.into();
        Self { metadata: BTreeMap::new(), status: "Failure", message, reason, details: None, code }
    }
}

/// The object that a `Status` is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StatusDetails {
    /// The object's name.
    pub name: String,
    /// The plural name of the resource: `pods`.
    pub kind: &'static str,
}

/// The body of a `Table`: the form in which kubectl requests lists to print.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Table {
    /// The list's metadata.
    pub metadata: ListMeta,
    /// The columns.
    pub column_definitions: Vec<Column>,
    /// One row per object.
    pub rows: Vec<Row>,
}

/// A column of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Column {
    /// The heading; kubectl prints it in capitals.
    pub name: &'static str,
    /// `string`, `integer`, …
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// What the value means: `name`, or empty.
    pub format: &'static str,
    /// A sentence about the column.
    pub description: &'static str,
    /// 0: always shown. 1: shown with `-o wide`.
    pub priority: i32,
}

/// A row of a table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Row {
    /// One value per column.
    pub cells: Vec<String>,
    /// The object of this row; kubectl takes its names and labels from here.
    pub object: Typed<PartialObjectMetadata>,
}

/// The body of a `PartialObjectMetadata`: an object without its contents.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PartialObjectMetadata {
    /// Its metadata.
    pub metadata: ObjectMeta,
}

/// The body of `APIVersions`: the versions of the core group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ApiVersions {
    /// `v1`.
    pub versions: Vec<&'static str>,
    /// Other addresses of the server. Empty, but clients expect the field.
    #[serde(rename = "serverAddressByClientCIDRs")]
    pub server_address_by_client_cidrs: Vec<()>,
}

/// The body of an `APIGroupList`: the groups other than the core group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ApiGroupList {
    /// Always empty.
    pub groups: Vec<()>,
}

/// The body of an `APIResourceList`: the resources of a group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ApiResourceList {
    /// The group and version.
    pub group_version: &'static str,
    /// Its resources.
    pub resources: Vec<ApiResource>,
}

/// A resource, as discovery describes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ApiResource {
    /// Its plural name, with the subresource if it is one: `pods/portforward`.
    pub name: &'static str,
    /// Its singular name; empty for subresources.
    pub singular_name: &'static str,
    /// Whether its objects belong to a namespace.
    pub namespaced: bool,
    /// The kind of its objects.
    pub kind: &'static str,
    /// The operations it supports.
    pub verbs: &'static [&'static str],
    /// Its short names for the command line.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    pub short_names: &'static [&'static str],
}

/// The response at `/version`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct VersionInfo {
    /// The Kubernetes API's major version.
    pub major: &'static str,
    /// Its minor version.
    pub minor: &'static str,
    /// The server's version: a semantic version after the letter v.
    pub git_version: String,
    /// How the server was built: mostly unknown here, but clients expect the fields.
    pub git_commit: &'static str,
    /// As above.
    pub git_tree_state: &'static str,
    /// As above.
    pub build_date: &'static str,
    /// As above.
    pub go_version: &'static str,
    /// As above.
    pub compiler: &'static str,
    /// Operating system and architecture.
    pub platform: String,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_typed_body_is_flat() {
        let list = Typed::v1(
            "PodList",
            List::<()> { metadata: ListMeta { resource_version: "1".into() }, items: vec![] },
        );
        assert_eq!(
            serde_json::to_value(list).unwrap(),
            json!({ "kind": "PodList", "apiVersion": "v1", "metadata": { "resourceVersion": "1" }, "items": [] })
        );
    }

    #[test]
    fn a_status_has_what_kubectl_prints() {
        let status = Typed::v1("Status", Status::failure(404, "NotFound", "no such thing"));
        let json = serde_json::to_value(status).unwrap();
        assert_eq!(json["kind"], "Status");
        assert_eq!(json["status"], "Failure");
        assert_eq!(json["reason"], "NotFound");
        assert_eq!(json["message"], "no such thing");
        assert_eq!(json["code"], 404);
    }

    #[test]
    fn subresources_have_no_short_names() {
        let resource = ApiResource {
            name: "pods/portforward",
            singular_name: "",
            namespaced: true,
            kind: "PodPortForwardOptions",
            verbs: &["create", "get"],
            short_names: &[],
        };
        let json = serde_json::to_value(resource).unwrap();
        assert_eq!(json.get("shortNames"), None);
        assert_eq!(json["singularName"], "");
    }
}
