//! The rules that turn what a runtime reports about a sandbox into the route to its ports.
//!
//! ```text
//! annotation, if allowed ──► Within     the pod's own socket, checked at each dial
//! a rule for its handler ──► Endpoint
//! cri.netns ───────────────► Namespace  asked of the runtime at the first dial
//! otherwise ───────────────► Runtime
//! ```

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::str::FromStr;

use gangplank_dial::{PodEndpoint, PodEndpointError};

use super::Route;

/// The annotation in which a pod may name its endpoint.
pub(crate) const ANNOTATION: &str = "gangplank/endpoint";

/// What stands for the sandbox's id in an endpoint.
const SANDBOX: &str = "{sandbox}";

/// Stands for the first 32 characters, which is all that Kata's Firecracker driver puts into a socket's path.
const SANDBOX_32: &str = "{sandbox:32}";

/// The longest id, in bytes. Runtimes use 64.
const MAX_ID: usize = 128;

/// How routes are found.
#[derive(Debug, Clone, Default)]
pub(crate) struct RouteRules {
    /// One rule for each runtime handler that runs pods in VMs.
    pub(crate) handlers: Vec<RouteRule>,
    /// The folder that holds the sandboxes' folders, if pods may name their endpoints.
    pub(crate) annotations: Option<PathBuf>,
    /// The file with the token of the relays that pods name, with a placeholder for the sandbox's id.
    pub(crate) annotated_token_file: Option<PathBuf>,
    /// Whether the daemon dials all other pods itself instead of leaving them to the runtime.
    pub(crate) netns: bool,
}

/// How to reach the guests of one runtime handler.
#[derive(Debug, Clone)]
pub(crate) struct RouteRule {
    /// The handler, as named by the RuntimeClass.
    pub(crate) handler: String,
    /// The endpoint.
    pub(crate) endpoint: EndpointTemplate,
    /// The file with their token, if they have one, with a placeholder for the sandbox's id.
    pub(crate) token_file: Option<PathBuf>,
}

/// An endpoint with a placeholder for the sandbox's id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct EndpointTemplate(String);

impl EndpointTemplate {
    /// What to write, for error messages.
    pub(crate) const EXPECTED: &'static str = "an endpoint with {sandbox} in its path, such as \"hvsock:///run/vc/vm/{sandbox}/clh.sock:1024\": hvsock:///PATH:PORT, unix:///PATH, kata:///PATH:PORT or netns:///PATH; {sandbox:32} is the first 32 characters of it";

    fn fill(&self, id: &str) -> Result<PodEndpoint, PodEndpointError> {
        fill(&self.0, id).parse()
    }
}

impl FromStr for EndpointTemplate {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let template = Self(text.into());
        // Without the id, all sandboxes would lead to the same guest.
        let named = text.contains(SANDBOX) || text.contains(SANDBOX_32);
        let good = named && template.fill("x").is_ok_and(|filled| filled.file().is_some());
        good.then_some(template).ok_or(())
    }
}

#[cfg(test)]
impl serde::Serialize for EndpointTemplate {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&self.0)
    }
}

impl RouteRules {
    /// The route to a sandbox of this handler with these annotations.
    pub(crate) fn route(&self, id: &str, handler: &str, annotations: &BTreeMap<String, String>) -> Route {
        if !is_plain(id) {
            return Route::Barred(format!(
                "the id {id:?} of its sandbox cannot be part of a path; its routes need one of letters, digits, dots, dashes and underscores"
            ));
        }
        if let Some(named) = annotations.get(ANNOTATION) {
            match &self.annotations {
                Some(folder) => return annotated(named, folder.join(id), id),
                None => tracing::warn!(
                    sandbox = id,
                    "ignored its annotation {ANNOTATION}; set allow in [annotations] to honour it"
                ),
            }
        }
        match self.handlers.iter().find(|rule| rule.handler == handler) {
            Some(rule) => {
                rule.endpoint.fill(id).map_or_else(|error| Route::Barred(error.to_string()), Route::Endpoint)
            }
            None if self.netns => Route::Namespace,
            None => Route::Runtime,
        }
    }
}

impl RouteRules {
    /// The file with the token for the relay at the end of a route from these rules.
    pub(crate) fn token_file(&self, id: &str, handler: &str, route: &Route) -> Option<PathBuf> {
        let file = match route {
            Route::Within { .. } => self.annotated_token_file.as_ref(),
            Route::Endpoint(PodEndpoint::Netns(_)) => None,
            Route::Endpoint(_) => {
                self.handlers.iter().find(|rule| rule.handler == handler)?.token_file.as_ref()
            }
            Route::Namespace | Route::Runtime | Route::Barred(_) => None,
        }?;
        // Filling in the id is safe: a route has an endpoint only if the id is plain.
        Some(file.to_str().map_or_else(|| file.clone(), |file| fill(file, id).into()))
    }
}

/// A route to a socket that the pod has named. The dial checks where the socket really lies.
fn annotated(named: &str, folder: PathBuf, id: &str) -> Route {
    let barred = |why: String| Route::Barred(format!("its annotation {ANNOTATION} is {named:?}: {why}"));
    match fill(named, id).parse::<PodEndpoint>() {
        Err(error) => barred(error.to_string()),
        // Namespaces and context ids are not in a sandbox's folder, so nothing would keep a pod from naming another's.
        Ok(
            PodEndpoint::Netns(_)
            | PodEndpoint::Kata { .. }
            | PodEndpoint::Relay(gangplank_channel::Endpoint::Vsock { .. }),
        ) => barred("only hvsock:// and unix:// are allowed".into()),
        Ok(endpoint) => Route::Within { endpoint, folder },
    }
}

