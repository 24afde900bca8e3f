// The scores and words of one channel, as parts of the page.

import { spans } from "./picture.js";
import { clock, dimensions, legName, note, plainly, points, spread, title, tone, verdict, word } from "./words.js";

const MOST_GAPS = 6; // that have a button

export const $ = (id) => document.getElementById(id);

// element("p", { className: "soft" }, "words", another)
export function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

// Radio buttons of the channels; none for one channel. `onPick(channel)`.
export function showLegs(rows, chosen, onPick) {
  const choices = rows.map((row) => {
    const input = element("input", { type: "radio", name: "leg", value: row.channel, className: "unseen" });
    input.checked = row.channel === chosen;
    input.addEventListener("change", () => onPick(row.channel));
    const score = element("span", { className: "value" }, row.status === "ok" ? points(row.mos) : "–");
    if (row.status === "ok") score.dataset.tone = tone(row.mos);
    return element("label", {}, input, element("span", {}, legName(row.channel, rows.length), " ", score));
  });
  $("legs").replaceChildren($("legs").firstElementChild, ...choices);
  $("legs").hidden = rows.length < 2;
}

export function showRow(row, dim, onDimension, onSeek) {
  const said = note(row);
  $("leg-note").textContent = said?.text ?? "";
  $("leg-note").hidden = !said;
  $("leg-note").classList.toggle("bad", Boolean(said?.bad));
  $("result").hidden = row.status !== "ok";
  $("verdict").replaceChildren();
  if (row.status !== "ok") return;
  const { score, word: called, tone: colour, cause } = verdict(row);
  const figure = element("strong", {}, score);
  figure.dataset.tone = colour;
  $("verdict").append(figure, element("span", {}, element("b", {}, `of 5: ${called}.`), ` ${cause}`));
  showScores(row, dim, onDimension);
  $("facts").replaceChildren(...(row.facts ?? []).map((fact) => element("li", {}, fact)), ...gaps(row, onSeek));
  showWords(row);
  showMoments(row);
}

// What the model hears, in words: undefined as long as they are still to come.
export function showWords({ explanation }) {
  $("model-words").hidden = explanation === null;
  $("model-words").ariaBusy = String(explanation === undefined);
  $("explanation").textContent = explanation === undefined ? "Putting it into words…" : plainly(explanation ?? "");
}

function showScores(row, dim, onDimension) {
  const cards = dimensions().map(({ name, title, meaning }) => {
    const [low, high] = spread(row, name);
    const input = element("input", { type: "radio", name: "dim", value: name, checked: name === dim, className: "unseen" });
    input.addEventListener("change", () => onDimension(name));
    const bar = element("span", { className: "bar", ariaHidden: "true" }, element("i", { className: "band" }), element("i", { className: "dot" }));
    for (const [part, value] of Object.entries({ low, high, mean: row[name] })) {
      bar.style.setProperty(`--${part}`, `${25 * (value - 1)}%`);
    }
    const card = element(
      "label",
      { className: "score" },
      input,
      element("span", { className: "what" }, element("b", {}, title), element("span", { className: "soft" }, meaning)),
      bar,
      element("span", { className: "said" }, element("strong", { className: "value" }, points(row[name])), element("span", {}, word(row[name]))),
      element("span", { className: "soft range" }, `most listeners: ${points(low)} to ${points(high)}`),
    );
    card.dataset.name = name;
    card.dataset.tone = tone(row[name]);
    return card;
  });
  $("scores").replaceChildren($("scores").firstElementChild, ...cards);
}

// Buttons that play from just before each gap.
function gaps(row, onSeek) {
  const all = row.evidence?.dropouts ?? [];
  if (!all.length) return [];
  const buttons = all.slice(0, MOST_GAPS).map(({ start_s }) => {
    const when = start_s < 60 ? `${start_s.toFixed(1)} s` : clock(start_s);
    const button = element("button", { type: "button", className: "chip", ariaLabel: `Play the gap at ${when}` }, `▸ ${when}`);
    button.addEventListener("click", () => onSeek(Math.max(0, start_s - 1)));
    return button;
  });
  const more = all.length > MOST_GAPS ? [`and ${all.length - MOST_GAPS} more`] : [];
  return [element("li", { className: "chips" }, "Hear the gaps: ", ...buttons, ...more)];
}

function showMoments(row) {
  const names = dimensions().map(({ name }) => name);
  const head = element("tr", {}, ...["From", ...names.map(title)].map((text) => element("th", { scope: "col" }, text)));
  const lines = row.windows.map((window, i) => {
    const cells = names.map((name) => element("td", {}, window[name] == null ? "silent" : points(window[name])));
    const { from, to } = spans({ row, dim: "mos" })[i];
    return element("tr", {}, element("th", { scope: "row" }, `${clock(from)} to ${clock(to)}`), ...cells);
  });
  $("moments").querySelector("table").replaceChildren(element("thead", {}, head), element("tbody", {}, ...lines));
  $("moments").hidden = row.windows.length < 2;
}
