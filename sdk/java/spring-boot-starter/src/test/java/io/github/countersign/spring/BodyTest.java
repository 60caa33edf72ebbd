package io.github.countersign.spring;

import static org.assertj.core.api.Assertions.assertThat;

import io.github.countersign.verify.AssertionVerifier;
import jakarta.servlet.Filter;
import jakarta.servlet.http.HttpServletRequest;
import java.io.ByteArrayInputStream;
import java.net.http.HttpRequest.BodyPublisher;
import java.net.http.HttpRequest.BodyPublishers;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import org.junit.jupiter.api.Test;
import org.springframework.boot.SpringBootConfiguration;
import org.springframework.boot.autoconfigure.EnableAutoConfiguration;
import org.springframework.boot.web.servlet.FilterRegistrationBean;
import org.springframework.context.annotation.Bean;
import org.springframework.context.annotation.Configuration;
import org.springframework.web.bind.annotation.RequestMapping;
import org.springframework.web.bind.annotation.RequestParam;
import org.springframework.web.bind.annotation.RestController;
import org.springframework.web.multipart.MultipartFile;

/** With body binding, handlers see no other body than the verified one. */
class BodyTest {
    private static final String CALLER = "spiffe://example.org/shop";
    /** What a parser of multipart bodies may leave unread. */
    private static final String EPILOGUE = "x".repeat(100_000);

    private static final Map<String, String> FORMS = Map.of(
            "application/x-www-form-urlencoded", "amount=7&file=7",
            "multipart/form-data; boundary=b",
                    "--b\r\nContent-Disposition: form-data; name=\"amount\"\r\n\r\n7\r\n"
                            + "--b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"f\"\r\n\r\n7\r\n--b--\r\n" + EPILOGUE);

    @RestController
    static class Handlers {
        @RequestMapping("/parameter")
        String parameter(@RequestParam String amount) {
            return "seen " + amount;
        }

        @RequestMapping("/file")
        String file(MultipartFile file) throws Exception {
            return "seen " + new String(file.getBytes(), StandardCharsets.UTF_8);
        }

        @RequestMapping("/raw")
        String raw(HttpServletRequest request) {
            return "seen " + request.getParameter("amount");
        }
    }

    @SpringBootConfiguration
    @EnableAutoConfiguration
    static class Application {
        @Bean
        AssertionVerifier verifier() {
            return Service.GATEWAY
                    .verifierOptions()
                    .jwksJson(Service.GATEWAY.keySet())
                    .requireBodyBinding()
                    .build();
        }

        @Bean
        Handlers handlers() {
            return new Handlers();
        }
    }

    @Configuration(proxyBeanMethods = false)
    static class Earlier extends Application {
        @Bean
        FilterRegistrationBean<Filter> a1() {
            return new EarlierFilter<>((request, response, chain) -> {
                request.getParameter("any");
                chain.doFilter(request, response);
            });
        }
    }

    /** Sends forms for which the gateway signed {@code signed}, or themselves if it is null. */
    private static List<String> answers(Service service, String signed) throws Exception {
        List<String> answers = new ArrayList<>();
        for (String path : new String[] {"/parameter", "/file", "/raw"}) {
            for (var form : FORMS.entrySet()) {
                byte[] sent = form.getValue().getBytes(StandardCharsets.UTF_8);
                byte[] bound = signed == null ? sent : signed.getBytes(StandardCharsets.UTF_8);
                for (BodyPublisher body : List.of(
                        BodyPublishers.ofByteArray(sent),
                        BodyPublishers.ofInputStream(() -> new ByteArrayInputStream(sent)))) {
                    String assertion = Service.GATEWAY
                            .assertion("POST", service.base() + path, CALLER)
                            .body(bound)
                            .sign();
                    var answer = service.send(
                            "POST", path, body, "Countersign-Assertion", assertion, "Content-Type", form.getKey());
                    answers.add(answer.body());
                }
            }
        }
        return answers;
    }

    @Test
    void formsAreNotBound() throws Exception {
        try (Service service = Service.start(Application.class)) {
            assertThat(answers(service, "")).noneMatch(answer -> answer.contains("seen"));
            assertThat(answers(service, null)).noneMatch(answer -> answer.contains("seen 7"));
        }
    }

    @Test
    void formsThatEarlierFiltersReadAreRefused() throws Exception {
        try (Service service = Service.start(Earlier.class)) {
            for (String signed : new String[] {"", EPILOGUE, null}) {
                assertThat(answers(service, signed)).noneMatch(answer -> answer.contains("seen"));
            }
        }
    }
}
