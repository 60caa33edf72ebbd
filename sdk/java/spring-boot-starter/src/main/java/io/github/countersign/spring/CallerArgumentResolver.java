package io.github.countersign.spring;

import io.github.countersign.verify.Caller;
import io.github.countersign.verify.servlet.AssertionFilter;
import jakarta.servlet.http.HttpServletRequest;
import org.springframework.core.MethodParameter;
import org.springframework.web.bind.support.WebDataBinderFactory;
import org.springframework.web.context.request.NativeWebRequest;
import org.springframework.web.method.support.HandlerMethodArgumentResolver;
import org.springframework.web.method.support.ModelAndViewContainer;

/**
 * Gives the verified caller to parameters of type {@link Caller}, without which the handler does not run, and of type
 * {@code Optional<Caller>}.
 */
final class CallerArgumentResolver implements HandlerMethodArgumentResolver {
    @Override
    public boolean supportsParameter(MethodParameter parameter) {
        return parameter.nestedIfOptional().getNestedParameterType() == Caller.class;
    }

    @Override
    public Object resolveArgument(
            MethodParameter parameter,
            ModelAndViewContainer container,
            NativeWebRequest request,
            WebDataBinderFactory binders) {
        HttpServletRequest http = request.getNativeRequest(HttpServletRequest.class);
        if (http == null) {
            throw new IllegalStateException("only HTTP requests have callers");
        }
        return parameter.getParameterType() == Caller.class
                ? AssertionFilter.caller(http)
                : AssertionFilter.findCaller(http);
    }
}
