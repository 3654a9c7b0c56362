// The page: one run of asking at a time, and the keys that start and stop it.

import * as connection from "./connection.js";
import { byId, count, duration } from "./dom.js";
import * as models from "./models.js";
import * as pictures from "./pictures.js";
import * as prompts from "./prompts.js";
import { Run } from "./run.js";

const SAMPLING = ["max_tokens", "temperature", "seed"];
const TICK_MS = 500;

let runs = [];
let running = null; // the AbortController of what is being asked

/** Tells the person, once: what is said again is not read out again. */
const say = (text) => { if (byId("status").textContent !== text) byId("status").textContent = text; };

function wish() {
  const { prompt, question } = prompts.chosen();
  const sampling = Object.fromEntries(SAMPLING.map((name) => [name, byId(name).value]));
  return { prompt, question, sampling, said: byId("question").value.trim() || "The usual prompt" };
}

/** What is missing or wrong: {at: the element to look at, text}; null when nothing is. */
function lacking(chosen, asked) {
  const left = pictures.numLeftOut();
  if (!chosen.length) return { at: byId("files"), text: left ? "No picture is left to ask about." : "Choose a picture first." };
  if (!asked.length) {
    const first = document.querySelector("#models input");
    return first ? { at: first, text: "Choose a model first." } : { at: byId("go"), text: "Nothing is served yet." };
  }
  const wrong = SAMPLING.map(byId).find((input) => !input.checkValidity());
  return wrong ? { at: wrong, text: wrong.validationMessage } : null;
}

async function go() {
  if (running) return;
  const chosen = pictures.sendable(), asked = models.chosen();
  const lack = lacking(chosen, asked);
  if (lack) {
    say(lack.text);
    const folded = lack.at.closest("details");
    if (folded) folded.open = true;
    lack.at.focus();
    return;
  }
  const run = new Run(chosen, asked, wish(), connection.limits, { again, refused: () => connection.wantKey() });
  runs.push(run);
  byId("empty").hidden = true;
  byId("tools").hidden = false;
  byId("runs").prepend(run.element);
  if (matchMedia("(max-width: 56rem)").matches) run.element.scrollIntoView({ block: "start" });
  await during(run.answers.flat(), (signal) => run.go(signal));
}

async function again(answer) {
  if (running) return;
  const run = runs.find(({ answers }) => answers.flat().includes(answer));
  answer.wait();
  byId("go").focus({ preventScroll: true });
  await during([answer], (signal) => run.listen([answer], signal));
}

/** Does `work` with Stop at hand, and says how far it is. */
async function during(answers, work) {
  const controller = new AbortController(), since = performance.now();
  const num = (...states) => answers.filter(({ state }) => states.includes(state)).length;
  const tell = () => say(`${num("whole", "failed")} of ${count(answers.length, "answer")} …`);
  show(controller);
  tell();
  const ticking = setInterval(tell, TICK_MS);
  await work(controller.signal);
  clearInterval(ticking);
  show(null);
  if (connection.isLocked()) return; // which it has said
  const failed = num("failed");
  if (controller.signal.aborted) say("Stopped.");
  else if (failed) say(failed === answers.length ? "Nothing was answered." : `${failed} of ${answers.length} answers failed.`);
  else say(`${count(answers.length, "answer")} in ${duration(performance.now() - since)}.`);
}

function show(controller) {
  running = controller;
  byId("go").setAttribute("aria-disabled", Boolean(controller)); // stays focusable
  if (!controller && document.activeElement === byId("stop")) byId("go").focus();
  byId("stop").hidden = !controller;
}

function clear() {
  running?.abort();
  for (const run of runs) run.close();
  runs = [];
  byId("empty").hidden = false;
  byId("tools").hidden = true;
  byId("files").focus({ preventScroll: true });
}

byId("ask").noValidate = true; // what is wrong is said by us, also where it is folded in
byId("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  go();
});
byId("stop").addEventListener("click", () => running?.abort());
byId("clear").addEventListener("click", clear);
byId("show-boxes").addEventListener("change", ({ target }) => byId("runs").classList.toggle("no-boxes", !target.checked));
document.addEventListener("keydown", async (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    if (event.target === byId("key")) await connection.enterKey();
    go();
  } else if (event.key === "Escape" && running) {
    event.preventDefault();
    running.abort();
  }
});

pictures.listen();
prompts.listen();
connection.open(say);
