package io.github.countersign.verify;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;

import java.io.IOException;
import java.net.InetAddress;
import java.net.ServerSocket;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.time.Instant;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.Callable;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.api.io.TempDir;
import redis.clients.jedis.DefaultJedisClientConfig;
import redis.clients.jedis.HostAndPort;
import redis.clients.jedis.Jedis;
import redis.clients.jedis.JedisPooled;

@Timeout(30)
class ReplayStoreTest {
    private static final Instant NOW = Instant.ofEpochSecond(1_770_000_000);

    private static final Pattern PORT = Pattern.compile("[Pp]ort[=:] ?([0-9]+)");

    private static String code(ReplayStore store, String identifier, Instant expiry, Instant now) {
        return assertThrows(AssertionRefused.class, () -> store.admit(identifier, expiry, now)).code();
    }

    /** Returns how many of many threads were admitted with the same identifier. */
    private static int admitted(ReplayStore store, Instant now) throws Exception {
        ExecutorService threads = Executors.newFixedThreadPool(16);
        try {
            List<Callable<Integer>> calls = new ArrayList<>();
            for (int i = 0; i < 64; i++) {
                calls.add(() -> {
                    try {
                        store.admit("one", now.plusSeconds(40), now);
                        return 1;
                    } catch (AssertionRefused e) {
                        assertEquals("assertion-replayed", e.code());
                        return 0;
                    }
                });
            }
            int sum = 0;
            for (var result : threads.invokeAll(calls)) {
                sum += result.get();
            }
            return sum;
        } finally {
            threads.shutdownNow();
        }
    }

    @Test
    void onlyOneOfManyThreadsIsAdmitted() throws Exception {
        assertEquals(1, admitted(new InProcessReplayStore(), NOW));
    }

    @Test
    void aFullStoreRefuses() {
        ReplayStore store = new InProcessReplayStore(2);
        store.admit("a", NOW.plusSeconds(10), NOW);
        store.admit("b", NOW.plusSeconds(20), NOW);
        assertEquals("assertion-replay-cache-full", code(store, "c", NOW.plusSeconds(30), NOW));
        assertEquals("assertion-replayed", code(store, "a", NOW.plusSeconds(10), NOW));
        store.admit("c", NOW.plusSeconds(30), NOW.plusSeconds(10));
        assertThrows(IllegalArgumentException.class, () -> new InProcessReplayStore(0));
    }

    @Test
    void theClockMayBeSetBack() {
        ReplayStore store = new InProcessReplayStore();
        store.admit("a", NOW.plusSeconds(10), NOW);
        store.admit("b", NOW.plusSeconds(30), NOW.plusSeconds(15));
        // The entry is gone, and must not be valid again.
        assertEquals("assertion-expired", code(store, "a", NOW.plusSeconds(10), NOW));
        store.admit("c", NOW.plusSeconds(11), NOW);
    }

    @Test
    void redisAdmitsOnce(@TempDir Path directory) throws Exception {
        Process redis = redis(directory);
        if (redis == null) {
            Tools.lacking("redis-server");
            return;
        }
        try (JedisPooled jedis = new JedisPooled("127.0.0.1", port(redis))) {
            ReplayStore store = new RedisReplayStore(jedis::eval);
            Instant now = Instant.now();
            assertEquals(1, admitted(store, now));
            store.admit("two", now.plusSeconds(40), now);
            assertEquals("assertion-expired", code(store, "three", now.minusSeconds(1), now));
            // A second instance of the service.
            assertEquals("assertion-replayed", code(new RedisReplayStore(jedis::eval), "two", now.plusSeconds(40), now));
            // If the clock of Redis was ahead, the highest time that it showed counts.
            jedis.set(RedisReplayStore.DEFAULT_PREFIX + "clock", Long.toString(now.getEpochSecond() + 100));
            assertEquals("assertion-expired", code(store, "four", now.plusSeconds(40), now));
            jedis.flushAll();
            RedisReplayStore.Scripting repeating = (script, keys, arguments) -> {
                jedis.eval(script, keys, arguments);
                return ((String) jedis.eval(script, keys, arguments)).getBytes(StandardCharsets.US_ASCII);
            };
            new RedisReplayStore(repeating).admit("five", now.plusSeconds(40), now);
        } finally {
            redis.destroy();
            redis.waitFor();
        }
    }

    @Test
    void withoutRedisAssertionsAreRefused() throws IOException {
        int port = freePort();
        var options = DefaultJedisClientConfig.builder().timeoutMillis(500).build();
        ReplayStore store = new RedisReplayStore((script, keys, arguments) -> {
            try (Jedis jedis = new Jedis(new HostAndPort("127.0.0.1", port), options)) {
                return jedis.eval(script, keys, arguments);
            }
        });
        AssertionRefused refused =
                assertThrows(AssertionRefused.class, () -> store.admit("a", NOW.plusSeconds(40), NOW));
        assertEquals("assertion-replay-cache-full", refused.code());
        assertEquals(503, refused.status());
        ReplayStore strange = new RedisReplayStore((script, keys, arguments) -> null);
        assertEquals("assertion-replay-cache-full", code(strange, "a", NOW.plusSeconds(40), NOW));
    }

    private static int freePort() throws IOException {
        try (ServerSocket free = new ServerSocket(0, 1, InetAddress.getLoopbackAddress())) {
            return free.getLocalPort();
        }
    }

    /** Starts Redis, or returns null if there is none. */
    private static Process redis(Path directory) {
        try {
            String port = Integer.toString(freePort());
            return new ProcessBuilder(
                            "redis-server", "--bind", "127.0.0.1", "--port", port, "--save", "", "--dir", directory.toString())
                    .redirectErrorStream(true)
                    .start();
        } catch (IOException e) {
            return null;
        }
    }

    /** Waits until Redis is ready. It says so, and its port. */
    private static int port(Process redis) throws IOException {
        var lines = redis.inputReader(StandardCharsets.UTF_8);
        int port = 0;
        for (String line = lines.readLine(); line != null; line = lines.readLine()) {
            Matcher found = PORT.matcher(line);
            if (found.find()) {
                port = Integer.parseInt(found.group(1));
            }
            if (line.contains("eady to accept connections")) {
                return port;
            }
        }
        throw new IOException("Redis did not start");
    }
}