/// The text with its placeholders filled in. The id must be plain.
fn fill(text: &str, id: &str) -> String {
    text.replace(SANDBOX, id).replace(SANDBOX_32, id.get(..32).unwrap_or(id))
}

/// Whether an id can be part of a path without changing where the path leads.
fn is_plain(id: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    (1..=MAX_ID).contains(&id.len()) && id.chars().all(plain) && id != "." && id != ".."
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules() -> RouteRules {
        let rule = |handler: &str, endpoint: &str| RouteRule {
            handler: handler.into(),
            endpoint: endpoint.parse().unwrap(),
            token_file: None,
        };
        RouteRules {
            handlers: vec![
                rule("kata-clh", "hvsock:///run/vc/vm/{sandbox}/clh.sock:1040"),
                rule("", "unix:///run/default/{sandbox}.sock"),
            ],
            netns: false,
            ..RouteRules::default()
        }
    }

    fn with_annotation(endpoint: &str) -> BTreeMap<String, String> {
        BTreeMap::from([(ANNOTATION.into(), endpoint.into())])
    }

    fn route(rules: &RouteRules, handler: &str) -> String {
        rules.route("abc", handler, &BTreeMap::new()).to_string()
    }

    #[test]
    fn the_endpoint_of_a_handler_has_the_id_filled_in() {
        assert_eq!(route(&rules(), "kata-clh"), "hvsock:///run/vc/vm/abc/clh.sock:1040");
        assert_eq!(route(&rules(), ""), "unix:///run/default/abc.sock");
    }

    #[test]
    fn a_placeholder_may_shorten_the_id() {
        let endpoint = "hvsock:///x/{sandbox:32}/v:7".parse().unwrap();
        let rule = RouteRule { handler: "fc".into(), endpoint, token_file: None };
        let rules = RouteRules { handlers: vec![rule], ..RouteRules::default() };
        let filled = |id: &str| rules.route(id, "fc", &BTreeMap::new()).to_string();
        assert_eq!(filled(&"0123456789".repeat(4)), "hvsock:///x/01234567890123456789012345678901/v:7");
        assert_eq!(filled("abc"), "hvsock:///x/abc/v:7");
    }

    #[test]
    fn other_pods_are_left_to_the_runtime_or_dialled_in_their_namespace() {
        assert_eq!(rules().route("abc", "runc", &BTreeMap::new()), Route::Runtime);
        let netns = RouteRules { netns: true, ..rules() };
        assert_eq!(netns.route("abc", "runc", &BTreeMap::new()), Route::Namespace);
        assert_eq!(route(&netns, "kata-clh"), "hvsock:///run/vc/vm/abc/clh.sock:1040");
    }

    #[test]
    fn an_id_that_is_not_plain_is_barred() {
        for id in ["", ".", "..", "../b", "a/b", "a\0b", "a b", "ä", &"a".repeat(129)] {
            let route = rules().route(id, "kata-clh", &BTreeMap::new());
            assert!(matches!(route, Route::Barred(_)), "{id:?}: {route:?}");
        }
    }

    #[test]
    fn an_annotation_counts_only_if_allowed() {
        let annotations = with_annotation("unix:///run/vm/{sandbox}/r.sock");
        assert_eq!(
            rules().route("abc", "kata-clh", &annotations).to_string(),
            "hvsock:///run/vc/vm/abc/clh.sock:1040"
        );
        let allowing = RouteRules { annotations: Some("/run/vm".into()), ..rules() };
        let Route::Within { endpoint, folder } = allowing.route("abc", "kata-clh", &annotations) else {
            panic!("the annotation is ignored");
        };
        assert_eq!(endpoint.to_string(), "unix:///run/vm/abc/r.sock");
        assert_eq!(folder, PathBuf::from("/run/vm/abc"));
    }

    #[test]
    fn each_route_to_a_relay_has_its_own_token_file() {
        let mut rules = RouteRules {
            annotations: Some("/run/vm".into()),
            annotated_token_file: Some("/etc/annotated".into()),
            netns: true,
            ..rules()
        };
        rules.handlers[0].token_file = Some("/run/vc/{sandbox}/token".into());
        let token = |handler: &str, annotations: &BTreeMap<String, String>| {
            rules.token_file("abc", handler, &rules.route("abc", handler, annotations))
        };
        let none = BTreeMap::new();
        assert_eq!(token("kata-clh", &none), Some("/run/vc/abc/token".into()));
        assert_eq!(token("", &none), None);
        assert_eq!(token("runc", &none), None);
        let annotated = with_annotation("unix:///run/vm/{sandbox}/r.sock");
        assert_eq!(token("kata-clh", &annotated), Some("/etc/annotated".into()));
    }

    #[test]
    fn an_annotation_that_is_not_a_socket_is_barred() {
        let allowing = RouteRules { annotations: Some("/run/vm".into()), ..rules() };
        for wrong in [
            "vsock://3:1024",
            "kata:///run/vm/abc/p.json:7",
            "netns:///proc/1/ns/net",
            "tcp://1.2.3.4:5",
            "r.sock",
            "",
        ] {
            let route = allowing.route("abc", "kata-clh", &with_annotation(wrong));
            assert!(matches!(route, Route::Barred(_)), "{wrong:?}: {route:?}");
        }
    }

    #[test]
    fn a_template_needs_the_id_in_its_path() {
        for right in ["unix:///x/{sandbox}", "hvsock:///x/{sandbox}/v:7", "netns:///run/netns/{sandbox}"] {
            assert!(right.parse::<EndpointTemplate>().is_ok(), "{right}");
        }
        for wrong in ["unix:///x", "vsock://3:7", "vsock://{sandbox}:7", "{sandbox}", "unix://{sandbox}"] {
            assert!(wrong.parse::<EndpointTemplate>().is_err(), "{wrong}");
        }
    }
}
