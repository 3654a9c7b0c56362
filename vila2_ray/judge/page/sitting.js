// One rater at work: one pair after the other, back to earlier ones, and the end.

import { problemOf } from "./api.js";
import { Ballot } from "./ballot.js";
import { byId, count } from "./dom.js";
import { Outbox } from "./outbox.js";
import { showBoxes } from "./overlay.js";
import { Pairs } from "./pairs.js";
import { Past } from "./past.js";
import * as rater from "./rater.js";
import { say, show, showPicture, tellEnd, tellPlace, trouble, view } from "./views.js";

const LONGEST_MS = 86_400_000;
const NUM_KEPT = 3; // pairs behind, that one can go back to at once

export class Sitting {
  /** Of a session as the server tells it, with the two sides of the page; `on.locked()` and `on.another()` end it. */
  constructor(session, sides, on) {
    Object.assign(this, { session, sides, on, isClosed: false });
    const name = `${session.study}:${encodeURIComponent(session.rater)}`;
    this.said = new Map(); // id -> {id, answers, edits, isBroken} of what was said in this sitting
    this.past = new Past(name);
    this.wanted = null; // {id, place} of the pair that is shown, or soon will be
    this.current = null; // {id, place, said, isJudgeable, since} of the one that is shown
    this.isAgain = false; // those that were skipped, once more
    this.refusal = "";
    this.pairs = new Pairs(rater.ask);
    this.ballot = new Ballot(byId("ballot"), session.criteria, () => this.tellMissing());
    for (const side of Object.values(sides)) side.bound(session.max_chars);
    this.outbox = new Outbox(name, rater.ask, {
      refused: ({ message }) => { this.refusal = `A vote was refused, and is kept in this browser. ${message}`; },
      isElsewhere: () => this.isElsewhere(),
      locked: on.locked,
      changed: () => this.tellWaiting(),
    });
  }

  open() {
    this.take();
    this.tellWaiting();
    this.outbox.flush();
    return this.next();
  }

  close() {
    this.isClosed = true;
    this.outbox.close();
    this.pairs.close();
    say("", "sending");
  }

  /** What the session says is still to do, without those whose votes are on their way. */
  take() {
    const waiting = this.outbox.pairs();
    this.judged = new Set(this.session.todo.filter((id) => waiting.has(id))); // which the session does not count yet
    this.todo = this.session.todo.filter((id) => !waiting.has(id));
  }

  numDone = () => Math.min(this.session.total, this.session.done + this.judged.size);

  async next() {
    if (!this.todo.length && !this.isAgain && this.numDone() < this.session.total) {
      try {
        const session = await rater.json("v1/session"); // which names so many at once
        if (this.isClosed) return;
        this.session = session;
        this.take();
      } catch (error) {
        if (!this.isClosed) trouble(error, () => this.next());
        return;
      }
    }
    const id = this.todo.shift();
    if (id) await this.present({ id, place: this.past.places.get(id) ?? Math.min(this.session.total, this.numDone() + 1) });
    else this.end();
  }

  /** Shows a pair, with what was said of it before. */
  async present(asked) {
    const { id, place } = asked;
    this.wanted = asked;
    this.current = null;
    byId("stage").dataset.state = "loading";
    let pair;
    try {
      const coming = this.pairs.get(id);
      this.pairs.prepare(this.todo, [id, ...this.past.ids.slice(-NUM_KEPT)]);
      pair = await coming;
    } catch (error) {
      if (this.isClosed || this.wanted !== asked) return;
      if (problemOf(error).status === 404) {
        this.past.remember(); // without this one, should it be one gone back to
        this.on.another();
      } else {
        trouble(error, () => this.present(asked));
      }
      return;
    }
    if (this.isClosed || this.wanted !== asked) return; // one went elsewhere meanwhile
    const said = this.said.get(id) ?? this.outbox.waiting(id) ?? pair.said; // the last one knows of other days
    for (const [name, side] of Object.entries(this.sides)) side.show(pair[name], said?.edits[name]);
    showPicture(pair);
    showBoxes(pair);
    this.current = { id, place, said, isJudgeable: !pair.problem, since: performance.now() };
    this.ballot.reset(said?.answers);
    tellPlace(place, this.numDone(), this.session.total);
    if (isVote(said)) say("Your last vote stands until you send another.");
    else say(said ? "You skipped this one." : "");
    this.tellMissing();
    show("pair");
    byId("back").disabled = !this.past.ids.length;
    window.scrollTo(0, 0);
    byId("pair").focus({ preventScroll: true });
  }

