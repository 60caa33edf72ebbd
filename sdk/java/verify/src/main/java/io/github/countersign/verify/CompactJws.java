package io.github.countersign.verify;

import java.nio.charset.StandardCharsets;
import java.util.Map;
import java.util.Set;

/**
 * A compact JWS (RFC 7515 section 7.1) whose form is that of an assertion, parsed before any JOSE library sees it.
 *
 * <p>Not verified: no part may be trusted before its signature was.
 */
record CompactJws(String algorithm, String keyId, byte[] signingInput, byte[] payload, byte[] signature) {
    static final String TYP = "countersign+jwt";

    /** {@code Ed25519} is the name of RFC 9864 for the same algorithm, always with an Ed25519 key. */
    private static final Set<String> ALGORITHMS = Set.of("ES256", "EdDSA", "Ed25519");

    /** Contain a key or the address of one. Keys come only from the configured source (RFC 8725 section 3.10). */
    private static final Set<String> EMBEDDED_KEYS = Set.of("jwk", "jku", "x5u", "x5c");

    private static final String NOT_COMPACT =
            "not a compact JWS: three base64url parts separated by dots are expected";

    /**
     * Checks all rules about the form, the header and the key reference.
     *
     * @throws AssertionRefused with the first rule that the token breaks
     */
    static CompactJws parse(String token) {
        // Characters are bytes only in ASCII, and all parts are base64url.
        if (!token.chars().allMatch(c -> c < 0x80)) {
            throw malformed(NOT_COMPACT);
        }
        if (token.length() > AssertionVerifier.MAX_ASSERTION) {
            throw malformed("longer than " + AssertionVerifier.MAX_ASSERTION + " bytes");
        }
        String[] parts = token.split("\\.", -1);
        if (parts.length != 3 || parts[0].isEmpty() || parts[2].isEmpty()) {
            throw malformed(NOT_COMPACT);
        }
        Map<String, Object> header = header(decode(parts[0], "header"));
        byte[] payload = decode(parts[1], "payload");
        byte[] signature = decode(parts[2], "signature");
        if (!TYP.equals(header.get("typ"))) {
            throw new AssertionRefused(Refusal.TYPE);
        }
        if (EMBEDDED_KEYS.stream().anyMatch(header::containsKey)) {
            throw new AssertionRefused(Refusal.EMBEDDED_KEY);
        }
        if (!(header.get("kid") instanceof String keyId) || keyId.isEmpty()) {
            throw new AssertionRefused(Refusal.KEY_ID_MISSING);
        }
        byte[] signingInput = (parts[0] + "." + parts[1]).getBytes(StandardCharsets.US_ASCII);
        return new CompactJws((String) header.get("alg"), keyId, signingInput, payload, signature);
    }

    private static byte[] decode(String text, String part) {
        byte[] octets = Octets.decodeBase64url(text);
        if (octets == null) {
            throw malformed(part + " is not canonical base64url without padding");
        }
        return octets;
    }

    private static Map<String, Object> header(byte[] text) {
        Map<String, Object> members;
        try {
            members = StrictJson.parseObject(text, "header");
        } catch (StrictJson.Malformed e) {
            throw malformed(e.getMessage());
        }
        // RFC 7515 section 4.1.11: a token with an unsupported extension must be refused. None is supported. `b64`
        // (RFC 7797) changes what is signed, even without `crit`.
        if (members.containsKey("crit") || members.containsKey("b64")) {
            throw malformed("the token demands an extension by `crit` or `b64`; none is supported");
        }
        if (!(members.get("alg") instanceof String algorithm)) {
            throw malformed("member `alg` is missing or malformed");
        }
        if (!ALGORITHMS.contains(algorithm)) {
            throw new AssertionRefused(Refusal.ALGORITHM);
        }
        for (String name : new String[] {"kid", "typ"}) {
            if (members.containsKey(name) && !(members.get(name) instanceof String)) {
                throw malformed("member `" + name + "` is missing or malformed");
            }
        }
        return members;
    }

    static AssertionRefused malformed(String problem) {
        return new AssertionRefused(Refusal.MALFORMED, Refusal.MALFORMED.detail + ": " + problem);
    }
}
