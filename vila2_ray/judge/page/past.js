// What was judged last, in order, so that one can go back: after a reload as well, in the same tab.

const NUM_REMEMBERED = 50;

export class Past {
  /** `name` is of one rater of one study. */
  constructor(name) {
    Object.assign(this, { item: `vila2-judge-past:${name}`, ids: [], places: new Map() });
    try {
      for (const [id, place] of JSON.parse(sessionStorage.getItem(this.item)) ?? []) {
        this.ids.push(id);
        this.places.set(id, place);
      }
    } catch { /* none is known: one goes back within this sitting */ }
  }

  /** This one is what was judged last, at a place among all. */
  push(id, place) {
    this.ids = [...this.ids.filter((other) => other !== id), id];
    this.places.set(id, place);
    this.remember();
  }

  /** What was judged last; after it comes the one before. Holds until the page is left, or something is remembered. */
  pop = () => this.ids.pop();

  remember() {
    const last = this.ids.slice(-NUM_REMEMBERED).map((id) => [id, this.places.get(id)]);
    try { sessionStorage.setItem(this.item, JSON.stringify(last)); } catch { /* it holds until the page is left */ }
  }
}
