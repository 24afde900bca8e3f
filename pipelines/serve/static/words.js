// Scores in words and colours, as the server's vocabulary has them.

const TONES = ["awful", "bad", "fair", "good", "best"]; // of the words of the scale, and in style.css
const SATISFIED = 3.5; // a score from here on is no complaint
const WRITTEN = /mos [\d.]+, noi [\d.]+, col [\d.]+, dis [\d.]+, loud [\d.]+\.\s*/g; // before the model's words

const LANGUAGES = { en: "English", fr: "French", it: "Italian" };

let vocabulary = { scores: [], scale: [], codes: {} };

export function learn(told) {
  vocabulary = told;
}

export const dimensions = () => vocabulary.scores;
export const title = (name) => vocabulary.scores.find((score) => score.name === name).title;

const step = (score) => vocabulary.scale.findIndex(({ below }) => score < below);
export const word = (score) => vocabulary.scale[step(score)].word;
export const tone = (score) => TONES[step(score)];

export const points = (score) => score.toFixed(1);

export function clock(seconds) {
  const whole = Math.floor(seconds + 1e-6);
  const [hours, minutes] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60];
  const tail = `${String(whole % 60).padStart(2, "0")}`;
  return hours ? `${hours}:${String(minutes).padStart(2, "0")}:${tail}` : `${minutes}:${tail}`;
}

export function legName(channel, channels) {
  if (channels === 2) return channel ? "Right leg" : "Left leg";
  return `Channel ${channel + 1}`;
}

// faulty/welcome-en-noise-5dB.flac -> Welcome, English: noise 5 dB
export function sampleName(name) {
  const parts = name.replace(/^.*\//, "").replace(/\.\w+$/, "").replace(/(\d)dB/, "$1 dB").split("-");
  const spoken = parts.filter((part) => LANGUAGES[part]).map((part) => LANGUAGES[part]);
  const [what, ...fault] = parts.filter((part) => !LANGUAGES[part]);
  const text = [what, spoken.join(" and ")].filter(Boolean).join(", ") + (fault.length ? `: ${fault.join(" ")}` : "");
  return text[0].toUpperCase() + text.slice(1);
}

// Where the middle two thirds of the listeners are.
export function spread(row, name) {
  const [mean, std] = [row[name], row[`${name}_std`]];
  return [Math.max(1, mean - std), Math.min(5, mean + std)];
}

export function verdict(row) {
  const aspects = vocabulary.scores.filter(({ aspect }) => aspect);
  const worst = aspects.reduce((a, b) => (row[b.name] < row[a.name] ? b : a));
  const cause = row[worst.name] < SATISFIED
    ? `What costs most: ${worst.aspect} (${points(row[worst.name])}).`
    : "Nothing in particular spoils it.";
  return { score: points(row.mos), word: word(row.mos), tone: tone(row.mos), cause };
}

// What a row says besides its scores, and how bad that is; null where there is nothing to say.
export function note(row) {
  const said = vocabulary.codes[row.error_code] ?? row.error_code;
  if (row.status !== "ok") return { text: `Not scored: ${said}. (${row.error_detail})`, bad: true };
  if (row.error_code) return { text: `The clean original was not used: ${row.error_detail.replace(/^scored without the reference: /, "")}.`, bad: true };
  if (!row.alignment?.used) return null;
  const shift = Math.abs(row.alignment.delay_s);
  const shifted = shift < 0.005 ? "" : `, shifted by ${shift.toFixed(2)} s to fit`;
  return { text: `Compared with the clean original${shifted}.`, bad: false };
}

// Why something did not work: in the words of the code, if it has some, before those of the server.
export function reason({ code, detail, message }) {
  const said = (detail ?? message).replace(/\.$/, "");
  const plain = code === "MODEL" ? "" : vocabulary.codes[code];
  return plain ? `${plain}. (${said})` : `${said}.`;
}

// The model's words without the scores that it repeats before them.
export const plainly = (text) => text.replace(WRITTEN, "");
