import { AssertionVerifier } from "@countersign/verify";
import { callerOf, verifyAssertions } from "@countersign/verify/express";
import express from "express";

const GATEWAY = "https://gateway.example.org:9080";
const KEYS = `${GATEWAY}/.well-known/jwks.json`;
const options = { issuer: GATEWAY, audience: "orders", jwksUrl: KEYS };

export function orders(verifier = new AssertionVerifier(options)) {
  const app = express();
  app.use(verifyAssertions(verifier));
  app.get("/orders/:number", (request, response) => {
    response.json({ number: request.params.number, caller: callerOf(request).sub });
  });
  return app;
}
