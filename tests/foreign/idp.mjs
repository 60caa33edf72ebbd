// An identity provider: stock `oidc-provider` behind TLS.
//
// The first line of standard input is its configuration:
//   { chain, key, root: PEM texts, app, gateway: a client's certificate name each }
// It then prints one line with its port. Each further line makes it sign with a new
// key, publish that beside the old ones, and print a line. It ends with its input,
// or with 77 without `oidc-provider`, which is looked for in
// $COUNTERSIGN_NODE_MODULES.

import { generateKeyPairSync, X509Certificate } from "node:crypto";
import { createServer } from "node:https";
import { createRequire } from "node:module";
import { join, resolve } from "node:path";
import { createInterface } from "node:readline";
import { pathToFileURL } from "node:url";

const modules = process.env.COUNTERSIGN_NODE_MODULES ?? "node_modules";
let Provider;
try {
  const entry = join(resolve(modules), "oidc-provider", "lib", "index.js");
  ({ default: Provider } = await import(pathToFileURL(entry)));
} catch (error) {
  console.error(error.message);
  process.exit(77);
}
// Its notices are about production.
console.info = console.warn = () => {};

function newKey(number) {
  const { privateKey } = generateKeyPairSync("ec", { namedCurve: "P-256" });
  return { ...privateKey.export({ format: "jwk" }), kid: `key-${number}`, use: "sig", alg: "ES256" };
}

function names(certificate) {
  return (certificate?.subjectAltName ?? "").split(", ");
}

function client(id, name, more) {
  const kind = name.includes("://") ? "uri" : "dns";
  return {
    client_id: id,
    token_endpoint_auth_method: "tls_client_auth",
    [`tls_client_auth_san_${kind}`]: name,
    redirect_uris: [],
    response_types: [],
    id_token_signed_response_alg: "ES256",
    ...more,
  };
}

function provider(issuer, said, keys) {
  const bound = {
    grant_types: ["client_credentials"],
    tls_client_certificate_bound_access_tokens: true,
    scope: "orders:read",
  };
  return new Provider(issuer, {
    jwks: { keys },
    cookies: { keys: ["tests only"] },
    scopes: ["orders:read"],
    clients: [
      client("app", said.app, bound),
      client("gateway", said.gateway, { grant_types: [] }),
    ],
    clientAuthMethods: ["tls_client_auth"],
    features: {
      devInteractions: { enabled: false },
      clientCredentials: { enabled: true },
      revocation: { enabled: true },
      introspection: { enabled: true, allowedPolicy: () => true },
      mTLS: {
        enabled: true,
        certificateBoundAccessTokens: true,
        tlsClientAuth: true,
        getCertificate: (context) => {
          const raw = context.socket.getPeerCertificate()?.raw;
          return raw ? new X509Certificate(raw) : undefined;
        },
        certificateAuthorized: (context) => context.socket.authorized,
        certificateSubjectMatches: (context, property, expected) => {
          const certificate = new X509Certificate(context.socket.getPeerCertificate().raw);
          const kind = property === "tls_client_auth_san_uri" ? "URI" : "DNS";
          return names(certificate).includes(`${kind}:${expected}`);
        },
      },
      resourceIndicators: {
        enabled: true,
        getResourceServerInfo: (_, resource) => ({
          scope: "orders:read",
          audience: "orders-api",
          accessTokenTTL: 600,
          accessTokenFormat: resource.endsWith("/opaque") ? "opaque" : "jwt",
          jwt: { sign: { alg: "ES256" } },
        }),
      },
    },
  });
}

const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
const said = JSON.parse((await lines.next()).value);
const keys = [newKey(1)];
let answer = (_, response) => response.destroy();
const server = createServer(
  { cert: said.chain, key: said.key, ca: said.root, requestCert: true, rejectUnauthorized: false },
  (request, response) => answer(request, response),
);
await new Promise((listening) => server.listen(0, "127.0.0.1", listening));
const issuer = `https://localhost:${server.address().port}`;
answer = provider(issuer, said, keys).callback();
console.log(server.address().port);
for await (const _ of lines) {
  keys.unshift(newKey(keys.length + 1));
  answer = provider(issuer, said, [...keys]).callback();
  console.log("rotated");
}
process.exit(0);
