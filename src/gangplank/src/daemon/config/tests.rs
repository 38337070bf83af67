use std::collections::BTreeSet;

use super::*;

/// Serializes a value as its text, for the round trip through TOML.
pub(super) fn as_text<T: std::fmt::Display, S: serde::Serializer>(
    value: &T,
    to: S,
) -> Result<S::Ok, S::Error> {
    to.collect_str(value)
}

const SAMPLE: &str = include_str!("../../../gangplank.sample.toml");

fn load(text: &str) -> Result<Config, ConfigError> {
    Config::parse(Path::new("x.toml"), text)
}

/// The error message of an invalid file.
fn complaint(text: &str) -> String {
    load(text).expect_err(text).to_string()
}

/// The sample with every key uncommented.
fn sample_uncommented() -> String {
    let key = |rest: &str| rest.starts_with(|c: char| c.is_ascii_lowercase() || c == '[');
    let line = |line: &'static str| line.strip_prefix('#').filter(|rest| key(rest)).unwrap_or(line);
    SAMPLE.lines().map(line).collect::<Vec<_>>().join("\n")
}

/// The names of all keys, with their sections.
fn keys(value: &toml::Value, path: &str, into: &mut BTreeSet<String>) {
    match value {
        toml::Value::Table(table) => {
            for (key, value) in table {
                let path = format!("{path}.{key}");
                // Labels have keys that the user chooses.
                if !matches!(key.as_str(), "labels") {
                    keys(value, &path, into);
                }
                into.insert(path);
            }
        }
        toml::Value::Array(items) => items.iter().for_each(|item| keys(item, path, into)),
        _ => {}
    }
}

#[test]
fn the_sample_loads_and_changes_no_default() {
    assert_eq!(load(SAMPLE).unwrap(), Config::default());
}

#[test]
fn the_sample_states_the_defaults() {
    let mut config = load(&sample_uncommented()).unwrap();
    assert!(config.kube_api.take().is_some());
    assert!(config.streaming.tls.take().is_some());
    assert!(config.jsonrpc.take().is_some() && config.metrics.take().is_some());
    assert_eq!(config.pod.drain(..).count(), 1);
    assert_eq!(config.runtime.drain(..).count(), 1);
    assert!(config.cri.upstream.take().is_some());
    assert!(config.annotations.directory.take().is_some());
    assert!(config.annotations.token_file.take().is_some());
    assert_eq!(config, Config::default());
}

#[test]
fn the_sample_has_every_key() {
    let config = load(&sample_uncommented()).unwrap();
    let (mut known, mut sampled) = (BTreeSet::new(), BTreeSet::new());
    keys(&toml::Value::try_from(config).unwrap(), "", &mut known);
    keys(&sample_uncommented().parse::<toml::Table>().unwrap().into(), "", &mut sampled);
    known.retain(|key| !key.ends_with(".secs") && !key.ends_with(".nanos"));
    assert_eq!(known, sampled);
}

#[test]
fn limits_reach_the_streaming_server() {
    let config = load(
        "[streaming]\nerrors = \"text\"\nallow_origin = true\n[limits]\nstreams = 4\nlinger = \"7s\"\nrequest_head = \"1KiB\"",
    );
    let streaming = config.unwrap().streaming_server().unwrap();
    assert!(streaming.allow_origin);
    assert_eq!(streaming.errors, gangplank_streaming::ErrorStyle::Text);
    assert_eq!(streaming.limits.streams, 4);
    assert_eq!(streaming.limits.linger.as_secs(), 7);
    assert_eq!(streaming.limits.request_head, 1024);
    assert_eq!(Config::default().streaming_server().unwrap().limits, gangplank_streaming::Limits::default());
}

#[test]
fn a_missing_tls_file_is_named() {
    let config = load("[streaming.tls]\ncert = \"/nowhere/cert.pem\"\nkey = \"/nowhere/key.pem\"");
    let error = config.unwrap().streaming_server().unwrap_err().to_string();
    assert!(error.contains("/nowhere/cert.pem"), "{error}");
}

#[test]
fn an_unknown_key_is_named_with_its_line_and_the_known_ones() {
    let complaint = complaint("[cri]\n\nlisten_on = 1\n");
    assert!(complaint.starts_with("x.toml:3: cri.listen_on: unknown field `listen_on`"), "{complaint}");
    assert!(complaint.contains("`listen`, `socket_mode`, `upstream`"), "{complaint}");
}

#[test]
fn an_unknown_section_is_named() {
    let complaint = complaint("[crl]\nlisten = 1\n");
    assert!(complaint.starts_with("x.toml:1: crl: unknown field `crl`"), "{complaint}");
}

#[test]
fn an_invalid_value_is_named_with_what_was_expected() {
    for (text, start, expected) in [
        ("[cri]\nlisten = \"/x\"", "x.toml:2: cri.listen: invalid value: string \"/x\"", "unix:///run"),
        ("[limits]\nstreams = 0", "x.toml:2: limits.streams: ", "nonzero"),
        ("[limits]\nstreams = \"many\"", "x.toml:2: limits.streams: ", "nonzero"),
        ("[limits]\nsession_budget = \"0B\"", "x.toml:2: limits.session_budget: ", "above zero"),
        ("[limits]\nsession_budget = 0", "x.toml:2: limits.session_budget: ", "above zero"),
        ("[dial]\nrules = [\"permit tcp:*:80\"]", "x.toml:2: dial.rules[0]: ", "allow PATTERN"),
        ("[dial]\nrules = \"allow tcp:*:80\"", "x.toml:2: dial.rules: ", "a list"),
        ("[limits]\nlinger = 5", "x.toml:2: limits.linger: invalid type: integer `5`", "\"10s\""),
        ("[limits]\n\nlinger = \"5\"", "x.toml:3: limits.linger: ", "\"10s\""),
        ("[limits]\nrequest_head = \"16kB\"", "x.toml:2: limits.request_head: ", "\"16KiB\""),
        ("[log]\nlevel = \"loud\"", "x.toml:2: log.level: unknown variant `loud`", "`warn`"),
        ("[shutdown]\ngrace = true", "x.toml:2: shutdown.grace: ", "\"30s\""),
        ("[streaming]\nlisten = \"localhost:0\"", "x.toml:2: streaming.listen: ", "127.0.0.1:8001"),
        ("[streaming]\nerrors = 1", "x.toml:2: streaming.errors: ", "string"),
        ("[kube_api]\n", "x.toml:1: kube_api: missing field `listen`", ""),
        ("[streaming.tls]\ncert = \"x\"", "x.toml:1: streaming.tls: missing field `key`", ""),
    ] {
        let complaint = complaint(text);
        assert!(complaint.starts_with(start), "{complaint}");
        assert!(complaint.contains(expected), "{complaint}");
    }
}

