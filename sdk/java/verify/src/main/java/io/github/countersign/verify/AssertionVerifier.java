package io.github.countersign.verify;

import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.time.Duration;
import java.time.Instant;
import java.time.InstantSource;
import java.util.Arrays;
import java.util.Collection;
import java.util.Objects;
import java.util.Optional;
import java.util.Set;

/**
 * Verifies assertions of one gateway for one service.
 *
 * <p>The order is: form, type, key, signature, issuer and audience, time, binding, body, replay. The payload is not read
 * before the signature was verified. The service decides what the caller may do.
 *
 * <p>A verifier may be shared by all threads. Nothing is fetched before the first request, unless {@link #fetchKeys()} is
 * called.
 *
 * <pre>{@code
 * AssertionVerifier verifier = AssertionVerifier.builder("https://gateway.example.org:9080", "orders")
 *         .jwksUrl("https://gateway.example.org:9080/.well-known/jwks.json")
 *         .build();
 * }</pre>
 */
public final class AssertionVerifier implements AutoCloseable {
    /** The length of the longest assertion that is accepted, in bytes. Equal in all packages. */
    public static final int MAX_ASSERTION = 8192;

    /** The longest lifetime of an assertion. */
    public static final Duration MAX_LIFETIME = Duration.ofSeconds(300);

    /** The largest allowed difference of the clocks. */
    public static final Duration MAX_SKEW = Duration.ofSeconds(30);

    /** The allowed difference of the clocks if none is set. */
    public static final Duration DEFAULT_SKEW = Duration.ofSeconds(10);

    private final String issuer;
    private final String audience;
    private final KeySource keys;
    private final String authority;
    private final String pathPrefix;
    private final Duration skew;
    private final ReplayStore replayStore;
    private final Set<String> unverifiedPaths;
    private final boolean allowsCallerBinding;
    private final boolean requiresBody;
    private final InstantSource clock;

    private AssertionVerifier(Builder options, KeySource keys) {
        this.issuer = options.issuer;
        this.audience = options.audience;
        this.keys = keys;
        this.authority = options.authority;
        this.pathPrefix = options.pathPrefix;
        this.skew = options.skew;
        this.replayStore = options.replayStore;
        this.unverifiedPaths = options.unverifiedPaths;
        this.allowsCallerBinding = options.allowsCallerBinding;
        this.requiresBody = options.requiresBodyBinding;
        this.clock = options.clock;
    }

    /**
     * Begins a verifier.
     *
     * @param issuer the gateway, compared exactly with {@code iss}
     * @param audience this service, compared exactly with {@code aud}
     * @return a builder that still needs a source of keys
     */
    public static Builder builder(String issuer, String audience) {
        return new Builder(issuer, audience);
    }

    /**
     * Verifies an assertion for a request, without its body. Waits at most 5 seconds for keys.
     *
     * @param assertion the value of the only {@code Countersign-Assertion} field
     * @param request the request as received
     * @return the caller
     * @throws AssertionRefused with the first rule that is broken
     */
    public Caller verify(String assertion, RequestParts request) {
        return verify(assertion, request, null);
    }

    /**
     * Verifies an assertion for a request and its body. Waits at most 5 seconds for keys.
     *
     * @param assertion the value of the only {@code Countersign-Assertion} field
     * @param request the request as received
     * @param body the whole body, compared with {@code htb} if that is present; null if it is not known
     * @return the caller
     * @throws AssertionRefused with the first rule that is broken
     */
    public Caller verify(String assertion, RequestParts request, byte[] body) {
        Caller caller = verifyHead(assertion, request);
        checkBody(caller, body);
        admit(caller);
        return caller;
    }

    /**
     * Fetches the keys now, so that the first request need not wait. The verifier stays usable if that fails, and tries
     * again.
     *
     * @throws KeysUnavailable if the keys cannot be fetched
     */
    public void fetchKeys() throws KeysUnavailable {
        keys.fetchNow();
    }

    /** Ends the background refresh of the keys. */
    @Override
    public void close() {
        keys.close();
    }

    // For adapters, which read a body only after the head was verified.

