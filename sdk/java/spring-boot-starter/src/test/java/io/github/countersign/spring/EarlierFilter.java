package io.github.countersign.spring;

import jakarta.servlet.DispatcherType;
import jakarta.servlet.Filter;
import org.springframework.boot.web.servlet.FilterRegistrationBean;
import org.springframework.core.Ordered;
import org.springframework.core.PriorityOrdered;

/** Registers a filter that comes before ours, if the name of its bean is earlier too. */
final class EarlierFilter<F extends Filter> extends FilterRegistrationBean<F> implements PriorityOrdered {
    EarlierFilter(F filter) {
        super(filter);
        setOrder(Ordered.HIGHEST_PRECEDENCE);
    }

    /** Leaves forwards and the like alone, because the filter would begin another one. */
    EarlierFilter<F> forRequestsOnly() {
        setDispatcherTypes(DispatcherType.REQUEST);
        return this;
    }
}
