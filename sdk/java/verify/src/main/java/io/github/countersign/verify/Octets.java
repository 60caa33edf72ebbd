package io.github.countersign.verify;

import java.nio.charset.StandardCharsets;
import java.security.MessageDigest;
import java.security.NoSuchAlgorithmException;
import java.util.Base64;

/** Base64url and hashes. */
final class Octets {
    private Octets() {}

    /** Encodes without padding. */
    static String base64url(byte[] octets) {
        return Base64.getUrlEncoder().withoutPadding().encodeToString(octets);
    }

    /**
     * Decodes canonical base64url without padding: each byte string has exactly one encoding.
     *
     * @return null for everything else, such as padding or trailing bits that are not zero
     */
    static byte[] decodeBase64url(String text) {
        try {
            byte[] octets = Base64.getUrlDecoder().decode(text);
            return base64url(octets).equals(text) ? octets : null;
        } catch (IllegalArgumentException e) {
            return null;
        }
    }

    static byte[] sha256(byte[] octets) {
        try {
            return MessageDigest.getInstance("SHA-256").digest(octets);
        } catch (NoSuchAlgorithmException e) {
            throw new IllegalStateException("every Java platform has SHA-256", e);
        }
    }

    /** Returns the base64url SHA-256, as in {@code htq} and {@code htb}. */
    static String hash(byte[] octets) {
        return base64url(sha256(octets));
    }

    /** Compares a hash of the assertion with that of the request in constant time. */
    static boolean equal(String claim, String computed) {
        return MessageDigest.isEqual(
                claim.getBytes(StandardCharsets.UTF_8), computed.getBytes(StandardCharsets.UTF_8));
    }
}
