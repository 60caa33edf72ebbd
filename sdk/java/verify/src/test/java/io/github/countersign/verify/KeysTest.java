package io.github.countersign.verify;

import static io.github.countersign.verify.Signer.REQUEST;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.io.IOException;
import java.net.InetAddress;
import java.net.ServerSocket;
import java.net.Socket;
import java.net.http.HttpHeaders;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.attribute.FileTime;
import java.security.KeyStore;
import java.security.cert.Certificate;
import java.time.Duration;
import java.time.Instant;
import java.util.ArrayList;
import java.util.Base64;
import java.util.List;
import java.util.Map;
import java.util.concurrent.Callable;
import java.util.concurrent.CompletionService;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.ExecutorCompletionService;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicLong;
import java.util.stream.Stream;
import javax.net.ssl.KeyManagerFactory;
import javax.net.ssl.SSLContext;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.Arguments;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.MethodSource;
import org.junit.jupiter.params.provider.ValueSource;

/** Fetching and caching keys: hostile servers, floods, rotation and clocks. */
@Timeout(30)
class KeysTest {
    private static final long START = 1_770_000_000;
    private static final Duration SHORT = Duration.ofMillis(400);

    private final Signer gateway = Signer.generate();
    private final AtomicLong now = new AtomicLong(START);
    private KeyEndpoint endpoint;

    @BeforeEach
    void start() throws IOException {
        endpoint = new KeyEndpoint().serves(Signer.keySet(gateway));
    }

    @AfterEach
    void stop() {
        endpoint.close();
    }

    private AssertionVerifier.Builder options() {
        return AssertionVerifier.builder(Signer.ISSUER, "orders").clock(() -> Instant.ofEpochSecond(now.get()));
    }

    private AssertionVerifier verifier() {
        return options().jwksUrl(endpoint.url()).build();
    }

    private RemoteKeys keys(String url) {
        return new RemoteKeys(new KeyServer(url, null, SHORT), now::get);
    }

    private void verify(AssertionVerifier verifier) {
        verifier.verify(gateway.token(now.get()), REQUEST);
    }

    private String code(AssertionVerifier verifier, String token) {
        return assertThrows(AssertionRefused.class, () -> verifier.verify(token, REQUEST)).code();
    }

    private String codeOfUnknownKey(AssertionVerifier verifier) {
        return code(verifier, gateway.token(now.get(), "stranger"));
    }

    @Test
    void keysAreFetchedWhenFirstNeededAndKept() {
        endpoint.headers = Map.of("Cache-Control", "public, max-age=600");
        AssertionVerifier verifier = verifier();
        assertEquals(0, endpoint.requests.size());
        verify(verifier);
        now.addAndGet(599);
        verify(verifier);
        assertEquals(1, endpoint.requests.size());
        now.addAndGet(1);
        verify(verifier);
        assertEquals(2, endpoint.requests.size());
    }

    @ParameterizedTest
    @CsvSource(
            delimiter = '|',
            value = {
                "x | 0 | 300",
                "max-age=1 | 0 | 60",
                "max-age=1000000 | 0 | 86400",
                "no-store, max-age=600 | 0 | 60",
                "no-cache | 0 | 60",
                "max-age=600 | 100 | 500",
                "max-age=600 | -1 | 600",
                "max-age=x | 0 | 300",
                "max-age=99999999999999999999 | 0 | 300",
            })
    void theServerSaysHowLongKeysAreFresh(String control, String age, long seconds) {
        HttpHeaders headers =
                HttpHeaders.of(Map.of("Cache-Control", List.of(control), "Age", List.of(age)), (name, value) -> true);
        assertEquals(seconds, KeyServer.freshness(headers));
    }

    @Test
    void anUnknownKeyIsAskedForOnce() {
        AssertionVerifier verifier = verifier();
        verify(verifier);
        now.addAndGet(RemoteKeys.MINIMUM_INTERVAL);
        for (int i = 0; i < 3; i++) {
            assertEquals("assertion-unknown-key", codeOfUnknownKey(verifier));
        }
        assertEquals(2, endpoint.requests.size());
        now.addAndGet(RemoteKeys.UNKNOWN_KEY_SECONDS - 1);
        assertEquals("assertion-unknown-key", codeOfUnknownKey(verifier));
        assertEquals(2, endpoint.requests.size());
    }

