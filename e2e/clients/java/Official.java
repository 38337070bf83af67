import io.kubernetes.client.PortForward;
import io.kubernetes.client.util.ClientBuilder;
import io.kubernetes.client.util.KubeConfig;
import java.io.FileReader;
import java.io.IOException;
import java.io.InputStream;
import java.io.OutputStream;
import java.nio.charset.StandardCharsets;
import java.util.Arrays;
import java.util.List;
import java.util.Random;

/**
 * Forwards ports of a pod with the official Java client and prints a line for each check that passes.
 *
 * <p>Arguments: a kubeconfig, the pod, the ports of an echo service and a web page, and a closed port.
 */
class Official {
  static final int LENGTH = 8 << 20;

  public static void main(String[] arguments) throws Exception {
    var config = KubeConfig.loadKubeConfig(new FileReader(arguments[0]));
    var client = new PortForward(ClientBuilder.kubeconfig(config).build());
    int echoPort = Integer.parseInt(arguments[2]);
    int pagePort = Integer.parseInt(arguments[3]);
    int closedPort = Integer.parseInt(arguments[4]);
    var all = client.forward("default", arguments[1], List.of(echoPort, pagePort, closedPort));
    echo(all.getInputStream(echoPort), all.getOutboundStream(echoPort));
    System.out.println("echoed");
    fetch(all.getInputStream(pagePort), all.getOutboundStream(pagePort));
    System.out.println("two ports");
    refuse(all.getErrorStream(closedPort), closedPort);
    System.out.println("refused");
    System.exit(0);
  }

  /** Sends and receives at the same time. */
  static void echo(InputStream in, OutputStream out) throws Exception {
    byte[] sent = new byte[LENGTH];
    new Random().nextBytes(sent);
    var writer = new Thread(() -> write(out, sent));
    writer.start();
    byte[] back = in.readNBytes(LENGTH);
    writer.join();
    check(Arrays.equals(sent, back), "different or fewer bytes came back: " + back.length);
  }

  static void write(OutputStream out, byte[] bytes) {
    try {
      out.write(bytes);
      out.flush();
    } catch (IOException error) {
      throw new IllegalStateException(error);
    }
  }

  /** Waits for the text of the page: the stream does not end while another port of the session is open. */
  static void fetch(InputStream in, OutputStream out) throws IOException {
    write(out, "GET / HTTP/1.1\r\nHost: pod\r\nConnection: close\r\n\r\n".getBytes(StandardCharsets.US_ASCII));
    readUntil(in, "This page was served from inside the pod");
  }

  static void refuse(InputStream error, int port) throws IOException {
    readUntil(error, "error forwarding port " + port + " to pod");
  }

  static void readUntil(InputStream in, String wanted) throws IOException {
    var text = new StringBuilder();
    while (text.indexOf(wanted) < 0) {
      int next = in.read();
      check(next >= 0, "ended before " + wanted + ": " + text);
      text.append((char) next);
    }
  }

  static void check(boolean condition, String message) {
    if (!condition) {
      throw new IllegalStateException(message);
    }
  }
}
