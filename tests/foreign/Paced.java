// A service in h2 by Jetty, without TLS: the paths of crates/testkit/src/paced.rs.
//
//     java -cp JARS Paced.java
//
// Prints its port as JSON and serves until its standard input ends.

import java.io.IOException;
import java.io.InputStream;
import java.io.OutputStream;
import java.util.Arrays;
import javax.servlet.http.HttpServletRequest;
import javax.servlet.http.HttpServletResponse;
import org.eclipse.jetty.http2.server.HTTP2CServerConnectionFactory;
import org.eclipse.jetty.server.HttpConfiguration;
import org.eclipse.jetty.server.HttpConnectionFactory;
import org.eclipse.jetty.server.Request;
import org.eclipse.jetty.server.Server;
import org.eclipse.jetty.server.ServerConnector;
import org.eclipse.jetty.server.handler.AbstractHandler;
import org.eclipse.jetty.util.log.Log;
import org.eclipse.jetty.util.log.StdErrLog;

public class Paced extends AbstractHandler {
    @Override
    public void handle(
            String target, Request base, HttpServletRequest request, HttpServletResponse response)
            throws IOException {
        base.setHandled(true);
        InputStream body = request.getInputStream();
        OutputStream content = response.getOutputStream();
        switch (target) {
            case "/stream":
                while (true) {
                    content.write("tick\n".getBytes());
                    content.flush();
                    pause(20);
                }
            case "/slow":
                pause(1500);
                body.transferTo(OutputStream.nullOutputStream());
                break;
            case "/burst":
                byte[] piece = new byte[40];
                Arrays.fill(piece, (byte) 'x');
                for (int n = 0; n < 6000; n++) {
                    content.write(piece, 0, 10 + n % 31);
                    content.flush();
                }
                break;
            default:
                body.transferTo(OutputStream.nullOutputStream());
                content.write("ok".getBytes());
        }
    }

    private static void pause(long milliseconds) throws IOException {
        try {
            Thread.sleep(milliseconds);
        } catch (InterruptedException error) {
            throw new IOException(error);
        }
    }

    public static void main(String[] arguments) throws Exception {
        StdErrLog quiet = new StdErrLog();
        quiet.setLevel(StdErrLog.LEVEL_OFF);
        Log.setLog(quiet);
        Server server = new Server();
        HttpConfiguration configuration = new HttpConfiguration();
        ServerConnector connector =
                new ServerConnector(
                        server,
                        new HttpConnectionFactory(configuration),
                        new HTTP2CServerConnectionFactory(configuration));
        connector.setHost("127.0.0.1");
        server.addConnector(connector);
        server.setHandler(new Paced());
        server.start();
        System.out.printf("{\"port\": %d}%n", connector.getLocalPort());
        System.in.transferTo(OutputStream.nullOutputStream());
        System.exit(0);
    }
}
