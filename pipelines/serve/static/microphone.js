// Runs where the browser's audio runs, and hands on what it hears in blocks of about a tenth of a second.

class Microphone extends AudioWorkletProcessor {
  held = new Float32Array(4096);
  count = 0;

  process([[samples]]) {
    if (!samples) return true;
    if (this.count + samples.length > this.held.length) {
      this.port.postMessage(this.held.slice(0, this.count));
      this.count = 0;
    }
    this.held.set(samples, this.count);
    this.count += samples.length;
    return true;
  }
}

registerProcessor("microphone", Microphone);
