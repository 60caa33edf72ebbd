// A service in h2 by Node, without TLS: the paths of crates/testkit/src/paced.rs.
// Prints its port as JSON and serves until its standard input ends.
import http2 from "node:http2";

const server = http2.createServer();
server.on("sessionError", () => {});
server.on("stream", (stream, headers) => {
  stream.on("error", () => {});
  const path = headers[":path"];
  const respond = () => {
    if (!stream.destroyed) {
      stream.respond({ ":status": 200 });
      stream.end("ok");
    }
  };
  const read = () => {
    stream.on("end", respond);
    stream.resume();
  };
  if (path === "/stream") {
    stream.resume();
    stream.respond({ ":status": 200 });
    stream.write("tick\n");
    const timer = setInterval(() => stream.write("tick\n"), 20);
    stream.on("close", () => clearInterval(timer));
  } else if (path === "/slow") {
    stream.pause();
    setTimeout(read, 1500);
  } else if (path === "/burst") {
    stream.resume();
    stream.respond({ ":status": 200 });
    let sent = 0;
    const more = () => {
      if (sent === 6000) {
        stream.end();
      } else if (!stream.destroyed) {
        sent += 1;
        stream.write("x".repeat(10 + (sent % 31)), more);
      }
    };
    more();
  } else {
    read();
  }
});
server.listen(0, "127.0.0.1", () => {
  console.log(JSON.stringify({ port: server.address().port }));
});
process.stdin.resume();
process.stdin.on("end", () => process.exit(0));
