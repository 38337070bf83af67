//! Discovery: the server's version and resources. kubectl reads them to learn that `po` means pods.
//!
//! Clients that ask for aggregated discovery accept the plain form too, and tell the two apart by the content type.

use http::StatusCode;
use k8s_api::meta_v1::{ApiGroupList, ApiResource, ApiResourceList, ApiVersions, Typed, VersionInfo};

use super::ApiResponse;
use super::answer::json;
use super::route::Document;

/// The Kubernetes version whose API this is a part of.
const MAJOR: &str = "1";
const MINOR: &str = "37";

/// Answers with the document.
pub(super) fn answer(document: Document) -> ApiResponse {
    match document {
        Document::Version => json(StatusCode::OK, &version()),
        Document::CoreVersions => {
            let body = ApiVersions { versions: vec!["v1"], server_address_by_client_cidrs: vec![] };
            json(StatusCode::OK, &Typed::v1("APIVersions", body))
        }
        Document::Groups => json(StatusCode::OK, &Typed::v1("APIGroupList", ApiGroupList { groups: vec![] })),
        Document::CoreResources => json(StatusCode::OK, &Typed::v1("APIResourceList", resources())),
    }
}

fn version() -> VersionInfo {
    VersionInfo {
        major: MAJOR,
        minor: MINOR,
        git_version: format!("v{MAJOR}.{MINOR}.0+gangplank-{}", env!("CARGO_PKG_VERSION")),
        git_commit: "",
        git_tree_state: "",
        build_date: "",
        go_version: "",
        compiler: "rustc",
        platform: format!("{}/{}", std::env::consts::OS, std::env::consts::ARCH),
    }
}

fn resources() -> ApiResourceList {
    let resource = |name, singular_name, namespaced, kind, verbs, short_names| ApiResource {
        name,
        singular_name,
        namespaced,
        kind,
        verbs,
        short_names,
    };
    ApiResourceList {
        group_version: "v1",
        resources: vec![
            resource("namespaces", "namespace", false, "Namespace", &["get", "list"], &["ns"]),
            resource("pods", "pod", true, "Pod", &["get", "list"], &["po"]),
            resource("pods/portforward", "", true, "PodPortForwardOptions", &["create", "get"], &[]),
        ],
    }
}
