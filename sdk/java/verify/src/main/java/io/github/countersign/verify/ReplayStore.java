package io.github.countersign.verify;

import java.time.Instant;

/**
 * Remembers which assertions were accepted.
 *
 * <p>A store must never forget an identifier that could still be replayed, also if the clock is set back. If it cannot
 * decide, it must refuse. It may be called by several threads at once.
 */
public interface ReplayStore {
    /**
     * Remembers an assertion until its expiry, or refuses it. May block.
     *
     * @param identifier the assertion's {@code jti}
     * @param expiry until when it could be used again; includes the skew
     * @param now the time of the verifier
     * @throws AssertionRefused {@code assertion-replayed} if the identifier is remembered, {@code assertion-expired} if it
     *     could have been forgotten, {@code assertion-replay-cache-full} (status 503) if the store cannot decide
     */
    void admit(String identifier, Instant expiry, Instant now);
}
