// A phrase and the boxes drawn for it: pointing at one shows the other, a click keeps them shown.

export class Link {
  /** `phrase` may be null: boxes that no words stand for. */
  constructor(phrase) {
    this.elements = [];
    this.isPinned = false;
    this.pointed = new Set();
    if (phrase) this.add(phrase);
    phrase?.addEventListener("focus", () => this.point(phrase, true));
    phrase?.addEventListener("blur", () => this.point(phrase, false));
    phrase?.addEventListener("click", () => this.pin(phrase));
    phrase?.addEventListener("keydown", (event) => {
      if ((event.key !== "Enter" && event.key !== " ") || event.ctrlKey || event.metaKey) return;
      event.preventDefault();
      this.pin(phrase);
    });
  }

  /** One more element that lights up with the others. */
  add(element) {
    this.elements.push(element);
    element.addEventListener("pointerenter", () => this.point(element, true));
    element.addEventListener("pointerleave", () => this.point(element, element === document.activeElement));
    this.light();
  }

  point(element, is) {
    if (is) this.pointed.add(element);
    else this.pointed.delete(element);
    this.light();
  }

  pin(phrase) {
    this.isPinned = !this.isPinned;
    phrase.setAttribute("aria-pressed", this.isPinned);
    this.light();
  }

  light() {
    for (const element of this.elements) element.classList.toggle("lit", this.isPinned || this.pointed.size > 0);
  }
}
