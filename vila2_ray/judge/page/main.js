// The page: who judges, one pair after the other, the keys, and what becomes of the votes.

import { problemOf } from "./api.js";
import { Ballot } from "./ballot.js";
import { byId, count } from "./dom.js";
import { Outbox } from "./outbox.js";
import { Pairs } from "./pairs.js";
import * as rater from "./rater.js";
import { Side } from "./side.js";

const VIEWS = ["loading", "entry", "trouble", "pair", "end"];
const HINTS = "vila2-judge-hints";
const LONGEST_MS = 86_400_000;
const RETRY_MS = 5000;
const NUM_KEPT = 3; // pairs behind, that one can go back to at once

const sides = { left: new Side(byId("left"), "A", "E"), right: new Side(byId("right"), "B", "R") };
let session, outbox, pairs, ballot;
let todo = []; // names of pairs, in order
let wanted = null; // the pair that is shown, or soon will be
let current = null; // {id, place, isJudgeable, since} of the one that is shown
let said = new Map(); // what was said in this sitting: id -> {id, place, answers, edits}
let past = []; // pairs in the order in which it was said
let judged = new Set(); // pairs with a vote that the session does not count yet
let isAgain = false; // those that were skipped, once more
let resume = () => {};
let retry = 0;
let refusal = ""; // of a vote, in words

const view = () => VIEWS.find((name) => !byId(name).hidden);

/** Tells the person, once: what is said again is not read out again. */
const say = (text) => { if (byId("status").textContent !== text) byId("status").textContent = text; };

function show(name) {
  for (const other of VIEWS) byId(other).hidden = other !== name;
  byId("legend").hidden = name !== "pair";
  byId("progress").hidden = byId("who").hidden = !session || name === "entry";
}

// --- who -------------------------------------------------------------------------------------------------------------

async function open() {
  show("loading");
  try {
    const needs = await rater.entry();
    byId("rater").hidden = needs !== "name";
    byId("key").hidden = needs !== "key";
    byId("entry-title").textContent = needs === "name" ? "Who is judging?" : "Your key, please";
    byId("entry-about").textContent = needs === "name"
      ? "The name stands beside your votes. Come back with the same one, and you go on where you stopped."
      : "You were given one by whoever asks you to judge. It is kept in this tab until it is closed.";
    if (rater.isKnown()) await begin();
    else welcome();
  } catch (error) {
    trouble(error, open);
  }
}

function welcome(problem = "") {
  show("entry");
  byId("rater").value = rater.name();
  byId("key").value = "";
  byId("entry-problem").textContent = problem;
  byId("entry-problem").hidden = !problem;
  (byId("rater").hidden ? byId("key") : byId("rater")).focus();
}

async function begin() {
  leave();
  show("loading");
  try {
    session = await rater.json("v1/session");
  } catch (error) {
    if (error.status === 401) welcome("This key is not known here.");
    else if (error.status === 422) welcome(error.message);
    else trouble(error, begin);
    return;
  }
  past = [];
  refusal = "";
  said = new Map();
  isAgain = false;
  outbox = new Outbox(`${session.study}:${session.rater}`, rater.ask, {
    refused: ({ message }) => { refusal = `A vote was refused, and is kept in this browser. ${message}`; },
    isElsewhere,
    locked: () => welcome("This key is no longer known here. Votes that wait are kept in this browser."),
    changed: () => {
      tellWaiting();
      if (view() === "end" && !outbox.entries().length) askSkipped();
    },
  });
  pairs = new Pairs(rater.ask);
  ballot = new Ballot(byId("ballot"), session.criteria, tellMissing);
  for (const side of Object.values(sides)) side.bound(session.max_chars);
  byId("who").textContent = session.rater;
  byId("who").setAttribute("aria-label", `Judging as ${session.rater}; change`);
  take();
  outbox.flush();
  await next();
}

/** Whether the server has another study than this page; then that one is opened. */
async function isElsewhere() {
  try {
    if ((await rater.json("v1/session")).study === session.study) return false;
  } catch {
    return outbox.pause() ?? true;
  }
  begin();
  return true;
}

function leave() {
  outbox?.close();
  pairs?.close();
  session = outbox = pairs = wanted = current = null;
}

// --- one pair after the other ----------------------------------------------------------------------------------------

/** What the session says is still to do, without those whose votes are on their way. */
function take() {
  const waiting = outbox.pairs();
  judged = new Set(session.todo.filter((id) => waiting.has(id)));
  todo = session.todo.filter((id) => !waiting.has(id));
}

