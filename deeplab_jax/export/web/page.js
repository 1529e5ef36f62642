// The page: where pictures come from, and what becomes of their labels.

import {Network} from "./network.js";
import {labelPng} from "./png.js";
import {View} from "./view.js";

const element = (id) => document.getElementById(id);
const LIMITS = [.25, .5, 1, 2, 4];  // megapixels
const LIVE = .25;  // the same, while the camera runs

const network = new Network();
let facts, view;
let last = null;  // {name, labels, width, height} of what is shown
let given = null;  // {source, name, note}, to be looked at again if need be
let stream = null;  // of the camera, while it runs

start().catch((error) =>
  tell(`The page cannot start: ${error.message}`, true));

async function start() {
  facts = await (await fetch("model.json")).json();
  view = new View(facts.class_names, facts.colors);
  describe();
  listen();
  tell(`Loading the network, ${megabytes(facts.bytes)} …`);
  const {threads} = await network.open();
  element("time").title = `on ${threads} thread${threads > 1 ? "s" : ""}`;
  if (!given) await lookAtSample();
}

function describe() {
  const {class_names: names, colors, certificate} = facts;
  element("network").textContent = [
    `${facts.backbone} with head ${facts.head}`, `${names.length} classes`,
    `output stride ${facts.output_stride}`, megabytes(facts.bytes),
  ].join(" · ");
  element("license").textContent = facts.license ?? "none is stated";
  element("source").textContent = facts.source ? `Source: ${facts.source}` : "";
  element("proof").textContent = certificate;
  element("runtime").textContent = facts.runtime;
  element("format").textContent = names.length > 256
    ? "A grey PNG of 16 bits whose values are the numbers of the classes."
    : "A PNG of 8 bits: each value is the number of a class, the palette its "
      + "colour.";
  for (const limit of LIMITS) {
    element("limit").add(new Option(`${limit} MP`, limit));
  }
  element("limit").value = 1;
  element("limit").disabled = facts.sizes !== "any";
  element("limits").textContent = facts.sizes === "any"
    ? "Pictures above the limit are shrunk before the network sees them, and "
      + "their label maps have the shrunk size. The camera takes "
      + `${LIVE} megapixels at most.`
    : `Every picture is stretched to ${facts.sizes[0][1]} × `
      + `${facts.sizes[0][0]} pixels, the size of the file.`;
}

function listen() {
  element("file").addEventListener("change", ({target}) => {
    if (target.files.length) open(target.files[0]);
    target.value = "";  // so that the same file can be chosen again
  });
  element("sample").addEventListener("click", lookAtSample);
  element("camera").addEventListener("click", () =>
    stream ? stopCamera() : startCamera());
  element("save").addEventListener("click", save);
  element("limit").addEventListener("change", () => given && look(given));
  addEventListener("paste", ({clipboardData}) => {
    if (clipboardData.files.length) open(clipboardData.files[0]);
  });
  addEventListener("dragover", (event) => {
    event.preventDefault();
    element("drop").hidden = false;
  });
  addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) element("drop").hidden = true;
  });
  addEventListener("drop", (event) => {
    event.preventDefault();
    element("drop").hidden = true;
    if (event.dataTransfer.files.length) open(event.dataTransfer.files[0]);
  });
}

async function lookAtSample() {
  const answer = await fetch("sample.jpg");
  const sample = new File([await answer.blob()], "sample.jpg");
  await open(sample, facts.sample_note);
}

// Looks at a picture that the user gave.
async function open(file, note = "") {
  stopCamera();
  let source;
  try {
    // As files are decoded elsewhere: turned as cameras say, colours as stored.
    source = await createImageBitmap(file, {
      imageOrientation: "from-image", colorSpaceConversion: "none",
    });
  } catch {
    tell(`${file.name} is no picture that this browser can read`, true);
    return;
  }
  given = {source, name: file.name, note};
  await look(given);
}

