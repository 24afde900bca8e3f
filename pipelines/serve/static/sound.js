// Recordings in the browser: decoded for the picture, played, and taken from the microphone.

const RATE = 16000; // what the model hears
const LONG_S = 1200; // from here on half of it, for the memory's sake
const LONGEST_S = 7200; // no picture beyond

// { rate, seconds, channels: [Float32Array] }, or an Error that says why there is no picture.
export async function decode(file, seconds) {
  if (seconds > LONGEST_S) throw new Error("The recording is too long to draw.");
  const context = new OfflineAudioContext(1, 1, seconds > LONG_S ? RATE / 2 : RATE);
  let buffer;
  try {
    buffer = await context.decodeAudioData(await file.arrayBuffer());
  } catch {
    throw new Error("This browser cannot decode the file, so there is no picture of it and it cannot be played here.");
  }
  const channels = Array.from({ length: buffer.numberOfChannels }, (_, i) => buffer.getChannelData(i));
  return { rate: buffer.sampleRate, seconds: buffer.duration, channels };
}

// Plays `audio`, of a call only the leg that is looked at.
export class Player {
  constructor(audio) {
    this.audio = audio;
    this.leg = 0;
  }

  open(file) {
    this.audio.pause();
    URL.revokeObjectURL(this.audio.src);
    this.audio.src = URL.createObjectURL(file);
    return new Promise((resolve) => {
      const told = () => resolve(Number.isFinite(this.audio.duration) ? this.audio.duration : 0);
      this.audio.addEventListener("loadedmetadata", told, { once: true });
      this.audio.addEventListener("error", told, { once: true });
    });
  }

  listen(leg, legs) {
    this.leg = leg;
    if (legs > 1 && !this.splitter) {
      this.context = new AudioContext();
      this.splitter = this.context.createChannelSplitter(32);
      this.out = new GainNode(this.context, { channelCount: 1, channelCountMode: "explicit" });
      this.out.connect(this.context.destination);
      this.context.createMediaElementSource(this.audio).connect(this.splitter);
    }
    if (!this.splitter) return;
    this.splitter.disconnect();
    this.splitter.connect(this.out, leg);
  }

  async play(from) {
    if (from !== undefined) this.audio.currentTime = from;
    await this.context?.resume();
    await this.audio.play();
  }
}

// The microphone as it is: what browsers do to calls (echo, noise, gain) would be judged with the voice.
export class Recorder {
  static async start(onLevel) {
    if (!navigator.mediaDevices) throw new Error("Browsers record only from pages on https or on localhost.");
    const raw = { echoCancellation: false, noiseSuppression: false, autoGainControl: false };
    const recorder = new Recorder();
    try {
      recorder.stream = await navigator.mediaDevices.getUserMedia({ audio: raw });
    } catch (error) {
      const why = { NotAllowedError: "The browser was not allowed to use the microphone.", NotFoundError: "There is no microphone." };
      throw new Error(why[error.name] ?? `The microphone cannot be used: ${error.message}`);
    }
    recorder.blocks = [];
    recorder.context = new AudioContext();
    try {
      await recorder.context.audioWorklet.addModule(new URL("microphone.js", import.meta.url));
    } catch (error) {
      for (const track of recorder.stream.getTracks()) track.stop();
      throw error;
    }
    const node = new AudioWorkletNode(recorder.context, "microphone", { numberOfOutputs: 0, channelCount: 1, channelCountMode: "explicit" });
    node.port.onmessage = ({ data }) => {
      recorder.blocks.push(data);
      onLevel(data.reduce((most, x) => Math.max(most, Math.abs(x)), 0), recorder.seconds);
    };
    recorder.context.createMediaStreamSource(recorder.stream).connect(node);
    return recorder;
  }

  get seconds() {
    return this.blocks.reduce((n, block) => n + block.length, 0) / this.context.sampleRate;
  }

  // The recording as a WAV file.
  async stop() {
    for (const track of this.stream.getTracks()) track.stop();
    await this.context.close();
    return new File([wav(this.blocks, this.context.sampleRate)], "recording.wav", { type: "audio/wav" });
  }
}

// 16-bit mono.
function wav(blocks, rate) {
  const length = 2 * blocks.reduce((n, block) => n + block.length, 0);
  const view = new DataView(new ArrayBuffer(44 + length));
  const text = (at, word) => [...word].forEach((letter, i) => view.setUint8(at + i, letter.charCodeAt(0)));
  text(0, "RIFF");
  view.setUint32(4, 36 + length, true);
  text(8, "WAVEfmt ");
  view.setUint32(16, 16, true);
  view.setUint16(20, 1, true); // PCM
  view.setUint16(22, 1, true); // channels
  view.setUint32(24, rate, true);
  view.setUint32(28, 2 * rate, true); // bytes a second
  view.setUint16(32, 2, true); // bytes a frame
  view.setUint16(34, 16, true); // bits
  text(36, "data");
  view.setUint32(40, length, true);
  let at = 44;
  for (const block of blocks) for (const x of block) {
    view.setInt16(at, Math.round(32767 * Math.max(-1, Math.min(1, x))), true);
    at += 2;
  }
  return view;
}
