"""Talks to a WebSocket service through the gateway with stock `websockets`, on
both sides.

Prints the service's port, reads where the gateway is (one line of JSON), and ends
with 0 when everything was as it should be, 1 when not, 77 without the library.
"""

import asyncio
import json
import os
import ssl
import sys
import tempfile

try:
    from websockets.asyncio.client import connect
    from websockets.asyncio.server import serve
    from websockets.exceptions import ConnectionClosed, InvalidStatus
except ImportError as error:
    print(error, file=sys.stderr)
    sys.exit(77)

LARGE = 1024 * 1024
closed = asyncio.Event()


async def converse(socket):
    """Says what came with the opening, then echoes until told to close."""
    headers = socket.request.headers
    await socket.send(json.dumps({
        "assertions": headers.get_all("Countersign-Assertion"),
        "path": socket.request.path,
        "host": headers["Host"],
    }))
    try:
        async for message in socket:
            if message == "close":
                await socket.close(4001, "as you wish")
                return
            await socket.send(message)
    finally:
        await socket.wait_closed()
        closed.set()


def credentials(gateway, who):
    context = ssl.create_default_context(cadata=gateway["root"])
    with tempfile.TemporaryDirectory() as directory:
        path = os.path.join(directory, "both.pem")
        with open(path, "w", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
            file.write(gateway[who]["chain"] + gateway[who]["key"])
        context.load_cert_chain(path)
    return context


def open_socket(gateway, who, path, **more):
    host, port = gateway["address"].split(":")
    return connect(
        f"wss://{gateway['host']}{path}", host=host, port=int(port), ssl=credentials(gateway, who),
        server_hostname=gateway["host"], proxy=None, max_size=2 * LARGE, open_timeout=15, **more)


async def check_conversation(gateway):
    forged = {"Countersign-Assertion": "forged"}
    async with open_socket(gateway, "caller", "/socket?room=7", additional_headers=forged,
                           subprotocols=["chat", "orders.v1"]) as socket:
        hello = json.loads(await socket.recv())
        assert len(hello["assertions"]) == 1 and hello["assertions"][0].startswith("ey"), hello
        assert hello["path"] == "/socket?room=7", hello
        assert socket.subprotocol == "orders.v1", socket.subprotocol
        for message in ("héllo", b"\0\xff" * 100, "", "x" * LARGE, os.urandom(LARGE)):
            await socket.send(message)
            assert await socket.recv() == message
        # In pieces, with a control frame on the way.
        await socket.send(["one ", "two ", "three"])
        pong = await socket.ping()
        assert await socket.recv() == "one two three"
        await asyncio.wait_for(pong, 15)
        # Many at once arrive in order.
        for number in range(500):
            await socket.send(str(number))
        assert [await socket.recv() for _ in range(500)] == [str(number) for number in range(500)]
        await socket.send("close")
        try:
            await socket.recv()
            raise AssertionError("the socket stayed open")
        except ConnectionClosed as end:
            assert (end.rcvd.code, end.rcvd.reason) == (4001, "as you wish"), end


async def check_departure(gateway):
    """A caller that goes without a word: the service is told."""
    closed.clear()
    socket = await open_socket(gateway, "caller", "/socket", subprotocols=["orders.v1"])
    await socket.recv()
    socket.transport.abort()
    await asyncio.wait_for(closed.wait(), 15)


async def check_refusal(gateway):
    try:
        await open_socket(gateway, "stranger", "/socket")
        raise AssertionError("a stranger was let in")
    except InvalidStatus as refusal:
        response = refusal.response
        assert response.status_code == 403, response
        assert response.headers["Countersign-Reason"] == "caller-not-allowed", response.headers
        assert json.loads(response.body)["code"] == "caller-not-allowed", response.body


async def main():
    async with serve(converse, "127.0.0.1", 0, subprotocols=["orders.v1"],
                     max_size=2 * LARGE) as server:
        port = server.sockets[0].getsockname()[1]
        print(json.dumps({"port": port}), flush=True)
        line = await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
        gateway = json.loads(line)
        await check_conversation(gateway)
        await check_departure(gateway)
        await check_refusal(gateway)


asyncio.run(main())
