package io.github.countersign.verify;

import com.nimbusds.jose.JOSEException;
import com.nimbusds.jose.JOSEObjectType;
import com.nimbusds.jose.JWSAlgorithm;
import com.nimbusds.jose.JWSHeader;
import com.nimbusds.jose.JWSObject;
import com.nimbusds.jose.Payload;
import com.nimbusds.jose.crypto.ECDSASigner;
import com.nimbusds.jose.jwk.Curve;
import com.nimbusds.jose.jwk.ECKey;
import com.nimbusds.jose.jwk.JWKSet;
import com.nimbusds.jose.jwk.gen.ECKeyGenerator;
import java.util.Arrays;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.UUID;

/** A gateway's key, for tests. */
record Signer(ECKey key) {
    static final String ISSUER = "https://gateway.example.org:9080";
    static final RequestParts REQUEST = new RequestParts("GET", List.of("orders.example.org"), "/orders/7");

    static Signer generate() {
        try {
            return new Signer(
                    new ECKeyGenerator(Curve.P_256).keyIDFromThumbprint(true).generate());
        } catch (JOSEException e) {
            throw new IllegalStateException(e);
        }
    }

    static String keySet(Signer... signers) {
        return new JWKSet(Arrays.stream(signers)
                        .map(signer -> (com.nimbusds.jose.jwk.JWK) signer.key)
                        .toList())
                .toString(true);
    }

    String token(long now) {
        return token(now, key.getKeyID());
    }

    String token(long now, String keyId) {
        Map<String, Object> claims = new HashMap<>(Map.of(
                "iss", ISSUER,
                "aud", "orders",
                "sub", "dns:shop.example",
                "iat", now,
                "exp", now + 300,
                "jti", UUID.randomUUID().toString(),
                "htm", "GET",
                "htu", "https://orders.example.org/orders/7",
                "authn", Map.of("methods", List.of("certificate"), "at", now, "resumed", false)));
        JWSObject jws = new JWSObject(
                new JWSHeader.Builder(JWSAlgorithm.ES256)
                        .type(new JOSEObjectType(CompactJws.TYP))
                        .keyID(keyId)
                        .build(),
                new Payload(claims));
        try {
            jws.sign(new ECDSASigner(key));
        } catch (JOSEException e) {
            throw new IllegalStateException(e);
        }
        return jws.serialize();
    }
}
