//! The relay as one more container of a pod: runc runs in the guest what containerd would have it run.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use gangplank_channel::{Endpoint, OpenErrorKind, dial, ports};
use gangplank_e2e::parts::{self, Scratch, cached};
use gangplank_e2e::pattern::{Pattern, summary};
use gangplank_e2e::pod::Pod;
use gangplank_e2e::services::{CONTAINER_PORT, Service};

use super::{ECHO, MIB, fetch, soon, talk, tcp};

/// Where the relay listens without options. The guest's own relay uses another port.
const PORT: u32 = 1023;

/// Where a second relay of the guest listens, which finds containers by their cgroups.
const BY_CGROUP: u32 = 1022;

/// Where the guest has the path of the app's network namespace.
const NETNS: &str = "/run/app.net";

/// A bundle whose image contains only the program.
fn bundle(pod: &Path, name: &str, netns: &str, seccomp: &str, program: &str, arguments: &[&str]) {
    let rootfs = pod.join(name).join("rootfs");
    fs::create_dir_all(&rootfs).unwrap();
    fs::copy(parts::static_program(program), rootfs.join(program)).unwrap();
    let mut spec = Command::new(cached("bin/oci-spec"));
    spec.args([name, netns, seccomp, &format!("/{program}")]).args(arguments);
    let output = spec.output().unwrap();
    assert!(output.status.success(), "oci-spec: {}", String::from_utf8_lossy(&output.stderr));
    fs::write(pod.join(name).join("config.json"), output.stdout).unwrap();
}

/// A guest with three containers: an app, and two relays in its network namespace, one of them with containerd's default
/// seccomp profile.
fn boot() -> Pod {
    let (files, runc) = (Scratch::new(), cached("runc/usr/sbin/runc"));
    let pod = files.path().join("pod");
    bundle(&pod, "app", "", "default", "podserver", &["--base", &CONTAINER_PORT.to_string()]);
    bundle(&pod, "relay", NETNS, "unconfined", "gangplank-relay", &[]);
    bundle(&pod, "confined", NETNS, "default", "gangplank-relay", &[]);
    // No pivot, because that is impossible in an initramfs. Like containerd, use the path of the pod's first process.
    let runc = runc.display();
    let script = format!(
        "#!/bin/sh
        mkdir /sys
        mount -t sysfs sys /sys
        mount -t cgroup2 cgroup /sys/fs/cgroup
        cd /pod
        {runc} run --no-pivot --detach --pid-file /run/app.pid --bundle app app
        busybox ln -s /proc/$(busybox cat /run/app.pid)/ns/net {NETNS}
        {runc} run --no-pivot --detach --bundle relay relay
        gangplank-relay --listen vsock://{BY_CGROUP} --cgroup &
        {runc} run --no-pivot --bundle confined confined
        echo extra: the confined relay ended with status $?
        "
    );
    let extra = files.path().join("extra");
    fs::write(&extra, script).unwrap();
    fs::set_permissions(&extra, fs::Permissions::from_mode(0o755)).unwrap();
    Pod::guest_with(files.path(), &[&runc.to_string()])
}

#[tokio::test]
async fn a_relay_that_is_a_container_of_the_pod_reaches_the_pods_ports() {
    let mut pod = boot();
    let console = pod.guest().wait_for_console(&format!("listening at vsock://{PORT}"));
    let own: Endpoint = pod.endpoint().parse().unwrap();
    let [endpoint, by_cgroup] = [PORT, BY_CGROUP].map(|port| -> Endpoint {
        format!("hvsock://{}:{port}", pod.guest().socket().display()).parse().unwrap()
    });
    let reach = async |port| soon(dial(&endpoint, tcp(port))).await.unwrap();

    let name = fetch(reach(CONTAINER_PORT).await, "/name").await;
    assert_eq!(String::from_utf8_lossy(&name), "app\n");
    let sent = super::pattern(8 * MIB);
    let summed = talk(reach(CONTAINER_PORT + Service::Sink as u16).await, &sent).await;
    assert_eq!(String::from_utf8_lossy(&summed), summary(Pattern::new(8 * MIB)).unwrap());
    let listening = soon(ports(&endpoint, "")).await.unwrap().listening;
    assert!(listening.iter().any(|at| at.address.port() == CONTAINER_PORT), "{listening:?}");

    // The pod's network is that of the container, and the guest's is separate: each has ports that the other lacks.
    for (endpoint, port) in [(&endpoint, ECHO), (&own, CONTAINER_PORT)] {
        let refused = soon(dial(endpoint, tcp(port))).await.unwrap_err();
        assert_eq!(refused.kind, OpenErrorKind::Refused, "{refused}");
    }

    // runc gives each container a cgroup named after its id, here in cgroup v2.
    let at = |container| tcp(CONTAINER_PORT).in_container(container);
    let name = fetch(soon(dial(&by_cgroup, at("app"))).await.unwrap(), "/name").await;
    assert_eq!(String::from_utf8_lossy(&name), "app\n");
    let missing = soon(dial(&by_cgroup, at("other"))).await.unwrap_err();
    assert!(missing.to_string().contains("`other` is not in the guest"), "{missing}");

    // That profile does not allow AF_VSOCK.
    let told = format!("cannot listen at vsock://{PORT}: Operation not permitted");
    assert!(console.contains(&told), "{console}");
    assert!(console.contains("the confined relay ended with status 1"), "{console}");
}
