// The playground: asks about a text, all chosen tasks at once, and shows what each says.

import { drawn, isWide, said } from "./drawing.js";
import { element } from "./element.js";

const PAUSE = 350; // milliseconds without a key before it asks by itself
const HITS = 5;
const find = (id) => document.getElementById(id);
const token = find("token");
let models = []; // as /v1/models lists them, tasks with their names
let latest = 0; // the number of the last request: earlier ones that come late are not shown

token.value = sessionStorage.getItem("token") ?? "";

async function call(path, body) {
  const headers = token.value ? { Authorization: `Bearer ${token.value}` } : {};
  if (body) headers["Content-Type"] = "application/json";
  const how = body ? { method: "POST", headers, body: JSON.stringify(body) } : { headers };
  const answer = await fetch(path, how);
  find("locked").hidden = answer.status !== 401 && !token.value;
  const content = await answer.json();
  if (!answer.ok) throw new Error(content.detail ?? `the server said ${answer.status}`);
  if (token.value) sessionStorage.setItem("token", token.value);
  return { content, timing: answer.headers.get("Server-Timing") };
}

async function start() {
  try {
    const { content } = await call("v1/models");
    models = content.data.map((model) => ({
      ...model,
      tasks: Object.entries(model.tasks).map(([name, task]) => ({ name, ...task })),
    }));
    for (const [id, first] of [["model", null], ["other", "nothing"]]) {
      const options = models.map((model) => element("option", { value: model.id }, model.id));
      if (first) options.unshift(element("option", { value: "" }, first));
      find(id).replaceChildren(...options);
    }
    find("about").textContent = `Every task's answer from one pass of ${models[0].backbone}.`;
    offer();
    problem(null);
  } catch (error) {
    problem(error);
  }
}

const chosenModels = () =>
  [find("model").value, find("other").value]
    .filter((id, at, all) => id && all.indexOf(id) === at)
    .map((id) => models.find((model) => model.id === id));

/** The tasks of the chosen models, and fields for what they read beside the text; what was chosen stays. */
function offer() {
  const left = new Set([...document.querySelectorAll("#tasks input:not(:checked)")].map((box) => box.value));
  const written = Object.fromEntries([...document.querySelectorAll("#columns textarea")].map((f) => [f.name, f.value]));
  const tasks = new Map(chosenModels().flatMap((model) => model.tasks).map((task) => [task.name, task]));
  const boxes = [...tasks.values()].map((task) => {
    const box = element("input", { type: "checkbox", value: task.name });
    box.checked = !left.has(task.name);
    return element("label", {}, box, task.name, element("small", {}, task.kind));
  });
  find("tasks").replaceChildren(element("legend", {}, "Tasks"), ...boxes);
  const second = new Map();
  for (const task of tasks.values()) {
    for (const column of task.inputs.slice(1)) second.set(column, [...(second.get(column) ?? []), task.name]);
  }
  const fields = [...second].map(([column, names]) => {
    const field = element("textarea", { id: `column-${column}`, name: column, rows: 2, spellcheck: "false" });
    field.value = written[column] ?? "";
    const label = element("label", { for: `column-${column}` }, `${column} `, element("small", {}, `for ${names.join(", ")}`));
    return element("p", {}, label, field);
  });
  find("columns").replaceChildren(...fields);
}

/** What is asked: the text in the first column of every chosen task, the other fields in theirs. */
function question(model) {
  const chosen = new Set([...document.querySelectorAll("#tasks input:checked")].map((box) => box.value));
  const tasks = model.tasks.filter((task) => chosen.has(task.name));
  const row = {};
  for (const task of tasks) row[task.inputs[0]] = find("text").value;
  for (const field of document.querySelectorAll("#columns textarea")) {
    if (field.value.trim() && tasks.some((task) => task.inputs.includes(field.name))) row[field.name] = field.value;
  }
  const body = { inputs: row, model: model.id, scores: true };
  if (tasks.length < model.tasks.length) body.tasks = tasks.map((task) => task.name);
  if (Number(find("below").value) > 0) body.abstain_below = Number(find("below").value);
  return { tasks, body };
}

async function ask() {
  const number = ++latest;
  const asked = chosenModels().map((model) => ({ model, ...question(model) })).filter((side) => side.tasks.length);
  if (!find("text").value.trim() || !asked.length) {
    find("answers").replaceChildren();
    find("status").textContent = asked.length ? "" : "No task is chosen.";
    return;
  }
  find("answers").setAttribute("aria-busy", "true");
  const begun = performance.now();
  try {
    await Promise.all(asked.map(answer));
    if (number !== latest) return;
    show(asked, performance.now() - begun);
    problem(null);
  } catch (error) {
    if (number === latest) problem(error);
  } finally {
    if (number === latest) find("answers").setAttribute("aria-busy", "false");
  }
}

