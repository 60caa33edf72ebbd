package io.github.countersign.spring;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import io.github.countersign.verify.AssertionVerifier;
import io.github.countersign.verify.Authentication;
import io.github.countersign.verify.Caller;
import io.github.countersign.verify.ClientCertificate;
import io.github.countersign.verify.SubjectAlternativeNames;
import io.github.countersign.verify.TokenClaims;
import io.github.countersign.verify.servlet.AssertionFilter;
import jakarta.servlet.http.HttpServletRequest;
import java.lang.reflect.Modifier;
import java.lang.reflect.Proxy;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;
import org.springframework.beans.BeanUtils;
import org.springframework.boot.SpringBootConfiguration;
import org.springframework.boot.autoconfigure.EnableAutoConfiguration;
import org.springframework.context.annotation.Bean;
import org.springframework.core.MethodParameter;
import org.springframework.http.RequestEntity;
import org.springframework.web.bind.annotation.CookieValue;
import org.springframework.web.bind.annotation.ExceptionHandler;
import org.springframework.web.bind.annotation.ModelAttribute;
import org.springframework.web.bind.annotation.PathVariable;
import org.springframework.web.bind.annotation.RequestBody;
import org.springframework.web.bind.annotation.RequestHeader;
import org.springframework.web.bind.annotation.RequestMapping;
import org.springframework.web.bind.annotation.RequestParam;
import org.springframework.web.bind.annotation.RequestPart;
import org.springframework.web.bind.annotation.RestController;
import org.springframework.web.bind.support.WebDataBinderFactory;
import org.springframework.web.context.request.NativeWebRequest;
import org.springframework.web.method.support.HandlerMethodArgumentResolver;
import org.springframework.web.method.support.ModelAndViewContainer;
import org.springframework.web.servlet.config.annotation.WebMvcConfigurationSupport;
import org.springframework.web.servlet.config.annotation.WebMvcConfigurer;

/** No parameter of a handler shows a caller that the request names itself. */
class HandlerParametersTest {
    private static final String LOW = "spiffe://example.org/low";
    private static final String ADMIN = "spiffe://example.org/admin";

    private static final String ADMIN_SEGMENT = "spiffe:admin";

    /** All that is needed to bind the records that these types were. */
    private static final String FORGED = "?sub=" + ADMIN + "&caller.sub=" + ADMIN + "&caller=" + ADMIN
            + "&iss=x&aud=x&claims%5Bsub%5D=x&methods=certificate&resumed=false&sansTruncated=false&uri=" + ADMIN;

    record Form(Caller caller) {}

    record OptionalForm(Optional<Caller> caller) {}

    record ListForm(List<Caller> caller) {}

    record MapForm(Map<String, Caller> caller) {}

    public static class Holder {
        private Caller caller;

        public Caller getCaller() {
            return caller;
        }

        public void setCaller(Caller caller) {
            this.caller = caller;
        }
    }

    @RestController
    static class Handlers {
        @RequestMapping("/plain")
        String plain(Caller caller) {
            return "sub " + caller.sub();
        }

        @RequestMapping("/optional")
        String optional(Optional<Caller> caller) {
            return "sub " + caller.map(Caller::sub).orElse("none");
        }

        @RequestMapping("/wildcard")
        String wildcard(Optional<? extends Caller> caller) {
            return "sub " + caller.map(Caller::sub).orElse("none");
        }

        @RequestMapping("/attribute")
        String attribute(@ModelAttribute Caller caller) {
            return "sub " + caller.sub();
        }

        @RequestMapping("/parameter")
        String parameter(@RequestParam Caller caller) {
            return "sub " + caller.sub();
        }

        @RequestMapping("/form")
        String form(Form form) {
            return "sub " + form.caller().sub();
        }

        @RequestMapping("/bean")
        String bean(Holder bean) {
            return "sub " + bean.getCaller().sub();
        }

