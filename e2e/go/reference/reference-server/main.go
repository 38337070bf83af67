// Command reference-server is the reference in the benchmarks: the CRI streaming server that containerd and CRI-O
// embed, with a port-forward that works like containerd's for a pod in the host's network.
//
// It listens on a free loopback port. For each line on its standard input it prints a new streaming URL. It ends when
// its standard input ends.
package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"os"
	"strings"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/cri-streaming/pkg/streaming"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
)

// How long the second direction may go on after the first has ended, as in containerd.
const secondDirection = time.Second

func main() {
	if err := serve(); err != nil {
		log.Fatalf("reference-server: %v", err)
	}
}

func serve() error {
	addr, err := freeLoopbackAddress()
	if err != nil {
		return fmt.Errorf("finding a free loopback port: %w", err)
	}
	config := streaming.DefaultConfig
	config.Addr = addr
	server, err := streaming.NewServer(config, pod{})
	if err != nil {
		return err
	}
	failed := make(chan error, 1)
	go func() { failed <- server.Start(true) }()
	go func() {
		waitListening(addr)
		failed <- handOutURLs(server)
	}()
	return <-failed
}

// The library reveals its port only in its URLs, and they are correct only once it listens. So the port is chosen
// beforehand, and waitListening waits until it is open.
func freeLoopbackAddress() (string, error) {
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer listener.Close()
	return listener.Addr().String(), nil
}

// waitListening needs no timeout: if the server fails to listen, the program ends.
func waitListening(addr string) {
	for {
		conn, err := net.Dial("tcp4", addr)
		if err == nil {
			conn.Close()
			return
		}
		time.Sleep(time.Millisecond)
	}
}

// handOutURLs answers each line with a URL until the standard input ends.
func handOutURLs(server streaming.Server) error {
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		answer, err := server.GetPortForward(&runtimeapi.PortForwardRequest{PodSandboxId: "pod"})
		if err != nil {
			return fmt.Errorf("making a streaming URL: %w", err)
		}
		fmt.Println(strings.TrimSpace(answer.Url))
	}
	return lines.Err()
}

// pod is a pod in the host's network, so its ports are those of this machine.
type pod struct{}

// PortForward dials and copies as containerd does: IPv4 first, two copies, no half-close, and everything is cut off
// one second after the first direction has ended.
func (pod) PortForward(ctx context.Context, _ string, port int32, stream io.ReadWriteCloser) error {
	defer stream.Close()
	conn, err := dialLocalhost(port)
	if err != nil {
		return err
	}
	defer conn.Close()

	ended := make(chan error, 2)
	go func() { ended <- pump(stream, conn) }()
	go func() { ended <- pump(conn, stream) }()

	select {
	case err = <-ended:
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case second := <-ended:
		err = errors.Join(err, second)
	case <-time.After(secondDirection):
	case <-ctx.Done():
		err = ctx.Err()
	}
	return err
}

func dialLocalhost(port int32) (net.Conn, error) {
	address := fmt.Sprintf("localhost:%d", port)
	conn, err4 := net.Dial("tcp4", address)
	if err4 == nil {
		return conn, nil
	}
	conn, err6 := net.Dial("tcp6", address)
	if err6 != nil {
		return nil, fmt.Errorf("connecting to %s: %w; %w", address, err4, err6)
	}
	return conn, nil
}

func pump(to io.Writer, from io.Reader) error {
	_, err := io.Copy(to, from)
	return err
}

func (pod) Exec(context.Context, string, []string, io.Reader, io.WriteCloser, io.WriteCloser, bool, <-chan remotecommand.TerminalSize) error {
	return errors.ErrUnsupported
}

func (pod) Attach(context.Context, string, io.Reader, io.WriteCloser, io.WriteCloser, bool, <-chan remotecommand.TerminalSize) error {
	return errors.ErrUnsupported
}
