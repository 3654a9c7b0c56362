// A picture with boxes over it.

import { make } from "./dom.js";

const FAR_EDGE = 999; // corners are thousandths; 999 is the picture's far edge
const share = (corner) => `${(100 * corner) / FAR_EDGE}%`;

/** What boxes are drawn on; it is to lie over the picture, exactly. */
export const boxLayer = () => make("div", { class: "boxes", "aria-hidden": "true" });

/** A box on a layer. Smaller ones lie above, so that each can be pointed at. */
export function drawBox(layer, [xmin, ymin, xmax, ymax], name) {
  const box = make("div", { class: "box", title: name }, ...(name ? [make("span", {}, name)] : []));
  box.style.left = share(xmin);
  box.style.top = share(ymin);
  box.style.width = share(xmax - xmin);
  box.style.height = share(ymax - ymin);
  // A name that would stick out of the picture lies inside its box, or ends with it.
  box.classList.toggle("at-top", ymin < 60);
  box.classList.toggle("at-bottom", ymax > 940);
  box.classList.toggle("at-right", xmin > 600);
  box.area = (xmax - xmin) * (ymax - ymin);
  layer.insertBefore(box, [...layer.children].find(({ area }) => area < box.area) ?? null);
  return box;
}

export class Frame {
  constructor(url, name) {
    this.boxes = boxLayer();
    const image = make("img", { src: url, alt: name, decoding: "async" });
    image.addEventListener("error", () => this.element.replaceChildren(make("div", { class: "nothing" }, "no preview")));
    this.element = make("div", { class: "frame" }, image, this.boxes);
  }

  draw(corners, name) {
    return drawBox(this.boxes, corners, name);
  }
}
