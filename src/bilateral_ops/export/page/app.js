// The page: files, the camera, the slider. The work is done in model.js (the network) and renderer.js (WebGL).

import { Model } from "./model.js";
import { Renderer } from "./renderer.js";

// Where onnxruntime-web is: ?ort=node_modules/onnxruntime-web/dist/ after `npm install`, or this CDN.
const ORT = "https://cdn.jsdelivr.net/npm/onnxruntime-web@1.30.0/dist/";

// Pixels a side of what is shown as it was, at most: some browsers have no larger canvases.
const SHOWN = 4096;

const query = new URLSearchParams(location.search);
const $ = (id) => document.getElementById(id);
const state = { ort: null, model: null, renderer: null, grid: null, name: "", kind: "", camera: null };

async function start() {
  try {
    state.renderer = new Renderer($("after"));
    const base = new URL(query.get("ort") ?? ORT, location.href).href;
    state.ort = await import(`${base}ort.wasm.bundle.min.mjs`);
    state.ort.env.wasm.wasmPaths = base;
  } catch (error) {
    document.body.dataset.state = "failed";
    $("model").textContent = "–";
    return say(state.renderer ? `onnxruntime-web could not be loaded: ${error.message}` : error.message, true);
  }
  const response = await fetch(query.get("model") ?? "model.onnx").catch(() => null);
  if (response?.ok) await setModel(new Uint8Array(await response.arrayBuffer()), "model.onnx");
  else $("model").textContent = "drop a model.onnx";
  document.body.dataset.state = "ready";
}

// Says what went wrong, or what is going on, for some seconds or until something else is said.
let told = 0;
function say(text, stays = false) {
  clearTimeout(told);
  $("message").textContent = text;
  $("message").hidden = !text;
  if (text && !stays) told = setTimeout(() => say(""), 6000);
}

// One thing at a time: the network can't be called twice at once.
let last = Promise.resolve();
function attempt(work) {
  last = last.then(work).catch((error) => {
    console.error(error);
    say(error.message);
  });
  return last;
}

// --- The model and the photograph

async function setModel(bytes, name) {
  const model = await Model.load(state.ort, bytes);
  state.renderer.load(model.facts);
  state.model?.session.release();
  state.model = model;
  state.grid = null;
  const [height, width, depth] = model.facts.grid_shape;
  $("model").textContent = `${width} × ${height} × ${depth}, ${model.facts.guide}`;
  $("model").title = name;
  if (state.name) await enhance();
}

async function openFile(file) {
  if (file.name.toLowerCase().endsWith(".onnx")) {
    await setModel(new Uint8Array(await file.arrayBuffer()), file.name);
    return say(`${file.name} is the model now.`);
  }
  const options = { colorSpaceConversion: "none", premultiplyAlpha: "none", imageOrientation: "from-image" };
  let bitmap = await createImageBitmap(file, options).catch(() => null);
  if (!bitmap) return say(`This browser can't read ${file.name} as a picture.`);
  const most = state.renderer.largest;
  const side = Math.max(bitmap.width, bitmap.height);
  if (side > most) {
    const [resizeWidth, resizeHeight] = [bitmap.width, bitmap.height].map((n) => Math.round((n * most) / side));
    bitmap.close();
    bitmap = await createImageBitmap(file, { ...options, resizeWidth, resizeHeight, resizeQuality: "high" });
    say(`Reduced to ${resizeWidth} × ${resizeHeight}: this device has no larger textures.`);
  }
  if (side <= most) say("");
  stopCamera();
  state.name = file.name.replace(/\.[^.]*$/, "");
  state.kind = file.type === "image/png" ? "image/png" : "image/jpeg";
  show(bitmap);
  bitmap.close();
  await enhance();
}

function show(source) {
  const width = source.videoWidth ?? source.width;
  const height = source.videoHeight ?? source.height;
  const original = $("original");
  const scale = Math.min(1, SHOWN / Math.max(width, height));
  const [w, h] = [width, height].map((n) => Math.max(1, Math.round(n * scale)));
  if (original.width !== w || original.height !== h) Object.assign(original, { width: w, height: h });
  original.getContext("2d").drawImage(source, 0, 0, w, h);
  state.renderer.setImage(source);
  $("size").textContent = `${width} × ${height}`;
  $("empty").hidden = true;
  $("frame").hidden = false;
  fit();
}

