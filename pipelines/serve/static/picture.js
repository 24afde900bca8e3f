// The recording as a picture: scores of its windows, waveform, spectrogram, time.

import { BINS, spectrogram } from "./spectrum.js";
import { clock, points, title, tone, word } from "./words.js";

const RANGE_DB = 75; // of the spectrogram, under its loudest point
const NYQUIST_KHZ = 8; // of the picture, whatever the recording has: so that a narrow band looks narrow
const BAR = 3; // pixels of a bar of the waveform, with its gap
const TINT = 0.2; // of a score behind its number
const GAP_APART = 5; // pixels between the marks of two gaps
const TICKS_S = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800];

export class Picture {
  // `onSeek(seconds)` and `onToggle()` are called when somebody points at a moment, or presses the space bar.
  constructor(plot, onSeek, onToggle) {
    this.plot = plot;
    this.canvas = Object.fromEntries([...plot.querySelectorAll("canvas")].map((canvas) => [canvas.id, canvas]));
    this.head = plot.querySelector("#playhead");
    this.state = { sound: null, row: null, leg: 0, dim: "mos" };
    this.position = 0;
    new ResizeObserver(() => this.draw()).observe(plot);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
    const seek = (seconds) => onSeek(Math.max(0, Math.min(this.seconds, seconds)));
    const point = ({ clientX }) => {
      const { left, width } = plot.getBoundingClientRect();
      seek(((clientX - left) / width) * this.seconds);
    };
    plot.addEventListener("pointerdown", (event) => {
      point(event);
      plot.setPointerCapture(event.pointerId);
    });
    plot.addEventListener("pointermove", (event) => plot.hasPointerCapture(event.pointerId) && point(event));
    plot.addEventListener("keydown", (event) => {
      const by = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1, PageDown: -10, PageUp: 10 }[event.key];
      if (by) seek(this.position + by);
      else if (event.key === "Home") seek(0);
      else if (event.key === "End") seek(this.seconds);
      else if (event.key === " ") onToggle();
      else return;
      event.preventDefault();
    });
  }

  get seconds() {
    return this.state.sound?.seconds ?? this.state.row?.duration_s ?? 0;
  }

  show(state) {
    Object.assign(this.state, state);
    this.draw();
    this.at(this.position);
  }

  // Where the playing is.
  at(seconds) {
    this.position = seconds;
    this.head.hidden = !this.state.sound;
    this.head.style.left = `${(100 * seconds) / (this.seconds || 1)}%`;
    const here = spans(this.state).find(({ from, to }) => from <= seconds && seconds < to);
    const heard = here?.score == null ? "" : `, ${title(this.state.dim)} ${points(here.score)}, ${word(here.score)}`;
    this.plot.setAttribute("aria-valuemax", this.seconds.toFixed(1));
    this.plot.setAttribute("aria-valuenow", seconds.toFixed(1));
    this.plot.setAttribute("aria-valuetext", `${clock(seconds)} of ${clock(this.seconds)}${heard}`);
  }

  draw() {
    const drawn = Boolean(this.state.sound);
    this.canvas.wave.hidden = this.canvas.spectrogram.hidden = !drawn;
    this.plot.setAttribute("aria-disabled", !drawn);
    this.plot.hidden = !this.seconds;
    if (!this.plot.clientWidth || !this.seconds) return;
    this.style = getComputedStyle(this.plot);
    this.track();
    if (drawn) this.wave();
    if (drawn) this.spectrogram();
    this.axis();
  }

  colour(name) {
    return this.style.getPropertyValue(`--${name}`).trim();
  }

  // A context in CSS pixels, and its size.
  pen(name) {
    const canvas = this.canvas[name];
    const [width, height, scale] = [canvas.clientWidth, canvas.clientHeight, devicePixelRatio];
    [canvas.width, canvas.height] = [Math.round(width * scale), Math.round(height * scale)];
    const pen = canvas.getContext("2d");
    pen.scale(scale, scale);
    pen.font = `600 12px ${this.style.fontFamily}`;
    return { pen, width, height, x: (seconds) => (seconds / this.seconds) * width };
  }

  track() {
    const { pen, width, height, x } = this.pen("track");
    const all = spans(this.state);
    const worst = worstOf(all);
    pen.textAlign = "center";
    pen.textBaseline = "middle";
    for (const span of all) {
      const [left, right] = [x(span.from), x(span.to)];
      const inner = Math.max(1, right - left - (right - left > 6 ? 2 : 0));
      pen.globalAlpha = span.score == null ? 1 : TINT;
      pen.fillStyle = this.colour(span.score == null ? "line" : tone(span.score));
      pen.beginPath();
      pen.roundRect(left, 4, inner, height - 8, 5);
      pen.fill();
      pen.globalAlpha = 1;
      const wide = inner > 84 && span === worst && all.length > 1;
      const text = span.score == null ? "silent" : `${wide ? "worst  " : ""}${points(span.score)}`;
      if (inner < pen.measureText(text).width + 6) continue;
      pen.fillStyle = this.colour(span.score == null ? "soft" : `${tone(span.score)}-ink`);
      pen.fillText(text, left + inner / 2, height / 2 + 0.5);
    }
    if (!all.length) {
      pen.fillStyle = this.colour("line");
      pen.beginPath();
      pen.roundRect(0, 4, width, height - 8, 4);
      pen.fill();
    }
  }

  wave() {
    const { pen, width, height, x } = this.pen("wave");
    const samples = this.samples;
    const all = spans(this.state);
    const worst = worstOf(all);
    if (worst && all.length > 1) {
      pen.fillStyle = this.colour("shade");
      pen.fillRect(x(worst.start), 0, x(worst.end) - x(worst.start), height);
    }
    const bars = Math.floor(width / BAR);
    for (let bar = 0; bar < bars; bar++) {
      const [first, last] = [bar, bar + 1].map((n) => Math.floor((n / bars) * samples.length));
      let peak = 0;
      for (let i = first; i < last; i++) peak = Math.max(peak, Math.abs(samples[i]));
      const seconds = ((bar + 0.5) / bars) * this.seconds;
      const score = all.find(({ from, to }) => from <= seconds && seconds < to)?.score;
      const tall = Math.max(1, Math.min(1, peak) ** 0.6 * (height - 4)); // bent, so that quiet speech is seen
      pen.fillStyle = this.colour(score == null ? "soft" : tone(score));
      pen.beginPath();
      pen.roundRect(bar * BAR, (height - tall) / 2, BAR - 1, tall, 1);
      pen.fill();
    }
  }

  spectrogram() {
    const { pen, width, height, x } = this.pen("spectrogram");
    const columns = Math.max(1, Math.min(this.canvas.spectrogram.width, Math.floor(this.samples.length / 16)));
    if (this.drawn?.samples !== this.samples || this.drawn.columns !== columns) {
      this.drawn = { samples: this.samples, columns, decibels: spectrogram(this.samples, columns) };
    }
    const { decibels } = this.drawn;
    const colours = this.colours();
    const image = new ImageData(columns, BINS);
    const pixels = new Uint32Array(image.data.buffer);
    const top = decibels.reduce((a, b) => Math.max(a, b), -60);
    for (let column = 0; column < columns; column++) {
      for (let bin = 0; bin < BINS; bin++) {
        const bright = 1 + (decibels[column * BINS + bin] - top) / RANGE_DB;
        pixels[(BINS - 1 - bin) * columns + column] = colours[Math.max(0, Math.round(255 * bright))];
      }
    }
    const sheet = new OffscreenCanvas(columns, BINS);
    sheet.getContext("2d").putImageData(image, 0, 0);
    pen.fillStyle = this.colour("paper");
    pen.imageSmoothingQuality = "high";
    const share = this.state.sound.rate / 2000 / NYQUIST_KHZ; // of the height that this rate fills
    pen.drawImage(sheet, 0, height * (1 - share), width, height * share);
    pen.strokeStyle = this.colour("spectrum").split(",")[0]; // of silence
    pen.fillStyle = this.colour("on-spectrum");
    pen.lineWidth = 4;
    pen.lineJoin = "round";
    pen.textBaseline = "middle";
    for (const khz of [2, 4, 6]) {
      const at = [`${khz} kHz`, 6, height * (1 - khz / NYQUIST_KHZ)];
      pen.strokeText(...at);
      pen.fillText(...at);
    }
    pen.textAlign = "center";
    let last = -GAP_APART;
    for (const gap of this.state.row?.evidence?.dropouts ?? []) {
      const at = x((gap.start_s + gap.end_s) / 2);
      if (at - last < GAP_APART) continue;
      pen.fillText("▼", at, 9);
      last = at;
    }
  }

  // 256 colours, silence first, as pixels.
  colours() {
    const sheet = new OffscreenCanvas(256, 1).getContext("2d");
    const ramp = sheet.createLinearGradient(0, 0, 255, 0);
    const stops = this.colour("spectrum").split(",");
    stops.forEach((colour, i) => ramp.addColorStop(i / (stops.length - 1), colour.trim()));
    sheet.fillStyle = ramp;
    sheet.fillRect(0, 0, 256, 1);
    return new Uint32Array(sheet.getImageData(0, 0, 256, 1).data.buffer);
  }

  axis() {
    const { pen, width, height, x } = this.pen("axis");
    const step = TICKS_S.find((s) => x(s) >= 64) ?? 3600;
    pen.font = `12px ${this.style.fontFamily}`;
    pen.fillStyle = this.colour("soft");
    pen.textBaseline = "bottom";
    for (let seconds = 0; seconds <= this.seconds; seconds += step) {
      pen.textAlign = seconds ? "center" : "left";
      if (x(seconds) < width - 16) pen.fillText(clock(seconds), x(seconds), height);
    }
  }

  get samples() {
    const { channels } = this.state.sound;
    return channels[Math.min(this.state.leg, channels.length - 1)];
  }
}

// The scores over time without overlaps: the last window was shifted back to be full, and counts for its new part.
export function spans({ row, dim }) {
  let end = 0;
  return (row?.windows ?? []).map((window) => {
    const from = Math.max(window.start_s, end);
    end = window.end_s;
    return { from, to: end, start: window.start_s, end, score: window[dim] };
  });
}

function worstOf(all) {
  const scored = all.filter(({ score }) => score != null);
  return scored.length ? scored.reduce((a, b) => (b.score < a.score ? b : a)) : null;
}
