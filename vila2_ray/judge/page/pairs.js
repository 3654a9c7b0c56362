// Pairs with their pictures, the next ones had before they are wanted.

const AHEAD = 2;
const COARSE_BELOW = 200; // pixels of a picture's longer side: enlarged, its pixels stay sharp

export class Pairs {
  /** `ask(path, options)` asks the server. */
  constructor(ask) {
    Object.assign(this, { ask, had: new Map() });
  }

  /** {id, left, right, url, isCoarse}, or with `problem` in place of a picture that cannot be shown. Raises Problem. */
  async get(id) {
    if (!this.had.has(id)) {
      const wanted = this.fetch(id);
      this.had.set(id, wanted);
      wanted.catch(() => this.had.delete(id)); // asked for anew the next time
    }
    return this.had.get(id);
  }

  /** Has the pairs `ids` that come next, and lets go of those that are neither among them nor in `kept`. */
  prepare(ids, kept) {
    const wanted = ids.slice(0, AHEAD);
    for (const id of wanted) this.get(id).catch(() => {}); // told when it is wanted
    for (const id of [...this.had.keys()]) if (!wanted.includes(id) && !kept.includes(id)) this.release(id);
  }

  close() {
    for (const id of [...this.had.keys()]) this.release(id);
  }

  release(id) {
    this.had.get(id)?.then(({ url }) => url && URL.revokeObjectURL(url), () => {});
    this.had.delete(id);
  }

  async fetch(id) {
    const [pair, picture] = await Promise.all([this.ask(`v1/pairs/${id}`).then((got) => got.json()), this.picture(id)]);
    return { ...pair, ...picture };
  }

  async picture(id) {
    let blob;
    try {
      blob = await (await this.ask(`v1/pairs/${id}/picture`, { cache: "default" })).blob();
    } catch (error) {
      if (error.status !== 422) throw error;
      return { problem: error.message };
    }
    const url = URL.createObjectURL(blob), probe = new Image();
    probe.src = url;
    try {
      await probe.decode();
    } catch {
      URL.revokeObjectURL(url);
      return { problem: "This browser cannot show the picture." };
    }
    return { url, isCoarse: Math.max(probe.naturalWidth, probe.naturalHeight) < COARSE_BELOW };
  }
}