const numDone = () => Math.min(session.total, session.done + judged.size);

async function next() {
  if (!todo.length && !isAgain && numDone() < session.total) {
    try {
      session = await rater.json("v1/session"); // which names so many at once
      take();
    } catch (error) {
      trouble(error, next);
      return;
    }
  }
  const id = todo.shift();
  if (id) await present(said.get(id) ?? { id, place: Math.min(session.total, numDone() + 1) });
  else await end();
}

/** Shows a pair, with what was said of it before. */
async function present(asked) {
  const { id, place, answers, edits = {} } = asked;
  wanted = asked;
  current = null;
  byId("stage").dataset.state = "loading";
  let pair;
  try {
    const coming = pairs.get(id);
    pairs.prepare(todo, [id, ...past.slice(-NUM_KEPT)]);
    pair = await coming;
  } catch (error) {
    if (wanted !== asked) return;
    if (problemOf(error).status === 404) await begin(); // the study is another one now
    else trouble(error, () => present(asked));
    return;
  }
  if (wanted !== asked) return; // one went elsewhere meanwhile
  for (const [name, side] of Object.entries(sides)) side.show(pair[name], edits[name]);
  showPicture(pair);
  ballot.reset(answers);
  current = { id, place, isJudgeable: !pair.problem, since: performance.now() };
  tellPlace(place);
  tellMissing();
  say(answers ? "Your last vote stands until you send another." : "");
  show("pair");
  byId("back").disabled = !past.length;
  window.scrollTo(0, 0);
  byId("pair").focus({ preventScroll: true });
}

function showPicture({ url, problem, isCoarse }) {
  const image = byId("picture"), closeup = byId("closeup-picture");
  byId("look").hidden = !url;
  byId("no-picture").hidden = Boolean(url);
  byId("no-picture").textContent = url ? "" : `${problem} Skip this pair.`;
  byId("pair").classList.toggle("unjudgeable", !url);
  for (const shown of [image, closeup]) {
    if (url) shown.src = url;
    else shown.removeAttribute("src");
    shown.classList.toggle("coarse", Boolean(isCoarse));
  }
  byId("stage").dataset.state = "shown";
}

function send() {
  if (!current?.isJudgeable) return;
  if (ballot.numMissing()) {
    ballot.showMissing();
    say(`${count(ballot.numMissing(), "question")} still to answer.`);
    return;
  }
  cast(ballot.answers());
}

const skip = () => { if (current) cast({}); };

function cast(answers) {
  const { id, place, since, isJudgeable } = current;
  const written = Object.entries(sides).map(([name, side]) => [name, side.correction()]);
  const edits = Object.fromEntries(written.filter(([, text]) => text !== undefined));
  outbox.put({ pair: id, answers, edits, milliseconds: Math.min(LONGEST_MS, Math.round(performance.now() - since)) });
  if (!isAgain && !said.has(id)) judged.add(id);
  said.set(id, { id, place, answers, edits, isBroken: !isJudgeable });
  past = [...past.filter((other) => other !== id), id];
  wanted = current = null;
  next();
}

async function back() {
  const last = past.pop();
  if (!last) {
    say("Nothing to go back to.");
    return;
  }
  if (wanted) todo.unshift(wanted.id);
  await present(said.get(last));
}

async function end() {
  wanted = current = null;
  show("end");
  tellPlace(session.total);
  byId("thanks").textContent = session.total ? `Thank you, ${session.rater}.` : "There is nothing to judge here.";
  byId("last").hidden = !past.length;
  byId("end").focus();
  offerSkipped([]);
  if (!outbox.entries().length) await askSkipped();
}

/** Those that were skipped on other days as well; the server knows them once it has every vote. */
async function askSkipped() {
  try {
    const { passed } = await rater.json("v1/session");
    if (view() === "end") offerSkipped(passed);
  } catch { /* what this sitting knows is enough */ }
}

function offerSkipped(passed) {
  const here = [...said.values()].filter(({ answers, isBroken }) => !isBroken && !Object.keys(answers).length);
  const open = [...passed.filter((id) => !said.has(id)), ...here.map(({ id }) => id)];
  tellEnd(open.length);
  byId("look-again").textContent = `Look again at the ${open.length === 1 ? "one" : open.length} you skipped`;
  byId("look-again").hidden = !open.length;
  byId("look-again").onclick = () => {
    todo = open;
    isAgain = true;
    next();
  };
}

