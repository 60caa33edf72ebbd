package io.github.countersign.verify;

import com.nimbusds.jose.JOSEException;
import com.nimbusds.jose.JWSAlgorithm;
import com.nimbusds.jose.JWSHeader;
import com.nimbusds.jose.crypto.ECDSAVerifier;
import com.nimbusds.jose.jwk.Curve;
import com.nimbusds.jose.jwk.ECKey;
import com.nimbusds.jose.util.Base64URL;
import java.nio.charset.StandardCharsets;
import java.security.GeneralSecurityException;
import java.security.KeyFactory;
import java.security.PublicKey;
import java.security.Signature;
import java.security.interfaces.ECPublicKey;
import java.security.spec.X509EncodedKeySpec;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.HexFormat;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;

/**
 * The usable public keys of a JWK set (RFC 7517), and the verification of a signature with one of them.
 *
 * <p>ES256 is verified by Nimbus JOSE + JWT, Ed25519 by the Java platform itself: Nimbus needs Tink for it. Neither sees
 * the token's header, so that there is only one reading of it.
 */
final class KeySet {
    static final int MAX_BYTES = 1024 * 1024;
    private static final int MAX_KEYS = 128;
    private static final int COORDINATE_BYTES = 32;
    /** RFC 7518 section 3.4 and RFC 8037 section 3.1: both kinds have this length. */
    private static final int SIGNATURE_BYTES = 64;

    private static final Set<String> PRIVATE_MEMBERS = Set.of("d", "p", "q", "dp", "dq", "qi", "oth", "k");
    /** SubjectPublicKeyInfo of an Ed25519 key (RFC 8410 section 4), up to the key's 32 bytes. */
    private static final byte[] ED25519_PREFIX = HexFormat.of().parseHex("302a300506032b6570032100");

    private final Map<String, List<Jwk>> byId;
    private final int size;

    /** The text is not a JWK set. The message never contains the text. */
    static final class Malformed extends Exception {
        Malformed(String message) {
            super(message);
        }
    }

    /** What distinguishes keys: the same key that is listed twice counts once. */
    private record Identity(
            Kind kind, String x, String y, String keyId, boolean hasKeyId, boolean hasAlgorithm) {}

    /** A key. {@code key} is null if the point is not on the curve: no signature verifies then. */
    private record Jwk(Kind kind, PublicKey key) {}

    private enum Kind {
        P256("EC", "P-256", Set.of("ES256")),
        ED25519("OKP", "Ed25519", Set.of("EdDSA", "Ed25519"));

        final String type;
        final String curve;
        /** The {@code alg} values that such a key and its tokens may have. */
        final Set<String> algorithms;

        Kind(String type, String curve, Set<String> algorithms) {
            this.type = type;
            this.curve = curve;
            this.algorithms = algorithms;
        }
    }

    private KeySet(Map<Identity, Jwk> keys) {
        Map<String, List<Jwk>> found = new HashMap<>();
        keys.forEach((identity, key) ->
                found.computeIfAbsent(identity.keyId(), id -> new ArrayList<>()).add(key));
        this.byId = found;
        this.size = keys.size();
    }

    /**
     * Parses a JWK set. Keys that cannot verify assertions are ignored (RFC 7517 section 5), and so are private, symmetric
     * and malformed ones.
     */
    static KeySet parse(byte[] text) throws Malformed {
        if (text.length > MAX_BYTES) {
            throw new Malformed("longer than 1 MiB");
        }
        Object found;
        try {
            found = StrictJson.parseObject(text, "key set").get("keys");
        } catch (StrictJson.Malformed e) {
            throw new Malformed(e.getMessage());
        }
        if (!(found instanceof List<?> items)) {
            throw new Malformed("member `keys` is missing or malformed");
        }
        if (items.size() > MAX_KEYS) {
            throw new Malformed("the key set has more than " + MAX_KEYS + " keys");
        }
        Map<Identity, Jwk> keys = new LinkedHashMap<>();
        for (Object item : items) {
            Map<String, Object> members = Members.asObject(item);
            if (members == null) {
                throw new Malformed("member `keys` is missing or malformed");
            }
            Identity identity = identity(members);
            if (identity != null) {
                keys.computeIfAbsent(identity, KeySet::key);
            }
        }
        return new KeySet(keys);
    }

    int size() {
        return size;
    }

    boolean has(String keyId) {
        return byId.containsKey(keyId);
    }