async function enhance() {
  if (!state.model) return say("There is no model: drop a model.onnx that bilateral-ops export MODEL --to web wrote.", true);
  const start = performance.now();
  const low = state.renderer.low();
  const reduced = performance.now();
  state.grid = await state.model.grid(low);
  milliseconds("reduce", reduced - start);
  milliseconds("network", performance.now() - reduced);
  draw();
}

function draw(measured = true) {
  if (!state.grid) return;
  const form = document.querySelector("input[name=form]:checked").value;
  state.renderer.setGrid(state.grid, Number($("strength").value));
  if (measured) milliseconds("render", state.renderer.time(form));
  else state.renderer.draw(form);
  $("download").disabled = false;
  document.body.dataset.drawn = form;
}

function milliseconds(id, value) {
  $(id).textContent = `${value < 10 ? value.toFixed(1) : Math.round(value)} ms`;
}

async function download() {
  draw(false); // a canvas of WebGL is empty once it has been shown
  const blob = await new Promise((done) => $("after").toBlob(done, state.kind, 0.95));
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = `${state.name}-enhanced.${state.kind === "image/png" ? "png" : "jpg"}`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
}

// --- The camera

async function startCamera() {
  const size = { width: { ideal: 1920 }, height: { ideal: 1080 } };
  if (!navigator.mediaDevices) return say("Browsers give the camera to pages of https and of localhost alone.");
  const wanted = { video: { facingMode: "environment", ...size } };
  const stream = await navigator.mediaDevices.getUserMedia(wanted).catch(({ message }) => {
    throw new Error(`There is no camera: ${message}.`);
  });
  const video = Object.assign(document.createElement("video"), { muted: true, playsInline: true, srcObject: stream });
  await video.play();
  state.camera = { stream };
  state.name = "camera";
  state.kind = "image/jpeg";
  $("camera").setAttribute("aria-pressed", "true");
  const { camera } = state;
  let times = [];
  const frame = async (now) => {
    if (state.camera !== camera) return;
    await attempt(async () => {
      show(video);
      const low = state.renderer.low();
      if (state.model) state.grid = await state.model.grid(low);
      draw(false);
      times = [...times.slice(-29), now];
      const each = (times.at(-1) - times[0]) / (times.length - 1);
      for (const id of ["reduce", "network"]) $(id).textContent = "–";
      $("render").textContent = times.length > 1 ? `${(1000 / each).toFixed(each < 100 ? 0 : 1)} frames/s` : "–";
    });
    requestAnimationFrame(frame);
  };
  requestAnimationFrame(frame);
}

function stopCamera() {
  state.camera?.stream.getTracks().forEach((track) => track.stop());
  state.camera = null;
  $("camera").setAttribute("aria-pressed", "false");
}

// --- Controls

const actions = {
  open: () => $("file").click(),
  camera: () => (state.camera ? stopCamera() : attempt(startCamera)),
  download: () => attempt(download),
};
for (const button of document.querySelectorAll("[data-action]")) {
  button.addEventListener("click", actions[button.dataset.action]);
}
$("file").addEventListener("change", () => {
  const [file] = $("file").files;
  $("file").value = "";
  if (file) attempt(() => openFile(file));
});
$("split").addEventListener("input", () => $("frame").style.setProperty("--split", `${$("split").value / 10}%`));
$("strength").addEventListener("input", () => {
  $("strength-value").textContent = Number($("strength").value).toFixed(2);
  requestAnimationFrame(() => draw(false));
});
for (const input of document.querySelectorAll("input[name=form]")) input.addEventListener("change", () => draw());

let depth = 0; // of elements that what is dragged is over
addEventListener("dragenter", () => document.body.classList.toggle("dragging", ++depth > 0));
addEventListener("dragleave", () => document.body.classList.toggle("dragging", --depth > 0));
addEventListener("dragover", (event) => event.preventDefault());
addEventListener("drop", (event) => {
  event.preventDefault();
  depth = 0;
  document.body.classList.remove("dragging");
  for (const file of event.dataTransfer.files) attempt(() => openFile(file));
});

// As large as the stage has room for.
function fit() {
  const { width, height } = $("original");
  const { clientWidth, clientHeight } = $("stage");
  const scale = Math.min(clientWidth / width, clientHeight / height);
  Object.assign($("frame").style, { width: `${width * scale}px`, height: `${height * scale}px` });
}
new ResizeObserver(() => $("frame").hidden || fit()).observe($("stage"));
$("after").addEventListener("webglcontextlost", () => say("The graphics device was lost. Load the page again.", true));

attempt(start);
