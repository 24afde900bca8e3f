// The server's three routes. What goes wrong is a Problem, with words for a person.

export class Problem extends Error {
  constructor(title, detail = "", status = 0, code = "") {
    super(title);
    Object.assign(this, { title, detail, status, code });
  }
}

let key = "";

export function useKey(value) {
  key = value;
}

export async function models() {
  return (await request("v1/models")).json();
}

export async function sample(url, signal) {
  return (await request(url, { signal })).blob();
}

// The output rows of a recording, one for each channel.
export async function score(form, signal) {
  return (await (await request("v1/score", { method: "POST", body: form, signal })).json()).rows;
}

// The pieces of an answer as they come.
export async function* ask(form, signal) {
  const response = await request("v1/ask", { method: "POST", body: form, signal });
  for await (const { event, data } of events(response.body)) {
    if (event === "done") return;
    if (event === "problem") throw problem(JSON.parse(data));
    yield JSON.parse(data).text;
  }
  throw new Problem("The answer broke off", "The connection to the server was lost. Ask again.");
}

export function form(fields) {
  const data = new FormData();
  for (const [name, value] of Object.entries(fields)) if (value != null && value !== "") data.append(name, value);
  return data;
}

async function request(path, options = {}) {
  const headers = key ? { Authorization: `Bearer ${key}` } : {};
  let response;
  try {
    response = await fetch(path, { ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem("The server does not answer", "See whether it is running and the network is there, then try again.");
  }
  if (response.ok) return response;
  const document = await response.json().catch(() => ({}));
  const wait = response.headers.get("Retry-After");
  throw problem({ status: response.status, ...document }, wait && `try again in ${wait} s`);
}

function problem({ title, detail, status, code }, more) {
  const said = typeof detail === "string" ? detail : ""; // a framework's own detail may be a list
  const all = /again/.test(said) ? said : [said, more].filter(Boolean).join(". ");
  return new Problem(title || `The server answered ${status}`, all, status, code);
}

// Server-sent events of a body. EventSource cannot post.
async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  let event = "message";
  let data = [];
  while (true) {
    const { value, done } = await reader.read();
    if (done) return;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines.map((l) => l.replace(/\r$/, ""))) {
      const [, field, content] = line.match(/^(\w+): ?(.*)$/) ?? [];
      if (field === "event") event = content;
      if (field === "data") data.push(content);
      if (line === "") {
        if (data.length || event === "done") yield { event, data: data.join("\n") };
        [event, data] = ["message", []];
      }
    }
  }
}