        @RequestMapping("/optional-form")
        String optionalForm(OptionalForm form) {
            return "sub " + form.caller().map(Caller::sub).orElse("none");
        }

        @RequestMapping("/list-form")
        String listForm(ListForm form) {
            return "sub " + form.caller().get(0).sub();
        }

        @RequestMapping("/map-form")
        String mapForm(MapForm form) {
            return "sub " + form.caller().get("sub").sub();
        }

        @RequestMapping("/list")
        String list(@RequestParam List<Caller> caller) {
            return "sub " + caller.get(0).sub();
        }

        @RequestMapping("/array")
        String array(Caller[] caller) {
            return "sub " + caller[0].sub();
        }

        @RequestMapping("/optional-parameter")
        String optionalParameter(@RequestParam Optional<Caller> caller) {
            return "sub " + caller.map(Caller::sub).orElse("none");
        }

        @RequestMapping("/header")
        String header(@RequestHeader("X-Caller") Caller caller) {
            return "sub " + caller.sub();
        }

        @RequestMapping("/cookie")
        String cookie(@CookieValue Caller caller) {
            return "sub " + caller.sub();
        }

        @RequestMapping("/variable/{caller}")
        String variable(@PathVariable Caller caller) {
            return "sub " + caller.sub();
        }

        @RequestMapping("/variable-attribute/{caller}")
        String variableAttribute(@ModelAttribute Caller caller) {
            return "sub " + caller.sub();
        }

        @RequestMapping("/body")
        String body(@RequestBody Caller caller) {
            return "sub " + caller.sub();
        }

        @RequestMapping("/optional-body")
        String optionalBody(@RequestBody Optional<Caller> caller) {
            return "sub " + caller.map(Caller::sub).orElse("none");
        }

        @RequestMapping("/form-body")
        String formBody(@RequestBody Form form) {
            return "sub " + form.caller().sub();
        }

        @RequestMapping("/entity")
        String entity(RequestEntity<Caller> entity) {
            return "sub " + entity.getBody().sub();
        }

        @RequestMapping("/part")
        String part(@RequestPart Caller caller) {
            return "sub " + caller.sub();
        }

        @RequestMapping("/authentication")
        String authentication(Authentication authentication) {
            return "sub " + authentication;
        }

        @RequestMapping("/certificate")
        String certificate(ClientCertificate certificate) {
            return "sub " + certificate;
        }

        @RequestMapping("/token")
        String token(TokenClaims token) {
            return "sub " + token.sub();
        }

        @RequestMapping("/names")
        String names(SubjectAlternativeNames names) {
            return "sub " + names;
        }

        @RequestMapping("/request")
        String request(HttpServletRequest request) {
            return "sub " + AssertionFilter.caller(request).sub();
        }
    }

    @RestController
    static class Open {
        @RequestMapping("/optional-open")
        String optional(Optional<Caller> caller) {
            return "sub " + caller.map(Caller::sub).orElse("none");
        }

        @RequestMapping("/plain-open")
        String plain(Caller caller) {
            return "sub " + caller.sub();
        }
    }

    private static final class Unhandled extends RuntimeException {
        private static final long serialVersionUID = 1L;
    }

    /** Has the verified caller in its model, to which the binder then applies the request's parameters. */
    @RestController
    static class Models {
        @ModelAttribute("caller")
        Caller caller(Caller caller) {
            return caller;
        }

        @ModelAttribute("holder")
        Holder holder(Caller caller) {
            Holder holder = new Holder();
            holder.setCaller(caller);
            return holder;
        }

        @RequestMapping("/model")
        String model(@ModelAttribute("caller") Caller caller) {
            return "sub " + caller.sub() + " " + caller.claims().get("sub") + " " + caller.authn().methods();
        }

        @RequestMapping("/model-holder")
        String modelHolder(@ModelAttribute("holder") Holder holder) {
            return model(holder.getCaller());
        }

        @RequestMapping("/throwing")
        String throwing() {
            throw new Unhandled();
        }

