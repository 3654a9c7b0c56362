// One caption of the pair, and its correction. The caption stays as it is beside it: that is what is judged.

import { make } from "./dom.js";
import { say } from "./views.js";

export class Side {
  /** `name` is what it is called, A or B; `shortcut` the key that opens its correction. */
  constructor(element, name, shortcut) {
    this.text = "";
    this.caption = make("p", { class: "caption", dir: "auto" });
    const open = make("button", { type: "button", class: "quiet", on: { click: () => this.open() } }, "Correct ", make("kbd", {}, shortcut));
    open.setAttribute("aria-label", `Correct ${name}`);
    const id = `${element.id}-correction`;
    this.field = make("textarea", { id, rows: 3, dir: "auto", spellcheck: "true", on: { input: () => this.tell() } });
    this.about = make("p", { class: "about" });
    const discard = make("button", { type: "button", class: "quiet", on: { click: () => this.discard() } }, "Discard the correction");
    this.panel = make("div", { class: "correction", hidden: true }, make("label", { for: id }, `What ${name} should say`), this.field, this.about, discard);
    this.opener = open;
    element.setAttribute("aria-labelledby", `${element.id}-name`);
    element.replaceChildren(make("h2", { id: `${element.id}-name` }, name), open, this.caption, this.panel);
  }

  /** Shows a caption, with the correction that was made of it, if any. */
  show(text, correction) {
    this.text = text;
    this.caption.textContent = text || "(empty)";
    this.caption.classList.toggle("none", !text);
    this.panel.hidden = correction === undefined;
    this.field.value = correction ?? text;
    this.opener.disabled = text.length > this.field.maxLength;
    this.opener.title = this.opener.disabled ? `Too long to be corrected here: more than ${this.field.maxLength} characters.` : "";
    this.tell();
  }

  open() {
    if (this.opener.disabled) return say(this.opener.title);
    this.panel.hidden = false;
    this.field.focus();
  }

  discard() {
    this.panel.hidden = true;
    this.field.value = this.text;
    this.opener.focus();
  }

  /** What it should say; undefined where it is as it should be. */
  correction() {
    const written = this.field.value.trim();
    return this.panel.hidden || written === this.text.trim() ? undefined : written;
  }

  bound(numChars) {
    this.field.maxLength = numChars;
  }

  tell() {
    this.about.textContent = this.field.value.trim() ? "" : "Left empty: nothing of this caption is taught.";
  }
}
