// From the answer of one task to what is drawn of it.

import { element } from "./element.js";
import { leaned } from "./leaning.js";

const MOST_BARS = 5;

/** Everything that is drawn of an answer. What an answer may hold beside this is one more function in PARTS:
 *  of (task, answer, row), to an element or null. */
export function drawn(task, answer, row) {
  if (answer === null) {
    return [element("p", { class: "none" }, `needs ${task.inputs.join(" and ")}`)];
  }
  return PARTS.map((part) => part(task, answer, row)).filter((part) => part !== null);
}

/** Whether a task wants all the width: a text with tags in it does. */
export const isWide = (task) => task.kind === "tag";

/** What an answer says, in short, for comparing two of them. */
export function said(answer) {
  if (answer === null) return "";
  const { label, labels, value, tags } = answer;
  return JSON.stringify([label, labels, typeof value === "number" ? value.toFixed(3) : value, tags]);
}

const PARTS = [flags, saidAloud, bars, tagged, embedded, hits, leaned];

function flags(_task, answer) {
  const raised = [];
  if (answer.out_of_scope) raised.push("out of scope");
  if (answer.abstained) raised.push("no answer: too unsure");
  if (!raised.length) return null;
  return element("p", {}, ...raised.map((text) => element("span", { class: "flag" }, text)));
}

function saidAloud(_task, answer) {
  if (answer.abstained) return null;
  if ("label" in answer) return element("p", { class: "said" }, answer.label);
  if ("value" in answer) return element("p", { class: "said" }, String(Math.round(answer.value * 1000) / 1000));
  if (!("labels" in answer)) return null;
  if (!answer.labels.length) return element("p", { class: "said none" }, "none");
  return element("p", { class: "said" }, answer.labels.join(", "));
}

function bars(task, answer) {
  if (!answer.scores) return null;
  const chosen = new Set((answer.labels ?? [answer.label ?? answer.value]).map(String));
  let scores = Object.entries(answer.scores);
  if (task.kind === "ordinal") {
    scores = task.labels.map((level) => [String(level), answer.scores[level]]);
  } else {
    scores = scores.filter(([label], at) => at < MOST_BARS || chosen.has(label));
  }
  const rows = scores.map(([label, score]) => {
    const bar = element("b");
    bar.style.width = `${100 * score}%`;
    return element(
      "li",
      { class: chosen.has(label) ? "chosen" : "", title: label },
      element("span", {}, label),
      element("i", { "aria-hidden": "true" }, bar),
      element("span", {}, score.toFixed(3)),
    );
  });
  return element("ul", { class: "bars", "aria-label": `Scores of ${task.name}` }, ...rows);
}

/** The text with its tags over it: spans marked where there are some, else a tag above each word. */
function tagged(task, answer, row) {
  if (!answer.tags) return null;
  const given = row[task.inputs[0]];
  const words = Array.isArray(given) ? given : given.trim().split(/\s+/);
  const drawing = element("p", { class: "tagged" });
  if (!answer.spans) {
    words.forEach((word, at) => {
      drawing.append(element("ruby", {}, word, element("rt", {}, answer.tags[at])), " ");
    });
    return drawing;
  }
  let at = 0;
  for (const span of answer.spans) {
    drawing.append(words.slice(at, span.start).join(" "), " ");
    const inside = words.slice(span.start, span.end).join(" ");
    drawing.append(element("mark", {}, inside, element("small", {}, span.label)), " ");
    at = span.end;
  }
  drawing.append(words.slice(at).join(" "));
  return drawing;
}

function embedded(_task, answer) {
  if (!answer.embedding) return null;
  if ("similarity" in answer) return element("p", { class: "said" }, `${answer.similarity.toFixed(3)} alike`);
  const some = answer.embedding.slice(0, 3).map((each) => each.toFixed(3));
  return element("p", { class: "none" }, `${answer.embedding.length} numbers: ${some.join(", ")} …`);
}

function hits(task, answer) {
  if (!answer.hits) return null;
  const found = answer.hits.map((hit) => {
    const text = hit.document[task.inputs[1]];
    const shown = Array.isArray(text) ? text.join(" ") : String(text);
    return element("li", {}, `${shown.slice(0, 300)} `, element("small", {}, hit.score.toFixed(3)));
  });
  return element("ol", { class: "hits", "aria-label": `Found by ${task.name}` }, ...found);
}