function trouble(error, again) {
  byId("trouble-text").textContent = problemOf(error).message;
  resume = again;
  show("trouble");
  byId("again").focus();
  clearTimeout(retry);
  if (!problemOf(error).status) retry = setTimeout(goOn, RETRY_MS);
}

const goOn = () => { if (view() === "trouble") resume(); };

// --- what is told ----------------------------------------------------------------------------------------------------

function tellPlace(place) {
  const said = `${place} of ${session.total}`;
  byId("count").textContent = said;
  byId("meter").max = session.total || 1;
  byId("meter").value = numDone();
  byId("pair").setAttribute("aria-label", `Pair ${said}`);
  document.title = `${said} · Which caption is better?`;
}

function tellEnd(numSkipped) {
  const all = session.total === 1 ? "That was the one pair there is" : `Those were all ${session.total} pairs`;
  const skipped = numSkipped ? `, ${numSkipped} of them skipped` : "";
  byId("end-text").textContent = session.total ? `${all}${skipped}.` : "The study has no pairs.";
}

function tellMissing() {
  const isWhole = current?.isJudgeable !== false && !ballot.numMissing();
  byId("send").setAttribute("aria-disabled", !isWhole); // stays focusable, and says what is missing
  if (isWhole && /to answer/.test(byId("status").textContent)) say("");
}

function tellWaiting() {
  const num = outbox?.entries().length ?? 0;
  const told = num && outbox.numFailed ? `The server does not answer. ${count(num, "vote")} kept in this browser, sent as soon as it does.` : refusal;
  if (byId("sending").textContent !== told) byId("sending").textContent = told;
}

function storedHints() {
  try { return localStorage.getItem(HINTS); } catch { return null; }
}

function setHints(areShown) {
  document.body.classList.toggle("without-hints", !areShown);
  byId("hints").textContent = areShown ? "Hide the hints" : "Show the hints";
  try { localStorage.setItem(HINTS, areShown ? "shown" : "hidden"); } catch { /* it holds until the page is left */ }
}

// --- keys and buttons ------------------------------------------------------------------------------------------------

const look = () => { if (current?.isJudgeable) byId("closeup").showModal(); };
const KEYS = {
  1: () => ballot.choose("left"), 2: () => ballot.choose("tie"), 3: () => ballot.choose("right"),
  ArrowLeft: () => ballot.choose("left"), ArrowRight: () => ballot.choose("right"),
  ArrowUp: () => ballot.move(-1), ArrowDown: () => ballot.move(1),
  Enter: send, s: skip, z: back, f: look,
  e: () => sides.left.open(), r: () => sides.right.open(),
  h: () => setHints(document.body.classList.contains("without-hints")),
};
const ON_BALLOT = new Set(["1", "2", "3", "ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown"]);

document.addEventListener("keydown", (event) => {
  if (view() !== "pair" || byId("closeup").open) {
    if (event.key.toLowerCase() === "f" && byId("closeup").open) byId("closeup").close();
    if (event.key.toLowerCase() === "z" && view() === "end" && !event.ctrlKey && !event.metaKey) back();
    return;
  }
  const isWriting = event.target.matches("textarea");
  if (isWriting && event.key === "Escape") byId("pair").focus();
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) return void send();
  if (isWriting || event.ctrlKey || event.metaKey || event.altKey || !current) return;
  const name = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  const isPressing = name === "Enter" && event.target.closest("button");
  if (!Object.hasOwn(KEYS, name) || isPressing || (ON_BALLOT.has(name) && !current.isJudgeable)) return;
  event.preventDefault();
  if (!event.repeat) KEYS[name]();
});

byId("entry").addEventListener("submit", (event) => {
  event.preventDefault();
  const problem = rater.enter((byId("rater").hidden ? byId("key") : byId("rater")).value);
  if (problem) welcome(problem);
  else begin();
});
byId("who").addEventListener("click", () => {
  leave();
  rater.leave();
  welcome();
});
byId("again").addEventListener("click", goOn);
addEventListener("online", goOn);
byId("send").addEventListener("click", send);
byId("skip").addEventListener("click", skip);
byId("back").addEventListener("click", back);
byId("last").addEventListener("click", back);
byId("hints").addEventListener("click", KEYS.h);
byId("look").addEventListener("click", look);
byId("closeup").addEventListener("click", () => byId("closeup").close());
addEventListener("beforeunload", (event) => { if (outbox?.isFleeting()) event.preventDefault(); });

setHints(storedHints() !== "hidden");
open();