    @Test
    void aFloodOfUnknownKeysCausesFewFetches() throws KeysUnavailable {
        RemoteKeys keys = keys(endpoint.url());
        keys.fetchNow();
        int seconds = 20;
        for (int second = 0; second < seconds; second++) {
            // 10,000 in each second of the verifier's clock.
            for (int i = 0; i < 10_000; i++) {
                keys.forKey(second + " " + i);
            }
            now.addAndGet(1);
        }
        assertTrue(endpoint.requests.size() > 1);
        assertTrue(endpoint.requests.size() <= 1 + seconds / RemoteKeys.MINIMUM_INTERVAL);
        assertTrue(keys.forKey(gateway.key().getKeyID()).has(gateway.key().getKeyID()));
    }

    @Test
    void keysRotate() {
        AssertionVerifier verifier = verifier();
        String old = gateway.token(now.get());
        verifier.verify(old, REQUEST);
        // The next key is published before it is used.
        Signer next = Signer.generate();
        endpoint.serves(Signer.keySet(gateway, next));
        now.addAndGet(RemoteKeys.MINIMUM_INTERVAL);
        verifier.verify(next.token(now.get()), REQUEST);
        verifier.verify(old, REQUEST);
        assertEquals(2, endpoint.requests.size());
        // A key that a fresh set does not contain is not used any more.
        Signer last = Signer.generate();
        endpoint.serves(Signer.keySet(last));
        now.addAndGet(RemoteKeys.MINIMUM_INTERVAL);
        verifier.verify(last.token(now.get()), REQUEST);
        assertEquals("assertion-unknown-key", code(verifier, old));
    }

    @Test
    void aFloodDoesNotKeepANewKeyOut() {
        AssertionVerifier verifier = verifier();
        verify(verifier);
        now.addAndGet(RemoteKeys.MINIMUM_INTERVAL);
        assertEquals("assertion-unknown-key", codeOfUnknownKey(verifier));
        Signer next = Signer.generate();
        endpoint.serves(Signer.keySet(next));
        assertEquals("assertion-unknown-key", code(verifier, next.token(now.get())));
        now.addAndGet(RemoteKeys.MINIMUM_INTERVAL);
        verifier.verify(next.token(now.get()), REQUEST);
    }

    private static <T> List<Future<T>> inThreads(int count, Callable<T> call) throws InterruptedException {
        ExecutorService threads = Executors.newFixedThreadPool(count);
        List<Callable<T>> calls = new ArrayList<>();
        for (int i = 0; i < count; i++) {
            calls.add(call);
        }
        List<Future<T>> results = threads.invokeAll(calls);
        threads.shutdown();
        return results;
    }

    @Test
    void aBurstAtTheStartIsOneFetch() throws Exception {
        endpoint.gate = new CountDownLatch(1);
        AssertionVerifier verifier = verifier();
        Thread opener = new Thread(() -> {
            endpoint.arrived.acquireUninterruptibly();
            endpoint.gate.countDown();
        });
        opener.start();
        for (var result : inThreads(30, () -> verifier.verify(gateway.token(START), REQUEST))) {
            assertEquals("dns:shop.example", result.get().sub());
        }
        assertEquals(1, endpoint.requests.size());
    }

    @Test
    void waitingCallsShareAFailure() throws Exception {
        endpoint.gate = new CountDownLatch(1);
        RemoteKeys keys = keys(endpoint.url());
        var results = inThreads(30, () -> assertThrows(KeysUnavailable.class, () -> keys.forKey("a")).getMessage());
        for (var result : results) {
            assertEquals("the key server did not answer in time", result.get());
        }
        assertEquals(1, endpoint.requests.size());
    }

