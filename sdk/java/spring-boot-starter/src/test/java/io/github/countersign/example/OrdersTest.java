package io.github.countersign.example;

import static org.assertj.core.api.Assertions.assertThat;

import io.github.countersign.verify.junit5.TestGateway;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse.BodyHandlers;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.stream.Stream;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.ValueSource;
import org.springframework.boot.builder.SpringApplicationBuilder;
import org.springframework.boot.web.servlet.context.ServletWebServerApplicationContext;
import org.springframework.context.ConfigurableApplicationContext;
import org.springframework.web.bind.annotation.GetMapping;
import org.springframework.web.bind.annotation.RestController;

/** The example of the README in a real server. */
class OrdersTest {
    private static final String CALLER = "spiffe://example.org/shop";
    private static final TestGateway GATEWAY = new TestGateway("orders");
    private static final HttpClient CLIENT = HttpClient.newHttpClient();

    private static TestGateway.KeyEndpoint keys;
    private static ConfigurableApplicationContext service;
    private static String base;

    @RestController
    static class Health {
        @GetMapping("/healthz")
        String health() {
            return "ok";
        }

        @GetMapping("/needy")
        String needy(io.github.countersign.verify.Caller caller) {
            return caller.sub();
        }
    }

    @BeforeAll
    static void start() {
        keys = GATEWAY.serve();
        service = run(
                "countersign.issuer=" + GATEWAY.issuer(),
                "countersign.audience=orders",
                "countersign.jwks-url=" + keys.url(),
                "countersign.unverified-paths=/healthz,/needy");
        base = "http://localhost:" + ((ServletWebServerApplicationContext) service).getWebServer().getPort();
    }

    @AfterAll
    static void stop() {
        service.close();
        keys.close();
    }

    private static ConfigurableApplicationContext run(String... options) {
        List<String> arguments = new ArrayList<>(List.of("--server.port=0", "--spring.main.banner-mode=off"));
        Stream.of(options).map(option -> "--" + option).forEach(arguments::add);
        return new SpringApplicationBuilder(Orders.class, Health.class).run(arguments.toArray(String[]::new));
    }

    private static java.net.http.HttpResponse<String> get(String target, Map<String, String> headers)
            throws Exception {
        HttpRequest.Builder request = HttpRequest.newBuilder(URI.create(base + target));
        headers.forEach(request::header);
        return CLIENT.send(request.build(), BodyHandlers.ofString());
    }

    @Test
    void theCallerIsAParameter() throws Exception {
        var answer = get("/orders/7?x=1", GATEWAY.headers("GET", base + "/orders/7?x=1", CALLER));
        assertThat(answer.statusCode()).isEqualTo(200);
        assertThat(answer.body()).contains("\"number\":7").contains("\"caller\":\"" + CALLER + "\"");
    }

    @ParameterizedTest
    @ValueSource(strings = {"/orders/7", "/", "/error", "/no-such-path", "/actuator/health"})
    void everythingNeedsAnAssertion(String target) throws Exception {
        var answer = get(target, Map.of());
        assertThat(answer.statusCode()).isEqualTo(401);
        assertThat(answer.body()).contains("\"code\":\"assertion-missing\"");
        assertThat(answer.headers().firstValue("Content-Type")).hasValue("application/problem+json");
    }

    @ParameterizedTest
    @CsvSource({
        "/orders/7, /orders/%37, assertion-path",
        "/orders/7, /orders/7;v=1, assertion-path",
        "/orders/7?x=1, /orders/7?x=%31, assertion-query",
    })
    void targetsAreComparedAsReceived(String signed, String sent, String code) throws Exception {
        var answer = get(sent, GATEWAY.headers("GET", base + signed, CALLER));
        assertThat(answer.body()).contains("\"code\":\"" + code + "\"");
    }

    @Test
    void unverifiedPathsHaveNoCaller() throws Exception {
        assertThat(get("/healthz", Map.of()).body()).isEqualTo("ok");
        // The handler does not run, and never with an anonymous caller.
        assertThat(get("/needy", GATEWAY.headers("GET", base + "/needy", CALLER)).statusCode()).isEqualTo(500);
    }

    @Test
    void errorsOfHandlersKeepTheirStatus() throws Exception {
        assertThat(get("/none", GATEWAY.headers("GET", base + "/none", CALLER)).statusCode()).isEqualTo(404);
    }

    @ParameterizedTest
    @ValueSource(strings = {"issuer", "audience", "jwks-url"})
    void withoutOptionsItDoesNotStart(String absent) {
        List<String> options = new ArrayList<>(List.of(
                "countersign.issuer=" + GATEWAY.issuer(),
                "countersign.audience=orders",
                "countersign.jwks-url=" + keys.url()));
        options.removeIf(option -> option.startsWith("countersign." + absent));
        assertThat(org.assertj.core.api.Assertions.catchThrowable(() -> run(options.toArray(String[]::new))))
                .hasRootCauseInstanceOf(IllegalArgumentException.class);
    }

    @Test
    void theExampleIsShortAndInTheReadme() throws Exception {
        String source = Files.readString(
                Path.of("src", "test", "java", "io", "github", "countersign", "example", "Orders.java"));
        String code = source.substring(source.indexOf("@RestController"));
        assertThat(code.lines().filter(line -> !line.isBlank() && !line.strip().equals("}")).count())
                .isLessThanOrEqualTo(12);
        assertThat(Files.readString(Path.of("..", "README.md"))).contains(code);
    }
}
