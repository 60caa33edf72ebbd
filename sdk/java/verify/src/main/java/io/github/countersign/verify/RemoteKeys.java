package io.github.countersign.verify;

import java.lang.ref.WeakReference;
import java.nio.charset.StandardCharsets;
import java.util.HashMap;
import java.util.Map;
import java.util.Optional;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.ThreadLocalRandom;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.TimeoutException;
import java.util.concurrent.locks.ReentrantLock;
import java.util.function.LongSupplier;

/**
 * The keys at one address, and their cache, which follows the Rust package.
 *
 * <p>A flood of unknown key identifiers causes at most one fetch per {@link #MINIMUM_INTERVAL}. Requests that need keys
 * while a fetch runs wait for its outcome and share it, also if it failed: a server that does not respond costs each
 * request the time of at most one fetch. Fetches run in threads of their own, and go on if a request is interrupted.
 */
final class RemoteKeys implements KeySource {
    /** Minimum number of seconds between the end of a fetch and the start of the next one. */
    static final long MINIMUM_INTERVAL = 5;

    /** The same minimum while there are no keys at all. */
    static final long MINIMUM_INTERVAL_WITHOUT_KEYS = 1;

    /** How many seconds the last good keys may be used after they were last confirmed. */
    static final long LAST_GOOD_SECONDS = 24 * 60 * 60;

    /** If a fetch did not find a key identifier, the identifier causes no fetch for this many seconds. */
    static final long UNKNOWN_KEY_SECONDS = 30;

    /** Maximum number of unknown key identifiers that are remembered. */
    static final int MAX_UNKNOWN_KEYS = 256;

    /** Maximum number of calls that wait for a fetch that another call started. */
    static final int MAX_WAITING = 1024;

    /** Maximum number of milliseconds that a call waits for a fetch. */
    static final long WAIT_MILLIS = 5000;

    private static final String BUSY = "too many calls wait for the key server already";
    private static final String TIMED_OUT = "the key server did not answer in time";
    private static final String NOT_REACHED = "the key server cannot be reached";
    private static final String NOT_FETCHED = "nothing was fetched recently";

    private static final System.Logger LOG = System.getLogger("io.github.countersign.verify");

    private final KeyServer server;
    private final LongSupplier clock;
    private final CountDownLatch closed = new CountDownLatch(1);

    // Never held while waiting.
    private final ReentrantLock lock = new ReentrantLock();
    private Cached cached;
    private String lastProblem;
    /** Hashes of identifiers that were not found, and the time until which they are remembered. */
    private final Map<String, Long> unknown = new HashMap<>();

    private CompletableFuture<Optional<String>> running;
    private boolean wasAttempted;
    private long lastAttempt;
    private int waiting;
    private boolean isRefreshing;

    private static final class Cached {
        final KeySet keys;
        final String entityTag;
        long confirmedAt;
        long freshUntil;

        Cached(KeySet keys, String entityTag, long confirmedAt, long freshUntil) {
            this.keys = keys;
            this.entityTag = entityTag;
            this.confirmedAt = confirmedAt;
            this.freshUntil = freshUntil;
        }
    }

    /** How a call gets the keys: it starts a fetch, or waits for that of another call. */
    private record Step(CompletableFuture<Optional<String>> fetch, boolean isNew) {}

    RemoteKeys(KeyServer server, LongSupplier clock) {
        this.server = server;
        this.clock = clock;
    }

    @Override
    public KeySet forKey(String keyId) throws KeysUnavailable {
        long now = clock.getAsLong();
        Step step;
        lock.lock();
        try {
            followClock(now);
            KeySet settled = settled(keyId, now);
            if (settled != null) {
                return settled;
            }
            if (running == null && !mayFetch(now)) {
                return keysFor(keyId, now, false);
            }
            step = joinOrBegin(now);
        } finally {
            lock.unlock();
        }
        Optional<String> problem = outcome(step);
        now = clock.getAsLong();
        lock.lock();
        try {
            return keysFor(keyId, now, step.isNew() && problem.isEmpty());
        } finally {
            lock.unlock();
        }
    }

    /** If a fetch runs already, shares its outcome. */
    @Override
    public void fetchNow() throws KeysUnavailable {
        Step step;
        lock.lock();
        try {
            step = joinOrBegin(clock.getAsLong());
        } finally {
            lock.unlock();
        }
        Optional<String> problem = outcome(step);
        if (problem.isPresent()) {
            throw new KeysUnavailable(problem.get());
        }
    }

    /** Fetches on demand stay possible. */
    @Override
    public void close() {
        closed.countDown();
    }

