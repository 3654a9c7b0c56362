// The page: who judges, keys and buttons.

import { byId } from "./dom.js";
import { turnBoxes } from "./overlay.js";
import * as rater from "./rater.js";
import { Side } from "./side.js";
import { Sitting } from "./sitting.js";
import { goOn, hadHints, setHints, show, trouble, turnHints, view } from "./views.js";

const sides = { left: new Side(byId("left"), "A", "E"), right: new Side(byId("right"), "B", "R") };
let sitting = null;
let numBegun = 0;

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
  } catch (error) {
    trouble(error, open);
    return;
  }
  if (rater.isKnown()) begin();
  else welcome();
}

function welcome(problem = "") {
  leave();
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
  const number = numBegun;
  let session;
  try {
    session = await rater.json("v1/session");
  } catch (error) {
    if (number !== numBegun) return;
    if (error.status === 401) welcome("This key is not known here.");
    else if (error.status === 422) welcome(error.message);
    else trouble(error, begin);
    return;
  }
  if (number !== numBegun) return; // somebody else began meanwhile
  byId("who").textContent = session.rater;
  byId("who").setAttribute("aria-label", `Judging as ${session.rater}; change`);
  sitting = new Sitting(session, sides, {
    locked: () => welcome("This key is no longer known here. Votes that wait are kept in this browser."),
    another: begin,
  });
  sitting.open();
}

function leave() {
  numBegun += 1;
  sitting?.close();
  sitting = null;
}

const look = () => { if (sitting?.current?.isJudgeable) byId("closeup").showModal(); };
const choose = (value) => () => sitting.ballot.choose(value);
const ON_BALLOT = {
  1: choose("left"), 2: choose("tie"), 3: choose("right"), ArrowLeft: choose("left"), ArrowRight: choose("right"),
  ArrowUp: () => sitting.ballot.move(-1), ArrowDown: () => sitting.ballot.move(1),
};
const ANYWHERE = {
  Enter: () => sitting.send(), s: () => sitting.skip(), z: () => sitting.back(), f: look, h: turnHints, x: turnBoxes,
  e: () => sides.left.open(), r: () => sides.right.open(),
};

document.addEventListener("keydown", (event) => {
  const name = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  const isWriting = event.target.matches("textarea, input:not([type=radio])");
  const isChord = event.ctrlKey || event.metaKey || event.altKey;
  if (!sitting) return;
  if (byId("closeup").open) {
    if (name === "f" && !event.repeat) byId("closeup").close();
    else if (name === "x" && !isChord && !event.repeat) turnBoxes();
  } else if (view() === "end") {
    if (name === "z" && !isChord && !event.repeat) sitting.back();
  } else if (view() === "pair" && sitting.current) {
    if (isWriting && name === "Escape") byId("pair").focus();
    if (name === "Enter" && (event.ctrlKey || event.metaKey) && !event.repeat) sitting.send();
    else if (!isWriting && !isChord && !(name === "Enter" && event.target.closest("button"))) press(event, name);
  }
});

function press(event, name) {
  const act = ANYWHERE[name] ?? (sitting.current.isJudgeable ? ON_BALLOT[name] : undefined);
  if (!act) return;
  event.preventDefault(); // also what arrows do to radio buttons by themselves: here they say left and right
  if (!event.repeat) act();
}

byId("entry").addEventListener("submit", (event) => {
  event.preventDefault();
  const problem = rater.enter((byId("rater").hidden ? byId("key") : byId("rater")).value);
  if (problem) welcome(problem);
  else begin();
});
byId("who").addEventListener("click", () => {
  rater.leave();
  welcome();
});
byId("again").addEventListener("click", goOn);
addEventListener("online", goOn);
byId("send").addEventListener("click", () => sitting?.send());
byId("skip").addEventListener("click", () => sitting?.skip());
for (const id of ["back", "last"]) byId(id).addEventListener("click", () => sitting?.back());
byId("hints").addEventListener("click", turnHints);
byId("look").addEventListener("click", look);
byId("closeup").addEventListener("click", () => byId("closeup").close());
addEventListener("beforeunload", (event) => { if (sitting?.outbox.isFleeting()) event.preventDefault(); });

setHints(hadHints());
open();