    /**
     * Verifies the signature with the key that the header names. Returns the payload.
     *
     * @throws AssertionRefused if there is no such key, if it is for another algorithm, or if the signature is wrong
     */
    byte[] verify(CompactJws jws) {
        List<Jwk> named = byId.getOrDefault(jws.keyId(), List.of());
        if (named.isEmpty()) {
            throw new AssertionRefused(Refusal.UNKNOWN_KEY);
        }
        List<Jwk> fitting = named.stream()
                .filter(key -> key.kind().algorithms.contains(jws.algorithm()))
                .toList();
        if (fitting.isEmpty()) {
            throw new AssertionRefused(Refusal.ALGORITHM);
        }
        if (fitting.size() > 1) {
            throw new AssertionRefused(Refusal.UNKNOWN_KEY);
        }
        if (jws.signature().length != SIGNATURE_BYTES || !isSigned(fitting.get(0), jws)) {
            throw new AssertionRefused(Refusal.SIGNATURE);
        }
        return jws.payload();
    }

    private static boolean isSigned(Jwk jwk, CompactJws jws) {
        if (jwk.key() == null) {
            return false;
        }
        try {
            if (jwk.kind() == Kind.P256) {
                // The header is made here: nothing that the token says can select another algorithm.
                return new ECDSAVerifier((ECPublicKey) jwk.key())
                        .verify(new JWSHeader(JWSAlgorithm.ES256), jws.signingInput(), Base64URL.encode(jws.signature()));
            }
            Signature signature = Signature.getInstance("Ed25519");
            signature.initVerify(jwk.key());
            signature.update(jws.signingInput());
            return signature.verify(jws.signature());
        } catch (JOSEException | GeneralSecurityException | IllegalArgumentException e) {
            return false;
        }
    }

    /** Returns the key's identity, or null if it cannot verify assertions. */
    private static Identity identity(Map<String, Object> members) {
        Kind kind = null;
        for (Kind candidate : Kind.values()) {
            if (candidate.type.equals(members.get("kty")) && candidate.curve.equals(members.get("crv"))) {
                kind = candidate;
            }
        }
        if (kind == null
                || PRIVATE_MEMBERS.stream().anyMatch(members::containsKey)
                || !isForVerification(members)
                || members.containsKey("alg")
                        && !(members.get("alg") instanceof String alg && kind.algorithms.contains(alg))) {
            return null;
        }
        String x = coordinate(members.get("x"));
        String y = kind == Kind.P256 ? coordinate(members.get("y")) : "";
        if (x == null || y == null) {
            return null;
        }
        boolean hasKeyId = members.containsKey("kid");
        if (hasKeyId && !(members.get("kid") instanceof String)) {
            return null;
        }
        String keyId = hasKeyId ? (String) members.get("kid") : thumbprint(kind, x, y);
        return new Identity(kind, x, y, keyId, hasKeyId, members.containsKey("alg"));
    }

    /** Checks {@code use} and {@code key_ops} (RFC 7517 sections 4.2 and 4.3). */
    private static boolean isForVerification(Map<String, Object> members) {
        if (!"sig".equals(members.getOrDefault("use", "sig"))) {
            return false;
        }
        if (!members.containsKey("key_ops")) {
            return true;
        }
        return members.get("key_ops") instanceof List<?> operations
                && operations.stream().allMatch(String.class::isInstance)
                && operations.contains("verify");
    }

    /** Returns a coordinate if it has the full length (RFC 7518 section 6.2.1), or null. */
    private static String coordinate(Object value) {
        if (!(value instanceof String text)) {
            return null;
        }
        byte[] octets = Octets.decodeBase64url(text);
        return octets != null && octets.length == COORDINATE_BYTES ? text : null;
    }

    /** Returns the SHA-256 thumbprint (RFC 7638). */
    private static String thumbprint(Kind kind, String x, String y) {
        String members = "{\"crv\":\"" + kind.curve + "\",\"kty\":\"" + kind.type + "\",\"x\":\"" + x + "\""
                + (y.isEmpty() ? "}" : ",\"y\":\"" + y + "\"}");
        return Octets.hash(members.getBytes(StandardCharsets.US_ASCII));
    }

    private static Jwk key(Identity identity) {
        try {
            return new Jwk(identity.kind(), publicKey(identity));
        } catch (JOSEException | GeneralSecurityException | IllegalArgumentException | IllegalStateException e) {
            return new Jwk(identity.kind(), null);
        }
    }

    private static PublicKey publicKey(Identity identity) throws JOSEException, GeneralSecurityException {
        if (identity.kind() == Kind.P256) {
            return new ECKey.Builder(Curve.P_256, new Base64URL(identity.x()), new Base64URL(identity.y()))
                    .build()
                    .toECPublicKey();
        }
        byte[] encoded = new byte[ED25519_PREFIX.length + COORDINATE_BYTES];
        System.arraycopy(ED25519_PREFIX, 0, encoded, 0, ED25519_PREFIX.length);
        System.arraycopy(
                Octets.decodeBase64url(identity.x()), 0, encoded, ED25519_PREFIX.length, COORDINATE_BYTES);
        return KeyFactory.getInstance("Ed25519").generatePublic(new X509EncodedKeySpec(encoded));
    }
}
