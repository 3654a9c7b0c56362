// The pictures that will be asked about: chosen, dropped or pasted; sent as they are.

import { byId, make, megabytes } from "./dom.js";
import { fits } from "./request.js";

let limits = null;
let chosen = [];

/** Pictures within the endpoint's bounds, in the order in which they came: {file, name}. */
export const sendable = () => chosen.filter(({ problem }) => !problem);
export const numLeftOut = () => chosen.length - sendable().length;

/** The endpoint's bounds, as page/limits.json has them. */
export function bound(by) {
  limits = by;
  chosen.forEach(judge);
}

/** Takes the images among some files; says which are none. */
export function add(files) {
  const others = [];
  for (const file of files) {
    if (file.type && !file.type.startsWith("image/")) others.push(file.name || file.type);
    else chosen.push(entry(file));
  }
  const refused = byId("refused");
  refused.hidden = !others.length;
  refused.textContent = others.length ? `${others.join(", ")}: only images can be asked about.` : "";
}

/** Listens to the three ways in which pictures come. */
export function listen() {
  const input = byId("files");
  input.addEventListener("change", () => {
    add(input.files);
    input.value = "";
  });
  document.addEventListener("paste", (event) => {
    const files = event.clipboardData?.files ?? [];
    if (!files.length) return;
    event.preventDefault();
    add(files);
  });
  const shows = (is) => document.body.classList.toggle("dropping", is);
  const hasFiles = (event) => event.dataTransfer?.types.includes("Files");
  document.addEventListener("dragover", (event) => {
    if (!hasFiles(event)) return;
    event.preventDefault();
    event.dataTransfer.dropEffect = "copy";
    shows(true);
  });
  document.addEventListener("dragleave", (event) => { if (!event.relatedTarget) shows(false); });
  document.addEventListener("drop", (event) => {
    shows(false);
    if (!hasFiles(event)) return;
    event.preventDefault();
    add(event.dataTransfer.files);
  });
}

function entry(file) {
  const name = file.name || "picture";
  const url = URL.createObjectURL(file);
  const image = make("img", { src: url, alt: "", decoding: "async" });
  const note = make("small", {}, megabytes(file.size));
  const remove = make("button", { type: "button", class: "quiet", "aria-label": `Remove ${name}`, title: "Remove" }, "✕");
  const item = make("li", {}, image, make("span", { class: "name" }, name, note), remove);
  const picture = { file, name, problem: "", pixels: 0, item, note };
  image.addEventListener("load", () => {
    picture.pixels = image.naturalWidth * image.naturalHeight;
    judge(picture);
  });
  image.addEventListener("error", () => image.replaceWith(make("span", { class: "nothing" }, "no preview")));
  remove.addEventListener("click", () => {
    const next = item.nextElementSibling ?? item.previousElementSibling;
    chosen = chosen.filter((other) => other !== picture);
    item.remove();
    URL.revokeObjectURL(url);
    (next?.querySelector("button") ?? byId("files")).focus();
  });
  byId("pictures").append(item);
  judge(picture);
  return picture;
}

/** Whether the endpoint would refuse a picture for its size, said beside it. */
function judge(picture) {
  if (!limits) return;
  const { file, pixels } = picture;
  const millions = (number) => `${Math.round(number / 1e5) / 10} million pixels`;
  if (!fits(file, limits)) {
    picture.problem = `${megabytes(file.size)}: the endpoint takes less than ${limits.max_body_mb} MB. Left out.`;
  } else if (pixels > limits.max_pixels) {
    picture.problem = `${millions(pixels)}: the endpoint takes up to ${millions(limits.max_pixels)}. Left out.`;
  } else {
    picture.problem = file.size ? "" : "An empty file. Left out.";
  }
  picture.note.textContent = picture.problem || megabytes(file.size);
  picture.item.classList.toggle("bad", Boolean(picture.problem));
}
