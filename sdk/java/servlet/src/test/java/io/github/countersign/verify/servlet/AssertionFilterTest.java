package io.github.countersign.verify.servlet;

import static io.github.countersign.verify.servlet.RawHttp.HOST;
import static io.github.countersign.verify.servlet.RawHttp.get;
import static io.github.countersign.verify.servlet.RawHttp.request;
import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import io.github.countersign.verify.AssertionVerifier;
import io.github.countersign.verify.InProcessReplayStore;
import io.github.countersign.verify.junit5.TestGateway;
import jakarta.servlet.DispatcherType;
import jakarta.servlet.Filter;
import jakarta.servlet.http.HttpServletRequest;
import jakarta.servlet.http.HttpServletRequestWrapper;
import java.nio.charset.StandardCharsets;
import java.util.Arrays;
import java.util.Collections;
import java.util.Enumeration;
import java.util.HashSet;
import java.util.List;
import java.util.Locale;
import java.util.Set;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.EnumSource;

/** The filter in real containers, with requests as they are on the wire. */
class AssertionFilterTest {
    private static final String CALLER = "spiffe://example.org/shop";
    private static final TestGateway GATEWAY = new TestGateway("orders");

    /** Arrive as they were sent, unless the container refuses them. */
    private static final List<String> TARGETS = List.of(
            "/orders/7",
            "/orders/%37",
            "/a%2Fb/c",
            "/a%2fb/c",
            "/orders/7;v=1/x",
            "/orders/7;jsessionid=1",
            "/a+b",
            "/a%20b",
            "/caf%C3%A9",
            "/%C3%28",
            "/a/./b/../c",
            "//orders//7",
            "/orders/7/",
            "/%25%37",
            "/~a!$&'()*,=:@",
            "/orders/7?x=1",
            "/orders/7?x=1&x=%31+2",
            "/orders/7?",
            "/orders/7??",
            "/orders/7?a=/b?c",
            "/");

    /** All containers pass these on. */
    private static final Set<String> ORDINARY = Set.of(
            "/orders/7",
            "/orders/%37",
            "/a+b",
            "/a%20b",
            "/caf%C3%A9",
            "/orders/7/",
            "/orders/7?x=1&x=%31+2",
            "/orders/7?",
            "/orders/7??",
            "/");

    private record Confusion(String signed, String sent, String code) {}

    private static final List<Confusion> CONFUSIONS = List.of(
            new Confusion("/orders/7", "/orders/%37", "assertion-path"),
            new Confusion("/orders/%37", "/orders/7", "assertion-path"),
            new Confusion("/a/b", "/a%2Fb", "assertion-path"),
            new Confusion("/a%2Fb", "/a%2fb", "assertion-path"),
            new Confusion("/orders/7", "/orders/7;v=1", "assertion-path"),
            new Confusion("/orders/7", "//orders/7", "assertion-path"),
            new Confusion("/orders/7", "/orders/7/", "assertion-path"),
            new Confusion("/orders/7", "/orders/x/../7", "assertion-path"),
            new Confusion("/a%20b", "/a+b", "assertion-path"),
            new Confusion("/orders/7", "/Orders/7", "assertion-path"),
            new Confusion("/orders/7", "/orders/7?x=1", "assertion-query"),
            new Confusion("/orders/7?x=1", "/orders/7", "assertion-query"),
            new Confusion("/orders/7?x=1", "/orders/7?x=%31", "assertion-query"),
            new Confusion("/orders/7?x=1&y=2", "/orders/7?y=2&x=1", "assertion-query"),
            new Confusion("/orders/7?x=+", "/orders/7?x=%20", "assertion-query"),
            new Confusion("/orders/7?", "/orders/7", "assertion-query"),
            new Confusion("/orders/7", "/orders/7?", "assertion-query"));

    private static String signed(String method, String target) {
        return signed(method, target, HOST);
    }

    private static String signed(String method, String target, String host) {
        return GATEWAY.assertion(method, "https://" + host + target, CALLER).sign();
    }