    @Test
    void aLimitedNumberOfCallsWaits() throws Exception {
        endpoint.gate = new CountDownLatch(1);
        RemoteKeys keys = new RemoteKeys(new KeyServer(endpoint.url(), null), now::get);
        ExecutorService threads = Executors.newCachedThreadPool();
        try {
            CompletionService<String> calls = new ExecutorCompletionService<>(threads);
            int surplus = 3;
            // One call fetches, and is not counted.
            for (int i = 0; i < 1 + RemoteKeys.MAX_WAITING + surplus; i++) {
                calls.submit(() -> {
                    try {
                        keys.forKey(gateway.key().getKeyID());
                        return "found";
                    } catch (KeysUnavailable e) {
                        return e.getMessage();
                    }
                });
            }
            // Only the surplus ends before the server answers.
            for (int i = 0; i < surplus; i++) {
                assertEquals("too many calls wait for the key server already", calls.take().get());
            }
            endpoint.gate.countDown();
            for (int i = 0; i < 1 + RemoteKeys.MAX_WAITING; i++) {
                assertEquals("found", calls.take().get());
            }
        } finally {
            threads.shutdownNow();
        }
    }

    static Stream<Arguments> uselessAnswers() {
        return Stream.of(
                Arguments.of(301, "Location", "/other", ""),
                Arguments.of(302, "Location", "http://127.0.0.1:1/", ""),
                Arguments.of(304, "X", "x", ""),
                Arguments.of(204, "X", "x", ""),
                Arguments.of(401, "WWW-Authenticate", "Basic realm=x", "{}"),
                Arguments.of(404, "X", "x", ""),
                Arguments.of(500, "X", "x", "{}"),
                Arguments.of(200, "X", "x", ""),
                Arguments.of(200, "Content-Type", "text/html", "<html><body>Sign in</body></html>"),
                Arguments.of(200, "X", "x", "[]"),
                Arguments.of(200, "X", "x", "{\"keys\":{}}"),
                Arguments.of(200, "X", "x", "{\"keys\":[1]}"),
                Arguments.of(200, "X", "x", "{\"keys\":[],\"keys\":[]}"),
                Arguments.of(200, "X", "x", " ".repeat(10 * 1024 * 1024)));
    }

    @ParameterizedTest
    @MethodSource("uselessAnswers")
    void uselessAnswersDoNotReplaceKeys(int status, String header, String value, String body) throws Exception {
        AssertionVerifier fresh = verifier();
        fresh.fetchKeys();
        endpoint.status = status;
        endpoint.headers = Map.of(header, value);
        endpoint.serves(body);
        now.addAndGet(1000);
        verify(fresh);
        AssertionVerifier without = verifier();
        assertEquals("assertion-keys-unavailable", code(without, gateway.token(now.get())));
        assertThrows(KeysUnavailable.class, without::fetchKeys);
        assertTrue(endpoint.requests.stream().allMatch("/keys"::equals), endpoint.requests.toString());
    }

    @Test
    void anotherIssuersKeysVerifyNothing() {
        endpoint.serves(Signer.keySet(Signer.generate()));
        assertEquals("assertion-unknown-key", code(verifier(), gateway.token(START)));
    }

    @ParameterizedTest
    @ValueSource(strings = {"HTTP/1.1 200 OK\r\nX: ", "HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n"})
    void aServerThatTricklesCostsBoundedTime(String begin) throws Exception {
        CountDownLatch end = new CountDownLatch(1);
        try (ServerSocket listener = new ServerSocket(0, 1, InetAddress.getLoopbackAddress())) {
            Thread trickle = new Thread(() -> {
                try (Socket socket = listener.accept()) {
                    socket.getOutputStream().write(begin.getBytes(StandardCharsets.US_ASCII));
                    while (!end.await(50, TimeUnit.MILLISECONDS)) {
                        socket.getOutputStream().write(' ');
                    }
                } catch (IOException | InterruptedException e) {
                    end.countDown();
                }
            });
            trickle.start();
            RemoteKeys keys = keys("http://127.0.0.1:" + listener.getLocalPort() + "/");
            long started = System.nanoTime();
            KeysUnavailable problem = assertThrows(KeysUnavailable.class, keys::fetchNow);
            assertEquals("the key server did not answer in time", problem.getMessage());
            assertTrue(System.nanoTime() - started < TimeUnit.SECONDS.toNanos(4));
            // The connection was closed.
            assertTrue(end.await(10, TimeUnit.SECONDS));
            trickle.join();
        }
    }

