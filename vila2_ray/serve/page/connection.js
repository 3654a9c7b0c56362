// What the endpoint offers: its bounds, prompts and models, asked for again while the page is open; and the key to it.

import { get, problemOf } from "./api.js";
import { byId } from "./dom.js";
import * as key from "./key.js";
import * as models from "./models.js";
import * as pictures from "./pictures.js";
import * as prompts from "./prompts.js";

const POLL_MS = 5000;

/** The endpoint's bounds; its own as soon as they are known. */
export let limits = { max_body_mb: 32, max_images: 16, max_pixels: 40e6 };

let state = "new"; // new | connected | lost | locked (a key is wanted)
let say = () => {};

/** Connects, and stays connected. `tell` says a sentence to the person. */
export function open(tell) {
  say = tell;
  byId("key").value = key.read();
  byId("key").addEventListener("change", enterKey);
  byId("key").addEventListener("keydown", (event) => {
    if (event.key !== "Enter") return;
    event.preventDefault();
    enterKey();
  });
  setInterval(() => { if (!document.hidden && state !== "locked") refresh(); }, POLL_MS);
  return refresh();
}

/** Takes the key from its field. */
export function enterKey() {
  const entered = byId("key").value.trim();
  if (state === "connected" && entered === key.read()) return undefined;
  if (!key.isSendable(entered)) {
    byId("key-note").textContent = "keys hold plain letters, digits and signs only";
    return undefined;
  }
  key.write(entered);
  state = "new";
  return refresh();
}

/** Whether nothing works before another key is entered. */
export const isLocked = () => state === "locked";

/** Asks for a key, where it is to be entered; takes the person there unless they are at something else. */
export function wantKey(isInterrupting = false) {
  state = "locked";
  const refused = Boolean(key.read());
  byId("key-note").textContent = refused ? "not accepted" : "needed";
  byId("key-section").open = true;
  if (!isInterrupting) byId("key").focus();
  say(refused ? "The endpoint does not accept this API key." : "The endpoint needs an API key.");
}

async function refresh() {
  try {
    if (state === "connected") {
      await models.refresh();
      return;
    }
    bound(await get("page/limits.json"));
    const [{ prompts: known }] = await Promise.all([get("v1/prompts"), models.refresh()]);
    prompts.fill(known);
    state = "connected";
    byId("key-note").textContent = key.read() ? "accepted" : "";
    say("");
  } catch (error) {
    const problem = problemOf(error);
    if (problem.status === 401) {
      wantKey(state === "connected");
    } else if (state !== "lost") {
      state = "lost";
      say(problem.message);
    }
  }
}

function bound(bounds) {
  limits = bounds;
  pictures.bound(limits);
  byId("max_tokens").max = limits.max_tokens;
  byId("max_tokens").placeholder = limits.default_tokens;
}
