//! A little of meta/v1: what every object carries, the answer that is an error, tables, discovery.
//!
//! Written only, never read, so the types serialize and `kind` and `apiVersion` are constants.

use std::collections::BTreeMap;

use serde::Serialize;

/// What every object carries.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ObjectMeta {
    /// The object's name.
    pub name: String,
    /// Its namespace; empty for objects that have none.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    /// Its uid.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub uid: String,
    /// Its version, for watches. Any constant does where nothing can be watched.
    pub resource_version: String,
    /// When it was made, as RFC 3339 in UTC with whole seconds.
    pub creation_timestamp: String,
    /// Its labels.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

/// What a list carries.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ListMeta {
    /// The list's version, from which a watch would start.
    pub resource_version: String,
}

/// An object or a list together with its kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Typed<T> {
    /// What it is: `Pod`, `PodList`, `Status`, …
    pub kind: &'static str,
    /// The group and version that define it, `v1` for the core group.
    pub api_version: &'static str,
    /// The rest of it.
    #[serde(flatten)]
    pub body: T,
}

impl<T> Typed<T> {
    /// Something of the core group, or one of the kinds that every group has as `v1`.
    pub fn v1(kind: &'static str, body: T) -> Self {
        Self { kind, api_version: "v1", body }
    }

    /// Something of the group meta.k8s.io.
    pub fn meta(kind: &'static str, body: T) -> Self {
        Self { kind, api_version: "meta.k8s.io/v1", body }
    }
}

/// The body of a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct List<T> {
    /// The list's own data.
    pub metadata: ListMeta,
    /// What is in it.
    pub items: Vec<T>,
}

/// The body of a `Status`: an answer that is an error.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Status {
    /// Empty, but clients want the field.
    pub metadata: BTreeMap<String, String>,
    /// `Failure`.
    pub status: &'static str,
    /// The sentence that kubectl prints.
    pub message: String,
    /// The word in the brackets of `Error from server (NotFound)`.
    pub reason: &'static str,
    /// What it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub details: Option<StatusDetails>,
    /// The HTTP status.
    pub code: u16,
}

impl Status {
    /// An error of this kind, as the body of an answer with the HTTP status `code`.
    pub fn failure(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        let message = message.into();
        Self { metadata: BTreeMap::new(), status: "Failure", message, reason, details: None, code }
    }
}

/// What a `Status` is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StatusDetails {
    /// The object's name.
    pub name: String,
    /// The resource, plural: `pods`.
    pub kind: &'static str,
}

/// The body of a `Table`: how kubectl wants lists that it prints.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Table {
    /// The list's own data.
    pub metadata: ListMeta,
    /// The columns.
    pub column_definitions: Vec<Column>,
    /// One row for each object.
    pub rows: Vec<Row>,
}

/// A column of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Column {
    /// The heading, in any case.
    pub name: &'static str,
    /// `string`, `integer`, …
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// What the value stands for: `name` or nothing.
    pub format: &'static str,
    /// A sentence about it.
    pub description: &'static str,
    /// 0 is always shown, 1 with `-o wide`.
    pub priority: i32,
}

/// A row of a table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Row {
    /// One value for each column.
    pub cells: Vec<String>,
    /// Whose row it is; kubectl takes names and labels from here.
    pub object: Typed<PartialObjectMetadata>,
}

/// The body of a `PartialObjectMetadata`: an object without its contents.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PartialObjectMetadata {
    /// All there is.
    pub metadata: ObjectMeta,
}

/// The body of `APIVersions`: the versions of the core group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ApiVersions {
    /// `v1`.
    pub versions: Vec<&'static str>,
    /// Where else the server can be reached: nowhere, but clients want the field.
    #[serde(rename = "serverAddressByClientCIDRs")]
    pub server_address_by_client_cidrs: Vec<()>,
}

/// The body of an `APIGroupList`: the groups beside the core group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ApiGroupList {
    /// There are none.
    pub groups: Vec<()>,
}

/// The body of an `APIResourceList`: what a group serves.
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
    /// Its plural name, with its subresource: `pods/portforward`.
    pub name: &'static str,
    /// Its singular name; empty for subresources.
    pub singular_name: &'static str,
    /// Whether it lives in namespaces.
    pub namespaced: bool,
    /// The kind of its objects.
    pub kind: &'static str,
    /// What can be done with it.
    pub verbs: &'static [&'static str],
    /// Its short names on the command line.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    pub short_names: &'static [&'static str],
}

/// The answer at `/version`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct VersionInfo {
    /// The Kubernetes API's major version.
    pub major: &'static str,
    /// Its minor version.
    pub minor: &'static str,
    /// The server's version, a semantic version with a leading v.
    pub git_version: String,
    /// Who built it; not known here, but clients want the fields.
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