    @ParameterizedTest
    @EnumSource
    void targetsAreComparedAsReceived(Container.Kind kind) throws Exception {
        try (Container container = kind.start(GATEWAY.verifier(), "")) {
            Set<String> passed = new HashSet<>();
            for (String target : TARGETS) {
                var reply = get(target).assertion(signed("GET", target)).send(container.port());
                if (reply.status() == 200) {
                    assertEquals(CALLER, reply.text(), target);
                    passed.add(target);
                } else {
                    // Containers refuse some targets before filters run.
                    assertTrue(Set.of(400, 404).contains(reply.status()), target + " " + reply.status());
                }
            }
            Set<String> expected = kind == Container.Kind.LAX_JETTY ? new HashSet<>(TARGETS) : ORDINARY;
            assertTrue(passed.containsAll(expected), () -> {
                Set<String> missing = new HashSet<>(expected);
                missing.removeAll(passed);
                return "refused: " + missing;
            });
            for (Confusion confusion : CONFUSIONS) {
                var reply = get(confusion.sent())
                        .assertion(signed("GET", confusion.signed()))
                        .send(container.port());
                if (reply.status() != 400 || kind == Container.Kind.LAX_JETTY) {
                    assertEquals(confusion.code(), reply.code(), confusion.toString());
                }
            }
        }
    }

    @ParameterizedTest
    @EnumSource
    void strangeTargetsAreRefused(Container.Kind kind) throws Exception {
        try (Container container = kind.start(GATEWAY.verifier(), "")) {
            int port = container.port();
            // Two bytes, as UTF-8. Containers show different characters.
            var utf8 = get("/caf\u00c3\u00a9").assertion(signed("GET", "/caf\u00e9")).send(port);
            assertTrue(utf8.status() == 400 || utf8.code().equals("assertion-request-unclear"), utf8.text());
            var query = get("/a?\u00c3\u00a9").assertion(signed("GET", "/a?\u00e9")).send(port);
            assertTrue(query.status() == 400 || query.code().equals("assertion-request-unclear"), query.text());
            for (String host : List.of(HOST, "evil.example")) {
                var absolute = get("http://" + HOST + "/orders/7")
                        .host(host)
                        .assertion(signed("GET", "/orders/7"))
                        .send(port);
                // A gateway sends no absolute form. Some containers accept it, if the hosts agree.
                assertTrue(
                        Set.of(400, 403).contains(absolute.status()) || absolute.status() == 200 && host.equals(HOST),
                        kind + " " + host + " " + absolute.status());
            }
            var asterisk = request("OPTIONS", "*").assertion(signed("OPTIONS", "/")).send(port);
            // Tomcat answers itself, before any filter.
            assertTrue(asterisk.status() != 200 || asterisk.body().length == 0, asterisk.head());
        }
    }

    @ParameterizedTest
    @EnumSource
    void hostsAreComparedAsReceived(Container.Kind kind) throws Exception {
        try (Container container = kind.start(GATEWAY.verifier(), "")) {
            int port = container.port();
            for (String host : List.of("orders.example.org:8443", "[::1]", "[2001:db8::1]:8443", "127.0.0.1:80")) {
                var reply = get("/").host(host).assertion(signed("GET", "/", host)).send(port);
                assertEquals(CALLER, reply.text(), host);
            }
            for (String host : List.of("Orders.example.org", HOST + ":443", HOST + ".", "evil.example")) {
                var reply = get("/")
                        .host(host)
                        .field("X-Forwarded-Host: " + HOST)
                        .field("Forwarded: host=" + HOST)
                        .assertion(signed("GET", "/"))
                        .send(port);
                assertEquals("assertion-authority", reply.code(), host);
            }
            for (String second : List.of(HOST, "evil.example")) {
                var reply = get("/")
                        .host(HOST)
                        .host(second)
                        .assertion(signed("GET", "/"))
                        .send(port);
                assertTrue(reply.status() == 400 || reply.code().equals("assertion-request-unclear"), second);
            }
        }
    }

