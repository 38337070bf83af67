//! Routes: what a method and a path ask for.

use http::Method;

use super::answer::Refusal;

/// What a request asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ApiRoute<'a> {
    /// A discovery document.
    Document(Document),
    /// Objects, one or a list.
    Objects(Objects<'a>),
    /// A port-forward session with a pod.
    PortForward { namespace: &'a str, name: &'a str },
}

/// A discovery document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Document {
    /// `/version`
    Version,
    /// `/api`: the versions of the core group.
    CoreVersions,
    /// `/apis`: the other groups.
    Groups,
    /// `/api/v1`: the resources of the core group.
    CoreResources,
}

/// Objects, one or a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Objects<'a> {
    Namespaces,
    Namespace(&'a str),
    /// Pods of one namespace, or of all.
    Pods(Option<&'a str>),
    Pod {
        namespace: &'a str,
        name: &'a str,
    },
}

impl<'a> ApiRoute<'a> {
    /// The route of a request, or a refusal if there is none or it does not allow this method.
    pub(super) fn of(method: &Method, path: &'a str) -> Result<Self, Refusal> {
        let route = Self::of_path(path).ok_or_else(|| Refusal::no_such_path(path))?;
        let sessions = matches!(route, Self::PortForward { .. });
        if *method == Method::GET || (sessions && *method == Method::POST) {
            return Ok(route);
        }
        Err(Refusal::read_only(method))
    }

    fn of_path(path: &'a str) -> Option<Self> {
        let pieces: Vec<&str> = path.trim_matches('/').split('/').collect();
        Some(match pieces[..] {
            ["version"] => Self::Document(Document::Version),
            ["api"] => Self::Document(Document::CoreVersions),
            ["apis"] => Self::Document(Document::Groups),
            ["api", "v1"] => Self::Document(Document::CoreResources),
            ["api", "v1", "namespaces"] => Self::Objects(Objects::Namespaces),
            ["api", "v1", "namespaces", name] => Self::Objects(Objects::Namespace(name)),
            ["api", "v1", "pods"] => Self::Objects(Objects::Pods(None)),
            ["api", "v1", "namespaces", namespace, "pods"] => Self::Objects(Objects::Pods(Some(namespace))),
            ["api", "v1", "namespaces", namespace, "pods", name] => {
                Self::Objects(Objects::Pod { namespace, name })
            }
            ["api", "v1", "namespaces", namespace, "pods", name, "portforward"] => {
                Self::PortForward { namespace, name }
            }
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn get(path: &str) -> Result<ApiRoute<'_>, Refusal> {
        ApiRoute::of(&Method::GET, path)
    }

    #[test]
    fn paths_of_kubectl_are_known() {
        assert_eq!(get("/version").unwrap(), ApiRoute::Document(Document::Version));
        assert_eq!(get("/api/").unwrap(), ApiRoute::Document(Document::CoreVersions));
        assert_eq!(get("/api/v1/pods").unwrap(), ApiRoute::Objects(Objects::Pods(None)));
        assert_eq!(get("/api/v1/namespaces/a/pods").unwrap(), ApiRoute::Objects(Objects::Pods(Some("a"))));
        let pod = Objects::Pod { namespace: "a", name: "b" };
        assert_eq!(get("/api/v1/namespaces/a/pods/b").unwrap(), ApiRoute::Objects(pod));
        let session = ApiRoute::PortForward { namespace: "a", name: "b" };
        assert_eq!(get("/api/v1/namespaces/a/pods/b/portforward").unwrap(), session);
    }

    #[test]
    fn other_paths_are_not_found() {
        for path in
            ["/", "/healthz", "/api/v2", "/api/v1/namespaces/a/pods/b/exec", "/apis/apps/v1", "/api//v1"]
        {
            assert_eq!(get(path).unwrap_err().code(), 404, "{path}");
        }
    }

    #[test]
    fn only_sessions_may_be_posted() {
        let post = |path| ApiRoute::of(&Method::POST, path);
        assert!(post("/api/v1/namespaces/a/pods/b/portforward").is_ok());
        assert_eq!(post("/api/v1/namespaces/a/pods").unwrap_err().code(), 405);
        assert_eq!(ApiRoute::of(&Method::DELETE, "/api/v1/namespaces/a/pods/b").unwrap_err().code(), 405);
        assert_eq!(post("/nowhere").unwrap_err().code(), 404);
    }
}
