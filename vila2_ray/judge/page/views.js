// What the page shows: one view at a time, the pair with its picture, and where one is.

import { problemOf } from "./api.js";
import { byId } from "./dom.js";

const VIEWS = ["loading", "entry", "trouble", "pair", "end"];
const HINTS = "vila2-judge-hints";
const RETRY_MS = 5000;

let resume = () => {};
let retry = 0;

/** The view that is shown. */
export const view = () => VIEWS.find((name) => !byId(name).hidden);

export function show(name) {
  for (const other of VIEWS) byId(other).hidden = other !== name;
  byId("legend").hidden = name !== "pair";
  byId("progress").hidden = byId("who").hidden = name === "entry" || !byId("count").textContent;
}

/** Tells the person, once: what is said again is not read out again. */
export const say = (text, where = "status") => { if (byId(where).textContent !== text) byId(where).textContent = text; };

/** Says what went wrong; `again` is tried when the button is pressed, and by itself where nobody answered. */
export function trouble(error, again) {
  const { status, message } = problemOf(error);
  byId("trouble-text").textContent = message;
  resume = again;
  show("trouble");
  byId("again").focus();
  clearTimeout(retry);
  if (!status) retry = setTimeout(goOn, RETRY_MS);
}

/** Tries again what failed, if that is what is shown. */
export const goOn = () => { if (view() === "trouble") resume(); };

/** Where one is, "41 of 200", and how many are done. */
export function tellPlace(place, numDone, total) {
  const told = `${place} of ${total}`;
  byId("count").textContent = told;
  byId("meter").max = total || 1;
  byId("meter").value = numDone;
  byId("pair").setAttribute("aria-label", `Pair ${told}`);
  document.title = `${told} · Which caption is better?`;
}

/** The picture of a pair, or that there is none. */
export function showPicture({ url, problem, isCoarse }) {
  byId("look").hidden = !url;
  byId("no-picture").hidden = Boolean(url);
  byId("no-picture").textContent = url ? "" : `${problem} Skip this pair.`;
  byId("pair").classList.toggle("unjudgeable", !url);
  for (const image of [byId("picture"), byId("closeup-picture")]) {
    if (url) image.src = url;
    else image.removeAttribute("src");
    image.classList.toggle("coarse", Boolean(isCoarse));
  }
  byId("stage").dataset.state = "shown";
}

/** Thanks; `again()` shows those that were skipped once more. */
export function tellEnd(rater, total, numSkipped, again) {
  byId("thanks").textContent = total ? `Thank you, ${rater}.` : "There is nothing to judge here.";
  const all = total === 1 ? "That was the one pair there is" : `Those were all ${total} pairs`;
  const skipped = numSkipped ? `, ${numSkipped} of them skipped` : "";
  byId("end-text").textContent = total ? `${all}${skipped}.` : "The study has no pairs.";
  byId("look-again").textContent = `Look again at the ${numSkipped === 1 ? "one" : numSkipped} you skipped`;
  byId("look-again").hidden = !numSkipped;
  byId("look-again").onclick = again;
}

/** Shows or hides what the criteria mean, now and on other days. */
export function setHints(areShown) {
  document.body.classList.toggle("without-hints", !areShown);
  byId("hints").textContent = areShown ? "Hide the hints" : "Show the hints";
  try { localStorage.setItem(HINTS, areShown ? "shown" : "hidden"); } catch { /* it holds until the page is left */ }
}

export function hadHints() {
  try { return localStorage.getItem(HINTS) !== "hidden"; } catch { return true; }
}

export const turnHints = () => setHints(document.body.classList.contains("without-hints"));
