// What happens on the page: a recording is opened, scored, played and asked about.

import { Picture } from "./picture.js";
import { $, element, showLegs, showRow, showWords } from "./result.js";
import * as server from "./server.js";
import { decode, Player, Recorder } from "./sound.js";
import { clock, dimensions, learn, legName, plainly, points, reason, sampleName, word } from "./words.js";

const QUESTIONS = ["What is wrong with it?", "When does it drop out?", "Is there an echo?", "Is it too quiet?", "How could it be better?"];
const COMPARE = "Which one sounds better?";
const LONGEST_TAKE_S = 300;

const now = { file: null, reference: null, other: null, rows: [], leg: 0, dim: "mos", work: new AbortController() };
const player = new Player($("audio"));
const picture = new Picture($("plot"), seek, toggle);
let limits = null; // of an upload
let again = null; // what to do once there is an API key

// ---- the server's words

async function begin(retry = begin) {
  const told = await guarded(() => server.models(), retry);
  if (!told || dimensions().length) return;
  learn(told);
  for (const { name, words } of told.profiles) {
    const text = words.replace(/^Listener: /, "").replace(/\.\s*$/, "");
    $("profile").append(element("option", { value: name }, text[0].toUpperCase() + text.slice(1)));
  }
  $("samples").replaceChildren(...told.samples.map(({ name, url }) => {
    const button = element("button", { type: "button", className: "chip" }, sampleName(name));
    button.addEventListener("click", () => openSample(name, url));
    return element("li", {}, button);
  }));
  limits = told.limits;
  $("limits").textContent = `Up to ${Math.round(limits.max_audio_s / 60)} minutes and ${limits.max_mb} MB`;
  $("samples-block").hidden = !told.samples.length;
  $("model").textContent = told.models.map(({ name, fingerprint }) => `Model ${name}, ${fingerprint}.`).join(" ");
}

// What `act` gives, or undefined where it was cut short or went wrong: then the page says why. `retry` is tried again
// where the server wants an API key.
async function guarded(act, retry) {
  try {
    return await act();
  } catch (error) {
    say("");
    if (error.name === "AbortError") return undefined;
    if (error.status === 401) askForKey(retry);
    complain(error);
    return undefined;
  }
}

function askForKey(retry) {
  again = retry;
  $("key").hidden = false;
  $("key-value").focus();
}

$("key").addEventListener("submit", (event) => {
  event.preventDefault();
  server.useKey($("key-value").value.trim());
  $("key").hidden = true;
  complain(null);
  again?.();
});

function say(text, busy = false) {
  $("status").textContent = text;
  $("status").classList.toggle("busy", busy);
}

function complain(error) {
  $("problem").hidden = !error;
  $("problem").replaceChildren();
  if (!error) return;
  $("problem").append(element("b", {}, `${error.title ?? "This did not work"}:`), ` ${reason(error)}`);
}

// ---- opening a recording

