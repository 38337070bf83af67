//! The daemon's configuration file: its sections, and what makes one invalid.
//!
//! `gangplank.sample.toml` documents every key; a test keeps the two in step.

mod limits;
mod rpc;
mod value;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::SystemTime;
use std::{fs, io};

use gangplank_dial::PodEndpoint;
use serde::Deserialize;

pub(crate) use self::limits::LimitsSection;
pub(crate) use self::rpc::{JsonRpcSection, MetricsSection};
pub(crate) use self::value::SocketMode;
use self::value::{AbsolutePath, DialRule, DnsName, Grace, Id, optional, value, values};
use crate::daemon::pods::{EndpointTemplate, Route, RouteRule, RouteRules, Source};
use crate::unix_url::UnixUrl;

/// The whole file. Every section but `[[pod]]` may be left out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(test, derive(serde::Serialize))]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Config {
    /// Where CRI is served.
    pub(crate) cri: CriSection,
    /// Where port-forward sessions are served.
    pub(crate) streaming: StreamingSection,
    /// Where the small part of the Kubernetes API is served, if at all.
    pub(crate) kube_api: Option<KubeApiSection>,
    /// Where JSON-RPC is served, if at all.
    pub(crate) jsonrpc: Option<JsonRpcSection>,
    /// Where metrics are served, if at all.
    pub(crate) metrics: Option<MetricsSection>,
    /// What may be dialled in pods.
    pub(crate) dial: DialSection,
    /// Limits on what clients may use.
    pub(crate) limits: LimitsSection,
    /// How the log is written.
    pub(crate) log: LogSection,
    /// How the daemon shuts down.
    pub(crate) shutdown: ShutdownSection,
    /// How to reach the guests of each runtime handler.
    pub(crate) runtime: Vec<RuntimeSection>,
    /// What a pod's annotations may set.
    pub(crate) annotations: AnnotationsSection,
    /// The pods.
    pub(crate) pod: Vec<PodSection>,
}

/// `[cri]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[cfg_attr(test, derive(serde::Serialize))]
#[serde(default, deny_unknown_fields)]
pub(crate) struct CriSection {
    /// The socket.
    #[serde(deserialize_with = "value")]
    pub(crate) listen: UnixUrl,
    /// Its file mode.
    #[serde(deserialize_with = "value")]
    pub(crate) socket_mode: SocketMode,
    /// The socket of the runtime that gets every call except PortForward, if there is one.
    #[serde(deserialize_with = "optional")]
    pub(crate) upstream: Option<UnixUrl>,
    /// Whether the daemon also dials the runtime's ordinary pods, in their network namespaces.
    pub(crate) netns: bool,
}

/// `[streaming]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[cfg_attr(test, derive(serde::Serialize))]
#[serde(default, deny_unknown_fields)]
pub(crate) struct StreamingSection {
    /// Where sessions are served.
    #[serde(deserialize_with = "value")]
    pub(crate) listen: SocketAddr,
    /// Whether `listen` may be an address that other machines can reach.
    pub(crate) allow_non_loopback: bool,
    /// How the client learns that a connection has failed.
    pub(crate) errors: ErrorDelivery,
    /// Whether web pages may open WebSockets.
    pub(crate) allow_origin: bool,
    /// TLS, if sessions are served over it.
    pub(crate) tls: Option<TlsSection>,
}

/// `[streaming.tls]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[cfg_attr(test, derive(serde::Serialize))]
#[serde(deny_unknown_fields)]
pub(crate) struct TlsSection {
    /// The certificate chain, in PEM.
    pub(crate) cert: PathBuf,
    /// Its key.
    pub(crate) key: PathBuf,
    /// The CAs that clients' certificates must come from, if clients need one.
    pub(crate) client_ca: Option<PathBuf>,
}

/// `[streaming] errors`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[cfg_attr(test, derive(serde::Serialize))]
#[serde(rename_all = "lowercase")]
pub(crate) enum ErrorDelivery {
    /// Only the connection ends.
    Reset,
    /// Text on the error stream, as other runtimes do.
    Text,
}

/// `[kube_api]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[cfg_attr(test, derive(serde::Serialize))]
#[serde(deny_unknown_fields)]
pub(crate) struct KubeApiSection {
    /// Where it is served.
    #[serde(deserialize_with = "value")]
    pub(crate) listen: SocketAddr,
    /// Whether `listen` may be an address that other machines can reach.
    #[serde(default)]
    pub(crate) allow_non_loopback: bool,
}

