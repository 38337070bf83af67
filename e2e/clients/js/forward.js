// Forwards ports of a pod with the official JavaScript client and prints a line for each check that passes.
//
// Arguments: a kubeconfig, the pod, the ports of an echo service and a web page, and a closed port.

import assert from "node:assert";
import { createHash, randomBytes } from "node:crypto";
import { once } from "node:events";
import net from "node:net";
import { PassThrough } from "node:stream";
import { buffer, text } from "node:stream/consumers";
import { KubeConfig, PortForward } from "@kubernetes/client-node";

const LENGTH = 8 << 20;

const [kubeconfig, pod, echoPort, pagePort, closedPort] = process.argv.slice(2);
const config = new KubeConfig();
config.loadFromFile(kubeconfig);
const client = new PortForward(config);

/** A local server as in the client's example, with one WebSocket per connection. The error channel goes to `error`. */
async function forward(port, error) {
  const server = net.createServer({ pauseOnConnect: true }, async (socket) => {
    const webSocket = await client.portForward("default", pod, [Number(port)], socket, error, socket);
    webSocket.onclose = () => {
      socket.end();
      error.end();
    };
    socket.resume();
  });
  await once(server.listen(0, "127.0.0.1"), "listening");
  return server;
}

async function connect(server) {
  const socket = net.connect(server.address().port, "127.0.0.1");
  await once(socket, "connect");
  return socket;
}

async function echo(socket) {
  const sent = randomBytes(LENGTH);
  socket.write(sent);
  const back = createHash("sha256");
  let length = 0;
  for await (const piece of socket) {
    back.update(piece);
    length += piece.length;
    if (length >= LENGTH) break;
  }
  assert.equal(back.digest("hex"), createHash("sha256").update(sent).digest("hex"));
}

const [echoes, pages, refused] = [new PassThrough(), new PassThrough(), new PassThrough()];
const servers = await Promise.all([
  forward(echoPort, echoes),
  forward(pagePort, pages),
  forward(closedPort, refused),
]);

const page = await connect(servers[1]);
await echo(await connect(servers[0]));
console.log("echoed");

page.write("GET / HTTP/1.1\r\nHost: pod\r\nConnection: close\r\n\r\n");
assert.match(await text(page), /This page was served from inside the pod/);
console.log("two ports");

const ended = await connect(servers[2]);
assert.equal((await buffer(ended)).length, 0);
assert.match(await text(refused), new RegExp(`error forwarding port ${closedPort} to pod`));
console.log("refused");
process.exit(0);
