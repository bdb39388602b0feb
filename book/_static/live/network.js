"use strict";

// The networks: fetched from this site when they are first needed, and run by ONNX Runtime in WebAssembly.
{
  const live = window.deeplabLive;

  // Why nothing can run here; an empty text where it can.
  const obstacle = () => {
    if (location.protocol === "file:") {
      return (
        "This page was opened as a file, and browsers load no network from files. In the book's repository, run " +
        "“make serve” and open the address that it prints."
      );
    }
    if (typeof WebAssembly !== "object" || typeof DecompressionStream !== "function") {
      return (
        "This browser has no WebAssembly, or it is switched off; the network cannot run without it. A current " +
        "Firefox, Chrome, Edge or Safari has it."
      );
    }
    return "";
  };

  const fetchBytes = async (address, what) => {
    let answer;
    try {
      answer = await fetch(address);
    } catch {
      throw new Error(`${what} could not be fetched: this site does not answer. Try again.`);
    }
    if (!answer.ok) {
      const file = address.pathname.split("/").pop();
      throw new Error(`${what} is missing on this site (${file}, status ${answer.status}). Build the book again.`);
    }
    return new Uint8Array(await answer.arrayBuffer());
  };

  // The runtime is stored compressed. A server that unpacks it on the way is no trouble: then the mark is gone.
  const unpacked = (bytes) => {
    if (bytes[0] !== 0x1f || bytes[1] !== 0x8b) return bytes;
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Response(stream).arrayBuffer().then((buffer) => new Uint8Array(buffer));
  };

  class Networks {
    constructor(told, folder) {
      this.told = told;
      this.folder = folder;
      this.runtime = null; // promises: who asks while one is on its way waits for it
      this.sessions = new Map();
    }

    // What is still to be fetched before a network can run, in bytes.
    missing(network) {
      return (this.runtime ? 0 : this.told.runtime.bytes) + (this.sessions.has(network.name) ? 0 : network.bytes);
    }

    async start() {
      const { script, wasm } = this.told.runtime;
      const bytes = await fetchBytes(new URL(wasm, this.folder), "The runtime").then(unpacked);
      let runtime;
      try {
        runtime = await import(new URL(script, this.folder));
      } catch {
        throw new Error(`The runtime's script could not be loaded (${script}). Build the book again.`);
      }
      runtime.env.wasm.wasmBinary = bytes;
      runtime.env.wasm.numThreads = 1; // more need headers that a plain server does not send
      runtime.env.logLevel = "error";
      return runtime;
    }

    async open(network) {
      this.runtime ??= this.start();
      const runtime = await this.runtime.catch((error) => {
        this.runtime = null; // the next try begins anew
        throw error;
      });
      const bytes = await fetchBytes(new URL(network.file, this.folder), `${network.title}’s file`);
      try {
        const session = await runtime.InferenceSession.create(bytes, { executionProviders: ["wasm"] });
        return { runtime, session };
      } catch (error) {
        throw new Error(`${network.title} could not be started in this browser (${error.message}). Try a current one.`);
      }
    }

    // Label a picture: class ids [H, W], and the milliseconds that the network took.
    async run(network, pixels) {
      if (!this.sessions.has(network.name)) this.sessions.set(network.name, this.open(network));
      let opened;
      try {
        opened = await this.sessions.get(network.name);
      } catch (error) {
        this.sessions.delete(network.name);
        throw error;
      }
      const values = live.toTensor(pixels, this.told.mean, this.told.std);
      const images = new opened.runtime.Tensor("float32", values, [1, 3, pixels.height, pixels.width]);
      const before = performance.now();
      const { logits } = await opened.session.run({ images });
      const milliseconds = performance.now() - before;
      return { labels: live.argmax(logits.data, this.told.classes.length), milliseconds };
    }
  }

  Object.assign(live, { obstacle, fetchBytes, Networks });
}
