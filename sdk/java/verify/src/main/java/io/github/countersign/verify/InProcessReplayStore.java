package io.github.countersign.verify;

import java.nio.charset.StandardCharsets;
import java.time.Instant;
import java.util.HashSet;
import java.util.PriorityQueue;
import java.util.Set;
import java.util.concurrent.locks.ReentrantLock;

/**
 * A replay store in the memory of this process.
 *
 * <p>Other processes do not see it: with several instances of a service, an assertion can be used once with each.
 *
 * <p>If it is full of assertions that could still be replayed, further ones are refused with status 503. Choose at least
 * the number of requests in 40 seconds (lifetime and skew).
 *
 * <p>The clock may be set back. A forgotten assertion would then be valid again, so the store refuses every assertion that
 * expires no later than one that it has forgotten.
 */
public final class InProcessReplayStore implements ReplayStore {
    /** The capacity if none is given. */
    public static final int DEFAULT_CAPACITY = 100_000;

    private final int capacity;
    private final ReentrantLock lock = new ReentrantLock();
    // Hashes, so that all entries have the same size.
    private final Set<String> seen = new HashSet<>();
    private final PriorityQueue<Entry> byExpiry = new PriorityQueue<>();
    private Instant forgottenUntil = Instant.MIN;

    private record Entry(Instant expiry, String hash) implements Comparable<Entry> {
        @Override
        public int compareTo(Entry other) {
            return expiry.compareTo(other.expiry);
        }
    }

    /** Makes a store of the default capacity. */
    public InProcessReplayStore() {
        this(DEFAULT_CAPACITY);
    }

    /**
     * Makes a store.
     *
     * @param capacity how many assertions it remembers at most
     */
    public InProcessReplayStore(int capacity) {
        if (capacity < 1) {
            throw new IllegalArgumentException("a replay store needs a capacity of at least 1");
        }
        this.capacity = capacity;
    }

    @Override
    public void admit(String identifier, Instant expiry, Instant now) {
        String hash = Octets.hash(identifier.getBytes(StandardCharsets.UTF_8));
        lock.lock();
        try {
            forgetExpired(now);
            if (seen.contains(hash)) {
                throw new AssertionRefused(Refusal.REPLAYED);
            }
            if (!expiry.isAfter(forgottenUntil)) {
                throw new AssertionRefused(Refusal.EXPIRED);
            }
            if (seen.size() >= capacity) {
                throw new AssertionRefused(Refusal.REPLAY_CACHE_FULL);
            }
            seen.add(hash);
            byExpiry.add(new Entry(expiry, hash));
        } finally {
            lock.unlock();
        }
    }

    private void forgetExpired(Instant now) {
        while (!byExpiry.isEmpty() && !byExpiry.peek().expiry().isAfter(now)) {
            Entry entry = byExpiry.remove();
            if (entry.expiry().isAfter(forgottenUntil)) {
                forgottenUntil = entry.expiry();
            }
            seen.remove(entry.hash());
        }
    }
}