    @Test
    void aCallWaitsForFiveSecondsAtMost() {
        assertTrue(KeyServer.FETCH_TIMEOUT.toMillis() < RemoteKeys.WAIT_MILLIS);
        assertEquals(5000, RemoteKeys.WAIT_MILLIS);
    }

    @Test
    void nobodyListens() {
        endpoint.close();
        KeysUnavailable problem = assertThrows(KeysUnavailable.class, keys(endpoint.url())::fetchNow);
        assertEquals("the key server cannot be reached", problem.getMessage());
    }

    @Test
    void theLastGoodKeysServeForADay() {
        AssertionVerifier verifier = verifier();
        verify(verifier);
        endpoint.status = 500;
        now.addAndGet(RemoteKeys.LAST_GOOD_SECONDS - 1);
        verify(verifier);
        // An unknown key may be newer than these keys.
        assertEquals("assertion-keys-unavailable", codeOfUnknownKey(verifier));
        now.addAndGet(1);
        assertEquals("assertion-keys-unavailable", code(verifier, gateway.token(now.get())));
    }

    @Test
    void unchangedKeysAreConfirmed() {
        endpoint.headers = Map.of("ETag", "\"1\"", "Cache-Control", "max-age=600");
        AssertionVerifier verifier = verifier();
        verify(verifier);
        for (int i = 0; i < 3; i++) {
            now.addAndGet(RemoteKeys.LAST_GOOD_SECONDS - 1);
            verify(verifier);
            endpoint.serves("would be useless");
        }
        assertEquals(4, endpoint.requests.size());
    }

    @Test
    void keysAgeAfterTheClockIsSetBack() {
        AssertionVerifier verifier = verifier();
        now.addAndGet(1_000_000);
        verify(verifier);
        now.addAndGet(-1_000_000);
        verify(verifier);
        now.addAndGet(301);
        verify(verifier);
        assertEquals(2, endpoint.requests.size());
    }

    @Test
    void keysBehindAPrivateAuthority(@TempDir Path directory) throws Exception {
        KeyStore store = selfSigned(directory, "localhost");
        Path root = rootFile(directory, store);
        try (KeyEndpoint tls = new KeyEndpoint(context(store)).serves(Signer.keySet(gateway))) {
            String url = "https://localhost:" + tls.port() + "/keys";
            verify(options().jwksUrl(url).caFile(root).build());
            AssertionVerifier withoutRoot = options().jwksUrl(url).build();
            assertThrows(KeysUnavailable.class, withoutRoot::fetchKeys);
        }
        for (String damage : List.of("", " ", "-----BEGIN CERTIFICATE-----\nMIIx\n-----END CERTIFICATE-----\n")) {
            Path file = Files.writeString(directory.resolve("damaged.pem"), Files.readString(root).repeat(1) + damage);
            if (damage.isBlank()) {
                options().jwksUrl("https://localhost/").caFile(file).build();
            } else {
                assertThrows(
                        IllegalArgumentException.class,
                        () -> options().jwksUrl("https://localhost/").caFile(file).build());
            }
        }
        Path indented = Files.writeString(directory.resolve("indented.pem"), " " + Files.readString(root));
        assertThrows(
                IllegalArgumentException.class,
                () -> options().jwksUrl("https://localhost/").caFile(indented).build());
    }

    @Test
    void theCertificateMustHaveTheServersName(@TempDir Path directory) throws Exception {
        KeyStore store = selfSigned(directory, "gateway.example.org");
        try (KeyEndpoint tls = new KeyEndpoint(context(store)).serves(Signer.keySet(gateway))) {
            AssertionVerifier verifier = options()
                    .jwksUrl("https://localhost:" + tls.port() + "/keys")
                    .caFile(rootFile(directory, store))
                    .build();
            assertThrows(KeysUnavailable.class, verifier::fetchKeys);
        }
    }