/// `[dial]`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(test, derive(serde::Serialize))]
#[serde(default, deny_unknown_fields)]
pub(crate) struct DialSection {
    /// The first one that matches decides.
    #[serde(deserialize_with = "values")]
    rules: Vec<DialRule>,
}

impl DialSection {
    /// The rules, in order.
    pub(crate) fn rules(&self) -> Vec<gangplank_dial::Rule> {
        self.rules.iter().map(|rule| rule.0.clone()).collect()
    }
}

/// `[log]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[cfg_attr(test, derive(serde::Serialize))]
#[serde(default, deny_unknown_fields)]
pub(crate) struct LogSection {
    /// Text for people or JSON for machines.
    pub(crate) format: LogFormat,
    /// The lowest level that is written.
    pub(crate) level: LogLevel,
    /// Whether each connection into a pod gets a line.
    pub(crate) audit: bool,
}

/// `[log] format`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[cfg_attr(test, derive(serde::Serialize))]
#[serde(rename_all = "lowercase")]
pub(crate) enum LogFormat {
    /// A line of text for each event.
    Text,
    /// A JSON object for each event.
    Json,
}

/// `[log] level`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[cfg_attr(test, derive(serde::Serialize))]
#[serde(rename_all = "lowercase")]
pub(crate) enum LogLevel {
    /// What stops the daemon from working.
    Error,
    /// What an operator should look at.
    Warn,
    /// One line for the start and the end of each session, and for each failed connection.
    Info,
    /// Each call and each connection.
    Debug,
    /// Each frame.
    Trace,
}

/// `[shutdown]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[cfg_attr(test, derive(serde::Serialize))]
#[serde(default, deny_unknown_fields)]
pub(crate) struct ShutdownSection {
    /// How long open sessions get to finish.
    #[serde(deserialize_with = "value")]
    pub(crate) grace: Grace,
}

/// `[[runtime]]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[cfg_attr(test, derive(serde::Serialize))]
#[serde(deny_unknown_fields)]
pub(crate) struct RuntimeSection {
    /// The runtime handler.
    pub(crate) handler: String,
    /// How the ports of its sandboxes are reached.
    #[serde(deserialize_with = "value")]
    pub(crate) endpoint: EndpointTemplate,
    /// The file with their relays' token, if they have one.
    #[serde(default, deserialize_with = "optional")]
    pub(crate) token_file: Option<AbsolutePath>,
}

/// `[annotations]`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(test, derive(serde::Serialize))]
#[serde(default, deny_unknown_fields)]
pub(crate) struct AnnotationsSection {
    /// Whether a pod may name its endpoint.
    pub(crate) allow: bool,
    /// The folder that holds one folder for each sandbox.
    #[serde(deserialize_with = "optional")]
    pub(crate) directory: Option<AbsolutePath>,
    /// The file with the token of those relays, if they have one.
    #[serde(deserialize_with = "optional")]
    pub(crate) token_file: Option<AbsolutePath>,
}

/// `[[pod]]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[cfg_attr(test, derive(serde::Serialize))]
#[serde(deny_unknown_fields)]
pub(crate) struct PodSection {
    /// The sandbox's id.
    #[serde(deserialize_with = "value")]
    pub(crate) id: Id,
    /// The pod's name.
    #[serde(deserialize_with = "value")]
    pub(crate) name: DnsName,
    /// Its namespace.
    #[serde(default = "default_namespace", deserialize_with = "value")]
    pub(crate) namespace: DnsName,
    /// Its uid.
    #[serde(deserialize_with = "value")]
    pub(crate) uid: Id,
    /// How its ports are reached.
    #[serde(deserialize_with = "value")]
    #[cfg_attr(test, serde(serialize_with = "tests::as_text"))]
    pub(crate) endpoint: PodEndpoint,
    /// The file with its relay's token, if it has one.
    #[serde(default, deserialize_with = "optional")]
    pub(crate) token_file: Option<AbsolutePath>,
    /// Its labels.
    #[serde(default)]
    pub(crate) labels: BTreeMap<String, String>,
}

