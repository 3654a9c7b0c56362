// The API key: in sessionStorage, so that it lives as long as its tab, and nowhere else. Never in an address.

const NAME = "vila2-api-key";
let held = "";

export function read() {
  try { return sessionStorage.getItem(NAME) ?? held; } catch { return held; }
}

export function write(key) {
  held = key;
  try {
    if (key) sessionStorage.setItem(NAME, key);
    else sessionStorage.removeItem(NAME);
  } catch { /* without storage it lives until the page is left */ }
}

/** Whether an HTTP header can carry it. */
export const isSendable = (key) => /^[\x21-\x7e]*$/.test(key);
