// Who judges: the holder of a key where the server wants one, else a name, which this browser remembers.

import { get, request } from "./api.js";
import * as key from "./key.js";

const STORED = "vila2-judge-rater";
const NAME = /^[A-Za-z0-9][A-Za-z0-9._@:+-]{0,63}$/;

let needs = "name";
let held = "";

/** Whether the server wants a "key" or a "name". Raises Problem. */
export async function entry() {
  needs = (await get("page/entry.json")).needs;
  return needs;
}

/** Whether somebody is known here. Whoever it is stays it in this tab, whatever name is entered in another one. */
export function isKnown() {
  if (needs === "key") return Boolean(key.read());
  pin(name());
  return Boolean(held);
}

/** What is wrong with what was entered, in words; "" after it was taken. */
export function enter(given) {
  const entered = given.trim();
  if (needs === "key") {
    if (!entered || !key.isSendable(entered)) return "Keys hold plain letters, digits and signs only.";
    key.write(entered);
    return "";
  }
  if (!NAME.test(entered)) return "1 to 64 plain letters, digits and . _ @ : + -, beginning with a letter or digit.";
  if (/^model:/.test(entered)) return "Models are called so.";
  pin(entered);
  try { localStorage.setItem(STORED, entered); } catch { /* it holds until the page is left */ }
  return "";
}

function pin(name) {
  held = name;
  try { sessionStorage.setItem(STORED, name); } catch { /* it holds until the page is left */ }
}

/** Forgets the key; a name stays as what is proposed. */
export const leave = () => key.write("");

/** The name that was entered here, or else in another tab or on another day; "" where there is none. */
export function name() {
  try { return held || sessionStorage.getItem(STORED) || localStorage.getItem(STORED) || ""; } catch { return held; }
}

/** The answer at a path, asked as this rater. Raises Problem. */
export const ask = (path, options = {}) =>
  request(path, { ...options, headers: { ...options.headers, ...(needs === "name" ? { "X-Rater": held } : {}) } });

/** The JSON at a path, asked as this rater. Raises Problem. */
export const json = async (path, options) => (await ask(path, options)).json();