    @ParameterizedTest
    @EnumSource
    void refusalsAreProblemDetails(Container.Kind kind) throws Exception {
        try (Container container = kind.start(GATEWAY.verifier(), "")) {
            int port = container.port();
            String token = signed("GET", "/orders/7");
            var missing = get("/orders/7").send(port);
            assertEquals("assertion-missing", missing.code());
            assertEquals(401, missing.status());
            String head = missing.head().toLowerCase(Locale.ROOT);
            for (String line : List.of(
                    "content-type: application/problem+json", "www-authenticate: countersign", "cache-control: no-store")) {
                assertTrue(head.contains(line), head);
            }
            var withoutBody = request("HEAD", "/orders/7").send(port);
            assertEquals(401, withoutBody.status());
            assertEquals(0, withoutBody.body().length);
            assertEquals("assertion-duplicate", get("/orders/7").assertion(token).assertion(token).send(port).code());
            assertEquals("assertion-malformed", get("/orders/7").assertion("").send(port).code());
            assertTrue(Set.of(400, 401).contains(get("/orders/7").assertion(token + "\u00e9").send(port).status()));
            assertEquals("assertion-method", request("POST", "/orders/7").assertion(token).send(port).code());
            String forged = new TestGateway("orders").assertion("GET", "https://" + HOST + "/orders/7", CALLER).sign();
            assertEquals("assertion-unknown-key", get("/orders/7").assertion(forged).send(port).code());
            var fake = get("/orders/7")
                    .field("io.github.countersign.verify.caller: x")
                    .field("Countersign-Caller: x")
                    .send(port);
            assertEquals("assertion-missing", fake.code());
        }
    }

    @ParameterizedTest
    @EnumSource
    void unverifiedPathsAreExact(Container.Kind kind) throws Exception {
        var verifier = GATEWAY.verifierOptions()
                .jwksJson(GATEWAY.keySet())
                .unverifiedPaths("/healthz")
                .build();
        try (Container container = kind.start(verifier, "")) {
            int port = container.port();
            assertEquals("none", get("/healthz").send(port).text());
            assertEquals("none", get("/healthz?x").send(port).text());
            // The handler never sees a caller.
            assertEquals("none", get("/healthz").assertion(signed("GET", "/healthz")).send(port).text());
            assertEquals(200, request("HEAD", "/healthz").send(port).status());
            assertEquals("assertion-missing", request("POST", "/healthz").send(port).code());
            for (String target : List.of("/%68ealthz", "//healthz", "/healthz/", "/healthz;", "/x/../healthz")) {
                var reply = get(target).send(port);
                assertTrue(reply.status() == 400 || reply.code().equals("assertion-missing"), target);
            }
        }
    }

    @ParameterizedTest
    @EnumSource
    void forwardsKeepTheCallerAndTheContextPathCounts(Container.Kind kind) throws Exception {
        try (Container container = kind.start(GATEWAY.verifier(), "/api")) {
            int port = container.port();
            assertEquals(
                    CALLER, get("/api/orders").assertion(signed("GET", "/api/orders")).send(port).text());
            assertEquals(
                    "assertion-path", get("/api/orders").assertion(signed("GET", "/orders")).send(port).code());
            assertEquals(
                    CALLER, get("/api/forward").assertion(signed("GET", "/api/forward")).send(port).text());
        }
    }

    @ParameterizedTest
    @EnumSource
    void anAssertionIsUsedOnce(Container.Kind kind) throws Exception {
        var verifier = GATEWAY.verifierOptions()
                .jwksJson(GATEWAY.keySet())
                .replayStore(new InProcessReplayStore())
                .build();
        try (Container container = kind.start(verifier, "")) {
            String token = signed("GET", "/forward");
            assertEquals(CALLER, get("/forward").assertion(token).send(container.port()).text());
            assertEquals(
                    "assertion-replayed", get("/forward").assertion(token).send(container.port()).code());
        }
    }

    @ParameterizedTest
    @EnumSource
    void bodiesAreCompared(Container.Kind kind) throws Exception {
        var verifier = GATEWAY.verifierOptions()
                .jwksJson(GATEWAY.keySet())
                .requireBodyBinding()
                .build();
        byte[] body = new byte[300_000];
        Arrays.fill(body, (byte) 'x');
        byte[] other = body.clone();
        other[299_999] = 'y';
        try (Container container = kind.start(verifier, "")) {
            int port = container.port();
            String bound = bound("/echo", body);
            assertArrayEquals(
                    body, request("POST", "/echo").assertion(bound).body(body).send(port).body());
            assertEquals(
                    "assertion-body", request("POST", "/echo").assertion(bound).body(other).send(port).code());
            assertEquals("assertion-body", request("POST", "/echo").assertion(bound).send(port).code());
            // Short, because the server does not read it before it closes the connection.
            assertEquals(
                    "assertion-body-not-bound",
                    request("POST", "/echo").assertion(signed("POST", "/echo")).body(new byte[9]).send(port).code());
            byte[] large = new byte[AssertionFilter.DEFAULT_MAX_BODY + 1];
            assertEquals(
                    "assertion-body-not-bound",
                    request("POST", "/echo").assertion(bound("/echo", large)).announcing(large.length)
                            .send(port).code());
            byte[] chunks = "3\r\nabc\r\n3\r\ndef\r\n0\r\n\r\n".getBytes(StandardCharsets.US_ASCII);
            byte[] text = "abcdef".getBytes(StandardCharsets.US_ASCII);
            for (String path : List.of("/echo", "/read")) {
                var reply = request("POST", path).assertion(bound(path, text)).chunked(chunks).send(port);
                assertEquals("abcdef", reply.text());
            }
        }
    }

