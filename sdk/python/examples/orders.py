from fastapi import FastAPI

from countersign_verify import AssertionVerifier
from countersign_verify.fastapi import AssertionMiddleware, CurrentCaller

GATEWAY = "https://gateway.example.org:9080"
KEYS = f"{GATEWAY}/.well-known/jwks.json"
app = FastAPI()


@app.get("/orders/{number}")
def order(number: int, caller: CurrentCaller) -> dict[str, int | str]:
    return {"number": number, "caller": caller.sub}


verifier = AssertionVerifier(issuer=GATEWAY, audience="orders", jwks_url=KEYS)
service = AssertionMiddleware(app, verifier)
