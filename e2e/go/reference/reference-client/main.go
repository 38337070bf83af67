// Command reference-client is the Go client of the benchmarks. It uses a streaming URL as kubectl and crictl do, with
// the same library.
//
//	reference-client URL PORT...
//
// opens one SPDY session at URL, listens on a free loopback port for each PORT of the pod, and prints one
// line with these local ports in the order of the arguments. It ends when its standard input ends.
package main

import (
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/url"
	"os"
	"strings"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/transport/spdy"
)

func main() {
	if len(os.Args) < 3 {
		log.Fatal("usage: reference-client URL PORT...")
	}
	if err := forward(os.Args[1], os.Args[2:]); err != nil {
		log.Fatalf("reference-client: %v", err)
	}
}

func forward(address string, remotePorts []string) error {
	target, err := url.Parse(address)
	if err != nil {
		return err
	}
	transport, upgrader, err := spdy.RoundTripperFor(&rest.Config{Host: target.Host})
	if err != nil {
		return err
	}
	dialer := spdy.NewDialer(upgrader, &http.Client{Transport: transport}, http.MethodPost, target)

	ports := make([]string, len(remotePorts))
	for i, port := range remotePorts {
		ports[i] = "0:" + port
	}
	stop, ready := make(chan struct{}), make(chan struct{})
	forwarder, err := portforward.NewOnAddresses(dialer, []string{"127.0.0.1"}, ports, stop, ready, nil, os.Stderr)
	if err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- forwarder.ForwardPorts() }()

	select {
	case <-ready:
	case err := <-ended:
		return errors.Join(errors.New("the session ended before it was ready"), err)
	}
	if err := printLocalPorts(forwarder); err != nil {
		return err
	}
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		close(stop)
	}()
	return <-ended
}

func printLocalPorts(forwarder *portforward.PortForwarder) error {
	ports, err := forwarder.GetPorts()
	if err != nil {
		return err
	}
	local := make([]string, len(ports))
	for i, port := range ports {
		local[i] = fmt.Sprint(port.Local)
	}
	fmt.Println(strings.Join(local, " "))
	return nil
}
