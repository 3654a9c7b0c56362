// One model's answer about one picture: waiting, being written, whole, stopped or failed.

import { address, Problem } from "./api.js";
import { copy } from "./copy.js";
import { count, duration, make } from "./dom.js";
import { Frame } from "./frame.js";
import * as key from "./key.js";
import { Marked } from "./marked.js";
import { described } from "./models.js";
import { curl } from "./request.js";

const COPIED_MS = 1600;

export class Answer {
  /** `set` are the request's fields; `again(answer)` asks this one anew. */
  constructor(sheet, model, set, again) {
    this.sheet = sheet;
    this.model = model;
    this.set = set;
    this.again = again;
    this.who = make("small", {}, described(model));
    this.text = make("p", { class: "caption", dir: "auto", "aria-live": "polite", "aria-busy": "true" });
    this.facts = make("p", { class: "facts" });
    this.problem = make("div", { class: "problem", role: "alert", hidden: true });
    this.copyJson = make("button", { type: "button", class: "quiet", disabled: true }, "Copy JSON");
    this.copyCurl = make("button", { type: "button", class: "quiet" }, "Copy curl");
    this.copyJson.addEventListener("click", () => copied(this.copyJson, this.json()));
    this.copyCurl.addEventListener("click", () => copied(this.copyCurl, this.curl()));
    const frame = new Frame(sheet.url, sheet.name);
    const head = make("h4", {}, model.name, " ", this.who);
    const foot = make("div", { class: "foot" }, this.facts, make("span", { class: "copies" }, this.copyJson, this.copyCurl));
    const parts = [head, frame.element, this.text, this.problem, foot];
    this.element = make("section", { class: "answer", "aria-label": model.name }, ...parts);
    this.marked = new Marked(this.text, (corners, name) => frame.draw(corners, name));
    sheet.columns.append(this.element);
    this.wait();
  }

  get isOpen() {
    return this.state === "waiting" || this.state === "writing";
  }

  wait() {
    this.become("waiting");
    this.caption = null;
    this.marked.clear();
    this.problem.hidden = true;
    this.copyJson.disabled = true;
    this.facts.textContent = "waiting …";
  }

  /** More of the text. */
  piece(text) {
    if (this.state === "waiting") this.facts.textContent = "writing …";
    this.become("writing");
    this.marked.say(this.marked.text + text);
  }

  /** The whole of it, as the endpoint tells it. */
  whole(caption) {
    if (caption.error) return this.fail(new Problem(caption.error));
    this.caption = caption;
    this.marked.say(caption.text);
    this.marked.add(caption.boxes ?? []);
    if (caption.checkpoint) this.who.textContent = described(caption.checkpoint);
    const { usage = {}, timings = {}, finish_reason: reason } = caption;
    const facts = [count(usage.completion_tokens ?? 0, "token")];
    if (timings.waiting_ms != null) facts.push(`first words after ${duration(timings.waiting_ms)}`);
    if (timings.total_ms != null) facts.push(`${duration(timings.total_ms)} in all`);
    if (reason === "length") facts.push("cut off at max tokens");
    if (!caption.text.trim()) facts.push("nothing was said");
    this.facts.textContent = facts.join(" · ");
    this.copyJson.disabled = false;
    this.become("whole");
  }

  /** Ended by the person. What was written stays. */
  stop() {
    this.facts.textContent = "stopped";
    this.become("stopped");
  }

  /** Ended by a Problem. */
  fail({ message, instance }) {
    this.facts.textContent = instance && `request ${instance}`;
    const again = make("button", { type: "button" }, "Ask again");
    again.addEventListener("click", () => this.again(this));
    this.problem.replaceChildren(make("p", {}, message), again);
    this.problem.hidden = false;
    this.become("failed");
  }

  json() {
    const request = Object.fromEntries(this.set);
    return JSON.stringify({ image: this.sheet.name, request, ...this.caption }, null, 2);
  }

  curl() {
    return curl(address("v1/captions"), this.sheet.file, this.set, Boolean(key.read()));
  }

  become(state) {
    this.state = state;
    this.element.dataset.state = state;
    this.text.setAttribute("aria-busy", this.isOpen); // read out when it is whole, not word by word
  }
}

async function copied(button, text) {
  const before = button.textContent;
  if (button.dataset.said) return;
  button.dataset.said = "yes";
  button.textContent = (await copy(text)) ? "Copied" : "Could not copy";
  setTimeout(() => {
    button.textContent = before;
    delete button.dataset.said;
  }, COPIED_MS);
}
