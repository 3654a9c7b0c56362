// Votes on their way: each lies in this browser until the server has it, whatever becomes of network, tab or server.
// Each is an item of its own, so that several tabs never overwrite each other's; one that is sent twice is kept once.

const PATIENCE_MS = 20_000;
const LONGEST_PAUSE_MS = 30_000;

/** A name that nothing else has. */
const unique = () => [...crypto.getRandomValues(new Uint8Array(12))].map((byte) => byte.toString(16).padStart(2, "0")).join("");

export class Outbox {
  /**
   * `prefix` names one rater of one study; `ask(path, options)` asks the server, as that rater;
   * `on.refused(problem)`, `on.locked()` and `on.changed()` hear what happens; `on.isElsewhere()` finds out whether the
   * server has another study now: then what waits is left for the day when it has this one again.
   */
  constructor(prefix, ask, on) {
    Object.assign(this, { prefix: `vila2-judge:${prefix}:`, ask, on, numFailed: 0, memory: new Map(), busy: null, closed: false });
    this.wake = () => this.flush();
    addEventListener("online", this.wake);
  }

  close() {
    this.closed = true;
    clearTimeout(this.timer);
    removeEventListener("online", this.wake);
  }

  /** Keeps a vote, in place of one on the same pair that still waits, and sends it. */
  put(vote) {
    for (const [item, waiting] of this.entries()) if (waiting.pair === vote.pair && item !== this.busy) this.drop(item);
    const ballot = unique();
    this.keep(`${this.prefix}${String(Date.now()).padStart(15, "0")}-${ballot}`, { ...vote, ballot });
    this.on.changed();
    this.flush();
  }

  /** [item, vote], the oldest at the front. */
  entries() {
    const found = new Map([...this.memory].filter(([item]) => item.startsWith(this.prefix)));
    for (const item of this.stored()) {
      try { found.set(item, JSON.parse(localStorage.getItem(item))); } catch { this.setAside(item); }
    }
    return [...found].filter(([, vote]) => vote).sort(([a], [b]) => (a < b ? -1 : 1));
  }

  stored() {
    try { return Object.keys(localStorage).filter((item) => item.startsWith(this.prefix)); } catch { return []; } // all is in memory
  }

  /** What is no vote holds up none. */
  setAside(item) {
    try {
      const text = localStorage.getItem(item);
      localStorage.removeItem(item);
      localStorage.setItem(`broken:${item}`, text); // for whoever looks into it
    } catch { /* it is gone, or stays and is passed by */ }
  }

  /** The vote on a pair that still waits, if any. */
  waiting = (pair) => this.entries().findLast(([, vote]) => vote.pair === pair)?.[1];

  /** Names of the pairs whose votes wait. */
  pairs = () => new Set(this.entries().map(([, vote]) => vote.pair));

  /** Whether what waits would be lost with this tab. */
  isFleeting = () => this.memory.size > 0;

  /** Sends what waits, one after the other, until nothing does or the server cannot be reached. */
  async flush() {
    clearTimeout(this.timer);
    if (this.busy || this.closed) return;
    for (let [next] = this.entries(); next && !this.closed; [next] = this.entries()) {
      const [item, vote] = next;
      this.busy = item;
      const problem = await this.send(vote);
      this.busy = null;
      if (this.closed) return; // whoever comes next sends it again
      if (problem?.status === 401) return this.on.locked();
      if (problem && mayPass(problem)) return this.pause();
      if (problem?.status === 404 && (await this.on.isElsewhere())) return;
      this.drop(item);
      this.numFailed = 0;
      if (problem) {
        this.keep(`refused:${item}`, vote); // for whoever looks into it
        this.on.refused(problem);
      }
      this.on.changed();
    }
  }

  async send(vote) {
    try {
      const options = { method: "POST", body: JSON.stringify(vote), signal: AbortSignal.timeout(PATIENCE_MS) };
      await this.ask("v1/votes", { ...options, headers: { "Content-Type": "application/json" } });
      return null;
    } catch (error) {
      return { status: error.status ?? 0, message: error.message };
    }
  }

  pause() {
    this.numFailed += 1;
    this.timer = setTimeout(() => this.flush(), Math.min(LONGEST_PAUSE_MS, 1000 * 2 ** (this.numFailed - 1)));
    this.on.changed();
  }

  keep(item, vote) {
    try { localStorage.setItem(item, JSON.stringify(vote)); } catch { this.memory.set(item, vote); }
  }

  drop(item) {
    this.memory.delete(item);
    try { localStorage.removeItem(item); } catch { /* it was in memory */ }
  }
}

/** Whether the same vote may be taken later: the network is gone, or the server is in trouble. */
const mayPass = ({ status }) => status === 0 || status >= 500 || status === 408 || status === 429;
