//! etcd and kube-apiserver.

use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::time::Instant;

use super::ADDRESS;
use super::kubectl::Kubectl;
use crate::parts;
use crate::process::{LIMIT, Process};

/// The token of the only user.
const TOKEN: &str = "gangplank-test";

/// The address of etcd, which has this network namespace to itself.
const ETCD: &str = "127.0.0.1:2379";

/// Both, running. Dropping it ends them.
pub struct ControlPlane {
    apiserver: Process,
    _etcd: Process,
    config: PathBuf,
}

impl ControlPlane {
    /// Starts both in this folder and returns once pods can be created.
    ///
    /// # Panics
    /// If one does not come up.
    pub fn start(dir: &Path) -> Self {
        let etcd = start_etcd(dir);
        let apiserver = startapiserver(dir);
        let config = dir.join("kubeconfig");
        std::fs::write(&config, kubeconfig(dir)).unwrap();
        let mut control = Self { apiserver, _etcd: etcd, config };
        control.await_namespace(dir);
        control
    }

    /// The clients' configuration file.
    pub fn config(&self) -> &Path {
        &self.config
    }

    /// Pods go to the namespace `default`, which the API server creates some time after its start.
    fn await_namespace(&mut self, dir: &Path) {
        let kubectl = Kubectl::new(&self.config, dir);
        let deadline = Instant::now() + LIMIT;
        self.apiserver.wait_until("it listens", |_| TcpStream::connect((ADDRESS, 6443)).ok());
        while let Err(output) = kubectl.try_run(&["get", "namespace", "default"]) {
            assert!(
                Instant::now() < deadline,
                "no API after {LIMIT:?}: {output}\n{}",
                self.apiserver.output()
            );
        }
    }
}

fn start_etcd(dir: &Path) -> Process {
    let mut etcd = Process::start_shared("etcd", &parts::cached("etcd/usr/bin/etcd"), dir, |command| {
        command.arg("--data-dir").arg(dir.join("etcd"));
        for flag in ["--listen-client-urls", "--advertise-client-urls"] {
            command.args([flag, &format!("http://{ETCD}")]);
        }
        command.args(["--listen-peer-urls", "http://127.0.0.1:2380"]);
    });
    etcd.wait_until("it listens", |_| TcpStream::connect(ETCD).ok());
    etcd
}

fn startapiserver(dir: &Path) -> Process {
    let [tokens, key, public_key] = ["tokens.csv", "key.pem", "key.pub"].map(|name| dir.join(name));
    // For service account tokens. No pod here has one, but the server insists on being able to sign them.
    let pair = rcgen::KeyPair::generate().expect("a key");
    std::fs::write(&tokens, format!("{TOKEN},admin,admin,system:masters\n")).unwrap();
    std::fs::write(&key, pair.serialize_pem()).unwrap();
    std::fs::write(&public_key, pair.public_key_pem()).unwrap();
    Process::start_shared("kube-apiserver", &parts::cached("bin/kube-apiserver"), dir, |command| {
        command.args(["--etcd-servers", &format!("http://{ETCD}")]);
        command.args(["--bind-address", ADDRESS, "--advertise-address", ADDRESS, "--secure-port", "6443"]);
        command.arg("--cert-dir").arg(dir.join("pki"));
        command.args(["--authorization-mode", "AlwaysAllow"]).arg("--token-auth-file").arg(tokens);
        command.args(["--service-account-issuer", "https://gangplank.test"]);
        command.arg("--service-account-signing-key-file").arg(key);
        command.arg("--service-account-key-file").arg(public_key);
        command.args(["--service-cluster-ip-range", "10.99.0.0/24"]);
        // No DNS has the nodes' names.
        command.args(["--kubelet-preferred-address-types", "InternalIP"]);
        // These need controllers, and there are none.
        command
            .arg("--disable-admission-plugins=ServiceAccount,TaintNodesByCondition,DefaultTolerationSeconds");
    })
}

fn kubeconfig(dir: &Path) -> String {
    format!(
        r#"{{"apiVersion": "v1", "kind": "Config", "current-context": "test",
    "clusters": [{{"name": "test", "cluster":
        {{"server": "https://{ADDRESS}:6443", "certificate-authority": "{}"}}}}],
    "users": [{{"name": "admin", "user": {{"token": "{TOKEN}"}}}}],
    "contexts": [{{"name": "test", "context": {{"cluster": "test", "user": "admin"}}}}]}}
"#,
        dir.join("pki/apiserver.crt").display()
    )
}
