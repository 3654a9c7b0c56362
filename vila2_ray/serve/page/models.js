// Which models answer: what is served now, told anew now and then, so that a promotion is seen to happen.

import { get } from "./api.js";
import { byId, make } from "./dom.js";

const rows = new Map(); // name → {standing, item, input, note}

/** Asks what is served. Raises Problem. */
export async function refresh() {
  const { models } = await get("v1/standing");
  const isFirst = rows.size === 0;
  byId("models-note")?.remove();
  for (const [name, row] of rows) {
    if (models.some((model) => model.name === name)) continue;
    row.item.remove();
    rows.delete(name);
  }
  for (const standing of models) {
    if (!rows.has(standing.name)) rows.set(standing.name, row(standing.name));
    tell(rows.get(standing.name), standing);
  }
  if (isFirst && models.length) rows.get(models[0].name).input.checked = true;
}

/** The models that are asked, in the order of the page: {name, skill, model, digest, engine}. */
export const chosen = () => [...rows.values()].filter(({ input }) => input.checked).map(({ standing }) => standing);

/** What stands behind a name, for people. */
export const described = ({ model, digest, engine }) => [model, digest?.slice(0, 12), engine].filter(Boolean).join(" · ");

function row(name) {
  const input = make("input", { type: "checkbox", name: "model", value: name });
  const title = make("b", {}, name), note = make("small", {}), state = make("span", { class: "state" });
  const item = make("label", { class: "model" }, input, make("span", {}, title, " ", state, note));
  byId("models").append(item);
  return { input, item, note, state, standing: { name } };
}

function tell(row, standing) {
  row.standing = standing;
  const { state, skill, detail } = standing;
  row.item.dataset.state = state;
  const said = state === "serving" ? (skill ? `specialist for ${skill}` : "") : state;
  if (row.state.textContent !== said) row.state.textContent = said;
  const note = [described(standing), detail].filter(Boolean).join(" — ");
  if (row.note.textContent !== note) row.note.textContent = note;
}
