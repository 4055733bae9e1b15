// What test_web.py has Node and headless Chromium compute: `node browser.mjs NPM CASES CHROMIUM`.
//
// NPM is the folder with node_modules, CASES one with the page, cases.json, the arrays that it names, and `out`, for
// what comes out. Everything is served from this process, so that nothing needs a network.

import { createReadStream, existsSync, readFileSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import { createRequire } from "node:module";
import { extname, join, normalize } from "node:path";
import { pathToFileURL } from "node:url";

const [npm, folder, chromium] = process.argv.slice(2);
const page = join(folder, "page");
const installed = createRequire(join(npm, "package.json"));
const cases = JSON.parse(readFileSync(join(folder, "cases.json"), "utf8"));
const floats = (name) => new Float32Array(new Uint8Array(readFileSync(join(folder, name))).buffer);
const write = (name, { buffer, byteOffset, byteLength }) =>
  writeFileSync(join(folder, "out", name), new Uint8Array(buffer, byteOffset, byteLength));

// --- The network in Node

const { Model } = await import(pathToFileURL(join(page, "model.js")));
const ort = await import(pathToFileURL(installed.resolve("onnxruntime-web")));
const model = await Model.load(ort, new Uint8Array(readFileSync(join(page, "model.onnx"))));
write("network.bin", await model.grid(floats("low.bin")));

// --- Models by themselves: here, and in the browser

const run = async (ort, { name, inputs }, read) => {
  const session = await ort.InferenceSession.create(new Uint8Array(await read(`${name}.onnx`)));
  const feeds = {};
  for (const [key, [type, shape]] of Object.entries(inputs)) {
    const bytes = await read(`${name}.${key}`);
    feeds[key] = new ort.Tensor(type, new (type === "uint8" ? Uint8Array : Float32Array)(bytes), shape);
  }
  return (await session.run(feeds)).out.data;
};
const read = (name) => new Uint8Array(readFileSync(join(folder, name))).buffer;
for (const each of cases.runs) write(`${each.name}.node`, await run(ort, each, read));

// --- The page and the cases, served: GET from either folder, PUT into the second's

const kinds = { ".html": "text/html", ".js": "text/javascript", ".mjs": "text/javascript", ".css": "text/css" };
kinds[".wasm"] = "application/wasm";
const server = createServer(async (request, response) => {
  const asked = normalize(decodeURIComponent(new URL(request.url, "http://localhost").pathname));
  const path = asked === "/" ? "/index.html" : asked;
  if (request.method === "PUT") {
    const parts = [];
    for await (const part of request) parts.push(part);
    writeFileSync(join(folder, "out", path), Buffer.concat(parts));
    return response.end();
  }
  const file = [page, npm, folder].map((place) => join(place, path)).find(existsSync);
  response.writeHead(file ? 200 : 404, { "Content-Type": kinds[extname(path)] ?? "application/octet-stream" });
  return file ? createReadStream(file).pipe(response) : response.end();
});
await new Promise((done) => server.listen(0, "127.0.0.1", done));
const origin = `http://127.0.0.1:${server.address().port}`;

const software = ["--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--no-sandbox"];
const camera = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"];
const { default: playwright } = await import(pathToFileURL(installed.resolve("playwright-core")));
const browser = await playwright.chromium.launch({ executablePath: chromium, args: [...software, ...camera] });
const failures = [];
try {
  const context = await browser.newContext({ viewport: { width: 1100, height: 920 } });
  const tab = await context.newPage();
  tab.on("pageerror", (error) => failures.push(String(error)));
  tab.on("console", (line) => line.type() === "error" && failures.push(line.text()));

  // --- Shaders and reductions by themselves
  await tab.goto(`${origin}/blank.html`);
  await tab.evaluate(async (list) => {
    const { Renderer } = await import("/renderer.js");
    const whole = new Renderer(document.createElement("canvas"));
    const { getExtension } = WebGL2RenderingContext.prototype;
    WebGL2RenderingContext.prototype.getExtension = function (name) {
      return name === "EXT_color_buffer_float" ? null : getExtension.call(this, name);
    };
    const half = new Renderer(document.createElement("canvas"));
    const fetched = async (name) => (await fetch(`/${name}`)).arrayBuffer();
    const put = (name, body) => fetch(`/${name}`, { method: "PUT", body });
    for (const { name, facts, image, bytes, size, grid, values, window, halves } of list) {
      const renderer = halves ? half : whole;
      renderer.load(facts);
      const data = new (bytes ? Uint8Array : Float32Array)(await fetched(image));
      renderer.setImage({ width: size[0], height: size[1], data });
      if (!grid) {
        await put(`${name}.bin`, renderer.low());
        continue;
      }
      renderer.setGrid(new Float32Array(await fetched(grid)));
      const set = (gl, program) => {
        if (window) gl.uniform4i(gl.getUniformLocation(program, "window"), ...window);
        for (const [uniform, { length, data }] of Object.entries(values)) {
          const where = gl.getUniformLocation(program, uniform);
          gl[`uniform${length}fv`](where, data);
        }
      };
      for (const form of Object.keys(facts.enhance)) await put(`${name}.${form}.bin`, renderer.floats(form, set));
      if (renderer.gl.getError()) throw new Error(`${name}: an error of WebGL`);
    }
  }, cases.shaders);
  const inTheBrowser = async ({ list, source }) => {
    const folder = `${location.origin}/node_modules/onnxruntime-web/dist/`;
    const ort = await import(`${folder}ort.wasm.bundle.min.mjs`);
    ort.env.wasm.wasmPaths = folder;
    const run = (0, eval)(source);
    const read = async (name) => (await fetch(`/${name}`)).arrayBuffer();
    for (const each of list) {
      await fetch(`/${each.name}.chromium`, { method: "PUT", body: await run(ort, each, read) });
    }
  };
  await tab.evaluate(inTheBrowser, { list: cases.runs, source: run.toString() });

  // --- The page, as someone uses it
  const state = (name, value) => tab.waitForSelector(`body[data-${name}="${value}"]`, { timeout: 60000 });
  const saved = async (name) => {
    const [download] = await Promise.all([tab.waitForEvent("download"), tab.click("#download")]);
    await download.saveAs(join(folder, "out", name));
  };
  await tab.goto(`${origin}/?ort=node_modules/onnxruntime-web/dist/&model=none`);
  await state("state", "ready");
  await tab.screenshot({ path: join(folder, "out", "empty.png") });
  await tab.setInputFiles("#file", join(folder, "no-model.onnx"));
  await tab.waitForSelector("#message:not([hidden])");
  write("message.txt", new TextEncoder().encode(await tab.textContent("#message")));
  failures.splice(0); // that the model is missing, and is none, are errors of the console
  await tab.setInputFiles("#file", join(page, "model.onnx"));
  await tab.waitForFunction(() => document.getElementById("model").textContent.includes("×"));
  await tab.setInputFiles("#file", join(folder, "photo.png"));
  await state("drawn", "exact");
  await saved("exact.png");
  await tab.mouse.move(0, 0);
  await tab.screenshot({ path: join(folder, "out", "page.png") });
  for (const name of [...cases.models, "model"]) {
    await tab.setInputFiles("#file", join(name === "model" ? page : folder, `${name}.onnx`));
    await tab.waitForFunction((text) => document.getElementById("message").textContent.includes(text), `${name}.onnx`);
    if (name !== "model") await saved(`${name}.png`);
  }
  await tab.click("text=Fast");
  await state("drawn", "fast");
  await saved("fast.png");
  await tab.fill("#strength", "0");
  await tab.click("text=Exact");
  await state("drawn", "exact");
  await saved("strength-0.png");
  await tab.click("#camera");
  await tab.waitForFunction(() => document.getElementById("render").textContent.includes("frames/s"), null, {
    timeout: 60000,
  });
  await tab.click("#camera");

  // Opened anew, on a phone, with the model that lies beside the page
  await tab.setViewportSize({ width: 390, height: 844 });
  await tab.goto(`${origin}/?ort=node_modules/onnxruntime-web/dist/`);
  await state("state", "ready");
  await tab.setInputFiles("#file", join(folder, "photo.png"));
  await state("drawn", "exact");
  await saved("beside.png");
  await tab.screenshot({ path: join(folder, "out", "phone.png") });
} finally {
  await browser.close();
  server.close();
}
writeFileSync(join(folder, "out", "failures.json"), JSON.stringify(failures));
process.exit(0);
