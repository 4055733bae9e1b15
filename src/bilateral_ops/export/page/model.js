// A model's file, as bilateral_ops.export.glsl.web writes it: the network as ONNX, sizes and shaders in its metadata.

const KEY = "bilateral_ops.web";
const VERSION = 2;
const METADATA = 14; // the field of ModelProto, of messages { key = 1, value = 2 }

// The fields of a protobuf message, as [number, bytes], those that have a length alone.
function* fields(bytes) {
  let at = 0;
  const varint = () => {
    let value = 0;
    for (let scale = 1; at < bytes.length; scale *= 128) {
      const byte = bytes[at++];
      value += (byte & 127) * scale;
      if (byte < 128) break;
    }
    return value;
  };
  while (at < bytes.length) {
    const tag = varint();
    const kind = tag % 8;
    if (kind === 0) varint();
    else if (kind === 1) at += 8;
    else if (kind === 5) at += 4;
    else if (kind === 2) {
      const length = varint();
      if (at + length > bytes.length) break;
      yield [Math.floor(tag / 8), bytes.subarray(at, at + length)];
      at += length;
    } else break;
  }
}

// What the file says of itself.
export function factsOf(bytes) {
  const text = (part) => new TextDecoder().decode(part);
  for (const [number, entry] of fields(bytes)) {
    if (number !== METADATA) continue;
    const { 1: key, 2: value } = Object.fromEntries(fields(entry));
    if (key && value && text(key) === KEY) {
      const facts = JSON.parse(text(value));
      if (facts.version !== VERSION) throw new Error("This model was written for another version of the page.");
      return facts;
    }
  }
  throw new Error("This is no model for the page: bilateral-ops export MODEL --to web writes them.");
}

export class Model {
  // `ort` is the module onnxruntime-web.
  static async load(ort, bytes) {
    const facts = factsOf(bytes);
    return new Model(ort, facts, await ort.InferenceSession.create(bytes, { executionProviders: ["wasm"] }));
  }

  constructor(ort, facts, session) {
    Object.assign(this, { ort, facts, session });
  }

  // Float32Array of the reduced image's pixels → Float32Array, the grid
  async grid(low) {
    const shape = [1, ...this.facts.net_input, 3];
    const { grid } = await this.session.run({ low: new this.ort.Tensor("float32", low, shape) });
    return grid.data;
  }
}
