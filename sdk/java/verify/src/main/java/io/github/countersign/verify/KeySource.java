package io.github.countersign.verify;

/** Where a verifier finds the gateway's keys. All methods may be called from any thread. */
interface KeySource extends AutoCloseable {
    /** Returns the keys for a token that names {@code keyId}. May block. */
    KeySet forKey(String keyId) throws KeysUnavailable;

    /** Fetches the keys now. May block. */
    default void fetchNow() throws KeysUnavailable {}

    /** Ends what runs in the background. */
    @Override
    default void close() {}
}
