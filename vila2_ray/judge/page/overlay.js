// The boxes that both captions say, over the picture as it is fitted into its frame. They are read from the texts that are
// judged, and from nothing else; a correction draws none.

import { namedBoxes } from "./boxes.js";
import { byId } from "./dom.js";
import { boxLayer, drawBox } from "./frame.js";

const SIDES = ["left", "right"];

/** Boxes over one image; they are placed within the image's parent. */
class Overlay {
  constructor(image) {
    Object.assign(this, { image, layer: boxLayer() });
    new ResizeObserver(() => this.place()).observe(image);
    image.addEventListener("load", () => this.place());
  }

  /** Draws the boxes of each side; without any there is no layer. */
  show(found) {
    this.layer.replaceChildren();
    for (const side of SIDES) {
      for (const { box, name } of found[side]) drawBox(this.layer, box, name).classList.add(`of-${side}`);
    }
    if (this.layer.firstChild) this.image.after(this.layer);
    else this.layer.remove();
    this.place();
  }

  /** Lays the layer over the picture itself: less than the image's room where that has another shape. */
  place() {
    const { naturalWidth, naturalHeight, parentElement } = this.image;
    const room = this.image.getBoundingClientRect(), parent = parentElement.getBoundingClientRect();
    this.layer.hidden = !naturalWidth || !room.width;
    if (this.layer.hidden) return;
    const scale = Math.min(room.width / naturalWidth, room.height / naturalHeight);
    const width = scale * naturalWidth, height = scale * naturalHeight;
    const left = room.left - parent.left + (room.width - width) / 2, top = room.top - parent.top + (room.height - height) / 2;
    const { style } = this.layer;
    [style.left, style.top, style.width, style.height] = [left, top, width, height].map((pixels) => `${pixels}px`);
  }
}

const overlays = [byId("picture"), byId("closeup-picture")].map((image) => new Overlay(image));
let areShown = true;
let pointed = null, focused = null;

/** The boxes of a pair, where it has a picture to draw them on: both captions' at first. */
export function showBoxes({ url, ...texts }) {
  const found = Object.fromEntries(SIDES.map((side) => [side, url ? namedBoxes(texts[side]) : []]));
  for (const overlay of overlays) overlay.show(found);
  for (const side of SIDES) {
    byId(side).classList.toggle("boxed", found[side].length > 0);
    const caption = byId(side).querySelector(".caption");
    if (found[side].length) caption.tabIndex = 0; // a phone's way to point at it
    else caption.removeAttribute("tabindex");
  }
  const hasAny = SIDES.some((side) => found[side].length);
  byId("boxes").hidden = byId("boxes-key").hidden = !hasAny;
  pointed = focused = null;
  tellWhose();
}

/** Shows all boxes or hides them, for the pairs to come as well. */
export function turnBoxes() {
  if (byId("boxes").hidden) return;
  areShown = !areShown;
  document.body.classList.toggle("no-boxes", !areShown);
  byId("boxes-turn").textContent = areShown ? "Hide" : "Show";
}

function tellWhose() {
  const side = pointed ?? focused;
  if (side) document.body.dataset.boxesOf = side;
  else delete document.body.dataset.boxesOf;
}

for (const side of SIDES) {
  const on = (event, change) => byId(side).addEventListener(event, (happened) => { change(happened); tellWhose(); });
  on("pointermove", ({ pointerType, movementX, movementY }) => {
    // One that only rests where a caption appears points at nothing; what a finger points at is focused, and stays.
    if (pointerType !== "touch" && (movementX || movementY)) pointed = side;
  });
  on("pointerleave", () => { if (pointed === side) pointed = null; });
  on("focusin", () => { focused = side; });
  on("focusout", () => { if (focused === side) focused = null; });
}
byId("boxes").addEventListener("click", turnBoxes);
