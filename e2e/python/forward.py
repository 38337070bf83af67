"""Forwards ports of a pod with the official client and prints a line for each check that passes.

Arguments: a kubeconfig, the pod, the ports of an echo service and a web page, and a closed port.
"""

import hashlib
import os
import sys
import threading

from kubernetes import client, config
from kubernetes.stream import portforward

LENGTH = 8 << 20


def forward(api, pod, *ports):
    return portforward(
        api.connect_get_namespaced_pod_portforward, pod, "default", ports=",".join(map(str, ports))
    )


def connect(forwarded, port):
    connection = forwarded.socket(port)
    connection.setblocking(True)
    connection.settimeout(30)
    return connection


def echo(connection, sent):
    """Sends and receives at the same time, and returns what came back."""
    writer = threading.Thread(target=connection.sendall, args=(sent,))
    writer.start()
    back = bytearray()
    while len(back) < len(sent):
        piece = connection.recv(64 << 10)
        assert piece, f"the connection ended after {len(back)} bytes"
        back += piece
    writer.join()
    return back


def fetch(connection):
    """Waits for the text of the page: the socket does not end while another port of the session is open."""
    connection.sendall(b"GET / HTTP/1.1\r\nHost: pod\r\nConnection: close\r\n\r\n")
    page = b""
    while b"This page was served from inside the pod" not in page:
        piece = connection.recv(64 << 10)
        assert piece, page
        page += piece


def main(kubeconfig, pod, echo_port, page_port, closed_port):
    config.load_kube_config(kubeconfig)
    api = client.CoreV1Api()
    all_ports = forward(api, pod, echo_port, page_port, closed_port)
    connection = connect(all_ports, echo_port)
    sent = os.urandom(LENGTH)
    assert hashlib.sha256(echo(connection, sent)).digest() == hashlib.sha256(sent).digest()
    print("echoed")
    fetch(connect(all_ports, page_port))
    assert all_ports.error(echo_port) is None, all_ports.error(echo_port)
    print("two ports")
    assert f"error forwarding port {closed_port} to pod" in all_ports.error(closed_port)
    connection.close()
    alone = forward(api, pod, closed_port)
    assert connect(alone, closed_port).recv(1) == b""
    assert alone.error(closed_port)
    print("refused")


main(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:]))
