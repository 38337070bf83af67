"""Forwards ports of a pod with the official client, and prints a word for each thing that went as it should.

Arguments: the server's URL, the pod, the port of an echo service, a port where nothing listens.
"""

import hashlib
import os
import sys
import threading

from kubernetes import client
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
    """Sends and receives at once; what came back."""
    writer = threading.Thread(target=connection.sendall, args=(sent,))
    writer.start()
    back = bytearray()
    while len(back) < len(sent):
        piece = connection.recv(64 << 10)
        assert piece, f"the connection ended after {len(back)} bytes"
        back += piece
    writer.join()
    return back


def main(url, pod, open_port, closed_port):
    api = client.CoreV1Api(client.ApiClient(client.Configuration(host=url)))
    both = forward(api, pod, open_port, closed_port)
    connection = connect(both, open_port)
    sent = os.urandom(LENGTH)
    assert hashlib.sha256(echo(connection, sent)).digest() == hashlib.sha256(sent).digest()
    print("echoed")
    assert both.error(open_port) is None, both.error(open_port)
    assert f"error forwarding port {closed_port} to pod" in both.error(closed_port)
    print("refused")
    connection.close()
    alone = forward(api, pod, closed_port)
    assert connect(alone, closed_port).recv(1) == b""
    assert alone.error(closed_port)
    print("ended")


main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
