// WebGL 2: a photograph reduced for the network, and rendered at full resolution by the grid that the network predicts.
// The shaders are in the model's file; what they read and write is documented in bilateral_ops/export/glsl.py.

const UNIT = { image: 0, grid: 1 };

export class Renderer {
  constructor(canvas) {
    const options = { alpha: true, premultipliedAlpha: false, antialias: false, depth: false, stencil: false };
    const gl = canvas.getContext("webgl2", { ...options, powerPreference: "high-performance" });
    if (!gl) throw new Error("This browser has no WebGL 2, or it is turned off.");
    this.gl = gl;
    this.canvas = canvas;
    // To render into floats; some phones have half floats alone.
    const full = gl.getExtension("EXT_color_buffer_float");
    if (!full && !gl.getExtension("EXT_color_buffer_half_float")) {
      throw new Error("This device can't render into floating-point textures.");
    }
    this.target = full ? gl.RGBA32F : gl.RGBA16F;
    this.largest = gl.getParameter(gl.MAX_TEXTURE_SIZE);
    this.image = this.#texture(gl.TEXTURE_2D, gl.NEAREST);
    this.grids = { exact: null, fast: null };
    this.programs = {};
    this.size = [0, 0];
    gl.pixelStorei(gl.UNPACK_COLORSPACE_CONVERSION_WEBGL, gl.NONE);
    gl.disable(gl.DITHER);
  }

