package io.github.countersign.verify;

import java.nio.ByteBuffer;
import java.nio.CharBuffer;
import java.nio.charset.CharacterCodingException;
import java.nio.charset.StandardCharsets;
import java.util.Arrays;
import java.util.List;

/**
 * Method, authority, path and query of one request, as received: the parts to which assertions are bound.
 *
 * <p>Nothing is decoded, normalized or lower-cased: the gateway signs bytes, and the service compares bytes. Header fields
 * about other hops ({@code X-Forwarded-…}, {@code Forwarded}) are never read. A service behind another proxy configures its
 * authority and prefix on the verifier.
 */
public final class RequestParts {
    /** The name of the field with the assertion. */
    public static final String HEADER = "Countersign-Assertion";

    private final String method;
    private final String authority;
    private final byte[] path;
    private final byte[] query;

    /**
     * Takes the parts of a request.
     *
     * @param method as received
     * @param hosts the values of all {@code Host} fields, or the one {@code :authority} of HTTP/2
     * @param target the undecoded request target in origin form, {@code /path?query}, in UTF-8
     * @throws AssertionRefused {@code assertion-request-unclear} if the target is not a path with an optional query
     */
    public RequestParts(String method, List<String> hosts, String target) {
        this(method, hosts, octets(target));
    }

    /**
     * Does the same with the bytes of the target.
     *
     * @param method as received
     * @param hosts the values of all {@code Host} fields, or the one {@code :authority} of HTTP/2
     * @param target the undecoded request target in origin form
     * @throws AssertionRefused {@code assertion-request-unclear} if the target is not a path with an optional query
     */
    public RequestParts(String method, List<String> hosts, byte[] target) {
        int mark = -1;
        for (int i = 0; i < target.length; i++) {
            if (target[i] == '#') {
                throw new AssertionRefused(Refusal.REQUEST_UNCLEAR);
            }
            if (target[i] == '?' && mark < 0) {
                mark = i;
            }
        }
        if (target.length == 0 || target[0] != '/') {
            throw new AssertionRefused(Refusal.REQUEST_UNCLEAR);
        }
        this.method = method;
        this.authority = onlyHost(hosts);
        this.path = mark < 0 ? target.clone() : Arrays.copyOf(target, mark);
        this.query = mark < 0 ? null : Arrays.copyOfRange(target, mark + 1, target.length);
    }

    /**
     * Returns the only field value that may contain an assertion.
     *
     * @param values the values of all {@code Countersign-Assertion} fields of the request, as received
     * @return the value, not verified
     * @throws AssertionRefused {@code assertion-missing} or {@code assertion-duplicate}
     */
    public static String onlyAssertion(List<String> values) {
        if (values.isEmpty()) {
            throw new AssertionRefused(Refusal.MISSING);
        }
        if (values.size() > 1) {
            throw new AssertionRefused(Refusal.DUPLICATE);
        }
        return values.get(0);
    }

    private static byte[] octets(String target) {
        try {
            // A new encoder reports half surrogate pairs; `getBytes` would make a `?` of them.
            ByteBuffer encoded = StandardCharsets.UTF_8.newEncoder().encode(CharBuffer.wrap(target));
            byte[] octets = new byte[encoded.remaining()];
            encoded.get(octets);
            return octets;
        } catch (CharacterCodingException e) {
            throw new AssertionRefused(Refusal.REQUEST_UNCLEAR);
        }
    }

    private static String onlyHost(List<String> hosts) {
        if (hosts.size() != 1) {
            return null;
        }
        String host = hosts.get(0);
        // Some servers join repeated fields with a comma. No host contains one.
        return host.chars().allMatch(c -> c > 0x20 && c < 0x7f && c != ',') ? host : null;
    }

    String method() {
        return method;
    }

    /** Null if it is unclear: no field, several, or no text. */
    String authority() {
        return authority;
    }

    byte[] path() {
        return path;
    }

    /** Null without a {@code ?}, empty if nothing follows it. */
    byte[] query() {
        return query;
    }

    /** Shows no query, because it may contain secrets that do not belong in logs. */
    @Override
    public String toString() {
        return "RequestParts(" + method + " " + authority + " " + new String(path, StandardCharsets.UTF_8) + ")";
    }
}