    // Deciding, with the lock held.

    /** Returns the keys if no fetch is needed for {@code keyId}. */
    private KeySet settled(String keyId, long now) {
        Cached usable = usable(now);
        if (usable == null) {
            return null;
        }
        boolean isFresh = now < usable.freshUntil;
        boolean isSettled;
        if (usable.keys.has(keyId)) {
            // No call waits for another call's fetch while the old keys may be used, because the server may be slow.
            isSettled = isFresh || running != null;
        } else {
            Long until = unknown.get(hashed(keyId));
            isSettled = isFresh && until != null && isRemembered(until, now);
        }
        return isSettled ? usable.keys : null;
    }

    private boolean mayFetch(long now) {
        long interval = usable(now) == null ? MINIMUM_INTERVAL_WITHOUT_KEYS : MINIMUM_INTERVAL;
        // If the clock was set to an earlier time, fetching must not stop.
        return !wasAttempted || Math.abs(now - lastAttempt) >= interval;
    }

    private Cached usable(long now) {
        return cached == null || now >= cached.confirmedAt + LAST_GOOD_SECONDS ? null : cached;
    }

    /**
     * If the clock was set back, counts the age of the keys from the new time. Otherwise keys that were fetched while the
     * clock was ahead would stay fresh until it reaches that time again.
     */
    private void followClock(long now) {
        if (cached != null && now < cached.confirmedAt) {
            cached.freshUntil += now - cached.confirmedAt;
            cached.confirmedAt = now;
        }
    }

    /**
     * Returns the keys to a call that fetches no more.
     *
     * @param fetched they were fetched after the call began. Only then it is known that an unknown key is not published.
     */
    private KeySet keysFor(String keyId, long now, boolean fetched) throws KeysUnavailable {
        Cached usable = usable(now);
        if (usable == null) {
            throw unavailable();
        }
        if (!usable.keys.has(keyId)) {
            // The key may be newer than the cached keys, so that the result is unknown.
            if (now >= usable.freshUntil) {
                throw unavailable();
            }
            if (fetched) {
                rememberUnknown(keyId, now);
            }
        }
        return usable.keys;
    }

    private KeysUnavailable unavailable() {
        return new KeysUnavailable(lastProblem == null ? NOT_FETCHED : lastProblem);
    }

    private void rememberUnknown(String keyId, long now) {
        unknown.values().removeIf(until -> !isRemembered(until, now));
        // If the table is full, the minimum interval still limits the fetches.
        if (unknown.size() < MAX_UNKNOWN_KEYS) {
            unknown.put(hashed(keyId), now + UNKNOWN_KEY_SECONDS);
        }
    }

    private static boolean isRemembered(long until, long now) {
        // A time that is too far ahead was set before the clock was set to an earlier time.
        return now < until && until <= now + UNKNOWN_KEY_SECONDS;
    }

    private static String hashed(String keyId) {
        return Octets.hash(keyId.getBytes(StandardCharsets.UTF_8));
    }

    private Step joinOrBegin(long now) {
        if (running != null) {
            return new Step(running, false);
        }
        CompletableFuture<Optional<String>> fetch = new CompletableFuture<>();
        running = fetch;
        wasAttempted = true;
        lastAttempt = now;
        return new Step(fetch, true);
    }

    // Waiting.

    /** Starts the fetch if it is new, and waits for its outcome: a problem, or nothing if it succeeded. */
    private Optional<String> outcome(Step step) throws KeysUnavailable {
        if (step.isNew()) {
            start(step.fetch());
            return await(step.fetch());
        }
        lock.lock();
        try {
            if (waiting >= MAX_WAITING) {
                throw new KeysUnavailable(BUSY);
            }
            waiting++;
        } finally {
            lock.unlock();
        }
        try {
            return await(step.fetch());
        } finally {
            lock.lock();
            try {
                waiting--;
            } finally {
                lock.unlock();
            }
        }
    }

    private Optional<String> await(CompletableFuture<Optional<String>> fetch) throws KeysUnavailable {
        try {
            return fetch.get(WAIT_MILLIS, TimeUnit.MILLISECONDS);
        } catch (TimeoutException e) {
            // The next call may start another fetch.
            lock.lock();
            try {
                end(fetch, TIMED_OUT);
            } finally {
                lock.unlock();
            }
            return Optional.of(TIMED_OUT);
        } catch (InterruptedException e) {
            Thread.currentThread().interrupt();
            throw new KeysUnavailable("the wait for the keys was interrupted");
        } catch (ExecutionException e) {
            throw new IllegalStateException("outcomes are values", e);
        }
    }

