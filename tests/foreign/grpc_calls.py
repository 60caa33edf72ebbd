"""Calls a gRPC service through the gateway with stock grpcio, on both sides.

Prints the service's port, reads where the gateway is (one line of JSON), and ends
with 0 when everything was as it should be, 1 when not, 77 without grpcio.
"""

import json
import sys
import threading
from concurrent import futures

try:
    import grpc
except ImportError as error:
    print(error, file=sys.stderr)
    sys.exit(77)

# Methods take and give octets: what a message means is nobody's business here.
UNARY, COLLECT, REPEAT, CHAT, FAIL, WAIT = (
    f"/shop.Orders/{name}" for name in ("Unary", "Collect", "Repeat", "Chat", "Fail", "Wait")
)
LARGE = 3 * 1024 * 1024
waiting, cancelled = threading.Event(), threading.Event()
remaining = []


def unary(request, context):
    seen = [value for name, value in context.invocation_metadata() if name == "countersign-assertion"]
    context.send_initial_metadata((("x-assertions", json.dumps(seen)),))
    context.set_trailing_metadata((("x-checksum", "abc"), ("x-forwarded-for", "1.2.3.4"),
                                   ("countersign-reason", "forged"), ("x-binary-bin", b"\0\xff")))
    return request[::-1]


def collect(requests, context):
    return sum(len(request) for request in requests).to_bytes(8, "big")


def repeat(request, context):
    for number in range(100):
        yield request + bytes([number])


def chat(requests, context):
    for request in requests:
        yield request.upper()


def fail(request, context):
    context.set_trailing_metadata((("x-why", "gone"),))
    context.abort(grpc.StatusCode.NOT_FOUND, "no order “7”, 100% sure")


def wait(request, context):
    remaining.append(context.time_remaining())
    context.add_callback(cancelled.set)
    waiting.set()
    cancelled.wait(30)
    return b""


def serve():
    server = grpc.server(futures.ThreadPoolExecutor(8),
                         options=[("grpc.max_receive_message_length", 2 * LARGE)])
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("shop.Orders", {
        "Unary": grpc.unary_unary_rpc_method_handler(unary),
        "Collect": grpc.stream_unary_rpc_method_handler(collect),
        "Repeat": grpc.unary_stream_rpc_method_handler(repeat),
        "Chat": grpc.stream_stream_rpc_method_handler(chat),
        "Fail": grpc.unary_unary_rpc_method_handler(fail),
        "Wait": grpc.unary_unary_rpc_method_handler(wait),
    }),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    return server, port


def fields(message):
    """Number and content of each field of a protobuf message."""
    at = 0

    def varint():
        nonlocal at
        value = shift = 0
        while True:
            octet = message[at]
            at += 1
            value |= (octet & 0x7F) << shift
            shift += 7
            if octet < 0x80:
                return value

    while at < len(message):
        tag = varint()
        if tag & 7 == 0:
            yield tag >> 3, varint()
        else:
            length = varint()
            yield tag >> 3, message[at:at + length]
            at += length


def error_info(error):
    """Reason and domain of the google.rpc.ErrorInfo in an error's details."""
    details = dict(error.trailing_metadata())["grpc-status-details-bin"]
    status = dict(fields(details))
    assert status[1] == error.code().value[0], status
    detail = dict(fields(status[3]))
    assert detail[1] == b"type.googleapis.com/google.rpc.ErrorInfo", detail
    info = dict(fields(detail[2]))
    metadata = dict(fields(info[3]))
    assert metadata[1] == b"request_id" and metadata[2], metadata
    return info[1].decode(), info[2].decode()


def failure(call):
    try:
        call()
    except grpc.RpcError as error:
        return error
    raise AssertionError("the call succeeded")


class Client:
    """A channel to the gateway under one certificate."""

    def __init__(self, gateway, who):
        credentials = grpc.ssl_channel_credentials(
            gateway["root"].encode(), gateway[who]["key"].encode(), gateway[who]["chain"].encode())
        self.channel = grpc.secure_channel(gateway["address"], credentials, options=[
            ("grpc.ssl_target_name_override", gateway["host"]),
            ("grpc.default_authority", gateway["host"]),
            ("grpc.max_receive_message_length", 2 * LARGE),
        ])
        self.unary = self.channel.unary_unary(UNARY)
        self.collect = self.channel.stream_unary(COLLECT)
        self.repeat = self.channel.unary_stream(REPEAT)
        self.chat = self.channel.stream_stream(CHAT)
        self.fail = self.channel.unary_unary(FAIL)
        self.wait = self.channel.unary_unary(WAIT)


