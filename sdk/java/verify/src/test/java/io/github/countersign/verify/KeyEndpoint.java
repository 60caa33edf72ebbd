package io.github.countersign.verify;

import com.sun.net.httpserver.HttpExchange;
import com.sun.net.httpserver.HttpServer;
import com.sun.net.httpserver.HttpsConfigurator;
import com.sun.net.httpserver.HttpsServer;
import java.io.IOException;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.nio.charset.StandardCharsets;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CopyOnWriteArrayList;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Semaphore;
import javax.net.ssl.SSLContext;

/** A server of keys that can be told to misbehave. */
final class KeyEndpoint implements AutoCloseable {
    private final HttpServer server;
    private final ExecutorService threads = Executors.newCachedThreadPool();

    final List<String> requests = new CopyOnWriteArrayList<>();
    /** Has a permit for each request that arrived. */
    final Semaphore arrived = new Semaphore(0);

    volatile int status = 200;
    volatile Map<String, String> headers = Map.of();
    volatile byte[] body = new byte[0];
    /** Requests are answered when it is open. */
    volatile CountDownLatch gate = new CountDownLatch(0);

    KeyEndpoint(SSLContext tls) throws IOException {
        InetSocketAddress address = new InetSocketAddress(InetAddress.getLoopbackAddress(), 0);
        if (tls == null) {
            server = HttpServer.create(address, 0);
        } else {
            HttpsServer https = HttpsServer.create(address, 0);
            https.setHttpsConfigurator(new HttpsConfigurator(tls));
            server = https;
        }
        server.setExecutor(threads);
        server.createContext("/", this::answer);
        server.start();
    }

    KeyEndpoint() throws IOException {
        this(null);
    }

    KeyEndpoint serves(String keySet) {
        body = keySet.getBytes(StandardCharsets.UTF_8);
        return this;
    }

    int port() {
        return server.getAddress().getPort();
    }

    String url() {
        return "http://127.0.0.1:" + port() + "/keys";
    }

    private void answer(HttpExchange exchange) throws IOException {
        requests.add(exchange.getRequestURI().toString());
        arrived.release();
        try {
            gate.await();
        } catch (InterruptedException e) {
            Thread.currentThread().interrupt();
        }
        byte[] sent = body;
        headers.forEach((name, value) -> exchange.getResponseHeaders().set(name, value));
        boolean isUnchanged = headers.containsKey("ETag")
                && headers.get("ETag").equals(exchange.getRequestHeaders().getFirst("If-None-Match"));
        int code = isUnchanged ? 304 : status;
        boolean hasBody = code != 304 && code != 204 && sent.length > 0;
        exchange.sendResponseHeaders(code, hasBody ? sent.length : -1);
        if (hasBody) {
            try (var out = exchange.getResponseBody()) {
                out.write(sent);
            }
        }
        exchange.close();
    }

    @Override
    public void close() {
        gate.countDown();
        server.stop(0);
        threads.shutdownNow();
    }
}
