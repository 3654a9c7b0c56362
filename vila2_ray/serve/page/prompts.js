// The question: one of the endpoint's prompts, or words of one's own. Both controls always say the same.

import { byId, make } from "./dom.js";

const OWN = "\u0000own"; // no prompt can be called this
let texts = new Map();

/** Fills in the endpoint's prompts: {id, text, skill}. What was chosen stays. */
export function fill(prompts) {
  const select = byId("prompt");
  const before = select.value;
  texts = new Map(prompts.map(({ id, text }) => [id, text]));
  const bySkill = new Map();
  for (const { id, skill } of prompts) bySkill.set(skill ?? "", [...(bySkill.get(skill ?? "") ?? []), id]);
  const groups = [...bySkill].map(([skill, ids]) =>
    make("optgroup", { label: skill ? `Made for ${skill}` : "Captions" }, ...ids.map((id) => make("option", { value: id }, id))));
  const usual = make("option", { value: "" }, "The usual prompt");
  select.replaceChildren(usual, ...groups, make("option", { value: OWN }, "A question of my own"));
  select.value = texts.has(before) || before === OWN ? before : "";
}

/** {prompt, question}: at most one of them is not empty. */
export function chosen() {
  const select = byId("prompt"), words = byId("question").value.trim();
  return { prompt: texts.has(select.value) ? select.value : "", question: select.value === OWN ? words : "" };
}

export function listen() {
  const select = byId("prompt"), words = byId("question");
  select.addEventListener("change", () => {
    if (select.value === OWN) {
      words.focus();
      words.select();
    } else {
      words.value = texts.get(select.value) ?? "";
    }
  });
  words.addEventListener("input", () => {
    const said = words.value.trim();
    const known = [...texts].find(([, text]) => text === said);
    select.value = known ? known[0] : said ? OWN : "";
  });
}
