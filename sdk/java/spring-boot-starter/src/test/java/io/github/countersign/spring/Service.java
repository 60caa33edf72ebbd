package io.github.countersign.spring;

import io.github.countersign.verify.junit5.TestGateway;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublisher;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse;
import java.net.http.HttpResponse.BodyHandlers;
import java.util.ArrayList;
import java.util.List;
import java.util.stream.Stream;
import org.springframework.boot.builder.SpringApplicationBuilder;
import org.springframework.boot.web.servlet.context.ServletWebServerApplicationContext;
import org.springframework.context.ConfigurableApplicationContext;

/** An application in a real server. */
record Service(ConfigurableApplicationContext context, String base) implements AutoCloseable {
    static final TestGateway GATEWAY = new TestGateway("orders");
    private static final HttpClient CLIENT = HttpClient.newHttpClient();

    static Service start(Class<?> application, String... options) {
        List<String> arguments = new ArrayList<>(List.of("--server.port=0", "--spring.main.banner-mode=off"));
        Stream.of(options).map(option -> "--" + option).forEach(arguments::add);
        var context = new SpringApplicationBuilder(application).run(arguments.toArray(String[]::new));
        int port = ((ServletWebServerApplicationContext) context).getWebServer().getPort();
        return new Service(context, "http://localhost:" + port);
    }

    /** Sends a request that the gateway signed for this caller. */
    HttpResponse<String> get(String target, String caller) throws Exception {
        return send("GET", target, assertion("GET", target, caller));
    }

    /** Sends a request with these header fields: names and values in turn. */
    HttpResponse<String> send(String method, String target, String... fields) throws Exception {
        return send(method, target, BodyPublishers.noBody(), fields);
    }

    HttpResponse<String> send(String method, String target, BodyPublisher body, String... fields) throws Exception {
        HttpRequest.Builder request = HttpRequest.newBuilder(URI.create(base + target)).method(method, body);
        if (fields.length > 0) {
            request.headers(fields);
        }
        return CLIENT.send(request.build(), BodyHandlers.ofString());
    }

    String[] assertion(String method, String target, String caller) {
        return GATEWAY.headers(method, base + target, caller).entrySet().stream()
                .flatMap(field -> Stream.of(field.getKey(), field.getValue()))
                .toArray(String[]::new);
    }

    static String[] with(String[] fields, String... more) {
        return Stream.concat(Stream.of(fields), Stream.of(more)).toArray(String[]::new);
    }

    @Override
    public void close() {
        context.close();
    }
}
