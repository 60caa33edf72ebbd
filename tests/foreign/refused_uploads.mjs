// Uploads to a path that is refused before its body is read, by Node's http2: each has to
// get its response, and its stream has to close.
import http2 from "node:http2";

const SIZES = [100, 3 * 1024 * 1024];
const TIMES = 40;

const told = await new Promise((resolve) => {
  let text = "";
  process.stdin.on("data", (data) => {
    text += data;
    if (text.includes("\n")) resolve(JSON.parse(text));
  });
});

function upload(size) {
  return new Promise((resolve, reject) => {
    const session = http2.connect(`https://${told.address}`, {
      ca: told.root,
      cert: told.caller.chain,
      key: told.caller.key,
      servername: told.host,
    });
    const timer = setTimeout(() => reject(new Error("the stream does not close")), 10000);
    session.on("error", reject);
    const stream = session.request({
      ":method": "POST",
      ":path": "/nowhere",
      ":authority": told.host,
      "content-length": size,
    });
    let status = 0;
    let content = "";
    stream.on("response", (headers) => (status = headers[":status"]));
    stream.on("data", (data) => (content += data));
    stream.on("error", reject);
    stream.on("close", () => {
      clearTimeout(timer);
      session.close();
      const code = content && JSON.parse(content).code;
      if (status === 404 && code) resolve();
      else reject(new Error(`status ${status}, content ${content.slice(0, 100)}`));
    });
    stream.end(Buffer.alloc(size, "x"));
  });
}

const faults = [];
for (const size of SIZES) {
  for (let n = 0; n < TIMES; n += 1) {
    await upload(size).catch((error) => faults.push(`${size} bytes: ${error.message}`));
  }
}
if (faults.length > 0) {
  console.error(`${faults.length} of ${SIZES.length * TIMES}: ${[...new Set(faults)].join("; ")}`);
}
process.exit(faults.length > 0 ? 1 : 0);
