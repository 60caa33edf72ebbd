"""A gRPC service by grpcio: the paths of crates/testkit/src/paced.rs as methods.

Prints its port as JSON and serves until its standard input ends; 77 without grpcio.
"""

import json
import sys
import time
from concurrent import futures

try:
    import grpc
except ImportError as error:
    print(error, file=sys.stderr)
    sys.exit(77)


def stream(request, context):
    while context.is_active():
        yield b"tick"
        time.sleep(0.02)


def slow(requests, context):
    time.sleep(1.5)
    return b"%d" % sum(len(request) for request in requests)


def burst(request, context):
    for number in range(6000):
        yield b"x" * (5 + number % 31)


def hello(request, context):
    return b"ok"


service = grpc.method_handlers_generic_handler("paced.Paced", {
    "stream": grpc.unary_stream_rpc_method_handler(stream),
    "slow": grpc.stream_unary_rpc_method_handler(slow),
    "burst": grpc.unary_stream_rpc_method_handler(burst),
    "hello": grpc.unary_unary_rpc_method_handler(hello),
    "empty": grpc.unary_unary_rpc_method_handler(hello),
})
server = grpc.server(futures.ThreadPoolExecutor(max_workers=256))
server.add_generic_rpc_handlers((service,))
port = server.add_insecure_port("127.0.0.1:0")
server.start()
print(json.dumps({"port": port}), flush=True)
sys.stdin.read()
server.stop(None)
