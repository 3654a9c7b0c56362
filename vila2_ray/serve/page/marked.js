// A caption as it grows: its text, with the phrases that have a box made into buttons that show it.

import { namedBoxes } from "./boxes.js";
import { make } from "./dom.js";
import { Link } from "./link.js";

export class Marked {
  /** Writes into `element`; `draw(corners, name)` draws a box on the picture and returns its element. */
  constructor(element, draw) {
    this.element = element;
    this.draw = draw;
    this.drawn = [];
    this.clear();
  }

  clear() {
    for (const { box } of this.drawn) box.remove();
    this.text = "";
    this.drawn = []; // {corners, box}
    this.links = new Map(); // where a phrase begins → its link
    this.done = 0; // up to here the text is marked and stays
    this.tail = document.createTextNode("");
    this.element.replaceChildren(this.tail);
  }

  /** Says this text. What stands there already stays, phrases under the pointer too, when the text goes on from it. */
  say(text) {
    if (!text.startsWith(this.text)) this.clear();
    this.text = text;
    for (const found of namedBoxes(text).slice(this.drawn.length)) this.mark(found);
    this.tail.data = text.slice(this.done);
  }

  /** Draws what the endpoint found beyond the boxes that the text shows. */
  add(boxes) {
    const shown = new Set(this.drawn.map(({ corners }) => corners.join()));
    for (const { phrase, box } of boxes) if (!shown.has(box.join())) this.put(new Link(null), box, phrase);
  }

  mark({ name, start, end, box, open, close }) {
    const bracket = this.text.slice(open, close);
    let link = this.links.get(start);
    if (!link && name) {
      this.tail.before(this.text.slice(this.done, start));
      link = this.phrase(this.text.slice(start, end), "phrase");
      this.tail.before(this.text.slice(end, open), make("span", { class: "corners" }, bracket));
    } else if (!link) {
      this.tail.before(this.text.slice(this.done, open));
      link = this.phrase(bracket, "phrase corners");
    } else {
      this.tail.before(this.text.slice(this.done, open), make("span", { class: "corners" }, bracket));
    }
    this.links.set(start, link);
    this.done = close;
    this.put(link, box, name);
  }

  phrase(text, kind) {
    const element = make("span", { class: kind, role: "button", tabindex: "0", "aria-pressed": "false" }, text);
    this.tail.before(element);
    return new Link(element);
  }

  put(link, corners, name) {
    const box = this.draw(corners, name);
    this.drawn.push({ corners, box });
    link.add(box);
  }
}
