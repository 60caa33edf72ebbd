"""Runs the Python of README.md with stock PyJWT.

Reads a list of cases from standard input. Ends with 0 when each token is
accepted or refused as its case says, with 1 when not, with 77 without PyJWT.
"""

import ast
import json
import pathlib
import sys
from datetime import datetime, timedelta
from types import SimpleNamespace
from urllib.parse import urlsplit

try:
    import cryptography  # noqa: F401  (PyJWT needs it for ES256)
    import jwt
except ImportError as error:
    print(error, file=sys.stderr)
    sys.exit(77)

README = pathlib.Path(__file__).parents[2] / "README.md"
blocks = [block.split("```")[0] for block in README.read_text().split("```python\n")[1:]]
# Other blocks are about the package.
(code,) = [block for block in blocks if "jwt.decode(" in block]
if any(isinstance(node, ast.Assert) for node in ast.walk(ast.parse(code))):
    sys.exit("README.md uses assert, which python -O removes")

present = {}
jwt.PyJWKClient.fetch_data = lambda self: present["jwks"]


class Later(datetime):
    """A clock that is half a minute ahead."""

    @classmethod
    def now(cls, tz=None):
        return datetime.now(tz) + timedelta(seconds=30)


def accepts(case, clock=datetime, **changes):
    present["jwks"] = case["jwks"]
    jwt.api_jwt.datetime = clock
    names = {"jwt": jwt}
    own = code.replace('audience="orders"', f'audience="{case["audience"]}"')
    exec("import base64, hashlib\n" + own, names)
    url = urlsplit(case["htu"])
    request = {"method": "GET", "host": url.netloc, "target": url.path + "?full=1"}
    try:
        sub = names["caller"](case["token"], SimpleNamespace(**{**request, **changes}))
    except (jwt.PyJWTError, PermissionError) as error:
        print(f"{case['name']} {changes}: refused: {error!r}")
        return False
    print(f"{case['name']} {changes}: accepted")
    return sub == case["subject"]


failed = False
for case in json.load(sys.stdin):
    # The code is for one algorithm.
    known = case["algorithm"] == "ES256"
    if case["name"] == "expired":
        # It was over seconds ago: that is within what clocks may differ.
        failed |= accepts(case) != known
        failed |= accepts(case, clock=Later)
        continue
    failed |= accepts(case) != (case["accepted"] and known)
    for changes in [
        {"method": "POST"},
        {"host": "other.example.org"},
        {"target": "/orders/8?full=1"},
        {"target": "/orders/7"},
        {"target": "/orders/7?full=2"},
        {"target": "/orders/7?"},
    ]:
        failed |= accepts(case, **changes)
sys.exit(1 if failed else 0)
