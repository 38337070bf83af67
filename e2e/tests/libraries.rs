//! Library clients against the daemon's small Kubernetes API, for both kinds of endpoint.

use gangplank_e2e::daemon::{self, Daemon};
use gangplank_e2e::library::Library;
use gangplank_e2e::pod::{Place, Pod};
use gangplank_e2e::services::Service;

/// Bytes both ways with hashes compared, two ports, a refused port.
fn forwards(library: Library, place: Place) {
    let pod = Pod::run(place);
    let daemon = Daemon::serve(&[&pod]);
    let ports = [Service::Echo, Service::Http, Service::Refused].map(|service| pod.port(service));
    library.must_forward(daemon.dir(), &daemon.write_kubeconfig(), &daemon::name(0), ports);
}

macro_rules! matrix {
    ($($name:ident: $library:ident, $place:ident;)*) => {
        $(#[test]
        fn $name() {
            forwards(Library::$library, Place::$place);
        })*
    };
}

matrix! {
    python_direct: Python, Direct;
    python_relay: Python, Relay;
    javascript_direct: JavaScript, Direct;
    javascript_relay: JavaScript, Relay;
    kube_rs_direct: KubeRs, Direct;
    kube_rs_relay: KubeRs, Relay;
    fabric8_direct: Fabric8, Direct;
    fabric8_relay: Fabric8, Relay;
    official_java_direct: OfficialJava, Direct;
    official_java_relay: OfficialJava, Relay;
}