    /**
     * Checks everything but the body and the replay store. For adapters: {@link #checkBody} and {@link #admit} have to
     * follow, in this order.
     *
     * @param assertion the value of the only {@code Countersign-Assertion} field
     * @param request the request as received
     * @return the caller, not admitted yet
     * @throws AssertionRefused with the first rule that is broken
     */
    public Caller verifyHead(String assertion, RequestParts request) {
        CompactJws jws = CompactJws.parse(assertion);
        KeySet found;
        try {
            found = keys.forKey(jws.keyId());
        } catch (KeysUnavailable e) {
            throw e.refusal();
        }
        byte[] payload = found.verify(jws);
        Caller caller;
        try {
            caller = VerifiedCaller.from(StrictJson.parseObject(payload, "payload"));
        } catch (StrictJson.Malformed e) {
            throw CompactJws.malformed(e.getMessage());
        }
        if (!caller.iss().equals(issuer)) {
            throw new AssertionRefused(Refusal.ISSUER);
        }
        if (!caller.aud().equals(audience)) {
            throw new AssertionRefused(Refusal.AUDIENCE);
        }
        checkTime(caller);
        checkBinding(caller);
        if (caller.isRequestBound()) {
            checkRequest(caller, request);
        }
        return caller;
    }

    /**
     * Compares the body with {@code htb}, if both are present or if that is required. For adapters.
     *
     * @param caller from {@link #verifyHead}
     * @param body the whole body, or null if it is not known
     * @throws AssertionRefused if the body is another, or not bound although that is required
     */
    public void checkBody(Caller caller, byte[] body) {
        Optional<Boolean> matches = body == null ? Optional.empty() : caller.matchesBody(body);
        if (matches.isPresent()) {
            if (!matches.get()) {
                throw new AssertionRefused(Refusal.BODY);
            }
        } else if (requiresBody) {
            throw new AssertionRefused(Refusal.BODY_NOT_BOUND);
        }
    }

    /**
     * Uses up the assertion. For adapters; last, so that a refused assertion is not used up.
     *
     * @param caller from {@link #verifyHead}
     * @throws AssertionRefused if it was used before, or if the store cannot decide
     */
    public void admit(Caller caller) {
        if (replayStore != null && caller.jti().isPresent()) {
            replayStore.admit(caller.jti().get(), caller.exp().plus(skew), clock.instant());
        }
    }

    /**
     * Returns whether a request needs no assertion. For adapters.
     *
     * @param method as received
     * @param target the raw target, with or without query
     * @return whether its path is one of the unverified ones, and its method GET or HEAD
     */
    public boolean isUnverified(String method, String target) {
        int mark = target.indexOf('?');
        String path = mark < 0 ? target : target.substring(0, mark);
        return (method.equals("GET") || method.equals("HEAD")) && unverifiedPaths.contains(path);
    }

    /** {@return whether the body is needed for verifying} */
    public boolean requiresBody() {
        return requiresBody;
    }

    /** {@return the configured authority} */
    public Optional<String> authority() {
        return Optional.ofNullable(authority);
    }

    /** {@return what a proxy removes from the path; empty if none does} */
    public String pathPrefix() {
        return pathPrefix;
    }

    @Override
    public String toString() {
        return "AssertionVerifier(" + issuer + ", " + audience + ")";
    }

    private void checkTime(Caller caller) {
        long lifetime = caller.exp().getEpochSecond() - caller.iat().getEpochSecond();
        if (lifetime < 1 || lifetime > MAX_LIFETIME.toSeconds()) {
            throw new AssertionRefused(Refusal.LIFETIME);
        }
        // Whole seconds, as in the assertion.
        long now = clock.instant().getEpochSecond();
        if (caller.iat().getEpochSecond() > now + skew.toSeconds()) {
            throw new AssertionRefused(Refusal.NOT_YET_VALID);
        }
        // RFC 7519 section 4.1.4: "on or after" `exp` is too late.
        if (now >= caller.exp().getEpochSecond() + skew.toSeconds()) {
            throw new AssertionRefused(Refusal.EXPIRED);
        }
    }

    private void checkBinding(Caller caller) {
        if (caller.isRequestBound()) {
            return;
        }
        if (caller.htm().isPresent()
                || caller.htu().isPresent()
                || caller.jti().isPresent()
                || caller.htq().isPresent()
                || caller.htb().isPresent()
                || caller.txn().isPresent()) {
            throw new AssertionRefused(Refusal.PARTIAL_BINDING);
        }
        if (!allowsCallerBinding) {
            throw new AssertionRefused(Refusal.NOT_REQUEST_BOUND);
        }
    }

