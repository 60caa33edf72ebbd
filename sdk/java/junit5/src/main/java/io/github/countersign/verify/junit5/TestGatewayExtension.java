package io.github.countersign.verify.junit5;

import org.junit.jupiter.api.extension.ExtensionContext;
import org.junit.jupiter.api.extension.ParameterContext;
import org.junit.jupiter.api.extension.ParameterResolver;
import org.junit.platform.commons.support.AnnotationSupport;

/** Resolves the parameters of {@link WithTestGateway}. */
final class TestGatewayExtension implements ParameterResolver {
    private static final ExtensionContext.Namespace NAMESPACE =
            ExtensionContext.Namespace.create(TestGatewayExtension.class);

    @Override
    public boolean supportsParameter(ParameterContext parameter, ExtensionContext context) {
        return parameter.getParameter().getType() == TestGateway.class;
    }

    @Override
    public TestGateway resolveParameter(ParameterContext parameter, ExtensionContext context) {
        Class<?> type = context.getRequiredTestClass();
        String audience = AnnotationSupport.findAnnotation(type, WithTestGateway.class)
                .orElseThrow()
                .audience();
        // The store of the root is shared by the contexts of the class and of its tests.
        return context.getRoot()
                .getStore(NAMESPACE)
                .getOrComputeIfAbsent(type, key -> new TestGateway(audience), TestGateway.class);
    }
}
