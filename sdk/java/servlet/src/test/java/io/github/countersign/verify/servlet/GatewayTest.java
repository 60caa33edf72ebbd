package io.github.countersign.verify.servlet;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertNotEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;
import static org.junit.jupiter.api.Assumptions.abort;

import io.github.countersign.verify.AssertionVerifier;
import io.github.countersign.verify.InProcessReplayStore;
import jakarta.servlet.Filter;
import jakarta.servlet.http.HttpServletRequest;
import java.io.ByteArrayInputStream;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.KeyFactory;
import java.security.KeyStore;
import java.security.cert.Certificate;
import java.security.cert.CertificateException;
import java.security.cert.CertificateFactory;
import java.security.spec.PKCS8EncodedKeySpec;
import java.util.Base64;
import java.util.HashSet;
import java.util.List;
import java.util.Set;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicReference;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import javax.net.ssl.KeyManagerFactory;
import javax.net.ssl.SSLContext;
import javax.net.ssl.TrustManagerFactory;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.EnumSource;

/** Services behind a real gateway. */
@Timeout(60)
class GatewayTest {
    private static final String ISSUER = "https://gateway.example.org:9080";
    private static final String CLIENT = "spiffe://example.org/client";
    private static final String CONFIGURATION =
            """
            [listener]
            address = "127.0.0.1:0"
            certificate = "certs/issued/gateway.pem"
            private_key = "certs/issued/gateway.key"

            [[trust_domain]]
            name = "example.org"
            roots = ["certs/trust.pem"]
            revocation = "off"

            [assertion]
            issuer = "%s"
            keys = "certs/signing"

            [public]
            address = "127.0.0.1:0"

            [[upstream]]
            name = "orders"
            endpoints = ["http://127.0.0.1:%d"]

            [[route]]
            name = "orders"
            paths = ["/**"]
            callers = ["*"]
            upstream = "orders"
            audience = "orders"
            """;

    @ParameterizedTest
    @EnumSource(names = {"JETTY", "TOMCAT"})
    void requestsThroughTheGateway(Container.Kind kind, @TempDir Path directory) throws Exception {
        String binary = System.getenv("COUNTERSIGN_BINARY");
        if (binary == null) {
            assertNotEquals("1", System.getenv("COUNTERSIGN_REQUIRE_TOOLS"), "COUNTERSIGN_BINARY names no gateway");
            abort("COUNTERSIGN_BINARY names no gateway");
        }
        run(binary, "init", directory.toString(), "--trust-domain", "example.org", "--host", "localhost",
                "--upstream", "http://127.0.0.1:9", "--no-passphrase");
        // The gateway needs the service's port, and the service the gateway's.
        AtomicReference<AssertionFilter> filter = new AtomicReference<>();
        AtomicReference<String> token = new AtomicReference<>();
        AtomicReference<String> host = new AtomicReference<>();
        Filter late = (request, response, chain) -> {
            HttpServletRequest http = (HttpServletRequest) request;
            token.set(http.getHeader("Countersign-Assertion"));
            host.set(http.getHeader("Host"));
            filter.get().doFilter(request, response, chain);
        };
        try (Container service = kind.start(late, "")) {
            Path ready = directory.resolve("ready.json");
            Path configuration = Files.writeString(
                    directory.resolve("test.toml"), CONFIGURATION.formatted(ISSUER, service.port()));
            Process gateway = new ProcessBuilder(
                            binary, "serve", "--config", configuration.toString(), "--ready-file", ready.toString())
                    .redirectErrorStream(true)
                    .redirectOutput(directory.resolve("log").toFile())
                    .start();
            try {
                // The file appears in one step. Nothing else tells when the gateway is ready.
                while (!Files.exists(ready)) {
                    assertFalse(gateway.waitFor(10, TimeUnit.MILLISECONDS), "the gateway did not start");
                }
                String addresses = Files.readString(ready);
                try (AssertionVerifier verifier = AssertionVerifier.builder(ISSUER, "orders")
                        .jwksUrl("https://localhost:" + port(addresses, "public") + "/.well-known/jwks.json")
                        .caFile(directory.resolve("certs/trust.pem"))
                        .replayStore(new InProcessReplayStore())
                        .build()) {
                    verifier.fetchKeys();
                    filter.set(new AssertionFilter(verifier));
                    check(port(addresses, "listener"), tls(directory), kind);
                    checkAround(service.port(), token.get(), host.get());
                }
            } finally {
                gateway.destroy();
                gateway.waitFor();
            }
        }
    }

