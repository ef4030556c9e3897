// The text of a row: each token's shade is the weight that the chosen attention head gives it at one of them.
const excerpts = JSON.parse(document.getElementById("excerpts").textContent);
const picker = document.getElementById("excerpt");
const text = document.getElementById("text");
const looked = document.getElementById("looked");
const whose = document.getElementById("whose");
const TOLD = 5;
let shown, places, query;

function unpacked({ looks, wide }) {
  const bytes = Uint8Array.from(atob(looks), (each) => each.charCodeAt(0));
  const count = bytes.length / (wide ? 3 : 2);
  const keys = wide ? new Uint16Array(bytes.buffer, 0, count) : bytes.subarray(0, count);
  return { keys, weights: bytes.subarray(bytes.length - count) };
}

function named(place) {
  return `“${places[place].textContent}” (${place + 1})`;
}

function look(place) {
  const { heads, most, tokens, keys, weights } = shown;
  const start = ((chosen[0] * heads + chosen[1]) * tokens.length + place) * most;
  for (const each of places) each.style.removeProperty("--weight");
  let rest = 255;
  const told = [];
  for (let i = start; i < start + most && weights[i]; i++) {
    places[keys[i]].style.setProperty("--weight", Math.sqrt(weights[i] / 255).toFixed(3));
    if (told.length === TOLD) continue;
    told.push(`${named(keys[i])} ${Math.round(weights[i] / 2.55)} %`);
    rest -= weights[i];
  }
  const others = Math.round(Math.max(0, rest) / 2.55);
  if (others) told.push(`all others ${others} %`);
  whose.textContent = `Layer ${chosen[0]}, head ${chosen[1]}`;
  looked.textContent = `${named(place)} looks at ${told.join(", ")}`;
  text.querySelector(".query")?.classList.remove("query");
  places[place].classList.add("query");
}

function settle(place) {
  text.querySelector("[aria-selected=true]")?.setAttribute("aria-selected", "false");
  query = Math.max(0, Math.min(places.length - 1, place));
  places[query].setAttribute("aria-selected", "true");
  text.setAttribute("aria-activedescendant", places[query].id);
  look(query);
}

function unfold(excerpt) {
  shown = { ...excerpt, ...unpacked(excerpt) };
  places = excerpt.tokens.map((token, i) => {
    const made = part("span", token.trim() || "␣");
    made.id = `token-${i}`;
    made.setAttribute("role", "option");
    made.setAttribute("aria-selected", "false");
    return made;
  });
  // A space stands between words and not within one.
  text.replaceChildren(...places.flatMap((each, i) => (/^\s/.test(excerpt.tokens[i]) ? [" ", each] : [each])));
  settle(places.length >> 1);
}

picker.addEventListener("change", () => unfold(excerpts[picker.value]));
text.addEventListener("pointerover", ({ target }) => places.includes(target) && look(places.indexOf(target)));
text.addEventListener("pointerleave", () => look(query));
text.addEventListener("click", ({ target }) => places.includes(target) && settle(places.indexOf(target)));
text.addEventListener("keydown", (event) => {
  const to = { ArrowLeft: query - 1, ArrowRight: query + 1, Home: 0, End: places.length - 1 }[event.key];
  if (to === undefined) return;
  event.preventDefault();
  settle(to);
  places[query].scrollIntoView({ block: "nearest" });
});
document.addEventListener("chosen", () => look(query));
unfold(excerpts[0]);
