package io.github.countersign.verify;

/** The gateway's keys could not be fetched. The message says why, in words that are safe to show to a caller. */
public final class KeysUnavailable extends Exception {
    private static final long serialVersionUID = 1L;

    KeysUnavailable(String problem) {
        super(problem);
    }

    AssertionRefused refusal() {
        return new AssertionRefused(Refusal.KEYS_UNAVAILABLE, Refusal.KEYS_UNAVAILABLE.detail + ": " + getMessage());
    }
}