    private static void check(int port, SSLContext tls, Container.Kind kind) throws Exception {
        Set<String> passed = new HashSet<>();
        for (String target : List.of(
                "/orders/7", "/orders/%37", "/a%2Fb", "/orders/7;v=1/x", "/a+b", "/caf%C3%A9", "/a/../b", "//a", "/a?x=%31",
                "/a?", "/a??")) {
            var reply = RawHttp.get(target)
                    .host("localhost:" + port)
                    .field("Countersign-Caller: x")
                    .assertion("a.b.c")
                    .over(tls.getSocketFactory())
                    .send(port);
            if (reply.status() == 200) {
                assertEquals(CLIENT, reply.text(), target);
                passed.add(target);
            } else {
                // The gateway and the container refuse some targets, but the filter none of those that arrive.
                assertFalse(reply.code().startsWith("assertion-"), target + " " + reply.code());
            }
        }
        assertTrue(
                passed.containsAll(List.of("/orders/7", "/orders/%37", "/a+b", "/caf%C3%A9", "/a?x=%31", "/a?", "/a??")),
                kind + " " + passed);
    }

    /** What somebody gets who saw an assertion and reaches the service directly. */
    private static void checkAround(int port, String token, String host) throws Exception {
        assertEquals(
                "assertion-replayed",
                RawHttp.get("/a??").host(host).assertion(token).send(port).code());
        assertEquals(
                "assertion-query",
                RawHttp.get("/a?").host(host).assertion(token).send(port).code());
        assertEquals(
                "assertion-method",
                RawHttp.request("POST", "/a??").host(host).assertion(token).send(port).code());
        assertEquals("assertion-missing", RawHttp.get("/a??").host(host).send(port).code());
    }

    private static void run(String... command) throws Exception {
        Process process = new ProcessBuilder(command).redirectErrorStream(true).start();
        String output = new String(process.getInputStream().readAllBytes(), StandardCharsets.UTF_8);
        assertEquals(0, process.waitFor(), output);
    }

    private static int port(String addresses, String name) {
        Matcher found = Pattern.compile("\"" + name + "\"\\s*:\\s*\"[^\"]*:([0-9]+)\"").matcher(addresses);
        assertTrue(found.find(), addresses);
        return Integer.parseInt(found.group(1));
    }

    /** The client's side of mutual TLS. */
    private static SSLContext tls(Path directory) throws Exception {
        KeyStore store = KeyStore.getInstance("PKCS12");
        store.load(null, null);
        byte[] key = pem(directory.resolve("certs/issued/client.key")).get(0);
        Certificate[] path = pem(directory.resolve("certs/issued/client.pem")).stream()
                .map(GatewayTest::certificate)
                .toArray(Certificate[]::new);
        char[] none = new char[0];
        store.setKeyEntry(
                "client", KeyFactory.getInstance("EC").generatePrivate(new PKCS8EncodedKeySpec(key)), none, path);
        KeyManagerFactory keys = KeyManagerFactory.getInstance("PKIX");
        keys.init(store, none);
        KeyStore roots = KeyStore.getInstance("PKCS12");
        roots.load(null, null);
        for (byte[] root : pem(directory.resolve("certs/trust.pem"))) {
            roots.setCertificateEntry("root " + roots.size(), certificate(root));
        }
        TrustManagerFactory trust = TrustManagerFactory.getInstance("PKIX");
        trust.init(roots);
        SSLContext context = SSLContext.getInstance("TLS");
        context.init(keys.getKeyManagers(), trust.getTrustManagers(), null);
        return context;
    }

    private static List<byte[]> pem(Path file) throws Exception {
        return Pattern.compile("-----BEGIN [A-Z ]+-----([^-]+)-----END")
                .matcher(Files.readString(file))
                .results()
                .map(block -> Base64.getMimeDecoder().decode(block.group(1)))
                .toList();
    }

    private static Certificate certificate(byte[] der) {
        try {
            return CertificateFactory.getInstance("X.509").generateCertificate(new ByteArrayInputStream(der));
        } catch (CertificateException e) {
            throw new IllegalStateException(e);
        }
    }
}