    /**
     * Compares byte by byte, without decoding. The scheme is ignored, because a service cannot know how its caller reached
     * the gateway.
     */
    private void checkRequest(Caller caller, RequestParts request) {
        String url = caller.htu().orElseThrow();
        int scheme = url.indexOf("://");
        String rest = scheme < 0 ? "" : url.substring(scheme + 3);
        int slash = rest.indexOf('/');
        if (slash < 1 || rest.indexOf('?') >= 0 || rest.indexOf('#') >= 0) {
            throw new AssertionRefused(Refusal.CLAIMS);
        }
        if (!caller.htm().orElseThrow().equals(request.method())) {
            throw new AssertionRefused(Refusal.METHOD);
        }
        String expected = authority == null ? request.authority() : authority;
        if (expected == null) {
            throw new AssertionRefused(Refusal.REQUEST_UNCLEAR);
        }
        if (!rest.substring(0, slash).equals(expected)) {
            throw new AssertionRefused(Refusal.AUTHORITY);
        }
        byte[] path = rest.substring(slash).getBytes(StandardCharsets.UTF_8);
        if (!isPrefixed(path, request.path())) {
            throw new AssertionRefused(Refusal.PATH);
        }
        String hash = caller.htq().orElse(null);
        byte[] query = request.query();
        boolean matches =
                hash == null || query == null ? hash == null && query == null : Octets.equal(hash, Octets.hash(query));
        if (!matches) {
            throw new AssertionRefused(Refusal.QUERY);
        }
    }

    /** Returns whether the claim is the configured prefix followed by the request's path. */
    private boolean isPrefixed(byte[] claim, byte[] path) {
        byte[] prefix = pathPrefix.getBytes(StandardCharsets.UTF_8);
        return claim.length == prefix.length + path.length
                && Arrays.equals(claim, 0, prefix.length, prefix, 0, prefix.length)
                && Arrays.equals(claim, prefix.length, claim.length, path, 0, path.length);
    }

    /** The options of a verifier. Exactly one source of keys is needed. */
    public static final class Builder {
        private final String issuer;
        private final String audience;
        private String jwksUrl;
        private Path jwksFile;
        private String jwksJson;
        private Path caFile;
        private String authority;
        private String pathPrefix = "";
        private Duration skew = DEFAULT_SKEW;
        private ReplayStore replayStore;
        private Set<String> unverifiedPaths = Set.of();
        private boolean allowsCallerBinding;
        private boolean requiresBodyBinding;
        private InstantSource clock = InstantSource.system();

        private Builder(String issuer, String audience) {
            this.issuer = text("issuer", issuer);
            this.audience = text("audience", audience);
        }

        /**
         * Sets the URL of the gateway's key set, usually {@code ISSUER/.well-known/jwks.json}.
         *
         * @param url {@code https}, or {@code http} to a loopback address
         * @return this
         */
        public Builder jwksUrl(String url) {
            this.jwksUrl = text("jwksUrl", url);
            return this;
        }

        /**
         * Sets a file with the gateway's key set. It is read again when it changes.
         *
         * @param file the file
         * @return this
         */
        public Builder jwksFile(Path file) {
            this.jwksFile = Objects.requireNonNull(file);
            return this;
        }

        /**
         * Gives the gateway's key set itself.
         *
         * @param json the text of a JWK set
         * @return this
         */
        public Builder jwksJson(String json) {
            this.jwksJson = Objects.requireNonNull(json);
            return this;
        }

        /**
         * Sets the root certificates for {@link #jwksUrl}, for gateways with a private authority. By default those of the
         * Java platform.
         *
         * @param file a PEM file
         * @return this
         */
        public Builder caFile(Path file) {
            this.caFile = Objects.requireNonNull(file);
            return this;
        }

        /**
         * Sets what the gateway sends as {@code Host}. Needed if a proxy between gateway and service changes it. The
         * request's own is then ignored.
         *
         * @param authority {@code name} or {@code name:port}
         * @return this
         */
        public Builder authority(String authority) {
            if (text("authority", authority).chars().anyMatch(c -> "/?#@ ".indexOf(c) >= 0)) {
                throw new IllegalArgumentException("the authority must be as in a Host field: `name` or `name:port`");
            }
            this.authority = authority;
            return this;
        }

