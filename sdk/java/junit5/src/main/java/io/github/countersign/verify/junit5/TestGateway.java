package io.github.countersign.verify.junit5;

import com.nimbusds.jose.JOSEException;
import com.nimbusds.jose.jwk.JWKSet;
import com.nimbusds.jose.util.Base64URL;
import com.nimbusds.jose.util.JSONObjectUtils;
import com.sun.net.httpserver.HttpServer;
import io.github.countersign.verify.AssertionVerifier;
import io.github.countersign.verify.RequestParts;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.nio.charset.StandardCharsets;
import java.security.MessageDigest;
import java.security.NoSuchAlgorithmException;
import java.security.SecureRandom;
import java.time.Duration;
import java.time.InstantSource;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Objects;

/**
 * Signs assertions as a gateway does, with a key of its own that exists in memory only.
 *
 * <pre>{@code
 * TestGateway gateway = new TestGateway("orders");
 * Service service = new Service(gateway.verifier());
 * gateway.headers("GET", "http://localhost:8080/orders/7", "spiffe://example.org/shop").forEach(request::header);
 * }</pre>
 */
public final class TestGateway {
    /** The caller if none is given. */
    public static final String DEFAULT_SUB = "spiffe://test.example/caller";

    private static final Duration LIFETIME = Duration.ofSeconds(30);
    private static final SecureRandom RANDOM = new SecureRandom();

    private final String audience;
    private final String issuer;
    private final Algorithm algorithm;
    private final InstantSource clock;
    private final List<SigningKey> published = new ArrayList<>();
    private SigningKey key;

    /** The algorithms of gateways. */
    public enum Algorithm {
        /** ECDSA with P-256. */
        ES256,
        /** Ed25519. */
        EDDSA
    }

    /**
     * Makes a gateway with a new key for ES256.
     *
     * @param audience of the service under test
     */
    public TestGateway(String audience) {
        this(audience, "https://gateway.test", Algorithm.ES256, InstantSource.system());
    }

    /**
     * Makes a gateway with a new key.
     *
     * @param audience of the service under test
     * @param issuer of the assertions
     * @param algorithm of the key
     * @param clock for the assertions and for the verifiers
     */
    public TestGateway(String audience, String issuer, Algorithm algorithm, InstantSource clock) {
        this.audience = Objects.requireNonNull(audience);
        this.issuer = Objects.requireNonNull(issuer);
        this.algorithm = Objects.requireNonNull(algorithm);
        this.clock = Objects.requireNonNull(clock);
        rotate();
    }

    /** {@return a verifier that knows this gateway's keys as they are now} */
    public AssertionVerifier verifier() {
        return verifierOptions().jwksJson(keySet()).build();
    }

    /** {@return the options of a verifier for this gateway, without a source of keys} */
    public AssertionVerifier.Builder verifierOptions() {
        return AssertionVerifier.builder(issuer, audience).clock(clock);
    }

    /** {@return the published JWK set} */
    public synchronized String keySet() {
        return new JWKSet(published.stream().map(SigningKey::published).toList()).toString();
    }

    /** {@return the issuer of the assertions} */
    public String issuer() {
        return issuer;
    }

    /** {@return the audience of the assertions} */
    public String audience() {
        return audience;
    }

    /** {@return the identifier of the key that signs} */
    public synchronized String keyId() {
        return key.published().getKeyID();
    }

    /** Signs with a new key from now on, and keeps publishing the old ones. */
    public synchronized void rotate() {
        key = SigningKey.generate(algorithm);
        published.add(key);
    }

    /**
     * Makes the header field for one request.
     *
     * @param method of the request
     * @param url as the service receives it, undecoded: {@code http://host:port/path?query}
     * @param sub the caller
     * @return name and value
     */
    public Map<String, String> headers(String method, String url, String sub) {
        return Map.of(RequestParts.HEADER, assertion(method, url, sub).sign());
    }

    /**
     * Makes the header field for one request of {@link #DEFAULT_SUB}.
     *
     * @param method of the request
     * @param url as the service receives it, undecoded: {@code http://host:port/path?query}
     * @return name and value
     */
    public Map<String, String> headers(String method, String url) {
        return headers(method, url, DEFAULT_SUB);
    }

    /**
     * Begins an assertion that is bound to a request. Its members can be changed before it is signed.
     *
     * @param method of the request
     * @param url as the service receives it, undecoded: {@code http://host:port/path?query}
     * @param sub the caller
     * @return an assertion that is not signed yet
     */
    public TestAssertion assertion(String method, String url, String sub) {
        Map<String, Object> claims = claims(sub);
        bind(claims, method, url);
        return new TestAssertion(signingKey(), claims);
    }

    /**
     * Begins an assertion that is not bound to a request.
     *
     * @param sub the caller
     * @return an assertion that is not signed yet
     */
    public TestAssertion callerBoundAssertion(String sub) {
        return new TestAssertion(signingKey(), claims(sub));
    }

    /**
     * Serves the key set on a loopback address, for services that are started as a whole.
     *
     * @return the server; closing ends it
     */
    public KeyEndpoint serve() {
        try {
            HttpServer server = HttpServer.create(new InetSocketAddress(InetAddress.getLoopbackAddress(), 0), 0);
            server.createContext(KeyEndpoint.PATH, exchange -> {
                byte[] body = keySet().getBytes(StandardCharsets.UTF_8);
                exchange.getResponseHeaders().set("Content-Type", "application/jwk-set+json");
                exchange.sendResponseHeaders(200, body.length);
                try (var out = exchange.getResponseBody()) {
                    out.write(body);
                }
            });
            server.start();
            return new KeyEndpoint(server);
        } catch (IOException e) {
            throw new UncheckedIOException(e);
        }
    }

