// One picture with what the models said about it: boxes over it, answers beside it.

import { make } from "./dom.js";

const FAR_EDGE = 999; // corners are thousandths; 999 is the picture's far edge

export class Sheet {
  constructor({ file, name }) {
    this.file = file;
    this.name = name;
    this.url = URL.createObjectURL(file);
    this.boxes = make("div", { class: "boxes", "aria-hidden": "true" });
    const image = make("img", { src: this.url, alt: name, decoding: "async" });
    image.addEventListener("error", () => image.replaceWith(make("div", { class: "nothing" }, "no preview")));
    this.frame = make("div", { class: "frame" }, image, this.boxes);
    this.answers = make("div", { class: "columns" });
    const picture = make("figure", { class: "picture" }, this.frame, make("figcaption", {}, name));
    this.element = make("article", { class: "sheet", "aria-label": name }, picture, this.answers);
  }

  /** A box over the picture. Smaller ones lie above, so that each can be pointed at. */
  draw(hue, [xmin, ymin, xmax, ymax], name) {
    const label = name ? [make("span", {}, name)] : [];
    const box = make("div", { class: "box", "data-hue": hue, title: name }, ...label);
    const share = (corner) => `${(100 * corner) / FAR_EDGE}%`;
    box.style.left = share(xmin);
    box.style.top = share(ymin);
    box.style.width = share(xmax - xmin);
    box.style.height = share(ymax - ymin);
    box.style.zIndex = String(1 + Math.round(1000 * (1 - ((xmax - xmin) * (ymax - ymin)) / FAR_EDGE ** 2)));
    // A name that would stick out above the picture, or to its right, is put inside the box, or ends at its right edge.
    box.classList.toggle("at-top", ymin < 60);
    box.classList.toggle("at-right", xmin > 700);
    this.boxes.append(box);
    return box;
  }

  /** Frees the picture. */
  close() {
    URL.revokeObjectURL(this.url);
    this.element.remove();
  }
}
