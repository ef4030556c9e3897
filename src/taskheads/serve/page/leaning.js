// Which attention heads an answer leaned on: asked for when somebody looks, drawn layer by layer.

import { element } from "./element.js";

const NAMED = 3; // of each side, in words
const RINGED = 5; // those that matter most over the data
const STEPS = { ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowDown: [1, 0], ArrowUp: [-1, 0] };
const opened = new Set(); // the tasks whose part was opened, which stays so from one answer to the next

/** A part that can be opened, where the model was inspected: there `answer.leaning` asks the server. */
export function leaned(task, answer) {
  if (!answer.leaning || (task.kind === "embed" && !("similarity" in answer))) return null;
  const inside = element("div");
  const part = element("details", { class: "leaning" }, element("summary", {}, "Attention heads it leaned on"), inside);
  part.addEventListener("toggle", () => {
    if (part.open) opened.add(task.name);
    else opened.delete(task.name);
    if (part.open && !inside.childNodes.length) fill(inside, task, answer.leaning);
  });
  part.open = opened.has(task.name);
  return part;
}

async function fill(inside, task, ask) {
  inside.replaceChildren(element("p", { class: "none" }, "…"));
  try {
    const found = await ask();
    inside.replaceChildren(...(found ? drawing(task, found) : []));
  } catch (error) {
    inside.replaceChildren(element("p", { class: "problem" }, error.message));
  }
}

/** Every attention head that is there: its place, what the answer leaned on it, its share of the importance. */
function cellsOf({ leaning, importance }) {
  const all = importance?.flat().reduce((sum, each) => sum + (each ?? 0), 0);
  return leaning.flatMap((row, layer) =>
    row.map((value, head) => ({ layer, head, value, share: all ? (importance[layer][head] ?? 0) / all : null })),
  ).filter((cell) => cell.value !== null);
}

const signed = (value) => `${value < 0 ? "−" : "+"}${Math.abs(value).toFixed(value && Math.abs(value) < 0.1 ? 3 : 2)}`;
const placed = (cell) => `layer ${cell.layer}, head ${cell.head}`;
const percent = (share) => `${(100 * share).toFixed(share < 0.1 ? 1 : 0)} %`;

/** In words, as a grid to walk through with the arrow keys, and a line about the square where one is. */
function drawing(task, found) {
  const cells = cellsOf(found);
  if (!cells.length) return [inWords(cells, found)];
  const weighty = new Set(cells.filter((cell) => cell.share).sort((a, b) => b.share - a.share).slice(0, RINGED));
  const line = element("p", { class: "cell", "aria-hidden": "true" }, "Point at a square, or walk with the arrow keys.");
  const table = grid(cells, weighty, found.scale);
  table.setAttribute("aria-label", `Attention heads of ${task.name}: layers down, heads across`);
  walkable(table, line);
  const ringed = weighty.size ? element("p", { class: "none" }, `Ringed: the ${weighty.size} that matter most over the data.`) : null;
  return [inWords(cells, found), element("div", { class: "heads" }, table), line, ringed].filter((each) => each);
}

function meaning({ strength, scale }) {
  const all = strength === null ? "" : ` (${signed(strength).replace("+", "")})`;
  return `Each number is about what the answer's ${scale}${all} would lose without the attention head.`;
}

function inWords(every, found) {
  const cells = every.filter((cell) => Math.abs(cell.value) >= 0.0005);
  const listed = (some) => some.slice(0, NAMED).map((cell) => `${placed(cell)} (${signed(cell.value)})`).join("; ");
  const most = cells.filter((cell) => cell.value > 0).sort((a, b) => b.value - a.value);
  const least = cells.filter((cell) => cell.value < 0).sort((a, b) => a.value - b.value);
  const [up, down] = found.scale === "value" ? ["Raised most by", "Lowered most by"] : ["For the answer", "Against it"];
  const said = [];
  if (most.length) said.push(element("li", {}, element("b", { class: "for" }, up), ` ${listed(most)}`));
  if (least.length) said.push(element("li", {}, element("b", { class: "against" }, down), ` ${listed(least)}`));
  if (!said.length) return element("p", {}, "It leaned on no attention head.");
  return element("ul", { class: "said-heads" }, ...said, element("li", { class: "none" }, meaning(found)));
}

/** A row for each layer, a square for each attention head. */
function grid(cells, weighty, scale) {
  const most = Math.max(...cells.map((cell) => Math.abs(cell.value)), 1e-9);
  const layers = new Map();
  for (const cell of cells) {
    const square = element("td", { role: "gridcell", tabindex: "-1", "aria-label": told(cell, scale), title: told(cell, scale) });
    square.classList.add(cell.value < 0 ? "against" : "for");
    square.classList.toggle("ringed", weighty.has(cell));
    square.dataset.at = `${cell.layer}.${cell.head}`;
    layers.set(cell.layer, [...(layers.get(cell.layer) ?? []), square]);
    square.style.setProperty("--much", `${(100 * Math.abs(cell.value)) / most}%`);
  }
  const rows = [...layers].map(([layer, squares]) =>
    element("tr", { role: "row" }, element("th", { role: "rowheader", scope: "row" }, String(layer)), ...squares),
  );
  const across = Math.max(...cells.map((cell) => cell.head)) + 1;
  const numbers = Array.from({ length: across }, (_, head) => element("th", { role: "columnheader", scope: "col" }, String(head)));
  const corner = element("th", { role: "columnheader", "aria-label": "layer" });
  const table = element("table", { role: "grid" }, element("tr", { role: "row" }, corner, ...numbers), ...rows);
  table.style.minWidth = `${across + 2}rem`; // more than there is room for are scrolled through
  return table;
}

function told(cell, scale) {
  const data = cell.share === null ? "" : `; ${percent(cell.share)} of what matters over the data`;
  return `${placed(cell)}: ${signed(cell.value)} ${scale}${data}`;
}

function walkable(table, line) {
  const squares = new Map([...table.querySelectorAll("[data-at]")].map((square) => [square.dataset.at, square]));
  const say = (event) => {
    if (event.target.dataset.at) line.textContent = event.target.getAttribute("aria-label");
  };
  squares.values().next().value.tabIndex = 0;
  table.addEventListener("pointerover", say);
  table.addEventListener("focusin", (event) => {
    for (const square of squares.values()) square.tabIndex = square === event.target ? 0 : -1;
    say(event);
  });
  table.addEventListener("keydown", (event) => {
    const step = STEPS[event.key];
    if (!step) return;
    event.preventDefault();
    const [layer, head] = event.target.dataset.at.split(".").map(Number);
    squares.get(`${layer + step[0]}.${head + step[1]}`)?.focus();
  });
}
