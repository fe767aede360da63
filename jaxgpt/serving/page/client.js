// Requests to the server that the page came from.

import { askForKey, keepKey, keyHeaders } from "./api_key.js";

/** An answer of the server that is an error; its message is for people. */
export class ServerError extends Error {}

/** Return what /v1/models says of the model. */
export async function describeModel() {
  const response = await send("v1/models", {});
  return (await response.json()).data[0];
}

/** Yield the objects of a streamed answer to a POST of `body`. */
export async function* streamObjects(path, body, signal) {
  const response = await send(path, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body),
    signal,
  });
  for await (const data of dataOf(response.body)) {
    if (data === "[DONE]") {
      return;
    }
    const object = JSON.parse(data);
    if (object.error) {
      throw new ServerError(object.error.message);
    }
    yield object;
  }
  throw new ServerError("the connection ended before the answer did");
}

async function send(path, options) {
  for (;;) {
    const headers = { ...options.headers, ...keyHeaders() };
    const response = await fetch(path, { ...options, headers, cache: "no-store" }).catch(
      (error) => explain(error, "the server cannot be reached"),
    );
    if (response.status !== 401) {
      keepKey();
    }
    if (response.ok) {
      return response;
    }
    if (response.status !== 401 || !(await askForKey())) {
      throw new ServerError(await messageOf(response));
    }
  }
}

async function* dataOf(body) {
  try {
    yield* readEvents(body);
  } catch (error) {
    explain(error, "the connection to the server was lost");
  }
}

function explain(error, message) {
  throw error.name === "AbortError" ? error : new ServerError(message);
}

async function messageOf(response) {
  try {
    return (await response.json()).error.message;
  } catch {
    return `the server answered with status ${response.status}`;
  }
}

/** Yield the data of each event of a stream of bytes; comments, which are pings, are left out. */
async function* readEvents(bytes) {
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