async function openSample(name, url) {
  renew();
  const blob = await guarded(() => server.sample(url, now.work.signal), () => openSample(name, url));
  if (blob) open(new File([blob], name.replace(/^.*\//, ""), { type: blob.type }));
}

function renew() {
  now.work.abort();
  now.work = new AbortController();
  complain(null);
}

async function open(file) {
  renew();
  Object.assign(now, { file, rows: [], leg: null, dim: "mos" });
  document.body.classList.add("opened");
  $("name").textContent = file.name;
  $("length").textContent = "";
  $("answers").replaceChildren();
  $("no-picture").textContent = "";
  for (const id of ["result", "leg-note", "legs", "no-picture", "player", "talk"]) $(id).hidden = true;
  $("verdict").replaceChildren();
  $("recording").hidden = false;
  picture.at(0);
  picture.show({ sound: null, row: null, leg: 0, dim: "mos" });
  draw(file);
  await score();
}

async function draw(file) {
  const seconds = await player.open(file);
  let sound = null;
  try {
    sound = await decode(file, seconds);
  } catch (error) {
    if (file !== now.file) return;
    $("no-picture").textContent = error.message;
  }
  if (file !== now.file) return;
  $("player").hidden = !seconds;
  picture.show({ sound });
  showPlayer();
}

async function score() {
  if (!now.file) return;
  renew();
  const { signal } = now.work;
  say("Listening…", true);
  if (!dimensions().length) await begin(score); // the server did not answer before, or wanted a key
  if (!dimensions().length || signal.aborted) return;
  if (!fits(now.file, now.reference)) return;
  const asked = { file: now.file, reference: now.reference, profile: $("profile").value };
  const rows = await guarded(() => server.score(server.form(asked), signal), score);
  if (!rows || signal.aborted) return;
  now.rows = rows;
  const scored = rows.filter(({ status }) => status === "ok");
  const worst = scored.length ? scored.reduce((a, b) => (b.mos < a.mos ? b : a)) : rows[0];
  for (const row of scored) delete row.explanation; // it is asked for when somebody sees it
  now.leg ??= worst.channel ?? 0;
  $("talk").hidden = !scored.length;
  show();
  const heard = scored.map((row) => `${rows.length > 1 ? `${legName(row.channel, rows.length)}: ` : ""}${points(row.mos)} of 5, ${word(row.mos)}`);
  if ($("recording").getBoundingClientRect().top > innerHeight / 2) $("recording").scrollIntoView(); // on a phone
  say(heard.length ? `Scored. ${heard.join("; ")}.` : "There was nothing to score.");
}

// Whether the server takes these at once. Browsers do not read a refusal in mid-upload.
function fits(...files) {
  const bytes = files.reduce((sum, file) => sum + (file?.size ?? 0), 0);
  if (bytes <= 1e6 * limits.max_mb) return true;
  say("");
  complain({ title: "The recording is too large", detail: `the server takes up to ${limits.max_mb} MB` });
  return false;
}

// The worst of a channel in words, once.
async function explain(row, signal) {
  if (row.status !== "ok" || "explanation" in row) return;
  row.explanation = undefined;
  try {
    let text = "";
    for await (const piece of server.ask(question(QUESTIONS[0], row, row.worst_start_s), signal)) text += piece;
    row.explanation = text;
  } catch (error) {
    row.explanation = null;
  }
  if (row === shown()) showWords(row); // also where it was broken off and no new score came
}

const question = (text, { channel }, at_s, other = null) =>
  server.form({ file: now.file, question: text, reference: now.reference, profile: $("profile").value, channel, at_s, other });

// ---- showing it

function show() {
  const row = shown();
  player.listen(now.leg, now.rows.length);
  showLegs(now.rows, now.leg, (leg) => {
    now.leg = leg;
    show();
  });
  showRow(row, now.dim, (dim) => {
    now.dim = dim;
    picture.show({ dim });
  }, play);
  picture.show({ row, leg: now.leg, dim: now.dim });
  $("length").textContent = row.duration_s ? `${clock(row.duration_s)} long, ${clock(row.speech_s ?? 0)} of speech` : "";
  showPlayer();
  explain(row, now.work.signal);
}

const shown = () => now.rows.find(({ channel }) => (channel ?? 0) === now.leg);

// ---- playing it

function showPlayer() {
  const row = shown();
  $("no-picture").hidden = !row || !$("no-picture").textContent; // where it has no score either, that was said
  $("gap-key").hidden = !row?.evidence?.dropouts?.length;
  $("play-worst").hidden = row?.status !== "ok";
  const worst = clock(row?.worst_start_s ?? 0);
  $("play-worst").textContent = `Play the worst moment, ${worst}`;
  $("about").hidden = !(row?.windows?.length > 1);
  $("about-worst").textContent = `The worst moment, ${worst}`;
  showClock();
}

$("play-worst").addEventListener("click", () => play(shown().worst_start_s));

function play(from) {
  player.play(from).catch(() => complain({ title: "The browser does not play this", detail: "Its scores are complete." }));
}

function toggle() {
  if ($("player").hidden) return;
  if ($("audio").paused) play();
  else $("audio").pause();
}

function seek(seconds) {
  if (!$("player").hidden) $("audio").currentTime = seconds;
  showClock();
}

function showClock() {
  const { currentTime, paused } = $("audio");
  $("play").textContent = paused ? "Play" : "Pause";
  $("clock").textContent = picture.seconds ? `${clock(currentTime)} / ${clock(picture.seconds)}` : "";
  picture.at(currentTime);
  $("about-here").textContent = `Where it plays, ${clock(currentTime)}`;
}

function follow() {
  showClock();
  if (!$("audio").paused) requestAnimationFrame(follow);
}

$("play").addEventListener("click", toggle);
$("audio").addEventListener("play", follow);
for (const event of ["pause", "seeked", "ended"]) $("audio").addEventListener(event, showClock);

// ---- choosing

$("file").addEventListener("change", ({ target }) => {
  if (target.files[0]) open(target.files[0]);
  target.value = ""; // so that the same file can be chosen again
});

addEventListener("dragover", (event) => {
  event.preventDefault();
  document.body.classList.add("dragging");
});
addEventListener("dragleave", (event) => event.relatedTarget || document.body.classList.remove("dragging"));
addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("dragging");
  if (event.dataTransfer.files[0]) open(event.dataTransfer.files[0]);
});

$("profile").addEventListener("change", score);

// A file beside the recording, `now[id]`, with a button that takes it away again.
function beside(id, changed) {
  const nothing = $(`${id}-name`).textContent;
  const set = (file) => {
    now[id] = file;
    $(`${id}-name`).textContent = file?.name ?? nothing;
    $(`${id}-remove`).hidden = !file;
    changed();
  };
  $(id).addEventListener("change", ({ target }) => target.files[0] && set(target.files[0]));
  $(`${id}-remove`).addEventListener("click", () => {
    $(id).value = "";
    set(null);
    $(id).focus();
  });
}

beside("reference", score);
beside("other", () => ($("suggestions").lastChild.hidden = !now.other));

// ---- recording

let recorder = null;

$("record").addEventListener("click", async () => {
  if (recorder) return stopRecording();
  complain(null);
  $("record").disabled = true; // until the browser has been allowed to
  try {
    recorder = await Recorder.start((level, seconds) => {
      $("level").value = level;
      $("record-text").textContent = `Stop, ${clock(seconds)}`;
      if (seconds >= LONGEST_TAKE_S) stopRecording();
    });
  } catch (error) {
    return complain({ title: "Recording did not start", detail: error.message });
  } finally {
    $("record").disabled = false;
  }
  showRecording(true);
});

async function stopRecording() {
  const stopped = recorder;
  recorder = null;
  if (!stopped) return;
  showRecording(false);
  open(await stopped.stop());
}

function showRecording(on) {
  $("record").classList.toggle("on", on);
  $("level").hidden = !on;
  $("record-text").textContent = on ? "Stop" : "Record";
}

// ---- asking

$("suggestions").append(...[...QUESTIONS, COMPARE].map((text) => {
  const button = element("button", { type: "button", className: "chip", hidden: text === COMPARE }, text);
  button.addEventListener("click", () => ask(text, text === COMPARE ? now.other : null));
  return button;
}));

$("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = $("question").value.trim();
  $("question").value = "";
  if (text) ask(text, now.other);
});

async function ask(text, other) {
  complain(null);
  if (!fits(now.file, now.reference, other)) return;
  const here = !$("about").hidden && $("here").checked;
  const at = here ? $("audio").currentTime : shown().worst_start_s;
  const answer = element("p", { className: "busy" });
  const about = [text, here && `At ${clock(at)}`, other && `Beside ${other.name}`].filter(Boolean).join(" ");
  const item = element("li", { ariaBusy: "true" }, element("h3", {}, about), answer);
  $("answers").prepend(item);
  const form = question(text, shown(), at, other);
  const answered = await guarded(async () => {
    let said = "";
    for await (const piece of server.ask(form, now.work.signal)) answer.textContent = plainly((said += piece));
    return true;
  }, () => ask(text, other));
  answer.classList.remove("busy");
  item.ariaBusy = "false";
  if (!answered && !answer.textContent) item.remove();
}

begin();
