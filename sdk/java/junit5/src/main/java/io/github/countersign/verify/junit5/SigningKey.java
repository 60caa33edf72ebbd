package io.github.countersign.verify.junit5;

import com.nimbusds.jose.JOSEException;
import com.nimbusds.jose.JWSAlgorithm;
import com.nimbusds.jose.JWSHeader;
import com.nimbusds.jose.crypto.ECDSASigner;
import com.nimbusds.jose.jwk.Curve;
import com.nimbusds.jose.jwk.ECKey;
import com.nimbusds.jose.jwk.JWK;
import com.nimbusds.jose.jwk.KeyUse;
import com.nimbusds.jose.jwk.OctetKeyPair;
import com.nimbusds.jose.util.Base64URL;
import java.security.GeneralSecurityException;
import java.security.KeyPair;
import java.security.KeyPairGenerator;
import java.security.Signature;
import java.security.interfaces.ECPublicKey;
import java.util.Arrays;

/** A private key that exists in memory only, and its public half. */
record SigningKey(String algorithm, KeyPair pair, JWK published) {
    private static final int ED25519_BYTES = 32;

    static SigningKey generate(TestGateway.Algorithm algorithm) {
        try {
            if (algorithm == TestGateway.Algorithm.ES256) {
                KeyPairGenerator generator = KeyPairGenerator.getInstance("EC");
                generator.initialize(Curve.P_256.toECParameterSpec());
                KeyPair pair = generator.generateKeyPair();
                JWK published = new ECKey.Builder(Curve.P_256, (ECPublicKey) pair.getPublic())
                        .keyUse(KeyUse.SIGNATURE)
                        .algorithm(JWSAlgorithm.ES256)
                        .keyIDFromThumbprint()
                        .build();
                return new SigningKey("ES256", pair, published);
            }
            KeyPair pair = KeyPairGenerator.getInstance("Ed25519").generateKeyPair();
            // The key's bytes are the end of its encoding (RFC 8410 section 4).
            byte[] encoded = pair.getPublic().getEncoded();
            Base64URL x =
                    Base64URL.encode(Arrays.copyOfRange(encoded, encoded.length - ED25519_BYTES, encoded.length));
            JWK published = new OctetKeyPair.Builder(Curve.Ed25519, x)
                    .keyUse(KeyUse.SIGNATURE)
                    .algorithm(JWSAlgorithm.EdDSA)
                    .keyIDFromThumbprint()
                    .build();
            return new SigningKey("EdDSA", pair, published);
        } catch (GeneralSecurityException | JOSEException e) {
            throw new IllegalStateException(e);
        }
    }

    Base64URL sign(byte[] input) throws JOSEException {
        if (algorithm.equals("ES256")) {
            return new ECDSASigner(pair.getPrivate(), Curve.P_256).sign(new JWSHeader(JWSAlgorithm.ES256), input);
        }
        try {
            Signature signature = Signature.getInstance("Ed25519");
            signature.initSign(pair.getPrivate());
            signature.update(input);
            return Base64URL.encode(signature.sign());
        } catch (GeneralSecurityException e) {
            throw new JOSEException(e.getMessage(), e);
        }
    }
}