/** Fill in what one model says, and what its collections hold. */
async function answer(side) {
  const { content, timing } = await call("v1/predict", side.body);
  side.answers = content.answers[0];
  side.inside = Number(/dur=([\d.]+)/.exec(timing ?? "")?.[1]);
  for (const task of side.tasks.filter((each) => each.collection)) {
    const search = { query: find("text").value, task: task.name, top_k: HITS, model: side.model.id };
    const found = await call("v1/search", search);
    side.answers[task.name] = { ...side.answers[task.name], hits: found.content.results[0] };
  }
  for (const { name } of side.model.inspected ? side.tasks : []) {
    if (side.answers[name]) side.answers[name].leaning = () => leaning(side.body, name);
  }
}

/** Which attention heads one task's answer leaned on. */
async function leaning({ inputs, model }, task) {
  const { content } = await call("v1/attention", { inputs, model, tasks: [task] });
  return content.answers[task];
}

function show(asked, milliseconds) {
  const tasks = asked.flatMap((side) => side.tasks);
  const wideFirst = [...tasks.filter(isWide), ...tasks];
  const names = [...new Set(wideFirst.map((task) => task.name))];
  find("answers").replaceChildren(...names.map((name) => card(name, asked)));
  const inside = Math.max(...asked.map((side) => side.inside));
  const count = names.length === 1 ? "1 task" : `${names.length} tasks`;
  find("status").textContent =
    `${count} answered in ${inside.toFixed(0)} ms; ${milliseconds.toFixed(0)} ms with the way there and back.`;
}

function card(name, asked) {
  const sides = asked.map((side) => ({ ...side, task: side.tasks.find((task) => task.name === name) }));
  const { task } = sides.find((side) => side.task);
  const answers = sides.map((side) => side.answers[name] ?? null);
  const differ = sides.length === 2 && sides.every((side) => side.task) && said(answers[0]) !== said(answers[1]);
  const outside = answers.some((each) => each?.out_of_scope);
  const drawings = sides.map((side, at) => {
    const title = sides.length === 2 ? element("h3", {}, side.model.id) : null;
    const parts = side.task ? drawn(side.task, answers[at], side.body.inputs) : [element("p", { class: "none" }, "no such task")];
    return element("div", {}, title, ...parts);
  });
  const classes = [isWide(task) ? "wide" : "", outside ? "outside" : ""].join(" ").trim();
  const heading = element("h2", {}, name, element("small", {}, task.kind));
  if (differ) heading.append(" ", element("span", { class: "flag" }, "differs"));
  const both = element("div", { class: sides.length === 2 ? "sides two" : "sides" }, ...drawings);
  return element("article", { class: classes, "data-task": name }, heading, both);
}

function problem(error) {
  find("problem").hidden = error === null;
  find("problem").textContent = error === null ? "" : error.message;
  if (error !== null) find("status").textContent = "";
}

const address = () => new URL("v1/predict", location.href).href;
const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;

function asCurl(body) {
  const shown = token.value ? ` \\\n  -H "Authorization: Bearer $TASKHEADS_TOKEN"` : "";
  return `curl ${quoted(address())} \\\n  -H 'Content-Type: application/json'${shown} \\\n  -d ${quoted(JSON.stringify(body))}\n`;
}

function asPython(body) {
  const shown = token.value ? `, headers={"Authorization": "Bearer " + os.environ["TASKHEADS_TOKEN"]}` : "";
  const json = JSON.stringify(body, null, 4).replaceAll(/\btrue\b(?=,?$)/gm, "True");
  const imports = token.value ? "import os\n\nimport httpx" : "import httpx";
  return `${imports}\n\nbody = ${json}\nprint(httpx.post("${address()}", json=body${shown}).json())\n`;
}

async function copy(button, write) {
  const [model] = chosenModels();
  await navigator.clipboard.writeText(write(question(model).body));
  find("status").textContent = `${button.textContent.replace("Copy as ", "")} is in the clipboard.`;
}

let waiting;
function soon() {
  clearTimeout(waiting);
  waiting = setTimeout(ask, PAUSE);
}

find("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  clearTimeout(waiting);
  if (models.length) ask();
  else start().then(ask);
});
find("ask").addEventListener("input", (event) => {
  if (["model", "other"].includes(event.target.id)) offer();
  if (event.target !== token) soon();
});
find("ask").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) find("ask").requestSubmit();
});
find("curl").addEventListener("click", (event) => copy(event.target, asCurl));
find("python").addEventListener("click", (event) => copy(event.target, asPython));
start();
