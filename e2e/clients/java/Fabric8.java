import io.fabric8.kubernetes.client.Config;
import io.fabric8.kubernetes.client.KubernetesClient;
import io.fabric8.kubernetes.client.KubernetesClientBuilder;
import io.fabric8.kubernetes.client.LocalPortForward;
import java.io.File;
import java.io.IOException;
import java.io.InputStream;
import java.net.Socket;
import java.nio.charset.StandardCharsets;
import java.util.Arrays;
import java.util.Random;

/**
 * Forwards ports of a pod with fabric8's client and prints a line for each check that passes.
 *
 * <p>Arguments: a kubeconfig, the pod, the ports of an echo service and a web page, and a closed port.
 */
class Fabric8 {
  static final int LENGTH = 8 << 20;

  public static void main(String[] arguments) throws Exception {
    var config = Config.fromKubeconfig(new File(arguments[0]));
    try (KubernetesClient client = new KubernetesClientBuilder().withConfig(config).build()) {
      var pod = client.pods().inNamespace("default").withName(arguments[1]);
      try (var echo = pod.portForward(Integer.parseInt(arguments[2]));
          var page = pod.portForward(Integer.parseInt(arguments[3]));
          var refused = pod.portForward(Integer.parseInt(arguments[4]))) {
        try (Socket opened = connect(page)) {
          echo(echo);
          System.out.println("echoed");
          fetch(opened);
          System.out.println("two ports");
        }
        refuse(refused);
        System.out.println("refused");
      }
    }
    System.exit(0);
  }

  static Socket connect(LocalPortForward forward) throws IOException {
    return new Socket(forward.getLocalAddress(), forward.getLocalPort());
  }

  /** Sends and receives at the same time. */
  static void echo(LocalPortForward forward) throws Exception {
    byte[] sent = new byte[LENGTH];
    new Random().nextBytes(sent);
    try (Socket socket = connect(forward)) {
      var writer = new Thread(() -> write(socket, sent));
      writer.start();
      byte[] back = socket.getInputStream().readNBytes(LENGTH);
      writer.join();
      check(Arrays.equals(sent, back), "different or fewer bytes came back: " + back.length + forward.getServerThrowables());
    }
    check(!forward.errorOccurred(), "errors: " + forward.getClientThrowables() + forward.getServerThrowables());
  }

  static void write(Socket socket, byte[] bytes) {
    try {
      socket.getOutputStream().write(bytes);
    } catch (IOException error) {
      throw new IllegalStateException(error);
    }
  }

  static void fetch(Socket socket) throws IOException {
    write(socket, "GET / HTTP/1.1\r\nHost: pod\r\nConnection: close\r\n\r\n".getBytes(StandardCharsets.US_ASCII));
    InputStream answer = socket.getInputStream();
    String page = new String(answer.readAllBytes(), StandardCharsets.UTF_8);
    check(page.contains("This page was served from inside the pod"), "unexpected page: " + page);
  }

  /** The local connection ends. The client only logs the text from the error channel. */
  static void refuse(LocalPortForward forward) throws IOException {
    try (Socket socket = connect(forward)) {
      check(socket.getInputStream().read() == -1, "the refused port sent something");
    }
  }

  static void check(boolean condition, String message) {
    if (!condition) {
      throw new IllegalStateException(message);
    }
  }
}