// Looks at {source, name, note}: a bitmap, or a video as it is now; the note is
// what there is to say of it.
async function look({source, name, note}) {
  const wide = source.videoWidth ?? source.width;
  const high = source.videoHeight ?? source.height;
  const [width, height] = sizeOf(wide, high);
  const picture = new OffscreenCanvas(width, height);
  const context = picture.getContext("2d", {willReadFrequently: true});
  context.fillStyle = "white";  // below what is transparent
  context.fillRect(0, 0, width, height);
  context.imageSmoothingQuality = "high";
  context.drawImage(source, 0, 0, width, height);
  const pixels = withoutAlpha(context.getImageData(0, 0, width, height).data);
  const live = stream !== null;
  element("frame").classList.toggle("busy", !live);
  if (!live) tell(`Looking at ${name} …`);
  try {
    const answer = await network.look({pixels, width, height});
    if (!answer || live && !stream) return;
    show({name, width, height, labels: answer.labels}, picture, answer);
    const shrunk = width === wide && height === high
      ? "" : `, ${wide} × ${high} pixels, resized to ${width} × ${height}`;
    tell(live ? "The camera is on." : `${name}${shrunk}${note}`);
  } catch (error) {
    stopCamera();
    tell(`${name} failed at ${width} × ${height} pixels (${error.message}); a `
      + "smaller limit may help", true);
  }
  element("frame").classList.remove("busy");
}

// The size at which the network sees a picture.
function sizeOf(width, height) {
  if (facts.sizes !== "any") return [facts.sizes[0][1], facts.sizes[0][0]];
  let limit = element("limit").value * 1e6;
  if (stream) limit = Math.min(limit, LIVE * 1e6);
  const scale = Math.min(1, Math.sqrt(limit / (width * height)));
  return [width, height].map((side) => Math.max(1, Math.floor(side * scale)));
}

function withoutAlpha(rgba) {
  const rgb = new Uint8Array(rgba.length / 4 * 3);
  for (let from = 0, to = 0; from < rgba.length; from += 4) {
    rgb[to++] = rgba[from];
    rgb[to++] = rgba[from + 1];
    rgb[to++] = rgba[from + 2];
  }
  return rgb;
}

function show(result, picture, {labels, milliseconds}) {
  last = result;
  view.show(picture, labels);
  element("picture").setAttribute("aria-label", `Picture: ${result.name}`);
  element("time").textContent = `${Math.round(milliseconds)} ms`;
  element("size").textContent = `${result.width} × ${result.height}`;
  element("save").disabled = false;
}

async function startCamera() {
  const devices = navigator.mediaDevices;
  if (!devices) {
    tell("Browsers give the camera to https and localhost alone.", true);
    return;
  }
  try {
    stream = await devices.getUserMedia({video: {facingMode: "environment"}});
  } catch (error) {
    tell(`No camera: ${error.message}`, true);
    return;
  }
  element("camera").setAttribute("aria-pressed", true);
  element("camera").textContent = "Stop camera";
  const source = document.createElement("video");
  [source.srcObject, source.muted, source.playsInline] = [stream, true, true];
  await source.play();
  given = null;
  while (stream) await look({source, name: "camera", note: ""});
}

function stopCamera() {
  if (!stream) return;
  for (const track of stream.getTracks()) track.stop();
  stream = null;
  element("camera").setAttribute("aria-pressed", false);
  element("camera").textContent = "Camera";
  tell("The last picture of the camera");
}

async function save() {
  const {name, labels, width, height} = last;
  const png = await labelPng(labels, width, height, facts.colors);
  const link = document.createElement("a");
  link.href = URL.createObjectURL(png);
  link.download = `${name.replace(/\.[^.]*$/, "")}_labels.png`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

function tell(text, wrong = false) {
  const status = element("status");
  if (status.textContent !== text) status.textContent = text;
  status.classList.toggle("wrong", wrong);
}

function megabytes(bytes) {
  return `${(bytes / 1e6).toFixed(1)} MB`;
}