    // Fetching.

    private void start(CompletableFuture<Optional<String>> fetch) {
        try {
            daemon("countersign-keys", () -> run(fetch)).start();
        } catch (OutOfMemoryError e) {
            // No thread can be started.
            finish(fetch, NOT_REACHED);
        }
    }

    private void run(CompletableFuture<Optional<String>> fetch) {
        String problem = NOT_REACHED;
        try {
            problem = fetchOnce(fetch);
        } finally {
            finish(fetch, problem);
        }
    }

    private void finish(CompletableFuture<Optional<String>> fetch, String problem) {
        long now = clock.getAsLong();
        lock.lock();
        try {
            // The interval begins when the fetch ends. Otherwise the next call could fetch again at once after a slow
            // failure.
            lastAttempt = now;
            end(fetch, problem);
            keepFresh();
        } finally {
            lock.unlock();
        }
        if (problem != null) {
            LOG.log(
                    System.Logger.Level.WARNING, "cannot fetch the gateway''s keys from {0}: {1}", server.url(), problem);
        }
        fetch.complete(Optional.ofNullable(problem));
    }

    /** Records the outcome, unless the fetch was given up before. */
    private void end(CompletableFuture<Optional<String>> fetch, String problem) {
        if (running == fetch) {
            running = null;
            lastProblem = problem;
        }
    }

    private String fetchOnce(CompletableFuture<Optional<String>> fetch) {
        String entityTag;
        lock.lock();
        try {
            entityTag = cached == null ? null : cached.entityTag;
        } finally {
            lock.unlock();
        }
        KeyServer.Response response;
        KeySet keys;
        try {
            response = server.get(entityTag);
            keys = response.body() == null ? null : KeySet.parse(response.body());
        } catch (KeysUnavailable e) {
            return e.getMessage();
        } catch (KeySet.Malformed e) {
            return "the answer is not a key set: " + e.getMessage();
        }
        long now = clock.getAsLong();
        lock.lock();
        try {
            // After a fetch was given up, a later one may have stored newer keys.
            if (running != fetch) {
                return TIMED_OUT;
            }
            if (keys != null) {
                unknown.clear();
                cached = new Cached(keys, response.entityTag(), now, now + response.freshFor());
            } else if (cached != null) {
                cached.confirmedAt = now;
                cached.freshUntil = now + response.freshFor();
            }
            return null;
        } finally {
            lock.unlock();
        }
    }

    // Refreshing in the background, so that requests need not wait for stale keys.

    private void keepFresh() {
        if (isRefreshing || closed.getCount() == 0) {
            return;
        }
        isRefreshing = true;
        WeakReference<RemoteKeys> source = new WeakReference<>(this);
        CountDownLatch end = closed;
        try {
            daemon("countersign-refresh", () -> refresh(source, end)).start();
        } catch (OutOfMemoryError e) {
            // No thread can be started: requests fetch the keys.
            LOG.log(System.Logger.Level.WARNING, "the keys are not refreshed in the background");
        }
    }

    /** Fetches the keys before they become stale, until the source is closed or collected. */
    private static void refresh(WeakReference<RemoteKeys> source, CountDownLatch end) {
        try {
            while (true) {
                RemoteKeys keys = source.get();
                if (keys == null) {
                    return;
                }
                long millis = keys.refreshInMillis();
                keys = null;
                if (end.await(millis, TimeUnit.MILLISECONDS)) {
                    return;
                }
                keys = source.get();
                if (keys != null) {
                    keys.refreshQuietly();
                }
            }
        } catch (InterruptedException e) {
            Thread.currentThread().interrupt();
        }
    }

    private void refreshQuietly() {
        try {
            fetchNow();
        } catch (KeysUnavailable e) {
            // The fetch itself wrote it into the log.
            LOG.log(System.Logger.Level.DEBUG, "the keys were not refreshed");
        }
    }

    private long refreshInMillis() {
        long now = clock.getAsLong();
        long left;
        lock.lock();
        try {
            Cached usable = usable(now);
            left = usable == null ? 0 : usable.freshUntil - now;
        } finally {
            lock.unlock();
        }
        // Early enough for a slow server, and not at the same time in all instances.
        double share = ThreadLocalRandom.current().nextDouble(0.7, 0.9);
        return Math.max((long) (left * 1000 * share), 2 * MINIMUM_INTERVAL * 1000);
    }

    private static Thread daemon(String name, Runnable task) {
        Thread thread = new Thread(task, name);
        thread.setDaemon(true);
        return thread;
    }
}
