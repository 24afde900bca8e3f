// The spectrogram: decibels [columns x BINS] of a signal.

const SIZE = 512;
export const BINS = SIZE / 2;
const MOST_FRAMES = 4; // in a column: of an hour some moments are looked at, not all

const hann = Float32Array.from({ length: SIZE }, (_, i) => 0.5 - 0.5 * Math.cos((2 * Math.PI * i) / SIZE));
const cos = Float32Array.from({ length: SIZE / 2 }, (_, i) => Math.cos((2 * Math.PI * i) / SIZE));
const sin = Float32Array.from({ length: SIZE / 2 }, (_, i) => Math.sin((2 * Math.PI * i) / SIZE));
const BITS = Math.log2(SIZE);
const reversed = Uint16Array.from({ length: SIZE }, (_, i) => {
  let r = 0;
  for (let bit = 0; bit < BITS; bit++) r |= ((i >> bit) & 1) << (BITS - 1 - bit);
  return r;
});
const re = new Float32Array(SIZE);
const im = new Float32Array(SIZE);

export function spectrogram(samples, columns) {
  const decibels = new Float32Array(columns * BINS).fill(-120);
  const step = samples.length / columns;
  const frames = Math.max(1, Math.min(MOST_FRAMES, Math.round(step / (SIZE / 2))));
  for (let column = 0; column < columns; column++) {
    for (let frame = 0; frame < frames; frame++) {
      transform(samples, Math.round((column + (frame + 0.5) / frames) * step) - SIZE / 2);
      for (let bin = 0; bin < BINS; bin++) {
        const at = column * BINS + bin;
        decibels[at] = Math.max(decibels[at], 10 * Math.log10(re[bin] * re[bin] + im[bin] * im[bin] + 1e-12));
      }
    }
  }
  return decibels;
}

// Fast Fourier transform of SIZE samples from `start` on, into `re` and `im`.
function transform(samples, start) {
  for (let i = 0; i < SIZE; i++) {
    re[reversed[i]] = (samples[start + i] ?? 0) * hann[i];
    im[i] = 0;
  }
  for (let half = 1; half < SIZE; half *= 2) {
    const stride = SIZE / (2 * half);
    for (let from = 0; from < SIZE; from += 2 * half) {
      for (let k = 0; k < half; k++) {
        const a = from + k;
        const b = a + half;
        const c = cos[k * stride];
        const s = -sin[k * stride];
        const x = re[b] * c - im[b] * s;
        const y = re[b] * s + im[b] * c;
        re[b] = re[a] - x;
        im[b] = im[a] - y;
        re[a] += x;
        im[a] += y;
      }
    }
  }
}
