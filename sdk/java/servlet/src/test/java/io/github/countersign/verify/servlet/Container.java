package io.github.countersign.verify.servlet;

import io.github.countersign.verify.AssertionVerifier;
import io.github.countersign.verify.Caller;
import jakarta.servlet.DispatcherType;
import jakarta.servlet.Filter;
import jakarta.servlet.http.HttpServlet;
import jakarta.servlet.http.HttpServletRequest;
import jakarta.servlet.http.HttpServletResponse;
import java.io.IOException;
import java.nio.file.Files;
import java.util.Comparator;
import java.util.EnumSet;
import java.util.function.IntSupplier;
import java.util.stream.Collectors;
import org.apache.catalina.Context;
import org.apache.catalina.connector.Connector;
import org.apache.catalina.startup.Tomcat;
import org.apache.tomcat.util.descriptor.web.FilterDef;
import org.apache.tomcat.util.descriptor.web.FilterMap;
import org.eclipse.jetty.ee10.servlet.FilterHolder;
import org.eclipse.jetty.ee10.servlet.ServletContextHandler;
import org.eclipse.jetty.ee10.servlet.ServletHolder;
import org.eclipse.jetty.http.UriCompliance;
import org.eclipse.jetty.server.HttpConfiguration;
import org.eclipse.jetty.server.HttpConnectionFactory;
import org.eclipse.jetty.server.Server;
import org.eclipse.jetty.server.ServerConnector;

/** A running container with the filter and one servlet. */
interface Container extends AutoCloseable {
    int port();

    @Override
    void close();

    /** Ends a container. */
    @FunctionalInterface
    interface End {
        void run() throws Exception;
    }

    record Running(IntSupplier address, End end) implements Container {
        @Override
        public int port() {
            return address.getAsInt();
        }

        @Override
        public void close() {
            try {
                end.run();
            } catch (Exception e) {
                throw new IllegalStateException(e);
            }
        }
    }

    /** The containers that are tested. Each is strict about targets by default; LAX_JETTY passes all on. */
    enum Kind {
        JETTY,
        LAX_JETTY,
        TOMCAT;

        Container start(AssertionVerifier verifier, String contextPath) throws Exception {
            return start(new AssertionFilter(verifier), contextPath);
        }

        Container start(Filter filter, String contextPath) throws Exception {
            return this == TOMCAT ? tomcat(filter, contextPath) : jetty(filter, contextPath, this == LAX_JETTY);
        }
    }

    /** Answers with the caller, or with the body or the forwarded request for some paths. */
    final class Echo extends HttpServlet {
        private static final long serialVersionUID = 1L;

        @Override
        protected void service(HttpServletRequest request, HttpServletResponse response)
                throws IOException, jakarta.servlet.ServletException {
            String path = request.getPathInfo() == null ? "" : request.getPathInfo();
            switch (path) {
                case "/forward" -> request.getRequestDispatcher("/forwarded").forward(request, response);
                case "/echo" -> response.getOutputStream().write(request.getInputStream().readAllBytes());
                case "/read" -> response.getWriter()
                        .write(request.getReader().lines().collect(Collectors.joining("\n")));
                case "/parameter" -> response.getWriter().write("amount " + request.getParameter("amount"));
                default -> response.getWriter()
                        .write(AssertionFilter.findCaller(request).map(Caller::sub).orElse("none"));
            }
        }
    }

    private static Container jetty(Filter filter, String contextPath, boolean isLax) throws Exception {
        HttpConfiguration options = new HttpConfiguration();
        if (isLax) {
            options.setUriCompliance(UriCompliance.UNSAFE);
        }
        Server server = new Server();
        ServerConnector connector = new ServerConnector(server, 1, 1, new HttpConnectionFactory(options));
        connector.setHost("127.0.0.1");
        server.addConnector(connector);
        ServletContextHandler context = new ServletContextHandler(contextPath.isEmpty() ? "/" : contextPath);
        context.getServletHandler().setDecodeAmbiguousURIs(isLax);
        context.addFilter(
                new FilterHolder(filter),
                "/*",
                EnumSet.of(DispatcherType.REQUEST, DispatcherType.FORWARD));
        context.addServlet(new ServletHolder(new Echo()), "/*");
        server.setHandler(context);
        server.start();
        return new Running(connector::getLocalPort, server::stop);
    }

    private static Container tomcat(Filter assertionFilter, String contextPath) throws Exception {
        Tomcat tomcat = new Tomcat();
        var directory = Files.createTempDirectory("tomcat");
        tomcat.setBaseDir(directory.toString());
        Connector connector = new Connector();
        connector.setPort(0);
        connector.setProperty("address", "127.0.0.1");
        tomcat.setConnector(connector);
        Context context = tomcat.addContext(contextPath, directory.toString());
        Tomcat.addServlet(context, "echo", new Echo());
        context.addServletMappingDecoded("/*", "echo");
        FilterDef filter = new FilterDef();
        filter.setFilterName("assertion");
        filter.setFilter(assertionFilter);
        context.addFilterDef(filter);
        FilterMap map = new FilterMap();
        map.setFilterName("assertion");
        map.addURLPattern("/*");
        map.setDispatcher("REQUEST");
        map.setDispatcher("FORWARD");
        context.addFilterMap(map);
        tomcat.start();
        return new Running(connector::getLocalPort, () -> {
            tomcat.stop();
            tomcat.destroy();
            try (var files = Files.walk(directory)) {
                files.sorted(Comparator.reverseOrder()).forEach(path -> path.toFile().delete());
            }
        });
    }
}