        @ExceptionHandler(Unhandled.class)
        String handled(Caller caller, Optional<Caller> same) {
            return "sub " + caller.sub() + " " + same.map(Caller::sub).orElse("none");
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
                    .unverifiedPaths("/optional-open", "/plain-open")
                    .build();
        }

        @Bean
        Handlers handlers() {
            return new Handlers();
        }

        @Bean
        Open open() {
            return new Open();
        }

        @Bean
        Models models() {
            return new Models();
        }

        /** Takes all interfaces, as one of Spring Data does. */
        @Bean
        WebMvcConfigurer greedy() {
            return new WebMvcConfigurer() {
                @Override
                public void addArgumentResolvers(List<HandlerMethodArgumentResolver> resolvers) {
                    resolvers.add(new Greedy());
                }
            };
        }
    }

    static final class Greedy implements HandlerMethodArgumentResolver {
        @Override
        public boolean supportsParameter(MethodParameter parameter) {
            return parameter.getParameterType() == Caller.class;
        }

        @Override
        public Object resolveArgument(
                MethodParameter parameter,
                ModelAndViewContainer container,
                NativeWebRequest request,
                WebDataBinderFactory binders) {
            throw new IllegalStateException("not the first resolver");
        }
    }

    /** Spring then ignores all {@code WebMvcConfigurer}s, as it does if only the servlet artifact is there. */
    @SpringBootConfiguration
    @EnableAutoConfiguration
    static class WithoutResolver extends WebMvcConfigurationSupport {
        @Bean
        AssertionVerifier verifier() {
            return Service.GATEWAY.verifier();
        }

        @Bean
        Handlers handlers() {
            return new Handlers();
        }
    }

    private static final List<String> GIVEN = List.of("/plain", "/optional", "/request");
    private static final List<String> BOUND = List.of(
            "/wildcard",
            "/attribute",
            "/parameter",
            "/form",
            "/bean",
            "/optional-form",
            "/list-form",
            "/map-form",
            "/list",
            "/array",
            "/optional-parameter",
            "/header",
            "/cookie",
            "/variable/" + ADMIN_SEGMENT,
            "/variable-attribute/" + ADMIN_SEGMENT,
            "/body",
            "/optional-body",
            "/form-body",
            "/entity",
            "/part",
            "/authentication",
            "/certificate",
            "/token",
            "/names");

    private static final String JSON = """
            {"sub": "%1$s", "iss": "x", "aud": "x", "iat": 1, "exp": 2, "claims": {"sub": "%1$s"},
             "authn": {"methods": ["certificate"], "at": 1, "resumed": false}}""".formatted(ADMIN);

    private static String part(String name, String type, String value) {
        return "--b\r\nContent-Disposition: form-data; name=\"" + name + "\"" + (type.isEmpty() ? "" : "; filename=\"f\"")
                + "\r\nContent-Type: " + (type.isEmpty() ? "text/plain" : type) + "\r\n\r\n" + value + "\r\n";
    }

    /** Everything that a caller can send, by media type. */
    private static final Map<String, List<String>> BODIES = Map.of(
            "application/x-www-form-urlencoded", List.of(FORGED.substring(1)),
            "application/json", List.of(JSON, "{\"caller\": " + JSON + "}"),
            "multipart/form-data; boundary=b",
                    List.of(
                            part("caller", "application/json", JSON) + part("caller.sub", "", ADMIN) + "--b--\r\n",
                            part("caller", "", ADMIN) + part("sub", "", ADMIN) + part("iss", "", "x") + "--b--\r\n"));

