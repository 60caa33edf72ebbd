package io.github.countersign.verify;

import java.nio.charset.StandardCharsets;
import java.security.SecureRandom;
import java.time.Instant;
import java.util.List;
import java.util.Objects;

/**
 * A replay store in Redis, shared by all instances of a service. It works with every client library:
 *
 * <pre>{@code
 * new RedisReplayStore((script, keys, arguments) -> jedis.eval(script, keys, arguments))
 * }</pre>
 *
 * <p>If Redis cannot be reached, assertions are refused with status 503 and the code {@code assertion-replay-cache-full}:
 * accepting them would allow every replay. Give the client a short timeout, because requests wait for it.
 *
 * <p>Redis must not evict keys ({@code maxmemory-policy noeviction}). Its clock must agree with the gateway's. If it was
 * ahead by mistake, delete the key {@code PREFIXclock}.
 */
public final class RedisReplayStore implements ReplayStore {
    /** The prefix of all keys if none is given. The part in braces keeps them in one slot of a cluster. */
    public static final String DEFAULT_PREFIX = "{countersign}:jti:";

    // Redis' own clock decides when an entry is forgotten, and it may be set back. The highest time seen is kept, and
    // assertions that had expired by then are refused: their entries may be gone. An entry lives until its expiry, and no
    // longer, so that the memory is bounded. Its value is random for each call: a client that repeats a command after a
    // lost answer must not take it for a replay.
    private static final String ADMIT =
            """
            local now = tonumber(redis.call('TIME')[1])
            local seen = tonumber(redis.call('GET', KEYS[2]) or '0')
            if now > seen then redis.call('SET', KEYS[2], now) else now = seen end
            local left = tonumber(ARGV[1]) - now
            local holder = redis.call('GET', KEYS[1])
            if holder == ARGV[2] then return 'admitted' end
            if holder then return 'replayed' end
            if left <= 0 then return 'expired' end
            redis.call('SET', KEYS[1], ARGV[2], 'EX', left)
            return 'admitted'
            """;

    private static final System.Logger LOG = System.getLogger("io.github.countersign.verify");
    private static final SecureRandom RANDOM = new SecureRandom();

    private final Scripting redis;
    private final String prefix;

    /** How a client library runs a script: the command {@code EVAL}. */
    @FunctionalInterface
    public interface Scripting {
        /**
         * Runs a script.
         *
         * @param script in Lua
         * @param keys the script's {@code KEYS}
         * @param arguments the script's {@code ARGV}
         * @return its answer, as a text or as bytes
         * @throws Exception if Redis does not answer
         */
        Object eval(String script, List<String> keys, List<String> arguments) throws Exception;
    }

    /**
     * Makes a store with the default prefix.
     *
     * @param redis runs scripts
     */
    public RedisReplayStore(Scripting redis) {
        this(redis, DEFAULT_PREFIX);
    }

    /**
     * Makes a store.
     *
     * @param redis runs scripts
     * @param prefix of all keys
     */
    public RedisReplayStore(Scripting redis, String prefix) {
        this.redis = Objects.requireNonNull(redis);
        this.prefix = Objects.requireNonNull(prefix);
    }

    @Override
    public void admit(String identifier, Instant expiry, Instant now) {
        byte[] nonce = new byte[16];
        RANDOM.nextBytes(nonce);
        String entry = prefix + Octets.hash(identifier.getBytes(StandardCharsets.UTF_8));
        switch (evaluate(
                List.of(entry, prefix + "clock"),
                List.of(Long.toString(expiry.getEpochSecond()), Octets.base64url(nonce)))) {
            case "admitted" -> {}
            case "replayed" -> throw new AssertionRefused(Refusal.REPLAYED);
            case "expired" -> throw new AssertionRefused(Refusal.EXPIRED);
            default -> throw unavailable();
        }
    }

    private String evaluate(List<String> keys, List<String> arguments) {
        try {
            Object answer = redis.eval(ADMIT, keys, arguments);
            return answer instanceof byte[] octets
                    ? new String(octets, StandardCharsets.US_ASCII)
                    : String.valueOf(answer);
        } catch (InterruptedException e) {
            Thread.currentThread().interrupt();
            throw unavailable();
        } catch (Exception e) {
            LOG.log(System.Logger.Level.WARNING, "the store of used assertions cannot be reached: {0}", e.toString());
            throw unavailable();
        }
    }

    private static AssertionRefused unavailable() {
        return new AssertionRefused(
                Refusal.REPLAY_CACHE_FULL, "the store of used assertions cannot be reached");
    }
}