    /** The served key set. */
    public static final class KeyEndpoint implements AutoCloseable {
        private static final String PATH = "/.well-known/jwks.json";
        private final HttpServer server;

        private KeyEndpoint(HttpServer server) {
            this.server = server;
        }

        /** {@return the URL for the verifier's option {@code jwksUrl}} */
        public String url() {
            return "http://127.0.0.1:" + server.getAddress().getPort() + PATH;
        }

        @Override
        public void close() {
            server.stop(0);
        }
    }

    private synchronized SigningKey signingKey() {
        return key;
    }

    private Map<String, Object> claims(String sub) {
        long now = clock.instant().getEpochSecond();
        Map<String, Object> claims = new LinkedHashMap<>();
        claims.put("iss", issuer);
        claims.put("aud", audience);
        claims.put("sub", sub);
        claims.put("iat", now);
        claims.put("exp", now + LIFETIME.toSeconds());
        Map<String, Object> authn = new LinkedHashMap<>();
        authn.put("at", now);
        authn.put("resumed", false);
        claims.put("authn", authn);
        if (sub.startsWith("api-key:") || sub.startsWith("client:")) {
            authn.put("methods", List.of(sub.startsWith("api-key:") ? "api-key" : "token"));
            return claims;
        }
        authn.put("methods", List.of("certificate"));
        authn.put("trust_domain", "test.example");
        authn.put("revocation", "checked");
        Map<String, Object> certificate = new LinkedHashMap<>();
        certificate.put("x5t#S256", hash(sub));
        certificate.put("serial", "01");
        certificate.put("issuer", "CN=Test");
        certificate.put("not_before", now - 3600);
        certificate.put("not_after", now + 3600);
        certificate.put("sans", names(sub));
        certificate.put("anchor", hash("test"));
        claims.put("client_cert", certificate);
        return claims;
    }

    private static Map<String, Object> names(String sub) {
        Map<String, Object> names = new LinkedHashMap<>();
        for (String kind : List.of("uri", "dns", "email", "ip")) {
            names.put(kind, List.of());
        }
        String kind = sub.startsWith("dns:")
                ? "dns"
                : sub.startsWith("mailto:") ? "email" : sub.startsWith("ip:") ? "ip" : "uri";
        names.put(kind, List.of(kind.equals("uri") ? sub : sub.substring(sub.indexOf(':') + 1)));
        return names;
    }

    private static void bind(Map<String, Object> claims, String method, String url) {
        int scheme = url.indexOf("://");
        int mark = url.indexOf('?');
        String address = mark < 0 ? url : url.substring(0, mark);
        int slash = scheme < 0 ? -1 : address.indexOf('/', scheme + 3);
        // An empty path is sent as a slash.
        String path = slash < 0 ? "/" : address.substring(slash);
        String authority = scheme < 0 ? "" : address.substring(scheme + 3, slash < 0 ? address.length() : slash);
        if (authority.isEmpty() || url.indexOf('#') >= 0) {
            throw new IllegalArgumentException("the URL must be http://host/path?query");
        }
        byte[] identifier = new byte[16];
        RANDOM.nextBytes(identifier);
        claims.put("jti", Base64URL.encode(identifier).toString());
        claims.put("htm", method);
        claims.put("htu", "https://" + authority + path);
        if (mark >= 0) {
            claims.put("htq", hash(url.substring(mark + 1)));
        }
    }

    static String hash(String text) {
        return hash(text.getBytes(StandardCharsets.UTF_8));
    }

    static String hash(byte[] octets) {
        try {
            return Base64URL.encode(MessageDigest.getInstance("SHA-256").digest(octets)).toString();
        } catch (NoSuchAlgorithmException e) {
            throw new IllegalStateException(e);
        }
    }

    /** An assertion that is not signed yet. */
    public static final class TestAssertion {
        private final SigningKey key;
        private final Map<String, Object> claims;
        private final Map<String, Object> header = new LinkedHashMap<>();

        private TestAssertion(SigningKey key, Map<String, Object> claims) {
            this.key = key;
            this.claims = claims;
            header.put("alg", key.algorithm());
            header.put("typ", "countersign+jwt");
            header.put("kid", key.published().getKeyID());
        }

        /**
         * Sets a claim.
         *
         * @param name of the claim
         * @param value null removes it
         * @return this
         */
        public TestAssertion claim(String name, Object value) {
            return set(claims, name, value);
        }

        /**
         * Sets a member of the header.
         *
         * @param name of the member
         * @param value null removes it
         * @return this
         */
        public TestAssertion header(String name, Object value) {
            return set(header, name, value);
        }

        /**
         * Adds the claims of an access token of the caller.
         *
         * @param members such as {@code iss} and {@code sub}
         * @return this
         */
        public TestAssertion token(Map<String, Object> members) {
            return claim("token", members);
        }

        /**
         * Binds a body.
         *
         * @param body the whole body
         * @return this
         */
        public TestAssertion body(byte[] body) {
            return claim("htb", hash(body));
        }

        /** {@return the value of the header field} */
        public String sign() {
            String input = Base64URL.encode(JSONObjectUtils.toJSONString(header)) + "."
                    + Base64URL.encode(JSONObjectUtils.toJSONString(claims));
            try {
                return input + "." + key.sign(input.getBytes(StandardCharsets.US_ASCII));
            } catch (JOSEException e) {
                throw new IllegalStateException(e);
            }
        }

        private TestAssertion set(Map<String, Object> members, String name, Object value) {
            if (value == null) {
                members.remove(name);
            } else {
                members.put(name, value);
            }
            return this;
        }
    }
}
