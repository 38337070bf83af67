// Command oci-spec prints the config.json with which containerd would run a container of a pod: with containerd's default
// mounts, capabilities and namespaces and, as in its CRI plugin, without resource limits.
//
//	oci-spec HOSTNAME NETNS default|unconfined PROGRAM [ARGUMENT]...
//
// NETNS is the path of the network namespace, or empty for a new one. It is followed by the seccomp profile and the
// program to run.
package main

import (
	"context"
	"encoding/json"
	"log"
	"os"

	"github.com/containerd/containerd/v2/contrib/seccomp"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/opencontainers/runtime-spec/specs-go"
)

func main() {
	if len(os.Args) < 5 {
		log.Fatal("usage: oci-spec HOSTNAME NETNS default|unconfined PROGRAM [ARGUMENT]...")
	}
	hostname, netns, profile, args := os.Args[1], os.Args[2], os.Args[3], os.Args[4:]
	options := []oci.SpecOpts{
		oci.WithRootFSPath("rootfs"),
		oci.WithHostname(hostname),
		oci.WithProcessArgs(args...),
		oci.WithLinuxNamespace(specs.LinuxNamespace{Type: specs.NetworkNamespace, Path: netns}),
	}
	switch profile {
	case "default":
		options = append(options, seccomp.WithDefaultProfile())
	case "unconfined":
	default:
		log.Fatalf("oci-spec: unknown seccomp profile %s", profile)
	}
	ctx := namespaces.WithNamespace(context.Background(), "pod")
	spec, err := oci.GenerateSpec(ctx, nil, &containers.Container{ID: hostname}, options...)
	if err != nil {
		log.Fatalf("oci-spec: %v", err)
	}
	spec.Process.Rlimits = nil
	if err := json.NewEncoder(os.Stdout).Encode(spec); err != nil {
		log.Fatalf("oci-spec: %v", err)
	}
}