impl PodSection {
    /// The pod as the registry holds it, with where it is known from and since when.
    pub(crate) fn to_pod(&self, source: Source, created: SystemTime) -> crate::daemon::pods::Pod {
        crate::daemon::pods::Pod {
            id: self.id.0.as_str().into(),
            name: self.name.0.clone(),
            namespace: self.namespace.0.clone(),
            uid: self.uid.0.clone(),
            labels: self.labels.clone(),
            route: Route::Endpoint(self.endpoint.clone()),
            token_file: self.token_file.as_ref().map(|file| file.0.clone()),
            source,
            created,
        }
    }
}

/// What is wrong with a configuration file.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    /// It cannot be read.
    #[error("cannot read the configuration file {}: {source}; name a readable file with --config", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// It is not TOML, or a key or a value is wrong.
    #[error("{}{}: {}{message}", file.display(), at_line(*line), of_key(key))]
    Value {
        /// The file.
        file: PathBuf,
        /// The line, if known.
        line: Option<usize>,
        /// The key with its section; empty if the file is not TOML.
        key: String,
        /// What was found, and what was expected.
        message: String,
    },
}

fn at_line(line: Option<usize>) -> String {
    line.map(|line| format!(":{line}")).unwrap_or_default()
}

fn of_key(key: &str) -> String {
    if key.is_empty() { String::new() } else { format!("{key}: ") }
}

impl Config {
    /// Reads and checks a file.
    pub(crate) fn load(file: &Path) -> Result<Self, ConfigError> {
        let read = |source| ConfigError::Read { file: file.into(), source };
        Self::parse(file, &fs::read_to_string(file).map_err(read)?)
    }

    fn parse(file: &Path, text: &str) -> Result<Self, ConfigError> {
        let wrong = |error: &toml::de::Error, key: String| ConfigError::Value {
            file: file.into(),
            line: error.span().map(|span| line_of(text, span.start)),
            key,
            message: error.message().trim_end().replace('\n', ", "),
        };
        let toml = toml::Deserializer::parse(text).map_err(|error| wrong(&error, String::new()))?;
        let config: Self = serde_path_to_error::deserialize(toml)
            .map_err(|error| wrong(error.inner(), key_of(error.path())))?;
        match config.contradiction() {
            None => Ok(config),
            Some((key, message)) => Err(ConfigError::Value { file: file.into(), line: None, key, message }),
        }
    }

    /// The first value that contradicts another one: its key, and a message.
    fn contradiction(&self) -> Option<(String, String)> {
        let streaming = &self.streaming;
        not_loopback("streaming", streaming.listen, streaming.allow_non_loopback)
            .or_else(|| {
                let kube_api = self.kube_api.as_ref()?;
                not_loopback("kube_api", kube_api.listen, kube_api.allow_non_loopback)
            })
            .or_else(|| {
                let metrics = self.metrics.as_ref()?;
                not_loopback("metrics", metrics.listen, metrics.allow_non_loopback)
            })
            .or_else(|| self.without_upstream())
            .or_else(|| self.needless_token())
            .or_else(|| twice("pod", &self.pod, "id", |pod| pod.id.0.clone()))
            .or_else(|| twice("pod", &self.pod, "name", |pod| format!("{}/{}", pod.namespace.0, pod.name.0)))
            .or_else(|| twice("runtime", &self.runtime, "handler", |rule| rule.handler.clone()))
    }

    /// Keys that need another key to be set, most of them cri.upstream.
    fn without_upstream(&self) -> Option<(String, String)> {
        if self.annotations.allow && self.annotations.directory.is_none() {
            let message = "without it, pods could reach each other's guests; name the folder that holds the sandboxes' folders";
            return Some(("annotations.directory".into(), message.into()));
        }
        if let Some(upstream) = &self.cri.upstream {
            let message = format!("{upstream} is also cri.listen; name the runtime's own socket");
            return (*upstream == self.cri.listen).then(|| ("cri.upstream".into(), message));
        }
        let key = match self {
            Self { cri: CriSection { netns: true, .. }, .. } => "cri.netns",
            Self { annotations: AnnotationsSection { allow: true, .. }, .. } => "annotations.allow",
            Self { runtime, .. } if !runtime.is_empty() => "runtime",
            _ => return None,
        };
        let message =
            "it applies only to the pods of a container runtime; name the runtime's socket in cri.upstream";
        Some((key.into(), message.into()))
    }

