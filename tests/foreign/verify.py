"""Verifies assertions with stock PyJWT.

Reads a list of cases from standard input. Ends with 0 when each token is
accepted or refused as its case says, with 1 when not, with 77 without PyJWT.
"""

import json
import sys

try:
    import cryptography  # noqa: F401  (PyJWT needs it for ES256 and EdDSA)
    import jwt
except ImportError as error:
    print(error, file=sys.stderr)
    sys.exit(77)


def verify(case):
    keys = jwt.PyJWKSet.from_dict(case["jwks"])
    kid = jwt.get_unverified_header(case["token"])["kid"]
    return jwt.decode(
        case["token"],
        keys[kid],
        algorithms=[case["algorithm"]],
        issuer=case["issuer"],
        audience=case["audience"],
        options={"require": ["iss", "aud", "exp", "iat", "sub"]},
    )


failed = False
for case in json.load(sys.stdin):
    try:
        claims = verify(case)
        accepted = claims["sub"] == case["subject"] and claims["htu"] == case["htu"]
        outcome = "accepted"
    except (jwt.PyJWTError, KeyError) as error:
        accepted = False
        outcome = f"refused: {error!r}"
    print(f"{case['name']}: {outcome}")
    failed |= accepted != case["accepted"]
sys.exit(1 if failed else 0)
