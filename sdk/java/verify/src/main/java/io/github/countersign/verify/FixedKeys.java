package io.github.countersign.verify;

/** A key set that never changes. */
record FixedKeys(KeySet keys) implements KeySource {
    FixedKeys(byte[] json) {
        this(parsed(json));
    }

    @Override
    public KeySet forKey(String keyId) {
        return keys;
    }

    private static KeySet parsed(byte[] json) {
        KeySet keys;
        try {
            keys = KeySet.parse(json);
        } catch (KeySet.Malformed e) {
            throw new IllegalArgumentException("the key set is not usable: " + e.getMessage());
        }
        if (keys.size() == 0) {
            throw new IllegalArgumentException("the key set has no usable key");
        }
        return keys;
    }
}
