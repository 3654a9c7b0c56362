// One picture and what the models said about it, side by side.

import { make } from "./dom.js";

export class Sheet {
  constructor({ file, name }, numModels) {
    this.file = file;
    this.name = name;
    this.url = URL.createObjectURL(file);
    this.columns = make("div", { class: numModels > 1 ? "columns" : "columns single" });
    this.element = make("article", { class: "sheet", "aria-label": name }, make("h3", {}, name), this.columns);
  }

  /** Frees the picture. */
  close() {
    URL.revokeObjectURL(this.url);
    this.element.remove();
  }
}