    @ParameterizedTest
    @EnumSource
    void formsThatAnEarlierFilterReadAreRefused(Container.Kind kind) throws Exception {
        var verifier = GATEWAY.verifierOptions()
                .jwksJson(GATEWAY.keySet())
                .requireBodyBinding()
                .build();
        AssertionFilter filter = new AssertionFilter(verifier);
        Filter reading = (request, response, chain) -> {
            request.getParameter("any");
            filter.doFilter(request, response, chain);
        };
        String path = "/parameter";
        byte[] form = "amount=7".getBytes(StandardCharsets.US_ASCII);
        byte[] chunks = "8\r\namount=7\r\n0\r\n\r\n".getBytes(StandardCharsets.US_ASCII);
        byte[] none = {};
        String unclear = "assertion-request-unclear";
        for (String type : List.of(
                "application/x-www-form-urlencoded", "Application/X-WWW-Form-URLencoded;charset=utf-8")) {
            String field = "Content-Type: " + type;
            try (Container container = kind.start(reading, "")) {
                int port = container.port();
                for (byte[] signed : List.of(none, form)) {
                    String token = bound(path, signed);
                    var whole = request("POST", path).field(field).assertion(token).body(form);
                    assertEquals(unclear, whole.send(port).code());
                    var chunked = request("POST", path).field(field).assertion(token).chunked(chunks);
                    assertEquals(unclear, chunked.send(port).code());
                }
                String empty = bound(path, none);
                for (RawHttp request : List.of(
                        request("POST", path).body(none), request("POST", path).field(field).body(none),
                        request("POST", path).field(field))) {
                    assertEquals("amount null", request.assertion(empty).send(port).text());
                }
            }
            // The filter itself takes the parameters away, because it reads the body.
            try (Container container = kind.start(verifier, "")) {
                int port = container.port();
                var whole = request("POST", path).field(field).assertion(bound(path, form)).body(form);
                assertEquals("amount null", whole.send(port).text());
                var chunked = request("POST", path).field(field).assertion(bound(path, form)).chunked(chunks);
                assertEquals(unclear, chunked.send(port).code());
            }
        }
    }

    /** Shows what the request asks for, as filters for forwarded fields do. */
    private static final class Changed extends HttpServletRequestWrapper {
        Changed(HttpServletRequest request) {
            super(request);
        }

        private String shown(String part, String otherwise) {
            String value = ((HttpServletRequest) getRequest()).getHeader("X-Shown-" + part);
            return value == null ? otherwise : value;
        }

        @Override
        public String getMethod() {
            return shown("Method", super.getMethod());
        }

        @Override
        public String getRequestURI() {
            return shown("Path", super.getRequestURI());
        }

        @Override
        public String getContextPath() {
            return shown("Context", super.getContextPath());
        }

        @Override
        public String getServletPath() {
            return shown("Servlet-Path", super.getServletPath());
        }

        @Override
        public String getPathInfo() {
            return shown("Path-Info", super.getPathInfo());
        }

        @Override
        public String getQueryString() {
            return shown("Query", super.getQueryString());
        }

        @Override
        public Enumeration<String> getHeaders(String name) {
            String value = shown(name, null);
            return value == null ? super.getHeaders(name) : Collections.enumeration(List.of(value));
        }
    }