    @Test
    void onlyTheVerifiedCallerIsGiven() throws Exception {
        try (Service service = Service.start(Application.class)) {
            for (String path : GIVEN) {
                for (String answer : answers(service, path)) {
                    assertThat(answer).as(path).isEqualTo("200 sub " + LOW);
                }
            }
            for (String path : BOUND) {
                for (String answer : answers(service, path)) {
                    assertThat(answer).as(path).matches("(?s)(400|415|500) .*|200 sub none");
                }
            }
            assertThat(service.get("/optional-open" + FORGED, LOW).body()).isEqualTo("sub none");
            assertThat(service.get("/plain-open" + FORGED, LOW).statusCode()).isEqualTo(500);
        }
    }

    @Test
    void callersInModelsAreNotChanged() throws Exception {
        String verified = "sub " + LOW + " " + LOW + " [certificate]";
        try (Service service = Service.start(Application.class)) {
            for (String prefix : new String[] {"", "caller."}) {
                for (String member : new String[] {
                    "sub", "claims%5Bsub%5D", "claims%5B%27sub%27%5D", "claims", "authn.methods%5B0%5D", "authn.methods",
                    "authn", "certificate.sans.uri%5B0%5D", "certificate"
                }) {
                    for (String path : new String[] {"/model", "/model-holder"}) {
                        String target = path + "?" + prefix + member + "=" + ADMIN;
                        var answer = service.get(target, LOW);
                        if (answer.statusCode() == 200) {
                            assertThat(answer.body()).as(target).isEqualTo(verified);
                        } else {
                            assertThat(answer.body()).as(target).doesNotContain("sub ");
                        }
                    }
                }
            }
            assertThat(service.get("/model", LOW).body()).isEqualTo(verified);
            assertThat(service.get("/throwing" + FORGED, LOW).body()).isEqualTo("sub " + LOW + " " + LOW);
        }
    }

    @Test
    void withoutResolverNoCallerIsGiven() throws Exception {
        try (Service service = Service.start(WithoutResolver.class)) {
            List<String> paths = new ArrayList<>(BOUND);
            paths.addAll(List.of("/plain", "/optional"));
            for (String path : paths) {
                for (String answer : answers(service, path)) {
                    assertThat(answer).as(path).matches("(?s)(400|415|500) .*|200 sub none");
                }
            }
            assertThat(service.get("/request" + FORGED, LOW).body()).isEqualTo("sub " + LOW);
        }
    }

    /** Sends all forgeries in requests that the gateway signed for {@code LOW}. */
    private static List<String> answers(Service service, String path) throws Exception {
        String[] forged = {"X-Caller", ADMIN, "Cookie", "caller=" + ADMIN};
        List<String> answers = new ArrayList<>();
        String target = path + FORGED;
        answers.add(text(service.send("GET", target, Service.with(service.assertion("GET", target, LOW), forged))));
        for (var bodies : BODIES.entrySet()) {
            for (String body : bodies.getValue()) {
                String[] fields = Service.with(service.assertion("POST", path, LOW), forged);
                fields = Service.with(fields, "Content-Type", bodies.getKey());
                answers.add(text(service.send("POST", path, BodyPublishers.ofString(body), fields)));
            }
        }
        return answers;
    }

    private static String text(HttpResponse<String> answer) {
        return answer.statusCode() + " " + answer.body();
    }

    @ParameterizedTest
    @ValueSource(
            classes = {
                Caller.class,
                Authentication.class,
                ClientCertificate.class,
                TokenClaims.class,
                SubjectAlternativeNames.class
            })
    void springFindsNoConstructor(Class<?> type) {
        assertThatThrownBy(() -> BeanUtils.getResolvableConstructor(type)).isInstanceOf(IllegalStateException.class);
        assertThat(type.isSealed()).isTrue();
        // Spring Data makes proxies of interfaces that handlers take.
        ClassLoader loader = type.getClassLoader();
        assertThatThrownBy(() -> Proxy.newProxyInstance(loader, new Class<?>[] {type}, (proxy, method, arguments) -> null))
                .isInstanceOf(IllegalArgumentException.class);
        assertThat(type.getPermittedSubclasses()).allMatch(made -> !Modifier.isPublic(made.getModifiers()));
    }
}
