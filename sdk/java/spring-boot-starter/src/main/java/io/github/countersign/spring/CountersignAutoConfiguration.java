package io.github.countersign.spring;

import io.github.countersign.verify.AssertionVerifier;
import io.github.countersign.verify.ReplayStore;
import io.github.countersign.verify.servlet.AssertionFilter;
import jakarta.servlet.DispatcherType;
import java.util.List;
import org.springframework.beans.factory.ObjectProvider;
import org.springframework.boot.autoconfigure.AutoConfiguration;
import org.springframework.boot.autoconfigure.condition.ConditionalOnClass;
import org.springframework.boot.autoconfigure.condition.ConditionalOnMissingBean;
import org.springframework.boot.autoconfigure.condition.ConditionalOnWebApplication;
import org.springframework.boot.context.properties.EnableConfigurationProperties;
import org.springframework.boot.web.servlet.FilterRegistrationBean;
import org.springframework.context.annotation.Bean;
import org.springframework.context.annotation.Configuration;
import org.springframework.core.Ordered;
import org.springframework.core.PriorityOrdered;
import org.springframework.core.annotation.Order;
import org.springframework.web.method.support.HandlerMethodArgumentResolver;
import org.springframework.web.servlet.config.annotation.WebMvcConfigurer;

/**
 * Puts the filter in front of all others. A bean of type {@link ReplayStore} is used; a bean of type
 * {@link AssertionVerifier} replaces the one of the properties.
 *
 * <p>Without issuer, audience and a source of keys the application does not start.
 */
@AutoConfiguration
@ConditionalOnWebApplication(type = ConditionalOnWebApplication.Type.SERVLET)
@EnableConfigurationProperties(CountersignProperties.class)
public class CountersignAutoConfiguration {
    /** Made by Spring. */
    public CountersignAutoConfiguration() {}

    /**
     * Makes the verifier of the properties.
     *
     * @param options the properties
     * @param replayStore used if there is one
     * @return the verifier
     */
    @Bean
    @ConditionalOnMissingBean
    public AssertionVerifier countersignVerifier(
            CountersignProperties options, ObjectProvider<ReplayStore> replayStore) {
        AssertionVerifier.Builder builder = AssertionVerifier.builder(options.issuer(), options.audience())
                .skew(options.skew())
                .unverifiedPaths(options.unverifiedPaths());
        if (options.jwksUrl() != null) {
            builder.jwksUrl(options.jwksUrl());
        }
        if (options.jwksFile() != null) {
            builder.jwksFile(options.jwksFile());
        }
        if (options.caFile() != null) {
            builder.caFile(options.caFile());
        }
        if (options.authority() != null) {
            builder.authority(options.authority());
        }
        if (options.pathPrefix() != null) {
            builder.pathPrefix(options.pathPrefix());
        }
        if (options.allowCallerBinding()) {
            builder.allowCallerBinding();
        }
        if (options.requireBodyBinding()) {
            builder.requireBodyBinding();
        }
        replayStore.ifAvailable(builder::replayStore);
        return builder.build();
    }

    /**
     * Registers the filter for all requests, before all other filters. It is mapped to forwards, includes and asynchronous
     * dispatches too, because a filter that comes first all the same could otherwise use one to go around it.
     *
     * @param verifier applies the rules
     * @param options the properties
     * @return the registration
     */
    @Bean
    public FilterRegistrationBean<AssertionFilter> countersignFilter(
            AssertionVerifier verifier, CountersignProperties options) {
        int maxBody = Math.toIntExact(options.maxBody().toBytes());
        FilterRegistrationBean<AssertionFilter> filter = new FirstFilter(new AssertionFilter(verifier, maxBody));
        filter.setName("countersign");
        filter.addUrlPatterns("/*");
        filter.setDispatcherTypes(
                DispatcherType.REQUEST, DispatcherType.FORWARD, DispatcherType.INCLUDE, DispatcherType.ASYNC);
        filter.setOrder(Ordered.HIGHEST_PRECEDENCE);
        return filter;
    }

    /**
     * Other filters have the highest precedence too, such as Spring's {@code ForwardedHeaderFilter}. What is
     * {@link PriorityOrdered} comes before them.
     */
    private static final class FirstFilter extends FilterRegistrationBean<AssertionFilter> implements PriorityOrdered {
        FirstFilter(AssertionFilter filter) {
            super(filter);
        }
    }

    /**
     * Lets handlers of Spring MVC take a {@code Caller} as a parameter. First, because resolvers of others (Spring Data) take
     * all interfaces.
     */
    @Configuration(proxyBeanMethods = false)
    @ConditionalOnClass(WebMvcConfigurer.class)
    @Order(Ordered.HIGHEST_PRECEDENCE)
    static class Mvc implements WebMvcConfigurer {
        @Override
        public void addArgumentResolvers(List<HandlerMethodArgumentResolver> resolvers) {
            resolvers.add(new CallerArgumentResolver());
        }
    }
}
