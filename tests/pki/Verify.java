// Verifies chains with Java's PKIX validator, revocation lists and trust manager:
// java Verify.java DIR (CHAIN client|server)...
// prints "accepted", "revoked" or "refused" for each.

import java.io.InputStream;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.KeyStore;
import java.security.cert.CertPathValidator;
import java.security.cert.CertPathValidatorException;
import java.security.cert.CertPathValidatorException.BasicReason;
import java.security.cert.CertStore;
import java.security.cert.Certificate;
import java.security.cert.CertificateException;
import java.security.cert.CertificateFactory;
import java.security.cert.CollectionCertStoreParameters;
import java.security.cert.PKIXParameters;
import java.security.cert.X509Certificate;
import java.util.ArrayList;
import java.util.List;
import javax.net.ssl.TrustManagerFactory;
import javax.net.ssl.X509TrustManager;

public class Verify {
    static final CertificateFactory FACTORY = factory();

    static CertificateFactory factory() {
        try {
            return CertificateFactory.getInstance("X.509");
        } catch (CertificateException impossible) {
            throw new IllegalStateException(impossible);
        }
    }

    static List<Certificate> certificates(Path path) throws Exception {
        try (InputStream stream = Files.newInputStream(path)) {
            return new ArrayList<>(FACTORY.generateCertificates(stream));
        }
    }

    public static void main(String[] arguments) throws Exception {
        Path directory = Path.of(arguments[0]);
        KeyStore trusted = KeyStore.getInstance("PKCS12");
        trusted.load(null, null);
        for (Certificate root : certificates(directory.resolve("trust.pem"))) {
            trusted.setCertificateEntry("root" + trusted.size(), root);
        }
        List<Object> lists = new ArrayList<>();
        for (String name : List.of("root", "intermediate")) {
            if (Files.notExists(directory.resolve("crl/" + name + ".crl"))) {
                continue;
            }
            try (InputStream stream = Files.newInputStream(directory.resolve("crl/" + name + ".crl"))) {
                lists.add(FACTORY.generateCRL(stream));
            }
        }
        TrustManagerFactory factory = TrustManagerFactory.getInstance("PKIX");
        factory.init(trusted);
        X509TrustManager manager = (X509TrustManager) factory.getTrustManagers()[0];
        for (int index = 1; index < arguments.length; index += 2) {
            List<Certificate> chain = certificates(Path.of(arguments[index]));
            System.out.println(verdict(trusted, lists, manager, chain, arguments[index + 1]));
        }
    }

    static String verdict(KeyStore trusted, List<Object> lists, X509TrustManager manager,
            List<Certificate> chain, String purpose) throws Exception {
        PKIXParameters parameters = new PKIXParameters(trusted);
        parameters.setRevocationEnabled(true);
        parameters.addCertStore(
                CertStore.getInstance("Collection", new CollectionCertStoreParameters(lists)));
        try {
            CertPathValidator.getInstance("PKIX")
                    .validate(FACTORY.generateCertPath(chain), parameters);
            X509Certificate[] presented = chain.toArray(new X509Certificate[0]);
            if (purpose.equals("client")) {
                manager.checkClientTrusted(presented, "EC");
            } else {
                manager.checkServerTrusted(presented, "ECDHE_ECDSA");
            }
            return "accepted";
        } catch (CertPathValidatorException refusal) {
            System.err.println(refusal);
            return refusal.getReason() == BasicReason.REVOKED ? "revoked" : "refused";
        } catch (CertificateException refusal) {
            System.err.println(refusal);
            return "refused";
        }
    }
}
