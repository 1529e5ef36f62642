// Runs the network, apart from the page, so that the page stays quick.
//
// Is told {pixels, width, height}, pixels RGB of 8 bits, and answers {labels,
// milliseconds} or {error}; first, once, {threads} or {error}.

importScripts("runtime/ort.wasm.min.js");

const beside = (name) => new URL(name, self.location).href;

ort.env.wasm.wasmPaths = {
  mjs: beside("runtime/ort-wasm-simd-threaded.js"),
  wasm: beside("runtime/ort-wasm-simd-threaded.wasm"),
};
// Threads share memory, which browsers allow to pages of servers that isolate
// them with two headers; plain file servers do not.
ort.env.wasm.numThreads = self.crossOriginIsolated
  ? Math.min(navigator.hardwareConcurrency || 1, 8) : 1;

const opened = ort.InferenceSession.create(beside("model.onnx"));
opened.then(
  () => postMessage({threads: ort.env.wasm.numThreads}),
  (error) => postMessage({error: text(error)}),
);

onmessage = async ({data}) => {
  try {
    postMessage(await look(await opened, data));
  } catch (error) {
    postMessage({error: text(error)});
  }
};

async function look(session, {pixels, width, height}) {
  const image = new ort.Tensor("uint8", pixels, [1, height, width, 3]);
  const began = performance.now();
  const {labels} = await session.run({image});
  return {labels: labels.data, milliseconds: performance.now() - began};
}

function text(error) {
  return String(error?.message ?? error).split("\n")[0];
}