  // The shaders and sizes of a model: what `bilateral_ops.web` in its file says.
  load(facts) {
    const programs = { resize: this.#program(facts.vertex, facts.resize_area) };
    for (const [form, text] of Object.entries(facts.enhance)) programs[form] = this.#program(facts.vertex, text);
    Object.values(this.programs).forEach((program) => this.gl.deleteProgram(program));
    this.programs = programs;
    this.facts = facts;
  }

  // An ImageBitmap, video or canvas; or { width, height, data }, bytes or floats, RGBA, the first row first.
  setImage(source) {
    const gl = this.gl;
    this.size = [source.videoWidth ?? source.width, source.videoHeight ?? source.height];
    gl.bindTexture(gl.TEXTURE_2D, this.image);
    if (source.data instanceof Float32Array) {
      gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA32F, ...this.size, 0, gl.RGBA, gl.FLOAT, source.data);
    } else if (source.data) {
      gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA8, ...this.size, 0, gl.RGBA, gl.UNSIGNED_BYTE, source.data);
    } else {
      gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA8, gl.RGBA, gl.UNSIGNED_BYTE, source);
    }
  }

  // The image in the network's averages over areas: Float32Array, rows of RGB.
  low() {
    const gl = this.gl;
    const [height, width] = this.facts.net_input;
    const rows = this.#texture(gl.TEXTURE_2D, gl.NEAREST);
    const averaged = this.#texture(gl.TEXTURE_2D, gl.NEAREST);
    const uniforms = (program, vertical) => {
      gl.uniform1i(gl.getUniformLocation(program, "vertical"), vertical);
      gl.uniform1i(gl.getUniformLocation(program, "count"), vertical ? height : width);
    };
    this.#into(rows, width, this.size[1], () => this.#draw("resize", this.image, (program) => uniforms(program, 0)));
    const rgba = this.#into(averaged, width, height, () => {
      this.#draw("resize", rows, (program) => uniforms(program, 1));
      return this.#read(width, height);
    });
    gl.deleteTexture(rows);
    gl.deleteTexture(averaged);
    const rgb = new Float32Array(width * height * 3);
    for (let from = 0, to = 0; to < rgb.length; ++from) if (from % 4 !== 3) rgb[to++] = rgba[from];
    return rgb;
  }

  // The grid (Gh, Gw, Gd, Co, L) as the network has it. A strength of 0 leaves the image as it is, 1 is the network's.
  setGrid(values, strength = 1) {
    const gl = this.gl;
    const [height, width, depth, rows, columns] = this.facts.grid_shape;
    const texels = new Float32Array(rows * depth * height * width * 4);
    let from = 0;
    for (let y = 0; y < height; ++y)
      for (let x = 0; x < width; ++x)
        for (let z = 0; z < depth; ++z)
          for (let row = 0; row < rows; ++row)
            for (let column = 0; column < columns; ++column) {
              const to = 4 * (((row * depth + z) * height + y) * width + x) + column;
              texels[to] = values[from++] * strength + (row === column ? 1 - strength : 0);
            }
    for (const form of Object.keys(this.grids)) {
      const exact = form === "exact";
      this.grids[form] ??= this.#texture(gl.TEXTURE_3D, exact ? gl.NEAREST : gl.LINEAR);
      gl.bindTexture(gl.TEXTURE_3D, this.grids[form]);
      const format = exact ? gl.RGBA32F : gl.RGBA16F;
      gl.texImage3D(gl.TEXTURE_3D, 0, format, width, height, rows * depth, 0, gl.RGBA, gl.FLOAT, texels);
    }
  }

  // Render onto the canvas.
  draw(form) {
    const [width, height] = this.size;
    if (this.canvas.width !== width || this.canvas.height !== height) Object.assign(this.canvas, { width, height });
    const { drawingBufferWidth, drawingBufferHeight } = this.gl; // which browsers may make smaller
    if (drawingBufferWidth !== width || drawingBufferHeight !== height) {
      throw new Error(`This browser can't show a picture of ${width} × ${height} pixels.`);
    }
    this.gl.viewport(0, 0, width, height);
    this.#enhance(form, true);
  }

  // The result in floats, RGBA, the first row first. `set(gl, program)` may set uniforms of one's own.
  floats(form, set = () => {}) {
    const texture = this.#texture(this.gl.TEXTURE_2D, this.gl.NEAREST);
    const result = this.#into(texture, ...this.size, () => {
      this.#enhance(form, false, set);
      return this.#read(...this.size);
    });
    this.gl.deleteTexture(texture);
    return result;
  }

  // Milliseconds that a frame takes on the device, without the upload of the image and what is done but once.
  time(form) {
    const wait = () => this.gl.readPixels(0, 0, 1, 1, this.gl.RGBA, this.gl.UNSIGNED_BYTE, new Uint8Array(4));
    const timed = (count) => {
      const start = performance.now();
      for (let i = 0; i < count; ++i) this.draw(form);
      wait();
      return (performance.now() - start) / count;
    };
    return timed(timed(1) > 100 ? 1 : 10);
  }

  #enhance(form, flipped, set = () => {}) {
    const gl = this.gl;
    gl.activeTexture(gl.TEXTURE0 + UNIT.grid);
    gl.bindTexture(gl.TEXTURE_3D, this.grids[form]);
    gl.activeTexture(gl.TEXTURE0);
    this.#draw(form, this.image, (program) => {
      gl.uniform1i(gl.getUniformLocation(program, "grid"), UNIT.grid);
      gl.uniform1i(gl.getUniformLocation(program, "flipped"), flipped ? 1 : 0);
      set(gl, program);
    });
  }

  #draw(name, image, set) {
    const gl = this.gl;
    const program = this.programs[name];
    gl.useProgram(program);
    gl.bindTexture(gl.TEXTURE_2D, image);
    gl.uniform1i(gl.getUniformLocation(program, "image"), UNIT.image);
    set(program);
    gl.drawArrays(gl.TRIANGLES, 0, 3);
  }

  #into(texture, width, height, draw) {
    const gl = this.gl;
    gl.bindTexture(gl.TEXTURE_2D, texture);
    gl.texStorage2D(gl.TEXTURE_2D, 1, this.target, width, height);
    const framebuffer = gl.createFramebuffer();
    gl.bindFramebuffer(gl.FRAMEBUFFER, framebuffer);
    gl.framebufferTexture2D(gl.FRAMEBUFFER, gl.COLOR_ATTACHMENT0, gl.TEXTURE_2D, texture, 0);
    gl.viewport(0, 0, width, height);
    try {
      return draw();
    } finally {
      gl.bindFramebuffer(gl.FRAMEBUFFER, null);
      gl.deleteFramebuffer(framebuffer);
    }
  }

  #read(width, height) {
    const values = new Float32Array(width * height * 4);
    this.gl.readPixels(0, 0, width, height, this.gl.RGBA, this.gl.FLOAT, values);
    return values;
  }

  #texture(kind, filter) {
    const gl = this.gl;
    const texture = gl.createTexture();
    gl.bindTexture(kind, texture);
    gl.texParameteri(kind, gl.TEXTURE_MIN_FILTER, filter);
    gl.texParameteri(kind, gl.TEXTURE_MAG_FILTER, filter);
    for (const wrap of [gl.TEXTURE_WRAP_S, gl.TEXTURE_WRAP_T, gl.TEXTURE_WRAP_R]) {
      gl.texParameteri(kind, wrap, gl.CLAMP_TO_EDGE);
    }
    return texture;
  }

  #program(...texts) {
    const gl = this.gl;
    const program = gl.createProgram();
    const shaders = texts.map((text, i) => {
      const shader = gl.createShader(i ? gl.FRAGMENT_SHADER : gl.VERTEX_SHADER);
      gl.shaderSource(shader, text);
      gl.compileShader(shader);
      gl.attachShader(program, shader);
      return shader;
    });
    gl.linkProgram(program);
    if (!gl.getProgramParameter(program, gl.LINK_STATUS)) {
      const logs = [...shaders.map((shader) => gl.getShaderInfoLog(shader)), gl.getProgramInfoLog(program)];
      throw new Error(`A shader of the model is refused: ${logs.filter(Boolean).join(" ")}`);
    }
    shaders.forEach((shader) => gl.deleteShader(shader));
    return program;
  }
}
