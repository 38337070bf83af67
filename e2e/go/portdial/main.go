// Command portdial is a CRI runtime in Go without a dialler of its own: it serves PortForward with the streaming server
// that containerd and CRI-O embed, and gets each connection from gangplank's pod.portDial.
//
//	portdial CRI-SOCKET GANGPLANK-RPC-SOCKET
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"os"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/cri-streaming/pkg/streaming"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
)

// methodNotFound is the JSON-RPC code for a request that gangplank or the pod does not support.
const methodNotFound = -32601

func main() {
	if len(os.Args) != 3 {
		log.Fatal("usage: portdial CRI-SOCKET GANGPLANK-RPC-SOCKET")
	}
	if err := serve(os.Args[1], pods{rpc: os.Args[2]}); err != nil {
		log.Fatalf("portdial: %v", err)
	}
}

func serve(socket string, pods pods) error {
	address, err := freeLoopbackAddress()
	if err != nil {
		return err
	}
	config := streaming.DefaultConfig
	config.Addr = address
	streams, err := streaming.NewServer(config, pods)
	if err != nil {
		return err
	}
	listener, err := net.Listen("unix", socket)
	if err != nil {
		return err
	}
	failed := make(chan error, 2)
	go func() { failed <- streams.Start(true) }()
	calls := grpc.NewServer()
	runtimeapi.RegisterRuntimeServiceServer(calls, cri{streams: streams, pods: pods})
	go func() { failed <- calls.Serve(listener) }()
	return <-failed
}

func freeLoopbackAddress() (string, error) {
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer listener.Close()
	return listener.Addr().String(), nil
}

// cri answers the calls that crictl makes for a port-forward.
type cri struct {
	runtimeapi.UnimplementedRuntimeServiceServer
	streams streaming.Server
	pods    pods
}

func (cri) Version(context.Context, *runtimeapi.VersionRequest) (*runtimeapi.VersionResponse, error) {
	return &runtimeapi.VersionResponse{
		Version: "0.1.0", RuntimeName: "portdial", RuntimeVersion: "0.1.0", RuntimeApiVersion: "v1",
	}, nil
}

func (c cri) PortForward(ctx context.Context, request *runtimeapi.PortForwardRequest) (*runtimeapi.PortForwardResponse, error) {
	return c.streams.GetPortForward(request)
}

// pods reaches ports through gangplank.
type pods struct{ rpc string }

type call struct {
	Version string `json:"jsonrpc"`
	ID      int    `json:"id"`
	Method  string `json:"method"`
	Params  any    `json:"params"`
}

type portDial struct {
	Handle  string `json:"handle"`
	Network string `json:"network"`
	Port    int32  `json:"port"`
}

type answer struct {
	Error *struct {
		Code    int    `json:"code"`
		Message string `json:"message"`
	} `json:"error"`
}

// PortForward hands one forwarded connection to pod.portDial.
func (p pods) PortForward(ctx context.Context, sandbox string, port int32, stream io.ReadWriteCloser) error {
	defer stream.Close()
	conn, fromPod, err := p.dial(ctx, sandbox, port)
	if err != nil {
		return err
	}
	defer conn.Close()
	go func() {
		io.Copy(conn, stream)
		conn.CloseWrite() // the pod's answer is still to come
	}()
	_, err = io.Copy(stream, fromPod)
	return err
}

// dial returns the connection and a reader for it, which also has the bytes that arrived together with the answer.
func (p pods) dial(ctx context.Context, sandbox string, port int32) (*net.UnixConn, io.Reader, error) {
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "unix", p.rpc)
	if err != nil {
		return nil, nil, fmt.Errorf("reaching gangplank: %w", err)
	}
	reader := bufio.NewReader(conn)
	if err := portDialed(conn, reader, sandbox, port); err != nil {
		conn.Close()
		return nil, nil, err
	}
	return conn.(*net.UnixConn), reader, nil
}

func portDialed(conn net.Conn, reader *bufio.Reader, sandbox string, port int32) error {
	params := portDial{Handle: sandbox, Network: "tcp", Port: port}
	request := call{Version: "2.0", ID: 1, Method: "pod.portDial", Params: params}
	if err := json.NewEncoder(conn).Encode(request); err != nil {
		return err
	}
	line, err := reader.ReadBytes('\n')
	if err != nil {
		return fmt.Errorf("waiting for gangplank's answer: %w", err)
	}
	var answer answer
	if err := json.Unmarshal(line, &answer); err != nil {
		return fmt.Errorf("reading gangplank's answer: %w", err)
	}
	switch {
	case answer.Error == nil:
		return nil
	case answer.Error.Code == methodNotFound:
		return status.Error(codes.Unimplemented, answer.Error.Message)
	default:
		return errors.New(answer.Error.Message)
	}
}

func (pods) Exec(context.Context, string, []string, io.Reader, io.WriteCloser, io.WriteCloser, bool, <-chan remotecommand.TerminalSize) error {
	return errors.ErrUnsupported
}

func (pods) Attach(context.Context, string, io.Reader, io.WriteCloser, io.WriteCloser, bool, <-chan remotecommand.TerminalSize) error {
	return errors.ErrUnsupported
}
