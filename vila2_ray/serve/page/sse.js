// Server-sent events out of a response's body: EventSource itself can neither POST nor send a key.

/**
 * {event, data} of every event, in order. Comments (heartbeats) are passed over. An event that the end of the stream cuts
 * off is dropped. Leaving the loop cancels the stream.
 */
export async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "", event = "", data = [];
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      // A \r at the end may be half of a line's end: it waits for what comes next.
      const lines = (rest + value).split(/\r\n|\n|\r(?!$)/);
      rest = lines.pop();
      for (const line of lines) {
        if (line === "") {
          if (data.length) yield { event: event || "message", data: data.join("\n") };
          event = "";
          data = [];
          continue;
        }
        const colon = line.indexOf(":");
        const name = colon < 0 ? line : line.slice(0, colon);
        const text = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
        if (name === "event") event = text;
        else if (name === "data") data.push(text);
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}
