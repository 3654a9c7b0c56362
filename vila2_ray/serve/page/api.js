// Talking to the endpoint: addresses, the key, and problems turned into sentences.

import * as key from "./key.js";

/** Something went wrong, said by the endpoint in problem JSON or by us about the connection. */
export class Problem extends Error {
  constructor({ title = "", detail = "", status = 0, instance = "", retry_after_seconds: retryAfter = null }) {
    super(sentences(title, detail, retryAfter));
    this.status = status;
    this.instance = String(instance ?? "").split("/").pop();
  }
}

/** Where a path of the API lies, wherever the page itself lies. */
export const address = (path) => new URL(path, document.baseURI).href;

/** The JSON at a path. Raises Problem. */
export const get = async (path, signal) => (await request(path, { signal })).json();

/** The answer to a question, its body a stream of events. Raises Problem. */
export const ask = (form, signal) => request("v1/captions", { method: "POST", body: form, signal });

/** The answer at a path, with the key. `cache`: pictures alone may be kept. Raises Problem. */
export async function request(path, { headers = {}, cache = "no-store", ...options } = {}) {
  const authorized = key.read() ? { ...headers, Authorization: `Bearer ${key.read()}` } : headers;
  let response;
  try {
    response = await fetch(address(path), { ...options, headers: authorized, cache });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem({ title: "The endpoint does not answer.", detail: "Is it still running, and is this device online?" });
  }
  if (!response.ok) throw await refused(response);
  return response;
}

/** What any error of asking means for people. */
export function problemOf(error) {
  if (error instanceof Problem) return error;
  console.error(error); // a lost connection, or a mistake of ours
  return new Problem({ title: "The answer broke off", detail: "the connection was lost before its end" });
}

async function refused(response) {
  const said = await response.json().catch(() => ({}));
  const retryAfter = Number(response.headers.get("Retry-After")) || null;
  const title = `The endpoint refused with status ${response.status}`;
  return new Problem({ title, retry_after_seconds: retryAfter, ...said, status: response.status });
}

/** "Title: detail." as the endpoint has them, with when to ask again. */
function sentences(title, detail, retryAfter) {
  const said = [title, detail].filter((part) => typeof part === "string" && part.trim()).map((part) => part.trim());
  const ended = said.join(said[0]?.endsWith(".") ? " " : ": ");
  const again = retryAfter > 0 ? ` Try again in ${Math.ceil(retryAfter)}\u00a0s.` : "";
  return `${ended}${/[.!?…]$/.test(ended) ? "" : "."}${again}`;
}
