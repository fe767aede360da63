// Server-sent events out of a response's bytes.

/** Yield the data of each event of a stream of bytes; comments, which are pings, are left out. */
export async function* readEvents(bytes) {
  const reader = bytes.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) {
        return;
      }
      const events = (held + value).split("\n\n");
      held = events.pop();
      for (const event of events) {
        if (event.startsWith("data: ")) {
          yield event.slice("data: ".length);
        }
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}
