// Making elements. Text goes in as text only: what models say is never read as HTML.

/** The element with this id; it stands in index.html. */
export const byId = (id) => document.getElementById(id);

/**
 * An element with attributes and children (elements or strings).
 * `on` holds listeners by event; true and false set and leave out an attribute.
 */
export function make(tag, { on = {}, ...attributes } = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === true) element.setAttribute(name, "");
    else if (value !== false && value != null) element.setAttribute(name, value);
  }
  for (const [event, listener] of Object.entries(on)) element.addEventListener(event, listener);
  element.append(...children);
  return element;
}

/** Bytes as people say them: units of 2**20, as the endpoint counts. */
export const megabytes = (bytes) => {
  const size = bytes / 2 ** 20;
  return size < 0.1 ? `${Math.max(1, Math.round(bytes / 1024))} KB` : `${size < 10 ? size.toFixed(1) : Math.round(size)} MB`;
};

/** Milliseconds as people say them. */
export const duration = (ms) => (ms < 1000 ? `${Math.round(ms)}\u00a0ms` : `${(ms / 1000).toFixed(ms < 10_000 ? 1 : 0)}\u00a0s`);

/** "1 picture", "3 pictures". */
export const count = (number, noun) => `${number} ${noun}${number === 1 ? "" : "s"}`;
