"""Uploads to a path that is refused before its body is read, by httpx over HTTP/2: each
has to get its response."""

import json
import ssl
import sys
import tempfile

try:
    import h2  # noqa: F401
    import httpx
except ImportError:
    sys.exit(77)

SIZES = [100, 3 * 1024 * 1024]
TIMES = 40


def main():
    told = json.loads(sys.stdin.readline())
    context = ssl.create_default_context(cadata=told["root"])
    context.check_hostname = False
    with tempfile.NamedTemporaryFile("w") as file:
        file.write(told["caller"]["chain"] + told["caller"]["key"])
        file.flush()
        context.load_cert_chain(file.name)
    faults = []
    for size in SIZES:
        for _ in range(TIMES):
            try:
                with httpx.Client(http1=False, http2=True, verify=context, timeout=10) as client:
                    response = client.post(
                        f"https://{told['address']}/nowhere",
                        headers={"host": told["host"]},
                        extensions={"sni_hostname": told["host"]},
                        content=b"x" * size,
                    )
                if response.status_code != 404 or not response.json()["code"]:
                    faults.append(f"{size} bytes: {response.status_code} {response.text[:100]}")
            except httpx.HTTPError as error:
                faults.append(f"{size} bytes: {error!r}")
    if faults:
        sys.exit(f"{len(faults)} of {len(SIZES) * TIMES}: {'; '.join(sorted(set(faults)))}")


main()
