// The questions about a pair, a row each, with A, tie and B under the captions.

import { make } from "./dom.js";

const CHOICES = [["left", "A", "1"], ["tie", "Tie", "2"], ["right", "B", "3"]];

export class Ballot {
  /** `criteria` as the session tells them; `changed()` hears of every answer. */
  constructor(element, criteria, changed) {
    this.changed = changed;
    this.rows = criteria.map((criterion, number) => this.row(criterion, number));
    element.replaceChildren(...this.rows.map(({ element: row }) => row));
    this.activate(0);
  }

  row({ name, asks, hint }, number) {
    const inputs = new Map();
    const labels = CHOICES.map(([value, said, key]) => {
      const input = make("input", { type: "radio", name, value, "aria-describedby": `hint-${name}` });
      input.addEventListener("change", () => this.answered(number));
      input.addEventListener("focus", () => this.activate(number));
      inputs.set(value, input);
      return make("label", { "data-key": key }, input, said);
    });
    const told = make("p", { class: "hint", id: `hint-${name}` }, hint);
    const element = make("fieldset", { class: "row", tabindex: "-1" }, make("legend", {}, `Which caption ${asks}`), told, make("div", { class: "choices" }, ...labels));
    return { name, element, inputs };
  }

  /** Criterion → left, tie or right, of those that are answered. */
  answers() {
    const given = this.rows.map(({ name, inputs }) => [name, [...inputs].find(([, input]) => input.checked)?.[0]]);
    return Object.fromEntries(given.filter(([, value]) => value));
  }

  numMissing = () => this.rows.length - Object.keys(this.answers()).length;

  /** Begins anew, or with these answers. */
  reset(answers = {}) {
    for (const { name, element, inputs } of this.rows) {
      for (const [value, input] of inputs) input.checked = answers[name] === value;
      element.classList.remove("missing");
    }
    this.activate(0);
  }

  /** Answers the active row and goes on to the next one without an answer. */
  choose(value) {
    const row = this.rows[this.active];
    row.inputs.get(value).checked = true;
    this.answered(this.active);
    const next = this.rows.findIndex((other, number) => number > this.active && !isAnswered(other));
    if (next >= 0) this.activate(next, true);
  }

  move(by) {
    this.activate(Math.min(this.rows.length - 1, Math.max(0, this.active + by)), true);
  }

  /** Marks what is not answered, and goes there. */
  showMissing() {
    for (const row of this.rows) row.element.classList.toggle("missing", !isAnswered(row));
    this.activate(this.rows.findIndex((row) => !isAnswered(row)), true);
  }

  activate(number, isByKey = false) {
    this.active = number;
    for (const [at, { element }] of this.rows.entries()) element.classList.toggle("active", at === number);
    if (!isByKey || !this.rows.length) return;
    const { element, inputs } = this.rows[number];
    // A row without an answer takes the focus itself: none of the answers may look as if it were the one to give.
    ([...inputs.values()].find((input) => input.checked) ?? element).focus({ preventScroll: true });
    element.scrollIntoView({ block: "nearest" });
  }

  answered(number) {
    this.rows[number].element.classList.remove("missing");
    this.activate(number);
    this.changed();
  }
}

const isAnswered = ({ inputs }) => [...inputs.values()].some((input) => input.checked);