#[test]
fn a_pod_needs_id_name_uid_and_a_known_endpoint() {
    let pod = "[[pod]]\nid = \"a\"\nname = \"a\"\nuid = \"u\"\nendpoint = \"unix:///x\"\n";
    assert_eq!(load(pod).unwrap().pod[0].namespace.0, "default");
    for key in ["id", "name", "uid", "endpoint"] {
        let without: String =
            pod.lines().filter(|line| !line.starts_with(key)).map(|l| format!("{l}\n")).collect();
        let complaint = complaint(&without);
        assert!(complaint.contains(&format!("pod[0]: missing field `{key}`")), "{complaint}");
    }
    let complaint = complaint(&pod.replace("unix:///x", "tcp://1.2.3.4:5"));
    assert!(complaint.starts_with("x.toml:5: pod[0].endpoint: "), "{complaint}");
    assert!(complaint.contains("hvsock:///PATH:PORT"), "{complaint}");
}

#[test]
fn ids_and_names_of_pods_are_unique() {
    let pod = |id: &str, name: &str| {
        format!("[[pod]]\nid = \"{id}\"\nname = \"{name}\"\nuid = \"u\"\nendpoint = \"unix:///x\"\n")
    };
    let twice = complaint(&(pod("a", "one") + &pod("a", "two")));
    assert!(twice.starts_with("x.toml: pod[1].id: \"a\" is already used by pod[0]"), "{twice}");
    let twice = complaint(&(pod("a", "one") + &pod("b", "one")));
    assert!(twice.starts_with("x.toml: pod[1].name: \"default/one\""), "{twice}");
    load(&(pod("a", "one") + &pod("ab", "two"))).unwrap();
}

#[test]
fn route_rules_need_an_upstream_runtime() {
    let rule = "[[runtime]]\nhandler = \"kata\"\nendpoint = \"unix:///x/{sandbox}/r.sock\"\n";
    let upstream = "[cri]\nupstream = \"unix:///run/containerd/containerd.sock\"\nnetns = true\n";
    let allow = "[annotations]\nallow = true\ndirectory = \"/run/vm\"\n";
    let rules = load(&format!("{upstream}{allow}{rule}")).unwrap().route_rules();
    assert_eq!((rules.handlers.len(), rules.netns), (1, true));
    assert_eq!(rules.annotations, Some("/run/vm".into()));
    assert_eq!(Config::default().route_rules().annotations, None);
    for (text, key) in [
        (rule, "runtime"),
        (allow, "annotations.allow"),
        ("[cri]\nnetns = true", "cri.netns"),
        ("[annotations]\nallow = true", "annotations.directory"),
        ("[cri]\nlisten = \"unix:///x\"\nupstream = \"unix:///x\"", "cri.upstream"),
    ] {
        let complaint = complaint(text);
        assert!(complaint.starts_with(&format!("x.toml: {key}: ")), "{complaint}");
    }
    let twice = complaint(&format!("{upstream}{rule}{rule}"));
    assert!(
        twice.starts_with("x.toml: runtime[1].handler: \"kata\" is already used by runtime[0]"),
        "{twice}"
    );
    let fixed = complaint(&format!("{upstream}{}", rule.replace("/{sandbox}", "")));
    assert!(fixed.contains("runtime[0].endpoint: ") && fixed.contains("{sandbox}"), "{fixed}");
}

#[test]
fn other_than_loopback_addresses_need_permission() {
    for section in ["streaming", "kube_api"] {
        for address in ["0.0.0.0:1", "[::]:1", "10.0.0.1:1"] {
            let text = format!("[{section}]\nlisten = \"{address}\"\n");
            let complaint = complaint(&text);
            assert!(complaint.starts_with(&format!("x.toml: {section}.listen: {address} ")), "{complaint}");
            assert!(complaint.contains(&format!("{section}.allow_non_loopback = true")), "{complaint}");
            load(&(text + "allow_non_loopback = true\n")).unwrap();
        }
        for address in ["127.0.0.1:1", "127.9.9.9:1", "[::1]:1", "[::ffff:127.0.0.1]:1"] {
            load(&format!("[{section}]\nlisten = \"{address}\"\n")).unwrap();
        }
    }
}

#[test]
fn invalid_toml_is_an_error_with_its_line() {
    let complaint = complaint("[cri]\nlisten = \n");
    assert!(complaint.starts_with("x.toml:2: "), "{complaint}");
}

#[test]
fn a_missing_file_is_named() {
    let complaint = Config::load(Path::new("/nowhere/x.toml")).unwrap_err().to_string();
    assert!(complaint.contains("/nowhere/x.toml"), "{complaint}");
    assert!(complaint.contains("--config"), "{complaint}");
}
