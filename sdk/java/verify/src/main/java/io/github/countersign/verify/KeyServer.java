package io.github.countersign.verify;

import java.io.ByteArrayInputStream;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.net.URI;
import java.net.URISyntaxException;
import java.net.http.HttpClient;
import java.net.http.HttpHeaders;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.net.http.HttpResponse.BodySubscriber;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.GeneralSecurityException;
import java.security.KeyStore;
import java.security.cert.Certificate;
import java.security.cert.CertificateFactory;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Base64;
import java.util.List;
import java.util.Locale;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CompletionStage;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.Flow;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.TimeoutException;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import javax.net.ssl.SSLContext;
import javax.net.ssl.SSLParameters;
import javax.net.ssl.TrustManagerFactory;

/**
 * The one address from which keys are fetched: with limits on time and size, with verified TLS, and without redirects,
 * proxies and credentials.
 */
final class KeyServer {
    /** For one request, to the last byte. A little less than requests wait, so that they get the reason. */
    static final Duration FETCH_TIMEOUT = Duration.ofMillis(4800);

    private static final Duration CONNECT_TIMEOUT = Duration.ofSeconds(2);

    /** How many seconds a response is fresh if it does not say so, and the range that it may set. */
    private static final long DEFAULT_FRESHNESS = 300;

    private static final long MIN_FRESHNESS = 60;
    private static final long MAX_FRESHNESS = 24 * 60 * 60;

    private static final Pattern LOOPBACK =
            Pattern.compile("localhost|\\[::1]|127(\\.(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])){3}");
    private static final Pattern SECONDS = Pattern.compile("[0-9]{1,18}");
    private static final Pattern CERTIFICATE = Pattern.compile(
            "^-----BEGIN CERTIFICATE-----\\r?\\n([A-Za-z0-9+/=\\s]+)^-----END CERTIFICATE-----\\r?$",
            Pattern.MULTILINE);

    private final URI url;
    private final HttpClient client;
    private final Duration timeout;

    /** A successful response. {@code body} is null if the cached keys are still current. */
    record Response(byte[] body, String entityTag, long freshFor) {}

    KeyServer(String url, Path caFile) {
        this(url, caFile, FETCH_TIMEOUT);
    }

    KeyServer(String url, Path caFile, Duration timeout) {
        this.url = checkedUrl(url);
        this.timeout = timeout;
        HttpClient.Builder options = HttpClient.newBuilder()
                .version(HttpClient.Version.HTTP_1_1)
                .followRedirects(HttpClient.Redirect.NEVER)
                .proxy(HttpClient.Builder.NO_PROXY)
                .connectTimeout(CONNECT_TIMEOUT);
        SSLParameters tls = new SSLParameters();
        tls.setProtocols(new String[] {"TLSv1.3", "TLSv1.2"});
        options.sslParameters(tls);
        // Plain http needs no roots, but a wrong file is an error in any case.
        if (caFile != null) {
            options.sslContext(trusting(caFile));
        }
        this.client = options.build();
    }

    URI url() {
        return url;
    }

    /** Makes one request. */
    Response get(String entityTag) throws KeysUnavailable {
        HttpRequest.Builder request = HttpRequest.newBuilder(url)
                .GET()
                .setHeader("Accept", "application/jwk-set+json, application/json");
        if (entityTag != null) {
            request.setHeader("If-None-Match", entityTag);
        }
        CompletableFuture<HttpResponse<byte[]>> pending =
                client.sendAsync(request.build(), info -> info.statusCode() == 200 ? new Limited() : new Ignored());
        HttpResponse<byte[]> response;
        try {
            // The request's own timeout ends with the header.
            response = pending.get(timeout.toMillis(), TimeUnit.MILLISECONDS);
        } catch (TimeoutException e) {
            // This also closes the connection.
            pending.cancel(true);
            throw new KeysUnavailable("the key server did not answer in time");
        } catch (InterruptedException e) {
            pending.cancel(true);
            Thread.currentThread().interrupt();
            throw new KeysUnavailable("the key server cannot be reached");
        } catch (ExecutionException e) {
            throw e.getCause() instanceof TooLong
                    ? new KeysUnavailable("the answer is longer than 1 MiB")
                    : new KeysUnavailable("the key server cannot be reached");
        }
        long freshFor = freshness(response.headers());
        if (response.statusCode() == 304 && entityTag != null) {
            return new Response(null, entityTag, freshFor);
        }
        // Redirects are errors too, because keys come only from the configured address.
        if (response.statusCode() != 200) {
            throw new KeysUnavailable("the key server answered with status " + response.statusCode());
        }
        return new Response(response.body(), entityTag(response.headers()), freshFor);
    }

    /** Checks that a URL is {@code https}, or {@code http} to a loopback host, without user and fragment. */
    static URI checkedUrl(String text) {
        URI url;
        try {
            url = new URI(text);
        } catch (URISyntaxException e) {
            throw unsafe();
        }
        if (url.getHost() == null || url.getRawUserInfo() != null || url.getRawFragment() != null) {
            throw unsafe();
        }
        boolean isSafe = "https".equals(url.getScheme())
                || "http".equals(url.getScheme()) && LOOPBACK.matcher(url.getHost()).matches();
        if (!isSafe || !text.chars().allMatch(c -> c > 0x20 && c < 0x7f)) {
            throw unsafe();
        }
        return url;
    }

