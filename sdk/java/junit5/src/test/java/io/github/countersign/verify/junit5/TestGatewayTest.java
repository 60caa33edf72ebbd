package io.github.countersign.verify.junit5;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import io.github.countersign.verify.AssertionRefused;
import io.github.countersign.verify.AssertionVerifier;
import io.github.countersign.verify.Caller;
import io.github.countersign.verify.ClientCertificate;
import io.github.countersign.verify.InProcessReplayStore;
import io.github.countersign.verify.RequestParts;
import java.time.Duration;
import java.time.Instant;
import java.time.InstantSource;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.EnumSource;
import org.junit.jupiter.params.provider.ValueSource;

@WithTestGateway(audience = "orders")
class TestGatewayTest {
    private static final String URL = "https://orders.example.org/orders/7";
    private static final RequestParts REQUEST = new RequestParts("GET", List.of("orders.example.org"), "/orders/7");
    private static TestGateway ofTheClass;

    @BeforeAll
    static void keep(TestGateway gateway) {
        ofTheClass = gateway;
    }

    private static String code(AssertionVerifier verifier, String token) {
        return assertThrows(AssertionRefused.class, () -> verifier.verify(token, REQUEST)).code();
    }

    @Test
    void oneGatewayServesTheClass(TestGateway gateway) {
        assertEquals(ofTheClass, gateway);
        assertEquals("orders", gateway.audience());
    }

    @ParameterizedTest
    @EnumSource
    void aGoodAssertionNamesTheCaller(TestGateway.Algorithm algorithm) {
        TestGateway gateway =
                new TestGateway("orders", "https://gateway.test", algorithm, InstantSource.system());
        String token = gateway.assertion("GET", URL, "dns:shop.example")
                .token(Map.of("iss", "https://login.example", "sub", "user", "roles", List.of("a")))
                .sign();
        Caller caller = gateway.verifier().verify(token, REQUEST);
        assertEquals("dns:shop.example", caller.sub());
        assertEquals(List.of("shop.example"), caller.certificate().orElseThrow().sans().dns());
        assertEquals("test.example", caller.trustDomain().orElseThrow());
        assertEquals("user", caller.token().orElseThrow().sub().orElseThrow());
        assertEquals(List.of("a"), caller.token().orElseThrow().other().get("roles"));
        assertTrue(caller.isRequestBound());
        assertFalse(caller.toString().contains("user"));
    }

    @ParameterizedTest
    @ValueSource(strings = {"api-key:shop", "client:login/shop"})
    void callersWithoutCertificate(String sub, TestGateway gateway) {
        Caller caller = gateway.verifier()
                .verify(gateway.headers("GET", URL, sub).get(RequestParts.HEADER), REQUEST);
        assertEquals(sub, caller.sub());
        assertTrue(caller.certificate().isEmpty() && caller.trustDomain().isEmpty());
        assertFalse(caller.hasCertificate());
        assertTrue(caller.certificateThumbprint().isEmpty());
    }

    private static Map<String, Object> authn(List<String> methods, Object thumbprint) {
        return Map.of(
                "methods", methods, "trust_domain", "test.example", "at", 1, "resumed", false, "x5t#S256", thumbprint);
    }

    @Test
    void callersWithCertificate(TestGateway gateway) {
        String sub = "spiffe://test.example/shop";
        String thumbprint = TestGateway.hash(sub);
        var assertion = gateway.assertion("GET", URL, sub);
        Caller full = gateway.verifier().verify(assertion.sign(), REQUEST);
        assertTrue(full.certificate().isPresent() && full.hasCertificate());
        assertEquals(Optional.of(thumbprint), full.certificateThumbprint());
        for (List<String> methods : List.of(List.of("certificate"), List.of("certificate", "token"))) {
            assertion.claim("client_cert", null).claim("authn", authn(methods, thumbprint));
            Caller compact = gateway.verifier().verify(assertion.sign(), REQUEST);
            assertTrue(compact.certificate().isEmpty() && compact.hasCertificate());
            assertEquals(Optional.of(thumbprint), compact.certificateThumbprint());
            assertEquals("test.example", compact.trustDomain().orElseThrow());
        }
    }

    @Test
    void aThumbprintIsAText(TestGateway gateway) {
        for (Object thumbprint : List.of(7, List.of("x"), Map.of())) {
            var assertion = gateway.assertion("GET", URL, "dns:a").claim("client_cert", null);
            String token = assertion.claim("authn", authn(List.of("certificate"), thumbprint)).sign();
            assertEquals("assertion-claims", code(gateway.verifier(), token));
        }
    }

    /** Returns an assertion whose certificate has one more member, or another one. */
    private static String withMember(TestGateway gateway, String name, Object value) {
        Map<String, Object> certificate = new HashMap<>(Map.of(
                "x5t#S256", "x", "serial", "01", "issuer", "", "not_before", 1, "not_after", 1, "sans", Map.of(),
                "anchor", "a"));
        certificate.put(name, value);
        return gateway.assertion("GET", URL, "dns:a").claim("client_cert", certificate).sign();
    }

    @ParameterizedTest
    @CsvSource({"issuer, false, false", "sans_truncated, true, false", "issuer_truncated, false, true"})
    void whatWasLeftOutIsSaid(String name, boolean sans, boolean issuer, TestGateway gateway) {
        Object value = name.equals("issuer") ? "CN=Test" : true;
        ClientCertificate certificate = gateway.verifier()
                .verify(withMember(gateway, name, value), REQUEST)
                .certificate()
                .orElseThrow();
        assertEquals(sans, certificate.sansTruncated());
        assertEquals(issuer, certificate.issuerTruncated());
        assertEquals(name.equals("issuer") ? "CN=Test" : "", certificate.issuer());
    }

