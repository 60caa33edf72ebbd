package io.github.countersign.verify.servlet;

import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.net.Socket;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.List;
import java.util.Locale;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import javax.net.SocketFactory;

/** Sends requests byte by byte, as no client library does. */
final class RawHttp {
    static final String HOST = "orders.example.org";
    private static final Pattern CODE = Pattern.compile("\"code\":\"([a-z-]+)\"");
    private static final int TIMEOUT_MILLIS = 10_000;

    private final String method;
    private final String target;
    private final List<String> fields = new ArrayList<>();
    private byte[] body = new byte[0];
    private boolean hasHost;
    private boolean endsEarly;
    private SocketFactory sockets = SocketFactory.getDefault();

    private RawHttp(String method, String target) {
        this.method = method;
        this.target = target;
    }

    record Reply(int status, String head, byte[] body) {
        String text() {
            return new String(body, StandardCharsets.UTF_8);
        }

        String code() {
            Matcher found = CODE.matcher(text());
            return found.find() ? found.group(1) : "none: " + status;
        }
    }

    static RawHttp get(String target) {
        return new RawHttp("GET", target);
    }

    static RawHttp request(String method, String target) {
        return new RawHttp(method, target);
    }

    RawHttp host(String host) {
        hasHost = true;
        return field("Host: " + host);
    }

    RawHttp field(String line) {
        fields.add(line);
        return this;
    }

    RawHttp assertion(String token) {
        return field("Countersign-Assertion: " + token);
    }

    RawHttp body(byte[] body) {
        this.body = body;
        return field("Content-Length: " + body.length);
    }

    RawHttp chunked(byte[] encoded) {
        this.body = encoded;
        return field("Transfer-Encoding: chunked");
    }

    /** Announces a body of which nothing follows. */
    RawHttp announcing(int length) {
        endsEarly = true;
        return field("Content-Length: " + length);
    }

    /** Uses sockets with TLS, for example. */
    RawHttp over(SocketFactory sockets) {
        this.sockets = sockets;
        return this;
    }

    Reply send(int port) throws IOException {
        if (!hasHost) {
            host(HOST);
        }
        StringBuilder head = new StringBuilder(method + " " + target + " HTTP/1.1\r\nConnection: close\r\n");
        fields.forEach(line -> head.append(line).append("\r\n"));
        head.append("\r\n");
        try (Socket socket = sockets.createSocket("localhost", port)) {
            socket.setSoTimeout(TIMEOUT_MILLIS);
            ByteArrayOutputStream sent = new ByteArrayOutputStream();
            sent.write(head.toString().getBytes(StandardCharsets.ISO_8859_1));
            sent.write(body);
            socket.getOutputStream().write(sent.toByteArray());
            if (endsEarly) {
                socket.shutdownOutput();
            }
            return reply(socket.getInputStream().readAllBytes());
        }
    }

    private static Reply reply(byte[] received) {
        String text = new String(received, StandardCharsets.ISO_8859_1);
        int end = text.indexOf("\r\n\r\n");
        String head = text.substring(0, end);
        byte[] body = text.substring(end + 4).getBytes(StandardCharsets.ISO_8859_1);
        if (head.toLowerCase(Locale.ROOT).contains("transfer-encoding: chunked")) {
            body = unchunked(text.substring(end + 4)).getBytes(StandardCharsets.ISO_8859_1);
        }
        return new Reply(Integer.parseInt(head.substring(9, 12)), head, body);
    }

    private static String unchunked(String text) {
        StringBuilder body = new StringBuilder();
        String rest = text;
        while (true) {
            int line = rest.indexOf("\r\n");
            int length = line < 0 ? 0 : Integer.parseInt(rest.substring(0, line), 16);
            if (length == 0) {
                return body.toString();
            }
            body.append(rest, line + 2, line + 2 + length);
            rest = rest.substring(line + 2 + length + 2);
        }
    }
}