    private static IllegalArgumentException unsafe() {
        return new IllegalArgumentException(
                "keys are fetched over https, or over http from a loopback address only");
    }

    /** Returns the freshness of a response for a private cache (RFC 9111 section 4.2.1). */
    static long freshness(HttpHeaders headers) {
        long seconds = -1;
        for (String value : headers.allValues("Cache-Control")) {
            for (String part : value.split(",")) {
                String directive = part.strip().toLowerCase(Locale.ROOT);
                if (directive.equals("no-store") || directive.startsWith("no-cache")) {
                    return MIN_FRESHNESS;
                }
                if (directive.startsWith("max-age=")) {
                    seconds = seconds(directive.substring("max-age=".length()).replace("\"", ""));
                }
            }
        }
        long age = Math.max(0, seconds(headers.firstValue("Age").orElse("")));
        long freshFor = (seconds < 0 ? DEFAULT_FRESHNESS : seconds) - age;
        return Math.max(MIN_FRESHNESS, Math.min(freshFor, MAX_FRESHNESS));
    }

    private static long seconds(String text) {
        return SECONDS.matcher(text).matches() ? Long.parseLong(text) : -1;
    }

    private static String entityTag(HttpHeaders headers) {
        // It is sent back, so it must be a plain field value.
        return headers.firstValue("ETag")
                .filter(tag -> tag.chars().allMatch(c -> c >= 0x20 && c < 0x7f))
                .orElse(null);
    }

    private static SSLContext trusting(Path caFile) {
        List<Certificate> roots = certificates(caFile);
        try {
            KeyStore store = KeyStore.getInstance(KeyStore.getDefaultType());
            store.load(null, null);
            for (int i = 0; i < roots.size(); i++) {
                store.setCertificateEntry("root " + i, roots.get(i));
            }
            TrustManagerFactory trust = TrustManagerFactory.getInstance("PKIX");
            trust.init(store);
            SSLContext context = SSLContext.getInstance("TLS");
            context.init(null, trust.getTrustManagers(), null);
            return context;
        } catch (GeneralSecurityException | IOException e) {
            throw new IllegalArgumentException("caFile cannot be used: " + e.getMessage());
        }
    }

    private static List<Certificate> certificates(Path caFile) {
        String text;
        try {
            text = new String(Files.readAllBytes(caFile), StandardCharsets.ISO_8859_1);
        } catch (IOException e) {
            throw new IllegalArgumentException("caFile cannot be read: " + e);
        }
        // Some editors write a byte order mark at the start of a file.
        text = text.startsWith("\u00ef\u00bb\u00bf") ? text.substring(3) : text;
        List<Certificate> found = new ArrayList<>();
        Matcher blocks = CERTIFICATE.matcher(text);
        try {
            CertificateFactory factory = CertificateFactory.getInstance("X.509");
            while (blocks.find()) {
                byte[] der = Base64.getMimeDecoder().decode(blocks.group(1));
                found.add(factory.generateCertificate(new ByteArrayInputStream(der)));
            }
        } catch (GeneralSecurityException | IllegalArgumentException e) {
            throw new IllegalArgumentException("caFile has a certificate that cannot be read");
        }
        // A missing root would only be noticed as a failed fetch.
        int begun = text.split("-BEGIN ", -1).length - 1;
        if (begun == 0 || found.size() != begun) {
            throw new IllegalArgumentException("caFile: of " + begun + " PEM blocks " + found.size()
                    + " can be read as certificates; each has to begin its line with -----BEGIN CERTIFICATE-----");
        }
        return found;
    }

    private static final class TooLong extends IOException {
        private static final long serialVersionUID = 1L;
    }

    /** Collects a body of at most 1 MiB. */
    private static final class Limited implements BodySubscriber<byte[]> {
        private final CompletableFuture<byte[]> body = new CompletableFuture<>();
        private final ByteArrayOutputStream collected = new ByteArrayOutputStream();
        private Flow.Subscription subscription;

        @Override
        public CompletionStage<byte[]> getBody() {
            return body;
        }

        @Override
        public void onSubscribe(Flow.Subscription subscription) {
            this.subscription = subscription;
            subscription.request(Long.MAX_VALUE);
        }

        @Override
        public void onNext(List<ByteBuffer> items) {
            for (ByteBuffer item : items) {
                if (collected.size() + item.remaining() > KeySet.MAX_BYTES) {
                    subscription.cancel();
                    body.completeExceptionally(new TooLong());
                    return;
                }
                byte[] octets = new byte[item.remaining()];
                item.get(octets);
                collected.write(octets, 0, octets.length);
            }
        }

        @Override
        public void onError(Throwable problem) {
            body.completeExceptionally(problem);
        }

        @Override
        public void onComplete() {
            body.complete(collected.toByteArray());
        }
    }

    /** Reads no body. */
    private static final class Ignored implements BodySubscriber<byte[]> {
        @Override
        public CompletionStage<byte[]> getBody() {
            return CompletableFuture.completedFuture(new byte[0]);
        }

        @Override
        public void onSubscribe(Flow.Subscription subscription) {
            subscription.cancel();
        }

        @Override
        public void onNext(List<ByteBuffer> items) {}

        @Override
        public void onError(Throwable problem) {}

        @Override
        public void onComplete() {}
    }
}