    /** The Java platform makes certificates only with its tool. */
    private static KeyStore selfSigned(Path directory, String name) throws Exception {
        Path file = directory.resolve(name + ".p12");
        Path tool = Path.of(System.getProperty("java.home"), "bin", "keytool");
        Process process = new ProcessBuilder(
                        tool.toString(), "-genkeypair", "-keystore", file.toString(), "-storepass", "for a test",
                        "-storetype", "PKCS12", "-keyalg", "EC", "-dname", "CN=" + name, "-ext", "san=dns:" + name)
                .redirectErrorStream(true)
                .start();
        String output = new String(process.getInputStream().readAllBytes(), StandardCharsets.UTF_8);
        assertEquals(0, process.waitFor(), output);
        return KeyStore.getInstance(file.toFile(), "for a test".toCharArray());
    }

    private static SSLContext context(KeyStore store) throws Exception {
        KeyManagerFactory keys = KeyManagerFactory.getInstance("PKIX");
        keys.init(store, "for a test".toCharArray());
        SSLContext context = SSLContext.getInstance("TLS");
        context.init(keys.getKeyManagers(), null, null);
        return context;
    }

    private static Path rootFile(Path directory, KeyStore store) throws Exception {
        Certificate certificate = store.getCertificate("mykey");
        String text = "-----BEGIN CERTIFICATE-----\n"
                + Base64.getMimeEncoder().encodeToString(certificate.getEncoded()) + "\n-----END CERTIFICATE-----\n";
        return Files.writeString(directory.resolve("root.pem"), text);
    }

    @Test
    void aFileOfKeysIsReadAgain(@TempDir Path directory) throws Exception {
        Path file = Files.writeString(directory.resolve("keys.json"), Signer.keySet(gateway));
        AssertionVerifier verifier = options().jwksFile(file).build();
        verify(verifier);
        Signer next = Signer.generate();
        Files.writeString(file, Signer.keySet(next));
        Files.setLastModifiedTime(file, FileTime.from(Instant.now().plusSeconds(10)));
        verifier.fetchKeys();
        verifier.verify(next.token(START), REQUEST);
        assertEquals("assertion-unknown-key", code(verifier, gateway.token(START)));
        // The last good keys stay for a day.
        Files.writeString(file, "useless");
        assertThrows(KeysUnavailable.class, verifier::fetchKeys);
        verifier.verify(next.token(START), REQUEST);
        now.addAndGet(RemoteKeys.LAST_GOOD_SECONDS);
        assertEquals("assertion-keys-unavailable", code(verifier, next.token(now.get())));
    }

    @ParameterizedTest
    @ValueSource(strings = {"", "useless", "{\"keys\":[]}"})
    void aFileWithoutKeys(String content, @TempDir Path directory) throws Exception {
        Path file = Files.writeString(directory.resolve("keys.json"), content);
        assertThrows(IllegalArgumentException.class, () -> options().jwksFile(file).build());
        assertThrows(IllegalArgumentException.class, () -> options().jwksJson(content).build());
    }

    @ParameterizedTest
    @ValueSource(
            strings = {
                "http://gateway.example.org/", "http://127.0.0.1.example.org/", "http://localhost.example.org/",
                "http://0177.0.0.1/", "http://[::2]/", "https://user@gateway.example.org/", "https://a/#b", "file:///keys",
                "ftp://localhost/", "/keys", "https:///keys", "HTTP://example.org/", "http://127.0.0.256/",
            })
    void keysAreNotFetchedFrom(String url) {
        assertThrows(IllegalArgumentException.class, () -> options().jwksUrl(url).build());
    }

    @Test
    void keysMayBeFetchedFromLoopbackAddresses() {
        for (String url : List.of("http://localhost:1/", "http://127.1.2.3/k", "http://[::1]:8/k", "https://a.example/k?x")) {
            assertFalse(KeyServer.checkedUrl(url).toString().isEmpty());
        }
    }
}