    @ParameterizedTest
    @ValueSource(strings = {"sans_truncated", "issuer_truncated"})
    void whatWasLeftOutIsSaidWithABoolean(String name, TestGateway gateway) {
        for (Object value : new Object[] {null, "true", 1}) {
            assertEquals("assertion-claims", code(gateway.verifier(), withMember(gateway, name, value)));
        }
    }

    @ParameterizedTest
    @CsvSource({"-30, 200", "-31, 401", "29, 200", "30, 200", "59, 200", "60, 401"})
    void theClockMayBeOffByTheSkew(int seconds, int status) {
        Instant start = Instant.ofEpochSecond(1_770_000_000);
        TestGateway gateway = new TestGateway(
                "orders", "https://gateway.test", TestGateway.Algorithm.ES256, InstantSource.fixed(start));
        AssertionVerifier verifier = gateway.verifierOptions()
                .jwksJson(gateway.keySet())
                .skew(Duration.ofSeconds(30))
                .clock(InstantSource.fixed(start.plusSeconds(seconds)))
                .build();
        String token = gateway.assertion("GET", URL, TestGateway.DEFAULT_SUB).sign();
        if (status == 200) {
            verifier.verify(token, REQUEST);
        } else {
            assertEquals(seconds < 0 ? "assertion-not-yet-valid" : "assertion-expired", code(verifier, token));
        }
    }

    @Test
    void anAssertionIsUsedOnce(TestGateway gateway) {
        AssertionVerifier verifier = gateway.verifierOptions()
                .jwksJson(gateway.keySet())
                .replayStore(new InProcessReplayStore())
                .build();
        String token = gateway.assertion("GET", URL, TestGateway.DEFAULT_SUB).sign();
        // A refused request does not use it up.
        assertThrows(
                AssertionRefused.class,
                () -> verifier.verify(token, new RequestParts("GET", List.of("orders.example.org"), "/other")));
        verifier.verify(token, REQUEST);
        assertEquals("assertion-replayed", code(verifier, token));
    }

    @Test
    void bodiesAreCompared(TestGateway gateway) {
        AssertionVerifier verifier = gateway.verifierOptions()
                .jwksJson(gateway.keySet())
                .requireBodyBinding()
                .build();
        byte[] body = {1, 2, 3};
        String bound = gateway.assertion("GET", URL, TestGateway.DEFAULT_SUB).body(body).sign();
        verifier.verify(bound, REQUEST, body);
        assertEquals(
                "assertion-body",
                assertThrows(AssertionRefused.class, () -> verifier.verify(bound, REQUEST, new byte[0])).code());
        assertEquals("assertion-body-not-bound", code(verifier, bound));
    }

    @Test
    void callerBoundAssertionsNeedPermission(TestGateway gateway) {
        String token = gateway.callerBoundAssertion("dns:a").sign();
        assertEquals("assertion-not-request-bound", code(gateway.verifier(), token));
        AssertionVerifier allowing = gateway.verifierOptions()
                .jwksJson(gateway.keySet())
                .allowCallerBinding()
                .build();
        assertFalse(allowing.verify(token, REQUEST).isRequestBound());
    }

    @Test
    void strangersAreRefused(TestGateway gateway) {
        TestGateway stranger = new TestGateway("orders");
        assertEquals(
                "assertion-unknown-key",
                code(gateway.verifier(), stranger.assertion("GET", URL, "dns:a").sign()));
        String sameId = stranger.assertion("GET", URL, "dns:a").header("kid", gateway.keyId()).sign();
        assertEquals("assertion-signature", code(gateway.verifier(), sameId));
    }

    @Test
    void membersCanBeChanged(TestGateway gateway) {
        AssertionVerifier verifier = gateway.verifier();
        var assertion = gateway.assertion("GET", URL, "dns:a");
        assertEquals("assertion-audience", code(verifier, assertion.claim("aud", "payments").sign()));
        assertEquals("assertion-claims", code(verifier, assertion.claim("aud", null).sign()));
        assertEquals("assertion-type", code(verifier, assertion.header("typ", "JWT").sign()));
    }

    @Test
    void theKeySetIsServed(TestGateway gateway) throws Exception {
        try (var endpoint = gateway.serve();
                AssertionVerifier verifier =
                        gateway.verifierOptions().jwksUrl(endpoint.url()).build()) {
            verifier.fetchKeys();
            verifier.verify(gateway.headers("GET", URL).get(RequestParts.HEADER), REQUEST);
        }
    }

    @Test
    void keysRotate() {
        TestGateway gateway = new TestGateway("orders");
        String old = gateway.assertion("GET", URL, "dns:a").sign();
        gateway.rotate();
        AssertionVerifier verifier = gateway.verifier();
        verifier.verify(old, REQUEST);
        verifier.verify(gateway.assertion("GET", URL, "dns:a").sign(), REQUEST);
    }

    @ParameterizedTest
    @ValueSource(strings = {"/orders/7", "https:///orders", "https://a/b#c", ""})
    void otherUrlsAreErrors(String url, TestGateway gateway) {
        assertThrows(IllegalArgumentException.class, () -> gateway.headers("GET", url));
    }
}