    private static Filter behindOthers(AssertionVerifier verifier) {
        AssertionFilter filter = new AssertionFilter(verifier);
        return (request, response, chain) -> filter.doFilter(
                new HttpServletRequestWrapper(new Changed((HttpServletRequest) request)), response, chain);
    }

    @ParameterizedTest
    @EnumSource
    void earlierFiltersDoNotDecideWhatIsVerified(Container.Kind kind) throws Exception {
        var verifier = GATEWAY.verifierOptions()
                .jwksJson(GATEWAY.keySet())
                .unverifiedPaths("/healthz")
                .build();
        String unclear = "assertion-request-unclear";
        try (Container container = kind.start(behindOthers(verifier), "")) {
            int port = container.port();
            assertEquals(CALLER, get("/x").assertion(signed("GET", "/x")).send(port).text());
            assertEquals("none", get("/healthz").send(port).text());
            assertEquals(unclear, get("/x").field("X-Shown-Path: /healthz").send(port).code());
            assertEquals(unclear, get("/healthz").field("X-Shown-Path: /x").send(port).code());
            for (String change : List.of(
                    "Path: /api/x",
                    "Context: /api",
                    "Context: /x",
                    "Servlet-Path: /y",
                    "Path-Info: /y",
                    "Query: a=1",
                    "Method: POST")) {
                for (String[] line : List.of(new String[] {"GET", "/x"}, new String[] {"POST", "/x"},
                        new String[] {"GET", "/api/x"}, new String[] {"GET", "/x?a=1"})) {
                    var reply = get("/x").field("X-Shown-" + change).assertion(signed(line[0], line[1])).send(port);
                    assertEquals(unclear, reply.code(), change + " " + String.join(" ", line));
                }
            }
            String shownHost = "X-Shown-Host: shown.example";
            assertEquals(CALLER, get("/x").field(shownHost).assertion(signed("GET", "/x")).send(port).text());
            String forShown = signed("GET", "/x", "shown.example");
            assertEquals("assertion-authority", get("/x").field(shownHost).assertion(forShown).send(port).code());
            String token = signed("GET", "/x");
            String shown = "X-Shown-Countersign-Assertion: " + token;
            assertEquals("assertion-missing", get("/x").field(shown).send(port).code());
            assertEquals("assertion-duplicate",
                    get("/x").field(shown).assertion(token).assertion(token).send(port).code());
        }
    }

    @ParameterizedTest
    @EnumSource
    void earlierFiltersMayPutThePrefixInFrontAgain(Container.Kind kind) throws Exception {
        var verifier = GATEWAY.verifierOptions()
                .jwksJson(GATEWAY.keySet())
                .pathPrefix("/api")
                .build();
        try (Container container = kind.start(behindOthers(verifier), "")) {
            int port = container.port();
            String token = signed("GET", "/api/x");
            var restored = get("/x").field("X-Shown-Path: /api/x").field("X-Shown-Context: /api").assertion(token);
            assertEquals(CALLER, restored.send(port).text());
            for (String path : List.of("/api/y", "/api/api/x", "/apix", "/api/x")) {
                var reply = get("/x").field("X-Shown-Path: " + path).assertion(token).send(port);
                assertEquals("assertion-request-unclear", reply.code(), path);
            }
            // A filter that removes it hides the path that the gateway signed.
            var removed = get("/api/x").field("X-Shown-Path: /x").assertion(token).send(port);
            assertEquals("assertion-request-unclear", removed.code());
        }
    }

    @ParameterizedTest
    @EnumSource
    void earlierFiltersCannotForwardPastTheFilter(Container.Kind kind) throws Exception {
        AssertionFilter filter = new AssertionFilter(GATEWAY.verifier());
        Filter forwarding = (request, response, chain) -> {
            if (request.getDispatcherType() == DispatcherType.REQUEST) {
                request.getRequestDispatcher("/x").forward(request, response);
            } else {
                filter.doFilter(request, response, chain);
            }
        };
        try (Container container = kind.start(forwarding, "")) {
            for (String signed : List.of("/x", "/y")) {
                var reply = get("/y").assertion(signed("GET", signed)).send(container.port());
                assertEquals("assertion-request-unclear", reply.code());
            }
        }
    }

    private static String bound(String target, byte[] body) {
        return GATEWAY.assertion("POST", "https://" + HOST + target, CALLER).body(body).sign();
    }
}