    /// A token for a pod that has no relay. It would do nothing, and its author believes that it protects the pod.
    fn needless_token(&self) -> Option<(String, String)> {
        let needless =
            |pod: &PodSection| pod.token_file.is_some() && matches!(pod.endpoint, PodEndpoint::Netns(_));
        let at = self.pod.iter().position(needless)?;
        let message =
            "a pod that is dialled in its network namespace has no relay to check a token; leave it out";
        Some((format!("pod[{at}].token_file"), message.into()))
    }

    /// The rules that give the runtime's pods their routes.
    pub(crate) fn route_rules(&self) -> RouteRules {
        let path = |path: &Option<AbsolutePath>| path.as_ref().map(|path| path.0.clone());
        let rule = |rule: &RuntimeSection| RouteRule {
            handler: rule.handler.clone(),
            endpoint: rule.endpoint.clone(),
            token_file: path(&rule.token_file),
        };
        let directory = path(&self.annotations.directory).filter(|_| self.annotations.allow);
        RouteRules {
            handlers: self.runtime.iter().map(rule).collect(),
            annotations: directory,
            annotated_token_file: path(&self.annotations.token_file),
            netns: self.cri.netns,
        }
    }

    /// The configuration of the streaming server.
    ///
    /// # Errors
    /// If the TLS files are not usable.
    pub(crate) fn streaming_server(
        &self,
    ) -> Result<gangplank_streaming::Config, gangplank_streaming::TlsError> {
        let errors = match self.streaming.errors {
            ErrorDelivery::Reset => gangplank_streaming::ErrorStyle::Reset,
            ErrorDelivery::Text => gangplank_streaming::ErrorStyle::Text,
        };
        let tls = match self.streaming.tls.clone() {
            Some(TlsSection { cert, key, client_ca }) => {
                Some(gangplank_streaming::Tls::load(gangplank_streaming::TlsFiles { cert, key, client_ca })?)
            }
            None => None,
        };
        let allow_origin = self.streaming.allow_origin;
        Ok(gangplank_streaming::Config { errors, allow_origin, tls, limits: (&self.limits).into() })
    }
}

/// The second of two list items with the same value for a key that must be unique.
fn twice<T>(list: &str, items: &[T], key: &str, of: impl Fn(&T) -> String) -> Option<(String, String)> {
    let mut first = BTreeMap::new();
    items.iter().enumerate().find_map(|(at, item)| {
        let earlier = first.insert(of(item), at)?;
        let message =
            format!("{:?} is already used by {list}[{earlier}]; give each {list} its own", of(item));
        Some((format!("{list}[{at}].{key}"), message))
    })
}

/// A client that reaches one of these listeners can reach every pod, so other machines get in only on request.
fn not_loopback(section: &str, listen: SocketAddr, allowed: bool) -> Option<(String, String)> {
    let refused = !listen.ip().to_canonical().is_loopback() && !allowed;
    refused.then(|| {
        let message = format!(
            "{listen} can be reached from other machines, which could then reach every pod; \
             use a loopback address such as 127.0.0.1, or set {section}.allow_non_loopback = true"
        );
        (format!("{section}.listen"), message)
    })
}

fn line_of(text: &str, at: usize) -> usize {
    1 + text.as_bytes().iter().take(at).filter(|byte| **byte == b'\n').count()
}

/// The path of the key; empty for the file itself.
fn key_of(path: &serde_path_to_error::Path) -> String {
    if path.iter().len() == 0 { String::new() } else { path.to_string() }
}

fn default_namespace() -> DnsName {
    DnsName("default".into())
}

impl Default for CriSection {
    fn default() -> Self {
        Self { listen: UnixUrl::default(), socket_mode: SocketMode(0o600), upstream: None, netns: false }
    }
}

impl Default for StreamingSection {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            allow_non_loopback: false,
            errors: ErrorDelivery::Reset,
            allow_origin: false,
            tls: None,
        }
    }
}

impl Default for LogSection {
    fn default() -> Self {
        Self { format: LogFormat::Text, level: LogLevel::Info, audit: true }
    }
}

impl Default for ShutdownSection {
    fn default() -> Self {
        Self { grace: Grace(std::time::Duration::from_secs(30)) }
    }
}

#[cfg(test)]
mod tests;