        /**
         * Sets what a proxy between gateway and service removes from the path: {@code /api} if the gateway sends
         * {@code /api/orders} and this service receives {@code /orders}.
         *
         * @param prefix begins with a slash, and does not end with one
         * @return this
         */
        public Builder pathPrefix(String prefix) {
            if (!prefix.isEmpty()
                    && (!prefix.startsWith("/")
                            || prefix.endsWith("/")
                            || prefix.indexOf('?') >= 0
                            || prefix.indexOf('#') >= 0)) {
                throw new IllegalArgumentException("the path prefix must begin with `/` and not end with it");
            }
            this.pathPrefix = prefix;
            return this;
        }

        /**
         * Sets the allowed difference of the clocks.
         *
         * @param skew at most 30 seconds; whole seconds count
         * @return this
         */
        public Builder skew(Duration skew) {
            if (skew.isNegative() || skew.compareTo(MAX_SKEW) > 0) {
                throw new IllegalArgumentException("the skew must be between 0 and 30 seconds");
            }
            this.skew = Duration.ofSeconds(skew.toSeconds());
            return this;
        }

        /**
         * Accepts each request-bound assertion only once.
         *
         * @param store remembers those that were accepted
         * @return this
         */
        public Builder replayStore(ReplayStore store) {
            this.replayStore = Objects.requireNonNull(store);
            return this;
        }

        /**
         * Sets paths that GET and HEAD may use without an assertion, for health probes. Handlers then see no caller. For
         * the adapters only.
         *
         * @param paths exact raw paths
         * @return this
         */
        public Builder unverifiedPaths(Collection<String> paths) {
            for (String path : paths) {
                if (!path.startsWith("/") || !path.chars().allMatch(c -> c > 0x20 && c < 0x7f && "?#*".indexOf(c) < 0)) {
                    throw new IllegalArgumentException(
                            "unverified paths must be exact raw paths, without query and patterns");
                }
            }
            this.unverifiedPaths = Set.copyOf(paths);
            return this;
        }

        /**
         * Sets paths that GET and HEAD may use without an assertion.
         *
         * @param paths exact raw paths
         * @return this
         */
        public Builder unverifiedPaths(String... paths) {
            return unverifiedPaths(Arrays.asList(paths));
        }

        /**
         * Also accepts assertions that are not bound to a request. If such an assertion is stolen, it can be used for any
         * request until it expires.
         *
         * @return this
         */
        public Builder allowCallerBinding() {
            this.allowsCallerBinding = true;
            return this;
        }

        /**
         * Accepts only assertions with {@code htb}, and compares the body. The adapters then read the whole body before
         * the handler runs.
         *
         * @return this
         */
        public Builder requireBodyBinding() {
            this.requiresBodyBinding = true;
            return this;
        }

        /**
         * Sets the clock, for tests.
         *
         * @param clock the time that assertions are compared with
         * @return this
         */
        public Builder clock(InstantSource clock) {
            this.clock = Objects.requireNonNull(clock);
            return this;
        }

        /**
         * Makes the verifier.
         *
         * @return a verifier that can be shared by all threads
         * @throws IllegalArgumentException if an option is missing or would weaken it
         */
        public AssertionVerifier build() {
            return new AssertionVerifier(this, keySource());
        }

        private KeySource keySource() {
            if ((jwksUrl == null ? 0 : 1) + (jwksFile == null ? 0 : 1) + (jwksJson == null ? 0 : 1) != 1) {
                throw new IllegalArgumentException("give exactly one of jwksUrl, jwksFile and jwksJson");
            }
            if (jwksUrl != null) {
                return new RemoteKeys(new KeyServer(jwksUrl, caFile), this::now);
            }
            if (caFile != null) {
                throw new IllegalArgumentException("caFile is for jwksUrl only");
            }
            return jwksFile != null
                    ? new FileKeys(jwksFile, this::now)
                    : new FixedKeys(jwksJson.getBytes(StandardCharsets.UTF_8));
        }

        private long now() {
            Instant now = clock.instant();
            return now.getEpochSecond();
        }

        private static String text(String name, String value) {
            if (value == null || value.isEmpty()) {
                throw new IllegalArgumentException("no " + name + ": it must be a text that is not empty");
            }
            return value;
        }
    }
}