  send() {
    if (!this.current?.isJudgeable) return;
    const numMissing = this.ballot.numMissing();
    if (numMissing) {
      this.ballot.showMissing();
      say(`${count(numMissing, "question")} still to answer.`);
    } else {
      this.cast(this.ballot.answers());
    }
  }

  /** Passes the pair over; a vote that was sent before stands. */
  skip() {
    if (!this.current) return;
    if (isVote(this.current.said)) this.goOn();
    else this.cast({});
  }

  cast(answers) {
    const { id, since, isJudgeable } = this.current;
    const written = Object.entries(this.sides).map(([name, side]) => [name, side.correction()]);
    const edits = Object.fromEntries(written.filter(([, text]) => text !== undefined));
    const milliseconds = Math.min(LONGEST_MS, Math.round(performance.now() - since));
    this.outbox.put({ pair: id, answers, edits, milliseconds });
    if (this.session.todo.includes(id)) this.judged.add(id);
    this.said.set(id, { id, answers, edits, isBroken: !isJudgeable });
    this.goOn();
  }

  /** From the pair that is shown to the next one. */
  goOn() {
    this.past.push(this.current.id, this.current.place);
    this.wanted = this.current = null;
    this.next();
  }

  /** To what was said last; it stands until something else is said. */
  back() {
    const last = this.past.pop();
    if (!last) return say("Nothing to go back to.");
    if (this.wanted) this.todo.unshift(this.wanted.id);
    return this.present({ id: last, place: this.past.places.get(last) });
  }

  end() {
    const { total } = this.session;
    this.wanted = this.current = null;
    tellPlace(total, this.numDone(), total);
    show("end");
    byId("last").hidden = !this.past.ids.length;
    byId("end").focus();
    this.offerSkipped([]);
    this.askSkipped();
  }

  /** Those that were skipped on other days as well; the server knows them once it has every vote. */
  async askSkipped() {
    if (this.outbox.entries().length) return;
    try {
      const { passed } = await rater.json("v1/session");
      if (view() === "end" && !this.isClosed) this.offerSkipped(passed);
    } catch { /* what this sitting knows is enough */ }
  }

  offerSkipped(passed) {
    const here = [...this.said.values()].filter(({ answers, isBroken }) => !isBroken && !Object.keys(answers).length);
    const open = [...passed.filter((id) => !this.said.has(id)), ...here.map(({ id }) => id)];
    tellEnd(this.session.rater, this.session.total, open.length, () => {
      Object.assign(this, { todo: open, isAgain: true });
      this.next();
    });
  }

  /** Whether the server has another study than this sitting's; then that one is opened. */
  async isElsewhere() {
    try {
      if ((await rater.json("v1/session")).study === this.session.study) return false;
    } catch {
      this.outbox.pause();
      return true;
    }
    if (!this.isClosed) this.on.another();
    return true;
  }

  tellMissing() {
    const isWhole = this.current?.isJudgeable !== false && !this.ballot.numMissing();
    byId("send").setAttribute("aria-disabled", !isWhole); // stays focusable, and says what is missing
    if (isWhole && /to answer/.test(byId("status").textContent)) say("");
  }

  tellWaiting() {
    const num = this.outbox.entries().length;
    const lost = `The server does not answer. ${count(num, "vote")} kept in this browser, sent as soon as it does.`;
    say(num && this.outbox.numFailed ? lost : this.refusal, "sending");
    if (view() === "end") this.askSkipped();
  }
}

/** Whether it was answered, and not passed over. */
const isVote = (said) => Object.keys(said?.answers ?? {}).length > 0;