def check_unary(client):
    forged = (("countersign-assertion", "forged"), ("countersign_assertion", "forged"))
    answer, call = client.unary.with_call(b"abc", timeout=20, metadata=forged)
    assert answer == b"cba", answer
    seen = json.loads(dict(call.initial_metadata())["x-assertions"])
    assert len(seen) == 1 and seen[0].startswith("ey"), seen
    trailers = dict(call.trailing_metadata())
    assert trailers["x-checksum"] == "abc" and trailers["x-binary-bin"] == b"\0\xff", trailers
    assert "x-forwarded-for" not in trailers and "countersign-reason" not in trailers, trailers
    packed = client.unary(b"z" * 10000, timeout=20, compression=grpc.Compression.Gzip)
    assert packed == b"z" * 10000
    large = bytes(range(256)) * (LARGE // 256)
    assert client.unary(large, timeout=20) == large[::-1]


def check_streams(client):
    total = client.collect((b"x" * number for number in range(200)), timeout=20)
    assert int.from_bytes(total, "big") == sum(range(200)), total
    pieces = list(client.repeat(b"n", timeout=20))
    assert pieces == [b"n" + bytes([number]) for number in range(100)], pieces
    # In lockstep: each answer comes before the next message is sent.
    turn = threading.Semaphore(1)

    def questions():
        for number in range(20):
            assert turn.acquire(timeout=15), "no answer came"
            yield f"message {number}".encode()

    answers = []
    for answer in client.chat(questions(), timeout=20):
        answers.append(answer)
        turn.release()
    assert answers == [f"MESSAGE {number}".encode() for number in range(20)], answers


def check_failures(client):
    error = failure(lambda: client.fail(b"", timeout=20))
    assert error.code() == grpc.StatusCode.NOT_FOUND, error
    assert error.details() == "no order “7”, 100% sure", error.details()
    assert dict(error.trailing_metadata())["x-why"] == "gone", error.trailing_metadata()


def check_deadline(client):
    waiting.clear()
    cancelled.clear()
    error = failure(lambda: client.wait(b"", timeout=1.5))
    assert error.code() == grpc.StatusCode.DEADLINE_EXCEEDED, error
    # The service knew the deadline (grpcio rounds it up a little), and learns that
    # nobody waits any more.
    assert waiting.is_set() and 0 < remaining[-1] < 2, remaining
    assert cancelled.wait(15), "the service was not told"
    waiting.clear()
    cancelled.clear()
    call = client.wait.future(b"", timeout=20)
    assert waiting.wait(15), "the call did not arrive"
    call.cancel()
    assert cancelled.wait(15), "the service was not told of the cancellation"


def check_refusals(gateway, client, server):
    error = failure(lambda: Client(gateway, "stranger").unary(b"", timeout=20))
    assert error.code() == grpc.StatusCode.PERMISSION_DENIED, error
    assert error_info(error) == ("caller-not-allowed", "countersign"), error
    error = failure(lambda: list(Client(gateway, "stranger").chat(iter([b"a"]), timeout=20)))
    assert error.code() == grpc.StatusCode.PERMISSION_DENIED, error
    assert error_info(error) == ("caller-not-allowed", "countersign"), error
    server.stop(None).wait()
    error = failure(lambda: client.unary(b"", timeout=20))
    assert error.code() == grpc.StatusCode.UNAVAILABLE, error
    assert error_info(error) == ("upstream-unavailable", "countersign"), error


def main():
    server, port = serve()
    print(json.dumps({"port": port}), flush=True)
    gateway = json.loads(sys.stdin.readline())
    client = Client(gateway, "caller")
    check_unary(client)
    check_streams(client)
    check_failures(client)
    check_deadline(client)
    check_refusals(gateway, client, server)


main()
